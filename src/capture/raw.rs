//! Raw frames on standard input: frames of a fixed size and pixel format, or concatenated JPEGs.

use super::jpeg::JpegStream;
use super::pipe::is_stop;
use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{YuvCoding, frame_len, to_rgb};
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::io::{BufReader, Error, ErrorKind, Read};

/// Splits a byte stream into frames.
pub struct RawSource {
    /// The stream, for messages.
    name: String,
    input: BufReader<Box<dyn Read + Send>>,
    format: PixelFormat,
    size: Size,
    bytes: Vec<u8>,
    jpegs: JpegStream,
    framer: Framer,
    fps: Option<f64>,
}

impl RawSource {
    /// Reads from `input`, in the size and format of `options`.
    ///
    /// # Errors
    /// If the size is missing for a format that needs one.
    pub fn open(
        input: Box<dyn Read + Send>,
        options: &CaptureOptions,
    ) -> Result<RawSource, CaptureError> {
        let format = options.format.unwrap_or(PixelFormat::Rgb8);
        let size = match (options.size, format) {
            (Some(size), _) => size,
            (None, PixelFormat::Mjpeg) => Size::default(), // each JPEG has its own
            (None, _) => {
                return Err(CaptureError::Unusable(format!(
                    "raw {format} frames need their size: add '--size WIDTHxHEIGHT' \
                     (and '--format' if they are not rgb8)"
                )));
            }
        };
        Ok(RawSource {
            name: "standard input".to_owned(),
            input: BufReader::with_capacity(1 << 16, input),
            format,
            size,
            bytes: Vec::new(),
            jpegs: JpegStream::default(),
            framer: Framer::new(options),
            fps: options.fps,
        })
    }

    /// The same source under another name than that of standard input.
    #[must_use]
    pub fn named(mut self, name: String) -> RawSource {
        self.name = name;
        self
    }

    /// Reads the next frame into `bytes`; `false` at the end of the stream.
    fn read_frame(&mut self) -> std::io::Result<bool> {
        if self.format == PixelFormat::Mjpeg {
            return self.read_jpeg();
        }
        self.bytes.clear();
        let len = frame_len(self.format, self.size) as u64;
        self.input.by_ref().take(len).read_to_end(&mut self.bytes)?;
        Ok(!self.bytes.is_empty())
    }

    fn read_jpeg(&mut self) -> std::io::Result<bool> {
        let found = self.jpegs.next(&mut self.input, &mut self.bytes)?;
        let skipped = self.jpegs.skipped();
        if !found && self.framer.next_id == 0 && skipped > 0 {
            let reason = format!("no JPEG in {skipped} bytes: each begins with ff d8 ff");
            return Err(Error::new(ErrorKind::InvalidData, reason));
        }
        Ok(found)
    }
}

impl Source for RawSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        match self.read_frame() {
            Ok(true) => {}
            Ok(false) => return Ok(Next::End),
            Err(error) if is_stop(&error) => return Ok(Next::End),
            Err(source) => {
                return Err(CaptureError::Read {
                    path: self.name.as_str().into(),
                    source,
                });
            }
        }
        let (format, size, number) = (self.format, self.size, self.framer.next_id);
        self.framer
            .frame(format, |pool| {
                to_rgb(format, size, YuvCoding::default(), &self.bytes, pool)
            })
            .map(Next::Frame)
            .map_err(|source| CaptureError::Damaged {
                frame: number,
                name: self.name.clone(),
                source,
            })
    }

    /// The writer waits when the pipe is full, so no frame has to be dropped.
    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        match self.size.area() {
            0 => format!("{} ({})", self.name, self.format), // each JPEG has its own size
            _ => format!("{} ({} {})", self.name, self.size, self.format),
        }
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;

    fn source(
        bytes: Vec<u8>,
        format: PixelFormat,
        size: Option<Size>,
    ) -> Result<RawSource, CaptureError> {
        let options = CaptureOptions {
            format: Some(format),
            size,
            ..test_options()
        };
        RawSource::open(Box::new(std::io::Cursor::new(bytes)), &options)
    }

    #[test]
    fn a_short_last_frame_is_damaged_and_then_the_stream_ends() {
        let mut source =
            source(vec![7; 3 * 4 + 5], PixelFormat::Rgb8, Some(Size::new(2, 2))).unwrap();
        assert!(
            matches!(source.next(), Ok(Next::Frame(frame)) if frame.pixels.iter().all(|&v| v == 7))
        );
        assert!(matches!(source.next(), Err(error) if error.is_damaged_frame()));
        assert!(matches!(source.next(), Ok(Next::End)));
    }

    #[test]
    fn raw_frames_without_a_size_say_what_to_add() {
        let error = source(vec![], PixelFormat::Nv12, None)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("--size WIDTHxHEIGHT"), "{error}");
    }

    /// As ffmpeg writes them; V4L2's drivers round an odd width instead.
    #[test]
    fn rows_of_odd_width_end_with_half_a_pair_of_pixels() {
        let white = [235, 128, 235, 128];
        let half = [235, 128, 16, 128]; // its second pixel is padding
        let row = [white, half].concat();
        let size = Some(Size::new(3, 2));
        let mut source = source([&row[..], &row].concat(), PixelFormat::Yuyv, size).unwrap();
        assert!(
            matches!(source.next(), Ok(Next::Frame(frame)) if frame.pixels[..] == [255; 3 * 3 * 2])
        );
        assert!(matches!(source.next(), Ok(Next::End)));
    }

    #[test]
    fn jpegs_are_read_one_after_the_other() {
        let mut stream = Vec::new();
        for side in [16u32, 24] {
            image::codecs::jpeg::JpegEncoder::new(&mut stream)
                .encode(
                    &vec![50; (3 * side * side) as usize],
                    side,
                    side,
                    image::ExtendedColorType::Rgb8,
                )
                .unwrap();
        }
        let mut source = source(stream, PixelFormat::Mjpeg, None).unwrap();
        for side in [16, 24] {
            assert!(
                matches!(source.next(), Ok(Next::Frame(frame)) if frame.meta.size == Size::new(side, side))
            );
        }
        assert!(matches!(source.next(), Ok(Next::End)));
    }
    #[test]
    fn a_stream_without_any_jpeg_is_an_error() {
        let mut source = source(vec![7; 500], PixelFormat::Mjpeg, None).unwrap();
        let error = source.next().unwrap_err();
        assert!(!error.is_damaged_frame());
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "no JPEG in 500 bytes: each begins with ff d8 ff");
    }
}

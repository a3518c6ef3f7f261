//! YUV4MPEG2 (yuv4mpeg(5)): a header line with size and frame rate, then planar 4:2:0 frames.
//! ffmpeg and GStreamer both write it.
//!
//! The format has no row padding. GStreamer's `y4menc` (seen with 1.22) nevertheless pads rows to
//! its own strides if the width is not a multiple of 8 or the height is odd. The position of the
//! second frame shows which layout the stream has.

use crate::capture::decode::{MAX_SIDE, frame_len};
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::io::{self, BufRead, Cursor, Read};

/// Maximum length of a header line, bytes.
const MAX_HEADER: u64 = 1024;

/// The stream header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) size: Size,
    /// Frames per second, where the header has them.
    pub(crate) fps: Option<f64>,
    pub(crate) format: PixelFormat,
}

/// Reads the header; `None` if the stream ends before it.
///
/// # Errors
/// `InvalidData` for another format, or the read error.
pub(crate) fn read_header(input: &mut impl BufRead) -> io::Result<Option<Header>> {
    let line = read_line(input)?;
    match line.as_deref() {
        None => Ok(None),
        Some(line) => parse(line)
            .map(Some)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason)),
    }
}

/// Whether rows are padded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RowLayout {
    Tight,
    Padded,
    /// Not known before the second frame.
    Unknown,
}

/// Reads the frames of a stream.
pub(crate) struct FrameReader {
    pub(crate) header: Header,
    layout: RowLayout,
    padded: Vec<u8>,
    /// Start of the next frame's line, which was read to find the layout.
    ahead: Vec<u8>,
}

impl FrameReader {
    pub(crate) fn new(header: Header) -> FrameReader {
        let tight = frame_len(header.format, header.size);
        let layout = match padded_len(&header) == tight {
            true => RowLayout::Tight,
            false => RowLayout::Unknown,
        };
        FrameReader {
            header,
            layout,
            padded: Vec::new(),
            ahead: Vec::new(),
        }
    }

    /// Reads a frame into `bytes`, without padding; `false` at the end of the stream, also in the
    /// middle of a frame (the writer died).
    pub(crate) fn next(
        &mut self,
        input: &mut impl BufRead,
        bytes: &mut Vec<u8>,
    ) -> io::Result<bool> {
        bytes.clear();
        let ahead = Cursor::new(std::mem::take(&mut self.ahead));
        match read_line(&mut ahead.chain(&mut *input))? {
            None => return Ok(false),
            Some(line) if line == "FRAME" || line.starts_with("FRAME ") => {}
            Some(line) => {
                let reason = format!("expected a YUV4MPEG2 frame, got '{line:.40}'");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        }
        let tight = frame_len(self.header.format, self.header.size);
        let padded = padded_len(&self.header);
        if self.layout == RowLayout::Padded {
            return self.next_padded(input, padded, bytes);
        }
        input.take(tight as u64).read_to_end(bytes)?;
        if self.layout == RowLayout::Unknown && bytes.len() == tight {
            // read rather than peeked at: a buffer may hold a single byte of it
            let mut ahead = Vec::new();
            let len = (padded - tight).min(5) as u64;
            input.take(len).read_to_end(&mut ahead)?;
            if b"FRAME".starts_with(&ahead) {
                self.layout = RowLayout::Tight;
                self.ahead = ahead;
            } else {
                self.layout = RowLayout::Padded;
                self.padded.clone_from(bytes);
                self.padded.extend(ahead);
                return self.next_padded(input, padded, bytes);
            }
        }
        Ok(bytes.len() == tight)
    }

    /// Reads the rest of a padded frame and removes the padding.
    fn next_padded(
        &mut self,
        input: &mut impl BufRead,
        len: usize,
        bytes: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let missing = len - self.padded.len();
        input.take(missing as u64).read_to_end(&mut self.padded)?;
        let whole = self.padded.len() == len;
        bytes.clear();
        let mut rest = self.padded.as_slice();
        for plane in planes(self.header.size) {
            let (rows, after) = rest.split_at(rest.len().min(plane.stride * plane.padded_rows));
            for row in rows.chunks(plane.stride).take(plane.rows) {
                bytes.extend_from_slice(&row[..row.len().min(plane.width)]);
            }
            rest = after;
        }
        self.padded.clear();
        Ok(whole)
    }
}

/// One plane of a padded frame, in bytes and rows.
struct PlaneLayout {
    width: usize,
    rows: usize,
    stride: usize,
    padded_rows: usize,
}

/// The Y, U and V planes of an I420 frame in GStreamer's default memory layout.
fn planes(size: Size) -> [PlaneLayout; 3] {
    let (width, height) = (size.width as usize, size.height as usize);
    let luma = PlaneLayout {
        width,
        rows: height,
        stride: width.next_multiple_of(4),
        padded_rows: height.next_multiple_of(2),
    };
    let chroma = || PlaneLayout {
        width: width.div_ceil(2),
        rows: height.div_ceil(2),
        stride: width.div_ceil(2).next_multiple_of(4),
        padded_rows: height.div_ceil(2),
    };
    [luma, chroma(), chroma()]
}

/// Length of a padded frame in bytes.
fn padded_len(header: &Header) -> usize {
    match header.format {
        PixelFormat::I420 => planes(header.size)
            .iter()
            .map(|plane| plane.stride * plane.padded_rows)
            .sum(),
        format => frame_len(format, header.size),
    }
}

/// Reads a line without its newline; `None` if the stream ends first.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(MAX_HEADER).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
        Some(_) if line.len() as u64 + 1 == MAX_HEADER => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a YUV4MPEG2 stream: no line end",
        )),
        _ => Ok(None),
    }
}

fn parse(line: &str) -> Result<Header, String> {
    let fields = line
        .strip_prefix("YUV4MPEG2 ")
        .ok_or_else(|| format!("not a YUV4MPEG2 stream: it begins with '{line:.40}'"))?;
    let (mut size, mut fps, mut colour) = (Size::default(), None, "420");
    for field in fields.split(' ').filter(|field| !field.is_empty()) {
        let (tag, value) = field.split_at(field.chars().next().map_or(0, char::len_utf8));
        match tag {
            "W" => size.width = value.parse().unwrap_or(0),
            "H" => size.height = value.parse().unwrap_or(0),
            "F" => fps = rate(value),
            "C" => colour = value,
            _ => {}
        }
    }
    if !(1..=MAX_SIDE).contains(&size.width) || !(1..=MAX_SIDE).contains(&size.height) {
        return Err(format!(
            "YUV4MPEG2: expected a width and height of 1 to {MAX_SIDE}, got '{line:.80}'"
        ));
    }
    let format = match colour {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => PixelFormat::I420,
        "mono" => PixelFormat::Gray8,
        _ => {
            return Err(format!(
                "YUV4MPEG2: expected 8-bit 4:2:0, got the colour space '{colour}'"
            ));
        }
    };
    Ok(Header { size, fps, format })
}

/// Parses a frame rate such as `30000:1001`.
fn rate(text: &str) -> Option<f64> {
    let (frames, seconds) = text.split_once(':')?;
    let fps = frames.parse::<f64>().ok()? / seconds.parse::<f64>().ok()?;
    (fps.is_normal() && fps > 0.0).then_some(fps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn what_ffmpeg_and_gstreamer_write_is_understood() {
        let header = |text: &str| read_header(&mut Cursor::new(text)).map(Option::unwrap);
        assert_eq!(
            header("YUV4MPEG2 W768 H576 F10:1 Ip A16:15 C420mpeg2 XYSCSS=420MPEG2\n").unwrap(),
            Header {
                size: Size::new(768, 576),
                fps: Some(10.0),
                format: PixelFormat::I420
            }
        );
        assert_eq!(header("YUV4MPEG2 C420 W4 H2 I? F0:0\n").unwrap().fps, None);
        for (bad, part) in [
            ("P6\n", "begins with 'P6'"),
            ("YUV4MPEG2 H2\n", "width and height"),
            ("YUV4MPEG2 W99999 H2\n", "width and height"),
            ("YUV4MPEG2 W4 H2 C444\n", "'444'"),
            (&"x".repeat(5000), "no line end"),
        ] {
            let error = header(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn frames_are_read_until_the_writer_dies_within_one() {
        let stream = [
            b"YUV4MPEG2 W2 H2\nFRAME\n123456FRAME Ip\nabcdef".as_slice(),
            b"FRAME\n123",
        ];
        let mut input = Cursor::new(stream.concat());
        let header = read_header(&mut input).unwrap().unwrap();
        let (mut frames, mut bytes) = (FrameReader::new(header), Vec::new());
        assert!(frames.next(&mut input, &mut bytes).unwrap());
        assert_eq!(bytes, b"123456");
        assert!(frames.next(&mut input, &mut bytes).unwrap());
        assert_eq!(bytes, b"abcdef");
        assert!(!frames.next(&mut input, &mut bytes).unwrap());
        let mut noise = Cursor::new("GST_ARGUS: Creating output stream\n");
        assert!(frames.next(&mut noise, &mut bytes).is_err());
        assert_eq!(read_header(&mut Cursor::new("YUV4")).unwrap(), None);
    }

    #[test]
    fn rows_that_gstreamer_pads_are_told_from_tight_ones() {
        // 2x2: Y rows of 4 bytes, U and V rows of 4 bytes
        let padded = b"FRAME\n12..34..5...6...".as_slice();
        let tight = b"FRAME\n123456".as_slice();
        for frame in [padded, tight] {
            let stream = [b"YUV4MPEG2 W2 H2\n", frame, frame, frame].concat();
            let mut input = Cursor::new(stream);
            let header = read_header(&mut input).unwrap().unwrap();
            let (mut frames, mut bytes) = (FrameReader::new(header), Vec::new());
            for _ in 0..3 {
                assert!(frames.next(&mut input, &mut bytes).unwrap());
                assert_eq!(bytes, b"123456");
            }
            assert!(!frames.next(&mut input, &mut bytes).unwrap());
        }
        // frame lengths that GStreamer 1.22 writes for these sizes
        for (width, height, len) in [
            (640, 480, 460_800),
            (322, 242, 118_096),
            (320, 241, 116_160),
            (326, 240, 118_080),
        ] {
            let header = Header {
                size: Size::new(width, height),
                fps: None,
                format: PixelFormat::I420,
            };
            assert_eq!(padded_len(&header), len);
        }
    }
}

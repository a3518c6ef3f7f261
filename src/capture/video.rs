//! A Motion-JPEG AVI clip: every frame, in order.

use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::avi::AviReader;
use crate::capture::decode::{YuvCoding, to_rgb};
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::path::Path;

/// Reads and decodes a clip.
pub struct ClipSource {
    name: String,
    reader: AviReader,
    jpeg: Vec<u8>,
    framer: Framer,
}

impl ClipSource {
    /// Opens a clip.
    ///
    /// # Errors
    /// If the file cannot be read, is not an AVI file, or holds another codec.
    pub fn open(path: &Path, options: &CaptureOptions) -> Result<ClipSource, CaptureError> {
        Ok(ClipSource {
            name: path.display().to_string(),
            reader: AviReader::open(path)?,
            jpeg: Vec::new(),
            framer: Framer::new(options),
        })
    }

    /// Frame size from the clip's header; 0 x 0 where it has none.
    pub fn size(&self) -> Size {
        self.reader.size()
    }
}

impl Source for ClipSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if !self.reader.next_jpeg(&mut self.jpeg)? {
            return Ok(Next::End);
        }
        let (size, number) = (self.reader.size(), self.framer.next_id);
        self.framer
            .frame(PixelFormat::Mjpeg, |pool| {
                to_rgb(
                    PixelFormat::Mjpeg,
                    size,
                    YuvCoding::default(),
                    &self.jpeg,
                    pool,
                )
            })
            .map(|mut frame| {
                frame.meta.position = self.reader.position();
                Next::Frame(frame)
            })
            .map_err(|source| CaptureError::Damaged {
                frame: number,
                name: self.name.clone(),
                source,
            })
    }

    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        // a header may lack either
        let size = self.reader.size();
        let size = (size.area() > 0).then(|| format!("{size}, "));
        let fps = self.reader.fps().map(|fps| format!("{fps} fps, "));
        let known = size.into_iter().chain(fps).collect::<String>();
        format!("{} ({known}MJPG)", self.name)
    }

    fn fps(&self) -> Option<f64> {
        self.reader.fps()
    }
}

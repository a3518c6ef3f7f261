//! Clips in files. A Motion-JPEG AVI clip is read here: every frame, in order, with its time in the
//! clip.

use super::not_empty::NotEmpty;
use super::place::{self, Place};
use super::program::ProgramSource;
use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::avi::AviReader;
use crate::capture::decode::{YuvCoding, to_rgb};
use crate::escape;
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::path::Path;

/// Opens a clip in a file: Motion-JPEG AVI is read here, everything else by ffmpeg.
///
/// # Errors
/// If neither can read it.
pub(super) fn open(path: &Path, options: &CaptureOptions) -> Result<Box<dyn Source>, CaptureError> {
    let may_be_avi = match Place::of(path) {
        Some(Place::Pipe) => false, // the own reader goes back and forth
        _ => place::begins_as_avi(path) || super::extension(path).as_deref() == Some("avi"),
    };
    if !may_be_avi {
        return Ok(Box::new(ProgramSource::clip(path, options)?));
    }
    let own = match ClipSource::open(path, options) {
        Ok(clip) => return Ok(Box::new(NotEmpty::new(clip, &options.stop))),
        Err(CaptureError::Clip(error)) if error.may_be_another_format() => error,
        Err(error) => return Err(error),
    };
    match ProgramSource::clip(path, options) {
        Ok(clip) => {
            tracing::debug!("{own}: read by ffmpeg instead");
            Ok(Box::new(clip))
        }
        Err(CaptureError::Missing { install, .. }) => Err(CaptureError::UnknownClip {
            own,
            ffmpeg: format!("'ffmpeg', which reads other formats, is not installed: {install}"),
        }),
        Err(error) => Err(CaptureError::UnknownClip {
            own,
            ffmpeg: error.to_string(),
        }),
    }
}

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
            name: escape::name(path.as_os_str()),
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

//! Annotated frames on disk: a folder of JPEGs, or a Motion-JPEG AVI clip.

use super::SinkError;
use crate::avi::AviWriter;
use crate::frame::{Frame, Size};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use std::path::{Path, PathBuf};

/// Rate of a saved clip when the source does not know its own.
const DEFAULT_FPS: f64 = 10.0;
const JPEG_QUALITY: u8 = 90;

/// Encodes and writes frames.
pub struct Saver {
    target: Target,
    jpeg: Vec<u8>,
    fps: f64,
}

enum Target {
    Folder(PathBuf),
    /// The writer is made with the first frame, which decides the clip's size.
    Clip(PathBuf, Option<(AviWriter, Size)>),
}

impl Saver {
    /// A clip when `path` ends in `.avi`, else a folder, which is made.
    ///
    /// # Errors
    /// When the folder, or the clip's folder, cannot be made.
    pub fn create(path: &Path, fps: Option<f64>) -> Result<Saver, SinkError> {
        let is_clip = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("avi"));
        let folder = if is_clip {
            path.parent().unwrap_or(Path::new(""))
        } else {
            path
        };
        if !folder.as_os_str().is_empty() {
            std::fs::create_dir_all(folder).map_err(|e| write_error(folder, e))?;
        }
        let target = match is_clip {
            true => Target::Clip(path.to_owned(), None),
            false => Target::Folder(path.to_owned()),
        };
        Ok(Saver {
            target,
            jpeg: Vec::new(),
            fps: fps.unwrap_or(DEFAULT_FPS),
        })
    }

    /// Writes `picture`, the annotated RGB of `frame`. A clip keeps the size of its first frame;
    /// frames of another size are left out of it, with a warning.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write(&mut self, frame: &Frame, picture: &[u8]) -> Result<(), SinkError> {
        let size = frame.size;
        self.jpeg.clear();
        JpegEncoder::new_with_quality(&mut self.jpeg, JPEG_QUALITY)
            .encode(picture, size.width, size.height, ExtendedColorType::Rgb8)
            .map_err(|source| SinkError::Encode {
                frame: frame.id,
                source,
            })?;
        match &mut self.target {
            Target::Folder(folder) => {
                let path = folder.join(file_name(frame));
                std::fs::write(&path, &self.jpeg).map_err(|e| write_error(&path, e))
            }
            Target::Clip(path, writer) => {
                let (writer, first) = match writer {
                    Some(open) => open,
                    None => writer.insert((AviWriter::create(path, size, self.fps)?, size)),
                };
                if *first != size {
                    tracing::warn!(
                        "frame {} is {size}, the clip is {first}: left out of it",
                        frame.id
                    );
                    return Ok(());
                }
                Ok(writer.write_jpeg(&self.jpeg)?)
            }
        }
    }

    /// Completes a clip.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn finish(self) -> Result<(), SinkError> {
        match self.target {
            Target::Clip(_, Some((writer, _))) => Ok(writer.finish()?),
            _ => Ok(()),
        }
    }
}

/// `000123.jpg`, or the picture's own name where the frame came from a file.
fn file_name(frame: &Frame) -> PathBuf {
    match &frame.name {
        Some(name) => Path::new(name).with_extension("jpg"),
        None => PathBuf::from(format!("{:06}.jpg", frame.id)),
    }
}

fn write_error(path: &Path, source: std::io::Error) -> SinkError {
    SinkError::Write {
        what: "annotated frames",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, side: u32) -> Frame {
        Frame::from_rgb(
            id,
            Size::new(side, side),
            vec![90; (3 * side * side) as usize],
        )
    }

    #[test]
    fn a_folder_gets_numbered_pictures_or_the_source_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let mut saver = Saver::create(&folder, None).unwrap();
        let mut named = frame(1, 8);
        named.name = Some("cat.png".to_owned());
        for frame in [frame(0, 8), named] {
            saver.write(&frame, &frame.data).unwrap();
        }
        saver.finish().unwrap();
        for name in ["000000.jpg", "cat.jpg"] {
            assert_eq!(image::open(folder.join(name)).unwrap().width(), 8, "{name}");
        }
    }

    #[test]
    fn a_clip_can_be_read_back_and_keeps_its_first_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let mut saver = Saver::create(&path, Some(25.0)).unwrap();
        for frame in [frame(0, 16), frame(1, 8), frame(2, 16)] {
            saver.write(&frame, &frame.data).unwrap();
        }
        saver.finish().unwrap();
        let mut reader = crate::avi::AviReader::open(&path).unwrap();
        assert_eq!((reader.size(), reader.fps()), (Size::new(16, 16), 25.0));
        let (mut jpeg, mut count) = (Vec::new(), 0);
        while reader.next_jpeg(&mut jpeg).unwrap() {
            count += 1;
        }
        assert_eq!(count, 2);
    }
}

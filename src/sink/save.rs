//! Annotated frames on disk: a folder of JPEGs, or a Motion-JPEG AVI clip.

use super::SinkError;
use crate::avi::AviWriter;
use crate::clock::MonoTime;
use crate::frame::Frame;
use crate::geometry::Size;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Rate of a saved clip when the source does not know its own.
const DEFAULT_FPS: f64 = 10.0;
const JPEG_QUALITY: u8 = 90;

/// Encodes and writes frames.
pub struct Saver {
    target: Target,
    jpeg: Vec<u8>,
}

enum Target {
    Folder {
        path: PathBuf,
        /// Pictures' own names that were given: `a.jpg` and `a.png` must not share one.
        taken: HashSet<PathBuf>,
    },
    Clip {
        path: PathBuf,
        rate: Rate,
        /// Made with the first frame, which decides the clip's size.
        open: Option<OpenClip>,
    },
}

/// The frames per second that a clip is to be shown at.
#[derive(Clone, Copy, Debug)]
pub enum Rate {
    /// Every frame of a source of this rate is saved.
    Source(Option<f64>),
    /// Only those of a live source that there was time for: their times decide.
    Measured,
}

struct OpenClip {
    writer: AviWriter,
    size: Size,
    frames: u32,
    first: MonoTime,
    last: MonoTime,
}

impl Saver {
    /// A clip when `path` ends in `.avi`, else a folder, which is made.
    ///
    /// # Errors
    /// When the folder, or the clip's folder, cannot be made.
    pub fn create(path: &Path, rate: Rate) -> Result<Saver, SinkError> {
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
            true => Target::Clip {
                path: path.to_owned(),
                rate,
                open: None,
            },
            false => Target::Folder {
                path: path.to_owned(),
                taken: HashSet::new(),
            },
        };
        Ok(Saver {
            target,
            jpeg: Vec::new(),
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
            Target::Folder { path, taken } => {
                let path = path.join(file_name(frame, taken));
                std::fs::write(&path, &self.jpeg).map_err(|e| write_error(&path, e))
            }
            Target::Clip { path, rate, open } => {
                let clip = match open {
                    Some(clip) => clip,
                    None => open.insert(OpenClip {
                        writer: AviWriter::create(path, size, rate.provisional())?,
                        size,
                        frames: 0,
                        first: frame.captured,
                        last: frame.captured,
                    }),
                };
                if clip.size != size {
                    tracing::warn!(
                        "frame {} is {size}, the clip is {}: left out of it",
                        frame.id,
                        clip.size
                    );
                    return Ok(());
                }
                clip.writer.write_jpeg(&self.jpeg)?;
                (clip.frames, clip.last) = (clip.frames + 1, frame.captured);
                Ok(())
            }
        }
    }

    /// Completes a clip.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn finish(self) -> Result<(), SinkError> {
        match self.target {
            Target::Clip {
                rate,
                open: Some(clip),
                ..
            } => {
                let fps = match rate {
                    Rate::Source(_) => None,
                    Rate::Measured => clip.fps(),
                };
                Ok(clip.writer.finish(fps)?)
            }
            _ => Ok(()),
        }
    }
}

impl Rate {
    /// What the clip says until it is finished.
    fn provisional(self) -> f64 {
        match self {
            Rate::Source(Some(fps)) => fps,
            Rate::Source(None) | Rate::Measured => DEFAULT_FPS,
        }
    }
}

impl OpenClip {
    /// Frames per second of what is in it; `None` of fewer than two frames.
    fn fps(&self) -> Option<f64> {
        let seconds = self.last.since(self.first).as_secs_f64();
        (self.frames > 1 && seconds > 0.0).then(|| f64::from(self.frames - 1) / seconds)
    }
}

/// `000123.jpg`, or the picture's own name where the frame came from a file: `cat.jpg` for
/// `cat.png`, `cat.webp.jpg` for another cat in the same folder, and then with a number.
fn file_name(frame: &Frame, taken: &mut HashSet<PathBuf>) -> PathBuf {
    let Some(name) = &frame.name else {
        return PathBuf::from(format!("{:06}.jpg", frame.id));
    };
    let mut path = Path::new(name).with_extension("jpg");
    let mut others = 0;
    while !taken.insert(path.clone()) {
        others += 1;
        path = match others {
            1 => format!("{name}.jpg"),
            _ => format!("{name}.{others}.jpg"),
        }
        .into();
    }
    path
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
        let mut saver = Saver::create(&folder, Rate::Source(None)).unwrap();
        let named = |name: &str| Frame {
            name: Some(name.to_owned()),
            ..frame(1, 8)
        };
        for frame in [
            frame(0, 8),
            named("cat.png"),
            named("cat.webp"),
            named("cat.webp"),
        ] {
            saver.write(&frame, &frame.data).unwrap();
        }
        saver.finish().unwrap();
        for name in ["000000.jpg", "cat.jpg", "cat.webp.jpg", "cat.webp.2.jpg"] {
            assert_eq!(image::open(folder.join(name)).unwrap().width(), 8, "{name}");
        }
    }

    #[test]
    fn a_clip_can_be_read_back_and_keeps_its_first_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let mut saver = Saver::create(&path, Rate::Source(Some(25.0))).unwrap();
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

    #[test]
    fn a_live_clip_is_shown_as_fast_as_its_frames_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let mut saver = Saver::create(&path, Rate::Measured).unwrap();
        for id in 0..5 {
            let mut frame = frame(3 * id, 8); // a 30 fps camera before a detector of 10 fps
            frame.captured = MonoTime {
                ns: 100_000_000 * id,
            };
            saver.write(&frame, &frame.data).unwrap();
        }
        saver.finish().unwrap();
        assert_eq!(crate::avi::AviReader::open(&path).unwrap().fps(), 10.0);
    }
}

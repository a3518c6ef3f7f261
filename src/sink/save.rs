//! Annotated frames on disk: a folder of JPEGs, or a Motion-JPEG AVI clip.
//!
//! AVI has one rate for the whole clip and no times of frames. Where a source's frames have times of
//! their own (a clip with a variable rate), the saved clip has the source's nominal rate, each frame
//! at the place of its time, and empty chunks in between, which repeat the frame before them: so
//! does ffmpeg's AVI writer, and players know it. One mean rate instead would keep the length but
//! not the moment of each frame.

use super::picture::Picture;
use super::{Flow, Message, Queue, Sink, SinkContext, SinkError};
use crate::avi::AviWriter;
use crate::clock::MonoTime;
use crate::frame::FrameMeta;
use crate::geometry::Size;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Frame rate of a saved clip if the source has none.
const DEFAULT_FPS: f64 = 10.0;
/// The same if the source's frames have times: fine enough for them.
const TIMED_FPS: f64 = 30.0;
/// Rates that a clip of timed frames can have: a frame of a clip at 90,000 a second would be followed
/// by thousands of empty chunks.
const TIMED_RATES: std::ops::RangeInclusive<f64> = 0.1..=1000.0;
/// A longer gap between two frames is a jump of the source's clock, and is left out.
const LONGEST_GAP: Duration = Duration::from_secs(3600);
/// Extensions of clips that cannot be written: a folder of that name is not what is meant.
const OTHER_CLIPS: [&str; 8] = ["mp4", "mkv", "mov", "webm", "m4v", "mpg", "mjpeg", "mjpg"];
/// Annotated frames that may wait for the JPEG encoder.
const QUEUE_FRAMES: usize = 4;

/// Writes annotated frames to disk.
pub struct Recorder {
    destination: Destination,
    live: bool,
    /// The first frame that could not be written.
    failed: Option<SinkError>,
    /// The last frame could not be written.
    failing: bool,
}

enum Destination {
    Folder {
        path: PathBuf,
        /// A frame until it is whole.
        part: PathBuf,
        /// Names in use by frames from image files: `a.jpg` and `a.png` must not share one.
        taken: HashSet<PathBuf>,
    },
    Clip {
        path: PathBuf,
        rate: Rate,
        /// Opened with the first frame, which sets the size of the clip.
        open: Option<OpenClip>,
    },
}

/// How the frame rate in the clip's header is determined.
#[derive(Clone, Copy, Debug)]
enum Rate {
    /// Rate of the source: every frame is saved.
    Source(Option<f64>),
    /// Measured from the timestamps of the saved frames: a live source may lose frames.
    Measured,
}

struct OpenClip {
    writer: AviWriter,
    size: Size,
    frames: u32,
    first: MonoTime,
    last: MonoTime,
    fps: f64,
    /// Time in the source of the saved clip's start.
    start: Option<Duration>,
}

impl Recorder {
    /// A clip if `path` ends in `.avi` and is no folder, else a folder of JPEGs. Missing folders are
    /// created.
    ///
    /// # Errors
    /// If `path` is named as a clip of another format or is no file, or a folder cannot be created.
    pub fn create(path: &Path, context: &SinkContext) -> Result<Recorder, SinkError> {
        let is_clip = !path.is_dir() && has_extension(path, &["avi"]);
        if !is_clip && !path.exists() && has_extension(path, &OTHER_CLIPS) {
            return Err(SinkError::NoClip {
                path: path.to_owned(),
            });
        }
        let folder = if is_clip {
            path.parent().unwrap_or(Path::new(""))
        } else {
            path
        };
        if !folder.as_os_str().is_empty() {
            std::fs::create_dir_all(folder).map_err(|e| write_error(folder, e))?;
        }
        if is_clip && path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(write_error(path, no_file()));
        }
        let destination = match is_clip {
            true => Destination::Clip {
                path: path.to_owned(),
                rate: match context.live {
                    true => Rate::Measured,
                    false => Rate::Source(context.fps),
                },
                open: None,
            },
            false => Destination::Folder {
                path: path.to_owned(),
                // hidden, so that nobody who watches the folder takes it for a frame
                part: path.join(format!(".vovcam-{}.part", std::process::id())),
                taken: HashSet::new(),
            },
        };
        Ok(Recorder {
            destination,
            live: context.live,
            failed: None,
            failing: false,
        })
    }

    /// Writes an annotated frame. A clip has the size of its first frame; frames of another size are
    /// skipped with a warning.
    fn write(&mut self, frame: &FrameMeta, picture: &Picture) -> Result<(), SinkError> {
        let (size, jpeg) = (frame.size, picture.jpeg()?);
        match &mut self.destination {
            Destination::Folder { path, part, taken } => {
                let path = path.join(file_name(frame, taken));
                write_whole(&path, part, jpeg).map_err(|e| write_error(&path, e))
            }
            Destination::Clip { path, rate, open } => {
                let clip = match open {
                    Some(clip) => clip,
                    None => open.insert(OpenClip::create(path, *rate, frame)?),
                };
                if clip.size != size {
                    tracing::warn!(
                        "frame {} is not saved: it is {size}, the clip is {}",
                        frame.id,
                        clip.size
                    );
                    return Ok(());
                }
                clip.fill_gap(frame)?;
                clip.writer.write_jpeg(jpeg)?;
                (clip.frames, clip.last) = (clip.frames + 1, frame.captured);
                Ok(())
            }
        }
    }

    fn finish_clip(destination: Destination) -> Result<(), SinkError> {
        match destination {
            Destination::Clip {
                path,
                open: Some(clip),
                ..
            } if clip.frames == 0 => {
                // no clip is better than an empty one
                std::fs::remove_file(&path).map_err(|e| write_error(&path, e))
            }
            Destination::Clip {
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

impl Sink for Recorder {
    fn name(&self) -> &'static str {
        "save"
    }

    fn queue(&self) -> Queue {
        match self.live {
            // a lost frame is better than a late detection
            true => Queue::Bounded(QUEUE_FRAMES),
            false => Queue::Lossless(QUEUE_FRAMES),
        }
    }

    fn needs_pictures(&self) -> bool {
        true
    }

    /// A frame that cannot be written to a folder is reported at the end of the run, because the
    /// disk may recover. A clip cannot continue after a partial frame.
    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        let Message::Frame(frame) = message else {
            return Ok(Flow::Continue);
        };
        let Some(picture) = &frame.picture else {
            return Ok(Flow::Continue);
        };
        match self.write(&frame.report.frame, picture) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("annotated frames are written again");
                }
            }
            Err(error @ SinkError::Clip(_)) => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("{}", with_cause(&error));
                }
                self.failed.get_or_insert(error);
            }
        }
        Ok(Flow::Continue)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        let finished = Recorder::finish_clip(self.destination);
        self.failed.map_or(finished, Err)
    }
}

impl Rate {
    /// Frame rate in the header until the clip is finished.
    fn provisional(self, timed: bool) -> f64 {
        match self {
            Rate::Source(fps) if timed => {
                let fps = fps.filter(|fps| TIMED_RATES.contains(fps));
                fps.unwrap_or(TIMED_FPS)
            }
            Rate::Source(Some(fps)) => fps,
            Rate::Source(None) | Rate::Measured => DEFAULT_FPS,
        }
    }
}

impl OpenClip {
    fn create(path: &Path, rate: Rate, frame: &FrameMeta) -> Result<OpenClip, SinkError> {
        let start = match rate {
            Rate::Source(_) => frame.position,
            Rate::Measured => None,
        };
        let fps = rate.provisional(start.is_some());
        Ok(OpenClip {
            writer: AviWriter::create(path, frame.size, fps)?,
            size: frame.size,
            frames: 0,
            first: frame.captured,
            last: frame.captured,
            fps,
            start,
        })
    }

    /// Repeats the last frame up to the time of this one. A frame that comes too soon for the rate
    /// takes the next place; later ones are on time again.
    fn fill_gap(&mut self, frame: &FrameMeta) -> Result<(), SinkError> {
        let (Some(start), Some(at)) = (self.start, frame.position) else {
            return Ok(());
        };
        let place = Duration::from_secs_f64(self.writer.frames() as f64 / self.fps);
        let gap = at.saturating_sub(start).saturating_sub(place);
        if gap > LONGEST_GAP {
            self.start = Some(at.saturating_sub(place));
            return Ok(());
        }
        for _ in 0..(gap.as_secs_f64() * self.fps).round() as u64 {
            self.writer.repeat()?;
        }
        Ok(())
    }

    /// Mean frames per second of the clip; `None` for fewer than two frames.
    fn fps(&self) -> Option<f64> {
        let seconds = self.last.since(self.first).as_secs_f64();
        (self.frames > 1 && seconds > 0.0).then(|| f64::from(self.frames - 1) / seconds)
    }
}

/// `000123.jpg`, or the image's own name if the frame came from a file: `cat.jpg` for `cat.png`. If
/// that is taken, `cat.webp.jpg` for `cat.webp`, and then with a number.
fn file_name(frame: &FrameMeta, taken: &mut HashSet<PathBuf>) -> PathBuf {
    let Some(name) = &frame.name else {
        return PathBuf::from(format!("{:06}.jpg", frame.id));
    };
    let mut path = Path::new(&**name).with_extension("jpg");
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

/// Writes a file whole or not at all: neither a full disk nor a crash leaves half a JPEG behind. A
/// named pipe is not opened, which would wait for a reader.
fn write_whole(path: &Path, part: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return Err(no_file());
    }
    let written = std::fs::write(part, bytes).and_then(|()| std::fs::rename(part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(part); // it may not even exist
    }
    written
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is there and no file")
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default();
    known
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

fn with_cause(error: &SinkError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
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
    use crate::clock::SystemClock;
    use crate::detection::Labels;
    use crate::frame::Frame;
    use crate::monitor::vitals::Vitals;
    use crate::sink::picture::PictureMaker;
    use crate::sink::testing::message_of;

    fn frame(id: u64, side: u32) -> Frame {
        Frame::from_rgb(
            id,
            Size::new(side, side),
            vec![90; (3 * side * side) as usize],
        )
    }

    fn recorder(path: &Path, live: bool, fps: Option<f64>) -> Box<Recorder> {
        let context = SinkContext {
            live,
            fps,
            clock: SystemClock::shared(),
            camera: "test".into(),
            interrupted: crossbeam_channel::never(),
            vitals: Vitals::default(),
        };
        Box::new(Recorder::create(path, &context).unwrap())
    }

    fn save(mut recorder: Box<Recorder>, frames: impl IntoIterator<Item = Frame>) {
        let pictures = PictureMaker::new(Labels::new(&[]), false);
        for frame in frames {
            let message = Message::Frame(message_of(frame, &pictures));
            recorder.accept(&message).unwrap();
        }
        recorder.finish().unwrap();
    }

    #[test]
    fn a_folder_gets_numbered_pictures_or_the_source_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let named = |name: &str| {
            let mut frame = frame(1, 8);
            frame.meta.name = Some(name.into());
            frame
        };
        let frames = [
            frame(0, 8),
            named("cat.png"),
            named("cat.webp"),
            named("cat.webp"),
        ];
        save(recorder(&folder, false, None), frames);
        for name in ["000000.jpg", "cat.jpg", "cat.webp.jpg", "cat.webp.2.jpg"] {
            assert_eq!(image::open(folder.join(name)).unwrap().width(), 8, "{name}");
        }
    }

    #[test]
    fn a_clip_can_be_read_back_and_keeps_its_first_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let frames = [frame(0, 16), frame(1, 8), frame(2, 16)];
        save(recorder(&path, false, Some(25.0)), frames);
        let mut reader = crate::avi::AviReader::open(&path).unwrap();
        assert_eq!(
            (reader.size(), reader.fps()),
            (Size::new(16, 16), Some(25.0))
        );
        let (mut jpeg, mut count) = (Vec::new(), 0);
        while reader.next_jpeg(&mut jpeg).unwrap() {
            count += 1;
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn a_live_clip_has_the_rate_at_which_its_frames_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let frames = (0..5).map(|id| {
            let mut frame = frame(3 * id, 8); // a 30 fps camera, every third frame saved
            frame.meta.captured = MonoTime {
                ns: 100_000_000 * id,
            };
            frame
        });
        save(recorder(&path, true, None), frames);
        assert_eq!(
            crate::avi::AviReader::open(&path).unwrap().fps(),
            Some(10.0)
        );
    }

    /// Milliseconds at which the frames of a clip are shown, for frames at these times of a source.
    fn saved_times(fps: Option<f64>, times: &[u64]) -> Vec<u128> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.avi");
        let frames = times.iter().zip(0..).map(|(&ms, id)| {
            let mut frame = frame(id, 8);
            frame.meta.position = Some(Duration::from_millis(ms));
            frame
        });
        save(recorder(&path, false, fps), frames);
        let mut reader = crate::avi::AviReader::open(&path).unwrap();
        let (mut jpeg, mut shown) = (Vec::new(), Vec::new());
        while reader.next_jpeg(&mut jpeg).unwrap() {
            shown.push(reader.position().unwrap().as_millis());
        }
        shown
    }

    #[test]
    fn a_frame_of_a_clip_is_shown_at_its_time_whatever_the_rate() {
        assert_eq!(
            saved_times(Some(10.0), &[0, 100, 200, 300]),
            [0, 100, 200, 300]
        );
        // two in one place of the rate, and gaps
        let times = [200, 300, 301, 700, 2200, 2300];
        assert_eq!(
            saved_times(Some(10.0), &times),
            [0, 100, 200, 500, 2000, 2100]
        );
        assert_eq!(saved_times(None, &[0, 500, 1000]), [0, 500, 1000]);
        assert_eq!(saved_times(Some(90_000.0), &[0, 500, 1000]), [0, 500, 1000]);
        // a clock that jumps
        let times = [0, 100, 99_999_999_999, 100_000_000_099, 5];
        assert_eq!(saved_times(Some(10.0), &times), [0, 100, 200, 300, 400]);
    }

    #[test]
    fn a_place_without_room_gets_no_half_frames() {
        let dir = tempfile::tempdir().unwrap();
        let (path, part) = (dir.path().join("a.jpg"), dir.path().join(".part"));
        std::fs::create_dir(&path).unwrap(); // a folder cannot be replaced by a file
        assert!(write_whole(&path, &part, b"jpeg").is_err());
        assert!(!part.exists());
        assert!(write_whole(&dir.path().join("b.jpg"), &part, b"jpeg").is_ok());
        assert!(dir.path().join("b.jpg").exists() && !part.exists());
    }

    #[test]
    fn pipes_of_their_names_hold_neither_pictures_nor_clips_up() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = dir.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        };
        let clip = pipe("out.avi");
        pipe("000000.jpg");
        let context = SinkContext {
            live: true,
            fps: None,
            clock: SystemClock::shared(),
            camera: "test".into(),
            interrupted: crossbeam_channel::never(),
            vitals: Vitals::default(),
        };
        let error = Recorder::create(&clip, &context).err().unwrap();
        assert!(with_cause(&error).ends_with("no file"), "{error}");
        let mut recorder = recorder(dir.path(), true, None);
        let pictures = PictureMaker::new(Labels::new(&[]), false);
        for id in [0, 1] {
            let message = Message::Frame(message_of(frame(id, 8), &pictures));
            recorder.accept(&message).unwrap();
        }
        assert!(dir.path().join("000001.jpg").is_file());
        let error = recorder.finish().unwrap_err().to_string();
        assert!(error.contains("000000.jpg"), "{error}");
    }

    #[test]
    fn a_folder_that_vanishes_is_an_error_at_the_end_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gone");
        let mut recorder = recorder(&folder, true, None);
        std::fs::remove_dir(&folder).unwrap();
        let pictures = PictureMaker::new(Labels::new(&[]), false);
        let message = Message::Frame(message_of(frame(0, 8), &pictures));
        assert_eq!(recorder.accept(&message).unwrap(), Flow::Continue);
        let error = recorder.finish().unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }
}

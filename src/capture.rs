//! Frames come from a [`Source`]: a camera, a clip, a folder, standard input, or a test pattern.

#[cfg(target_os = "linux")]
pub mod camera;
mod child;
pub mod files;
pub mod pattern;
mod pipe;
pub mod program;
pub mod raw;
pub mod retry;
pub mod video;
pub(crate) mod y4m;

use crate::avi::AviError;
use crate::clock::Clock;
use crate::decode::{DecodeError, ImageError};
use crate::frame::{Frame, FramePool, PixelFormat, PooledBuf, Size};
use crate::notify::Health;
use crossbeam_channel::Receiver;
use pipe::{Pipe, Silent};
use program::ProgramSource;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buffers that a source keeps for reuse: one being filled, one waiting, two with readers.
const POOL_BUFFERS: usize = 4;

/// Extensions of clips that ffmpeg reads, lower case.
const CLIP_EXTENSIONS: [&str; 10] = [
    "mp4", "mkv", "mov", "webm", "m4v", "mpg", "ts", "mjpeg", "mjpg", "avi",
];

/// What a source has to say next.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// The camera went or came back.
    Event(SourceEvent),
    /// There will be no more.
    End,
}

/// What happened to a source, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// No frames any more, and why.
    Lost(String),
    /// Frames again.
    Found,
}

/// Where frames come from. Every source decodes to RGB itself, in the capture thread.
pub trait Source: Send {
    /// Waits for what comes next.
    ///
    /// # Errors
    /// A damaged frame ([`CaptureError::is_damaged_frame`]), after which the source goes on, or
    /// a failure that ends it.
    fn next(&mut self) -> Result<Next, CaptureError>;

    /// Whether frames come by themselves, so that the newest matters most.
    fn is_live(&self) -> bool;

    /// What it is, for logs.
    fn describe(&self) -> String;

    /// Frames per second where known.
    fn fps(&self) -> Option<f64> {
        None
    }
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One frame of many is bad.
    #[error("frame {frame} of '{name}' is damaged")]
    Damaged {
        /// Frame number.
        frame: u64,
        /// The source.
        name: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// One picture of a folder is bad.
    #[error(transparent)]
    Picture(#[from] ImageError),
    /// A clip is bad.
    #[error(transparent)]
    Clip(#[from] AviError),
    /// A file or folder cannot be read.
    #[error("cannot read the source '{}'", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing to read.
    #[error("no pictures (JPEG, PNG, WebP, BMP) in the folder '{}'", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Pictures, and not one that can be read.
    #[error("none of the {pictures} pictures of '{}' can be read: the reasons are above", path.display())]
    NothingReadable {
        /// The file or folder.
        path: PathBuf,
        /// How many were tried.
        pictures: usize,
    },
    /// The source cannot be used as asked.
    #[error("{0}")]
    Unusable(String),
    /// A program that reads the source is not installed.
    #[error("'{input}' needs the program '{program}', which is not installed: {install}")]
    Missing {
        /// The program.
        program: String,
        /// What it was to read.
        input: String,
        /// How to get it.
        install: &'static str,
    },
    /// A program that reads a clip failed.
    #[error("{program} cannot read '{input}': {reason}")]
    Program {
        /// The program.
        program: String,
        /// What it was to read.
        input: String,
        /// How it ended and what it said.
        reason: String,
    },
    /// The camera cannot be opened or stopped sending.
    #[error("camera '{device}': {reason}")]
    Camera {
        /// The device path.
        device: String,
        /// What, and what to do.
        reason: String,
    },
}

impl CaptureError {
    /// Whether the source can go on with the next frame.
    pub fn is_damaged_frame(&self) -> bool {
        matches!(
            self,
            CaptureError::Damaged { .. } | CaptureError::Picture(_)
        )
    }

    /// Whether opening the source again later may help.
    pub fn can_pass(&self) -> bool {
        matches!(self, CaptureError::Camera { .. })
    }
}

/// What the user named as the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// A camera device path.
    Camera(PathBuf),
    /// A Motion-JPEG AVI clip.
    Clip(PathBuf),
    /// A folder of pictures, or one picture.
    Pictures(PathBuf),
    /// Raw frames on standard input.
    Stdin,
    /// The moving test pattern, this many frames or without end.
    Pattern(Option<u64>),
    /// Whatever ffmpeg can read: a file or an address.
    Ffmpeg(String),
    /// A Jetson's CSI camera.
    Csi(u32),
    /// A GStreamer pipeline, in words.
    Gst(Vec<String>),
}

impl SourceSpec {
    /// A camera by path or number.
    pub fn camera(device: &str) -> SourceSpec {
        match device.parse::<u32>() {
            Ok(number) => SourceSpec::Camera(format!("/dev/video{number}").into()),
            Err(_) => SourceSpec::Camera(device.into()),
        }
    }

    /// A clip, folder, picture, `-`, `pattern[:N]`, `csi://N`, `gst:PIPELINE`, address or device
    /// by its text.
    ///
    /// # Errors
    /// When a number is none, or a pipeline's quotes do not match.
    pub fn parse(text: &str) -> Result<SourceSpec, String> {
        if let Some(count) = text.strip_prefix("pattern:") {
            let frames = count
                .parse()
                .map_err(|_| format!("expected 'pattern:FRAMES', got '{text}'"))?;
            return Ok(SourceSpec::Pattern(Some(frames)));
        }
        if let Some(sensor) = text.strip_prefix("csi://") {
            let sensor = sensor.parse();
            return sensor
                .map(SourceSpec::Csi)
                .map_err(|_| format!("expected 'csi://NUMBER' such as 'csi://0', got '{text}'"));
        }
        if let Some(pipeline) = text.strip_prefix("gst:") {
            let words = shlex::split(pipeline).filter(|words| !words.is_empty());
            return words.map(SourceSpec::Gst).ok_or_else(|| {
                format!(
                    "expected 'gst:PIPELINE' such as 'gst:videotestsrc ! video/x-raw,width=640', \
                     with quotes in pairs, got '{text}'"
                )
            });
        }
        let path = PathBuf::from(text);
        let extension = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase());
        Ok(match extension.as_deref() {
            _ if text == "-" => SourceSpec::Stdin,
            _ if text == "pattern" => SourceSpec::Pattern(None),
            _ if text.starts_with("/dev/") => SourceSpec::camera(text),
            _ if text.contains("://") => SourceSpec::Ffmpeg(text.to_owned()),
            Some("avi") => SourceSpec::Clip(path),
            Some(known) if files::EXTENSIONS.contains(&known) => SourceSpec::Pictures(path),
            Some(known) if CLIP_EXTENSIONS.contains(&known) => SourceSpec::Ffmpeg(text.to_owned()),
            // what else may be in a file is ffmpeg's to say
            Some(_) if path.is_file() => SourceSpec::Ffmpeg(text.to_owned()),
            _ => SourceSpec::Pictures(path),
        })
    }
}

/// Wishes and shared parts for opening a source.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Wished frame size; the size of raw frames.
    pub size: Option<Size>,
    /// Wished frames per second.
    pub fps: Option<f64>,
    /// Format of raw frames; the only one that a camera is asked for.
    pub format: Option<PixelFormat>,
    /// No frame for this long means that the camera is lost.
    pub timeout: Duration,
    /// Whether to wait for a lost camera.
    pub retry: bool,
    /// Shared time.
    pub clock: Arc<dyn Clock>,
    /// Disconnects when the run is to stop.
    pub stop: Receiver<()>,
    /// Where a lost camera is reported.
    pub health: Health,
}

/// Opens what the user named.
///
/// # Errors
/// When it is missing, unreadable or of no use.
pub fn open(spec: &SourceSpec, options: &CaptureOptions) -> Result<Box<dyn Source>, CaptureError> {
    Ok(match spec {
        SourceSpec::Camera(path) => open_camera(path, options)?,
        SourceSpec::Clip(path) => match video::ClipSource::open(path, options) {
            Ok(clip) => Box::new(clip),
            // other codecs are ffmpeg's where it is installed; else the clip's own error helps more
            Err(CaptureError::Clip(AviError::Codec { .. })) if program::is_installed("ffmpeg") => {
                Box::new(ProgramSource::ffmpeg(&path.to_string_lossy(), options)?)
            }
            Err(error) => return Err(error),
        },
        SourceSpec::Pictures(path) => Box::new(files::PictureSource::open(path, options)?),
        SourceSpec::Stdin => Box::new(raw::RawSource::open(stdin(options)?, options)?),
        SourceSpec::Pattern(frames) => Box::new(pattern::PatternSource::new(*frames, options)),
        SourceSpec::Ffmpeg(input) if program::is_stream(input) => {
            let (input, wishes) = (input.clone(), options.clone());
            supervised(options, move || ProgramSource::ffmpeg(&input, &wishes))?
        }
        SourceSpec::Ffmpeg(input) => Box::new(ProgramSource::ffmpeg(input, options)?),
        SourceSpec::Csi(sensor) => {
            let (sensor, wishes) = (*sensor, options.clone());
            supervised(options, move || Ok(ProgramSource::csi(sensor, &wishes)))?
        }
        SourceSpec::Gst(words) => {
            let (words, wishes) = (words.clone(), options.clone());
            supervised(options, move || Ok(ProgramSource::gst(&words, &wishes)))?
        }
    })
}

/// A camera behind a program: restarted whenever it ends or stalls, unless that is not wanted.
fn supervised(
    options: &CaptureOptions,
    mut start: impl FnMut() -> Result<ProgramSource, CaptureError> + Send + 'static,
) -> Result<Box<dyn Source>, CaptureError> {
    let first = start()?;
    if !options.retry {
        return Ok(Box::new(first));
    }
    let name = first.describe();
    Ok(Box::new(retry::Retrying::new(name, start, options)))
}

/// Standard input, without the buffer and the lock that the program's other parts would share.
fn stdin(options: &CaptureOptions) -> Result<Box<dyn Read + Send>, CaptureError> {
    let read = |source| CaptureError::Read {
        path: "-".into(),
        source,
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let stdin = File::from(stdin.map_err(read)?);
    let (stop, clock) = (&options.stop, &options.clock);
    Ok(Box::new(Pipe::new(stdin, Silent, stop, clock)))
}

#[cfg(target_os = "linux")]
fn open_camera(
    path: &std::path::Path,
    options: &CaptureOptions,
) -> Result<Box<dyn Source>, CaptureError> {
    let (path, wishes) = (path.to_owned(), options.clone());
    let name = path.display().to_string();
    let reopen = move || camera::Camera::open(&path, &wishes);
    Ok(match options.retry {
        true => Box::new(retry::Retrying::new(name, reopen, options).opened()),
        false => Box::new(reopen()?),
    })
}

#[cfg(not(target_os = "linux"))]
fn open_camera(
    path: &std::path::Path,
    _: &CaptureOptions,
) -> Result<Box<dyn Source>, CaptureError> {
    Err(CaptureError::Camera {
        device: path.display().to_string(),
        reason: "cameras are read through V4L2, which only Linux has; use --source".to_owned(),
    })
}

/// What every source needs to turn bytes into frames: buffers, numbers and timestamps.
struct Framer {
    pool: FramePool,
    clock: Arc<dyn Clock>,
    next_id: u64,
}

impl Framer {
    fn new(options: &CaptureOptions) -> Framer {
        Framer {
            pool: FramePool::new(POOL_BUFFERS),
            clock: Arc::clone(&options.clock),
            next_id: 0,
        }
    }

    /// Stamps a frame that arrived just now, after `decode` has made RGB of it.
    fn frame<E>(
        &mut self,
        format: PixelFormat,
        decode: impl FnOnce(&FramePool) -> Result<(Size, PooledBuf), E>,
    ) -> Result<Frame, E> {
        let (captured, wall) = (self.clock.now(), self.clock.wall());
        let id = self.next_id;
        self.next_id += 1;
        let began = Instant::now();
        let (size, data) = decode(&self.pool)?;
        Ok(Frame {
            id,
            captured,
            wall,
            size,
            format,
            decode: began.elapsed(),
            name: None,
            data,
        })
    }
}

#[cfg(test)]
pub(crate) fn test_options() -> CaptureOptions {
    CaptureOptions {
        size: None,
        fps: None,
        format: None,
        timeout: Duration::from_secs(5),
        retry: false,
        clock: Arc::new(crate::clock::SimClock::default()),
        stop: crossbeam_channel::never(),
        health: Health::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_text() {
        use SourceSpec as S;
        for (text, spec) in [
            ("-", S::Stdin),
            ("pattern", S::Pattern(None)),
            ("pattern:5", S::Pattern(Some(5))),
            (
                "/dev/v4l/by-id/usb-cam",
                S::Camera("/dev/v4l/by-id/usb-cam".into()),
            ),
            ("a/clip.AVI", S::Clip("a/clip.AVI".into())),
            ("a/b.PNG", S::Pictures("a/b.PNG".into())),
            ("frames", S::Pictures("frames".into())),
            ("x.mp4", S::Ffmpeg("x.mp4".into())),
            ("Cargo.toml", S::Ffmpeg("Cargo.toml".into())),
            ("no.wmv", S::Pictures("no.wmv".into())),
            (
                "rtsp://camera/stream",
                S::Ffmpeg("rtsp://camera/stream".into()),
            ),
            ("csi://1", S::Csi(1)),
            (
                "gst:v4l2src ! 'video/x-raw, width=640'",
                S::Gst(
                    ["v4l2src", "!", "video/x-raw, width=640"]
                        .map(str::to_owned)
                        .into(),
                ),
            ),
        ] {
            assert_eq!(SourceSpec::parse(text), Ok(spec));
        }
        for wrong in ["pattern:many", "csi://front", "gst:", "gst:a 'b"] {
            assert!(SourceSpec::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(S::camera("2"), S::Camera("/dev/video2".into()));
    }
}

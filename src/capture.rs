//! Sources of frames: cameras, clips, folders of images, standard input, and a test pattern.

pub mod address;
#[cfg(target_os = "linux")]
pub mod camera;
mod child;
pub mod decode;
pub mod files;
pub mod jpeg;
mod not_empty;
pub mod pattern;
mod pipe;
mod place;
pub mod program;
mod program_log;
pub mod raw;
pub mod retry;
pub mod video;
pub(crate) mod y4m;

use crate::avi::AviError;
use crate::capture::address::{Address, Pipeline};
use crate::capture::decode::{DecodeError, ImageError};
use crate::clock::{Clock, MonoTime};
use crate::escape;
use crate::frame::{Frame, FrameMeta, FramePool, PixelFormat, PooledBuf};
use crate::geometry::Size;
use crossbeam_channel::Receiver;
use not_empty::NotEmpty;
use pipe::Pipe;
use place::Place;
use program::ProgramSource;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buffers that a source keeps for reuse: one being filled, one in the queue, two in use by readers.
const POOL_BUFFERS: usize = 4;

/// Extensions of clips, lower case.
const CLIP_EXTENSIONS: [&str; 10] = [
    "mp4", "mkv", "mov", "webm", "m4v", "mpg", "ts", "mjpeg", "mjpg", "avi",
];

/// Result of [`Source::next`].
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// The camera was lost or found.
    Event(SourceEvent),
    /// The source has ended.
    End,
}

/// A change of the camera's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The camera stopped sending frames or cannot be opened.
    Lost {
        /// The reason, for the log.
        reason: String,
        /// When the first retry ends at the latest; after that it hangs.
        retry_by: MonoTime,
    },
    /// Still lost; another retry begins.
    Retrying {
        /// When this retry ends at the latest; after that it hangs.
        retry_by: MonoTime,
    },
    /// The camera sends frames again.
    Found,
}

/// A source of frames. It decodes to RGB itself, in the capture thread.
pub trait Source: Send {
    /// Waits for the next frame or event.
    ///
    /// # Errors
    /// A damaged frame ([`CaptureError::is_damaged_frame`]), after which the next call continues
    /// with the next frame, or a failure that ends the source.
    fn next(&mut self) -> Result<Next, CaptureError>;

    /// Whether frames arrive in real time, so that the newest matters most.
    fn is_live(&self) -> bool;

    /// Name, size and format, for logs.
    fn describe(&self) -> String;

    /// Frames per second, where known.
    fn fps(&self) -> Option<f64> {
        None
    }
}

/// Failure of a source or of one frame.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One frame of a stream is damaged; the next may be good.
    #[error("frame {frame} of '{name}' is damaged")]
    Damaged {
        /// Frame number.
        frame: u64,
        /// The source.
        name: String,
        /// The decoder's error.
        source: DecodeError,
    },
    /// One image of a folder cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A clip cannot be read.
    #[error(transparent)]
    Clip(#[from] AviError),
    /// A clip that neither the own reader nor ffmpeg can read.
    #[error("{own}; {ffmpeg}")]
    UnknownClip {
        /// What the own reader found.
        own: AviError,
        /// What ffmpeg found, or that it is missing.
        ffmpeg: String,
    },
    /// A source that ended without one readable frame.
    #[error("'{name}' gave not one readable frame: {reason}")]
    NothingRead {
        /// The source.
        name: String,
        /// What was there instead.
        reason: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read the source '{}'", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A folder without images.
    #[error("no images (JPEG, PNG, WebP, BMP) in the folder '{}'{others}", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// What is in it instead.
        others: String,
    },
    /// A folder of which no image can be read.
    #[error("none of the {images} images of '{}' can be read: the reasons are above", path.display())]
    NothingReadable {
        /// The file or folder.
        path: PathBuf,
        /// Number of images tried.
        images: usize,
    },
    /// The source cannot be used with these options.
    #[error("{0}")]
    Unusable(String),
    /// A program that reads the source is not installed.
    #[error("'{input}' needs the program '{program}', which is not installed: {install}")]
    Missing {
        /// The program.
        program: String,
        /// The file or address that it was to read.
        input: String,
        /// How to install it.
        install: &'static str,
    },
    /// A program that reads a clip failed.
    #[error("{program} cannot read '{input}': {reason}")]
    Program {
        /// The program.
        program: String,
        /// The file or address that it was to read.
        input: String,
        /// Its exit status and the last line of its messages.
        reason: String,
    },
    /// The camera cannot be opened, or stopped sending frames.
    #[error("camera '{device}': {reason}")]
    Camera {
        /// The device path.
        device: String,
        /// The failure, and the remedy.
        reason: String,
    },
}

impl CaptureError {
    /// Whether the source can continue with the next frame.
    pub fn is_damaged_frame(&self) -> bool {
        matches!(self, CaptureError::Damaged { .. } | CaptureError::Image(_))
    }

    /// Whether the failure may be temporary: opening the source again later can succeed.
    pub fn can_pass(&self) -> bool {
        matches!(self, CaptureError::Camera { .. })
    }
}

/// A source as named on the command line or in the settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// A camera device path.
    Camera(PathBuf),
    /// A clip in a file.
    Clip(PathBuf),
    /// A folder of images, or one image.
    Images(PathBuf),
    /// Raw frames on standard input.
    Stdin,
    /// Raw frames from a named pipe.
    Pipe(PathBuf),
    /// The moving test pattern: this many frames, or endless.
    Pattern(Option<u64>),
    /// An address that ffmpeg reads.
    Address(Address),
    /// A Jetson's CSI camera, by sensor id.
    Csi(u32),
    /// A GStreamer pipeline.
    Gst(Pipeline),
}

impl SourceSpec {
    /// A camera by path or number.
    pub fn camera(device: &str) -> SourceSpec {
        match device.parse::<u32>() {
            Ok(number) => SourceSpec::Camera(format!("/dev/video{number}").into()),
            Err(_) => SourceSpec::Camera(device.into()),
        }
    }

    /// A short name for logs, such as `video0` or the name of a clip's file.
    pub fn name(&self) -> String {
        let file = |path: &Path| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            escape::name(name)
        };
        match self {
            SourceSpec::Camera(path)
            | SourceSpec::Clip(path)
            | SourceSpec::Images(path)
            | SourceSpec::Pipe(path) => file(path),
            SourceSpec::Stdin => "stdin".to_owned(),
            SourceSpec::Pattern(_) => "pattern".to_owned(),
            SourceSpec::Address(address) if program::is_stream(address.reveal()) => address.host(),
            SourceSpec::Address(address) => clip_name(address),
            SourceSpec::Csi(sensor) => format!("csi{sensor}"),
            SourceSpec::Gst(_) => "gst".to_owned(),
        }
    }

    /// Parses a path, `-`, `pattern[:N]`, `csi://N`, `gst:PIPELINE` or an address. What exists under
    /// this name is that, whatever the name looks like; only else its form decides.
    ///
    /// # Errors
    /// If a number does not parse, or a pipeline's quotes do not match.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<SourceSpec, String> {
        let text = text.as_ref();
        let path = Path::new(text);
        if text == "-" || text == "/dev/stdin" {
            return Ok(SourceSpec::Stdin);
        }
        if let Some(place) = Place::of(path) {
            return Ok(SourceSpec::existing(path, place));
        }
        if let Some(spec) = text.to_str().and_then(SourceSpec::by_form) {
            return spec;
        }
        Ok(match extension(path).as_deref() {
            // a camera that is not plugged in yet
            _ if place::is_device_path(path) => SourceSpec::Camera(path.to_owned()),
            Some(known) if CLIP_EXTENSIONS.contains(&known) => SourceSpec::Clip(path.to_owned()),
            _ => SourceSpec::Images(path.to_owned()),
        })
    }

    fn existing(path: &Path, place: Place) -> SourceSpec {
        let extension = extension(path);
        let is_clip = extension.is_some_and(|e| CLIP_EXTENSIONS.contains(&e.as_str()));
        match place {
            Place::Folder => SourceSpec::Images(path.to_owned()),
            Place::File if files::is_image(path) => SourceSpec::Images(path.to_owned()),
            // an image without its extension; ffmpeg recognises other formats by the content
            Place::File if !is_clip && place::begins_as_image(path) => {
                SourceSpec::Images(path.to_owned())
            }
            Place::Pipe if !is_clip => SourceSpec::Pipe(path.to_owned()),
            Place::File | Place::Pipe => SourceSpec::Clip(path.to_owned()),
            Place::Camera | Place::Other(_) => SourceSpec::Camera(path.to_owned()),
        }
    }

    /// What a text that is no path is, by its form; `None` for one that may be a path.
    fn by_form(text: &str) -> Option<Result<SourceSpec, String>> {
        if let Some(count) = text.strip_prefix("pattern:") {
            let frames = count
                .parse()
                .map_err(|_| format!("expected 'pattern:FRAMES', got '{text}'"));
            return Some(frames.map(|frames| SourceSpec::Pattern(Some(frames))));
        }
        if let Some(sensor) = text.strip_prefix("csi://") {
            let sensor = sensor
                .parse()
                .map_err(|_| format!("expected 'csi://NUMBER' such as 'csi://0', got '{text}'"));
            return Some(sensor.map(SourceSpec::Csi));
        }
        if let Some(pipeline) = text.strip_prefix("gst:") {
            let words = shlex::split(pipeline).filter(|words| !words.is_empty());
            let words = words.map(|words| SourceSpec::Gst(Pipeline::new(words)));
            // what it was may hold a password, and cannot be told apart
            return Some(words.ok_or_else(|| {
                "expected 'gst:PIPELINE' such as 'gst:videotestsrc ! video/x-raw,width=640', with \
                 quotes in pairs"
                    .to_owned()
            }));
        }
        match text {
            "pattern" => Some(Ok(SourceSpec::Pattern(None))),
            _ if is_address(text) => Some(Ok(SourceSpec::Address(Address::new(text)))),
            _ => None,
        }
    }
}

/// Lower-case extension of a path.
fn extension(path: &Path) -> Option<String> {
    let extension = path.extension()?.to_str()?;
    Some(extension.to_ascii_lowercase())
}

/// Whether a text has the form `scheme://…` (RFC 3986).
fn is_address(text: &str) -> bool {
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(of_scheme)
    })
}

/// The name of a clip's file, as far as its address shows it.
fn clip_name(address: &Address) -> String {
    let shown = address.to_string();
    let path = shown.split(['?', '#']).next().unwrap_or_default();
    match path.rsplit('/').next() {
        Some(name) if !name.is_empty() && !name.contains('…') => name.to_owned(),
        _ => address.host(),
    }
}

/// Options for opening a source.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Requested frame size; for raw frames, their size.
    pub size: Option<Size>,
    /// Requested frames per second.
    pub fps: Option<f64>,
    /// Format of raw frames; a camera uses only this one.
    pub format: Option<PixelFormat>,
    /// The camera counts as lost after this long without a frame.
    pub timeout: Duration,
    /// Whether a lost camera is opened again until it is found.
    pub retry: bool,
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// Disconnects when the run is to stop.
    pub stop: Receiver<()>,
}

/// Opens a source.
///
/// # Errors
/// If it is missing, cannot be read, or cannot be used with these options.
pub fn open(spec: &SourceSpec, options: &CaptureOptions) -> Result<Box<dyn Source>, CaptureError> {
    Ok(match spec {
        SourceSpec::Camera(path) => {
            place::refuse_what_is_no_camera(path)?;
            open_camera(path, options)?
        }
        // the built-in reader needs a file, and would wait for a writer whatever the stop
        SourceSpec::Clip(path) if is_pipe(path) => Box::new(ProgramSource::clip(path, options)?),
        SourceSpec::Clip(path) => video::open(path, options)?,
        SourceSpec::Images(path) => Box::new(files::ImageSource::open(path, options)?),
        SourceSpec::Stdin => {
            let frames = raw::RawSource::open(stdin(options)?, options)?;
            Box::new(NotEmpty::new(frames, &options.stop))
        }
        SourceSpec::Pipe(path) => {
            let pipe = Pipe::named(path, options)?;
            let frames = raw::RawSource::open(Box::new(pipe), options)?;
            let frames = frames.named(escape::name(path.as_os_str()));
            Box::new(NotEmpty::new(frames, &options.stop))
        }
        SourceSpec::Pattern(frames) => Box::new(pattern::PatternSource::new(*frames, options)),
        SourceSpec::Address(address) if program::is_stream(address.reveal()) => {
            let (address, requested) = (address.clone(), options.clone());
            supervised(options, move || {
                ProgramSource::address(&address, &requested)
            })?
        }
        SourceSpec::Address(address) => Box::new(ProgramSource::address(address, options)?),
        SourceSpec::Csi(sensor) => {
            let (sensor, requested) = (*sensor, options.clone());
            supervised(options, move || Ok(ProgramSource::csi(sensor, &requested)))?
        }
        SourceSpec::Gst(pipeline) => {
            let (pipeline, requested) = (pipeline.clone(), options.clone());
            supervised(options, move || {
                Ok(ProgramSource::gst(&pipeline, &requested))
            })?
        }
    })
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// A camera read by a program, which is restarted when it exits or stalls if `options.retry` is set.
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

/// Standard input as a file of its own, without the buffer and lock of [`std::io::stdin`].
fn stdin(options: &CaptureOptions) -> Result<Box<dyn Read + Send>, CaptureError> {
    let read = |source| CaptureError::Read {
        path: "-".into(),
        source,
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let stdin = File::from(stdin.map_err(read)?);
    let (stop, clock) = (&options.stop, &options.clock);
    Ok(Box::new(Pipe::new(stdin, None, stop, clock)))
}

#[cfg(target_os = "linux")]
fn open_camera(
    path: &std::path::Path,
    options: &CaptureOptions,
) -> Result<Box<dyn Source>, CaptureError> {
    let (path, requested) = (path.to_owned(), options.clone());
    let name = path.display().to_string();
    let reopen = move || camera::Camera::open(&path, &requested);
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

/// Makes frames from a source's bytes: buffers, frame numbers and timestamps.
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

    /// A frame that arrived just now: takes the time, then decodes it to RGB with `decode`.
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
            meta: FrameMeta {
                id,
                captured,
                wall,
                size,
                format,
                decode: began.elapsed(),
                name: None,
                position: None,
            },
            pixels: Arc::new(data),
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
            ("a/b.PNG", S::Images("a/b.PNG".into())),
            ("frames", S::Images("frames".into())),
            ("x.mp4", S::Clip("x.mp4".into())),
            ("Cargo.toml", S::Clip("Cargo.toml".into())),
            ("no.wmv", S::Images("no.wmv".into())),
            ("12:30:00.mp4", S::Clip("12:30:00.mp4".into())),
            ("a b://c.mp4", S::Clip("a b://c.mp4".into())),
            (
                "rtsp://camera/stream",
                S::Address(Address::new("rtsp://camera/stream")),
            ),
            ("csi://1", S::Csi(1)),
            (
                "gst:v4l2src ! 'video/x-raw, width=640'",
                S::Gst(Pipeline::new(
                    ["v4l2src", "!", "video/x-raw, width=640"]
                        .map(str::to_owned)
                        .into(),
                )),
            ),
        ] {
            assert_eq!(SourceSpec::parse(text), Ok(spec));
        }
        for (spec, name) in [
            ("/dev/v4l/by-id/usb-cam", "usb-cam"),
            ("a/clip.avi", "clip.avi"),
            ("frames/", "frames"),
            ("-", "stdin"),
            ("rtsp://me:secret@10.0.0.7:554/live?token=x", "10.0.0.7:554"),
            ("http://me:secret@host/video/clip.mp4?token=x", "clip.mp4"),
            ("http://host/s3cret.mp4", "host"),
            ("csi://1", "csi1"),
        ] {
            assert_eq!(SourceSpec::parse(spec).unwrap().name(), name);
        }
        for wrong in ["pattern:many", "csi://front", "gst:", "gst:a 'b"] {
            assert!(SourceSpec::parse(wrong).is_err(), "{wrong}");
        }
        let unpaired = SourceSpec::parse("gst:rtspsrc user-pw='s3cret").unwrap_err();
        assert!(!unpaired.contains("s3cret"), "{unpaired}");
        assert_eq!(S::camera("2"), S::Camera("/dev/video2".into()));
    }
}

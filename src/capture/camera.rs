//! A V4L2 camera.
//!
//! nokhwa lists the cameras. The stream is read through `v4l`, nokhwa's Linux backend, because
//! only `v4l` offers a timeout, sequence numbers, the driver's error flag and by-id paths.
//! docs/decisions/camera.md has the comparison.

mod modes;

pub use modes::Mode;

use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{DecodeError, YuvCoding, frame_len, to_rgb};
use crate::capture::jpeg::{self, CAMERA_SURPLUS, Origin};
use crate::clock::{Clock, MonoTime};
use crate::frame::{Frame, PixelFormat};
use crate::geometry::Size;
use crossbeam_channel::{Receiver, TryRecvError};
use modes::{
    DEFAULT_FPS, DEFAULT_SIZE, Negotiated, apply, choose, modes, no_usable_mode, summary,
    with_format,
};
use nix::time::{ClockId, clock_gettime};
use nokhwa::utils::ApiBackend;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use v4l::Device;
use v4l::buffer::{Flags, Metadata, Type};
use v4l::io::mmap::Stream;
use v4l::io::traits::{CaptureStream, Stream as _};
use v4l::video::Capture;

/// Buffers of the stream: four queued in the driver, one being read.
const DRIVER_BUFFERS: u32 = 5;
/// A timestamp older than this comes from another clock.
const OLDEST: Duration = Duration::from_secs(10);
/// Interval between checks of the stop signal while waiting for a frame, in ms.
const POLL_MS: i32 = 100;

/// A camera for the list of `vovcam doctor`.
#[derive(Clone, Debug)]
pub struct CameraInfo {
    /// The device path.
    pub path: PathBuf,
    /// Name that the driver reports.
    pub name: String,
    /// Modes that can be decoded, or why they cannot be listed.
    pub modes: Result<Vec<Mode>, String>,
}

/// The cameras of this machine.
pub fn list() -> Vec<CameraInfo> {
    let found = nokhwa::query(ApiBackend::Video4Linux).unwrap_or_default();
    let info = |camera: nokhwa::utils::CameraInfo| {
        let path = PathBuf::from(format!("/dev/video{}", camera.index().as_index().ok()?));
        let modes = Device::with_path(&path).and_then(|device| modes(&device, DEFAULT_SIZE));
        Some(CameraInfo {
            modes: modes.map_err(|e| explain(&e)),
            name: camera.human_name(),
            path,
        })
    };
    found.into_iter().filter_map(info).collect()
}

/// An open camera whose stream is running.
pub struct Camera {
    name: String,
    /// `None` only while being dropped.
    stream: Option<Stream<'static>>,
    timeout: Duration,
    stop: Receiver<()>,
    mode: Mode,
    /// Bytes per row in the driver's buffers, padding included.
    stride: usize,
    coding: YuvCoding,
    framer: Framer,
    ids: FrameIds,
    clock: Arc<dyn Clock>,
    /// Time of the last frame that could be decoded, or of the start of the stream.
    last_good: MonoTime,
    rows: Vec<u8>,
}

impl Camera {
    /// Opens a device path, chooses a mode and starts the stream. Links such as
    /// /dev/v4l/by-id/… are resolved at every opening.
    ///
    /// # Errors
    /// If the device is missing, busy, not permitted, or not a camera.
    pub fn open(path: &Path, options: &CaptureOptions) -> Result<Camera, CaptureError> {
        let name = path.display().to_string();
        let fail = |e: io::Error| CaptureError::Camera {
            device: path.display().to_string(),
            reason: explain(&e),
        };
        let device = Device::with_path(path).map_err(fail)?;
        let size = options.size.unwrap_or(DEFAULT_SIZE);
        let fps = options.fps.unwrap_or(DEFAULT_FPS);
        let modes = modes(&device, size).map_err(fail)?;
        if modes.is_empty() {
            // `v4l` returns an empty list if VIDIOC_ENUM_FMT fails; this call returns the error
            device.format().map_err(fail)?;
        }
        let usable = with_format(&modes, options.format);
        let chosen = choose(&usable, size, fps).ok_or_else(|| CaptureError::Camera {
            device: name.clone(),
            reason: no_usable_mode(&modes, options.format),
        })?;
        let Negotiated {
            mode,
            stride,
            coding,
        } = apply(&device, chosen, fps).map_err(fail)?;
        tracing::info!("camera '{name}': {mode} chosen of {}", summary(&modes));
        let mut stream =
            Stream::with_buffers(&device, Type::VideoCapture, DRIVER_BUFFERS).map_err(fail)?;
        stream.set_timeout(options.timeout);
        let mut camera = Camera {
            name,
            stream: Some(stream),
            timeout: options.timeout,
            stop: options.stop.clone(),
            mode,
            stride,
            coding,
            framer: Framer::new(options),
            ids: FrameIds::default(),
            clock: Arc::clone(&options.clock),
            last_good: options.clock.now(),
            rows: Vec::new(),
        };
        // from here on `Camera::drop` stops the stream
        camera.stream.as_mut().map_or(Ok(()), start).map_err(fail)?;
        Ok(camera)
    }

    /// The error for a frame that cannot be decoded. A camera that has sent only such frames for
    /// the whole timeout counts as lost, like one that sends no frames.
    fn damaged(&self, source: DecodeError) -> CaptureError {
        let since = self.clock.now().since(self.last_good);
        if since < self.timeout {
            return CaptureError::Damaged {
                frame: self.framer.next_id.saturating_sub(1),
                name: self.name.clone(),
                source,
            };
        }
        CaptureError::Camera {
            device: self.name.clone(),
            reason: format!(
                "sent only damaged frames for {:.0} s (--camera-timeout), the last: {source}; check \
                 cable and power, or try another --format",
                since.as_secs_f64()
            ),
        }
    }
}

impl Source for Camera {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let Some(stream) = &mut self.stream else {
            return Ok(Next::End);
        };
        let fail = |e: io::Error| CaptureError::Camera {
            device: self.name.clone(),
            reason: explain(&e),
        };
        if !wait_for_frame(stream, self.timeout, &self.stop).map_err(fail)? {
            return Ok(Next::End);
        }
        let (bytes, meta) = stream.next().map_err(fail)?;
        let age = age(meta, monotonic_now());
        self.framer.next_id = self.ids.id(meta.sequence);
        let bytes = &bytes[..(meta.bytesused as usize).min(bytes.len())];
        let (format, size, stride) = (self.mode.format, self.mode.size, self.stride);
        let coding = self.coding;
        if meta.flags.contains(Flags::ERROR) {
            self.framer.next_id += 1;
            return Err(self.damaged(DecodeError::Flagged));
        }
        let rows = &mut self.rows;
        let frame = self.framer.frame(format, |pool| match format {
            PixelFormat::Mjpeg => {
                let origin = Origin {
                    frame: size,
                    surplus: CAMERA_SURPLUS,
                };
                Ok(jpeg::decode(bytes, origin, |len| pool.take(len))?)
            }
            _ => {
                let bytes = unpadded(bytes, format, size, stride, rows);
                to_rgb(format, size, coding, bytes, pool)
            }
        });
        match frame {
            Ok(frame) => {
                self.last_good = self.clock.now();
                Ok(Next::Frame(stamped(frame, age)))
            }
            Err(source) => Err(self.damaged(source)),
        }
    }

    fn is_live(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("{} ({})", self.name, self.mode)
    }

    fn fps(&self) -> Option<f64> {
        Some(self.mode.fps)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        if let Err(error) = stream.stop() {
            tracing::debug!("stopping camera '{}': {error}", self.name);
            if error.raw_os_error() != Some(libc::ENODEV) {
                // `Stream::drop` would stop it again and panic: leak its buffers instead
                std::mem::forget(stream);
            }
        }
    }
}

/// Queues all buffers but the first and starts the stream. `v4l` queues the first buffer itself in
/// `Stream::next`. If the stream were not running by then, `Stream::next` would queue all buffers
/// and wait for the frame, without a check of the stop signal.
fn start(stream: &mut Stream<'_>) -> io::Result<()> {
    for index in 1..DRIVER_BUFFERS as usize {
        match CaptureStream::queue(stream, index) {
            Err(error) if index > 1 && error.raw_os_error() == Some(libc::EINVAL) => break, // the driver allocated fewer
            queued => queued?,
        }
    }
    stream.start()
}

/// Frame ids from the driver's sequence numbers, starting at 0; a gap is a dropped frame.
#[derive(Default)]
struct FrameIds {
    /// The driver's last sequence number and the id made from it.
    last: Option<(u32, u64)>,
}

impl FrameIds {
    fn id(&mut self, sequence: u32) -> u64 {
        let id = self.last.map_or(0, |(before, id)| {
            match sequence.wrapping_sub(before) {
                // unchanged or backwards: the driver does not count, so drops are unknown
                0 | 0x8000_0000.. => id + 1,
                step => id + u64::from(step),
            }
        });
        self.last = Some((sequence, id));
        id
    }
}

/// The clock of the driver's timestamps (`V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC`).
fn monotonic_now() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .map(Duration::from)
}

/// Time since the driver's timestamp of the frame; `None` if the timestamp is of another clock or
/// implausible.
fn age(meta: &Metadata, now: Option<Duration>) -> Option<Duration> {
    let kind = meta.flags & Flags::TIMESTAMP_MASK;
    let micros = u64::try_from(meta.timestamp.sec)
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(u64::try_from(meta.timestamp.usec).ok()?)?;
    let age = now?.checked_sub(Duration::from_micros(micros))?;
    (kind == Flags::TIMESTAMP_MONOTONIC && age <= OLDEST).then_some(age)
}

/// Moves a frame's timestamps from its arrival back by `age`, to the driver's timestamp.
fn stamped(mut frame: Frame, age: Option<Duration>) -> Frame {
    let age = age.unwrap_or_default();
    frame.meta.captured.ns = frame
        .meta
        .captured
        .ns
        .saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    frame.meta.wall = frame.meta.wall.checked_sub(age).unwrap_or(frame.meta.wall);
    frame
}

/// Waits for a filled buffer, with regular checks of the stop signal; `false` if the run stops.
fn wait_for_frame(stream: &Stream<'_>, timeout: Duration, stop: &Receiver<()>) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            return Ok(false);
        }
        match stream.handle().poll(libc::POLLIN, POLL_MS) {
            Ok(0) if began.elapsed() >= timeout => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Rows without the driver's padding. Most drivers do not pad; then nothing is copied.
fn unpadded<'a>(
    bytes: &'a [u8],
    format: PixelFormat,
    size: Size,
    stride: usize,
    rows: &'a mut Vec<u8>,
) -> &'a [u8] {
    let row = match format {
        PixelFormat::Mjpeg => return bytes, // has no rows
        PixelFormat::Rgb8 => 3 * size.width as usize,
        // I420 is not among FORMATS: its planes have different strides
        PixelFormat::Gray8 | PixelFormat::Nv12 | PixelFormat::I420 => size.width as usize,
        PixelFormat::Yuyv | PixelFormat::Uyvy => 2 * (size.width as usize).next_multiple_of(2),
    };
    if stride <= row {
        // some drivers report the whole page-aligned buffer as used
        return &bytes[..frame_len(format, size).min(bytes.len())];
    }
    rows.clear();
    for padded in bytes.chunks(stride).take(frame_len(format, size) / row) {
        rows.extend_from_slice(&padded[..row.min(padded.len())]);
    }
    rows
}

/// An error with its likely cause and what to do.
fn explain(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "no such camera: is it plugged in? 'vovcam doctor' lists what there is"
        }
        Some(libc::EBUSY) => {
            "busy: another program is using it ('fuser -v' on the device names it)"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "permission denied: add the user to the group 'video' and log in again"
        }
        Some(libc::ENOTTY | libc::EINVAL | libc::EISDIR) => {
            "not a camera, or it rejects the format: try another node"
        }
        Some(libc::EIO) => "input/output error: check cable and power of the camera",
        _ if error.kind() == io::ErrorKind::TimedOut => "sent no frame in time (--camera-timeout)",
        _ => return error.to_string(),
    };
    format!("{hint} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_padding_is_taken_out() {
        let (size, mut rows) = (Size::new(2, 2), Vec::new());
        let padded = [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0];
        let tight = unpadded(&padded, PixelFormat::Rgb8, size, 8, &mut rows);
        assert_eq!(tight, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn frame_numbers_follow_the_driver_across_a_wrap_and_rise_even_where_it_does_not_count() {
        let mut ids = FrameIds::default();
        let sequence = [u32::MAX - 1, u32::MAX, 0, 3, 3, 1, 2];
        assert_eq!(sequence.map(|number| ids.id(number)), [0, 1, 2, 5, 6, 7, 8]);
    }

    #[test]
    fn a_time_stamp_counts_only_when_it_is_of_the_monotonic_clock_and_recent() {
        let now = Some(Duration::from_secs(100));
        let stamped = |flags, sec, usec| Metadata {
            flags,
            timestamp: v4l::Timestamp { sec, usec },
            ..Metadata::default()
        };
        let monotonic = Flags::TIMESTAMP_MONOTONIC | Flags::DONE;
        let ms = |meta: Metadata| age(&meta, now).map(|age| age.as_millis());
        assert_eq!(ms(stamped(monotonic, 99, 750_000)), Some(250));
        assert_eq!(ms(stamped(Flags::TIMESTAMP_COPY, 99, 750_000)), None);
        assert_eq!(ms(stamped(monotonic, 101, 0)), None, "in the future");
        assert_eq!(ms(stamped(monotonic, 1, 0)), None, "long ago");
        assert_eq!(ms(stamped(monotonic, -1, -1)), None);
        assert_eq!(ms(stamped(monotonic, i64::MAX, i64::MAX)), None);
    }

    #[test]
    fn a_frame_is_dated_back_to_the_drivers_time_stamp() {
        let mut frame = Frame::from_rgb(0, Size::new(1, 1), vec![0; 3]);
        frame.meta.captured = MonoTime { ns: 1_000_000_000 };
        let frame = super::stamped(frame, Some(Duration::from_millis(300)));
        assert_eq!(frame.meta.captured.ns, 700_000_000);
        assert_eq!(frame.meta.wall.as_millisecond(), -300);
    }

    #[test]
    fn what_is_no_camera_is_told_from_a_camera_without_a_format() {
        for path in ["/dev/null", "/dev", "Cargo.toml"] {
            let error = Camera::open(Path::new(path), &crate::capture::test_options())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains("not a camera"), "{error}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = |code| explain(&io::Error::from_raw_os_error(code));
        assert!(text(libc::EACCES).contains("group 'video'"));
        assert!(text(libc::EBUSY).contains("another program"));
        assert!(text(libc::ENOENT).contains("vovcam doctor"));
    }
}

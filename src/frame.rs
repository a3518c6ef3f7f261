//! A decoded picture on its way from the camera to the log.

use crate::clock::MonoTime;
use crate::geometry::Size;
use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How a camera or file delivers its pixels, before decoding to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// Packed 8-bit R, G, B.
    Rgb8,
    /// 8-bit grey.
    Gray8,
    /// 4:2:2 packed Y0 U Y1 V.
    Yuyv,
    /// 4:2:2 packed U Y0 V Y1.
    Uyvy,
    /// 4:2:0, a Y plane and an interleaved UV plane.
    Nv12,
    /// 4:2:0, a Y, a U and a V plane.
    I420,
    /// One JPEG a frame.
    Mjpeg,
}

impl std::fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PixelFormat::Rgb8 => "RGB8",
            PixelFormat::Gray8 => "GRAY8",
            PixelFormat::Yuyv => "YUYV",
            PixelFormat::Uyvy => "UYVY",
            PixelFormat::Nv12 => "NV12",
            PixelFormat::I420 => "I420",
            PixelFormat::Mjpeg => "MJPG",
        })
    }
}

/// Everything about a frame but its pixels.
#[derive(Clone, Debug)]
pub struct FrameMeta {
    /// Counts up from 0 at the source; a gap is a frame that the driver dropped.
    pub id: u64,
    /// Time of capture on the program's monotonic clock: the camera driver's time stamp if there
    /// is one, else the arrival of the frame's last byte.
    pub captured: MonoTime,
    /// The same moment on the wall clock.
    pub wall: Timestamp,
    /// Width and height in pixels.
    pub size: Size,
    /// Pixel format as delivered by the source.
    pub format: PixelFormat,
    /// Time spent converting the source's format to RGB.
    pub decode: Duration,
    /// File name where every frame is a file of its own; bytes that are not UTF-8 as `\xNN`.
    pub name: Option<Arc<str>>,
    /// Time within a clip, by the clip's own clock, where it has one.
    pub position: Option<Duration>,
}

/// One frame, decoded to packed RGB.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number, times, size and format.
    pub meta: FrameMeta,
    /// RGB bytes, shared: `size.height` rows of `3 × size.width` bytes, no padding.
    pub pixels: Arc<PooledBuf>,
}

impl Frame {
    /// A frame around plain RGB bytes, for library users and tests.
    ///
    /// # Panics
    /// When `rgb` is not `3 × width × height` bytes.
    pub fn from_rgb(id: u64, size: Size, rgb: Vec<u8>) -> Frame {
        assert_eq!(rgb.len(), 3 * size.area(), "RGB bytes of a {size} frame");
        Frame {
            meta: FrameMeta {
                id,
                captured: MonoTime::default(),
                wall: Timestamp::UNIX_EPOCH,
                size,
                format: PixelFormat::Rgb8,
                decode: Duration::ZERO,
                name: None,
                position: None,
            },
            pixels: Arc::new(PooledBuf::from(rgb)),
        }
    }
}

/// Buffers that return to their pool when dropped, so that steady capture allocates nothing.
///
/// The pool never blocks: when every buffer is out, a new one is made; when more come back
/// than it keeps, they are freed.
#[derive(Clone, Debug)]
pub struct FramePool {
    give: Sender<Vec<u8>>,
    take: Receiver<Vec<u8>>,
}

impl FramePool {
    /// A pool that keeps up to `capacity` idle buffers.
    pub fn new(capacity: usize) -> FramePool {
        let (give, take) = bounded(capacity);
        FramePool { give, take }
    }

    /// A buffer of `len` bytes whose contents are unspecified.
    pub fn take(&self, len: usize) -> PooledBuf {
        let mut bytes = self.take.try_recv().unwrap_or_default();
        bytes.resize(len, 0);
        PooledBuf {
            bytes,
            home: Some(self.give.clone()),
        }
    }
}

/// Bytes on loan from a [`FramePool`].
#[derive(Debug, Default)]
pub struct PooledBuf {
    bytes: Vec<u8>,
    home: Option<Sender<Vec<u8>>>,
}

impl PooledBuf {
    /// The buffer as a vector, to be written into.
    pub fn as_vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl From<Vec<u8>> for PooledBuf {
    fn from(bytes: Vec<u8>) -> PooledBuf {
        PooledBuf { bytes, home: None }
    }
}

impl std::ops::Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            // A full pool means that the buffer is surplus: let it go.
            let _ = home.try_send(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_handed_out_again() {
        let pool = FramePool::new(1);
        let first = pool.take(64);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(32).as_ptr(), address);
    }
}

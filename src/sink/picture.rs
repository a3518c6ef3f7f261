//! Annotated frames. A [`Picture`] is drawn and encoded at most once, by the first sink that needs
//! it, and shared by all sinks.

use super::SinkError;
use super::render::Overlay;
use crate::detection::Labels;
use crate::frame::{FramePool, PooledBuf};
use crate::geometry::Size;
use crate::message::{Report, RunInfo};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// JPEG quality of annotated frames, 1 to 100.
const JPEG_QUALITY: u8 = 90;
/// Buffers kept for reuse: as many as wait in the queues of two sinks.
const POOL_BUFFERS: usize = 8;

/// Creates the [`Picture`]s of one run and keeps their buffers for reuse.
#[derive(Debug)]
pub struct PictureMaker {
    overlay: Mutex<Overlay>,
    status_line: bool,
    pixels: FramePool,
    jpegs: FramePool,
    drawn: AtomicU64,
    encoded: AtomicU64,
}

impl PictureMaker {
    /// For a run with these classes. With `status_line`, the metrics are drawn as well.
    pub fn new(labels: Labels, status_line: bool) -> Arc<PictureMaker> {
        Arc::new(PictureMaker::with(Overlay::new(labels), status_line))
    }

    fn with(overlay: Overlay, status_line: bool) -> PictureMaker {
        PictureMaker {
            overlay: Mutex::new(overlay),
            status_line,
            pixels: FramePool::new(POOL_BUFFERS),
            jpegs: FramePool::new(POOL_BUFFERS),
            drawn: AtomicU64::new(0),
            encoded: AtomicU64::new(0),
        }
    }

    /// For a run: with its zones and lines, and the metrics.
    pub fn of_run(run: &RunInfo) -> Arc<PictureMaker> {
        let overlay = Overlay::new(run.labels.clone()).with_shapes(&run.shapes);
        Arc::new(PictureMaker::with(overlay, true))
    }

    /// The picture of `report`, whose frame has these RGB `pixels`. Drawing is deferred until a sink
    /// needs it.
    pub fn picture(self: &Arc<Self>, report: Arc<Report>, pixels: Arc<PooledBuf>) -> Picture {
        Picture {
            maker: Arc::clone(self),
            report,
            pixels,
            annotated: OnceLock::new(),
            jpeg: OnceLock::new(),
        }
    }

    /// Number of pictures drawn and number of pictures encoded so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.drawn.load(Relaxed), self.encoded.load(Relaxed))
    }

    fn draw(&self, report: &Report, pixels: &[u8]) -> PooledBuf {
        self.drawn.fetch_add(1, Relaxed);
        // a copy: other sinks may read the frame's own pixels
        let mut copy = self.pixels.take(pixels.len());
        copy.copy_from_slice(pixels);
        let (size, detections) = (report.frame.size, &report.detections);
        let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        match self.status_line {
            true => overlay.draw(&mut copy, size, detections, &report.stats),
            false => overlay.boxes(&mut copy, size, detections),
        }
        copy
    }

    fn encode(&self, rgb: &[u8], size: Size) -> Result<PooledBuf, String> {
        self.encoded.fetch_add(1, Relaxed);
        let mut jpeg = self.jpegs.take(0);
        JpegEncoder::new_with_quality(jpeg.as_vec(), JPEG_QUALITY)
            .encode(rgb, size.width, size.height, ExtendedColorType::Rgb8)
            .map_err(|e| e.to_string())?;
        Ok(jpeg)
    }
}

/// The pixels of one frame: as captured, annotated, and as JPEG.
#[derive(Debug)]
pub struct Picture {
    maker: Arc<PictureMaker>,
    report: Arc<Report>,
    pixels: Arc<PooledBuf>,
    annotated: OnceLock<PooledBuf>,
    jpeg: OnceLock<Result<PooledBuf, String>>,
}

impl Picture {
    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        self.report.frame.size
    }

    /// The captured frame, packed RGB (`[height, width, 3]`).
    pub fn rgb(&self) -> &[u8] {
        &self.pixels
    }

    /// The frame with boxes and, if enabled, the status line, packed RGB (`[height, width, 3]`).
    pub fn annotated(&self) -> &[u8] {
        let draw = || self.maker.draw(&self.report, &self.pixels);
        self.annotated.get_or_init(draw)
    }

    /// The annotated frame as JPEG.
    ///
    /// # Errors
    /// If the frame cannot be encoded, such as one with a side of more than 65,535 pixels.
    pub fn jpeg(&self) -> Result<&[u8], SinkError> {
        let encode = || self.maker.encode(self.annotated(), self.size());
        match self.jpeg.get_or_init(encode) {
            Ok(jpeg) => Ok(jpeg),
            Err(reason) => Err(SinkError::Encode {
                frame: self.report.frame.id,
                reason: reason.clone(),
            }),
        }
    }
}

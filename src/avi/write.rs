//! The writer.

use super::AviError;
use crate::geometry::Size;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Maximum length of a file: RIFF lengths have 32 bits, which many players read as signed.
const MAX_FILE: u64 = (2 << 30) - (1 << 20);

/// Writes JPEGs as a clip. [`AviWriter::finish`] fills in the lengths and appends the index. A clip
/// that was not finished lacks them, but [`AviReader`](super::AviReader) can read its frames. On a
/// full disk the clip ends with the last frame that is whole.
pub struct AviWriter {
    path: PathBuf,
    file: File,
    index: Vec<IndexEntry>,
    /// Length of the file in bytes.
    written: u64,
    largest: u32,
    size: Size,
    fps: f64,
    /// Buffer of the next write.
    chunk: Vec<u8>,
}

/// Position of a frame, as in `idx1`.
#[derive(Clone, Copy)]
struct IndexEntry {
    /// Offset from the name `movi`, bytes.
    offset: u32,
    len: u32,
}

/// Offset of the name in `LIST….movi`: headers have a fixed length.
const MOVI_NAME: u64 = 220;

impl AviWriter {
    /// Creates a clip of `size` frames at `fps`.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path, size: Size, fps: f64) -> Result<AviWriter, AviError> {
        let io = |source| AviError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = File::create(path).map_err(io)?;
        let header = headers(size, fps, &Lengths::default());
        if let Err(error) = file.write_all(&header) {
            // no clip is better than an empty one; a device or a link stays
            if std::fs::symlink_metadata(path).is_ok_and(|file| file.is_file()) {
                let _ = std::fs::remove_file(path);
            }
            return Err(io(error));
        }
        Ok(AviWriter {
            path: path.to_owned(),
            file,
            index: Vec::new(),
            written: header.len() as u64,
            largest: 0,
            size,
            fps,
            chunk: Vec::new(),
        })
    }

    /// Frames so far, repeated ones included.
    pub fn frames(&self) -> u64 {
        self.index.len() as u64
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// If the write fails, or the clip has reached 2 GiB.
    pub fn write_jpeg(&mut self, jpeg: &[u8]) -> Result<(), AviError> {
        let len = jpeg.len() as u32;
        // room for the frame and for all of the index
        if self.written + u64::from(len) + 16 * (self.frames() + 2) > MAX_FILE {
            return Err(AviError::Full {
                path: self.path.clone(),
            });
        }
        self.chunk.clear();
        self.chunk.extend_from_slice(b"00dc");
        push32(&mut self.chunk, &[len]);
        self.chunk.extend_from_slice(jpeg);
        self.chunk.resize(self.chunk.len().next_multiple_of(2), 0);
        if let Err(error) = self.file.write_all(&self.chunk) {
            self.take_back();
            return Err(self.io(error));
        }
        let offset = (self.written - MOVI_NAME) as u32;
        self.index.push(IndexEntry { offset, len });
        self.written += self.chunk.len() as u64;
        self.largest = self.largest.max(len);
        Ok(())
    }

    /// Shows the last frame for one more: an empty chunk, as players and ffmpeg understand it.
    ///
    /// # Errors
    /// As [`AviWriter::write_jpeg`].
    pub fn repeat(&mut self) -> Result<(), AviError> {
        self.write_jpeg(&[])
    }

    /// Removes the remains of a write that failed.
    fn take_back(&mut self) {
        let cut = self.file.set_len(self.written);
        // a file that cannot be cut is written over from here
        let moved = self.file.seek(SeekFrom::Start(self.written));
        if let Err(error) = cut.and(moved) {
            tracing::debug!("'{}': {error}", self.path.display());
        }
    }

    /// Writes the index and the final lengths; `fps` replaces the rate of [`AviWriter::create`].
    ///
    /// # Errors
    /// If the write fails. Without room for the index, the clip has its lengths and lacks the index.
    pub fn finish(mut self, fps: Option<f64>) -> Result<(), AviError> {
        let mut index = Vec::with_capacity(8 + 16 * self.index.len());
        index.extend_from_slice(b"idx1");
        push32(&mut index, &[16 * self.index.len() as u32]);
        for &IndexEntry { offset, len } in &self.index {
            index.extend_from_slice(b"00dc");
            // AVIIF_KEYFRAME: every JPEG is a key frame
            let flags = if len > 0 { 0x10 } else { 0 };
            push32(&mut index, &[flags, offset, len]);
        }
        let indexed = self.file.write_all(&index);
        if indexed.is_err() {
            self.take_back();
            index.clear();
        }
        let lengths = Lengths {
            riff: (self.written + index.len() as u64 - 8) as u32,
            movi: (self.written - MOVI_NAME) as u32,
            frames: self.index.len() as u32,
            largest: self.largest,
            indexed: !index.is_empty(),
        };
        let header = headers(self.size, fps.unwrap_or(self.fps), &lengths);
        let start = self.file.seek(SeekFrom::Start(0));
        let written = start.and_then(|_| self.file.write_all(&header));
        written.and(indexed).map_err(|e| self.io(e))
    }

    fn io(&self, source: std::io::Error) -> AviError {
        AviError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// What the headers say of the whole clip; all 0 before its end.
#[derive(Default)]
struct Lengths {
    /// Bytes of the file behind this length.
    riff: u32,
    /// Bytes from the name `movi` to the end of the last frame.
    movi: u32,
    frames: u32,
    /// Bytes of the largest frame.
    largest: u32,
    indexed: bool,
}

/// The bytes before the first frame: RIFF, hdrl with one video stream, and the header of movi.
fn headers(size: Size, fps: f64, lengths: &Lengths) -> Vec<u8> {
    let &Lengths {
        frames, largest, ..
    } = lengths;
    let scale = 1000;
    let rate = (fps.clamp(0.001, 1e6) * f64::from(scale)).round() as u32;
    let mut out = Vec::with_capacity(MOVI_NAME as usize + 4);
    out.extend_from_slice(b"RIFF");
    push32(&mut out, &[lengths.riff]);
    out.extend_from_slice(b"AVI LIST");
    push32(&mut out, &[4 + 64 + 124]);
    out.extend_from_slice(b"hdrlavih");
    let microseconds = (1e6 / fps.max(0.001)).round() as u32;
    // AVIMAINHEADER; flag 0x10 = AVIF_HASINDEX
    let flags = if lengths.indexed { 0x10 } else { 0 };
    push32(
        &mut out,
        &[
            56,
            microseconds,
            0,
            0,
            flags,
            frames,
            0,
            1,
            largest,
            size.width,
            size.height,
            0,
            0,
            0,
            0,
        ],
    );
    out.extend_from_slice(b"LIST");
    push32(&mut out, &[4 + 64 + 48]);
    out.extend_from_slice(b"strlstrh");
    push32(&mut out, &[56]);
    out.extend_from_slice(b"vidsMJPG");
    push32(
        &mut out,
        &[0, 0, 0, scale, rate, 0, frames, largest, u32::MAX, 0, 0],
    );
    push32(&mut out, &[(size.width & 0xffff) | (size.height << 16)]);
    out.extend_from_slice(b"strf");
    // BITMAPINFOHEADER: one plane of 24 bits
    push32(&mut out, &[40, 40, size.width, size.height, 1 | (24 << 16)]);
    out.extend_from_slice(b"MJPG");
    push32(&mut out, &[3 * size.area() as u32, 0, 0, 0, 0]);
    out.extend_from_slice(b"LIST");
    push32(&mut out, &[lengths.movi.max(4)]);
    debug_assert_eq!(out.len() as u64, MOVI_NAME);
    out.extend_from_slice(b"movi");
    out
}

fn push32(out: &mut Vec<u8>, values: &[u32]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

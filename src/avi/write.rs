//! The writer.

use super::AviError;
use crate::geometry::Size;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Maximum length of a file: RIFF lengths have 32 bits, which many players read as signed.
const MAX_FILE: u64 = (2 << 30) - (1 << 20);

/// Writes JPEGs as a clip. [`AviWriter::finish`] fills in the lengths and appends the index. A clip
/// that was not finished lacks them, but [`AviReader`] can read its frames.
pub struct AviWriter {
    path: PathBuf,
    file: BufWriter<File>,
    index: Vec<IndexEntry>,
    written: u64,
    largest: u32,
    size: Size,
    fps: f64,
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
        let mut file = BufWriter::new(File::create(path).map_err(io)?);
        let header = headers(size, fps, 0, 0, 0);
        file.write_all(&header).map_err(io)?;
        Ok(AviWriter {
            path: path.to_owned(),
            file,
            index: Vec::new(),
            written: header.len() as u64,
            largest: 0,
            size,
            fps,
        })
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// If the write fails, or the clip has reached 2 GiB.
    pub fn write_jpeg(&mut self, jpeg: &[u8]) -> Result<(), AviError> {
        let len = jpeg.len() as u32;
        if self.written + u64::from(len) + 16 * self.index.len() as u64 > MAX_FILE {
            return Err(AviError::Full {
                path: self.path.clone(),
            });
        }
        let offset = (self.written - MOVI_NAME) as u32;
        self.index.push(IndexEntry { offset, len });
        let pad = &[0u8][..jpeg.len() % 2];
        for part in [b"00dc".as_slice(), &len.to_le_bytes(), jpeg, pad] {
            self.file.write_all(part).map_err(|e| self.io(e))?;
        }
        self.written += 8 + jpeg.len() as u64 + pad.len() as u64;
        self.largest = self.largest.max(len);
        Ok(())
    }

    /// Writes the index and the final lengths; `fps` replaces the rate of [`AviWriter::create`].
    ///
    /// # Errors
    /// If the write fails.
    pub fn finish(mut self, fps: Option<f64>) -> Result<(), AviError> {
        let fps = fps.unwrap_or(self.fps);
        let movi_len = (self.written - MOVI_NAME) as u32;
        let mut index = Vec::with_capacity(8 + 16 * self.index.len());
        index.extend_from_slice(b"idx1");
        push32(&mut index, &[16 * self.index.len() as u32]);
        for &IndexEntry { offset, len } in &self.index {
            index.extend_from_slice(b"00dc");
            push32(&mut index, &[0x10, offset, len]); // AVIIF_KEYFRAME: every JPEG is a key frame
        }
        let frames = self.index.len() as u32;
        let mut header = headers(self.size, fps, frames, self.largest, movi_len);
        let riff_len = (self.written + index.len() as u64 - 8) as u32;
        header[4..8].copy_from_slice(&riff_len.to_le_bytes());
        let written = (|| {
            // overwrite the remains of a frame whose write failed
            self.file.seek(SeekFrom::Start(self.written))?;
            self.file.write_all(&index)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)?;
            self.file.flush()
        })();
        written.map_err(|e| self.io(e))
    }

    fn io(&self, source: std::io::Error) -> AviError {
        AviError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// The bytes before the first frame: RIFF, hdrl with one video stream, and the header of movi.
fn headers(size: Size, fps: f64, frames: u32, largest: u32, movi_len: u32) -> Vec<u8> {
    let scale = 1000;
    let rate = (fps.clamp(0.001, 1e6) * f64::from(scale)).round() as u32;
    let mut out = Vec::with_capacity(MOVI_NAME as usize + 4);
    out.extend_from_slice(b"RIFF\0\0\0\0AVI LIST");
    push32(&mut out, &[4 + 64 + 124]);
    out.extend_from_slice(b"hdrlavih");
    let microseconds = (1e6 / fps.max(0.001)).round() as u32;
    // AVIMAINHEADER; flag 0x10 = AVIF_HASINDEX
    push32(
        &mut out,
        &[
            56,
            microseconds,
            0,
            0,
            0x10,
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
    push32(&mut out, &[movi_len.max(4)]);
    debug_assert_eq!(out.len() as u64, MOVI_NAME);
    out.extend_from_slice(b"movi");
    out
}

fn push32(out: &mut Vec<u8>, values: &[u32]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

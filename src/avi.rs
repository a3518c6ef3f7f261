//! Reader and writer of Motion-JPEG in AVI, the video format that needs no other program.
//!
//! AVI is RIFF: chunks of a four-byte name, a little-endian length and data padded to an even
//! length. A clip is `RIFF('AVI ' LIST('hdrl' …headers) LIST('movi' 00dc…) idx1)`.
//! Source: Microsoft, "AVI RIFF File Reference". Long clips have further chunks
//! `RIFF('AVIX' LIST('movi' …))` ("OpenDML AVI File Format Extensions"), which are read but not
//! written.

use crate::geometry::Size;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Maximum length of a chunk, bytes. A larger one means a damaged file, not a JPEG.
const MAX_CHUNK: u32 = 64 << 20;
/// Maximum length of a file: RIFF lengths have 32 bits, which many players read as signed.
const MAX_FILE: u64 = (2 << 30) - (1 << 20);

/// A clip that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AviError {
    /// The file could not be read or written.
    #[error("cannot read or write the clip '{}'", path.display())]
    Io {
        /// The clip.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not an AVI clip, or a damaged one.
    #[error("clip '{}' at byte {offset}: expected {expected}, got {got}", path.display())]
    Format {
        /// The clip.
        path: PathBuf,
        /// Position in the file, bytes.
        offset: u64,
        /// The expected content.
        expected: &'static str,
        /// The content found.
        got: String,
    },
    /// An AVI clip with another codec.
    #[error(
        "clip '{}' holds '{codec}' video, not Motion-JPEG: convert it with \
         'ffmpeg -i {} -c:v mjpeg -q:v 4 -an out.avi'", path.display(), path.display()
    )]
    Codec {
        /// The clip.
        path: PathBuf,
        /// The four-character code.
        codec: String,
    },
    /// The clip would exceed the maximum size of an AVI file.
    #[error("clip '{}' has reached 2 GiB, the maximum of an AVI file: save to a folder instead", path.display())]
    Full {
        /// The clip.
        path: PathBuf,
    },
}

/// Reads the JPEGs of a clip one after the other.
pub struct AviReader {
    path: PathBuf,
    file: BufReader<File>,
    size: Size,
    fps: f64,
    /// End of the current `movi` list.
    end: u64,
    /// Length of the file.
    len: u64,
}

impl AviReader {
    /// Opens a clip and reads its headers.
    ///
    /// # Errors
    /// If the file cannot be read, is not an AVI file, or holds another codec.
    pub fn open(path: &Path) -> Result<AviReader, AviError> {
        let io = |source| AviError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut reader = AviReader {
            path: path.to_owned(),
            file: BufReader::new(file),
            size: Size::default(),
            fps: 0.0,
            end: 0,
            len,
        };
        reader.read_headers()?;
        Ok(reader)
    }

    /// Frame size from the header, in pixels.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Frames per second from the header.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// Reads the next frame's JPEG into `jpeg`; `false` at the end of the clip.
    ///
    /// # Errors
    /// If the clip is truncated or damaged.
    pub fn next_jpeg(&mut self, jpeg: &mut Vec<u8>) -> Result<bool, AviError> {
        loop {
            let offset = self.offset()?;
            if offset + 8 > self.end {
                if self.next_movi()? {
                    continue;
                }
                return Ok(false);
            }
            let (name, len) = self.chunk("a frame chunk (is the clip cut short?)")?;
            if &name == b"LIST" {
                self.skip(4)?; // a 'rec ' list groups frames: continue inside
            } else if &name[2..] == b"dc" || &name[2..] == b"db" {
                let start = self.offset()?;
                if start + u64::from(len) > self.len {
                    // before room is made for it: a damaged length may be 64 MiB
                    let expected = "a whole frame (is the clip cut short?)";
                    return Err(self.format(start, expected, "the end of the file".to_owned()));
                }
                jpeg.resize(len as usize, 0);
                self.fill(jpeg, "a whole frame (is the clip cut short?)")?;
                self.skip(u64::from(len % 2))?;
                if len > 0 {
                    return Ok(true); // an empty chunk repeats the previous frame
                }
            } else {
                self.skip(u64::from(len) + u64::from(len % 2))?;
            }
        }
    }

    /// Moves to the next list of frames, in a further RIFF chunk; `false` if there is none.
    fn next_movi(&mut self) -> Result<bool, AviError> {
        let behind = self.end.saturating_sub(self.offset()?);
        self.skip(behind)?;
        while self.offset()? + 12 <= self.len {
            let mut head = [0; 8];
            self.fill(&mut head, "a chunk")?;
            let (start, len) = (self.offset()?, le32(&head, 4));
            match &head[..4] {
                b"RIFF" => self.skip(4)?, // 'AVIX': continue inside
                b"LIST" => {
                    let mut kind = [0; 4];
                    self.fill(&mut kind, "a list type")?;
                    if &kind == b"movi" {
                        self.end = self.end_of_movi(start, len);
                        return Ok(true);
                    }
                    self.skip(u64::from(len.saturating_sub(4)) + u64::from(len % 2))?;
                }
                b"idx1" | b"JUNK" => self.skip(u64::from(len) + u64::from(len % 2))?,
                _ => break, // not a chunk of a clip: other data after its end
            }
        }
        Ok(false)
    }

    /// End of a `movi` list. A clip that was not finished has no length: its list ends with the file.
    fn end_of_movi(&self, start: u64, len: u32) -> u64 {
        match len {
            0..=4 => self.len,
            _ => start + u64::from(len),
        }
    }

    fn read_headers(&mut self) -> Result<(), AviError> {
        let mut riff = [0; 12];
        self.fill(&mut riff, "an AVI header of 12 bytes")?;
        if &riff[..4] != b"RIFF" || &riff[8..] != b"AVI " {
            return Err(self.format(0, "'RIFF…AVI '", printable(&riff)));
        }
        loop {
            let (name, len) = self.chunk("a 'movi' list")?;
            let start = self.offset()?;
            let mut kind = [0; 4];
            if &name == b"LIST" {
                self.fill(&mut kind, "a list type")?;
            }
            match (&name, &kind) {
                (b"LIST", b"movi") => {
                    self.end = self.end_of_movi(start, len);
                    return self.check_headers();
                }
                // headers are nested: enter the lists, read the two chunks that are needed
                (b"LIST", b"hdrl" | b"strl") => {}
                (b"strh", _) => self.stream_header(len)?,
                (b"strf", _) if self.fps > 0.0 && self.size == Size::default() => {
                    self.stream_format(len)?
                }
                (b"LIST", _) => self.skip(u64::from(len.saturating_sub(4)) + u64::from(len % 2))?,
                _ => self.skip(u64::from(len) + u64::from(len % 2))?,
            }
        }
    }

    /// AVISTREAMHEADER: type at 0, scale at 20, rate at 24.
    fn stream_header(&mut self, len: u32) -> Result<(), AviError> {
        let header = self.header_chunk(len, 28, "a stream header")?;
        let (scale, rate) = (le32(&header, 20), le32(&header, 24));
        if &header[..4] == b"vids" && scale > 0 {
            self.fps = f64::from(rate) / f64::from(scale);
        }
        Ok(())
    }

    /// BITMAPINFOHEADER: width at 4, height at 8, codec at 16.
    fn stream_format(&mut self, len: u32) -> Result<(), AviError> {
        let format = self.header_chunk(len, 20, "a stream format")?;
        self.size = Size::new(le32(&format, 4), (le32(&format, 8) as i32).unsigned_abs());
        if !format[16..20].eq_ignore_ascii_case(b"MJPG") {
            return Err(AviError::Codec {
                path: self.path.clone(),
                codec: printable(&format[16..20]),
            });
        }
        Ok(())
    }

    fn header_chunk(
        &mut self,
        len: u32,
        min: u32,
        what: &'static str,
    ) -> Result<Vec<u8>, AviError> {
        if !(min..=4096).contains(&len) {
            let offset = self.offset()?;
            return Err(self.format(offset, what, format!("a chunk of {len} bytes")));
        }
        let mut bytes = vec![0; (len + len % 2) as usize];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn check_headers(&mut self) -> Result<(), AviError> {
        if self.size.area() == 0 || self.fps <= 0.0 {
            let got = format!("{} at {} frames per second", self.size, self.fps);
            return Err(self.format(0, "headers of a video stream", got));
        }
        Ok(())
    }

    /// Name and length of the next chunk.
    fn chunk(&mut self, expected: &'static str) -> Result<([u8; 4], u32), AviError> {
        let offset = self.offset()?;
        let mut head = [0; 8];
        self.fill(&mut head, expected)?;
        let len = le32(&head, 4);
        let name = [head[0], head[1], head[2], head[3]];
        if &name != b"LIST" && len > MAX_CHUNK {
            return Err(self.format(
                offset,
                expected,
                format!("'{}' of {len} bytes", printable(&name)),
            ));
        }
        Ok((name, len))
    }

    fn fill(&mut self, bytes: &mut [u8], expected: &'static str) -> Result<(), AviError> {
        let offset = self.offset()?;
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.format(offset, expected, "the end of the file".to_owned()))
            }
            Err(source) => Err(self.io(source)),
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), AviError> {
        self.file
            .seek_relative(bytes as i64)
            .map_err(|e| self.io(e))
    }

    fn offset(&mut self) -> Result<u64, AviError> {
        self.file.stream_position().map_err(|e| self.io(e))
    }

    fn io(&self, source: std::io::Error) -> AviError {
        AviError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn format(&self, offset: u64, expected: &'static str, got: String) -> AviError {
        AviError::Format {
            path: self.path.clone(),
            offset,
            expected,
            got,
        }
    }
}

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

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(64, 48);

    fn clip(dir: &Path, frames: &[&[u8]]) -> PathBuf {
        let path = dir.join("clip.avi");
        let mut writer = AviWriter::create(&path, SIZE, 12.5).unwrap();
        frames
            .iter()
            .for_each(|frame| writer.write_jpeg(frame).unwrap());
        writer.finish(None).unwrap();
        path
    }

    fn frames(path: &Path) -> Result<Vec<Vec<u8>>, AviError> {
        let mut reader = AviReader::open(path)?;
        let (mut all, mut jpeg) = (Vec::new(), Vec::new());
        while reader.next_jpeg(&mut jpeg)? {
            all.push(jpeg.clone());
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = clip(dir.path(), &[b"odd", b"even", b"x"]);
        let reader = AviReader::open(&path).unwrap();
        assert_eq!((reader.size(), reader.fps()), (SIZE, 12.5));
        assert_eq!(
            frames(&path).unwrap(),
            [b"odd".to_vec(), b"even".to_vec(), b"x".to_vec()]
        );
    }

    #[test]
    fn a_clip_that_was_never_finished_has_its_frames() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.avi");
        let mut writer = AviWriter::create(&path, SIZE, 12.5).unwrap();
        writer.write_jpeg(b"one").unwrap();
        writer.write_jpeg(b"two").unwrap();
        drop(writer); // flushes its buffer, but does not write the lengths
        assert_eq!(frames(&path).unwrap(), [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_long_clip_goes_on_in_further_riff_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = clip(dir.path(), &[b"odd", b"even"]);
        let mut bytes = std::fs::read(&path).unwrap();
        for frame in [b"more", b"last"] {
            bytes.extend_from_slice(b"RIFF\x1c\0\0\0AVIXLIST\x10\0\0\0movi00dc\x04\0\0\0");
            bytes.extend_from_slice(frame);
        }
        bytes.extend_from_slice(b"what some program left behind it");
        std::fs::write(&path, bytes).unwrap();
        let all: [&[u8]; 4] = [b"odd", b"even", b"more", b"last"];
        assert_eq!(frames(&path).unwrap(), all);
    }

    #[test]
    fn a_rate_that_is_known_at_the_end_replaces_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.avi");
        let mut writer = AviWriter::create(&path, SIZE, 30.0).unwrap();
        writer.write_jpeg(b"x").unwrap();
        writer.finish(Some(9.5)).unwrap();
        assert_eq!(AviReader::open(&path).unwrap().fps(), 9.5);
    }

    #[test]
    fn every_cut_is_an_error_or_fewer_frames_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let whole = std::fs::read(clip(dir.path(), &[b"first frame", b"second"])).unwrap();
        let cut = dir.path().join("cut.avi");
        for len in 0..whole.len() {
            std::fs::write(&cut, &whole[..len]).unwrap();
            if let Ok(read) = frames(&cut) {
                assert_eq!(read.len(), 2, "cut at {len}");
            }
        }
        std::fs::write(&cut, &whole[..250]).unwrap();
        let error = frames(&cut).unwrap_err().to_string();
        assert!(error.contains("the end of the file"), "{error}");
    }

    #[test]
    fn another_codec_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = clip(dir.path(), &[b"x"]);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(4).rposition(|w| w == b"MJPG").unwrap();
        bytes[at..at + 4].copy_from_slice(b"XVID");
        std::fs::write(&path, bytes).unwrap();
        let error = frames(&path).unwrap_err().to_string();
        assert!(
            error.contains("'XVID'") && error.contains("ffmpeg"),
            "{error}"
        );
    }
}

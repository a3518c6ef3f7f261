//! The reader.

use super::AviError;
use crate::geometry::Size;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// Maximum length of a chunk, bytes. A larger one means a damaged file, not a JPEG.
const MAX_CHUNK: u32 = 64 << 20;

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

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

//! The reader. Clips in the wild are not as the standard has them: a pipe's lengths were never
//! filled in, chunks of odd length lack their padding byte, NUL bytes stand between chunks, rates
//! and sizes are 0. So a chunk is taken where the one before it ends, and where there is none, the
//! next is searched, as ffmpeg does. The length of a list is not used to find anything.

use super::AviError;
use crate::geometry::Size;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Maximum length of a frame, bytes. A larger one means a damaged length, not a JPEG.
const MAX_FRAME: u64 = 64 << 20;
/// Lengths of lists from here on are no lengths but what a writer that cannot seek leaves behind.
const NO_LENGTH: u32 = 0x7fff_0000;
/// Longest side of a JPEG, pixels.
const MAX_SIDE: u32 = 65_535;
/// Frame rates that are believed; others are as good as none.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;
/// Bytes that tell whether a chunk begins here: its header, and a list's type or a JPEG's start.
const HEAD: usize = 12;
/// Codecs whose frames are ordinary JPEGs, by the tags of different makers (ffmpeg's list in
/// libavformat/riff.c without those that are not, such as lossless ones).
const MOTION_JPEG: [&[u8; 4]; 18] = [
    b"MJPG", b"AVI1", b"AVI2", b"JPEG", b"IJPG", b"DMB1", b"MJPA", b"JR24", b"CJPG", b"SLMJ",
    b"ACDV", b"QIVG", b"IJLV", b"MVJP", b"MTSJ", b"ZJPG", b"MMJP", b"MSC2",
];

/// Reads the JPEGs of a clip's first video stream one after the other.
pub struct AviReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Position of `file`.
    at: u64,
    /// Length of the file.
    len: u64,
    /// Where the next chunk is expected.
    next: u64,
    size: Size,
    fps: Option<f64>,
    /// Number of the video stream in the names of its chunks.
    stream: usize,
    streams: usize,
    /// Chunks of the stream so far, empty ones included: each lasts one frame.
    ticks: u64,
    /// End of the current `movi` list, where it has a length.
    end: Option<u64>,
    /// An index was seen, which is written last: nothing is missing.
    indexed: bool,
}

/// A chunk's header.
#[derive(Clone, Copy)]
struct Chunk {
    name: [u8; 4],
    /// Type of a list or RIFF chunk; else the first bytes of its data.
    kind: [u8; 4],
    /// Position of the header.
    at: u64,
    len: u32,
}

/// What the headers say.
#[derive(Default)]
struct Headers {
    fps: Option<f64>,
    size: Size,
    streams: Vec<Stream>,
}

/// One stream's headers, in whatever order they come.
#[derive(Default)]
struct Stream {
    /// `vids`, `auds` and others; `None` without a stream header.
    kind: Option<[u8; 4]>,
    handler: [u8; 4],
    fps: Option<f64>,
    /// Codec and size of a video.
    format: Option<([u8; 4], Size)>,
}

impl AviReader {
    /// Opens a clip and reads its headers.
    ///
    /// # Errors
    /// If the file cannot be read, is not an AVI file, or holds no video or another codec.
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
            at: 0,
            len,
            next: 0,
            size: Size::default(),
            fps: None,
            stream: 0,
            streams: 0,
            ticks: 0,
            end: None,
            indexed: false,
        };
        reader.read_headers()?;
        Ok(reader)
    }

    /// Frame size from the header, in pixels; 0 x 0 where it has none.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Frames per second from the header, where it has them.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// Time of the last JPEG within the clip, where the clip has a rate.
    pub fn position(&self) -> Option<Duration> {
        let ticks = self.ticks.checked_sub(1)?;
        Duration::try_from_secs_f64(ticks as f64 / self.fps?).ok()
    }

    /// Reads the next frame's JPEG into `jpeg`; `false` at the end of the clip. The last frame of a
    /// clip that was cut short is what there is of it.
    ///
    /// # Errors
    /// If the file cannot be read, or ends before its header says.
    pub fn next_jpeg(&mut self, jpeg: &mut Vec<u8>) -> Result<bool, AviError> {
        while let Some(chunk) = self.next_chunk()? {
            self.next = match (&chunk.name, &chunk.kind) {
                (b"LIST", b"movi") => self.begin_frames(&chunk),
                // a 'rec ' list groups frames; long clips go on in further RIFF chunks
                (b"LIST", b"rec ") | (b"RIFF", _) => chunk.data() + 4,
                // its entries look like chunks of 16 bytes: with a wrong length there is no way on
                (b"idx1", _) if chunk.end() > self.len => break,
                (b"idx1", _) => {
                    self.indexed = true;
                    chunk.end()
                }
                (name, _) if self.is_frame(name) => {
                    self.next = self.end_of_frame(&chunk)?;
                    self.ticks += 1;
                    let len = (self.next - chunk.data()).min(MAX_FRAME);
                    jpeg.resize(len as usize, 0);
                    let read = self.read_at(chunk.data(), jpeg)?;
                    jpeg.truncate(read); // the file may have become shorter since it was opened
                    if !jpeg.is_empty() {
                        return Ok(true);
                    }
                    continue; // an empty chunk repeats the previous frame
                }
                _ => self.behind(&chunk),
            };
        }
        if self.end.is_none_or(|end| end <= self.len) || self.indexed {
            return Ok(false);
        }
        let expected = "further frames (is the clip cut short?)";
        Err(self.format(self.len, expected, "the end of the file".to_owned()))
    }

    fn read_headers(&mut self) -> Result<(), AviError> {
        let mut riff = [0; HEAD];
        let got = match self.read_at(0, &mut riff)? {
            HEAD => format!("'{}'", super::printable(&riff)),
            len => format!("a file of {len} bytes"),
        };
        if &riff[..4] != b"RIFF" || &riff[8..11] != b"AVI" {
            return Err(self.format(0, "'RIFF…AVI '", got));
        }
        self.next = HEAD as u64;
        let mut headers = Headers::default();
        while let Some(chunk) = self.next_chunk()? {
            let mut bytes = [0; 40];
            self.read_at(chunk.data(), &mut bytes)?;
            self.next = match (&chunk.name, &chunk.kind) {
                (b"LIST", b"movi") => {
                    self.next = self.begin_frames(&chunk);
                    return self.choose(&headers);
                }
                // headers are nested: enter the lists
                (b"LIST", b"hdrl") => chunk.data() + 4,
                (b"LIST", b"strl") => {
                    headers.streams.push(Stream::default());
                    chunk.data() + 4
                }
                (name, _) => {
                    headers.take(name, &bytes);
                    self.behind(&chunk)
                }
            };
        }
        let got = "the end of the file".to_owned();
        Err(self.format(self.len, "a 'movi' list", got))
    }

    /// Chooses the first video stream.
    fn choose(&mut self, headers: &Headers) -> Result<(), AviError> {
        let streams = &headers.streams;
        let is_video = |stream: &Stream| {
            stream
                .kind
                .is_some_and(|kind| [b"vids", b"iavs"].contains(&&kind))
        };
        let Some(number) = streams.iter().position(is_video) else {
            return Err(match streams.iter().any(|stream| stream.kind.is_some()) {
                true => AviError::NoVideo {
                    path: self.path.clone(),
                },
                false => self.format(0, "headers of a video stream", "none".to_owned()),
            });
        };
        let stream = &streams[number];
        let (codec, size) = stream.format.unwrap_or_default();
        let codec = if codec == [0; 4] {
            stream.handler
        } else {
            codec
        };
        let is_codec = |known: &&[u8; 4]| codec.eq_ignore_ascii_case(*known);
        if !MOTION_JPEG.iter().any(is_codec) {
            return Err(AviError::Codec {
                path: self.path.clone(),
                codec: match codec {
                    [0, 0, 0, 0] => "uncompressed".to_owned(),
                    _ => super::printable(&codec),
                },
            });
        }
        self.fps = stream.fps.or(headers.fps);
        self.size = if size.area() > 0 { size } else { headers.size };
        (self.stream, self.streams) = (number, streams.len());
        Ok(())
    }

    /// Begins a list of frames; returns the position of its first chunk.
    fn begin_frames(&mut self, list: &Chunk) -> u64 {
        let has_length = (5..NO_LENGTH).contains(&list.len);
        self.end = has_length.then(|| list.end());
        self.indexed = false;
        list.data() + 4
    }

    /// Whether a chunk of this name holds a frame of the stream: `00dc`, `00db` or, from some
    /// writers, other letters. Where there is one stream, its number does not matter.
    fn is_frame(&self, name: &[u8; 4]) -> bool {
        let other = matches!(&name[2..], b"wb" | b"tx" | b"sb" | b"pc");
        let stream = stream_of(name).filter(|_| !other);
        stream.is_some_and(|number| number == self.stream || self.streams == 1)
    }

    /// End of a frame's data. Where its length is wrong, or the clip is cut short, the frame ends
    /// with the next chunk or with the file.
    fn end_of_frame(&mut self, chunk: &Chunk) -> Result<u64, AviError> {
        if chunk.end() <= self.len && u64::from(chunk.len) <= MAX_FRAME {
            return Ok(chunk.end());
        }
        let next = self.search(chunk.data(), chunk.data())?;
        Ok(next.map_or(self.len.max(chunk.data()), |next| next.at))
    }

    /// Position behind a chunk that is passed over; where its length is wrong, within it.
    fn behind(&self, chunk: &Chunk) -> u64 {
        match chunk.end() <= self.len {
            true => chunk.end(),
            false => chunk.data(),
        }
    }

    /// The chunk at or behind [`AviReader::next`]; `None` if there is no further one.
    fn next_chunk(&mut self) -> Result<Option<Chunk>, AviError> {
        let from = self.next;
        let mut head = [0; HEAD + 1];
        let read = self.read_at(from, &mut head)?;
        // a chunk of odd length is followed by a padding byte, or not
        let here = Chunk::parse(&head[..read], from);
        let padded = Chunk::parse(head.get(1..read).unwrap_or(&[]), from + 1);
        let found = [here, padded].into_iter().flatten();
        let known = found.clone().find(|chunk| self.is_known(chunk));
        match known.or_else(|| found.clone().find(|chunk| self.is_plausible(chunk))) {
            Some(chunk) => Ok(Some(chunk)),
            None => self.search(from, u64::MAX),
        }
    }

    /// Searches the next chunk from a position that has none. Behind NUL bytes alone any will do;
    /// in other data, or from `sure` on, only one that can hardly be chance.
    fn search(&mut self, from: u64, sure: u64) -> Result<Option<Chunk>, AviError> {
        let mut window = [0; 8 << 10];
        let (mut at, mut only_nul) = (from, true);
        loop {
            let read = self.read_at(at, &mut window)?;
            let ends = at + read as u64 >= self.len || read < window.len();
            // what begins in the last bytes is seen whole in the next window
            let usable = if ends { read } else { read + 1 - HEAD };
            for (i, &byte) in window[..usable].iter().enumerate() {
                if byte == 0 {
                    continue;
                }
                let here = at + i as u64;
                let head = &window[i..read.min(i + HEAD)];
                let found =
                    Chunk::parse(head, here).filter(|chunk| match only_nul && here < sure {
                        true => self.is_plausible(chunk),
                        false => self.is_certain(chunk),
                    });
                if found.is_some() {
                    return Ok(found);
                }
                only_nul = false;
            }
            if ends {
                return Ok(None);
            }
            at += usable as u64;
        }
    }

    /// Whether a header of a kind that matters stands where one is expected.
    fn is_known(&self, chunk: &Chunk) -> bool {
        match &chunk.name {
            b"LIST" | b"RIFF" => chunk.kind.iter().all(|byte| (b' '..=b'~').contains(byte)),
            b"avih" | b"strh" | b"strf" | b"idx1" => true,
            name => self.is_frame(name),
        }
    }

    /// Whether any header stands where one is expected.
    fn is_plausible(&self, chunk: &Chunk) -> bool {
        let is_name = chunk.name.iter().all(is_in_name);
        self.is_known(chunk) || (is_name && chunk.end() <= self.len)
    }

    /// Whether bytes in the middle of other data are a header. A frame must begin as a JPEG does.
    fn is_certain(&self, chunk: &Chunk) -> bool {
        let fits = chunk.end() <= self.len;
        match (&chunk.name, &chunk.kind) {
            (b"LIST", b"movi" | b"rec " | b"hdrl" | b"strl") => true,
            (b"RIFF", kind) => kind.starts_with(b"AVI"),
            (b"strh" | b"strf", _) => fits && (20..4096).contains(&chunk.len),
            (b"idx1", _) => fits && chunk.len > 0 && chunk.len.is_multiple_of(16),
            (name, kind) => fits && self.is_frame(name) && kind.starts_with(&[0xff, 0xd8]),
        }
    }

    /// Reads from a position; fewer bytes than asked for at the end of the file alone.
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> Result<usize, AviError> {
        let io = |source| AviError::Io {
            path: self.path.clone(),
            source,
        };
        let by = at.wrapping_sub(self.at).cast_signed();
        self.file.seek_relative(by).map_err(io)?;
        self.at = at;
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read(&mut bytes[read..]) {
                Ok(0) => break,
                Ok(len) => read += len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
            self.at = at + read as u64;
        }
        Ok(read)
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

impl Chunk {
    /// `None` from fewer bytes than a header has.
    fn parse(head: &[u8], at: u64) -> Option<Chunk> {
        let (name, rest) = head.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let mut kind = [0; 4];
        let known = rest.len().min(4);
        kind[..known].copy_from_slice(&rest[..known]);
        Some(Chunk {
            name: *name,
            kind,
            at,
            len: u32::from_le_bytes(*len),
        })
    }

    /// Position of its data.
    fn data(&self) -> u64 {
        self.at + 8
    }

    /// Position behind its data, without padding.
    fn end(&self) -> u64 {
        self.data() + u64::from(self.len)
    }
}

impl Headers {
    /// Takes up a chunk, of which `bytes` are the first.
    fn take(&mut self, name: &[u8; 4], bytes: &[u8; 40]) {
        let number = |at| f64::from(le32(bytes, at));
        match name {
            // AVIMAINHEADER: microseconds of a frame at 0, width at 32, height at 36
            b"avih" => {
                self.fps = rate(1e6, number(0));
                self.size = size_of(le32(bytes, 32), le32(bytes, 36));
            }
            // AVISTREAMHEADER: type at 0, codec at 4, scale at 20, rate at 24
            b"strh" => {
                let stream = self.stream_without(|stream| stream.kind.is_some());
                stream.kind = Some(four(bytes, 0));
                stream.handler = four(bytes, 4);
                stream.fps = rate(number(24), number(20));
            }
            // BITMAPINFOHEADER: width at 4, height at 8 (negative: top row first), codec at 16
            b"strf" => {
                let height = le32(bytes, 8).cast_signed().unsigned_abs();
                let format = (four(bytes, 16), size_of(le32(bytes, 4), height));
                let stream = self.stream_without(|stream| stream.format.is_some());
                stream.format = Some(format);
            }
            _ => {}
        }
    }

    /// The stream that a header belongs to: the last one, or a new one where that `has` such a
    /// header.
    fn stream_without(&mut self, has: impl Fn(&Stream) -> bool) -> &mut Stream {
        if self.streams.last().is_none_or(has) {
            self.streams.push(Stream::default());
        }
        let last = self.streams.len() - 1;
        &mut self.streams[last]
    }
}

/// Number of the stream in a chunk's name, such as `00dc`.
fn stream_of(name: &[u8; 4]) -> Option<usize> {
    let digit = |byte: u8| char::from(byte).to_digit(10);
    let letters = name[2..].iter().all(u8::is_ascii_alphabetic);
    let number = 10 * digit(name[0])? + digit(name[1])?;
    letters.then_some(number as usize)
}

fn is_in_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_')
}

fn rate(frames: f64, seconds: f64) -> Option<f64> {
    Some(frames / seconds).filter(|rate| RATES.contains(rate))
}

/// A size, or 0 x 0 for one that no JPEG can have.
fn size_of(width: u32, height: u32) -> Size {
    match width.max(height) <= MAX_SIDE {
        true => Size::new(width, height),
        false => Size::default(),
    }
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(four(bytes, at))
}

#[cfg(test)]
mod tests;

//! Finds the JPEGs in a stream: one after the other, with anything between them, such as zeros or
//! the headers of a multipart stream.
//!
//! A JPEG begins with ff d8 ff and ends with its end marker. A segment, such as the one that holds
//! a thumbnail, is passed over by its length. A JPEG that lost a part ends where the next one
//! begins: its data do not contain ff d8, and what stands behind a length that leads to no marker is
//! searched for it.

use super::segments::{COM, EOI, SOI, SOS, has_no_length};
use std::io::{self, BufRead, ErrorKind};

/// Maximum length of a JPEG in bytes; a longer one means that the stream lost its markers.
const MAX_JPEG: usize = 64 << 20;
/// Maximum length of a segment in bytes, other than comments and what applications put there: no
/// tables are longer.
const MAX_TABLES: usize = 4096;

/// Splits a stream.
#[derive(Default)]
pub(crate) struct JpegStream {
    /// Bytes that were read too far; those from `at` on come before the stream's.
    held: Vec<u8>,
    at: usize,
    /// Bytes between JPEGs so far.
    skipped: u64,
}

/// Where a JPEG ends.
enum End {
    /// Behind the last byte that was read.
    Here,
    /// At this position: what is behind it is to be read again.
    At(usize),
}

/// Where in a JPEG the next marker is.
#[derive(PartialEq)]
enum Place {
    Header,
    /// Between or behind the data of scans.
    Data,
    /// Behind a segment that is none: no other is believed.
    Broken,
}

impl JpegStream {
    /// Reads the next JPEG into `jpeg`, whole or not; `false` at the end of the stream. Reads no
    /// byte behind the JPEG's end marker.
    pub(crate) fn next(
        &mut self,
        input: &mut impl BufRead,
        jpeg: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut input = Input {
            stream: self,
            source: input,
        };
        loop {
            jpeg.clear();
            if !input.find_start()? {
                return Ok(false);
            }
            jpeg.extend([0xff, SOI, 0xff]);
            if let End::At(end) = input.read_jpeg(jpeg)? {
                input.stream.hold(&jpeg[end..]);
                jpeg.truncate(end);
            }
            if jpeg.len() > 2 {
                return Ok(true);
            }
            input.stream.skipped += 2; // the first marker alone, before another one
        }
    }

    /// Bytes so far that belong to no JPEG.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Gives bytes back, to be read again.
    fn hold(&mut self, bytes: &[u8]) {
        self.held.splice(..self.at, bytes.iter().copied());
        self.at = 0;
    }
}

/// The bytes held, then those of the source.
struct Input<'a, R> {
    stream: &'a mut JpegStream,
    source: &'a mut R,
}

impl<R: BufRead> Input<'_, R> {
    /// What can be read at once; empty at the end of the stream.
    fn available(&mut self) -> io::Result<&[u8]> {
        if self.stream.at < self.stream.held.len() {
            return Ok(&self.stream.held[self.stream.at..]);
        }
        while let Err(error) = self.source.fill_buf() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.source.fill_buf() // what it has just returned
    }

    fn consume(&mut self, count: usize) {
        if self.stream.at < self.stream.held.len() {
            self.stream.at += count;
        } else {
            self.source.consume(count);
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.available()?.first().copied())
    }

    /// Appends one byte; `None` at the end of the stream.
    fn byte(&mut self, to: &mut Vec<u8>) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            to.push(byte);
            self.consume(1);
        }
        Ok(byte)
    }

    /// Appends up to `count` bytes, fewer at the end of the stream.
    fn bytes(&mut self, mut count: usize, to: &mut Vec<u8>) -> io::Result<()> {
        while count > 0 {
            let some = self.available()?;
            if some.is_empty() {
                break;
            }
            let some = &some[..some.len().min(count)];
            let len = some.len();
            to.extend_from_slice(some);
            self.consume(len);
            count -= len;
        }
        Ok(())
    }

    /// Appends the bytes up to and including the next 0xff; `false` where there is none.
    fn until_ff(&mut self, to: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let some = self.available()?;
            let found = some.iter().position(|&byte| byte == 0xff);
            let len = found.map_or(some.len(), |at| at + 1);
            to.extend_from_slice(&some[..len]);
            self.consume(len);
            if found.is_some() || len == 0 || to.len() > MAX_JPEG {
                return Ok(found.is_some() && to.len() <= MAX_JPEG);
            }
        }
    }

    /// Skips everything up to and including ff d8 ff.
    fn find_start(&mut self) -> io::Result<bool> {
        let mut matched = 0;
        loop {
            let some = self.available()?;
            let mut used = 0;
            for &byte in some {
                used += 1;
                matched = match (matched, byte) {
                    (2, 0xff) => 3,
                    (_, 0xff) => 1,
                    (1, SOI) => 2,
                    _ => 0,
                };
                if matched == 3 {
                    break;
                }
            }
            self.consume(used);
            self.stream.skipped += used as u64;
            match (matched, used) {
                (3, _) => {
                    self.stream.skipped -= 3;
                    return Ok(true);
                }
                (_, 0) => return Ok(false),
                _ => {}
            }
        }
    }

    /// Reads a JPEG of which the first three bytes were read.
    fn read_jpeg(&mut self, jpeg: &mut Vec<u8>) -> io::Result<End> {
        let mut place = Place::Header;
        loop {
            // the last byte that was read is the first of a marker
            let Some(marker) = self.byte(jpeg)? else {
                return Ok(End::Here);
            };
            let begin = jpeg.len();
            match marker {
                // any number of them may stand before a marker
                0xff if begin <= MAX_JPEG => continue,
                EOI => return Ok(End::Here),
                SOI if self.peek()? == Some(0xff) => return Ok(End::At(begin - 2)),
                _ if place == Place::Broken || has_no_length(marker) => {}
                _ if self.segment(marker, jpeg)? => {
                    if marker == SOS {
                        place = Place::Data;
                    }
                }
                _ => {
                    let known = begin + behind_thumbnail(&jpeg[begin..]);
                    self.stream.hold(&jpeg[known..]);
                    jpeg.truncate(known);
                    place = Place::Broken;
                }
            }
            if !self.until_ff(jpeg)? {
                return Ok(End::Here);
            }
        }
    }

    /// Appends a segment from its length on. Whether it seems to be one: its length leads to a
    /// marker, not into the next JPEG, or, with the header of a scan, fits its content.
    fn segment(&mut self, marker: u8, jpeg: &mut Vec<u8>) -> io::Result<bool> {
        let begin = jpeg.len();
        self.bytes(2, jpeg)?;
        let [high, low] = jpeg[begin..] else {
            return Ok(false);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > MAX_TABLES && !matches!(marker, 0xe0..=0xef | COM) {
            return Ok(false);
        }
        self.bytes(len.saturating_sub(2), jpeg)?;
        let next = self.peek()?;
        let got = &jpeg[begin..];
        if got.len() != len || runs_into_next(marker, got, next) {
            return Ok(false);
        }
        Ok(match (marker, got) {
            // the last byte has two numbers below 14
            (SOS, [_, _, count, .., last]) => len == 6 + 2 * usize::from(*count) && *last != 0xff,
            _ => next.is_none_or(|byte| byte == 0xff),
        })
    }
}

/// Whether another JPEG begins in a segment, or at its end: this one was cut. A whole one is a
/// thumbnail, or another picture of some application.
fn runs_into_next(marker: u8, segment: &[u8], next: Option<u8>) -> bool {
    if segment.ends_with(&[0xff, SOI]) && next == Some(0xff) {
        return true;
    }
    let Some(start) = segment
        .windows(3)
        .rposition(|three| three == [0xff, SOI, 0xff])
    else {
        return false;
    };
    let may_hold_one = match marker {
        0xe0 => segment[2..].starts_with(b"JFXX"),
        _ => matches!(marker, 0xe1..=0xef | COM),
    };
    !may_hold_one || !segment[start..].windows(2).any(|pair| pair == [0xff, EOI])
}

/// Position behind the thumbnail in a segment of Exif or JFIF, given from its length on; 0 where
/// there is no whole one.
fn behind_thumbnail(segment: &[u8]) -> usize {
    let content = segment.get(2..).unwrap_or_default();
    if !content.starts_with(b"Exif") && !content.starts_with(b"JFXX") {
        return 0;
    }
    let find = |from: usize, what: &[u8]| {
        let at = segment[from..]
            .windows(what.len())
            .position(|bytes| bytes == what);
        at.map(|at| from + at)
    };
    let Some(start) = find(2, &[0xff, SOI, 0xff]) else {
        return 0;
    };
    let next = find(start + 2, &[0xff, SOI, 0xff]);
    match find(start + 2, &[0xff, EOI]) {
        Some(end) if next.is_none_or(|next| next > end) => end + 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    const JPEG: &[u8] = include_bytes!("../../../tests/fixtures/jpeg/interleaved.jpg");
    const SCANS: &[u8] = include_bytes!("../../../tests/fixtures/jpeg/one_scan_each.jpg");

    fn split(stream: &[u8]) -> Vec<Vec<u8>> {
        let read = |input: &mut dyn BufRead| {
            let mut input = input;
            let (mut all, mut jpeg) = (Vec::new(), Vec::new());
            let mut stream = JpegStream::default();
            while stream.next(&mut input, &mut jpeg).unwrap() {
                all.push(jpeg.clone());
            }
            (all, stream.skipped)
        };
        let (at_once, skipped) = read(&mut Cursor::new(stream));
        let in_pieces = read(&mut BufReader::with_capacity(1, stream));
        assert!((&at_once, skipped) == (&in_pieces.0, in_pieces.1));
        let used = at_once.iter().map(Vec::len).sum::<usize>() as u64;
        assert!(used + skipped <= stream.len() as u64);
        at_once
    }

    /// The JPEG with Exif data that hold a thumbnail.
    fn with_thumbnail() -> Vec<u8> {
        with_segment(0xe1, &[b"Exif\0\0", SCANS].concat())
    }

    fn with_segment(marker: u8, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u16 + 2).to_be_bytes();
        [&JPEG[..2], &[0xff, marker], &len, content, &JPEG[2..]].concat()
    }

    #[test]
    fn jpegs_are_found_whatever_stands_between_them() {
        let header = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 925\r\n\r\n";
        let video = b"\xff\xd9ftyp\xff\xda\0\x0c\xff\xd8\0\xff\xff\xd8";
        for between in [[].as_slice(), &[0; 3], &[0xff; 3], header, video] {
            let whole = with_thumbnail();
            let other = with_segment(0xe0, &[b"JFXX\0\x10", JPEG].concat());
            let all = [JPEG, &whole, SCANS, &other, JPEG];
            let stream: Vec<u8> = all
                .iter()
                .flat_map(|jpeg| [between, jpeg].concat())
                .collect();
            assert!(split(&stream) == all);
            assert!(split(&[&stream, between].concat()) == all);
        }
        assert!(split(&[0; 99]).is_empty() && split(b"no JPEG \xff\xd8").is_empty());
    }

    #[test]
    fn a_cut_jpeg_costs_itself_alone() {
        for (cut, next) in [(JPEG, SCANS), (SCANS, JPEG)] {
            for len in 3..cut.len() {
                let got = split(&[&cut[..len], next, JPEG].concat());
                assert!(got == [&cut[..len], next, JPEG], "cut at {len}");
            }
            // too short to be told from what stands between JPEGs
            for len in 0..2 {
                assert!(
                    split(&[&cut[..len], next].concat()) == [next],
                    "cut at {len}"
                );
            }
        }
    }

    #[test]
    fn a_jpeg_that_is_cut_in_its_exif_data_costs_itself_alone() {
        let cut = with_thumbnail();
        let data = 12 + SCANS.len(); // where the thumbnail ends
        for len in 3..cut.len() {
            let got = split(&[&cut[..len], JPEG, JPEG, JPEG].concat());
            assert!(
                got.ends_with(&[JPEG.to_vec(), JPEG.to_vec()]),
                "cut at {len}"
            );
            // what is left of a thumbnail may pass for a JPEG, and be found to be damaged
            assert!(got.len() <= 5 && got[1..got.len() - 2].iter().all(|jpeg| jpeg != SCANS));
            if len >= data {
                assert!(got.len() >= 4, "cut at {len}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_costs_its_jpeg_alone() {
        for jpeg in [JPEG, SCANS] {
            for bit in (24..8 * jpeg.len()).step_by(3) {
                let mut bad = jpeg.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                let got = split(&[SCANS, &bad, SCANS, JPEG].concat());
                assert!(
                    got[0] == SCANS && got.ends_with(&[SCANS.to_vec(), JPEG.to_vec()]),
                    "{bit}"
                );
            }
        }
    }

    #[test]
    fn no_byte_behind_an_end_marker_is_waited_for() {
        struct Ends<'a>(&'a [u8]);
        impl io::Read for Ends<'_> {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                assert!(!self.0.is_empty(), "read on behind the end");
                self.0.read(bytes)
            }
        }
        let mut jpeg = Vec::new();
        let mut input = BufReader::new(Ends(JPEG));
        assert!(JpegStream::default().next(&mut input, &mut jpeg).unwrap());
        assert!(jpeg == JPEG);
    }
}

//! Reader and writer of Motion-JPEG in AVI, the video format that needs no other program.
//!
//! AVI is RIFF: chunks of a four-byte name, a little-endian length and data padded to an even
//! length. A clip is `RIFF('AVI ' LIST('hdrl' …headers) LIST('movi' 00dc…) idx1)`.
//! Source: Microsoft, "AVI RIFF File Reference". Long clips have further chunks
//! `RIFF('AVIX' LIST('movi' …))` ("OpenDML AVI File Format Extensions"), which are read but not
//! written.

mod read;
mod write;

pub use read::AviReader;
pub use write::AviWriter;

use std::path::PathBuf;

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
    #[error("clip '{}' holds '{codec}' video, not Motion-JPEG: only ffmpeg reads that", path.display())]
    Codec {
        /// The clip.
        path: PathBuf,
        /// The four-character code.
        codec: String,
    },
    /// An AVI file of sound alone.
    #[error("'{}' holds no video", path.display())]
    NoVideo {
        /// The file.
        path: PathBuf,
    },
    /// The clip would exceed the maximum size of an AVI file.
    #[error("clip '{}' has reached 2 GiB, the maximum of an AVI file: save to a folder instead", path.display())]
    Full {
        /// The clip.
        path: PathBuf,
    },
}

impl AviError {
    /// Whether a reader of other formats may be able to read the file.
    pub fn may_be_another_format(&self) -> bool {
        matches!(self, AviError::Format { .. } | AviError::Codec { .. })
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;
    use std::path::Path;

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
        assert_eq!((reader.size(), reader.fps()), (SIZE, Some(12.5)));
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
        assert_eq!(AviReader::open(&path).unwrap().fps(), Some(9.5));
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

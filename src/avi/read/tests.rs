//! Clips as they come out of recorders, pipes and damage.

use super::*;
use crate::avi::AviWriter;

const SIZE: Size = Size::new(64, 48);
/// Offsets in a clip of [`AviWriter`].
const MICROSECONDS: usize = 32;
const STREAM_LIST: usize = 88;
const SCALE: usize = 128;
const CODEC: usize = 188;
const MOVI_LEN: usize = 216;
const FRAMES: usize = 224;

/// Something that begins as a JPEG does.
fn jpeg(text: &str) -> Vec<u8> {
    [&[0xff, 0xd8, 0xff], text.as_bytes()].concat()
}

fn written(frames: &[Vec<u8>]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    let mut writer = AviWriter::create(&path, SIZE, 12.5).unwrap();
    for frame in frames {
        writer.write_jpeg(frame).unwrap();
    }
    writer.finish(None).unwrap();
    std::fs::read(path).unwrap()
}

/// Two frames, of odd and of even length.
fn clip() -> Vec<u8> {
    written(&[jpeg("odd!"), jpeg("even!")])
}

fn chunk(name: &str, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_le_bytes();
    let pad = &[0][..data.len() % 2];
    [name.as_bytes(), &len, data, pad].concat()
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut clip = clip();
    clip[at..at + bytes.len()].copy_from_slice(bytes);
    clip
}

fn inserted(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut clip = clip();
    clip.splice(at..at, bytes.iter().copied());
    clip
}

fn open(bytes: &[u8]) -> Result<AviReader, AviError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    std::fs::write(&path, bytes).unwrap();
    AviReader::open(&path)
}

/// The frames as text behind the start of a JPEG, and the error at the end.
fn frames_and_end(bytes: &[u8]) -> (Vec<String>, Option<String>) {
    let mut reader = open(bytes).unwrap();
    let (mut jpeg, mut frames) = (Vec::new(), Vec::new());
    loop {
        match reader.next_jpeg(&mut jpeg) {
            Ok(true) => frames.push(String::from_utf8_lossy(&jpeg[3..]).into_owned()),
            Ok(false) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

fn frames(bytes: &[u8]) -> Vec<String> {
    let (frames, error) = frames_and_end(bytes);
    assert_eq!(error, None);
    frames
}

const BOTH: [&str; 2] = ["odd!", "even!"];

#[test]
fn lengths_that_a_pipe_left_open_are_no_lengths() {
    for len in [0, 4, u32::MAX, 0x7fff_ffff] {
        let mut clip = patched(MOVI_LEN, &len.to_le_bytes());
        clip[4..8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(frames(&clip), BOTH, "{len:#x}");
    }
    // a recorder that wrote the length before its last frames
    assert_eq!(frames(&patched(MOVI_LEN, &[20, 0, 0, 0])), BOTH);
    // and one that wrote too large a length, but the index
    assert_eq!(frames(&patched(MOVI_LEN, &[0xff, 0xff, 0, 0])), BOTH);
}

#[test]
fn a_rate_and_a_size_of_zero_are_taken_from_elsewhere_or_unknown() {
    let fps = |bytes: &[u8]| open(bytes).unwrap().fps();
    assert_eq!(fps(&clip()), Some(12.5));
    let mut none = patched(SCALE, &[0; 8]);
    assert_eq!(fps(&none), Some(12.5), "from the main header");
    none[MICROSECONDS..MICROSECONDS + 4].fill(0);
    assert_eq!(fps(&none), None);
    assert_eq!(frames(&none), BOTH);
    assert_eq!(fps(&patched(SCALE, &[0xff; 8])), Some(1.0));
    assert_eq!(fps(&patched(SCALE, &[1, 0, 0, 0, 0, 0, 0, 9])), Some(12.5));
    let size = |bytes: &[u8]| open(bytes).unwrap().size();
    let mut none = patched(CODEC - 12, &[0; 8]);
    assert_eq!(size(&none), SIZE, "from the main header");
    none[64..72].fill(0);
    assert_eq!(size(&none), Size::default());
    assert_eq!(frames(&none), BOTH);
}

#[test]
fn what_stands_between_chunks_is_passed_over() {
    let second = FRAMES + 8 + 7 + 1;
    for between in [
        vec![0; 3],
        vec![0; 20_000],
        chunk("JUNK", &[7; 50]),
        chunk("01wb", b"sound"),
        chunk(
            "ix00",
            &[b"\0\0\0\0\x01\0\0\0", &b"00dc\x10\0\0\0"[..]].concat(),
        ),
        chunk("GPS ", b"52.5 13.4"),
        chunk("LIST", &[b"INFO", &chunk("ISFT", b"recorder")[..]].concat()),
        b"bytes of a chunk that was written over".to_vec(),
        [b"data: 00dc in the middle of other", &[1; 9_000][..]].concat(),
    ] {
        for at in [FRAMES, second] {
            assert_eq!(frames(&inserted(at, &between)), BOTH, "{between:?}");
        }
    }
    // the byte that pads an odd length is missing, or is not 0
    let mut unpadded = clip();
    unpadded.remove(second - 1);
    assert_eq!(frames(&unpadded), BOTH);
    assert_eq!(frames(&patched(second - 1, b"J")), BOTH);
    // lists of frames that belong together
    let rec = [b"LIST\x04\0\0\0rec ", &chunk("01wb", b"sound")[..]].concat();
    assert_eq!(frames(&inserted(second, &rec)), BOTH);
}

#[test]
fn headers_come_in_any_order_among_others() {
    for between in [
        chunk("JUNK", &[0; 5_000]),
        chunk("idx1", &b"00dc\x10\0\0\0\x04\0\0\0\x07\0\0\0".repeat(2)),
        chunk("LIST", &[b"odml", &chunk("dmlh", &[9; 4])[..]].concat()),
        vec![0; 7],
    ] {
        for at in [12, STREAM_LIST, 212] {
            assert_eq!(frames(&inserted(at, &between)), BOTH, "{at}: {between:?}");
        }
    }
    // the stream's format before its header
    let mut swapped = clip();
    swapped[100..212].rotate_left(64);
    assert_eq!(&swapped[100..104], b"strf");
    assert_eq!(frames(&swapped), BOTH);
}

#[test]
fn the_first_video_stream_is_the_one_that_is_read() {
    let list = clip()[STREAM_LIST..212].to_vec();
    let mut sound = list.clone();
    sound[20..24].copy_from_slice(b"auds");
    let other = chunk("01dc", &jpeg("other"));
    let two = [&inserted(212, &list)[..FRAMES + list.len()], &other].concat();
    let frames_of_both = &clip()[FRAMES..];
    assert_eq!(frames(&[&two[..], frames_of_both].concat()), BOTH);
    let sound_first = inserted(STREAM_LIST, &sound);
    let first = [&sound_first[..FRAMES + list.len()], &other].concat();
    assert_eq!(frames(&[&first[..], frames_of_both].concat()), ["other"]);
    // a stream's number does not matter where there is one
    let one = [&clip()[..FRAMES], &other].concat();
    assert_eq!(frames_and_end(&one).0, ["other"]);
    let none = patched(108, b"auds");
    let error = open(&none).err().unwrap();
    assert!(matches!(error, AviError::NoVideo { .. }), "{error}");
    assert!(!error.may_be_another_format());
}

#[test]
fn every_makers_tag_of_motion_jpeg_is_known() {
    for tag in [b"MJPG", b"mjpg", b"AVI1", b"dmb1", b"jpeg", b"CJPG"] {
        assert_eq!(frames(&patched(CODEC, tag)), BOTH);
    }
    // without a codec in the format, the handler's
    assert_eq!(frames(&patched(CODEC, &[0; 4])), BOTH);
    for (tag, shown) in [(b"H264", "'H264'"), (b"LJPG", "'LJPG'")] {
        let error = open(&patched(CODEC, tag)).err().unwrap();
        assert!(error.to_string().contains(shown), "{error}");
        assert!(error.may_be_another_format());
    }
    let mut raw = patched(CODEC, &[0; 4]);
    raw[112..116].fill(0);
    let error = open(&raw).err().unwrap().to_string();
    assert!(error.contains("'uncompressed' video"), "{error}");
}

#[test]
fn a_wrong_length_costs_its_frame_alone() {
    let all = [jpeg("first"), jpeg("second"), jpeg("third")];
    let clip = written(&all);
    let second = FRAMES + 16;
    assert_eq!(&clip[second..second + 4], b"00dc");
    let with_length = |len: u32| {
        let mut clip = clip.clone();
        clip[second + 4..second + 8].copy_from_slice(&len.to_le_bytes());
        clip
    };
    for len in [u32::MAX, 1 << 30, 10_000] {
        let got = frames(&with_length(len));
        assert_eq!(got, ["first", "second\0", "third"], "{len}");
    }
    let got = frames(&with_length(4));
    assert_eq!(got, ["first", "s", "third"]);
    // an index that runs over the end
    let mut index = clip.clone();
    let at = index.windows(4).rposition(|name| name == b"idx1").unwrap();
    index[at + 4..at + 8].fill(0xff);
    assert_eq!(frames(&index), ["first", "second", "third"]);
}

#[test]
fn the_last_frame_of_a_cut_clip_is_what_there_is_of_it() {
    let cut = &clip()[..FRAMES + 16 + 8 + 5];
    let (got, error) = frames_and_end(cut);
    assert_eq!(got, ["odd!", "ev"]);
    assert!(error.unwrap().contains("is the clip cut short?"));
    // a recording that was interrupted never had a length
    let mut interrupted = cut.to_vec();
    interrupted[MOVI_LEN..MOVI_LEN + 4].fill(0);
    assert_eq!(frames(&interrupted), ["odd!", "ev"]);
    // nothing at all
    assert_eq!(frames(&written(&[])), [""; 0]);
}

#[test]
fn an_empty_chunk_takes_its_time_and_gives_no_frame() {
    let repeat = chunk("00dc", b"");
    let clip = inserted(FRAMES + 16, &[&repeat[..], &repeat].concat());
    let mut reader = open(&clip).unwrap();
    let (mut jpeg, mut times) = (Vec::new(), Vec::new());
    while reader.next_jpeg(&mut jpeg).unwrap() {
        times.push(reader.position().unwrap().as_millis());
    }
    assert_eq!(times, [0, 240]);
}

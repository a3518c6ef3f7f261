//! JPEG: the one reader for image files, clips, cameras and streams.
//!
//! The decoder is libjpeg-turbo; what it warns of is damage. docs/decisions/jpeg.md has the reasons.
//! Source: ITU-T T.81.

mod decoder;
mod fields;
mod segments;
mod stream;

pub(crate) use segments::exif;
pub(crate) use stream::JpegStream;

use crate::capture::decode::{MAX_PIXELS, MAX_SIDE};
use crate::geometry::Size;
use decoder::Decoder;
use fields::Fields;
use std::ops::DerefMut;

/// A JPEG that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JpegError {
    /// Data are missing or make no sense.
    #[error("damaged JPEG: {0}")]
    Damaged(String),
    /// A kind of JPEG that is not read.
    #[error("a JPEG of a kind that is not read: {0}")]
    Unsupported(String),
    /// Larger than [`MAX_SIDE`] or 64 megapixels.
    #[error(
        "a JPEG of {size}: expected at most {MAX_SIDE} pixels per side and {} megapixels",
        MAX_PIXELS >> 20
    )]
    TooLarge {
        /// Its size.
        size: Size,
    },
    /// The decoder got no memory.
    #[error("no memory to decode a JPEG")]
    NoMemory,
}

/// What is known of a JPEG from where it came from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// Size of a frame by the clip's header or the camera's mode; zero where there is none.
    pub frame: Size,
    /// Surplus bytes before a restart or end marker that are no damage: see [`CAMERA_SURPLUS`].
    pub surplus: u8,
}

/// Surplus bytes that a camera may leave before a marker. Common webcams (Logitech C270, C910) pad
/// the data before restart markers with some bytes, in most of their frames; all pixels are there.
/// libjpeg warns of it (up to ten bytes are reported), and from any other source it counts as
/// damage: a flipped bit often shows in no other way.
pub const CAMERA_SURPLUS: u8 = 16;

/// Decodes a JPEG to packed RGB (`[height, width, 3]`), in a buffer of that length from `room`. Two
/// fields, one behind the other, are woven to one frame.
///
/// Bytes behind the JPEG's end are not looked at, and its end marker may be missing. Its Huffman
/// tables may be missing too, as in Motion-JPEG: then they are those of ITU-T T.81, K.3.
///
/// # Errors
/// If data are missing or damaged, or the JPEG is too large or of a kind that is not read.
pub fn decode<B: DerefMut<Target = [u8]>>(
    bytes: &[u8],
    origin: Origin,
    room: impl FnOnce(usize) -> B,
) -> Result<(Size, B), JpegError> {
    let picture = open(bytes, origin)?;
    let size = picture.size();
    let row = 3 * size.width as usize;
    let Some(Fields { top, bottom }) = fields::fields(bytes, size, origin.frame)? else {
        let mut rgb = room(3 * size.area());
        picture.decode(&mut rgb, row)?;
        return Ok((size, rgb));
    };
    let frame = checked(Size::new(size.width, 2 * size.height))?;
    let mut rgb = room(3 * frame.area());
    for (field, begin) in [(top, 0), (bottom, row)] {
        let field = open(field, origin)?;
        if field.size() != size {
            let other = field.size();
            return Err(JpegError::Damaged(format!("fields of {size} and {other}")));
        }
        field.decode(&mut rgb[begin..], 2 * row)?;
    }
    Ok((frame, rgb))
}

fn open(bytes: &[u8], origin: Origin) -> Result<Decoder<'_>, JpegError> {
    let bytes = without_padding(bytes);
    if bytes.is_empty() {
        return Err(JpegError::Damaged("nothing but zeros".to_owned()));
    }
    let decoder = Decoder::open(bytes, origin.surplus)?;
    checked(decoder.size())?;
    Ok(decoder)
}

fn checked(size: Size) -> Result<Size, JpegError> {
    match size.width.max(size.height) > MAX_SIDE || size.area() as u64 > MAX_PIXELS {
        true => Err(JpegError::TooLarge { size }),
        false => Ok(size),
    }
}

/// Bytes without zeros at their end. Where the end marker is missing too, a decoder would take them
/// for data. A zero that belongs to data stands behind 0xff.
fn without_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0);
    let end = end.map_or(0, |last| last + 1 + usize::from(bytes[last] == 0xff));
    &bytes[..end.min(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/jpeg/", $name, ".jpg")).as_slice()
        };
    }

    const INTERLEAVED: &[u8] = fixture!("interleaved");
    const PROGRESSIVE: &[u8] = fixture!("progressive");
    const ONE_SCAN_EACH: &[u8] = fixture!("one_scan_each");
    const LUMA_LAST: &[u8] = fixture!("luma_last");
    const RESTARTS: &[u8] = fixture!("restarts");
    const CMYK: &[u8] = fixture!("cmyk");
    const SIZE: Size = Size::new(44, 36);

    fn decoded(bytes: &[u8]) -> Result<(Size, Vec<u8>), JpegError> {
        decode(bytes, Origin::default(), |len| vec![7; len])
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        let (size, rgb) = decoded(bytes).unwrap();
        assert_eq!(size, SIZE);
        rgb
    }

    fn reason(bytes: &[u8]) -> String {
        decoded(bytes).map(|_| ()).unwrap_err().to_string()
    }

    /// The JPEG with another byte at an offset of a marker's first byte.
    fn patched(jpeg: &[u8], marker: u8, offset: usize, byte: u8) -> Vec<u8> {
        let mut jpeg = jpeg.to_vec();
        let at = jpeg.windows(2).position(|pair| pair == [0xff, marker]);
        jpeg[at.unwrap() + offset] = byte;
        jpeg
    }

    /// The JPEG without its segments of a kind.
    fn without(jpeg: &[u8], marker: u8) -> Vec<u8> {
        let mut rest = jpeg[..2].to_vec();
        let mut behind = 2;
        for segment in segments::segments(jpeg) {
            if segment.marker != marker {
                rest.extend_from_slice(&jpeg[behind..segment.end]);
            }
            behind = segment.end;
        }
        rest.extend_from_slice(&jpeg[behind..]);
        rest
    }

    #[test]
    fn scans_in_any_order_give_the_same_pixels() {
        // wrong without an error in zune-jpeg 0.5.15
        let expected = pixels(INTERLEAVED);
        assert!(expected.iter().max() > Some(&150) && expected.iter().min() < Some(&90));
        for other in [PROGRESSIVE, ONE_SCAN_EACH, LUMA_LAST, RESTARTS] {
            assert!(pixels(other) == expected);
        }
    }

    #[test]
    fn inverted_cmyk_becomes_rgb() {
        let (expected, got) = (pixels(INTERLEAVED), pixels(CMYK));
        let off = expected
            .iter()
            .zip(&got)
            .map(|(a, b)| u64::from(a.abs_diff(*b)));
        let mean = off.sum::<u64>() as f64 / got.len() as f64;
        assert!(mean < 4.0, "{mean}");
    }

    #[test]
    fn tables_that_motion_jpeg_leaves_out_are_filled_in() {
        let bare = without(INTERLEAVED, 0xc4);
        assert!(bare.len() + 400 < INTERLEAVED.len());
        assert!(pixels(&bare) == pixels(INTERLEAVED));
    }

    #[test]
    fn every_cut_but_that_of_the_end_marker_is_damage() {
        for whole in [
            INTERLEAVED,
            PROGRESSIVE,
            ONE_SCAN_EACH,
            LUMA_LAST,
            RESTARTS,
            CMYK,
        ] {
            let expected = pixels(whole);
            for len in 0..whole.len() - 2 {
                assert!(decoded(&whole[..len]).is_err(), "cut at {len}");
                // a camera's buffer, a page or a clip's chunk goes on with zeros
                let padded = [&whole[..len], &[0; 999]].concat();
                assert!(decoded(&padded).is_err(), "cut at {len} and padded");
            }
            for len in whole.len() - 2..whole.len() {
                assert!(pixels(&whole[..len]) == expected, "cut at {len}");
                let padded = [&whole[..len], &[0; 999]].concat();
                assert!(pixels(&padded) == expected, "cut at {len} and padded");
            }
        }
    }

    #[test]
    fn bytes_that_go_missing_are_damage_although_the_end_marker_is_there() {
        for whole in [INTERLEAVED, RESTARTS] {
            let data = segments::segments(whole).last().unwrap().end;
            let holes = data..whole.len() - 42;
            let unseen = holes.clone().filter(|&from| {
                let holed = [&whole[..from], &whole[from + 40..]].concat();
                decoded(&holed).is_ok()
            });
            // where the rest happens to end within the bytes that libjpeg reads ahead
            assert!(20 * unseen.count() <= holes.len());
        }
        let cut = [&INTERLEAVED[..700], &[0xff, 0xd9]].concat();
        assert_eq!(reason(&cut), "damaged JPEG: premature end of data segment");
    }

    #[test]
    fn a_component_without_a_scan_is_damage() {
        let last = ONE_SCAN_EACH
            .windows(2)
            .rposition(|pair| pair == [0xff, 0xda]);
        let cut = [&ONE_SCAN_EACH[..last.unwrap()], &[0xff, 0xd9]].concat();
        assert_eq!(reason(&cut), "damaged JPEG: colour component 3 has no scan");
    }

    #[test]
    fn a_progressive_picture_without_its_last_scans_is_damage() {
        let scans = PROGRESSIVE.windows(2).enumerate();
        let scans = scans
            .filter(|(_, pair)| *pair == [0xff, 0xda])
            .map(|(at, _)| at);
        let mut tried = 0;
        for at in scans.skip(1) {
            let cut = [&PROGRESSIVE[..at], &[0xff, 0xd9]].concat();
            tried += 1;
            let expected = format!("damaged JPEG: it ends after {tried} scans, before its last");
            assert_eq!(reason(&cut), expected);
        }
        assert_eq!(tried, 9);
    }

    #[test]
    fn what_stands_behind_the_end_is_not_looked_at() {
        let video = b"\0\0\0\x18ftypmp42\xff\xda\0\x0c\xff\xd9\xff\xd8\xff\xe0".as_slice();
        for behind in [[0xff; 40].as_slice(), &[0; 3], video, PROGRESSIVE] {
            for whole in [INTERLEAVED, PROGRESSIVE] {
                assert!(pixels(&[whole, behind].concat()) == pixels(whole));
            }
        }
    }

    #[test]
    fn surplus_bytes_before_a_marker_are_damage_but_from_a_camera() {
        let restart = RESTARTS.windows(2).position(|pair| pair == [0xff, 0xd1]);
        let padded = |count| {
            let (head, tail) = RESTARTS.split_at(restart.unwrap());
            [head, &vec![0x5a; count], tail].concat()
        };
        let from_camera = |bytes: &[u8]| {
            let origin = Origin {
                surplus: CAMERA_SURPLUS,
                ..Origin::default()
            };
            decode(bytes, origin, |len| vec![0; len]).map(|(_, rgb)| rgb)
        };
        for count in [9, 12] {
            let reason = reason(&padded(count));
            assert!(
                reason.ends_with("extraneous bytes before marker 0xd1"),
                "{reason}"
            );
            assert!(from_camera(&padded(count)).unwrap() == pixels(RESTARTS));
        }
        assert!(from_camera(&padded(40)).is_err());
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        for (jpeg, named) in [
            (fixture!("arithmetic").to_vec(), "arithmetic coding"),
            (patched(INTERLEAVED, 0xc0, 1, 0xc3), "SOF type 0xc3"), // lossless
            (patched(INTERLEAVED, 0xc0, 4, 12), "data precision 12"),
            (
                patched(&patched(INTERLEAVED, 0xc0, 5, 0), 0xc0, 6, 0), // the height comes later
                "DNL",
            ),
        ] {
            let error = decoded(&jpeg).unwrap_err();
            assert!(matches!(error, JpegError::Unsupported(_)), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_there_is_room_for_it() {
        for (width, height) in [([0x40, 0x01], [0, 1]), ([0x30, 0], [0x30, 0])] {
            let mut jpeg = patched(INTERLEAVED, 0xc0, 5, height[0]);
            for (offset, byte) in [(6, height[1]), (7, width[0]), (8, width[1])] {
                jpeg = patched(&jpeg, 0xc0, offset, byte);
            }
            let room = |_| -> Vec<u8> { panic!("room was made") };
            let error = decode(&jpeg, Origin::default(), room).unwrap_err();
            assert!(matches!(error, JpegError::TooLarge { .. }), "{error}");
        }
    }

    /// A block of 8×8 in a scan for each bit of so many coefficients, and one more scan.
    fn in_many_scans(coefficients: u8) -> Vec<u8> {
        let tables = [
            [b"\xff\xd8\xff\xdb\0\x43\0".as_slice(), &[1; 64]].concat(),
            b"\xff\xc2\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0".to_vec(),
            // one code of one bit: a difference of 0, and the end of a block
            [b"\xff\xc4\0\x14\0\x01".as_slice(), &[0; 16]].concat(),
            [b"\xff\xc4\0\x14\x10\x01".as_slice(), &[0; 16]].concat(),
        ];
        let scan = |coefficient: u8, before: u8, bit: u8| {
            let header = b"\xff\xda\0\x08\x01\x01\0".as_slice();
            let bits = before << 4 | bit;
            [header, &[coefficient, coefficient, bits, 0x7f]].concat()
        };
        let mut jpeg = [&tables.concat()[..], &scan(0, 0, 0)].concat();
        for coefficient in 1..=coefficients {
            for bit in (0..10).rev() {
                let before = if bit == 9 { 0 } else { bit + 1 };
                jpeg.extend(scan(coefficient, before, bit));
            }
        }
        [&jpeg[..], &[0xff, 0xd9]].concat()
    }

    #[test]
    fn more_scans_than_any_encoder_writes_are_refused() {
        let few = reason(&in_many_scans(49));
        assert_eq!(
            few,
            "damaged JPEG: it ends after 491 scans, before its last"
        );
        let expected = "a JPEG of a kind that is not read: more than 500 scans";
        assert_eq!(reason(&in_many_scans(63)), expected);
    }

    /// Rows of one field are all of one grey.
    fn field(grey: u8, height: u32, polarity: Option<u8>) -> Vec<u8> {
        let mut jpeg = Vec::new();
        let pixels = vec![grey; 3 * 16 * height as usize];
        image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
            .encode(&pixels, 16, height, image::ExtendedColorType::Rgb8)
            .unwrap();
        if let Some(polarity) = polarity {
            let avi1 = [b"\xff\xe0\0\x10AVI1".as_slice(), &[polarity], &[0; 9]].concat();
            jpeg.splice(2..2, avi1);
        }
        jpeg
    }

    fn rows(bytes: &[u8], container: Size) -> Result<Vec<u8>, JpegError> {
        let origin = Origin {
            frame: container,
            surplus: 0,
        };
        let (size, rgb) = decode(bytes, origin, |len| vec![1; len])?;
        assert_eq!(size.width, 16);
        Ok(rgb.chunks(3 * 16).map(|row| row[0]).collect())
    }

    #[test]
    fn two_fields_are_woven() {
        let (full, unknown) = (Size::new(16, 8), Size::default());
        let woven = |first, second| [first, second].repeat(4);
        for (first, second, container, expected) in [
            (None, None, full, woven(50, 200)),
            (Some(0), Some(0), full, woven(50, 200)),
            (Some(1), Some(2), full, woven(50, 200)),
            (Some(1), Some(2), unknown, woven(50, 200)),
            (Some(2), Some(1), unknown, woven(200, 50)),
            (None, Some(1), full, woven(200, 50)),
            (None, None, unknown, vec![50; 4]), // a preview, or anything else
            (None, None, Size::new(16, 4), vec![50; 4]),
        ] {
            let (first, second) = (field(50, 4, first), field(200, 4, second));
            for between in [[].as_slice(), &[0; 5], &[0xff; 3]] {
                let got = rows(&[&first[..], between, &second].concat(), container).unwrap();
                let off = got.iter().zip(&expected).any(|(a, b)| a.abs_diff(*b) > 1);
                assert!(!off && got.len() == expected.len(), "{got:?}");
            }
        }
    }

    #[test]
    fn a_frame_of_which_a_field_is_damaged_is_damaged() {
        let full = Size::new(16, 16);
        let first = field(50, 8, Some(1));
        for second in [
            field(200, 16, Some(2)),
            field(200, 8, Some(2))[..330].to_vec(),
        ] {
            assert!(rows(&[&first[..], &second].concat(), full).is_err());
        }
        let error = rows(&first, full).unwrap_err().to_string();
        assert_eq!(error, "damaged JPEG: its second field is missing");
        let cut = &first[..first.len() - 4];
        assert!(rows(&[cut, &field(200, 8, Some(2))].concat(), full).is_err());
        let no_end = &first[..first.len() - 2];
        assert!(rows(&[no_end, &field(200, 8, Some(2))].concat(), full).is_ok());
    }
}

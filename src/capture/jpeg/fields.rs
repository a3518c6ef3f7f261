//! Interlaced Motion-JPEG: a frame is two JPEGs of half its height, one behind the other.
//!
//! Source: OpenDML AVI File Format Extensions, "Motion JPEG DIB Format".

use super::JpegError;
use super::segments::{SOI, SOS, segments};
use crate::geometry::Size;

/// The JPEGs of one frame.
pub(super) struct Fields<'a> {
    /// Has the lines 0, 2, 4… of the frame.
    pub(super) top: &'a [u8],
    pub(super) bottom: &'a [u8],
}

/// Lines of a field, as its segment 'AVI1' tells.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Polarity {
    Top,
    Bottom,
}

/// Whether a frame whose first JPEG has the size `field` is two of them. What stands behind a JPEG
/// is a field only if a field or the container says so: phones put other things there, such as a
/// preview.
///
/// # Errors
/// If the container and the first field ask for a second one that is not there.
pub(super) fn fields(
    bytes: &[u8],
    field: Size,
    container: Size,
) -> Result<Option<Fields<'_>>, JpegError> {
    let half = field.width == container.width
        && container.height.abs_diff(2 * field.height) <= container.height % 2;
    let polarity_of_first = polarity(bytes);
    if polarity_of_first.is_none() && !half {
        return Ok(None);
    }
    let Some(start) = second_start(bytes) else {
        return match polarity_of_first.is_some() && half {
            true => Err(JpegError::Damaged("its second field is missing".to_owned())),
            false => Ok(None),
        };
    };
    let (first, second) = bytes.split_at(start);
    let polarity_of_second = polarity(second);
    if polarity_of_second.is_none() && !half {
        return Ok(None);
    }
    let first_is_bottom = match polarity_of_first {
        Some(polarity) => polarity == Polarity::Bottom,
        None => polarity_of_second == Some(Polarity::Top),
    };
    let (top, bottom) = match first_is_bottom {
        true => (second, first),
        false => (first, second),
    };
    Ok(Some(Fields { top, bottom }))
}

/// Position of the next JPEG behind the start of a scan. Data do not contain its first bytes.
fn second_start(bytes: &[u8]) -> Option<usize> {
    let scan = segments(bytes).find(|segment| segment.marker == SOS)?.end;
    let start = bytes[scan..]
        .windows(3)
        .position(|three| three == [0xff, SOI, 0xff])?;
    Some(scan + start)
}

fn polarity(jpeg: &[u8]) -> Option<Polarity> {
    let app0 = segments(jpeg).filter(|segment| segment.marker == 0xe0);
    let avi1 = { app0 }.find_map(|segment| segment.content.strip_prefix(b"AVI1"));
    match avi1?.first()? {
        1 => Some(Polarity::Top),
        2 => Some(Polarity::Bottom),
        _ => None, // 0: not interlaced
    }
}

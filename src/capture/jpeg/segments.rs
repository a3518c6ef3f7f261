//! The segments before a JPEG's first scan.

/// Start of image, end of image, start of scan, comment.
pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const COM: u8 = 0xfe;

/// Whether a marker stands alone: TEM, restart markers, SOI and EOI, and what is no marker at all.
pub(super) fn has_no_length(marker: u8) -> bool {
    matches!(marker, 0 | 0x01 | 0xd0..=EOI | 0xff)
}

/// A marker and what follows it.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    /// Without the length.
    pub(super) content: &'a [u8],
    /// Position behind the segment.
    pub(super) end: usize,
}

/// The segments of a JPEG up to and including the first that begins a scan. Ends at what is no
/// segment.
pub(super) fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    let mut over = !bytes.starts_with(&[0xff, SOI]);
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let segment = segment(bytes, at)?;
        at = segment.end;
        over = segment.marker == SOS;
        Some(segment)
    })
}

fn segment(bytes: &[u8], mut at: usize) -> Option<Segment<'_>> {
    if *bytes.get(at)? != 0xff {
        return None;
    }
    while *bytes.get(at)? == 0xff {
        at += 1; // any number of them may stand before a marker
    }
    let (marker, at) = (bytes[at], at + 1);
    if has_no_length(marker) {
        let content = &[];
        return Some(Segment {
            marker,
            content,
            end: at,
        });
    }
    let len = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let content = bytes.get(at + 2..at + len)?;
    Some(Segment {
        marker,
        content,
        end: at + len,
    })
}

/// The Exif data of a picture file: a TIFF.
pub(crate) fn exif(jpeg: &[u8]) -> Option<&[u8]> {
    let app1 = segments(jpeg).filter(|segment| segment.marker == 0xe1);
    { app1 }.find_map(|segment| segment.content.strip_prefix(b"Exif\0\0"))
}

//! Sizes, boxes and the mapping between frame pixels and network input pixels.

mod tiling;

pub use tiling::{TileOverlap, Tiles, Tiling};

use crate::units::serde_by_text;
use serde::Serialize;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// `width` × `height` pixels.
    pub const fn new(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    /// Number of pixels.
    pub fn area(self) -> usize {
        self.width as usize * self.height as usize
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let parsed = text.split_once(['x', 'X']).and_then(|(w, h)| {
            let size = Size::new(w.trim().parse().ok()?, h.trim().parse().ok()?);
            (size.width > 0 && size.height > 0).then_some(size)
        });
        parsed.ok_or_else(|| format!("expected WIDTHxHEIGHT such as '1280x720', got '{text}'"))
    }
}

/// An axis-aligned box in frame pixels, half-open, ordered and inside its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BBox {
    x0: f32,
    y0: f32,
    x1: f32,
    y1: f32,
}

impl BBox {
    /// A box clamped to a frame. Swapped corners and NaN give an empty box.
    pub fn clamped(x0: f32, y0: f32, x1: f32, y1: f32, frame: Size) -> BBox {
        if [x0, y0, x1, y1].iter().any(|v| v.is_nan()) {
            return BBox::clamped(0.0, 0.0, 0.0, 0.0, frame); // `max` below would drop the NaN
        }
        let clamp = |v: f32, limit: u32| v.max(0.0).min(limit as f32);
        let (x0, y0) = (clamp(x0, frame.width), clamp(y0, frame.height));
        BBox {
            x0,
            y0,
            x1: clamp(x1, frame.width).max(x0),
            y1: clamp(y1, frame.height).max(y0),
        }
    }

    /// Left edge in pixels.
    pub fn x0(&self) -> f32 {
        self.x0
    }

    /// Top edge in pixels.
    pub fn y0(&self) -> f32 {
        self.y0
    }

    /// Right edge in pixels, exclusive.
    pub fn x1(&self) -> f32 {
        self.x1
    }

    /// Bottom edge in pixels, exclusive.
    pub fn y1(&self) -> f32 {
        self.y1
    }

    /// Width in pixels.
    pub fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// Height in pixels.
    pub fn height(&self) -> f32 {
        self.y1 - self.y0
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// COCO's `[x, y, width, height]`.
    pub fn xywh(&self) -> [f32; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }

    /// Intersection over union with `other`; 0 if either is empty.
    pub fn iou(&self, other: &BBox) -> f32 {
        let width = self.x1.min(other.x1) - self.x0.max(other.x0);
        let height = self.y1.min(other.y1) - self.y0.max(other.y0);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / (self.area() + other.area() - both)
    }

    /// The common part with `other`; an empty box if there is none.
    pub fn intersection(&self, other: &BBox) -> BBox {
        let (x0, y0) = (self.x0.max(other.x0), self.y0.max(other.y0));
        BBox {
            x0,
            y0,
            x1: self.x1.min(other.x1).max(x0),
            y1: self.y1.min(other.y1).max(y0),
        }
    }

    /// The smallest box that contains both.
    pub fn hull(&self, other: &BBox) -> BBox {
        BBox {
            x0: self.x0.min(other.x0),
            y0: self.y0.min(other.y0),
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
        }
    }

    /// The box moved outwards by `x` on the left and right and by `y` at top and bottom. It may reach
    /// beyond the frame.
    pub(crate) fn grown(&self, x: f32, y: f32) -> BBox {
        BBox {
            x0: self.x0 - x,
            y0: self.y0 - y,
            x1: self.x1 + x,
            y1: self.y1 + y,
        }
    }

    /// COCO's size class of the box.
    pub fn area_class(&self) -> AreaClass {
        match self.area() {
            area if area < 32.0 * 32.0 => AreaClass::Small,
            area if area < 96.0 * 96.0 => AreaClass::Medium,
            _ => AreaClass::Large,
        }
    }
}

/// A polygon or a line that is drawn into pictures, such as a zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// Corners as fractions of the frame's width and height.
    pub points: Vec<[f32; 2]>,
    /// A polygon; else a line of two points, from the first to the second.
    pub closed: bool,
}

/// COCO's size classes: small below 32² px, medium below 96² px.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaClass {
    /// Below 32² px.
    Small,
    /// Below 96² px.
    Medium,
    /// 96² px and more.
    Large,
}

/// A rectangle of a frame and its placement in the network's input: scaled to fit, centred, with a
/// grey border around it. Maps boxes of the input back to the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Frame size in pixels.
    pub frame: Size,
    /// Left column of the rectangle in the frame.
    pub x: u32,
    /// Top row of the rectangle in the frame.
    pub y: u32,
    /// Size of the rectangle in frame pixels.
    pub size: Size,
    /// Input size in pixels.
    pub input: Size,
    /// Size of the scaled rectangle inside the input, in input pixels.
    pub inner: Size,
    /// Columns of border on the left.
    pub pad_x: u32,
    /// Rows of border on top.
    pub pad_y: u32,
}

impl Region {
    /// The whole frame in the largest centred placement inside `input` that keeps the aspect ratio.
    pub fn whole(frame: Size, input: Size) -> Region {
        Region::part(frame, 0, 0, frame, input)
    }

    /// The rectangle of `size` whose top left pixel is (`x`, `y`), placed as a whole frame would be.
    /// It lies inside the frame.
    pub fn part(frame: Size, x: u32, y: u32, size: Size, input: Size) -> Region {
        let scale = f64::min(
            f64::from(input.width) / f64::from(size.width),
            f64::from(input.height) / f64::from(size.height),
        );
        let side = |px: u32, limit: u32| ((f64::from(px) * scale).round() as u32).clamp(1, limit);
        let inner = Size::new(
            side(size.width, input.width),
            side(size.height, input.height),
        );
        Region {
            frame,
            x,
            y,
            size,
            input,
            inner,
            pad_x: (input.width - inner.width) / 2,
            pad_y: (input.height - inner.height) / 2,
        }
    }

    /// Whether it is the whole frame.
    pub fn is_whole(&self) -> bool {
        self.size == self.frame
    }

    /// The rectangle in frame pixels.
    pub fn bounds(&self) -> BBox {
        BBox {
            x0: self.x as f32,
            y0: self.y as f32,
            x1: (self.x + self.size.width) as f32,
            y1: (self.y + self.size.height) as f32,
        }
    }

    /// Frame pixels per input pixel, across and down.
    pub fn scale(&self) -> (f32, f32) {
        (
            self.size.width as f32 / self.inner.width as f32,
            self.size.height as f32 / self.inner.height as f32,
        )
    }

    /// Maps a box from input pixels to frame pixels, clamped to the rectangle. NaN gives an empty box.
    pub fn to_frame(&self, x0: f32, y0: f32, x1: f32, y1: f32) -> BBox {
        let (scale_x, scale_y) = self.scale();
        let (pad_x, pad_y) = (self.pad_x as f32, self.pad_y as f32);
        let bbox = BBox::clamped(
            (x0 - pad_x) * scale_x,
            (y0 - pad_y) * scale_y,
            (x1 - pad_x) * scale_x,
            (y1 - pad_y) * scale_y,
            self.size,
        );
        let (x, y) = (self.x as f32, self.y as f32);
        BBox {
            x0: bbox.x0 + x,
            y0: bbox.y0 + y,
            x1: bbox.x1 + x,
            y1: bbox.y1 + y,
        }
    }
}

/// The input size for a frame: the long side is `long_side`, the short side follows the aspect ratio
/// and is rounded up to a multiple of `multiple`, so that the border is small.
pub fn input_size_for(frame: Size, long_side: u32, multiple: u32) -> Size {
    let longest = frame.width.max(frame.height).max(1);
    let side = |px: u32| {
        let scaled = (f64::from(px) * f64::from(long_side) / f64::from(longest)).round() as u32;
        scaled.clamp(1, long_side).next_multiple_of(multiple)
    };
    Size::new(side(frame.width), side(frame.height))
}

/// Size of the network's input: in settings `640`, `"640"` or `"640x384"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputSize {
    /// The long side in pixels; the short side follows the frame's aspect ratio.
    LongSide(u32),
    /// Both sides in pixels; the frame is letterboxed.
    Exact(Size),
}

serde_by_text!(InputSize);

impl std::fmt::Display for InputSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            InputSize::LongSide(side) => side.fmt(f),
            InputSize::Exact(size) => size.fmt(f),
        }
    }
}

/// Maximum side of the input; larger inputs need more memory than small boards have.
pub(crate) const MAX_INPUT_SIDE: u32 = 4096;

impl std::str::FromStr for InputSize {
    type Err = String;

    fn from_str(text: &str) -> Result<InputSize, String> {
        let input = match text.parse() {
            Ok(side) => Some(InputSize::LongSide(side)),
            Err(_) => text.parse().ok().map(InputSize::Exact),
        };
        let fits = |side: u32| side > 0 && side.is_multiple_of(32) && side <= MAX_INPUT_SIDE;
        let all_fit = |input: &InputSize| match *input {
            InputSize::LongSide(side) => fits(side),
            InputSize::Exact(size) => fits(size.width) && fits(size.height),
        };
        input.filter(all_fit).ok_or_else(|| {
            format!(
                "expected multiples of 32 up to {MAX_INPUT_SIDE}, such as '320' or '640x384', got '{text}'"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_short_side_is_rounded_up_to_the_stride() {
        assert_eq!(
            input_size_for(Size::new(768, 576), 320, 32),
            Size::new(320, 256)
        );
        assert_eq!(
            input_size_for(Size::new(1280, 720), 640, 32),
            Size::new(640, 384)
        );
        assert_eq!(
            input_size_for(Size::new(1, 4000), 320, 32),
            Size::new(32, 320)
        );
    }

    fn corners(bbox: &BBox) -> [f32; 4] {
        [bbox.x0(), bbox.y0(), bbox.x1(), bbox.y1()]
    }

    #[test]
    fn a_box_comes_back_where_it_was() {
        let whole = Region::whole(Size::new(768, 576), Size::new(320, 256));
        assert_eq!(
            (whole.inner, whole.pad_x, whole.pad_y),
            (Size::new(320, 240), 0, 8)
        );
        let bbox = whole.to_frame(10.0, 18.0, 20.0, 28.0);
        assert_eq!(corners(&bbox), [24.0, 24.0, 48.0, 48.0]);
        let part = Region::part(
            Size::new(1000, 800),
            200,
            100,
            Size::new(768, 576),
            Size::new(320, 256),
        );
        let bbox = part.to_frame(10.0, 18.0, 20.0, 28.0);
        assert_eq!(corners(&bbox), [224.0, 124.0, 248.0, 148.0]);
        let bbox = part.to_frame(-9.0, 0.0, 999.0, f32::INFINITY);
        assert_eq!(corners(&bbox), corners(&part.bounds()), "not beyond it");
        assert_eq!(part.to_frame(0.0, f32::NAN, 9.0, 99.0).area(), 0.0);
    }

    proptest! {
        /// A box of the frame that lies in the region, scaled as the preprocessor scales the
        /// pixels, comes back where it was.
        #[test]
        fn mapping_to_the_frame_inverts_the_crop(
            (width, height) in (1u32..5000, 1u32..5000),
            corner in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
            input in (1u32..40, 1u32..40),
            place in proptest::array::uniform4(0.0f32..1.0),
        ) {
            let frame = Size::new(width, height);
            let cut = |side: u32, start: f64, length: f64| {
                let start = (f64::from(side) * start) as u32;
                let length = (f64::from(side - start) * length) as u32;
                (start, length.max(1))
            };
            let ((x, w), (y, h)) = (cut(width, corner.0, corner.1), cut(height, corner.2, corner.3));
            let input = Size::new(32 * input.0, 32 * input.1);
            let region = Region::part(frame, x, y, Size::new(w, h), input);
            let [a, b, c, d] = place;
            let bbox = BBox {
                x0: x as f32 + a.min(b) * w as f32,
                x1: x as f32 + a.max(b) * w as f32,
                y0: y as f32 + c.min(d) * h as f32,
                y1: y as f32 + c.max(d) * h as f32,
            };
            let across = |v: f32| (v - x as f32) * region.inner.width as f32 / w as f32 + region.pad_x as f32;
            let down = |v: f32| (v - y as f32) * region.inner.height as f32 / h as f32 + region.pad_y as f32;
            let back = region.to_frame(across(bbox.x0), down(bbox.y0), across(bbox.x1), down(bbox.y1));
            for (got, expected) in corners(&back).into_iter().zip(corners(&bbox)) {
                prop_assert!((got - expected).abs() < 0.05, "{back:?}, expected {bbox:?}");
            }
        }
    }

    #[test]
    fn sizes_parse_and_refuse_nonsense() {
        assert_eq!("1280x720".parse(), Ok(Size::new(1280, 720)));
        for bad in ["", "1280", "x", "0x10", "10x-1", "axb"] {
            assert!(bad.parse::<Size>().is_err(), "'{bad}' parsed");
        }
    }
}

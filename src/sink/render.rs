//! Drawing of boxes, labels and live metrics into the RGB bytes of a frame.

use crate::detection::Detection;
use crate::detection::Labels;
use crate::geometry::AreaClass;
use crate::geometry::Shape;
use crate::geometry::Size;
use crate::stats::Snapshot;
use embedded_graphics::Drawable;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point};
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_9X15_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};
use std::convert::Infallible;
use std::fmt::Write;

/// One colour per class, distinguishable with colour blindness (Okabe and Ito 2008, then lighter
/// and darker variants); further classes reuse them in order.
const COLOURS: [[u8; 3]; 12] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [170, 255, 195],
    [255, 215, 180],
    [128, 128, 255],
    [255, 105, 97],
    [200, 200, 200],
];
const TAG_TEXT: Rgb888 = Rgb888::new(0, 0, 0);
/// Colour of zones and lines.
const SHAPE: [u8; 3] = [255, 255, 255];
const STATUS_TEXT: Rgb888 = Rgb888::new(255, 255, 255);

/// Draws detections and metrics into frames; reuses its buffers.
#[derive(Debug)]
pub struct Overlay {
    labels: Labels,
    text: String,
    status: String,
    taken: Vec<PixelRect>,
    /// Zones and lines.
    shapes: Vec<Shape>,
}

impl Overlay {
    /// An overlay with these class names.
    pub fn new(labels: Labels) -> Overlay {
        Overlay {
            labels,
            text: String::with_capacity(128),
            status: String::with_capacity(128),
            taken: Vec::with_capacity(128),
            shapes: Vec::new(),
        }
    }

    /// The same overlay with zones and lines, which it draws below all boxes.
    #[must_use]
    pub fn with_shapes(mut self, shapes: &[Shape]) -> Overlay {
        self.shapes.extend_from_slice(shapes);
        self
    }

    /// Draws boxes, labels and the status line into `rgb`, packed RGB of `size`.
    pub fn draw(&mut self, rgb: &mut [u8], size: Size, detections: &[Detection], stats: &Snapshot) {
        let (mut canvas, style) = (Canvas { rgb, size }, Style::for_size(size));
        self.write_status(stats);
        let (width, height) = style.extent(&self.status);
        let bar = PixelRect::new(0, 0, width + 4, height + 2);
        self.taken.clear();
        self.taken.push(bar);
        for shape in &self.shapes {
            canvas.shape(shape, &style);
        }
        self.detections(&mut canvas, &style, detections);
        canvas.darken(bar);
        canvas.text(&self.status, (4, 2), style.font, STATUS_TEXT);
    }

    /// Draws boxes and labels only, for single images.
    pub fn boxes(&mut self, rgb: &mut [u8], size: Size, detections: &[Detection]) {
        let (mut canvas, style) = (Canvas { rgb, size }, Style::for_size(size));
        self.taken.clear();
        self.detections(&mut canvas, &style, detections);
    }

    fn detections(&mut self, canvas: &mut Canvas<'_>, style: &Style, detections: &[Detection]) {
        // by ascending score, so that the highest is on top
        for detection in detections.iter().rev() {
            canvas.detection(detection, style.line);
        }
        // by descending score, so that the highest gets the first free place
        for detection in detections {
            self.tag(canvas, style, detection);
        }
    }

    /// Draws class, number of the track and score beside the box, where they cover no other tag. Without a free place the
    /// tag is omitted, since overlapping tags are not readable; the colour still shows the class.
    fn tag(&mut self, canvas: &mut Canvas<'_>, style: &Style, detection: &Detection) {
        self.text.clear();
        let mark = if is_small(detection) { " s" } else { "" };
        // writing to a String cannot fail
        let _ = write!(self.text, "{}", self.labels.name(detection.class_id));
        if let Some(id) = detection.track_id {
            let _ = write!(self.text, " {id}");
        }
        let _ = write!(self.text, " {:.2}{mark}", detection.score);
        let (width, height) = style.extent(&self.text);
        let PixelRect { x0, y0, x1, y1 } = pixels(detection);
        let (above, below) = (y0 - height - style.line, y1 + style.line);
        let right = x1 - width;
        // inside the box, for a box as tall as the frame
        let (top, bottom) = (y0, y1 - height);
        let places = [
            (x0, above),
            (right, above),
            (x0, below),
            (right, below),
            (x0, top),
            (x0, bottom),
        ];
        let limit = canvas.size;
        let free = places
            .map(|(x, y)| {
                let x = x.clamp(0, (limit.width as i32 - width).max(0));
                PixelRect::new(x, y, x + width, y + height)
            })
            .into_iter()
            .filter(|place| place.y0 >= 0 && place.y1 <= limit.height as i32)
            .find(|place| self.taken.iter().all(|&other| !place.overlaps(other)));
        if let Some(place) = free {
            canvas.fill(place, colour(detection));
            canvas.text(
                &self.text,
                (place.x0 + 2, place.y0 + 1),
                style.font,
                TAG_TEXT,
            );
            self.taken.push(place);
        }
    }

    /// The status line, such as `24.9 fps  p95 41 ms  27.3 W  0.91 J/frame  dropped 3`.
    fn write_status(&mut self, stats: &Snapshot) {
        self.status.clear();
        let _ = match stats.fps {
            Some(fps) => write!(self.status, "{fps:.1} fps"),
            None => write!(self.status, "- fps"),
        };
        if let Some(p95) = stats.latency_p95 {
            let _ = write!(self.status, "  p95 {:.0} ms", 1e3 * p95.as_secs_f64());
        }
        let _ = match &stats.energy {
            Some(energy) => match energy.per_frame {
                Some(joules) => write!(self.status, "  {}  {joules}/frame", energy.average),
                None => write!(self.status, "  {}", energy.average),
            },
            None => write!(self.status, "  no power meter"),
        };
        let dropped = stats.drops.driver + stats.drops.replaced + stats.drops.damaged;
        if dropped > 0 {
            let _ = write!(self.status, "  dropped {dropped}");
        }
    }
}

fn colour(detection: &Detection) -> [u8; 3] {
    COLOURS[detection.class_id % COLOURS.len()]
}

fn is_small(detection: &Detection) -> bool {
    detection.bbox.area_class() == AreaClass::Small
}

/// The pixels that a box touches.
fn pixels(detection: &Detection) -> PixelRect {
    let bbox = detection.bbox;
    PixelRect {
        x0: bbox.x0() as i32,
        y0: bbox.y0() as i32,
        x1: bbox.x1().ceil() as i32,
        y1: bbox.y1().ceil() as i32,
    }
}

/// Font and line width by frame size: readable at 320 px and at 1920 px.
struct Style {
    font: &'static MonoFont<'static>,
    line: i32,
}

impl Style {
    fn for_size(size: Size) -> Style {
        let (font, line) = match size.width {
            0..=479 => (&FONT_6X10, 1),
            480..=1439 => (&FONT_9X15_BOLD, 2),
            _ => (&FONT_10X20, 3),
        };
        Style { font, line }
    }

    /// Width and height of a tag around one line of text.
    fn extent(&self, text: &str) -> (i32, i32) {
        let cell = self.font.character_size;
        (
            text.chars().count() as i32 * cell.width as i32 + 4,
            cell.height as i32 + 2,
        )
    }
}

/// A rectangle in pixels, half-open; parts of it may be outside the frame.
#[derive(Clone, Copy, Debug)]
struct PixelRect {
    x0: i32,
    y0: i32,
    x1: i32,
    y1: i32,
}

impl PixelRect {
    fn new(x0: i32, y0: i32, x1: i32, y1: i32) -> PixelRect {
        PixelRect { x0, y0, x1, y1 }
    }

    fn overlaps(self, other: PixelRect) -> bool {
        self.x0 < other.x1 && other.x0 < self.x1 && self.y0 < other.y1 && other.y0 < self.y1
    }
}

struct Canvas<'a> {
    rgb: &'a mut [u8],
    size: Size,
}

impl Canvas<'_> {
    fn detection(&mut self, detection: &Detection, line: i32) {
        let area = pixels(detection);
        if is_small(detection) {
            // an outline would hide a small object: draw brackets outside its corners
            let PixelRect { x0, y0, x1, y1 } = area;
            let around = PixelRect::new(x0 - 2, y0 - 2, x1 + 2, y1 + 2);
            self.brackets(around, line, colour(detection));
        } else {
            self.outline(area, line, colour(detection));
        }
    }

    /// Draws a zone or a line half transparent, with its name; a line also with a mark on the side that
    /// is forward.
    fn shape(&mut self, shape: &Shape, style: &Style) {
        let (width, height) = (self.size.width as f32, self.size.height as f32);
        let pixel = |&[x, y]: &[f32; 2]| [x * (width - 1.0), y * (height - 1.0)];
        let mut ends = shape.points.iter().map(pixel);
        let Some(first) = ends.next() else { return };
        let mut before = first;
        for point in ends.chain(shape.closed.then_some(first)) {
            self.stroke(before, point);
            if !shape.closed {
                let (dx, dy) = (point[0] - before[0], point[1] - before[1]);
                let middle = [before[0] + dx / 2.0, before[1] + dy / 2.0];
                let part = 6.0 * style.line as f32 / dx.hypot(dy).max(1.0);
                // to the right of the line, as seen from its beginning
                self.stroke(middle, [middle[0] - part * dy, middle[1] + part * dx]);
            }
            before = point;
        }
        let (text_width, text_height) = (
            FONT_6X10.character_size.width as i32 * shape.name.chars().count() as i32,
            FONT_6X10.character_size.height as i32,
        );
        let place = (
            (first[0] as i32 + 3).clamp(0, (width as i32 - text_width).max(0)),
            (first[1] as i32 + 3).clamp(0, (height as i32 - text_height).max(0)),
        );
        let [r, g, b] = SHAPE;
        self.text(&shape.name, place, &FONT_6X10, Rgb888::new(r, g, b));
    }

    /// Mixes a straight line of one pixel's width into the picture, half of its colour each.
    fn stroke(&mut self, [ax, ay]: [f32; 2], [bx, by]: [f32; 2]) {
        let steps = (bx - ax).abs().max((by - ay).abs()).ceil().max(1.0);
        for step in 0..=steps as u32 {
            let part = step as f32 / steps;
            let (x, y) = (ax + part * (bx - ax), ay + part * (by - ay));
            let (x, y) = (x.round() as i32, y.round() as i32);
            self.rows(PixelRect::new(x, y, x + 1, y + 1), |pixel| {
                for (value, colour) in pixel.iter_mut().zip(SHAPE) {
                    *value = value.midpoint(colour);
                }
            });
        }
    }

    /// Calls `each` with the part of every row of the rectangle that is inside the frame.
    fn rows(&mut self, area: PixelRect, mut each: impl FnMut(&mut [u8])) {
        let clamp = |v: i32, limit: u32| v.clamp(0, limit as i32) as usize;
        let (width, height) = (self.size.width, self.size.height);
        let (x0, x1) = (clamp(area.x0, width), clamp(area.x1, width));
        let (y0, y1) = (clamp(area.y0, height), clamp(area.y1, height));
        let stride = 3 * width as usize;
        if x0 < x1 {
            (y0..y1).for_each(|y| each(&mut self.rgb[y * stride + 3 * x0..y * stride + 3 * x1]));
        }
    }

    fn fill(&mut self, area: PixelRect, colour: [u8; 3]) {
        self.rows(area, |row| {
            row.chunks_exact_mut(3)
                .for_each(|pixel| pixel.copy_from_slice(&colour))
        });
    }

    fn darken(&mut self, area: PixelRect) {
        self.rows(area, |row| row.iter_mut().for_each(|value| *value /= 4));
    }

    fn outline(&mut self, area: PixelRect, line: i32, colour: [u8; 3]) {
        let PixelRect { x0, y0, x1, y1 } = area;
        self.fill(PixelRect::new(x0, y0, x1, y0 + line), colour);
        self.fill(PixelRect::new(x0, y1 - line, x1, y1), colour);
        self.fill(PixelRect::new(x0, y0, x0 + line, y1), colour);
        self.fill(PixelRect::new(x1 - line, y0, x1, y1), colour);
    }

    fn brackets(&mut self, area: PixelRect, line: i32, colour: [u8; 3]) {
        let PixelRect { x0, y0, x1, y1 } = area;
        let (arm_x, arm_y) = (((x1 - x0) / 3).max(line + 1), ((y1 - y0) / 3).max(line + 1));
        for (y, rows) in [(y0, (y0, y0 + arm_y)), (y1 - line, (y1 - arm_y, y1))] {
            self.fill(PixelRect::new(x0, y, x0 + arm_x, y + line), colour);
            self.fill(PixelRect::new(x1 - arm_x, y, x1, y + line), colour);
            self.fill(PixelRect::new(x0, rows.0, x0 + line, rows.1), colour);
            self.fill(PixelRect::new(x1 - line, rows.0, x1, rows.1), colour);
        }
    }

    fn text(&mut self, text: &str, (x, y): (i32, i32), font: &MonoFont<'_>, colour: Rgb888) {
        let style = MonoTextStyle::new(font, colour);
        let Ok(_) = Text::with_baseline(text, Point::new(x, y), style, Baseline::Top).draw(self);
    }
}

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> embedded_graphics::geometry::Size {
        embedded_graphics::geometry::Size::new(self.size.width, self.size.height)
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = embedded_graphics::Pixel<Rgb888>>,
    {
        for embedded_graphics::Pixel(point, colour) in pixels {
            self.fill(
                PixelRect::new(point.x, point.y, point.x + 1, point.y + 1),
                [colour.r(), colour.g(), colour.b()],
            );
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, colour: Rgb888) -> Result<(), Infallible> {
        let (corner, size) = (area.top_left, area.size);
        let far = corner + Point::new(size.width as i32, size.height as i32);
        self.fill(
            PixelRect::new(corner.x, corner.y, far.x, far.y),
            [colour.r(), colour.g(), colour.b()],
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::BBox;

    const SIZE: Size = Size::new(640, 480);

    fn drawn(boxes: &[[f32; 4]]) -> Vec<u8> {
        let names: Vec<String> = ["person", "car"].map(String::from).to_vec();
        let detections: Vec<Detection> = boxes
            .iter()
            .map(|&[x0, y0, x1, y1]| Detection {
                class_id: 0,
                score: 0.5,
                bbox: BBox::clamped(x0, y0, x1, y1, SIZE),
                track_id: None,
            })
            .collect();
        let mut rgb = vec![50; 3 * SIZE.area()];
        Overlay::new(Labels::new(&names)).draw(&mut rgb, SIZE, &detections, &Snapshot::default());
        rgb
    }

    fn pixel(rgb: &[u8], x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (y * SIZE.width as usize + x);
        [rgb[at], rgb[at + 1], rgb[at + 2]]
    }

    #[test]
    fn a_large_box_has_a_closed_outline_and_an_untouched_inside() {
        let rgb = drawn(&[[100.0, 100.0, 300.0, 400.0]]);
        for (x, y) in [(100, 100), (200, 100), (299, 250), (150, 399), (100, 250)] {
            assert_eq!(pixel(&rgb, x, y), COLOURS[0], "{x},{y}");
        }
        assert_eq!(pixel(&rgb, 200, 250), [50; 3]);
        // the tag above the box holds its colour and black letters
        let tag: Vec<[u8; 3]> = (100..190).map(|x| pixel(&rgb, x, 90)).collect();
        assert!(tag.contains(&COLOURS[0]) && tag.contains(&[0; 3]));
    }

    #[test]
    fn the_number_of_a_track_stands_in_its_tag() {
        let tag_of = |track_id| {
            let mut rgb = vec![50; 3 * SIZE.area()];
            let detection = Detection {
                class_id: 0,
                score: 0.5,
                bbox: BBox::clamped(100.0, 100.0, 300.0, 400.0, SIZE),
                track_id,
            };
            let labels = Labels::new(&["person".to_owned()]);
            Overlay::new(labels).boxes(&mut rgb, SIZE, &[detection]);
            // the tag's length
            (100..400)
                .filter(|&x| pixel(&rgb, x, 81) == COLOURS[0])
                .count()
        };
        let twelve = tag_of(std::num::NonZeroU32::new(12));
        assert_eq!(twelve, tag_of(None) + 3 * 9, "a blank and two digits");
    }

    #[test]
    fn zones_and_lines_are_drawn_half_transparent_with_the_forward_side_marked() {
        let shape = |points: &[[f32; 2]], closed| Shape {
            name: String::new(),
            points: points.to_vec(),
            closed,
        };
        let zone = shape(&[[0.1, 0.2], [0.4, 0.2], [0.4, 0.6], [0.1, 0.6]], true);
        let line = shape(&[[0.6, 0.5], [0.9, 0.5]], false);
        let mut rgb = vec![51; 3 * SIZE.area()];
        Overlay::new(Labels::new(&[]))
            .with_shapes(&[zone, line])
            .draw(&mut rgb, SIZE, &[], &Snapshot::default());
        let mixed = [153; 3];
        for (x, y) in [
            (150, 96),
            (64, 200),
            (256, 200),
            (150, 287),
            (400, 240),
            (560, 240),
        ] {
            assert_eq!(pixel(&rgb, x, y), mixed, "{x},{y}");
        }
        assert_eq!(pixel(&rgb, 150, 200), [51; 3], "the inside is untouched");
        // a line from left to right is crossed forward downwards
        let below = (470..490).filter(|&x| pixel(&rgb, x, 246) == mixed).count();
        let above = (470..490).filter(|&x| pixel(&rgb, x, 234) == mixed).count();
        assert_eq!((below, above), (1, 0));
    }

    #[test]
    fn a_small_box_has_brackets_only() {
        let rgb = drawn(&[[200.0, 200.0, 224.0, 224.0]]);
        assert_eq!(pixel(&rgb, 198, 198), COLOURS[0]);
        assert_eq!(
            pixel(&rgb, 212, 198),
            [50; 3],
            "the middle of the top side is open"
        );
        assert_eq!(pixel(&rgb, 212, 212), [50; 3]);
    }

    #[test]
    fn tags_stay_inside_the_frame() {
        let rgb = drawn(&[[600.0, 0.0, 640.0, 60.0], [0.0, 440.0, 20.0, 480.0]]);
        assert_eq!(
            pixel(&rgb, 639, 70),
            COLOURS[0],
            "no room above: the tag is below, moved left"
        );
        assert_eq!(pixel(&rgb, 1, 425), COLOURS[0]);
    }

    #[test]
    fn tags_of_neighbours_do_not_cover_each_other() {
        let apart = drawn(&[[100.0, 100.0, 180.0, 300.0], [400.0, 100.0, 480.0, 300.0]]);
        let together = drawn(&[[100.0, 100.0, 180.0, 300.0], [130.0, 100.0, 210.0, 300.0]]);
        // the tag of the highest score has the same place as without the neighbour
        for x in 100..180 {
            assert_eq!(pixel(&together, x, 90), pixel(&apart, x, 90), "{x}");
        }
        // the tag of the other box is below it
        assert_eq!(pixel(&together, 131, 304), COLOURS[0]);
        assert_eq!(pixel(&apart, 401, 304), [50; 3]);
    }

    #[test]
    fn a_tag_without_a_free_place_is_left_out() {
        let same = |count| drawn(&vec![[300.0, 200.0, 420.0, 400.0]; count]);
        // a box has at most six places
        assert!(same(7) == same(6) && same(2) != same(1));
    }

    #[test]
    fn the_status_line_covers_no_tag() {
        let rgb = drawn(&[[10.0, 20.0, 90.0, 200.0], [100.0, 0.0, 300.0, 480.0]]);
        assert_eq!(pixel(&rgb, 11, 204), COLOURS[0], "the tag is below");
        assert_eq!(pixel(&rgb, 150, 476), COLOURS[0], "the tag is inside");
    }

    #[test]
    fn the_status_line_is_white_on_dark() {
        let rgb = drawn(&[]);
        let line: Vec<[u8; 3]> = (0..60).map(|x| pixel(&rgb, x, 8)).collect();
        assert!(line.contains(&[255; 3]) && line.contains(&[12; 3]));
        assert_eq!(pixel(&rgb, 600, 8), [50; 3]);
    }
}

//! Points in polygons of any shape.

use super::options::Point;
use crate::geometry::Size;

/// A polygon in pixels; concave ones and those that cross themselves (even-odd rule) among them.
#[derive(Clone, Debug, Default)]
pub(super) struct PixelPolygon {
    corners: Vec<[f32; 2]>,
    /// Largest distance of a point inside from the border, about.
    depth: f32,
}

/// Where an anchor is with its margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Inside as a whole.
    Inside,
    /// Outside as a whole.
    Outside,
    /// On the border.
    Uncertain,
}

/// Points a side of the grid that the deepest place is searched on.
const GRID: u16 = 48;

impl PixelPolygon {
    pub(super) fn new(polygon: &[Point], size: Size) -> PixelPolygon {
        let corners = polygon.iter().map(|point| point.pixels(size)).collect();
        let inside = PixelPolygon {
            corners,
            depth: 0.0,
        };
        PixelPolygon {
            corners: pushed_out(polygon, size),
            depth: inside.search_depth(),
        }
    }

    /// The side of an anchor with a margin of `reach` pixels across and down. In a polygon that is
    /// narrow for the margin, half of its depth is enough to be inside: else nobody could be.
    pub(super) fn side(&self, anchor: [f32; 2], reach: [f32; 2]) -> Side {
        match self.contains(anchor) {
            true => {
                let enough = reach.map(|reach| reach.min(self.depth / 2.0));
                match self.border_meets(anchor, enough) {
                    true => Side::Uncertain,
                    false => Side::Inside,
                }
            }
            false if self.border_meets(anchor, reach) => Side::Uncertain,
            false => Side::Outside,
        }
    }

    fn edges(&self) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
        let next = self.corners.iter().cycle().skip(1);
        self.corners.iter().copied().zip(next.copied())
    }

    /// Even-odd rule: a ray to the right meets the border an odd number of times. A point on an edge
    /// may be either; with a margin above 0 it is uncertain.
    fn contains(&self, [x, y]: [f32; 2]) -> bool {
        let mut inside = false;
        for ([ax, ay], [bx, by]) in self.edges() {
            // half-open, so that a corner at the ray's height is met once
            if (ay > y) != (by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax) {
                inside = !inside;
            }
        }
        inside
    }

    /// Whether an edge meets the rectangle of `reach` around a point, its border included.
    fn border_meets(&self, [x, y]: [f32; 2], [rx, ry]: [f32; 2]) -> bool {
        self.edges().any(|([ax, ay], [bx, by])| {
            // the edge cut by the two pairs of sides (Liang and Barsky 1984)
            let (mut enter, mut leave) = (0.0f32, 1.0f32);
            for (from, to, reach) in [(ax - x, bx - x, rx), (ay - y, by - y, ry)] {
                let step = to - from;
                if step == 0.0 {
                    if from.abs() > reach {
                        return false;
                    }
                    continue;
                }
                let (a, b) = ((-reach - from) / step, (reach - from) / step);
                enter = enter.max(a.min(b));
                leave = leave.min(a.max(b));
            }
            enter <= leave
        })
    }

    /// Distance from the border of the deepest point of a grid over the polygon.
    fn search_depth(&self) -> f32 {
        let ends = |axis: usize| {
            let along = self.corners.iter().map(|corner| corner[axis]);
            along.fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), at| {
                (least.min(at), most.max(at))
            })
        };
        let ((x0, x1), (y0, y1)) = (ends(0), ends(1));
        let part = |index: u16| (f32::from(index) + 0.5) / f32::from(GRID);
        let mut depth = 0.0f32;
        for row in 0..GRID {
            for col in 0..GRID {
                let point = [x0 + part(col) * (x1 - x0), y0 + part(row) * (y1 - y0)];
                if self.contains(point) {
                    depth = depth.max(self.distance(point));
                }
            }
        }
        depth
    }

    /// Distance of a point from the border.
    fn distance(&self, [x, y]: [f32; 2]) -> f32 {
        let to_edge = |([ax, ay], [bx, by]): ([f32; 2], [f32; 2])| {
            let (ux, uy) = (bx - ax, by - ay);
            let along =
                ((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy).max(f32::MIN_POSITIVE);
            let part = along.clamp(0.0, 1.0);
            (ax + part * ux - x).hypot(ay + part * uy - y)
        };
        self.edges().map(to_edge).fold(f32::INFINITY, f32::min)
    }
}

/// The corners in pixels, with the edges that run along the frame's border moved far outside: nobody
/// passes those, and a margin around somebody at the border must not meet them.
fn pushed_out(polygon: &[Point], size: Size) -> Vec<[f32; 2]> {
    let far = 4.0 * size.width.max(size.height) as f32;
    let push = |a: Point, b: Point| {
        [0, 1].map(|axis| match (a.fractions()[axis], b.fractions()[axis]) {
            (0.0, 0.0) => -far,
            (1.0, 1.0) => far,
            _ => 0.0,
        })
    };
    let mut corners = Vec::with_capacity(2 * polygon.len());
    for (index, &corner) in polygon.iter().enumerate() {
        let before = polygon[(index + polygon.len() - 1) % polygon.len()];
        let after = polygon[(index + 1) % polygon.len()];
        let ([ax, ay], [bx, by]) = (push(before, corner), push(corner, after));
        let [x, y] = corner.pixels(size);
        let moved = [[x + ax, y + ay], [x + bx, y + by]];
        match ([ax, ay], [bx, by]) {
            (first, second) if first == second => corners.push(moved[0]),
            ([0.0, 0.0], _) | (_, [0.0, 0.0]) => corners.extend(moved),
            // a corner of the frame
            _ => corners.push([x + ax + bx, y + ay + by]),
        }
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(100, 100);

    fn polygon(corners: &[[f32; 2]]) -> PixelPolygon {
        let points: Vec<Point> = corners.iter().map(|&corner| Point(corner)).collect();
        PixelPolygon::new(&points, SIZE)
    }

    /// A letter C, open to the right.
    fn letter() -> PixelPolygon {
        polygon(&[
            [0.1, 0.1],
            [0.9, 0.1],
            [0.9, 0.3],
            [0.3, 0.3],
            [0.3, 0.7],
            [0.9, 0.7],
            [0.9, 0.9],
            [0.1, 0.9],
        ])
    }

    #[test]
    fn a_concave_polygon_has_its_hollow_outside() {
        let letter = letter();
        for (point, side) in [
            ([20.0, 50.0], Side::Inside),
            ([80.0, 20.0], Side::Inside),
            ([80.0, 80.0], Side::Inside),
            ([60.0, 50.0], Side::Outside),
            ([95.0, 50.0], Side::Outside),
            ([5.0, 5.0], Side::Outside),
        ] {
            assert_eq!(letter.side(point, [2.0, 2.0]), side, "{point:?}");
        }
    }

    #[test]
    fn edges_and_corners_are_uncertain() {
        let letter = letter();
        for point in [
            [10.0, 50.0],
            [30.0, 50.0],
            [10.0, 10.0],
            [30.0, 30.0],
            [90.0, 70.0],
        ] {
            for reach in [[0.001, 0.001], [2.0, 2.0]] {
                assert_eq!(letter.side(point, reach), Side::Uncertain, "{point:?}");
            }
        }
        // at the height of corners the rule of the ray holds as well
        assert_eq!(letter.side([20.0, 30.0], [1.0, 1.0]), Side::Inside);
        assert_eq!(letter.side([5.0, 30.0], [1.0, 1.0]), Side::Outside);
    }

    #[test]
    fn the_margin_is_a_box_around_the_anchor() {
        let square = polygon(&[[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]]);
        assert_eq!(square.side([27.0, 50.0], [6.0, 10.0]), Side::Inside);
        assert_eq!(square.side([25.0, 50.0], [6.0, 10.0]), Side::Uncertain);
        assert_eq!(square.side([15.0, 50.0], [6.0, 10.0]), Side::Uncertain);
        assert_eq!(square.side([13.0, 50.0], [6.0, 10.0]), Side::Outside);
        assert_eq!(square.side([50.0, 85.0], [6.0, 10.0]), Side::Uncertain);
    }

    #[test]
    fn a_strip_narrower_than_a_box_can_be_entered() {
        let strip = polygon(&[[0.0, 0.5], [1.0, 0.5], [1.0, 0.54], [0.0, 0.54]]);
        assert_eq!(strip.side([50.0, 52.0], [20.0, 40.0]), Side::Inside);
        assert_eq!(strip.side([50.0, 50.5], [20.0, 40.0]), Side::Uncertain);
        assert_eq!(strip.side([50.0, 60.0], [20.0, 40.0]), Side::Uncertain);
        assert_eq!(strip.side([50.0, 95.0], [20.0, 40.0]), Side::Outside);
    }

    #[test]
    fn the_borders_of_the_frame_are_no_borders_of_a_zone() {
        let corner = polygon(&[[0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.5, 1.0]]);
        let reach = [10.0, 20.0];
        for inside in [[99.0, 100.0], [75.0, 100.0], [100.0, 75.0], [65.0, 100.0]] {
            assert_eq!(corner.side(inside, reach), Side::Inside, "{inside:?}");
        }
        assert_eq!(corner.side([55.0, 100.0], reach), Side::Uncertain);
        assert_eq!(corner.side([35.0, 100.0], reach), Side::Outside);
        let whole = polygon(&[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]);
        for point in [[0.0, 0.0], [100.0, 100.0], [0.0, 100.0], [50.0, 50.0]] {
            assert_eq!(whole.side(point, reach), Side::Inside, "{point:?}");
        }
        let slanted = polygon(&[[0.2, 0.2], [1.0, 0.4], [1.0, 0.8], [0.2, 0.6]]);
        assert_eq!(slanted.side([99.0, 60.0], [5.0, 5.0]), Side::Inside);
        assert_eq!(slanted.side([99.0, 40.0], [5.0, 5.0]), Side::Uncertain);
    }

    #[test]
    fn any_order_and_crossed_edges_are_allowed() {
        let turned = polygon(&[[0.2, 0.8], [0.8, 0.8], [0.8, 0.2], [0.2, 0.2]]);
        assert_eq!(turned.side([50.0, 50.0], [5.0, 5.0]), Side::Inside);
        let bow_tie = polygon(&[[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]]);
        assert_eq!(bow_tie.side([80.0, 50.0], [5.0, 5.0]), Side::Inside);
        assert_eq!(bow_tie.side([20.0, 50.0], [5.0, 5.0]), Side::Inside);
        assert_eq!(bow_tie.side([50.0, 20.0], [5.0, 5.0]), Side::Outside);
    }
}

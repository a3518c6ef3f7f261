//! Crossings of a line between two points.

use super::options::Point;
use crate::geometry::Size;

/// Which way a line was crossed. Somebody who stands at the line's beginning and looks to its end has
/// the picture's one part to the left and the other to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the left to the right: a line drawn from left to right is crossed downwards.
    Forward,
    /// From the right to the left.
    Backward,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        }
    }
}

/// A line in pixels.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PixelLine {
    from: [f32; 2],
    /// Unit vector along the line.
    along: [f32; 2],
    length: f32,
}

/// A side of the endless line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// A track at one line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineState {
    /// The side that the track is on for certain.
    certain: Option<Side>,
    /// The last anchor that was not on the line itself, with its side.
    last: Option<([f32; 2], Side)>,
    /// Whether the anchor's last passage was between the line's ends.
    between: bool,
}

impl PixelLine {
    pub(super) fn new(from: Point, to: Point, size: Size) -> PixelLine {
        let (from, to) = (from.pixels(size), to.pixels(size));
        let vector = [to[0] - from[0], to[1] - from[1]];
        let length = vector[0].hypot(vector[1]).max(f32::MIN_POSITIVE);
        PixelLine {
            from,
            along: vector.map(|part| part / length),
            length,
        }
    }

    /// Moves a track's anchor on; the direction if the line is crossed. `reach` is the margin around
    /// the anchor, across and down.
    ///
    /// The crossing counts when the margin is on the other side as a whole. The place where the anchor
    /// passed the endless line the last time before decides whether it was between the ends.
    pub(super) fn step(
        &self,
        state: &mut LineState,
        anchor: [f32; 2],
        reach: [f32; 2],
    ) -> Option<Direction> {
        let distance = self.distance(anchor);
        let side = match distance {
            d if d > 0.0 => Side::Right,
            d if d < 0.0 => Side::Left,
            _ => return None,
        };
        if let Some((before, side_before)) = state.last.replace((anchor, side))
            && side_before != side
        {
            state.between = self.passes_between_ends(before, anchor);
        }
        let [x, y] = self.along;
        if distance.abs() <= y.abs() * reach[0] + x.abs() * reach[1] {
            return None;
        }
        let before = state.certain.replace(side)?;
        if before == side || !state.between {
            return None;
        }
        Some(match side {
            Side::Right => Direction::Forward,
            Side::Left => Direction::Backward,
        })
    }

    /// Pixels to the right of the line; below 0 to the left.
    fn distance(&self, [x, y]: [f32; 2]) -> f32 {
        self.along[0] * (y - self.from[1]) - self.along[1] * (x - self.from[0])
    }

    /// Whether the way between two points on different sides meets the line between its ends.
    fn passes_between_ends(&self, a: [f32; 2], b: [f32; 2]) -> bool {
        let (before, after) = (self.distance(a).abs(), self.distance(b).abs());
        let part = before / (before + after);
        let at = [a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])];
        let along = self.along[0] * (at[0] - self.from[0]) + self.along[1] * (at[1] - self.from[1]);
        (0.0..=self.length).contains(&along)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(100, 100);
    const REACH: [f32; 2] = [5.0, 5.0];

    fn line(from: [f32; 2], to: [f32; 2]) -> PixelLine {
        PixelLine::new(Point(from), Point(to), SIZE)
    }

    fn crossings(line: &PixelLine, path: &[[f32; 2]]) -> Vec<Direction> {
        let mut state = LineState::default();
        let steps = path
            .iter()
            .filter_map(|&anchor| line.step(&mut state, anchor, REACH));
        steps.collect()
    }

    #[test]
    fn the_direction_is_as_seen_from_the_lines_beginning() {
        let across = line([0.2, 0.5], [0.8, 0.5]);
        let (up, down) = ([50.0, 30.0], [50.0, 70.0]);
        assert_eq!(crossings(&across, &[up, down]), [Direction::Forward]);
        assert_eq!(crossings(&across, &[down, up]), [Direction::Backward]);
        let upwards = line([0.5, 0.8], [0.5, 0.2]);
        let (left, right) = ([30.0, 50.0], [70.0, 50.0]);
        assert_eq!(crossings(&upwards, &[left, right]), [Direction::Forward]);
        assert_eq!(
            crossings(&upwards, &[right, left, right]),
            [Direction::Backward, Direction::Forward]
        );
    }

    #[test]
    fn a_passage_beyond_the_ends_is_none() {
        let line = line([0.2, 0.5], [0.8, 0.5]);
        assert_eq!(crossings(&line, &[[10.0, 30.0], [10.0, 70.0]]), []);
        assert_eq!(crossings(&line, &[[90.0, 30.0], [90.0, 70.0]]), []);
        // around the end and back over the line
        let round = [
            [50.0, 30.0],
            [90.0, 40.0],
            [90.0, 60.0],
            [50.0, 70.0],
            [50.0, 30.0],
        ];
        assert_eq!(crossings(&line, &round), [Direction::Backward]);
        // the straight way between the first point and the last meets the line, the path does not
        let corner = [[70.0, 30.0], [85.0, 49.0], [85.0, 51.0], [60.0, 70.0]];
        assert_eq!(crossings(&line, &corner), []);
        // the ends belong to the line
        assert_eq!(
            crossings(&line, &[[20.0, 30.0], [20.0, 70.0]]),
            [Direction::Forward]
        );
    }

    #[test]
    fn within_the_margin_nothing_is_decided() {
        let line = line([0.0, 0.5], [1.0, 0.5]);
        let near = [
            [50.0, 40.0],
            [50.0, 53.0],
            [50.0, 48.0],
            [50.0, 54.0],
            [50.0, 50.0],
        ];
        assert_eq!(crossings(&line, &near), []);
        let over = [near.as_slice(), &[[50.0, 56.0], [50.0, 46.0], [50.0, 56.0]]].concat();
        assert_eq!(crossings(&line, &over), [Direction::Forward]);
        let begins_near = [[50.0, 52.0], [50.0, 60.0]];
        assert_eq!(
            crossings(&line, &begins_near),
            [],
            "nobody knows where it came from"
        );
    }
}

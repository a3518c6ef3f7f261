//! A constant-velocity Kalman filter of a box in continuous time.
//!
//! The filter of SORT (Bewley et al. 2016) and ByteTrack (Zhang et al. 2022) has eight dimensions:
//! four coordinates and their velocities. All its noise is diagonal and every coordinate depends on
//! its own velocity alone, so it is four filters of two dimensions, which need no matrices. Theirs
//! counts frames; this one counts seconds, with white noise of acceleration, so that frames may come
//! at any rate and some may be missing.

use crate::geometry::BBox;

/// Standard deviation of a detected side, in box sizes: ByteTrack's 1/20.
const MEASURED: f32 = 0.05;
/// Standard deviation of an unknown velocity, in box sizes a second. Somebody 1.7 m tall walks 0.8 a
/// second and runs 3.
const SPEED: f32 = 1.5;
/// Change of velocity within a second (standard deviation), in box sizes a second.
const ACCELERATION: f32 = 0.7;
/// Drift of the position within a second (standard deviation), in box sizes: what a person's box does
/// by the movement of arms and legs.
const DRIFT: f32 = 0.15;

/// One coordinate and its velocity, with their covariance. Pixels and seconds.
#[derive(Clone, Copy, Debug)]
struct Axis {
    at: f32,
    velocity: f32,
    /// Variance of the position.
    pp: f32,
    /// Covariance of position and velocity.
    pv: f32,
    /// Variance of the velocity.
    vv: f32,
}

impl Axis {
    fn new(at: f32, size: f32) -> Axis {
        Axis {
            at,
            velocity: 0.0,
            pp: (2.0 * MEASURED * size).powi(2),
            pv: 0.0,
            vv: (SPEED * size).powi(2),
        }
    }

    fn predict(&mut self, dt: f32, size: f32) {
        let acceleration = (ACCELERATION * size).powi(2);
        self.at += dt * self.velocity;
        self.pp += dt * (2.0 * self.pv + dt * self.vv)
            + (DRIFT * size).powi(2) * dt
            + acceleration * dt.powi(3) / 3.0;
        self.pv += dt * self.vv + acceleration * dt * dt / 2.0;
        self.vv += acceleration * dt;
    }

    fn update(&mut self, measured: f32, size: f32) {
        let total = self.pp + (MEASURED * size).powi(2);
        let (gain, velocity_gain) = (self.pp / total, self.pv / total);
        let difference = measured - self.at;
        self.at += gain * difference;
        self.velocity += velocity_gain * difference;
        self.vv -= velocity_gain * self.pv;
        self.pv *= 1.0 - gain;
        self.pp *= 1.0 - gain;
    }
}

/// The filter of one box.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoxFilter {
    x: Axis,
    y: Axis,
    width: Axis,
    height: Axis,
}

impl BoxFilter {
    pub(super) fn new(bbox: &BBox) -> BoxFilter {
        let ([x, y, width, height], size) = (centre_and_sides(bbox), scale(bbox));
        BoxFilter {
            x: Axis::new(x, size),
            y: Axis::new(y, size),
            width: Axis::new(width, size),
            height: Axis::new(height, size),
        }
    }

    /// Moves the box on by `dt` seconds. That of a `lost` track keeps its size, which the last boxes
    /// before an occlusion tell least about.
    pub(super) fn predict(&mut self, dt: f32, lost: bool) {
        let size = self.size();
        for side in [&mut self.width, &mut self.height] {
            if lost {
                side.velocity = 0.0;
            }
        }
        for axis in [&mut self.x, &mut self.y, &mut self.width, &mut self.height] {
            axis.predict(dt, size);
        }
        for side in [&mut self.width, &mut self.height] {
            side.at = side.at.max(1.0);
        }
    }

    pub(super) fn update(&mut self, bbox: &BBox) {
        let (measured, size) = (centre_and_sides(bbox), scale(bbox));
        let axes = [&mut self.x, &mut self.y, &mut self.width, &mut self.height];
        for (axis, value) in axes.into_iter().zip(measured) {
            axis.update(value, size);
        }
    }

    /// Corners `[x0, y0, x1, y1]` in pixels; they may be outside the frame.
    pub(super) fn corners(&self) -> [f32; 4] {
        let (x, y) = (self.width.at / 2.0, self.height.at / 2.0);
        [self.x.at - x, self.y.at - y, self.x.at + x, self.y.at + y]
    }

    /// Standard deviation of the centre, across and down, in pixels.
    pub(super) fn spread(&self) -> [f32; 2] {
        [self.x.pp.sqrt(), self.y.pp.sqrt()]
    }

    fn size(&self) -> f32 {
        self.width.at.max(self.height.at)
    }
}

/// The length that all noise is measured in: the longer side, which is the height of a person and
/// the length of a car seen from its side.
fn scale(bbox: &BBox) -> f32 {
    bbox.width().max(bbox.height()).max(1.0)
}

fn centre_and_sides(bbox: &BBox) -> [f32; 4] {
    let (width, height) = (bbox.width(), bbox.height());
    [
        bbox.x0() + width / 2.0,
        bbox.y0() + height / 2.0,
        width,
        height,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;

    fn at(x: f32) -> BBox {
        BBox::clamped(x, 100.0, x + 20.0, 160.0, Size::new(2000, 400))
    }

    #[test]
    fn a_steady_walk_is_predicted_at_uneven_rates() {
        let mut filter = BoxFilter::new(&at(0.0));
        let mut x = 0.0;
        for dt in [
            0.03, 0.2, 0.1, 0.03, 0.03, 0.15, 0.1, 0.2, 0.05, 0.1, 0.1, 0.03,
        ] {
            x += 60.0 * dt;
            filter.predict(dt, false);
            filter.update(&at(x));
        }
        assert!((filter.x.velocity - 60.0).abs() < 3.0, "{filter:?}");
        filter.predict(1.0, true);
        assert!((filter.corners()[0] - (x + 60.0)).abs() < 4.0, "{filter:?}");
        assert!((filter.corners()[3] - 160.0).abs() < 1.0, "{filter:?}");
    }

    /// Two steps of prediction are one of their sum, and the filter is sure of less.
    #[test]
    fn time_may_be_cut_as_one_likes() {
        let mut once = BoxFilter::new(&at(50.0));
        once.predict(0.1, false);
        once.update(&at(56.0));
        let mut twice = once;
        let before = once.spread();
        once.predict(0.3, false);
        twice.predict(0.1, false);
        twice.predict(0.2, false);
        for (a, b) in once.corners().into_iter().zip(twice.corners()) {
            assert!((a - b).abs() < 1e-3);
        }
        let (a, b) = (once.spread()[0], twice.spread()[0]);
        assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
        assert!(a > before[0]);
    }

    #[test]
    fn a_box_never_becomes_empty() {
        let mut filter = BoxFilter::new(&at(0.0));
        for x in 1..20 {
            let thin = BBox::clamped(0.0, 100.0, 20.0 / x as f32, 101.0, Size::new(99, 400));
            filter.predict(0.1, false);
            filter.update(&thin);
        }
        filter.predict(10.0, false);
        let [x0, y0, x1, y1] = filter.corners();
        assert!(x1 - x0 >= 0.99 && y1 - y0 >= 0.99);
    }
}

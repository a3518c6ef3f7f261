//! People who walk across a picture, as a detector might see them.

use super::mot::{Compared, Numbered};
use fastrand::Rng;
use std::ops::Range;
use std::time::Duration;
use vovcam::analyse::track::tracker::{Tracker, TrackerOptions};
use vovcam::detection::Detection;
use vovcam::geometry::{BBox, Size};

const SIZE: Size = Size::new(1280, 720);
/// Length of a scene in seconds.
const LENGTH: f32 = 20.0;
/// Score threshold.
const THRESHOLD: f32 = 0.35;
/// Left and right edge of a pillar that hides who is behind it.
const PILLAR: Range<f32> = 600.0..690.0;

/// What makes a scene hard.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// People in it.
    pub(crate) people: usize,
    /// Frames per second: every frame's time is drawn anew.
    pub(crate) rates: [f32; 2],
    /// Part of the boxes that the detector misses.
    pub(crate) missed: f32,
    /// Part of the boxes whose score is below the threshold.
    pub(crate) low: f32,
    /// False boxes a frame.
    pub(crate) false_boxes: f32,
    /// Error of each side, as a part of the box (standard deviation, about).
    pub(crate) jitter: f32,
    /// Whether there is a pillar; passing it takes about a second.
    pub(crate) pillar: bool,
}

struct Person {
    id: u32,
    place: [f32; 2],
    velocity: [f32; 2],
    height: f32,
}

impl Person {
    fn new(id: u32, rng: &mut Rng) -> Person {
        let right = rng.bool();
        let height = 80.0 + 100.0 * rng.f32();
        // 0.6 to 1 of their height a second, near 1.3 m/s
        let speed = height * (0.6 + 0.4 * rng.f32());
        Person {
            id,
            place: [1280.0 * rng.f32(), 250.0 + 400.0 * rng.f32()],
            velocity: [
                if right { speed } else { -speed },
                0.1 * speed * (rng.f32() - 0.5),
            ],
            height,
        }
    }

    fn walk(&mut self, dt: f32, rng: &mut Rng) {
        for (place, velocity) in self.place.iter_mut().zip(&mut self.velocity) {
            *velocity += 0.2 * self.height * dt.sqrt() * normal(rng);
            *place += dt * *velocity;
        }
    }

    /// `[x0, y0, x1, y1]`; the place is the middle of the feet.
    fn corners(&self) -> [f32; 4] {
        let half = 0.2 * self.height;
        let [x, y] = self.place;
        [x - half, y - self.height, x + half, y]
    }

    fn is_in_picture(&self) -> bool {
        let [x0, y0, x1, y1] = self.corners();
        x0 >= 0.0 && y0 >= 0.0 && x1 <= SIZE.width as f32 && y1 <= SIZE.height as f32
    }
}

/// About a normal distribution of mean 0 and deviation 1.
fn normal(rng: &mut Rng) -> f32 {
    (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0
}

fn detection([x0, y0, x1, y1]: [f32; 4], score: f32) -> Detection {
    Detection {
        class_id: 0,
        score,
        bbox: BBox::clamped(x0, y0, x1, y1, SIZE),
        track_id: None,
    }
}

/// Whom a detector could see: hidden by the pillar are those whose middle is behind it.
fn is_visible(scene: &Scene, person: &Person) -> bool {
    person.is_in_picture() && !(scene.pillar && PILLAR.contains(&person.place[0]))
}

/// Runs the tracker over a scene; the boxes that have a number, beside the truth.
pub(crate) fn track(scene: &Scene, seed: u64) -> Vec<Compared> {
    let mut rng = Rng::with_seed(seed);
    let mut tracker = Tracker::new(TrackerOptions {
        confirm: 2,
        keep: Duration::from_secs(2),
        overlap: 0.2,
        sure: 0.15,
    });
    let mut people: Vec<Person> = (1..=scene.people as u32)
        .map(|id| Person::new(id, &mut rng))
        .collect();
    let mut next = scene.people as u32 + 1;
    let mut time = 0.0;
    let mut frames = Vec::new();
    while time < LENGTH {
        let [slowest, fastest] = scene.rates;
        let dt = 1.0 / (slowest + (fastest - slowest) * rng.f32());
        time += dt;
        for person in &mut people {
            person.walk(dt, &mut rng);
            if !person.is_in_picture() {
                *person = Person::new(next, &mut rng); // somebody else, anywhere
                next += 1;
            }
        }
        let truth: Vec<Numbered> = people
            .iter()
            .filter(|person| is_visible(scene, person))
            .map(|person| {
                let [x0, y0, x1, y1] = person.corners().map(f64::from);
                (person.id, [x0, y0, x1 - x0, y1 - y0])
            })
            .collect();
        let mut found = Vec::new();
        for person in people.iter().filter(|person| is_visible(scene, person)) {
            if rng.f32() < scene.missed {
                continue;
            }
            let sides = [0.4 * person.height, person.height];
            let mut corners = person.corners();
            for (index, corner) in corners.iter_mut().enumerate() {
                *corner += scene.jitter * sides[index % 2] * normal(&mut rng);
            }
            let low = rng.f32() < scene.low;
            let (least, range) = if low { (0.12, 0.2) } else { (THRESHOLD, 0.5) };
            let score = least + range * rng.f32();
            found.push(detection(corners, score));
        }
        let mut left = scene.false_boxes;
        while rng.f32() < left {
            left -= 1.0;
            let (x, y) = (1200.0 * rng.f32(), 600.0 * rng.f32());
            found.push(detection(
                [x, y, x + 50.0, y + 120.0],
                0.1 + 0.4 * rng.f32(),
            ));
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        tracker.step(Duration::from_secs_f32(time), &mut found, &[THRESHOLD]);
        let tracks = found.iter().filter_map(|detection| {
            let [x, y, w, h] = detection.bbox.xywh().map(f64::from);
            Some((detection.track_id?.get(), [x, y, w, h]))
        });
        frames.push(Compared {
            truth,
            tracks: tracks.collect(),
        });
    }
    frames
}

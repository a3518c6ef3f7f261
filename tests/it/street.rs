//! The bundled clip with the demo's settings against boxes drawn by hand on every fourth frame:
//! what the shipped model finds, and what it invents.
//!
//! `cargo test --release --test it street -- --nocapture` prints the figures of models/README.md.

#![allow(clippy::print_stdout, reason = "prints what it measured")]

use crate::support::{CLIP, finish, vovcam};
use serde::Deserialize;
use vovcam::geometry::BBox;
use vovcam::geometry::Size;

const PERSON: usize = 1;

/// COCO form; `image_id` is the frame's number in the clip.
#[derive(Deserialize)]
struct Labels {
    images: Vec<LabelledFrame>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct LabelledFrame {
    id: usize,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: usize,
    category_id: usize,
    bbox: [f32; 4],
    /// Mostly hidden: neither wanted nor false.
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Line {
    frame_id: usize,
    detections: Vec<Detection>,
}

#[derive(Deserialize)]
struct Detection {
    label: String,
    bbox: [f32; 4],
}

fn bbox([x, y, width, height]: [f32; 4]) -> BBox {
    BBox::clamped(x, y, x + width, y + height, Size::new(768, 576))
}

/// Whether a label names what the category is; a van may be a car, a truck or a bus.
fn names(label: &str, category: usize) -> bool {
    match category {
        PERSON => label == "person",
        _ => ["car", "truck", "bus"].contains(&label),
    }
}

/// The demo's log, with further options.
fn detect(options: &[&str]) -> Vec<Line> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("detections.jsonl");
    let run = finish(
        vovcam()
            .args(["run", "--source", CLIP, "--headless"])
            .args(["--input", "640", "--precision", "f32", "--jsonl"])
            .arg(&log)
            .args(options),
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let log = std::fs::read_to_string(log).unwrap();
    let frames = log
        .lines()
        .filter(|line| line.contains(r#""type":"frame""#));
    frames
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Part of the people that are found, and false boxes a frame.
fn recall_and_false_boxes(options: &[&str]) -> (f64, f64) {
    let labels: Labels = serde_json::from_str(include_str!("../fixtures/street.json")).unwrap();
    let log = detect(options);
    let (mut wanted, mut found, mut invented) = (0, 0, 0);
    for frame in &labels.images {
        let line = log.iter().find(|line| line.frame_id == frame.id).unwrap();
        let of_frame = labels.annotations.iter().filter(|a| a.image_id == frame.id);
        // the log has the highest score first, and each object is found once
        let (hidden, mut open): (Vec<_>, Vec<_>) = of_frame.partition(|a| a.iscrowd == 1);
        let people = |annotations: &[&Annotation]| {
            let people = annotations.iter().filter(|a| a.category_id == PERSON);
            people.count()
        };
        let all = people(&open);
        for detection in &line.detections {
            let place = bbox(detection.bbox);
            let near = |a: &&Annotation| bbox(a.bbox).iou(&place);
            let fits = |a: &&Annotation| names(&detection.label, a.category_id) && near(a) >= 0.5;
            let best = (0..open.len())
                .filter(|&i| fits(&open[i]))
                .max_by(|&a, &b| near(&open[a]).total_cmp(&near(&open[b])));
            match best {
                Some(index) => drop(open.swap_remove(index)),
                None if hidden.iter().any(|a| near(a) >= 0.3) => {}
                None => invented += 1,
            }
        }
        wanted += all;
        found += all - people(&open);
    }
    let frames = labels.images.len();
    let recall = found as f64 / wanted as f64;
    let invented = f64::from(invented) / frames as f64;
    println!(
        "{options:?}: {frames} frames: {found} of {wanted} people found ({recall:.3}), \
         {invented:.2} false boxes a frame"
    );
    (recall, invented)
}

#[test]
fn most_people_on_the_bundled_clip_are_found_and_little_is_invented() {
    let (recall, invented) = recall_and_false_boxes(&[]);
    assert!(recall >= 0.8, "{recall}");
    assert!(invented <= 1.0, "{invented}");
    let (with_tracks, invented) = recall_and_false_boxes(&["--track"]);
    assert!(
        with_tracks >= recall,
        "{with_tracks} with tracks, {recall} without"
    );
    assert!(invented <= 1.2, "{invented}");
}

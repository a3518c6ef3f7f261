//! The tracker on scenes with known truth, and the evaluator against TrackEval.
//!
//! `cargo test --release --test it tracking -- --nocapture` prints the figures.

#![allow(clippy::print_stdout, reason = "prints what it measured")]

mod mot;
mod scene;

use crate::support::{CLIP, finish, lines, vovcam};
use mot::{Compared, Quality, measure};
use scene::{Scene, track};
use serde::Deserialize;
use serde_json::Value;

/// Number, x, y, width, height.
type Boxes = Vec<[f64; 5]>;

#[derive(Deserialize)]
struct Sequence {
    /// Truth and tracks of each frame.
    frames: Vec<(Boxes, Boxes)>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    mota: f64,
    switches: usize,
    idf1: f64,
    hota: f64,
}

#[test]
fn the_evaluator_gives_the_figures_of_trackeval() {
    let text = include_str!("../fixtures/tracking/sequences.json");
    let sequences: Vec<Sequence> = serde_json::from_str(text).unwrap();
    for Sequence { frames, expected } in &sequences {
        let numbered = |boxes: &[[f64; 5]]| {
            let boxes = boxes
                .iter()
                .map(|&[id, x, y, w, h]| (id as u32, [x, y, w, h]));
            boxes.collect()
        };
        let frames: Vec<Compared> = frames
            .iter()
            .map(|(truth, tracks)| Compared {
                truth: numbered(truth),
                tracks: numbered(tracks),
            })
            .collect();
        let got = measure(&frames);
        assert_eq!(got.switches, expected.switches);
        for (name, got, expected) in [
            ("MOTA", got.mota, expected.mota),
            ("IDF1", got.idf1, expected.idf1),
            ("HOTA", got.hota, expected.hota),
        ] {
            assert!(
                (got - expected).abs() < 1e-6,
                "{name}: {got}, TrackEval {expected}"
            );
        }
    }
    assert_eq!(sequences.len(), 3);
}

/// Ten scenes of one kind, one after another with other numbers.
fn quality(name: &str, scene: &Scene) -> Quality {
    let mut all = Vec::new();
    for seed in 0..10 {
        for mut frame in track(scene, seed) {
            let own = |boxes: &mut Vec<mot::Numbered>| {
                boxes
                    .iter_mut()
                    .for_each(|(id, _)| *id += 1000 * seed as u32);
            };
            own(&mut frame.truth);
            own(&mut frame.tracks);
            all.push(frame);
        }
    }
    let quality = measure(&all);
    println!(
        "{name}: MOTA {:.3}, IDF1 {:.3}, HOTA {:.3}, {} ID switches, {} frames",
        quality.mota,
        quality.idf1,
        quality.hota,
        quality.switches,
        all.len()
    );
    quality
}

#[test]
fn numbers_survive_misses_false_boxes_occlusion_and_uneven_rates() {
    let plain = Scene {
        people: 8,
        rates: [15.0, 15.0],
        missed: 0.05,
        low: 0.1,
        false_boxes: 0.1,
        jitter: 0.02,
        pillar: false,
    };
    let hard = Scene {
        rates: [5.0, 30.0],
        missed: 0.2,
        low: 0.2,
        false_boxes: 0.5,
        jitter: 0.04,
        ..plain.clone()
    };
    let pillar = Scene {
        pillar: true,
        ..hard.clone()
    };
    let (plain, hard, pillar) = (
        quality("15 fps", &plain),
        quality("5 to 30 fps, 20 % missed", &hard),
        quality("the same with occlusions of 1 s", &pillar),
    );
    for (quality, idf1, switches) in [(plain, 0.9, 25), (hard, 0.78, 60), (pillar, 0.75, 110)] {
        assert!(quality.idf1 >= idf1, "{quality:?}");
        assert!(quality.switches <= switches, "{quality:?}");
    }
}

/// The bundled clip with a zone over all of the frame and a line that somebody crosses or not: tracks
/// in every line, and counts that are those of the events.
#[test]
fn a_run_with_a_zone_and_a_line_logs_numbers_events_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vovcam.toml");
    let text = r#"
        [[zone]]
        name = "street"
        polygon = [[0, 0], [1, 0], [1, 1], [0, 1]]
        classes = ["person"]

        [[line]]
        name = "middle"
        from = [0, 0.5]
        to = [1, 0.5]
    "#;
    std::fs::write(&config, text).unwrap();
    let run = finish(
        vovcam()
            .args([
                "--source",
                CLIP,
                "--headless",
                "--input",
                "640",
                "--jsonl",
                "-",
            ])
            .args(["--max-frames", "8", "--config"])
            .arg(&config),
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let log = lines(&run.stdout);
    let of = |name: &str| log.iter().filter(|line| line["event"] == name).count() as u64;
    let frames: Vec<&Value> = log.iter().filter(|line| line["type"] == "frame").collect();
    let has_number = |frame: &Value| {
        let detections = frame["detections"].as_array().unwrap();
        let people = detections.iter().filter(|d| d["label"] == "person");
        people.filter(|d| d["track_id"].is_u64()).count()
    };
    assert_eq!(has_number(frames[0]), 0, "nobody is confirmed by one frame");
    assert!(has_number(frames[7]) >= 3, "{}", frames[7]);
    let counts = &log.last().unwrap()["counts"];
    let entered = counts["zones"]["street"]["entered"]["person"].as_u64();
    assert!(of("zone_entered") >= 3, "{counts}");
    assert_eq!(entered, Some(of("zone_entered")), "{counts}");
    let now = counts["zones"]["street"]["now"]["person"].as_u64();
    assert_eq!(now, Some(of("zone_entered") - of("zone_left")), "{counts}");
    let line = &counts["lines"]["middle"];
    let crossed = [&line["forward"], &line["backward"]].map(|way| {
        let by_class = way.as_object().unwrap().values();
        by_class.map(|count| count.as_u64().unwrap()).sum::<u64>()
    });
    assert_eq!(crossed[0] + crossed[1], of("line_crossed"), "{counts}");
}

#[test]
fn wrong_zones_end_the_start_with_the_place_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vovcam.toml");
    for (text, part) in [
        ("[track]\nkeep = 5", None),
        (
            "[track]\nkep = 5",
            Some("settings table [track]: unknown field `kep`"),
        ),
        (
            "[[zone]]\nname = 'a'\npolygon = []",
            Some("settings table [[zone]] 'a': polygon"),
        ),
        ("track = 1", Some("vovcam.toml', line 1: track: ")),
        ("[[zones]]\nname = 'a'", Some("did you mean 'zone'?")),
    ] {
        std::fs::write(&config, text).unwrap();
        let run = finish(
            vovcam()
                .args([
                    "--source",
                    "pattern:1",
                    "--headless",
                    "--input",
                    "64",
                    "--config",
                ])
                .arg(&config),
        );
        assert_eq!(
            run.code,
            Some(if part.is_some() { 78 } else { 0 }),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(part.unwrap_or_default()),
            "{}",
            run.stderr
        );
    }
}

//! Every kind of log line, with everything known and with nothing known, against the schema.

use crate::support::{lines, schema};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use vovcam::board::Board;
use vovcam::clock::SystemClock;
use vovcam::detection::{Detection, Labels, StageTimes};
use vovcam::event::{Event, EventKind};
use vovcam::frame::Frame;
use vovcam::geometry::{BBox, Size, Tiling};
use vovcam::message::{ModelInfo, Report, RunInfo};
use vovcam::monitor::vitals::Vitals;
use vovcam::sink::SinkContext;
use vovcam::sink::jsonl::JsonlWriter;
use vovcam::sink::jsonl::file::LogOptions;
use vovcam::stats::{Counts, Energy, LineCounts, MeterInfo, Snapshot, ZoneCounts};
use vovcam::units::{Celsius, Joules, Watts};

const SIZE: Size = Size::new(64, 48);

fn known() -> Snapshot {
    Snapshot {
        fps: Some(29.97),
        latency_p95: Some(Duration::from_millis(41)),
        energy: Some(Energy {
            average: Watts(27.3),
            per_frame: Some(Joules(0.91)),
            window: Duration::from_secs(5),
            scope: "VDD_IN".to_owned(),
            source: "ina3221".to_owned(),
        }),
        temperature: Some(Celsius(51.25)),
        counts: Some(Arc::new(counts())),
        ..Snapshot::default()
    }
}

fn counts() -> Counts {
    let people = |number| BTreeMap::from([("person".to_owned(), number)]);
    let zone = ZoneCounts {
        now: people(0),
        entered: people(3),
    };
    let line = LineCounts {
        forward: people(2),
        backward: BTreeMap::new(),
    };
    Counts {
        zones: BTreeMap::from([("door".to_owned(), zone)]),
        lines: BTreeMap::from([("gate".to_owned(), line)]),
    }
}

fn run(filled: bool) -> Arc<RunInfo> {
    let board = Board {
        model: "Orin".to_owned(),
        l4t: None,
        power_mode: Some("15W".to_owned()),
    };
    let meter = MeterInfo {
        source: "ina3221",
        scope: "VDD_IN".to_owned(),
    };
    Arc::new(RunInfo {
        run_id: "1-2".to_owned(),
        started: jiff::Timestamp::UNIX_EPOCH,
        camera: "front".into(),
        source: "pattern".to_owned(),
        model: ModelInfo {
            name: "m".to_owned(),
            sha256: "0".repeat(64),
            input_size: 320,
        },
        tiling: Tiling {
            tiles: if filled { "3x2" } else { "off" }.parse().unwrap(),
            ..Tiling::default()
        },
        engine: "cpu".to_owned(),
        board: filled.then_some(board),
        meter: filled.then_some(meter),
        labels: Labels::new(&["person".to_owned()]),
        shapes: Arc::default(),
    })
}

fn report(run: Arc<RunInfo>, stats: Snapshot, filled: bool) -> Report {
    let bbox = BBox::clamped(1.04, 2.0, 11.0, 22.0, SIZE);
    Report {
        run,
        frame: Frame::from_rgb(7, SIZE, vec![0; 3 * SIZE.area()]).meta,
        detections: vec![Detection {
            class_id: 0,
            score: 0.8347,
            bbox,
            track_id: NonZeroU32::new(if filled { 12 } else { 0 }),
        }],
        times: StageTimes {
            inference: Duration::from_micros(14_004),
            ..StageTimes::default()
        },
        dropped: 2,
        stats: Arc::new(stats),
        counts: None,
    }
}

fn write_all(path: &str, stats: &Snapshot, filled: bool) {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let context = SinkContext {
        live: false,
        fps: None,
        clock: SystemClock::shared(),
        camera: "front".into(),
        interrupted: crossbeam_channel::never(),
        vitals: Vitals::default(),
    };
    let mut log = JsonlWriter::open(path, LogOptions::default(), &context).unwrap();
    let run = run(filled);
    log.run(&run);
    log.frame(&report(run, stats.clone(), filled));
    log.stats(now, stats);
    log.event(now, &Event::new(EventKind::CameraLost).message("unplugged"));
    let count = Event::new(EventKind::Custom("crowd"));
    log.event(now, &count.field("count", 3));
    log.finish(true).unwrap();
}

#[test]
fn every_line_is_valid_with_everything_known_and_with_nothing_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    let path = path.to_str().unwrap();
    std::fs::write(path, "{\"type\":\"frame\",\"torn").unwrap();
    write_all(path, &known(), true);
    write_all(path, &Snapshot::default(), false);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = lines(&text);
    assert_eq!(
        lines[1]["event"], "log_repaired",
        "the torn line is removed"
    );
    assert_eq!(lines.len(), 11);
    let (full, empty) = (&lines[2], &lines[7]);
    assert_eq!(full["ts"], "1970-01-01T00:00:00.000Z");
    assert_eq!(
        full["energy"],
        json!({"j": 0.91, "window_s": 5.0, "avg_w": 27.3, "fps": 29.97})
    );
    let detection = json!({"class_id": 0, "label": "person", "score": 0.835, "bbox": [1.0, 2.0, 10.0, 20.0], "area_class": "small", "track_id": 12});
    assert_eq!(full["detections"], json!([detection]));
    assert_eq!(
        (&empty["energy"], &lines[8]["fps"]),
        (&Value::Null, &Value::Null),
        "unknown is null, never 0"
    );
    let counted = json!({
        "zones": {"door": {"now": {"person": 0}, "entered": {"person": 3}}},
        "lines": {"gate": {"forward": {"person": 2}, "backward": {}}},
    });
    assert_eq!(lines[3]["counts"], counted);
    // without tracks, zones and lines there are no such fields
    assert_eq!(empty["detections"][0].get("track_id"), None);
    assert_eq!(lines[8].get("counts"), None);
}

#[test]
fn every_line_names_the_camera() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    write_all(path.to_str().unwrap(), &known(), true);
    let text = std::fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["camera"], "front", "{line}");
    }
}

/// The names of the events of this program, as the schema and docs/jsonl.md list them.
#[test]
fn schema_and_page_list_every_event() {
    let names: Vec<&str> = EventKind::BUILT_IN.map(EventKind::name).to_vec();
    let schema: Value =
        serde_json::from_str(include_str!("../../assets/vovcam.v1.schema.json")).unwrap();
    let listed = &schema["$defs"]["event"]["properties"]["event"]["anyOf"][0]["enum"];
    assert_eq!(listed, &json!(names));
    let page = include_str!("../../docs/jsonl.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    for name in names {
        let cell = format!("`{name}`");
        assert!(
            rows.clone().any(|row| row
                .split('|')
                .nth(1)
                .is_some_and(|first| first.contains(&cell))),
            "docs/jsonl.md has no row for the event {cell}"
        );
    }
}

#[test]
fn the_schema_refuses_wrong_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    write_all(path.to_str().unwrap(), &known(), true);
    let text = std::fs::read_to_string(path).unwrap();
    let good: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let schema = schema();
    assert!(schema.is_valid(&good));
    for (pointer, wrong) in [
        ("/type", json!("frames")),
        ("/ts", json!("yesterday")),
        ("/frame_id", json!(-1)),
        ("/detections/0/bbox", json!([1, 2, 3])),
        ("/detections/0/score", json!(1.5)),
        ("/energy", json!(0)),
    ] {
        let mut line = good.clone();
        *line.pointer_mut(pointer).unwrap() = wrong;
        assert!(!schema.is_valid(&line), "{pointer} was not refused");
    }
}

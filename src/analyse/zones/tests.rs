use super::*;
use crate::clock::MonoTime;
use crate::detection::StageTimes;
use crate::frame::Frame;
use crate::message::RunInfo;
use crate::stats::Snapshot;
use proptest::prelude::*;

const SIZE: Size = Size::new(1000, 1000);

fn zones(text: &str) -> Result<Option<Zones>, String> {
    let settings = toml::from_str(text).unwrap();
    Zones::new(&AnalyzerContext {
        settings: &settings,
        labels: &labels(),
    })
}

fn labels() -> Labels {
    Labels::new(&["person".to_owned(), "car".to_owned()])
}

/// An analyzer that is shown one frame after another.
struct Scene {
    zones: Zones,
    ms: u64,
    frame: u64,
    counts: Option<Arc<Counts>>,
}

impl Scene {
    fn new(text: &str) -> Scene {
        Scene {
            zones: zones(text).unwrap().unwrap(),
            ms: 0,
            frame: 0,
            counts: None,
        }
    }

    /// A frame a tenth of a second later, with boxes whose bottom centres are given.
    fn at(&mut self, boxes: &[(u32, usize, [f32; 2], [f32; 2])]) -> Vec<Event> {
        let boxes = boxes
            .iter()
            .map(|&(id, class_id, [x, y], [width, height])| Detection {
                class_id,
                score: 0.5,
                bbox: BBox::clamped(x - width / 2.0, y - height, x + width / 2.0, y, SIZE),
                track_id: NonZeroU32::new(id),
            });
        let mut frame = Frame::from_rgb(self.frame, Size::new(1, 1), vec![0; 3]).meta;
        frame.size = SIZE;
        frame.captured = MonoTime::default() + Duration::from_millis(self.ms);
        let mut report = Report {
            run: Arc::new(RunInfo::of_labels("test", labels())),
            frame,
            detections: boxes.collect(),
            times: StageTimes::default(),
            dropped: 0,
            stats: Arc::new(Snapshot::default()),
            counts: None,
        };
        let mut events = Vec::new();
        self.zones
            .step(&mut report, &mut |event| events.push(event));
        self.ms += 100;
        self.frame += 1;
        self.counts = report.counts;
        events
    }

    /// A person of 40 by 100 pixels.
    fn person(&mut self, id: u32, x: f32, y: f32) -> Vec<Event> {
        self.at(&[(id, 0, [x, y], [40.0, 100.0])])
    }

    fn count(&self, pointer: &str) -> Option<u64> {
        let counts = serde_json::to_value(self.counts.as_deref().unwrap()).unwrap();
        counts.pointer(pointer).and_then(serde_json::Value::as_u64)
    }
}

const DOOR: &str = r#"
    [[zone]]
    name = "door"
    polygon = [[0.4, 0.4], [0.8, 0.4], [0.8, 0.8], [0.4, 0.8]]
"#;

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name()).collect()
}

#[test]
fn who_enters_and_leaves_is_told_and_counted() {
    let mut scene = Scene::new(DOOR);
    assert_eq!(scene.person(7, 300.0, 600.0), []);
    assert_eq!(scene.person(7, 410.0, 600.0), [], "on the border");
    let entered = scene.person(7, 500.0, 600.0);
    assert_eq!(names(&entered), ["zone_entered"]);
    assert_eq!(
        entered[0].message.as_deref(),
        Some("person 7 entered zone 'door'")
    );
    let fields = serde_json::json!({
        "track_id": 7, "class_id": 0, "label": "person", "frame_id": 2, "zone": "door",
    });
    assert_eq!(serde_json::Value::Object(entered[0].fields.clone()), fields);
    assert_eq!(scene.count("/zones/door/now/person"), Some(1));
    for _ in 0..10 {
        assert_eq!(scene.person(7, 500.0, 600.0), []);
    }
    let left = scene.person(7, 300.0, 600.0);
    assert_eq!(names(&left), ["zone_left"]);
    assert_eq!(
        (&left[0].fields["dwell_s"], &left[0].fields["lost"]),
        (&1.1.into(), &false.into())
    );
    assert_eq!(scene.count("/zones/door/now/person"), Some(0));
    assert_eq!(scene.count("/zones/door/entered/person"), Some(1));
}

#[test]
fn a_track_that_ends_inside_has_left_when_it_was_last_seen() {
    let mut scene = Scene::new(DOOR);
    scene.person(7, 500.0, 600.0);
    scene.person(7, 500.0, 600.0);
    let events: Vec<Event> = (0..30).flat_map(|_| scene.at(&[])).collect();
    assert_eq!(names(&events), ["zone_left"]);
    assert_eq!(events[0].fields["dwell_s"], 0.1);
    assert_eq!(events[0].fields["lost"], true);
    assert_eq!(scene.count("/zones/door/now/person"), Some(0));
    assert!(scene.zones.tracks.is_empty());
}

#[test]
fn a_short_visit_is_none_where_a_dwell_is_asked_for() {
    let mut scene = Scene::new(&format!("{DOOR}\nmin_dwell = \"500ms\""));
    for _ in 0..4 {
        assert_eq!(scene.person(1, 500.0, 600.0), []);
    }
    assert_eq!(scene.person(1, 200.0, 600.0), []);
    let events: Vec<Event> = (0..8).flat_map(|_| scene.person(1, 500.0, 600.0)).collect();
    assert_eq!(names(&events), ["zone_entered"]);
    let left = scene.person(1, 200.0, 600.0);
    assert_eq!(
        left[0].fields["dwell_s"], 0.8,
        "the first half second counts"
    );
}

#[test]
fn only_the_classes_that_are_asked_for_and_only_tracks_count() {
    let mut scene = Scene::new(&format!("{DOOR}\nclasses = [\"car\"]"));
    let size = [40.0, 100.0];
    let events = scene.at(&[
        (1, 0, [500.0, 600.0], size),
        (2, 1, [600.0, 600.0], size),
        (0, 1, [550.0, 600.0], size),
    ]);
    assert_eq!(names(&events), ["zone_entered"]);
    assert_eq!(events[0].fields["label"], "car");
}

#[test]
fn a_line_counts_both_ways_and_names_the_direction() {
    let line = "[[line]]\nname = \"gate\"\nfrom = [0.1, 0.5]\nto = [0.9, 0.5]";
    let mut scene = Scene::new(line);
    let mut events = Vec::new();
    for y in [300.0, 400.0, 500.0, 530.0, 600.0, 700.0, 480.0, 300.0] {
        events.extend(scene.person(3, 500.0, y));
    }
    assert_eq!(names(&events), ["line_crossed"; 2]);
    let way = |event: &Event| event.fields["direction"].clone();
    assert_eq!(
        (way(&events[0]), way(&events[1])),
        ("forward".into(), "backward".into())
    );
    assert_eq!(
        events[0].message.as_deref(),
        Some("person 3 crossed line 'gate'")
    );
    assert_eq!(scene.count("/lines/gate/forward/person"), Some(1));
    assert_eq!(scene.count("/lines/gate/backward/person"), Some(1));
}

#[test]
fn the_anchor_is_the_bottom_or_the_centre() {
    let line = "[[line]]\nname = \"gate\"\nfrom = [0.1, 0.5]\nto = [0.9, 0.5]\nmargin = 0";
    let path = [495.0, 505.0, 520.0, 545.0, 555.0];
    for (anchor, expected) in [("bottom", 1), ("centre", 4)] {
        let mut scene = Scene::new(&format!("{line}\nanchor = \"{anchor}\""));
        let crossed = path
            .iter()
            .position(|&y| !scene.person(1, 500.0, y).is_empty());
        assert_eq!(crossed, Some(expected), "{anchor}");
    }
}

#[test]
fn wrong_tables_are_refused_with_what_is_right() {
    let zone = |rest: &str| format!("[[zone]]\nname = \"a\"\n{rest}");
    let triangle = "polygon = [[0, 0], [1, 0], [0, 1]]\n";
    for (text, parts) in [
        (zone(""), ["[[zone]] 'a'", "missing field `polygon`"]),
        (
            zone("polygon = [[0, 0], [1, 1]]"),
            ["3 to 100 corners", "got 2"],
        ),
        (
            zone("polygon = [[0, 0], [0.5, 0.5], [1, 1]]"),
            ["enclose an area", "one line"],
        ),
        (
            zone("polygon = [[0, 0], [1.5, 0], [1, 1]]"),
            ["fractions of the frame's width", "[1.5, 0]"],
        ),
        (
            zone(&format!("{triangle}classes = [\"dog\"]")),
            ["unknown class 'dog'", "person, car"],
        ),
        (
            zone(&format!("{triangle}classes = []")),
            ["classes: expected names", "'[]'"],
        ),
        (
            zone(&format!("{triangle}min_dwell = \"x\"")),
            ["expected a time from 0 to 24h", "min_dwell"],
        ),
        (
            zone(&format!("{triangle}anchor = \"top\"")),
            ["unknown variant `top`", "`bottom`"],
        ),
        (
            zone(&format!("{triangle}margin = 3")),
            ["expected a number from 0 to 2", "got '3'"],
        ),
        (
            zone(&format!("{triangle}colour = 3")),
            ["unknown field `colour`", "'a'"],
        ),
        (
            zone(&format!("{triangle}{}", zone(triangle))),
            ["two of the name 'a'", "[[zone]]"],
        ),
        (
            format!("[[zone]]\nname = \"a/b\"\n{triangle}"),
            ["letters, digits", "'a/b'"],
        ),
        (
            format!("[zone]\nname = \"a\"\n{triangle}"),
            ["[[zone]]", "several"],
        ),
        (
            "[[line]]\nfrom = [0, 0]\nto = [1, 1]".to_owned(),
            ["[[line]] number 1", "name"],
        ),
        (
            "[[line]]\nname = \"a\"\nfrom = [0, 0]\nto = [0, 0]".to_owned(),
            ["different places", "[0, 0]"],
        ),
    ] {
        let error = zones(&text).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(zones("fps = 5").unwrap().is_none());
}

/// A walk of many small steps through the middle of the frame, in any direction; every anchor is off
/// by up to half a box each way.
fn walk(angle: f32, speed: f32, sides: [f32; 2], jitter: &[(f32, f32)]) -> Vec<[f32; 2]> {
    let steps = jitter.len() as f32;
    let place = |(index, &(jx, jy)): (usize, &(f32, f32))| {
        let along = speed * (index as f32 - steps / 2.0);
        [
            500.0 + along * angle.cos() + jx * sides[0],
            500.0 + along * angle.sin() + jy * sides[1],
        ]
    };
    jitter.iter().enumerate().map(place).collect()
}

const TARGETS: &str = r#"
    [[line]]
    name = "line"
    from = [0.0, 0.45]
    to = [1.0, 0.55]

    [[zone]]
    name = "zone"
    polygon = [[0.2, 0.2], [0.8, 0.25], [0.75, 0.8], [0.25, 0.7]]
"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// A track that crosses a line once is never counted twice, nor the wrong way, and one that crosses
    /// the frame straight enters a convex zone at most once.
    #[test]
    fn jitter_of_half_a_box_is_never_counted_twice(
        down in any::<bool>(),
        angle in 0.6..2.5f32,
        speed in 4.0..40.0f32,
        width in 10.0..120.0f32,
        height in 10.0..120.0f32,
        jitter in prop::collection::vec((-0.5..0.5f32, -0.5..0.5f32), 40..120),
    ) {
        let angle = if down { angle } else { -angle };
        let mut scene = Scene::new(TARGETS);
        let mut events = Vec::new();
        for place in walk(angle, speed, [width, height], &jitter) {
            events.extend(scene.at(&[(1, 0, place, [width, height])]));
        }
        let crossings: Vec<_> = events.iter().filter(|e| e.kind == EventKind::LineCrossed).collect();
        prop_assert!(crossings.len() <= 1, "{crossings:?}");
        let expected = if down { "forward" } else { "backward" };
        prop_assert!(crossings.iter().all(|e| e.fields["direction"] == expected));
        // straight through a convex zone: in at most once, and out at most once
        let visits: Vec<_> = names(&events).into_iter().filter(|name| name.starts_with("zone")).collect();
        let once = ["zone_entered", "zone_left"];
        prop_assert!(once.starts_with(&visits), "{visits:?}");
    }
}

//! Tracks, zones and lines: 64 people, 16 zones and 16 lines in a frame of 1280x720 at 15 frames a
//! second. `cargo bench --bench tracks`

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use vovcam::analyse::{AnalyzerContext, TABLE_ANALYZERS};
use vovcam::clock::MonoTime;
use vovcam::detect::DetectPlan;
use vovcam::detection::{Detection, Labels, StageTimes, Thresholds};
use vovcam::frame::Frame;
use vovcam::geometry::{BBox, Size, Tiling};
use vovcam::message::{Report, RunInfo};
use vovcam::stats::Snapshot;

const SIZE: Size = Size::new(1280, 720);
const PEOPLE: usize = 64;
const SHAPES: usize = 16;

fn settings() -> String {
    let mut text = "[track]\n".to_owned();
    for index in 0..SHAPES {
        let x = 0.055 * index as f32;
        text += &format!(
            "[[zone]]\nname = \"zone{index}\"\n\
             polygon = [[{x}, 0.1], [{r}, 0.2], [{r}, 0.9], [{m}, 0.5], [{x}, 0.8]]\n\
             [[line]]\nname = \"line{index}\"\nfrom = [{x}, 0.3]\nto = [{r}, 0.7]\n",
            r = x + 0.1,
            m = x + 0.05,
        );
    }
    text
}

/// People who walk around, eight by eight, near enough to overlap; every fifth has a low score.
fn detections(time: f32) -> Vec<Detection> {
    let person = |index: usize| {
        let phase = time * 0.5 + index as f32;
        let x = 80.0 + 140.0 * (index % 8) as f32 + 60.0 * phase.sin();
        let y = 40.0 + 70.0 * (index / 8) as f32 + 20.0 * phase.cos();
        Detection {
            class_id: 0,
            score: if index.is_multiple_of(5) { 0.2 } else { 0.6 },
            bbox: BBox::clamped(x, y, x + 45.0, y + 110.0, SIZE),
            track_id: None,
        }
    };
    (0..PEOPLE).map(person).collect()
}

fn analyzers(criterion: &mut Criterion) {
    let labels = Labels::new(&["person".to_owned()]);
    let settings: toml::Table = settings().parse().expect("it is TOML");
    let context = AnalyzerContext {
        settings: &settings,
        labels: &labels,
    };
    let made = TABLE_ANALYZERS
        .iter()
        .filter_map(|analyzer| (analyzer.make)(&context).expect("the tables are right"));
    let mut analyzers: Vec<_> = made.collect();
    let mut plan = DetectPlan {
        thresholds: Thresholds::uniform(1, 0.35, 0.6),
        tiling: Tiling::default(),
    };
    analyzers
        .iter_mut()
        .for_each(|analyzer| analyzer.adapt(&mut plan));
    let run = Arc::new(RunInfo::of_labels("bench", labels.clone()));
    let stats = Arc::new(Snapshot::default());
    let mut meta = Frame::from_rgb(0, Size::new(1, 1), vec![0; 3]).meta;
    meta.size = SIZE;
    let mut frame = 0;
    let name = format!("tracks/{PEOPLE} people, {SHAPES} zones, {SHAPES} lines");
    criterion.bench_function(&name, |bencher| {
        bencher.iter_batched_ref(
            || {
                frame += 1;
                let time = Duration::from_millis(66 * frame);
                meta.captured = MonoTime::default() + time;
                Report {
                    run: Arc::clone(&run),
                    frame: meta.clone(),
                    detections: detections(time.as_secs_f32()),
                    times: StageTimes::default(),
                    dropped: 0,
                    stats: Arc::clone(&stats),
                    counts: None,
                }
            },
            |report| {
                for analyzer in &mut analyzers {
                    analyzer.step(report, &mut |event| drop(black_box(event)));
                }
            },
            criterion::BatchSize::PerIteration, // one frame after the other
        );
    });
}

criterion_group!(benches, analyzers);
criterion_main!(benches);

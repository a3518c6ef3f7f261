//! The CPU engine allocates nothing once it has seen a picture size, and tiles add nothing of their own.

use crate::support;
use vovcam::detect::{Detect, Detector, DetectorOptions, Found};
use vovcam::detection::Thresholds;
use vovcam::engine::cpu::CpuEngine;
use vovcam::engine::{Engine, EngineChoice, EngineOptions};
use vovcam::frame::Frame;
use vovcam::geometry::{InputSize, Size, Tiling};
use vovcam::model::Model;
use vovcam::network::Network;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

#[test]
fn a_frame_allocates_nothing() {
    // the engine's threads count too, and so would those of other tests
    if !support::alone("cpu_engine_alloc::a_frame_allocates_nothing") {
        return;
    }
    let model = Model::random(Network::vovnet27_slim(), 12, 1).unwrap();
    let mut engine = CpuEngine::new(&model, 2).unwrap();
    let mut output = RawOutput::default();
    let picture = |height: usize, width: usize| Batch {
        batch: 1,
        height,
        width,
        data: vec![90; height * width * 3],
    };
    let sizes = [picture(64, 32), picture(32, 32)];
    for input in &sizes {
        engine.infer(input, &mut output).unwrap();
    }
    let (allocations, ()) = support::allocations::count(|| {
        engine.infer(&sizes[0], &mut output).unwrap();
        engine.infer(&sizes[0], &mut output).unwrap();
    });
    assert_eq!(allocations, 0);
}

/// The resizer allocates its weights for each picture; all else is reused.
#[test]
fn a_frame_in_tiles_allocates_what_its_pictures_do_alone() {
    if !support::alone("cpu_engine_alloc::a_frame_in_tiles_allocates_what_its_pictures_do_alone") {
        return;
    }
    let model = Model::random(Network::vovnet27_slim(), 2, 1).unwrap();
    let options = DetectorOptions {
        engine: EngineOptions {
            engine: EngineChoice::Cpu,
            threads: 1,
            ..EngineOptions::default()
        },
        input: Some(InputSize::LongSide(64)),
        thresholds: Some(Thresholds::uniform(2, 0.0, 0.6)),
        tiling: Tiling::default(),
    };
    let mut detector = Detector::new(&model, &options).unwrap();
    let size = Size::new(200, 100);
    let frames = [Frame::from_rgb(0, size, vec![90; 3 * size.area()])];
    let mut found = [Found::default()];
    let mut allocations_of = |tiles: &str| {
        let mut plan = detector.plan();
        plan.tiling.tiles = tiles.parse().unwrap();
        detector.detect(&frames, &plan, &mut found).unwrap();
        let (allocations, ()) = support::allocations::count(|| {
            detector.detect(&frames, &plan, &mut found).unwrap();
            detector.detect(&frames, &plan, &mut found).unwrap();
        });
        allocations
    };
    let (whole, tiled) = (allocations_of("off"), allocations_of("2x2"));
    assert!(
        tiled <= 5 * whole,
        "{whole} for a frame, {tiled} for five pictures"
    );
}

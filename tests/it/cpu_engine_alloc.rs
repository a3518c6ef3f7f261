//! The CPU engine allocates nothing once it has seen a picture size.

use crate::support;
use vovcam::engine::Engine;
use vovcam::engine::cpu::CpuEngine;
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

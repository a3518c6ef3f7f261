//! The whole detector, letterboxed bytes in, logits out: this project's CPU engine on every
//! instruction set of the machine against candle. `cargo bench --bench engine`

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use vovcam::engine::Engine;
use vovcam::engine::cpu::{CpuEngine, CpuOptions, Isa};
use vovcam::engine::reference::ReferenceEngine;
use vovcam::model::Model;
use vovcam::network::Network;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

fn image(side: usize) -> Batch {
    Batch {
        batch: 1,
        height: side,
        width: side,
        data: (0..side * side * 3).map(|i| (i * 31 % 251) as u8).collect(),
    }
}

fn detector(c: &mut Criterion) {
    let model = Model::random(Network::vovnet27_slim(), 12, 1).expect("the network is valid");
    for side in [320, 512] {
        let mut group = c.benchmark_group(format!("detector {side}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        let input = image(side);
        let mut time = |engine: &mut dyn Engine| {
            let mut output = RawOutput::default();
            group.bench_function(BenchmarkId::from_parameter(engine.describe()), |b| {
                b.iter(|| {
                    engine
                        .infer(black_box(&input), &mut output)
                        .expect("it fits")
                });
            });
        };
        for isa in Isa::available().filter(|&isa| isa != Isa::Scalar) {
            for (threads, winograd) in [(1, true), (2, true), (1, false)] {
                let options = CpuOptions {
                    threads,
                    isa: Some(isa),
                    winograd,
                    ..CpuOptions::default()
                };
                let engine = CpuEngine::with_options(&model, options);
                time(&mut engine.expect("the machine has it"));
            }
        }
        let candle = ReferenceEngine::new(&model, &candle_core::Device::Cpu);
        time(&mut candle.expect("the CPU is always there"));
        group.finish();
    }
}

criterion_group!(benches, detector);
criterion_main!(benches);

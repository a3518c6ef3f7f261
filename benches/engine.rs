//! The whole detector, letterboxed bytes in, logits out: this project's CPU engine on every
//! instruction set of the machine against candle; and tiles in one batch against as many single
//! calls. `cargo bench --bench engine`

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use vovcam::engine::cpu::{CpuEngine, CpuOptions, Isa};
use vovcam::engine::reference::ReferenceEngine;
use vovcam::engine::{Engine, Precision};
use vovcam::model::Model;
use vovcam::network::Network;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

fn image(side: usize) -> Batch {
    images(1, side)
}

fn images(batch: usize, side: usize) -> Batch {
    Batch {
        batch,
        height: side,
        width: side,
        data: (0..batch * side * side * 3)
            .map(|i| (i * 31 % 251) as u8)
            .collect(),
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

/// The inputs of a frame in tiles (2x2 and 3x2, besides the whole frame): one batch, and one by one,
/// in turn.
fn tiles(c: &mut Criterion) {
    let model = Model::bundled().expect("the model is built in");
    for (threads, precision) in [
        (1, Precision::F32),
        (1, Precision::Int8),
        (2, Precision::F32),
        (2, Precision::Int8),
    ] {
        let options = CpuOptions {
            threads,
            precision,
            ..CpuOptions::default()
        };
        let mut engine = CpuEngine::with_options(&model, options).expect("the model has ranges");
        let mut group = c.benchmark_group(format!("tiles 320 {}", engine.describe()));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(3));
        let mut output = RawOutput::default();
        let one = image(320);
        for count in [5, 7] {
            let all = images(count, 320);
            group.bench_function(format!("{count} in one batch"), |b| {
                b.iter(|| engine.infer(black_box(&all), &mut output).expect("it fits"));
            });
            group.bench_function(format!("{count} one by one"), |b| {
                b.iter(|| {
                    for _ in 0..count {
                        engine.infer(black_box(&one), &mut output).expect("it fits");
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, detector, tiles);
criterion_main!(benches);

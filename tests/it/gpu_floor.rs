//! The least time that a frame can take on a GPU, from what the network computes and moves and
//! what data sheets promise. The table in `docs/performance-gpu.md` is this test's output.

use std::fmt::Write;
use vovcam::model::Model;

/// A GPU's dense half-precision rate with sums in single precision, and its memory.
struct Gpu {
    name: &'static str,
    flops: f64,
    bytes_per_second: f64,
}

/// An Orin multiprocessor does 1024 half-precision multiply-adds a clock: 42.5 TFLOP/s for 16 of
/// them at 1.3 GHz, which is half of the dense int8 rate in the technical brief of AGX Orin.
const fn orin(name: &'static str, multiprocessors: f64, gigahertz: f64, gigabytes: f64) -> Gpu {
    Gpu {
        name,
        flops: multiprocessors * 1024.0 * 2.0 * gigahertz * 1e9,
        bytes_per_second: gigabytes * 1e9,
    }
}

const GPUS: [Gpu; 5] = [
    orin("Orin Nano 8GB, 15 W", 8.0, 0.625, 68.0),
    orin("Orin Nano 8GB, Super", 8.0, 1.02, 102.0),
    orin("Orin NX 16GB", 8.0, 0.918, 102.4),
    orin("AGX Orin 64GB", 16.0, 1.3, 204.8),
    Gpu {
        name: "H100 SXM",
        flops: 989.4e12,
        bytes_per_second: 3.35e12,
    },
];

fn table() -> String {
    let graph = Model::bundled().unwrap().graph;
    let mut table = String::new();
    table += "| GPU | dense f16 TFLOP/s | GB/s | 320² arithmetic ms | 320² memory ms | 640² arithmetic ms | 640² memory ms |\n";
    table += "|---|---|---|---|---|---|---|\n";
    for gpu in &GPUS {
        let (rate, memory) = (gpu.flops / 1e12, gpu.bytes_per_second / 1e9);
        write!(table, "| {} | {rate:.1} | {memory:.0} |", gpu.name).unwrap();
        for side in [320, 640] {
            let cost = graph.cost(side, side);
            let arithmetic = 2.0 * cost.macs as f64 / gpu.flops * 1e3;
            let traffic = 2.0 * cost.memory_access_cost as f64 / gpu.bytes_per_second * 1e3;
            write!(table, " {arithmetic:.4} | {traffic:.4} |").unwrap();
        }
        table.push('\n');
    }
    table.push('\n');
    table +=
        "| input | multiply-adds | FLOP | values moved | bytes in f16 |\n|---|---|---|---|---|\n";
    for side in [320, 640] {
        let cost = graph.cost(side, side);
        let (macs, values) = (cost.macs as f64, cost.memory_access_cost as f64);
        let (giga, flop) = (macs / 1e9, 2.0 * macs / 1e9);
        let (million, bytes) = (values / 1e6, 2.0 * values / 1e6);
        writeln!(
            table,
            "| {side}×{side} | {giga:.3} G | {flop:.3} G | {million:.1} M | {bytes:.1} MB |"
        )
        .unwrap();
    }
    table
}

#[test]
fn the_documented_floors_are_the_computed_ones() {
    let table = table();
    let page = include_str!("../../docs/performance-gpu.md");
    assert!(
        page.contains(&table),
        "docs/performance-gpu.md should hold:\n{table}"
    );
}

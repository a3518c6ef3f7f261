//! Where a frame's time goes: every step of the CPU engine with its multiply-accumulates.
//! `cargo bench --bench layers [-- SIDE PRECISION THREADS ROUNDS]`

#![allow(clippy::print_stdout, reason = "prints a table")]

use std::error::Error;
use vovcam::engine::Precision;
use vovcam::engine::cpu::{CpuEngine, CpuOptions};
use vovcam::model::Model;
use vovcam::network::graph::{Graph, NodeId, Op};
use vovcam::tensor::Batch;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let side: usize = arguments.next().map_or(Ok(320), |a| a.parse())?;
    let precision = match arguments.next().as_deref() {
        Some("int8") => Precision::Int8,
        _ => Precision::F32,
    };
    let threads = arguments.next().map_or(Ok(1), |a| a.parse())?;
    let rounds = arguments.next().map_or(Ok(50), |a| a.parse())?;
    let model = Model::bundled()?;
    let options = CpuOptions {
        threads,
        precision,
        ..CpuOptions::default()
    };
    let mut engine = CpuEngine::with_options(&model, options)?;
    let input = Batch {
        batch: 1,
        height: side,
        width: side,
        data: (0..side * side * 3).map(|i| (i * 31 % 251) as u8).collect(),
    };
    let steps = engine.profile(&input, rounds)?;
    println!("{side}x{side}, medians of {rounds} rounds");
    println!(
        "{:>8} {:>8} {:>8}  {:13} layer",
        "ms", "MMAC", "GMAC/s", "kernel"
    );
    let mut total = 0.0;
    for step in &steps {
        let ms = 1e3 * step.median.as_secs_f64();
        total += ms;
        let mmac = macs(&model.graph, step.node, side) as f64 / 1e6;
        let of_conv = matches!(step.kernel, "direct" | "winograd");
        let (mmac, rate) = if of_conv {
            (mmac, mmac / ms)
        } else {
            (0.0, 0.0)
        };
        let name = &model.graph.node(step.node).name;
        println!("{ms:8.3} {mmac:8.1} {rate:8.1}  {:13} {name}", step.kernel);
    }
    println!("{total:8.3}  in all");
    Ok(())
}

/// Multiply-accumulates of a convolution at one input side.
fn macs(graph: &Graph, id: NodeId, side: usize) -> usize {
    let output = graph.shapes(side, side)[id.0];
    match &graph.node(id).op {
        Op::Conv(conv) => conv.weight_len() * output.height * output.width,
        _ => 0,
    }
}

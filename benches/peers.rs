//! This project's side of `make peers`: one engine behind a line protocol, so that a driver can
//! time it in turn with other runtimes. See `benches/peers/peers.py`.
//!
//! `peers ENGINE PRECISION SIDE THREADS PICTURE.rgb`, ENGINE `cpu` or `candle`; then, by line on
//! standard input, `run` answers with the milliseconds from bytes to logits, `logits FILE` writes
//! the last logits as raw f32, `picture FILE` changes the picture; both answer `ok`.

#![allow(
    clippy::print_stdout,
    reason = "standard output is where the driver reads"
)]

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;
use vovcam::engine::{self, EngineChoice, EngineOptions, Precision};
use vovcam::model::Model;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [engine, precision, side, threads, picture] = arguments.as_slice() else {
        println!("driven by benches/peers/peers.py: run 'make peers'");
        return Ok(());
    };
    let side: usize = side.parse()?;
    let options = EngineOptions {
        engine: match engine.as_str() {
            "candle" => EngineChoice::Reference,
            _ => EngineChoice::Cpu,
        },
        precision: match precision.as_str() {
            "int8" => Some(Precision::Int8),
            _ => Some(Precision::F32),
        },
        threads: threads.parse()?,
        isa: None,
    };
    let mut engine = engine::load(&Model::bundled()?, &options)?;
    let mut input = Batch {
        batch: 1,
        height: side,
        width: side,
        data: std::fs::read(picture)?,
    };
    let mut output = RawOutput::default();
    engine.infer(&input, &mut output)?;
    println!("ready {}", engine.describe());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "run" => {
                let began = Instant::now();
                engine.infer(&input, &mut output)?;
                println!("{:.4}", 1e3 * began.elapsed().as_secs_f64());
            }
            Some(("logits", path)) => {
                write_logits(&output, path)?;
                println!("ok");
            }
            Some(("picture", path)) => {
                input.data = std::fs::read(path)?;
                println!("ok");
            }
            _ => {
                let expected = "'run', 'logits FILE' or 'picture FILE'";
                return Err(format!("expected {expected}, got '{line}'").into());
            }
        }
    }
    Ok(())
}

/// Class then box logits of every level, cells outside channels.
fn write_logits(output: &RawOutput, path: &str) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for level in &output.levels {
        for value in level.class.iter().chain(&level.boxes) {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()
}

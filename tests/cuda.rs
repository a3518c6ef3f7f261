//! The CUDA engine against candle on the CPU: every layer, whole frames, sizes in turn.
//! Without a GPU it says so and only holds the program to falling back to the CPU.
//!
//! `--small` takes small pictures: for the software GPU of `tests/cuda/software_gpu.cpp`.
//! `--packed` keeps cuDNN from reading and writing slices of concatenations in place.
//! `VOVCAM_REQUIRE_GPU=1` makes a missing GPU an error: for machines that must have one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it did"
)]

#[path = "it/support/allocations.rs"]
mod allocations;

use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;
use vovcam::engine::cuda::{CudaEngine, CudaOptions, Precision};
use vovcam::engine::reference::ReferenceEngine;
use vovcam::engine::{self, Engine, EngineChoice, EngineError, EngineOptions};
use vovcam::model::Model;
use vovcam::network::Network;
use vovcam::network::graph::Op;
use vovcam::network::vovnet::VovNet;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

fn main() -> ExitCode {
    let cache = tempfile::tempdir().unwrap();
    CACHE.get_or_init(|| cache.path().to_owned());
    let model = Model::bundled().unwrap();
    match CudaEngine::new(&model, &options(Precision::F16)) {
        Ok(engine) => println!("GPU: {}", engine.describe()),
        Err(EngineError::Unavailable { reason, .. }) => {
            falls_back(&model, &reason);
            println!("cuda: SKIPPED: {reason}");
            println!("cuda: only the fallback to the CPU was tested: passed");
            let required = std::env::var_os("VOVCAM_REQUIRE_GPU").is_some();
            return if required {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
        Err(error) => {
            println!("cuda: the GPU is there but failed: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    }
    let wide = Network {
        backbone: VovNet::V39,
        neck_mid_width: 20,
        strides: vec![4, 8, 16, 32],
        ..Network::vovnet27_slim()
    };
    let wide = Model::random(wide, 5, 2).unwrap();
    let small = flag("--small");
    let mut passed = true;
    // the project's own bounds: largest difference over largest value
    for (precision, tolerance) in [(Precision::F32, 1e-3), (Precision::F16, 1e-2)] {
        for (name, model, size) in [
            (
                "bundled model",
                &model,
                if small { (1, 32, 96) } else { (1, 320, 320) },
            ),
            (
                "bundled model",
                &model,
                if small { (2, 32, 64) } else { (4, 96, 160) },
            ),
            (
                "wide model",
                &wide,
                if small { (1, 32, 32) } else { (2, 64, 96) },
            ),
        ] {
            let case = format!("{precision} {name}, {} x {}x{}", size.0, size.2, size.1);
            let input = pictures(size, 1);
            for check in [layers_agree, frames_agree] {
                let began = Instant::now();
                match check(model, precision, &input, tolerance) {
                    Ok(line) => {
                        let seconds = began.elapsed().as_secs_f64();
                        println!("ok    {case}: {line} ({seconds:.1} s)");
                    }
                    Err(line) => {
                        println!("WRONG {case}: {line}");
                        passed = false;
                    }
                }
            }
        }
    }
    for (name, check) in [
        (
            "sizes in turn leave no trace",
            sizes_in_turn as fn(&Model) -> _,
        ),
        ("a frame allocates nothing", frames_do_not_allocate),
        ("kept algorithms give the same answer", kept_choices_agree),
    ] {
        match check(&model) {
            Ok(()) => println!("ok    {name}"),
            Err(line) => {
                println!("WRONG {name}: {line}");
                passed = false;
            }
        }
    }
    println!("cuda: {}", if passed { "passed" } else { "FAILED" });
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Without a GPU `auto` is the CPU engine, and `cuda` an error that says what to do.
fn falls_back(model: &Model, reason: &str) {
    let load = |engine| {
        let options = EngineOptions {
            engine,
            ..EngineOptions::default()
        };
        engine::load(model, &options)
    };
    let auto = load(EngineChoice::Auto).unwrap();
    assert!(auto.describe().starts_with("cpu "), "{}", auto.describe());
    let refused = load(EngineChoice::Cuda).err().unwrap();
    assert_eq!(
        refused.to_string(),
        format!("engine 'cuda' is not available: {reason}")
    );
}

/// Algorithms are measured once for each shape and not once for each check.
static CACHE: OnceLock<PathBuf> = OnceLock::new();

fn options(precision: Precision) -> CudaOptions {
    CudaOptions {
        precision,
        cache: CACHE.get().cloned(),
        slices: !flag("--packed"),
        ..CudaOptions::default()
    }
}

fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Smooth pictures with pseudo-random noise, as cameras have.
fn pictures((batch, height, width): (usize, usize, usize), seed: u32) -> Batch {
    let mut state = seed;
    let mut data = Vec::with_capacity(batch * height * width * 3);
    for n in 0..batch {
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let wave = ((x * (c + 1) + y * 2 + n * 40) as f32 / 17.0).sin();
                    data.push((128.0 + 80.0 * wave + (state >> 26) as f32 - 32.0) as u8);
                }
            }
        }
    }
    Batch {
        batch,
        height,
        width,
        data,
    }
}

/// Largest difference over largest value; infinite when something is no number.
fn relative_error(got: &[f32], right: &[f32]) -> f32 {
    if got.len() != right.len() {
        return f32::INFINITY;
    }
    let largest = right
        .iter()
        .fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let off = got.iter().zip(right).map(|(a, b)| (a - b).abs());
    off.fold(0.0f32, |most, off| {
        if off.is_nan() {
            f32::INFINITY
        } else {
            most.max(off)
        }
    }) / largest
}

fn logits(output: &RawOutput) -> Vec<f32> {
    let arrays = output
        .levels
        .iter()
        .flat_map(|level| [&level.class, &level.boxes]);
    arrays.flatten().copied().collect()
}

fn reference_layers(model: &Model, input: &Batch) -> HashMap<String, Vec<f32>> {
    let engine = ReferenceEngine::new(model, &Device::Cpu).unwrap();
    let (mean, std) = (model.manifest.mean, model.manifest.std);
    let normalised: Vec<f32> = (0..input.data.len())
        .map(|i| (f32::from(input.data[i]) / 255.0 - mean[i % 3]) / std[i % 3])
        .collect();
    let shape = (input.batch, input.height, input.width, 3);
    let nhwc = Tensor::from_vec(normalised, shape, &Device::Cpu).unwrap();
    let layers = engine
        .forward(&nhwc.permute((0, 3, 1, 2)).unwrap())
        .unwrap();
    let values = layers
        .iter()
        .map(|layer| layer.flatten_all().unwrap().to_vec1().unwrap());
    let names = model.graph.nodes.iter().map(|node| node.name.clone());
    names.zip(values).collect()
}

fn layers_agree(
    model: &Model,
    precision: Precision,
    input: &Batch,
    tolerance: f32,
) -> Result<String, String> {
    let right = reference_layers(model, input);
    let mut engine = CudaEngine::new(model, &options(precision)).map_err(|e| chain(&e))?;
    let mut worst = (0.0, String::new());
    let mut wrong = Vec::new();
    let mut layers = 0;
    let joined: Vec<&str> = (model.graph.nodes.iter())
        .filter(|node| node.op == Op::Concat)
        .map(|node| node.name.as_str())
        .collect();
    engine
        .layers(input, |name, shape, got| {
            if joined.contains(&name) {
                return; // complete only after its last copy; what reads it is compared
            }
            layers += 1;
            let error = relative_error(got, &right[name]);
            if error > tolerance {
                wrong.push(format!("'{name}' ({shape}) is off by {error:.2e}"));
            }
            if error >= worst.0 {
                worst = (error, name.to_owned());
            }
        })
        .map_err(|e| chain(&e))?;
    match wrong.len() {
        0 => Ok(format!(
            "{layers} layers, the worst is '{}' with {:.2e} of {tolerance:.0e}",
            worst.1, worst.0
        )),
        _ => Err(format!("layers {}", wrong.join(", "))),
    }
}

fn frames_agree(
    model: &Model,
    precision: Precision,
    input: &Batch,
    tolerance: f32,
) -> Result<String, String> {
    let mut right = RawOutput::default();
    let mut reference = ReferenceEngine::new(model, &Device::Cpu).unwrap();
    reference.infer(input, &mut right).unwrap();
    let mut engine = CudaEngine::new(model, &options(precision)).map_err(|e| chain(&e))?;
    let mut got = RawOutput::default();
    for frame in 0..3 {
        engine.infer(input, &mut got).map_err(|e| chain(&e))?;
        let error = relative_error(&logits(&got), &logits(&right));
        if error > tolerance {
            return Err(format!(
                "the logits of frame {frame} are off by {error:.2e}"
            ));
        }
    }
    let error = relative_error(&logits(&got), &logits(&right));
    Ok(format!(
        "logits are off by {error:.2e}; {}",
        engine.describe()
    ))
}

fn sizes_in_turn(model: &Model) -> Result<(), String> {
    let mut engine = CudaEngine::new(model, &options(Precision::F16)).map_err(|e| chain(&e))?;
    let sizes = [(1, 64, 96), (2, 96, 64)];
    let mut first: Vec<RawOutput> = Vec::new();
    for round in 0..3 {
        for (i, size) in sizes.into_iter().enumerate() {
            let mut output = RawOutput::default();
            let input = pictures(size, 7);
            engine.infer(&input, &mut output).map_err(|e| chain(&e))?;
            match first.get(i) {
                None => first.push(output),
                Some(right) if *right == output => {}
                Some(_) => return Err(format!("round {round} differs from the first at {size:?}")),
            }
        }
    }
    Ok(())
}

fn frames_do_not_allocate(model: &Model) -> Result<(), String> {
    let mut engine = CudaEngine::new(model, &options(Precision::F16)).map_err(|e| chain(&e))?;
    let input = pictures((1, 64, 96), 1);
    let mut output = RawOutput::default();
    engine.infer(&input, &mut output).map_err(|e| chain(&e))?;
    let (allocations, frames) = allocations::count(|| {
        let mut frames = (0..10).map(|_| engine.infer(&input, &mut output));
        frames.try_for_each(|frame| frame)
    });
    frames.map_err(|e| chain(&e))?;
    let recorded = !engine.describe().contains("without a CUDA graph");
    match allocations {
        0 => Ok(()),
        _ if !recorded => Ok(()), // every launch collects its arguments
        n => Err(format!("{n} allocations in 10 frames")),
    }
}

fn kept_choices_agree(model: &Model) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let options = CudaOptions {
        cache: Some(folder.path().to_owned()),
        ..options(Precision::F16)
    };
    let input = pictures((1, 64, 96), 1);
    let mut outputs = [RawOutput::default(), RawOutput::default()];
    for output in &mut outputs {
        let mut engine = CudaEngine::new(model, &options).map_err(|e| chain(&e))?;
        engine.infer(&input, output).map_err(|e| chain(&e))?;
    }
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    if files != 1 {
        return Err(format!("expected one file of algorithms, got {files}"));
    }
    match outputs[0] == outputs[1] {
        true => Ok(()),
        false => Err("the second engine's logits differ".to_owned()),
    }
}

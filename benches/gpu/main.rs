//! Frames through this program's engines on a GPU: one JSON line a case, on standard output.
//!
//! `gpu ENGINE… [ROUND]` times vovcam in half and single precision (`f16`, `f32`), with slices of
//! concatenations copied instead of used in place (`f16-packed`), and, where the binary was built
//! with the feature `candle-cuda`, candle's own path (`candle`). A frame is bytes in host memory to logits in
//! host memory, the clock read after the GPU is done; `benches/gpu/peers.py` does the same.

#![allow(
    clippy::print_stdout,
    reason = "JSON lines are what this program is for"
)]

use serde_json::json;
use std::error::Error;
use std::time::{Duration, Instant};
use vovcam::engine::Engine;
use vovcam::engine::cuda::{CudaEngine, CudaOptions, Precision};
use vovcam::model::Model;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

/// Seconds a case, if the environment's `SECONDS_A_CASE` says nothing else; NVML's energy counter
/// moves every tenth of a second or so.
const MEASURED: f64 = 3.0;
const WARM_UP: usize = 30;
/// Different inputs that are run in turn.
const INPUTS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` adds an argument of its own
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|text| text != "--bench")
        .collect();
    let round = arguments.iter().find_map(|text| text.parse::<u32>().ok());
    let mut names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    names.retain(|text| text.parse::<u32>().is_err());
    if names.is_empty() {
        names = vec!["f16", "f32", "f16-packed"];
    }
    let model = Model::bundled()?;
    let energy = Energy::new();
    let seconds = match std::env::var("SECONDS_A_CASE") {
        Ok(text) => text.parse()?,
        Err(_) => MEASURED,
    };
    let measured = Duration::from_secs_f64(seconds);
    for side in [320, 640] {
        for batch in [1, 4] {
            let inputs: Vec<Batch> = (0..INPUTS).map(|seed| noise(batch, side, seed)).collect();
            for &name in &names {
                let (runtime, mut engine) = engine(&model, name)?;
                let timed = time(engine.as_mut(), &inputs, measured, &energy);
                let mut line = json!({
                    "runtime": runtime, "side": side, "batch": batch, "round": round,
                    "engine": engine.describe(),
                });
                match timed {
                    Ok(timed) => timed.write(&mut line),
                    Err(error) => line["error"] = json!(error.to_string()),
                }
                println!("{line}");
            }
        }
    }
    Ok(())
}

/// The engine's name in the report, and the engine.
type Named = (&'static str, Box<dyn Engine>);

fn engine(model: &Model, name: &str) -> Result<Named, Box<dyn Error>> {
    let (runtime, precision, slices) = match name {
        "f16" => ("vovcam f16", Precision::F16, true),
        "f32" => ("vovcam f32", Precision::F32, true),
        "f16-packed" => ("vovcam f16, slices copied", Precision::F16, false),
        "candle" => return candle(model),
        _ => return Err(format!("expected f16, f32, f16-packed or candle, got '{name}'").into()),
    };
    let options = CudaOptions {
        precision,
        slices,
        ..CudaOptions::default()
    };
    Ok((runtime, Box::new(CudaEngine::new(model, &options)?)))
}

#[cfg(feature = "candle-cuda")]
fn candle(model: &Model) -> Result<Named, Box<dyn Error>> {
    let device = candle_core::Device::new_cuda(0)?;
    let engine = vovcam::engine::reference::ReferenceEngine::new(model, &device)?;
    Ok(("candle f32 (cuDNN)", Box::new(engine)))
}

#[cfg(not(feature = "candle-cuda"))]
fn candle(_: &Model) -> Result<Named, Box<dyn Error>> {
    Err("this binary was built without the feature 'candle-cuda'".into())
}

fn noise(batch: usize, side: usize, seed: usize) -> Batch {
    let mut state = seed as u32 + 1;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Batch {
        batch,
        height: side,
        width: side,
        data: (0..batch * side * side * 3).map(|_| byte()).collect(),
    }
}

struct Timed {
    milliseconds: Vec<f64>,
    joules: Option<f64>,
    batch: usize,
}

impl Timed {
    fn write(mut self, line: &mut serde_json::Value) {
        self.milliseconds.sort_by(f64::total_cmp);
        let runs = self.milliseconds.len();
        let at = |share: f64| self.milliseconds[((runs - 1) as f64 * share) as usize];
        line["runs"] = json!(runs);
        line["ms"] = json!(at(0.5));
        line["ms_min"] = json!(at(0.0));
        line["ms_p95"] = json!(at(0.95));
        line["joules_per_frame"] = json!(self.joules.map(|j| j / (runs * self.batch) as f64));
    }
}

fn time(
    engine: &mut dyn Engine,
    inputs: &[Batch],
    measured: Duration,
    energy: &Energy,
) -> Result<Timed, Box<dyn Error>> {
    let mut output = RawOutput::default();
    for input in inputs.iter().cycle().take(WARM_UP) {
        engine.infer(input, &mut output)?;
    }
    let mut milliseconds = Vec::new();
    let (start, joules) = (Instant::now(), energy.joules());
    for input in inputs.iter().cycle() {
        let began = Instant::now();
        engine.infer(input, &mut output)?;
        milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        if start.elapsed() >= measured {
            break;
        }
    }
    let spent = energy.joules().zip(joules).map(|(end, start)| end - start);
    Ok(Timed {
        milliseconds,
        joules: spent,
        batch: inputs[0].batch,
    })
}

/// The first GPU's energy counter, where the driver has one.
struct Energy(Option<nvml_wrapper::Nvml>);

impl Energy {
    fn new() -> Energy {
        Energy(nvml_wrapper::Nvml::init().ok())
    }

    fn joules(&self) -> Option<f64> {
        let device = self.0.as_ref()?.device_by_index(0).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1e3)
    }
}

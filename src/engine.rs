//! An engine runs a model's graph: letterboxed bytes in, class and box logits out.
//!
//! Three engines run the same graph. `cpu` is the fast one without a GPU, `cuda` the fast one
//! with it, and `reference` is plain candle on any device: the oracle the other two are tested
//! against.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod layout;
pub mod reference;

use crate::board::GpuPlace;
use crate::model::Model;
use crate::network::graph::{Graph, GraphError};
use crate::tensor::{Batch, RawLevel, RawOutput};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which engine to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The GPU if the program was built for one and finds it, else the CPU.
    #[default]
    Auto,
    /// This project's CPU kernels.
    Cpu,
    /// The CUDA GPU; an error where there is none.
    Cuda,
    /// candle's own operations, slow and simple.
    Reference,
}

/// Activation precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, on a GPU.
    F16,
    /// Bytes: about twice as fast on processors with byte products, less on others, for a little
    /// precision.
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        })
    }
}

/// Which engine to make, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// Which engine.
    pub engine: EngineChoice,
    /// Activation precision. None for f16 on a GPU; on a CPU for int8 where it is faster and the
    /// model has int8 ranges, and else for f32.
    pub precision: Option<Precision>,
    /// CPU threads, 0 = one a core.
    pub threads: usize,
    /// CPU instruction set; none for the best of this machine.
    pub isa: Option<cpu::Isa>,
}

/// Errors of making or running an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine does not have what the engine needs, or not yet: a GPU's driver may come late.
    #[error("engine '{engine}' is not available: {reason}")]
    Unavailable {
        /// The engine asked for.
        engine: &'static str,
        /// The reason, and what to do.
        reason: String,
    },
    /// Asked for something that this build, model or processor will never have.
    #[error("engine '{engine}' is not available: {reason}")]
    Unsupported {
        /// The engine asked for.
        engine: &'static str,
        /// The reason, and what to do.
        reason: String,
    },
    /// The image does not fit the network.
    #[error(
        "input of {width}x{height} pixels: both sides must be positive multiples of {multiple}"
    )]
    InputSize {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// The network's largest stride.
        multiple: usize,
    },
    /// The images' bytes are not as many as their size says.
    #[error("{got} bytes of images: expected {expected}")]
    InputLength {
        /// Batch × height × width × 3.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The GPU or its libraries failed.
    #[error("the GPU failed while {doing}")]
    Gpu {
        /// The operation.
        doing: String,
        /// Error of the driver or cuDNN.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// candle failed.
    #[error("candle failed in layer '{layer}'")]
    Candle {
        /// The graph node.
        layer: String,
        /// Error of candle.
        source: candle_core::Error,
    },
}

/// Runs one model. Buffers are sized on the first call of each input size and reused.
pub trait Engine: Send {
    /// Kernel set, precision and threads for the start-up log, such as `cpu avx512 f32, 2 threads`.
    fn describe(&self) -> String;

    /// Reason for the precision, if the options named none: `f32: this processor has no byte
    /// products`.
    fn precision_reason(&self) -> Option<&str> {
        None
    }

    /// The start-up line: [`Engine::describe`], and [`Engine::precision_reason`] in brackets.
    fn start_line(&self) -> String {
        match self.precision_reason() {
            Some(reason) => format!("{} ({reason})", self.describe()),
            None => self.describe(),
        }
    }

    /// The GPU that the network runs on: on a PC, that decides whose power counts.
    fn gpu(&self) -> Option<GpuPlace> {
        None
    }

    /// Runs the network on a batch and writes every level's logits into `output`.
    ///
    /// # Errors
    /// When the input size does not fit the network, or the device fails.
    fn infer(&mut self, input: &Batch, output: &mut RawOutput) -> Result<(), EngineError>;
}

impl RawOutput {
    /// Sizes the buffers for a batch of `height` × `width` images; allocates only when they grow.
    pub fn resize_for(&mut self, graph: &Graph, batch: usize, height: usize, width: usize) {
        self.batch = batch;
        self.levels
            .resize_with(graph.outputs.len(), RawLevel::default);
        for (level, output) in self.levels.iter_mut().zip(&graph.outputs) {
            level.stride = output.stride;
            level.height = height / output.stride;
            level.width = width / output.stride;
            let cells = batch * level.height * level.width;
            level
                .class
                .resize(cells * graph.channels(output.class), 0.0);
            level
                .boxes
                .resize(cells * graph.channels(output.boxes), 0.0);
        }
    }
}

/// Makes an engine for `model`.
///
/// # Errors
/// When the engine asked for cannot run here.
pub fn load(model: &Model, options: &EngineOptions) -> Result<Box<dyn Engine>, EngineError> {
    match options.engine {
        EngineChoice::Auto => match load_cuda(model, options) {
            Ok(engine) => Ok(engine),
            Err(
                EngineError::Unavailable { reason, .. } | EngineError::Unsupported { reason, .. },
            ) => {
                tracing::info!("no GPU engine, using the CPU: {reason}");
                load_cpu(model, options)
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let source = source.unwrap_or_default();
                tracing::warn!("the GPU engine does not start, using the CPU: {error}: {source}");
                load_cpu(model, options)
            }
        },
        EngineChoice::Cpu => load_cpu(model, options),
        EngineChoice::Reference => match options.precision {
            None | Some(Precision::F32) => load_reference(model),
            Some(precision) => Err(lacks("reference", precision)),
        },
        EngineChoice::Cuda => load_cuda(model, options),
    }
}

fn load_reference(model: &Model) -> Result<Box<dyn Engine>, EngineError> {
    let device = candle_core::Device::Cpu;
    Ok(Box::new(reference::ReferenceEngine::new(model, &device)?))
}

fn load_cpu(model: &Model, options: &EngineOptions) -> Result<Box<dyn Engine>, EngineError> {
    let precision = options.precision;
    let mut options = cpu::CpuOptions {
        threads: options.threads,
        isa: options.isa,
        ..cpu::CpuOptions::default()
    };
    Ok(Box::new(match precision {
        None => cpu::CpuEngine::with_best_precision(model, options)?,
        Some(precision) => {
            options.precision = precision;
            cpu::CpuEngine::with_options(model, options)?
        }
    }))
}

#[cfg(feature = "cuda")]
fn load_cuda(model: &Model, options: &EngineOptions) -> Result<Box<dyn Engine>, EngineError> {
    let precision = options.precision;
    let options = cuda::CudaOptions {
        precision: precision.unwrap_or(Precision::F16),
        ..cuda::CudaOptions::default()
    };
    let mut engine = cuda::CudaEngine::new(model, &options)?;
    if precision.is_none() {
        engine.explain("f16: the fastest on a GPU, with sums in f32");
    }
    Ok(Box::new(engine))
}

#[cfg(not(feature = "cuda"))]
fn load_cuda(_: &Model, _: &EngineOptions) -> Result<Box<dyn Engine>, EngineError> {
    Err(EngineError::Unsupported {
        engine: "cuda",
        reason: "this build has no CUDA engine; build with '--features cuda', or use --engine cpu"
            .to_owned(),
    })
}

/// Refuses a graph that the kernels cannot run.
fn refused(engine: &'static str) -> impl FnOnce(GraphError) -> EngineError {
    move |error| EngineError::Unsupported {
        engine,
        reason: format!("the network cannot run: {error}"),
    }
}

fn lacks(engine: &'static str, precision: Precision) -> EngineError {
    EngineError::Unsupported {
        engine,
        reason: format!("it has no {precision}; choose another --engine or --precision"),
    }
}

/// Size of a batch of images, in images and pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchSize {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl BatchSize {
    fn of(input: &Batch) -> BatchSize {
        BatchSize {
            batch: input.batch,
            height: input.height,
            width: input.width,
        }
    }
}

/// Refuses input sizes that are no multiples of the graph's [`Graph::max_stride`], and bytes that
/// are not as many as the size says.
pub(crate) fn check_input(multiple: usize, input: &Batch) -> Result<(), EngineError> {
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
    if !(fits(input.height) && fits(input.width)) {
        return Err(EngineError::InputSize {
            width: input.width,
            height: input.height,
            multiple,
        });
    }
    // saturating: a size that does not fit memory has no bytes of that number
    let expected = [input.height, input.width, 3]
        .into_iter()
        .fold(input.batch, usize::saturating_mul);
    if expected == 0 || input.data.len() != expected {
        return Err(EngineError::InputLength {
            expected: expected.max(1),
            got: input.data.len(),
        });
    }
    Ok(())
}

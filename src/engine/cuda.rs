//! The CUDA engine: the graph on an NVIDIA GPU, as a short list of fused convolutions.
//!
//! ```text
//!  Graph ─layout─▶ slices ─program─▶ steps ─choices, tune─▶ plan ─record─▶ one CUDA graph a frame
//!    └────filter──▶ weights on the GPU ─────────┘
//! ```
//!
//! Values are NHWC in half or single precision, sums always single. A concatenation is the
//! buffer that its parts are written into, so that one-shot aggregation moves no memory.
//! Convolution, bias and ReLU are one call of cuDNN, whose algorithm is the fastest of those
//! measured on this GPU. A frame is one launch, two copies from and to pinned memory and one
//! wait; nothing is allocated.
//!
//! The driver and cuDNN are loaded at run time: the same program runs without them.

mod choices;
mod conv;
mod cudnn;
mod filter;
mod gpu;
mod kernels;
mod plan;
mod program;
#[cfg(test)]
mod tests;
mod tune;

pub use super::Precision;
use super::layout::{BLOCK, Layout};

use super::{BatchSize, Engine, EngineError, check_input, lacks};
use crate::board::GpuPlace;
use crate::model::Model;
use crate::network::graph::{Graph, Op, Shape};
use crate::tensor::{Batch, RawOutput};
use choices::TuningCache;
use conv::GpuFilter;
use filter::Filter;
use gpu::{Gpu, refused};
use half::f16;
use kernels::Normalisation;
use plan::{Plan, Shared};
use program::{Program, View};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Plans kept, each with its own memory: a camera has one size, an evaluation a handful.
const MOST_PLANS: usize = 8;

/// Type of values on the GPU: a [`Precision`] that this engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Float {
    /// Half, with sums in single precision, on tensor cores.
    F16,
    /// Single, without TensorFloat-32.
    F32,
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Float::F16 => "f16",
            Float::F32 => "f32",
        })
    }
}

impl Float {
    fn of(precision: Precision) -> Result<Float, EngineError> {
        match precision {
            Precision::F16 => Ok(Float::F16),
            Precision::F32 => Ok(Float::F32),
            Precision::Int8 => Err(lacks("cuda", precision)),
        }
    }

    /// Bytes of a value.
    fn bytes(self) -> usize {
        match self {
            Float::F16 => 2,
            Float::F32 => 4,
        }
    }

    /// Values in the 16 bytes that the kernels move at once; a pixel of the input image is as wide.
    fn pack(self) -> usize {
        16 / self.bytes()
    }

    /// Whether a value stays finite.
    fn holds(self, value: f32) -> bool {
        match self {
            Float::F16 => f16::from_f32(value).is_finite(),
            Float::F32 => value.is_finite(),
        }
    }

    fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Float::F16 => values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            Float::F32 => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    /// The value number `index` of an array.
    fn value(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Float::F16 => f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
            Float::F32 => {
                let at = 4 * index;
                f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            }
        }
    }
}

/// Options of a [`CudaEngine`].
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Which GPU, from 0.
    pub device: usize,
    /// Activation precision: f16 or f32.
    pub precision: Precision,
    /// Folder that keeps cuDNN's algorithms between runs; none to measure at every start.
    pub cache: Option<PathBuf>,
    /// Whether cuDNN may read and write slices of concatenations; if not, they are copied.
    pub slices: bool,
}

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions {
            device: 0,
            precision: Precision::F16,
            cache: choices::cache_folder(|name| std::env::var_os(name)),
            slices: true,
        }
    }
}

/// Runs a graph on a GPU.
pub struct CudaEngine {
    // plans are dropped before the GPU that they run on
    plans: Vec<Plan>,
    shared: Arc<Shared>,
    tuning: TuningCache,
    graph: Graph,
    /// Input sides are multiples of it.
    multiple: usize,
    layout: Layout,
    gpu: Gpu,
    /// Reason for the precision, if the options named none.
    precision_reason: Option<&'static str>,
}

impl CudaEngine {
    /// Puts a model on a GPU.
    ///
    /// # Errors
    /// When there is no usable GPU, driver or cuDNN, or the network has a layer without a kernel.
    pub fn new(model: &Model, options: &CudaOptions) -> Result<CudaEngine, EngineError> {
        let precision = Float::of(options.precision)?;
        model.graph.check().map_err(super::refused("cuda"))?;
        let gpu = Gpu::open(options.device, precision)?;
        let layout = Layout::new(&model.graph);
        let filters = filters(model, &layout, precision)
            .iter()
            .zip(model.graph.convs())
            .map(|(filter, (id, _))| {
                let layer = &model.graph.node(id).name;
                GpuFilter::new(&gpu, precision, filter, layer).map(Arc::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bytes: usize = filters.iter().map(|filter| filter.bytes()).sum();
        tracing::debug!("{bytes} bytes of weights are on {}", gpu.name);
        let machine = format!("{}, {}", gpu.name, gpu.versions);
        let manifest = &model.manifest;
        let engine = CudaEngine {
            plans: Vec::new(),
            shared: Arc::new(Shared {
                precision,
                slices: options.slices,
                filters,
                normalisation: Normalisation::new(&manifest.mean, &manifest.std),
            }),
            tuning: TuningCache::open(options.cache.as_deref(), &machine),
            graph: model.graph.clone(),
            multiple: model.graph.max_stride(),
            layout,
            gpu,
            precision_reason: None,
        };
        // a network that cannot run is refused here and not at the first frame
        engine.program(BatchSize {
            batch: 1,
            height: engine.multiple,
            width: engine.multiple,
        })?;
        Ok(engine)
    }

    /// Gives the reason for the precision.
    pub(super) fn explain(&mut self, reason: &'static str) {
        self.precision_reason = Some(reason);
    }

    /// Runs one batch layer by layer and shows each layer's name, its shape, and its output as
    /// `[batch, channels, height, width]`: for comparisons with the reference engine.
    ///
    /// # Errors
    /// As [`Engine::infer`].
    pub fn layers(
        &mut self,
        input: &Batch,
        mut show: impl FnMut(&str, Shape, &[f32]),
    ) -> Result<(), EngineError> {
        check_input(self.multiple, input)?;
        let index = self.plan(input)?;
        let (graph, layout, precision) = (&self.graph, &self.layout, self.shared.precision);
        let shapes = graph.shapes(input.height, input.width);
        self.plans[index]
            .run_slowly(&self.gpu, &input.data, |node, view, bytes| {
                let lanes = &layout.lanes[node];
                let values = unpack(precision, input.batch, view, lanes, bytes);
                show(&graph.nodes[node].name, shapes[node], &values);
            })
            .map_err(refused("running a frame layer by layer"))
    }

    fn program(&self, size: BatchSize) -> Result<Program, EngineError> {
        let pixel = self.shared.precision.pack();
        Program::new(&self.graph, &self.layout, size, pixel).map_err(|reason| {
            EngineError::Unsupported {
                engine: "cuda",
                reason,
            }
        })
    }

    /// The plan for a size: its index.
    fn plan(&mut self, input: &Batch) -> Result<usize, EngineError> {
        self.gpu.bind()?;
        let size = BatchSize::of(input);
        if let Some(known) = self.plans.iter().position(|plan| plan.size() == size) {
            return Ok(known);
        }
        if self.plans.len() == MOST_PLANS {
            self.plans.remove(0);
        }
        let program = self.program(size)?;
        let plan = Plan::new(&self.gpu, &self.shared, program, &mut self.tuning)?;
        self.plans.push(plan);
        Ok(self.plans.len() - 1)
    }
}

impl Engine for CudaEngine {
    fn describe(&self) -> String {
        let launches = match self.plans.iter().all(Plan::is_recorded) {
            true => "",
            false => ", without a CUDA graph",
        };
        let Gpu { name, versions, .. } = &self.gpu;
        format!(
            "cuda {} on {name}, {versions}{launches}",
            self.shared.precision
        )
    }

    fn precision_reason(&self) -> Option<&str> {
        self.precision_reason
    }

    fn gpu(&self) -> Option<GpuPlace> {
        let pci = self.gpu.pci.clone();
        Some(GpuPlace { pci })
    }

    fn infer(&mut self, input: &Batch, output: &mut RawOutput) -> Result<(), EngineError> {
        check_input(self.multiple, input)?;
        output.resize_for(&self.graph, input.batch, input.height, input.width);
        let index = self.plan(input)?;
        self.plans[index]
            .run(&self.gpu, &input.data, output)
            .map_err(refused("running a frame"))
    }
}

/// Every convolution's weights in the GPU's order.
fn filters(model: &Model, layout: &Layout, precision: Float) -> Vec<Filter> {
    let graph = &model.graph;
    graph
        .convs()
        .zip(&model.weights)
        .map(|((id, conv), weights)| {
            let input = graph.node(id).inputs[0];
            let pixel = match graph.node(input).op {
                Op::Input => precision.pack(),
                _ => 0,
            };
            let out = conv.out_channels.next_multiple_of(BLOCK);
            Filter::new(conv, weights, &layout.lanes[input.0], pixel, out)
        })
        .collect()
}

/// A view's bytes as `[batch, channels, height, width]` without padding channels.
fn unpack(
    precision: Float,
    batch: usize,
    view: &View,
    lanes: &[Option<usize>],
    bytes: &[u8],
) -> Vec<f32> {
    let cells = view.height * view.width;
    let channels = lanes.iter().flatten().count();
    let mut values = vec![0.0; batch * channels * cells];
    for pixel in 0..batch * cells {
        let (image, cell) = (pixel / cells, pixel % cells);
        for (lane, channel) in lanes.iter().enumerate() {
            if let Some(channel) = channel {
                values[(image * channels + channel) * cells + cell] =
                    precision.value(bytes, pixel * view.pixel + lane);
            }
        }
    }
    values
}

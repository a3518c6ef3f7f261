//! The CPU engine: VoVNet as fast as a CPU can run it.
//!
//! ```text
//!  Graph ─layout─▶ buffers, lanes ─plan─▶ steps over one arena ─pool─▶ logits
//!    └─────pack──▶ weights in kernel order ──────┘
//! ```
//!
//! Four decisions make it fast. Values lie in blocks of sixteen channels, a vector each, in
//! planes with a border of zeros, so that no inner loop tests anything. A concatenation is the
//! buffer that its parts are written into, so one-shot aggregation moves no memory. Every
//! convolution is one register-tiled matrix kernel with bias and ReLU at its end, behind
//! Winograd's transform where the convolution is 3×3; or, with a model that has
//! calibrated ranges, the same kernel in bytes, which multiplies four times as many. And everything that can be
//! decided before the first frame is: a frame runs a list of steps and allocates nothing.

mod aligned;
mod direct;
mod dot;
mod kernels;
mod memory;
mod pack;
mod plan;
mod plane;
mod pool;
mod quant;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod winograd;

pub use simd::Isa;

use super::layout::Layout;
use super::{BatchSize, Engine, EngineError, Precision, check_input, refused};
use crate::model::Model;
use crate::network::graph::{NodeId, Op};
use crate::tensor::{Batch, RawOutput};
use aligned::Aligned;
use dot::ByteKernels;
use kernels::Kernels;
use memory::{INPUT_PIXEL, Memory};
use pack::{Algorithm, InputLanes, Packed};
use plan::{Arithmetic, Plan, PlanContext};
use plane::Normalise;
use pool::Pool;
use quant::Scales;
use simd::LANES;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Plans kept: a camera has one size, an evaluation over images a handful.
const MOST_PLANS: usize = 16;

/// Options of a [`CpuEngine`].
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads, 0 for one a core.
    pub threads: usize,
    /// Instruction set, none for the best of this machine.
    pub isa: Option<Isa>,
    /// Activation precision.
    pub precision: Precision,
    /// Whether 3×3 convolutions in f32 use Winograd's transform.
    pub winograd: bool,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions {
            threads: 0,
            isa: None,
            precision: Precision::F32,
            winograd: true,
        }
    }
}

/// Runs a graph with this project's own kernels.
pub struct CpuEngine {
    context: PlanContext,
    pool: Pool,
    /// One for each batch size seen, newest last.
    plans: Vec<Plan>,
    /// Shared by all plans, as large as the largest needs.
    arena: Aligned,
    /// Input sides are multiples of it.
    multiple: usize,
    /// Kernels and precision, for the description.
    kernels: String,
    /// Reason for the precision, if it was chosen here.
    precision_reason: Option<String>,
}

/// Time of one step of a frame.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// The graph node that the step is part of.
    pub node: NodeId,
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Median over the rounds.
    pub median: Duration,
}

impl CpuEngine {
    /// An engine on `threads` threads (0 = one a core) with the best kernels of this machine.
    ///
    /// # Errors
    /// When the system refuses a thread or the network has a layer without a kernel.
    pub fn new(model: &Model, threads: usize) -> Result<CpuEngine, EngineError> {
        CpuEngine::with_options(
            model,
            CpuOptions {
                threads,
                ..CpuOptions::default()
            },
        )
    }

    /// An engine with these options.
    ///
    /// # Errors
    /// When this machine lacks the instruction set, the system refuses a thread, or the
    /// network has a layer without a kernel.
    pub fn with_options(model: &Model, options: CpuOptions) -> Result<CpuEngine, EngineError> {
        let isa = options.isa.or_else(|| Isa::available().next());
        let isa = isa.unwrap_or(Isa::Scalar);
        let kernels = Kernels::of(isa).ok_or_else(|| {
            let has: Vec<String> = Isa::available().map(|isa| isa.to_string()).collect();
            unsupported(format!(
                "this machine has no '{isa}' instructions; it has {}",
                has.join(", ")
            ))
        })?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        model.graph.check().map_err(refused("cpu"))?;
        let pool = Pool::new(threads)
            .map_err(|e| unavailable(format!("cannot start {threads} threads: {e}")))?;
        let layout = Layout::new(&model.graph);
        let (arithmetic, description) = match options.precision {
            Precision::F32 => floats(model, isa, options.winograd),
            Precision::Int8 => bytes(model, isa)?,
            Precision::F16 => return Err(super::lacks("cpu", Precision::F16)),
        };
        let mut engine = CpuEngine {
            context: PlanContext {
                weights: pack(model, &layout, &arithmetic, options.winograd),
                graph: model.graph.clone(),
                layout,
                kernels,
                arithmetic,
                threads,
            },
            pool,
            plans: Vec::new(),
            arena: Aligned::zeroed(0),
            multiple: model.graph.max_stride(),
            kernels: description,
            precision_reason: None,
        };
        // a network that cannot run is refused here and not at the first frame
        engine.plan(BatchSize {
            batch: 1,
            height: engine.multiple,
            width: engine.multiple,
        })?;
        Ok(engine)
    }

    /// An engine with these options, but for the precision: int8 where it is faster on this processor
    /// and the model runs in int8, else f32.
    ///
    /// # Errors
    /// As [`CpuEngine::with_options`].
    pub fn with_best_precision(
        model: &Model,
        options: CpuOptions,
    ) -> Result<CpuEngine, EngineError> {
        let best = Isa::available().next().unwrap_or(Isa::Scalar);
        let faster = ByteKernels::of(options.isa.unwrap_or(best)).faster;
        CpuEngine::of_best_precision(model, options, faster)
    }

    fn of_best_precision(
        model: &Model,
        options: CpuOptions,
        int8_is_faster: bool,
    ) -> Result<CpuEngine, EngineError> {
        let with = |precision, reason: String| {
            let options = CpuOptions {
                precision,
                ..options
            };
            let mut engine = CpuEngine::with_options(model, options)?;
            engine.precision_reason = Some(reason);
            Ok(engine)
        };
        let obstacle = match (int8_is_faster, options.isa, &model.manifest.int8) {
            (false, None, _) => "int8 is not faster on this processor".to_owned(),
            (false, Some(isa), _) => format!("int8 is not faster with '{isa}'"),
            (true, _, None) => format!("the model '{}' has no int8 ranges", model.manifest.name),
            (true, _, Some(_)) => {
                let reason = "int8: faster here, and the model has int8 ranges".to_owned();
                match with(Precision::Int8, reason) {
                    // a layer that int8 cannot run, or one without a range
                    Err(EngineError::Unsupported { reason, .. }) => reason,
                    made => return made,
                }
            }
        };
        with(Precision::F32, format!("f32: {obstacle}"))
    }

    /// Runs the network `rounds` times with a stopwatch at every step: how `cargo bench --bench
    /// layers` shows where a frame's time goes. Steps are in the order in which they run.
    ///
    /// # Errors
    /// When the input size does not fit the network.
    #[allow(unsafe_code, reason = "as in `infer`, with a clock")]
    pub fn profile(&mut self, input: &Batch, rounds: usize) -> Result<Vec<StepTime>, EngineError> {
        let mut output = RawOutput::default();
        self.infer(input, &mut output)?;
        let index = self.plan(BatchSize::of(input))?;
        let plan = &self.plans[index];
        let mut laps: Vec<Vec<Duration>> = vec![Vec::with_capacity(rounds); plan.steps.len()];
        for _ in 0..rounds {
            let memory = Memory::new(&mut self.arena, &input.data, &mut output);
            for ((_, step), laps) in plan.steps.iter().zip(&mut laps) {
                let began = Instant::now();
                self.pool.run(plan.items(step), &|thread, item| {
                    // SAFETY: `infer` above reserved the arena and sized the output
                    unsafe { plan.run(step, &memory, thread, item) }
                });
                laps.push(began.elapsed());
            }
        }
        let steps = plan.steps.iter().zip(laps);
        Ok(steps
            .map(|((node, step), mut laps)| {
                laps.sort_unstable();
                StepTime {
                    node: *node,
                    kernel: step.kernel(),
                    median: laps.get(rounds / 2).copied().unwrap_or_default(),
                }
            })
            .collect())
    }

    /// The plan for a size: its index.
    fn plan(&mut self, size: BatchSize) -> Result<usize, EngineError> {
        if let Some(known) = self.plans.iter().position(|plan| plan.size == size) {
            return Ok(known);
        }
        let plan = Plan::new(&self.context, size)?;
        self.arena.reserve(plan.arena_len);
        if self.plans.len() == MOST_PLANS {
            self.plans.remove(0);
        }
        self.plans.push(plan);
        Ok(self.plans.len() - 1)
    }
}

fn floats(model: &Model, isa: Isa, winograd: bool) -> (Arithmetic, String) {
    let manifest = &model.manifest;
    let arithmetic = Arithmetic::Floats {
        table: Arc::new(Normalise::table(&manifest.mean, &manifest.std)),
    };
    let algorithm = if winograd { " winograd" } else { "" };
    (arithmetic, format!("{isa} f32{algorithm}"))
}

fn bytes(model: &Model, isa: Isa) -> Result<(Arithmetic, String), EngineError> {
    let scales = Scales::new(&model.graph, &model.manifest).map_err(|node| {
        unsupported(format!(
            "the model '{}' has no int8 range for '{node}'; measure them with \
             'vovcam calibrate', or use --precision f32",
            model.manifest.name
        ))
    })?;
    let kernels = ByteKernels::of(isa);
    let arithmetic = Arithmetic::Bytes {
        tiles: kernels.tiles,
        scales,
        border: quant::input_border(&model.manifest),
    };
    Ok((arithmetic, format!("{} int8", kernels.name)))
}

/// Every convolution's weights in the order its kernel reads them, by node; none for a layer
/// that has no kernel.
fn pack(
    model: &Model,
    layout: &Layout,
    arithmetic: &Arithmetic,
    winograd: bool,
) -> Vec<Option<Arc<Packed>>> {
    let graph = &model.graph;
    let mut packed = vec![None; graph.nodes.len()];
    for ((id, conv), weights) in graph.convs().zip(&model.weights) {
        let input = graph.node(id).inputs[0];
        let from_image = graph.node(input).op == Op::Input;
        let lanes = |block: usize| InputLanes {
            channels: &layout.lanes[input.0],
            block,
        };
        packed[id.0] = match arithmetic {
            Arithmetic::Floats { .. } if from_image => {
                let lanes = lanes(INPUT_PIXEL - 1);
                Some(Packed::floats(conv, weights, lanes, Algorithm::Direct))
            }
            Arithmetic::Floats { .. } => {
                let algorithm = Algorithm::choose(conv, winograd);
                Some(Packed::floats(conv, weights, lanes(LANES), algorithm))
            }
            // bytes have no sign, and logits, which are floats, have no scale: only logits go
            // without a ReLU, and all of them do
            Arithmetic::Bytes { .. } if conv.relu != layout.slices[id.0].is_some() => None,
            Arithmetic::Bytes { scales, .. } => {
                scales.quantise(graph, id, conv, weights).map(|weights| {
                    let block = if from_image { INPUT_PIXEL } else { LANES };
                    Packed::bytes(conv, &weights, lanes(block))
                })
            }
        }
        .map(Arc::new);
    }
    packed
}

impl Engine for CpuEngine {
    fn precision_reason(&self) -> Option<&str> {
        self.precision_reason.as_deref()
    }

    fn describe(&self) -> String {
        let threads = self.pool.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu {}, {threads} thread{plural}", self.kernels)
    }

    #[allow(unsafe_code, reason = "the one door from safe code to the plan")]
    fn infer(&mut self, input: &Batch, output: &mut RawOutput) -> Result<(), EngineError> {
        check_input(self.multiple, input)?;
        output.resize_for(&self.context.graph, input.batch, input.height, input.width);
        let index = self.plan(BatchSize::of(input))?;
        let plan = &self.plans[index];
        let memory = Memory::new(&mut self.arena, &input.data, output);
        for (_, step) in &plan.steps {
            self.pool.run(plan.items(step), &|thread, item| {
                // SAFETY: the arena was reserved and the output sized for this plan just above;
                // `run` returns when all pieces are done, so steps do not overlap
                unsafe { plan.run(step, &memory, thread, item) }
            });
        }
        Ok(())
    }
}

fn unavailable(reason: String) -> EngineError {
    EngineError::Unavailable {
        engine: "cpu",
        reason,
    }
}

fn unsupported(reason: String) -> EngineError {
    EngineError::Unsupported {
        engine: "cpu",
        reason,
    }
}

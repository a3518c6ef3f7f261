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
//! Winograd's transform where the convolution is 3×3 with stride 1. And everything that can be
//! decided before the first frame is: a frame runs a list of steps and allocates nothing.

mod aligned;
mod direct;
pub(in crate::engine) mod layout;
mod memory;
mod pack;
mod plan;
mod plane;
mod pool;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod winograd;

pub use simd::Isa;

use super::{Engine, EngineError, RawOutput, check_input};
use crate::graph::Op;
use crate::preprocess::ModelInput;
use crate::weights::Model;
use aligned::Aligned;
use layout::Layout;
use memory::Memory;
use pack::{Algorithm, Packed};
use plan::{Network, Plan};
use plane::{PICTURE_PIXEL, Picture};
use pool::Pool;
use std::sync::Arc;

/// Plans kept: a camera has one size, an evaluation over pictures a handful.
const MOST_PLANS: usize = 16;

/// How to make a [`CpuEngine`].
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads, 0 for one a core.
    pub threads: usize,
    /// Instruction set, none for the best of this machine.
    pub isa: Option<Isa>,
    /// Whether 3×3 stride-1 convolutions use Winograd's transform.
    pub winograd: bool,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions {
            threads: 0,
            isa: None,
            winograd: true,
        }
    }
}

/// Runs a graph with this project's own kernels.
pub struct CpuEngine {
    network: Network,
    pool: Pool,
    /// One for each batch and picture size seen, newest last.
    plans: Vec<Plan>,
    /// Shared by all plans, as large as the largest needs.
    arena: Aligned,
    winograd: bool,
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

    /// An engine made to order.
    ///
    /// # Errors
    /// When this machine lacks the instruction set, the system refuses a thread, or the
    /// network has a layer without a kernel.
    pub fn with_options(model: &Model, options: CpuOptions) -> Result<CpuEngine, EngineError> {
        let isa = options.isa.or_else(|| Isa::available().next());
        let isa = isa.unwrap_or(Isa::Scalar);
        let kernels = isa.kernels().ok_or_else(|| {
            let has: Vec<String> = Isa::available().map(|isa| isa.to_string()).collect();
            unavailable(format!(
                "this machine has no '{isa}' instructions; it has {}",
                has.join(", ")
            ))
        })?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Pool::new(threads)
            .map_err(|e| unavailable(format!("cannot start {threads} threads: {e}")))?;
        let layout = Layout::new(&model.graph);
        let manifest = &model.manifest;
        let mut engine = CpuEngine {
            network: Network {
                weights: pack(model, &layout, options.winograd),
                graph: model.graph.clone(),
                layout,
                picture: Arc::new(Picture::table(&manifest.mean, &manifest.std)),
                kernels,
                threads,
            },
            pool,
            plans: Vec::new(),
            arena: Aligned::zeroed(0),
            winograd: options.winograd,
        };
        // a network that cannot run is refused here and not at the first frame
        let side = model.graph.max_stride();
        engine.plan(1, side, side)?;
        Ok(engine)
    }

    /// The plan for a size: its index.
    fn plan(&mut self, batch: usize, height: usize, width: usize) -> Result<usize, EngineError> {
        let size = (batch, height, width);
        if let Some(known) = self.plans.iter().position(|plan| plan.size == size) {
            return Ok(known);
        }
        let plan = Plan::new(&self.network, size).map_err(|layer| {
            unavailable(format!(
                "it has no kernel for layer '{layer}'; use --engine reference"
            ))
        })?;
        self.arena.reserve(plan.arena_len);
        if self.plans.len() == MOST_PLANS {
            self.plans.remove(0);
        }
        self.plans.push(plan);
        Ok(self.plans.len() - 1)
    }
}

/// Every convolution's weights in the order its kernel reads them, by node.
fn pack(model: &Model, layout: &Layout, winograd: bool) -> Vec<Option<Arc<Packed>>> {
    let graph = &model.graph;
    let mut packed = vec![None; graph.nodes.len()];
    for ((id, conv), weights) in graph.convs().zip(&model.weights) {
        let input = graph.node(id).inputs[0];
        let picture = graph.node(input).op == Op::Input;
        let block = if picture {
            PICTURE_PIXEL - 1
        } else {
            simd::LANES
        };
        let algorithm = if picture {
            Algorithm::Direct
        } else {
            Algorithm::choose(conv, winograd)
        };
        let lanes = &layout.lanes[input.0];
        packed[id.0] = Some(Arc::new(Packed::new(
            conv, weights, lanes, block, algorithm,
        )));
    }
    packed
}

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        let threads = self.pool.threads();
        format!(
            "cpu {} f32{}, {threads} thread{}",
            self.network.kernels.isa,
            if self.winograd { " winograd" } else { "" },
            if threads == 1 { "" } else { "s" }
        )
    }

    #[allow(unsafe_code, reason = "the one door from safe code to the plan")]
    fn infer(&mut self, input: &ModelInput, output: &mut RawOutput) -> Result<(), EngineError> {
        check_input(&self.network.graph, input)?;
        output.resize_for(&self.network.graph, input.batch, input.height, input.width);
        let index = self.plan(input.batch, input.height, input.width)?;
        let plan = &self.plans[index];
        let memory = Memory::new(&mut self.arena, &input.data, output);
        for step in &plan.steps {
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

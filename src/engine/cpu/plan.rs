//! A graph compiled for one batch size: steps over one arena.

use super::aligned::LINE;
use super::direct::Direct;
use super::kernels::Kernels;
use super::memory::{INPUT_PIXEL, InputPixel, Memory, PixelSize, Sides, View};
use super::pack::{Algorithm, Conv2d, Conv2dParams, Packed};
use super::plane::{self, Normalise, NormaliseTable, PlaneOp, PlaneStep, Planes};
use super::quant::Scales;
use super::simd::LANES;
use super::tile::Tiles;
use super::winograd::Winograd;
use crate::engine::layout::{Buffer, Layout, Slice};
use crate::engine::{BatchSize, EngineError, refused};
use crate::network::graph::{Conv, Graph, NodeId, Op, Shape};
use std::sync::Arc;

/// One step; pieces of work of one step may run at the same time.
pub(super) enum Step {
    Normalise(Normalise),
    Plane(PlaneStep),
    Direct(Direct),
    Winograd(Winograd),
}

/// Everything that the plans of all sizes have in common.
pub(super) struct PlanContext {
    pub(super) graph: Graph,
    pub(super) layout: Layout,
    /// By node, of convolutions.
    pub(super) weights: Vec<Option<Arc<Packed>>>,
    pub(super) kernels: &'static Kernels,
    pub(super) arithmetic: Arithmetic,
    pub(super) threads: usize,
}

/// Activation precision.
pub(super) enum Arithmetic {
    /// f32, from an image normalised by this table.
    Floats { table: Arc<NormaliseTable> },
    /// Unsigned bytes.
    Bytes {
        /// The byte kernels.
        tiles: &'static Tiles,
        scales: Scales,
        /// Around the input image.
        border: InputPixel,
    },
}

impl PlanContext {
    /// Bytes of a value.
    fn element(&self) -> usize {
        match self.arithmetic {
            Arithmetic::Floats { .. } => size_of::<f32>(),
            Arithmetic::Bytes { .. } => 1,
        }
    }

    fn tiles(&self) -> &'static Tiles {
        match self.arithmetic {
            Arithmetic::Floats { .. } => &self.kernels.tiles,
            Arithmetic::Bytes { tiles, .. } => tiles,
        }
    }

    fn planes(&self) -> &'static Planes {
        match self.arithmetic {
            Arithmetic::Floats { .. } => &self.kernels.planes,
            Arithmetic::Bytes { .. } => &plane::BYTES,
        }
    }
}

/// Steps for one batch size.
pub(super) struct Plan {
    pub(super) size: BatchSize,
    pub(super) steps: Vec<(NodeId, Step)>,
    /// Bytes of the arena: planes, then one scratch a thread.
    pub(super) arena_len: usize,
    scratch_at: usize,
    scratch_len: usize,
}

impl Step {
    /// Name of the kernel, for reports.
    pub(super) fn kernel(&self) -> &'static str {
        match self {
            Step::Normalise(_) => "normalise",
            Step::Plane(plane) => plane.op.name(),
            Step::Direct(_) => "direct",
            Step::Winograd(_) => "winograd",
        }
    }
}

impl Plan {
    /// Compiles the network.
    ///
    /// # Errors
    /// With a layer that no kernel computes, or that does not fit at this size.
    pub(super) fn new(context: &PlanContext, size: BatchSize) -> Result<Plan, EngineError> {
        let BatchSize {
            batch,
            height,
            width,
        } = size;
        let shapes = context
            .graph
            .checked_shapes(height, width)
            .map_err(refused("cpu"))?;
        let (views, scratch_at) = place(&context.layout, &shapes, batch, context.element());
        let mut compiler = Compiler {
            context,
            shapes,
            views,
            steps: Vec::new(),
        };
        for id in (0..context.graph.nodes.len()).map(NodeId) {
            compiler.clear_borders(id);
            if !compiler.compile(id) {
                return Err(EngineError::Unsupported {
                    engine: "cpu",
                    reason: format!(
                        "it has no kernel for layer '{}'; use --engine reference",
                        context.graph.node(id).name
                    ),
                });
            }
        }
        let steps = compiler.steps;
        let scratch_len = steps
            .iter()
            .map(|(_, step)| match step {
                Step::Winograd(winograd) => winograd.scratch(),
                _ => 0,
            })
            .max()
            .unwrap_or(0);
        Ok(Plan {
            size,
            steps,
            arena_len: scratch_at + context.threads * scratch_len,
            scratch_at,
            scratch_len,
        })
    }

    /// Pieces of work of a step.
    pub(super) fn items(&self, step: &Step) -> usize {
        let batch = self.size.batch;
        match step {
            Step::Normalise(normalise) => normalise.items(batch),
            Step::Plane(plane) => plane.items(batch),
            Step::Direct(direct) => direct.items(batch),
            Step::Winograd(winograd) => winograd.items(batch),
        }
    }

    /// Runs one piece of work of one step.
    ///
    /// # Safety
    /// `memory` must hold [`Plan::arena_len`] bytes and be sized for this batch; steps must
    /// run in order, each piece once, and no two pieces at once on one `thread`.
    #[allow(unsafe_code, reason = "the one door from the plan to the kernels")]
    pub(super) unsafe fn run(&self, step: &Step, memory: &Memory<'_>, thread: usize, item: usize) {
        // SAFETY: passed on; the scratch is behind the planes, one a thread
        unsafe {
            match step {
                Step::Normalise(normalise) => normalise.run(memory, item),
                Step::Plane(plane) => plane.run(memory, item),
                Step::Direct(direct) => direct.run(memory, item),
                Step::Winograd(winograd) => {
                    let scratch = memory.scratch(self.scratch_at + thread * self.scratch_len);
                    winograd.run(memory, scratch, item);
                }
            }
        }
    }
}

/// Gives every buffer a place in the arena. Returns the buffers' views and the arena's length in
/// bytes.
fn place(layout: &Layout, shapes: &[Shape], batch: usize, element: usize) -> (Vec<View>, usize) {
    let pixels: Vec<usize> = layout
        .buffers
        .iter()
        .map(|buffer| match buffer.node.0 {
            0 => INPUT_PIXEL,
            _ => LANES,
        })
        .collect();
    let sides = |buffer: &Buffer| {
        let Shape { height, width, .. } = shapes[buffer.node.0];
        Sides::new((height, width), buffer.border)
    };
    let lens: Vec<usize> = layout
        .buffers
        .iter()
        .zip(&pixels)
        .map(|(buffer, pixel)| {
            let (rows, columns) = sides(buffer).bordered();
            (batch * buffer.blocks * rows * columns * pixel * element).next_multiple_of(LINE)
        })
        .collect();
    let (starts, arena) = layout.place(&lens);
    let views = layout
        .buffers
        .iter()
        .zip(starts)
        .zip(pixels)
        .map(|((buffer, start), pixel)| {
            View::planes(
                start,
                buffer.blocks,
                sides(buffer),
                PixelSize {
                    len: pixel,
                    element,
                },
            )
        })
        .collect();
    (views, arena)
}

struct Compiler<'a> {
    context: &'a PlanContext,
    shapes: Vec<Shape>,
    /// By buffer.
    views: Vec<View>,
    /// With the node that each is part of.
    steps: Vec<(NodeId, Step)>,
}

impl Compiler<'_> {
    fn push(&mut self, id: NodeId, step: Step) {
        self.steps.push((id, step));
    }

    fn sides(&self, id: NodeId) -> (usize, usize) {
        (self.shapes[id.0].height, self.shapes[id.0].width)
    }

    fn blocks(&self, id: NodeId) -> usize {
        self.context.layout.lanes[id.0].len().div_ceil(LANES)
    }

    fn at(&self, slice: Slice) -> View {
        self.views[slice.buffer].skip(slice.block)
    }

    /// Where a node's values go: a buffer, or the caller's logits.
    fn view(&self, id: NodeId) -> Option<View> {
        if let Some(slice) = self.context.layout.slices[id.0] {
            return Some(self.at(slice));
        }
        let outputs = self.context.graph.outputs.iter();
        let output = outputs
            .flat_map(|level| [level.class, level.boxes])
            .position(|output| output == id)?;
        let Shape {
            channels,
            height,
            width,
        } = self.shapes[id.0];
        Some(View::logits(output, channels, height, width))
    }

    /// Memory is shared, so a border is made anew when its buffer's life begins.
    fn clear_borders(&mut self, id: NodeId) {
        for (index, buffer) in self.context.layout.buffers.iter().enumerate() {
            if buffer.first == id.0 && buffer.border > 0 {
                let fill = match (&self.context.arithmetic, buffer.node.0) {
                    (Arithmetic::Bytes { border, .. }, 0) => *border,
                    _ => [0; INPUT_PIXEL],
                };
                self.push(
                    id,
                    Step::Plane(PlaneStep {
                        planes: self.context.planes(),
                        op: PlaneOp::Clear { fill },
                        target: self.views[index],
                        blocks: buffer.blocks,
                        from: self.sides(buffer.node),
                        to: self.sides(buffer.node),
                    }),
                );
            }
        }
    }

    /// Adds a node's steps; false when no kernel computes it.
    fn compile(&mut self, id: NodeId) -> bool {
        let node = self.context.graph.node(id);
        let input = node.inputs.first().copied().unwrap_or(id);
        let (Some(target), Some(source)) = (self.view(id), self.view(input)) else {
            return false;
        };
        match &node.op {
            Op::Input => {
                let (height, width) = self.sides(id);
                self.push(
                    id,
                    Step::Normalise(Normalise {
                        target,
                        height,
                        width,
                        table: match &self.context.arithmetic {
                            Arithmetic::Floats { table } => Some(Arc::clone(table)),
                            Arithmetic::Bytes { .. } => None,
                        },
                    }),
                );
                true
            }
            Op::Conv(conv) => {
                let step = self.conv(id, conv, source, target);
                step.map(|step| self.push(id, step)).is_some()
            }
            Op::MaxPool => self.plane(id, input, PlaneOp::MaxPool { source }, target),
            Op::Upsample => self.plane(id, input, PlaneOp::Upsample { source }, target),
            Op::Add => {
                let Some(right) = node.inputs.get(1).and_then(|&id| self.view(id)) else {
                    return false;
                };
                let lanes = &self.context.layout.lanes;
                let alike = lanes[node.inputs[0].0] == lanes[node.inputs[1].0];
                let scales = match &self.context.arithmetic {
                    Arithmetic::Floats { .. } => Some([1.0; 2]),
                    Arithmetic::Bytes { scales, .. } => scales.summands(id, &node.inputs),
                };
                let (Some(scales), left) = (scales, source) else {
                    return false;
                };
                let op = PlaneOp::Sum {
                    left,
                    right,
                    scales,
                };
                alike && self.plane(id, input, op, target)
            }
            Op::Concat => self.copies(id),
        }
    }

    fn plane(&mut self, id: NodeId, input: NodeId, op: PlaneOp, target: View) -> bool {
        let blocked = target.pixel == LANES && self.context.graph.node(input).op != Op::Input;
        self.push(
            id,
            Step::Plane(PlaneStep {
                planes: self.context.planes(),
                op,
                target,
                blocks: self.blocks(id),
                from: self.sides(input),
                to: self.sides(id),
            }),
        );
        blocked
    }

    /// Copies what could not be written in place.
    fn copies(&mut self, concat: NodeId) -> bool {
        let copies = &self.context.layout.copies;
        copies
            .iter()
            .filter(|copy| copy.0 == concat)
            .all(|&(_, input, slice)| {
                let source = self.view(input);
                let target = self.at(slice);
                source.is_some_and(|source| {
                    self.plane(input, input, PlaneOp::Copy { source }, target)
                })
            })
    }

    fn conv(&self, id: NodeId, conv: &Conv, source: View, target: View) -> Option<Step> {
        let PlanContext {
            kernels, threads, ..
        } = *self.context;
        let (height, width) = self.sides(id);
        let conv = Conv2d {
            weights: Arc::clone(self.context.weights[id.0].as_ref()?),
            source,
            target,
            height,
            width,
            params: Conv2dParams {
                kernel: conv.kernel,
                stride: conv.stride,
                out_channels: conv.out_channels,
                relu: conv.relu,
                exact: target.pixel != LANES || self.context.layout.slices[id.0].is_none(),
            },
        };
        match conv.weights.algorithm {
            Algorithm::Winograd => {
                let transforms = match conv.params.stride {
                    1 => &kernels.stride_1,
                    _ => &kernels.stride_2,
                };
                Winograd::plan(&kernels.tiles, transforms, conv, threads).map(Step::Winograd)
            }
            Algorithm::Direct => {
                Direct::plan(self.context.tiles(), conv, threads).map(Step::Direct)
            }
        }
    }
}

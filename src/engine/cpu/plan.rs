//! A graph compiled for one batch and picture size: steps over one arena.

use super::aligned::LINE;
use super::direct::{Direct, Form};
use super::layout::{Buffer, Home, Layout};
use super::memory::{Memory, Sides, View};
use super::pack::{Algorithm, Packed};
use super::plane::{
    self, PICTURE_PIXEL, Picture, PictureBytes, PictureTable, PlaneStep, Planes, Work,
};
use super::quant::Scales;
use super::simd::{Kernels, LANES};
use super::tile::Tiles;
use super::winograd::Winograd;
use crate::engine::{EngineError, refused};
use crate::graph::{Conv, Graph, NodeId, Op, Shape};
use std::sync::Arc;

/// One step; pieces of work of one step may run at the same time.
pub(super) enum Step {
    Picture(Picture),
    Plane(PlaneStep),
    Direct(Direct),
    Winograd(Winograd),
}

/// What the plans of all sizes have in common.
pub(super) struct Network {
    pub(super) graph: Graph,
    pub(super) layout: Layout,
    /// By node, of convolutions.
    pub(super) weights: Vec<Option<Arc<Packed>>>,
    pub(super) kernels: &'static Kernels,
    pub(super) arithmetic: Arithmetic,
    pub(super) threads: usize,
}

/// What the values between layers are.
pub(super) enum Arithmetic {
    /// f32, from a picture normalised by this table.
    Floats { picture: Arc<PictureTable> },
    /// Unsigned bytes.
    Bytes {
        /// The byte kernels.
        tiles: &'static Tiles,
        scales: Scales,
        /// What is around the picture.
        border: PictureBytes,
    },
}

impl Network {
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

/// Steps for one batch and picture size.
pub(super) struct Plan {
    /// Pictures, rows, columns.
    pub(super) size: (usize, usize, usize),
    pub(super) steps: Vec<(NodeId, Step)>,
    /// Bytes of the arena: planes, then one scratch a thread.
    pub(super) arena_len: usize,
    scratch_at: usize,
    scratch_len: usize,
}

impl Step {
    /// How it is computed, for people.
    pub(super) fn kernel(&self) -> &'static str {
        match self {
            Step::Picture(_) => "picture",
            Step::Plane(plane) => plane.work.name(),
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
    pub(super) fn new(
        network: &Network,
        size @ (batch, height, width): (usize, usize, usize),
    ) -> Result<Plan, EngineError> {
        let shapes = network
            .graph
            .checked_shapes(height, width)
            .map_err(refused("cpu"))?;
        let (views, scratch_at) = place(&network.layout, &shapes, batch, network.element());
        let mut compiler = Compiler {
            network,
            shapes,
            views,
            steps: Vec::new(),
        };
        for id in (0..network.graph.nodes.len()).map(NodeId) {
            compiler.clear_borders(id);
            if !compiler.compile(id) {
                return Err(EngineError::Unsupported {
                    engine: "cpu",
                    reason: format!(
                        "it has no kernel for layer '{}'; use --engine reference",
                        network.graph.node(id).name
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
            arena_len: scratch_at + network.threads * scratch_len,
            scratch_at,
            scratch_len,
        })
    }

    /// Pieces of work of a step.
    pub(super) fn items(&self, step: &Step) -> usize {
        let batch = self.size.0;
        match step {
            Step::Picture(picture) => picture.items(batch),
            Step::Plane(plane) => plane.items(batch),
            Step::Direct(direct) => direct.items(batch),
            Step::Winograd(winograd) => winograd.items(batch),
        }
    }

    /// Runs one piece of work of one step.
    ///
    /// # Safety
    /// `memory` must hold [`Plan::arena_len`] bytes and be sized for this picture; steps must
    /// run in order, each piece once, and no two pieces at once on one `thread`.
    #[allow(unsafe_code, reason = "the one door from the plan to the kernels")]
    pub(super) unsafe fn run(&self, step: &Step, memory: &Memory<'_>, thread: usize, item: usize) {
        // SAFETY: passed on; the scratch is behind the planes, one a thread
        unsafe {
            match step {
                Step::Picture(picture) => picture.run(memory, item),
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
            0 => PICTURE_PIXEL,
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
            View::planes(start, buffer.blocks, sides(buffer), (pixel, element))
        })
        .collect();
    (views, arena)
}

struct Compiler<'a> {
    network: &'a Network,
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
        self.network.layout.lanes[id.0].len().div_ceil(LANES)
    }

    fn at(&self, home: Home) -> View {
        self.views[home.buffer].skip(home.block)
    }

    /// Where a node's values go: a buffer, or the caller's logits.
    fn view(&self, id: NodeId) -> Option<View> {
        if let Some(home) = self.network.layout.homes[id.0] {
            return Some(self.at(home));
        }
        let outputs = self.network.graph.outputs.iter();
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
        for (index, buffer) in self.network.layout.buffers.iter().enumerate() {
            if buffer.first == id.0 && buffer.border > 0 {
                let fill = match (&self.network.arithmetic, buffer.node.0) {
                    (Arithmetic::Bytes { border, .. }, 0) => *border,
                    _ => [0; PICTURE_PIXEL],
                };
                self.push(
                    id,
                    Step::Plane(PlaneStep {
                        planes: self.network.planes(),
                        work: Work::Clear { fill },
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
        let node = self.network.graph.node(id);
        let input = node.inputs.first().copied().unwrap_or(id);
        let (Some(target), Some(source)) = (self.view(id), self.view(input)) else {
            return false;
        };
        match &node.op {
            Op::Input => {
                let (height, width) = self.sides(id);
                self.push(
                    id,
                    Step::Picture(Picture {
                        target,
                        height,
                        width,
                        table: match &self.network.arithmetic {
                            Arithmetic::Floats { picture } => Some(Arc::clone(picture)),
                            Arithmetic::Bytes { .. } => None,
                        },
                    }),
                );
                true
            }
            Op::Conv(conv) => {
                let step = self.conv(id, conv, (source, target));
                step.map(|step| self.push(id, step)).is_some()
            }
            Op::MaxPool => self.plane(id, input, Work::MaxPool { source }, target),
            Op::Upsample => self.plane(id, input, Work::Enlarge { source }, target),
            Op::Add => {
                let Some(right) = node.inputs.get(1).and_then(|&id| self.view(id)) else {
                    return false;
                };
                let lanes = &self.network.layout.lanes;
                let alike = lanes[node.inputs[0].0] == lanes[node.inputs[1].0];
                let steps = match &self.network.arithmetic {
                    Arithmetic::Floats { .. } => Some([1.0; 2]),
                    Arithmetic::Bytes { scales, .. } => scales.summands(id, &node.inputs),
                };
                let (Some(steps), left) = (steps, source) else {
                    return false;
                };
                let work = Work::Sum { left, right, steps };
                alike && self.plane(id, input, work, target)
            }
            Op::Concat => self.copies(id),
        }
    }

    fn plane(&mut self, id: NodeId, input: NodeId, work: Work, target: View) -> bool {
        let blocked = target.pixel == LANES && self.network.graph.node(input).op != Op::Input;
        self.push(
            id,
            Step::Plane(PlaneStep {
                planes: self.network.planes(),
                work,
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
        let copies = &self.network.layout.copies;
        copies
            .iter()
            .filter(|copy| copy.0 == concat)
            .all(|&(_, input, home)| {
                let source = self.view(input);
                let target = self.at(home);
                source.is_some_and(|source| self.plane(input, input, Work::Copy { source }, target))
            })
    }

    fn conv(&self, id: NodeId, conv: &Conv, views: (View, View)) -> Option<Step> {
        let Network {
            kernels, threads, ..
        } = *self.network;
        let weights = Arc::clone(self.network.weights[id.0].as_ref()?);
        let sides = self.sides(id);
        match weights.algorithm {
            Algorithm::Winograd => {
                let form = (conv.stride, conv.relu);
                Winograd::plan(kernels, weights, views, sides, form, threads).map(Step::Winograd)
            }
            Algorithm::Direct => {
                let form = Form {
                    kernel: conv.kernel,
                    stride: conv.stride,
                    out_channels: conv.out_channels,
                    relu: conv.relu,
                    exact: views.1.pixel != LANES || self.network.layout.homes[id.0].is_none(),
                };
                let tiles = self.network.tiles();
                Direct::plan(tiles, weights, views, sides, form, threads).map(Step::Direct)
            }
        }
    }
}

//! A graph compiled for one batch size: which kernel reads and writes what, in
//! values counted from the start of one arena. Nothing here needs a GPU.

use crate::engine::BatchSize;
use crate::engine::layout::{BLOCK, Layout, Slice};
use crate::network::graph::{Graph, NodeId, Op, Shape};

/// An NHWC array in the arena, or a run of channels of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Values from the arena's start to the first channel of the first pixel.
    pub(super) offset: usize,
    /// Values from one pixel to the next.
    pub(super) pixel: usize,
    /// Values of one pixel, padding included: a multiple of 16 but for the input image.
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl View {
    /// Whether nothing lies between its pixels.
    pub(super) fn is_packed(&self) -> bool {
        self.pixel == self.channels
    }

    /// The same array with nothing between its pixels, somewhere else.
    pub(super) fn packed_at(&self, offset: usize) -> View {
        View {
            offset,
            pixel: self.channels,
            ..*self
        }
    }

    /// Values from the first to the last, what lies between pixels included.
    pub(super) fn span(&self, batch: usize) -> usize {
        (batch * self.height * self.width - 1) * self.pixel + self.channels
    }
}

/// Operation of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The input image's bytes, normalised.
    Normalise { to: View },
    /// Convolution number `conv` of [`Graph::convs`].
    Conv { conv: usize, from: View, to: View },
    /// 3×3 stride-2 ceil-mode pooling.
    MaxPool { from: View, to: View },
    /// Nearest-neighbour ×2 upsampling.
    Upsample { from: View, to: View },
    /// Element-wise sum.
    Add { left: View, right: View, to: View },
    /// A part of a concatenation that could not be written in place.
    Copy { from: View, to: View },
}

/// One kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) node: NodeId,
    pub(super) work: Work,
}

/// One array of logits: where it lies, and its channels without padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logits {
    pub(super) from: View,
    pub(super) channels: usize,
}

impl Logits {
    /// Values without padding.
    pub(super) fn values(&self, batch: usize) -> usize {
        batch * self.from.height * self.from.width * self.channels
    }
}

/// The steps for one batch size.
pub(super) struct Program {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// In execution order.
    pub(super) steps: Vec<Step>,
    /// By node.
    pub(super) views: Vec<View>,
    /// Class and boxes of every output level, in the order of the graph.
    pub(super) logits: Vec<Logits>,
    /// Values of the arena.
    pub(super) arena_len: usize,
}

impl Program {
    /// Compiles `graph`; a pixel of the input image takes `input_pixel` values.
    ///
    /// # Errors
    /// With the layer that no kernel computes, or that is too large to index.
    pub(super) fn new(
        graph: &Graph,
        layout: &Layout,
        size: BatchSize,
        input_pixel: usize,
    ) -> Result<Program, String> {
        let BatchSize {
            batch,
            height,
            width,
        } = size;
        let shapes = graph
            .checked_shapes(height, width)
            .map_err(|error| format!("the network cannot run: {error}"))?;
        let (views, arena_len) = place(graph, layout, &shapes, batch, input_pixel);
        let mut program = Program {
            batch,
            height,
            width,
            steps: Vec::new(),
            logits: Vec::new(),
            views,
            arena_len,
        };
        let mut convs = 0;
        for id in (0..graph.nodes.len()).map(NodeId) {
            let name = &graph.node(id).name;
            // cuDNN and the kernels index with 32 bits
            if i32::try_from(program.views[id.0].span(batch)).is_err() {
                return Err(format!(
                    "layer '{name}' is too large at {batch} x {width}x{height} pixels; \
                     use a smaller --input"
                ));
            }
            program
                .compile(graph, layout, id, &mut convs)
                .ok_or_else(|| format!("it has no kernel for layer '{name}'; use --engine cpu"))?;
        }
        for level in &graph.outputs {
            for id in [level.class, level.boxes] {
                program.logits.push(Logits {
                    from: program.views[id.0],
                    channels: graph.channels(id),
                });
            }
        }
        Ok(program)
    }

    fn compile(
        &mut self,
        graph: &Graph,
        layout: &Layout,
        id: NodeId,
        convs: &mut usize,
    ) -> Option<()> {
        let node = graph.node(id);
        let to = self.views[id.0];
        let input = |n: usize| self.views[node.inputs[n].0];
        let work = match node.op {
            Op::Input => Work::Normalise { to },
            Op::Conv(_) => {
                *convs += 1;
                let conv = *convs - 1;
                Work::Conv {
                    conv,
                    from: input(0),
                    to,
                }
            }
            Op::MaxPool => Work::MaxPool { from: input(0), to },
            Op::Upsample => Work::Upsample { from: input(0), to },
            Op::Add => {
                let lanes = |n: usize| &layout.lanes[node.inputs[n].0];
                if lanes(0) != lanes(1) {
                    return None;
                }
                let (left, right) = (input(0), input(1));
                Work::Add { left, right, to }
            }
            Op::Concat => return self.copy_parts(layout, id),
        };
        // only the first convolution reads the input image's narrow pixels
        let narrow = node.inputs.first() == Some(&NodeId(0));
        if narrow && !matches!(node.op, Op::Conv(_)) {
            return None;
        }
        self.steps.push(Step { node: id, work });
        Some(())
    }

    /// Copies the parts of a concatenation that could not be written in place; none where one of
    /// them is the input image, whose pixels are narrower than a block.
    fn copy_parts(&mut self, layout: &Layout, id: NodeId) -> Option<()> {
        let to = self.views[id.0];
        for &(_, from, slice) in layout.copies.iter().filter(|copy| copy.0 == id) {
            if from == NodeId(0) {
                return None;
            }
            let from = self.views[from.0];
            let to = View {
                offset: to.offset - channel(layout.slices[id.0]) + channel(Some(slice)),
                pixel: to.pixel,
                ..from
            };
            let work = Work::Copy { from, to };
            self.steps.push(Step { node: id, work });
        }
        Some(())
    }
}

/// The first channel of a slice in its buffer.
fn channel(slice: Option<Slice>) -> usize {
    slice.map_or(0, |slice| slice.block * BLOCK)
}

/// Gives every node a view; the logits lie behind the shared buffers, because they live on.
fn place(
    graph: &Graph,
    layout: &Layout,
    shapes: &[Shape],
    batch: usize,
    input_pixel: usize,
) -> (Vec<View>, usize) {
    let pixels: Vec<usize> = layout
        .buffers
        .iter()
        .map(|buffer| match buffer.node.0 {
            0 => input_pixel,
            _ => buffer.blocks * BLOCK,
        })
        .collect();
    let lens: Vec<usize> = layout
        .buffers
        .iter()
        .zip(&pixels)
        .map(|(buffer, pixel)| {
            let shape = shapes[buffer.node.0];
            // cuDNN likes arrays to start on 256 bytes
            (batch * shape.height * shape.width * pixel).next_multiple_of(128)
        })
        .collect();
    let (starts, mut end) = layout.place(&lens);
    let views = (0..graph.nodes.len())
        .map(|node| {
            let Shape { height, width, .. } = shapes[node];
            let channels = layout.lanes[node].len();
            if let Some(slice) = layout.slices[node] {
                let pixel = pixels[slice.buffer];
                return View {
                    offset: starts[slice.buffer] + channel(Some(slice)),
                    pixel,
                    channels: if node == 0 { pixel } else { channels },
                    height,
                    width,
                };
            }
            let offset = end;
            end += (batch * height * width * channels).next_multiple_of(128);
            View {
                offset,
                pixel: channels,
                channels,
                height,
                width,
            }
        })
        .collect();
    (views, end)
}

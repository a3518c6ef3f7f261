//! The layer graph: the one description of a network that every engine runs.
//!
//! A graph is a list of nodes in execution order. It knows channels, not picture sizes;
//! [`Graph::shapes`] gives the shape of every node at one input size, and the cost figures
//! of the VoVNet paper (arXiv 1904.09730) follow from those.

use std::fmt;

/// Index of a node in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// A convolution with square kernel, padding `kernel / 2`, no groups, no dilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Name of the weight tensor, `[out, in, kernel, kernel]`.
    pub weight: String,
    /// Prefix of the batch-norm tensors (`.weight .bias .running_mean .running_var`), or none.
    pub norm: Option<String>,
    /// Name of the bias tensor, `[out]`, or none.
    pub bias: Option<String>,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Kernel side in pixels: 1 or 3.
    pub kernel: usize,
    /// Step in pixels: 1 or 2.
    pub stride: usize,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The normalised picture, 3 channels.
    Input,
    /// Convolution, batch norm folded or bias, optional ReLU.
    Conv(Conv),
    /// 3×3 max pooling, stride 2, no padding, `ceil_mode`: a window may hang over the right
    /// and bottom edge, and what hangs over is not counted.
    MaxPool,
    /// Nearest-neighbour enlargement by 2.
    Upsample,
    /// Channels of all inputs, one after the other.
    Concat,
    /// Element-wise sum of two inputs.
    Add,
}

/// One step of the network.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique name, for logs and layer-by-layer comparisons.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, all earlier in the list.
    pub inputs: Vec<NodeId>,
    /// Channels it writes.
    pub channels: usize,
}

/// A detector's answer at one stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLevel {
    /// Input pixels per cell.
    pub stride: usize,
    /// Class logits, `[classes, h, w]`.
    pub class: NodeId,
    /// Box-distance logits, `[4 × bins, h, w]`.
    pub boxes: NodeId,
}

/// Channels, height and width of one node's output for a batch of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Number of values.
    pub fn len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there is no value at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// What one forward pass costs, for a batch of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-accumulates of the convolutions. The paper's "FLOPs" count these once.
    pub macs: u64,
    /// The paper's memory access cost, hw(ci + co) + k²·ci·co summed over convolutions, in values.
    pub memory_access_cost: u64,
    /// Trainable values: convolution weights, biases, and two per batch-norm channel.
    pub parameters: u64,
}

/// A network as a list of layers.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes in execution order; the first is the input.
    pub nodes: Vec<Node>,
    /// Feature maps of the backbone by stride, finest first.
    pub features: Vec<(usize, NodeId)>,
    /// The detector's outputs, finest stride first; empty for a bare backbone.
    pub outputs: Vec<OutputLevel>,
}

impl Graph {
    /// A graph that holds only the 3-channel picture.
    pub fn new() -> (Graph, NodeId) {
        let mut graph = Graph::default();
        let input = graph.push("input", Op::Input, &[], 3);
        (graph, input)
    }

    fn push(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[NodeId],
        channels: usize,
    ) -> NodeId {
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
            channels,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The node behind an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Channels a node writes.
    pub fn channels(&self, id: NodeId) -> usize {
        self.node(id).channels
    }

    /// Adds a convolution under its own name.
    pub fn conv(&mut self, name: impl Into<String>, input: NodeId, conv: Conv) -> NodeId {
        debug_assert_eq!(self.channels(input), conv.in_channels);
        let channels = conv.out_channels;
        self.push(name, Op::Conv(conv), &[input], channels)
    }

    /// Adds a 3×3 stride-2 ceil-mode max pooling.
    pub fn max_pool(&mut self, name: impl Into<String>, input: NodeId) -> NodeId {
        self.push(name, Op::MaxPool, &[input], self.channels(input))
    }

    /// Adds a nearest-neighbour ×2 enlargement.
    pub fn upsample(&mut self, name: impl Into<String>, input: NodeId) -> NodeId {
        self.push(name, Op::Upsample, &[input], self.channels(input))
    }

    /// Adds a concatenation along channels.
    pub fn concat(&mut self, name: impl Into<String>, inputs: &[NodeId]) -> NodeId {
        let channels = inputs.iter().map(|&id| self.channels(id)).sum();
        self.push(name, Op::Concat, inputs, channels)
    }

    /// Adds an element-wise sum.
    pub fn add(&mut self, name: impl Into<String>, a: NodeId, b: NodeId) -> NodeId {
        debug_assert_eq!(self.channels(a), self.channels(b));
        self.push(name, Op::Add, &[a, b], self.channels(a))
    }

    /// All convolutions with their nodes, in execution order.
    pub fn convs(&self) -> impl Iterator<Item = (NodeId, &Conv)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(i, node)| match &node.op {
                Op::Conv(conv) => Some((NodeId(i), conv)),
                _ => None,
            })
    }

    /// The largest stride of any output or feature map: input sides must be multiples of it.
    pub fn max_stride(&self) -> usize {
        let outputs = self.outputs.iter().map(|level| level.stride);
        let features = self.features.iter().map(|&(stride, _)| stride);
        outputs.chain(features).max().unwrap_or(1)
    }

    /// The shape of every node for a picture of `height` × `width`.
    pub fn shapes(&self, height: usize, width: usize) -> Vec<Shape> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let (h, w) = match (&node.op, node.inputs.first()) {
                (Op::Input, _) | (_, None) => (height, width),
                (op, Some(&input)) => {
                    let from = shapes[input.0];
                    (op.out_side(from.height), op.out_side(from.width))
                }
            };
            shapes.push(Shape {
                channels: node.channels,
                height: h,
                width: w,
            });
        }
        shapes
    }

    /// What a forward pass costs at one picture size.
    pub fn cost(&self, height: usize, width: usize) -> Cost {
        let shapes = self.shapes(height, width);
        let mut cost = Cost::default();
        let mut counted = std::collections::HashSet::new();
        for (id, conv) in self.convs() {
            let (input, output) = (shapes[self.node(id).inputs[0].0], shapes[id.0]);
            let weights = conv.weight_len() as u64;
            cost.macs += weights * (output.height * output.width) as u64;
            cost.memory_access_cost += (input.len() + output.len()) as u64 + weights;
            // the head shares its weights between levels: count each tensor once
            let out = conv.out_channels as u64;
            let tensors = [
                (Some(&conv.weight), weights),
                (conv.norm.as_ref(), 2 * out),
                (conv.bias.as_ref(), out),
            ];
            for (name, len) in tensors {
                if name.is_some_and(|name| counted.insert(name.clone())) {
                    cost.parameters += len;
                }
            }
        }
        cost
    }
}

impl Conv {
    /// Number of weights.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }
}

impl Op {
    fn out_side(&self, side: usize) -> usize {
        match self {
            Op::Conv(conv) => (side + 2 * (conv.kernel / 2) - conv.kernel) / conv.stride + 1,
            // ceil((side − 3) / 2) + 1, and PyTorch drops a window that starts past the edge
            Op::MaxPool => side.saturating_sub(3).div_ceil(2) + 1,
            Op::Upsample => 2 * side,
            Op::Input | Op::Concat | Op::Add => side,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceil_mode_pooling_matches_pytorch() {
        // torch.nn.MaxPool2d(3, 2, ceil_mode=True) on these sides
        for (side, expected) in [
            (80, 40),
            (40, 20),
            (20, 10),
            (10, 5),
            (5, 2),
            (7, 3),
            (56, 28),
            (75, 37),
        ] {
            assert_eq!(Op::MaxPool.out_side(side), expected, "side {side}");
        }
    }
}

//! The layer graph: the one description of a network that every engine runs.
//!
//! A graph is a list of nodes in execution order. It knows channels, not image sizes;
//! [`Graph::shapes`] gives the shape of every node at one input size, and the cost figures
//! of the VoVNet paper (arXiv 1904.09730) follow from those. Long because the checks that every
//! engine relies on stand beside the operations that they check.

use std::fmt;

/// Output levels that a graph may have: one a stride of a detector.
pub const MOST_LEVELS: usize = 4;

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
    /// Kernel side in pixels, odd.
    pub kernel: usize,
    /// Step in pixels: 1 or 2.
    pub stride: usize,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// The operation of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The normalised image, 3 channels.
    Input,
    /// Convolution, batch norm folded or bias, optional ReLU.
    Conv(Conv),
    /// 3×3 max pooling, stride 2, no padding, `ceil_mode`: a window may hang over the right
    /// and bottom edge, and what hangs over is not counted.
    MaxPool,
    /// Nearest-neighbour upsampling by 2.
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
    /// The operation.
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

/// Cost of one forward pass, for a batch of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-accumulates of the convolutions. The paper's "FLOPs" count these once.
    pub macs: u64,
    /// The paper's memory access cost, hw(ci + co) + k²·ci·co summed over convolutions, in values.
    pub memory_access_cost: u64,
    /// Trainable values: convolution weights, biases, and two per batch-norm channel.
    pub parameters: u64,
}

/// A graph that no engine runs, by the first layer that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("layer '{layer}': expected {expected}, got {got}")]
pub struct GraphError {
    /// Name of the node.
    pub layer: String,
    /// The rule.
    pub expected: String,
    /// The value that breaks it.
    pub got: String,
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
    /// A graph that holds only the 3-channel image.
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

    /// Adds a nearest-neighbour ×2 upsampling.
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

    /// The largest stride of any layer: input sides must be multiples of it, so that what is
    /// halved and upsampled again fits what was not.
    pub fn max_stride(&self) -> usize {
        let mut strides: Vec<usize> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs = node.inputs.iter().filter_map(|input| strides.get(input.0));
            let read = inputs.copied().max().unwrap_or(1);
            strides.push(match &node.op {
                Op::Conv(conv) => read * conv.stride,
                Op::MaxPool => 2 * read,
                Op::Upsample => (read / 2).max(1),
                Op::Input | Op::Concat | Op::Add => read,
            });
        }
        let outputs = self.outputs.iter().map(|level| level.stride);
        strides.into_iter().chain(outputs).max().unwrap_or(1)
    }

    /// The shape of every node for an image of `height` × `width`.
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

    /// Checks everything that the kernels rely on and that does not depend on the image's size:
    /// every engine calls this before it plans, because the fields of a graph are public and a
    /// kernel that believed a wrong one would read outside its arrays.
    ///
    /// # Errors
    /// With the first layer that breaks a rule.
    pub fn check(&self) -> Result<(), GraphError> {
        if self.nodes.is_empty() {
            return Err(error("input", "a graph with an input", "no node"));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.check_inputs(index, node)?;
            self.check_channels(node)?;
            if let Op::Conv(conv) = &node.op {
                conv.check(&node.name)?;
            }
        }
        self.check_outputs()
    }

    fn check_inputs(&self, index: usize, node: &Node) -> Result<(), GraphError> {
        let (expected, fits) = match node.op {
            Op::Input => ("the input first and without inputs", node.inputs.is_empty()),
            Op::Conv(_) | Op::MaxPool | Op::Upsample => ("one input", node.inputs.len() == 1),
            Op::Add => ("two inputs", node.inputs.len() == 2),
            Op::Concat => ("an input", !node.inputs.is_empty()),
        };
        if !fits || (node.op == Op::Input) != (index == 0) {
            let got = format!("{} inputs as node {index}", node.inputs.len());
            return Err(error(&node.name, expected, got));
        }
        match node.inputs.iter().find(|input| input.0 >= index) {
            Some(input) => Err(error(
                &node.name,
                format!("inputs before node {index}"),
                format!("node {}", input.0),
            )),
            None => Ok(()),
        }
    }

    fn check_channels(&self, node: &Node) -> Result<(), GraphError> {
        let mut inputs = node.inputs.iter().map(|&input| self.channels(input));
        let read = match &node.op {
            Op::Input => 3,
            Op::Conv(conv) => {
                let read = self.channels(node.inputs[0]);
                if read != conv.in_channels {
                    let expected = format!("{read} channels to read");
                    return Err(error(&node.name, expected, conv.in_channels));
                }
                conv.out_channels
            }
            Op::Concat => inputs.sum(),
            Op::MaxPool | Op::Upsample => inputs.next().unwrap_or(0),
            Op::Add => {
                let (left, right) = (inputs.next().unwrap_or(0), inputs.next().unwrap_or(0));
                if left != right {
                    let expected = format!("summands of {left} channels");
                    return Err(error(&node.name, expected, right));
                }
                left
            }
        };
        if node.channels != read || read == 0 {
            let expected = format!("{} channels", read.max(1));
            return Err(error(&node.name, expected, node.channels));
        }
        Ok(())
    }

    /// Logits are convolutions that no layer reads: they leave the planes that layers read.
    fn check_outputs(&self) -> Result<(), GraphError> {
        if self.outputs.len() > MOST_LEVELS {
            let expected = format!("at most {MOST_LEVELS} output levels");
            return Err(error("outputs", expected, self.outputs.len()));
        }
        let mut readers = vec![0usize; self.nodes.len()];
        for input in self.nodes.iter().flat_map(|node| &node.inputs) {
            readers[input.0] += 1;
        }
        for level in &self.outputs {
            for id in [level.class, level.boxes] {
                let Some(node) = self.nodes.get(id.0) else {
                    let expected = format!("outputs among {} nodes", self.nodes.len());
                    return Err(error("outputs", expected, format!("node {}", id.0)));
                };
                if !matches!(node.op, Op::Conv(_)) {
                    return Err(error(&node.name, "a convolution as output", node.op.name()));
                }
                if readers[id.0] > 0 {
                    return Err(error(
                        &node.name,
                        "an output that nothing else reads",
                        format!("{} more", readers[id.0]),
                    ));
                }
                readers[id.0] += 1;
            }
            if level.stride == 0 {
                let name = &self.node(level.class).name;
                return Err(error(name, "a stride from 1", level.stride));
            }
        }
        Ok(())
    }

    /// The shape of every node for an image of `height` × `width`, like [`Graph::shapes`], if
    /// parts of a concatenation and summands have the same sides and every output the sides that
    /// its stride gives.
    ///
    /// # Errors
    /// With the first layer that breaks a rule.
    pub fn checked_shapes(&self, height: usize, width: usize) -> Result<Vec<Shape>, GraphError> {
        let shapes = self.shapes(height, width);
        let sides = |id: NodeId| (shapes[id.0].height, shapes[id.0].width);
        let differ = |name: &str, expected: (usize, usize), got: (usize, usize)| {
            let expected = format!("{}x{} pixels", expected.1, expected.0);
            error(name, expected, format!("{}x{}", got.1, got.0))
        };
        for node in &self.nodes {
            let mut inputs = node.inputs.iter().map(|&input| sides(input));
            if let Some(first) = inputs.next()
                && let Some(other) = inputs.find(|&other| other != first)
            {
                return Err(differ(&node.name, first, other));
            }
        }
        for level in &self.outputs {
            let expected = (height / level.stride, width / level.stride);
            for id in [level.class, level.boxes] {
                if sides(id) != expected {
                    return Err(differ(&self.node(id).name, expected, sides(id)));
                }
            }
        }
        Ok(shapes)
    }

    /// Cost of a forward pass at one image size.
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

fn error(layer: &str, expected: impl ToString, got: impl ToString) -> GraphError {
    GraphError {
        layer: layer.to_owned(),
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

impl Conv {
    /// Number of weights.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }

    fn check(&self, layer: &str) -> Result<(), GraphError> {
        // with an even kernel, padding by half of it does not keep the image's size
        if self.kernel.is_multiple_of(2) {
            return Err(error(layer, "an odd kernel", self.kernel));
        }
        match self.stride {
            1 | 2 => Ok(()),
            stride => Err(error(layer, "stride 1 or 2", stride)),
        }
    }
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Op::Input => "the input",
            Op::Conv(_) => "a convolution",
            Op::MaxPool => "a max pooling",
            Op::Upsample => "an upsampling",
            Op::Concat => "a concatenation",
            Op::Add => "a sum",
        }
    }

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

    fn conv(kernel: usize, stride: usize, in_channels: usize, out_channels: usize) -> Conv {
        Conv {
            weight: "w".to_owned(),
            norm: None,
            bias: None,
            in_channels,
            out_channels,
            kernel,
            stride,
            relu: true,
        }
    }

    /// input → a → {pool, b} → class, boxes.
    fn valid() -> Graph {
        let (mut graph, input) = Graph::new();
        let a = graph.conv("a", input, conv(7, 2, 3, 8));
        let b = graph.conv("b", a, conv(5, 1, 8, 8));
        let sum = graph.add("sum", a, b);
        let all = graph.concat("all", &[sum, b]);
        let class = graph.conv("class", all, conv(1, 1, 16, 4));
        let boxes = graph.conv("boxes", all, conv(1, 1, 16, 8));
        graph.outputs.push(OutputLevel {
            stride: 2,
            class,
            boxes,
        });
        graph
    }

    #[test]
    fn a_valid_graph_passes_every_check() {
        let graph = valid();
        assert_eq!(graph.check(), Ok(()));
        assert_eq!(graph.checked_shapes(8, 6).unwrap(), graph.shapes(8, 6));
    }

    #[test]
    fn a_graph_that_the_kernels_cannot_run_is_refused_by_its_layer() {
        type Spoil = fn(&mut Graph);
        fn of(graph: &mut Graph, node: usize) -> &mut Conv {
            match &mut graph.nodes[node].op {
                Op::Conv(conv) => conv,
                op => panic!("{op:?}"),
            }
        }
        let cases: [(Spoil, &str); 14] = [
            (
                |g| of(g, 1).kernel = 4,
                "layer 'a': expected an odd kernel, got 4",
            ),
            (
                |g| of(g, 1).kernel = 0,
                "layer 'a': expected an odd kernel, got 0",
            ),
            (
                |g| of(g, 2).stride = 3,
                "layer 'b': expected stride 1 or 2, got 3",
            ),
            (
                |g| of(g, 2).in_channels = 9,
                "layer 'b': expected 8 channels to read, got 9",
            ),
            (
                |g| of(g, 2).out_channels = 9,
                "layer 'b': expected 9 channels, got 8",
            ),
            (
                |g| g.nodes[4].channels = 17,
                "layer 'all': expected 16 channels, got 17",
            ),
            (
                |g| g.nodes[0].channels = 4,
                "layer 'input': expected 3 channels, got 4",
            ),
            (
                |g| g.nodes[2].inputs[0] = NodeId(2),
                "layer 'b': expected inputs before node 2, got node 2",
            ),
            (
                |g| g.nodes[3].inputs.truncate(1),
                "layer 'sum': expected two inputs, got 1 inputs as node 3",
            ),
            (
                |g| g.nodes[3].inputs[1] = NodeId(0),
                "layer 'sum': expected summands of 8 channels, got 3",
            ),
            (
                |g| g.outputs[0].class = NodeId(99),
                "layer 'outputs': expected outputs among 7 nodes, got node 99",
            ),
            (
                |g| g.outputs[0].class = NodeId(4),
                "layer 'all': expected a convolution as output, got a concatenation",
            ),
            (
                |g| g.outputs[0].class = NodeId(2),
                "layer 'b': expected an output that nothing else reads, got 2 more",
            ),
            (
                |g| g.outputs = vec![g.outputs[0]; 5],
                "layer 'outputs': expected at most 4 output levels, got 5",
            ),
        ];
        for (spoil, expected) in cases {
            let mut graph = valid();
            spoil(&mut graph);
            assert_eq!(graph.check().unwrap_err().to_string(), expected);
        }
        let mut twice = valid();
        twice.outputs[0].boxes = twice.outputs[0].class;
        assert!(twice.check().is_err());
        assert!(Graph::default().check().is_err());
    }

    #[test]
    fn the_largest_stride_counts_what_is_upsampled_again() {
        let mut graph = valid();
        assert_eq!(graph.max_stride(), 2);
        let pooled = graph.max_pool("pool", NodeId(1));
        let deeper = graph.conv("deeper", pooled, conv(3, 2, 8, 8));
        graph.upsample("up", deeper);
        assert_eq!(graph.max_stride(), 8);
    }

    #[test]
    fn sides_that_do_not_meet_are_refused() {
        let (mut graph, input) = Graph::new();
        let a = graph.conv("a", input, conv(3, 2, 3, 8));
        let b = graph.conv("b", a, conv(3, 2, 8, 8));
        let up = graph.upsample("up", b);
        graph.add("sum", a, up);
        assert_eq!(graph.check(), Ok(()));
        assert!(graph.checked_shapes(8, 8).is_ok());
        let refused = graph.checked_shapes(8, 10).unwrap_err().to_string();
        assert_eq!(refused, "layer 'sum': expected 5x4 pixels, got 6x4");
        let mut stride = valid();
        stride.outputs[0].stride = 4;
        let refused = stride.checked_shapes(8, 8).unwrap_err().to_string();
        assert_eq!(refused, "layer 'class': expected 2x2 pixels, got 4x4");
    }
}

//! Which buffer holds which node, independent of the image's size.
//!
//! A concatenation is a buffer; the nodes that it joins write straight into its blocks, so
//! one-shot aggregation costs nothing. A concatenation inside another is a run of blocks of the
//! outer one. Only a node that two concatenations join is copied into the second.

use crate::network::graph::{Graph, NodeId, Op};

/// Channels in a block: the lanes of a vector.
pub(in crate::engine) const LANES: usize = 16;

/// Channels in a block, for every engine that uses a [`Layout`].
#[cfg(feature = "cuda")]
pub(in crate::engine) const BLOCK: usize = LANES;

/// A run of blocks in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Slice {
    /// Index into [`Layout::buffers`].
    pub(in crate::engine) buffer: usize,
    /// First block.
    pub(in crate::engine) block: usize,
}

/// A buffer's size in blocks and its life in nodes.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Buffer {
    /// A node whose sides the buffer has.
    pub(in crate::engine) node: NodeId,
    /// Blocks of [`LANES`] channels.
    pub(in crate::engine) blocks: usize,
    /// First node that writes it.
    pub(in crate::engine) first: usize,
    /// Last node that reads it.
    pub(in crate::engine) last: usize,
    /// Pixels around the planes that a convolution reads: half of the largest kernel side.
    pub(in crate::engine) border: usize,
}

/// Where every node's values go.
pub(in crate::engine) struct Layout {
    /// By node; none for logits, which go to the caller.
    pub(in crate::engine) slices: Vec<Option<Slice>>,
    /// By node: the channel that each lane holds.
    pub(in crate::engine) lanes: Vec<Vec<Option<usize>>>,
    /// All buffers.
    pub(in crate::engine) buffers: Vec<Buffer>,
    /// Nodes to copy into a concatenation, with their place there: (concatenation, node, slice).
    pub(in crate::engine) copies: Vec<(NodeId, NodeId, Slice)>,
}

impl Layout {
    /// Lays out a graph.
    pub(in crate::engine) fn new(graph: &Graph) -> Layout {
        let lanes = lanes(graph);
        let mut layout = Layout {
            slices: vec![None; graph.nodes.len()],
            buffers: Vec::new(),
            copies: Vec::new(),
            lanes,
        };
        // outer concatenations come later: from the back, so that inner ones find theirs
        for index in (0..graph.nodes.len()).rev() {
            if graph.nodes[index].op == Op::Concat {
                layout.join(graph, NodeId(index));
            }
        }
        let logits = |id| graph.outputs.iter().any(|o| o.class == id || o.boxes == id);
        for id in (0..graph.nodes.len()).map(NodeId) {
            if layout.slices[id.0].is_none() && !logits(id) {
                layout.slices[id.0] = Some(layout.add_buffer(id));
            }
        }
        layout.live(graph);
        layout
    }

    /// Gives every buffer, `lens[buffer]` values long, a start in one arena; buffers that are
    /// never alive together may share memory. Returns the starts and the arena's length.
    pub(in crate::engine) fn place(&self, lens: &[usize]) -> (Vec<usize>, usize) {
        let mut order: Vec<usize> = (0..self.buffers.len()).collect();
        order.sort_by_key(|&i| self.buffers[i].first);
        let mut placed: Vec<(usize, usize, usize)> = Vec::new(); // start, end, last reader
        let mut starts = vec![0; self.buffers.len()];
        let mut arena = 0;
        for index in order {
            let buffer = &self.buffers[index];
            placed.retain(|&(_, _, last)| last >= buffer.first);
            placed.sort_unstable();
            let mut start = 0;
            for &(from, to, _) in &placed {
                if start + lens[index] <= from {
                    break;
                }
                start = start.max(to);
            }
            placed.push((start, start + lens[index], buffer.last));
            arena = arena.max(start + lens[index]);
            starts[index] = start;
        }
        (starts, arena)
    }

    fn blocks(&self, id: NodeId) -> usize {
        self.lanes[id.0].len().div_ceil(LANES)
    }

    fn add_buffer(&mut self, node: NodeId) -> Slice {
        self.buffers.push(Buffer {
            node,
            blocks: self.blocks(node),
            first: usize::MAX,
            last: 0,
            border: 0,
        });
        Slice {
            buffer: self.buffers.len() - 1,
            block: 0,
        }
    }

    /// Gives a concatenation its buffer and its inputs their places in it.
    fn join(&mut self, graph: &Graph, concat: NodeId) {
        let mut place = match self.slices[concat.0] {
            Some(slice) => slice,
            None => self.add_buffer(concat),
        };
        self.slices[concat.0] = Some(place);
        for &input in &graph.node(concat).inputs {
            // the input image's pixels are narrower than a block, so it cannot live there
            let free = self.slices[input.0].is_none() && graph.node(input).op != Op::Input;
            if free {
                self.slices[input.0] = Some(place);
            } else {
                self.copies.push((concat, input, place));
            }
            place.block += self.blocks(input);
        }
    }

    /// Finds out when each buffer is first written and last read.
    fn live(&mut self, graph: &Graph) {
        for (index, node) in graph.nodes.iter().enumerate() {
            if let Some(slice) = self.slices[index] {
                let buffer = &mut self.buffers[slice.buffer];
                buffer.first = buffer.first.min(index);
                buffer.last = buffer.last.max(index);
            }
            for input in &node.inputs {
                let Some(slice) = self.slices[input.0] else {
                    continue;
                };
                let buffer = &mut self.buffers[slice.buffer];
                buffer.last = buffer.last.max(index);
                if let Op::Conv(conv) = &node.op {
                    buffer.border = buffer.border.max(conv.kernel / 2);
                }
            }
        }
    }
}

/// The channel that each lane of each node holds: parts of a concatenation start on a block,
/// so lanes are left over where a part's channels are no multiple of [`LANES`].
fn lanes(graph: &Graph) -> Vec<Vec<Option<usize>>> {
    let mut all: Vec<Vec<Option<usize>>> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let lanes = match (&node.op, node.inputs.first()) {
            (Op::Input, _) => (0..node.channels).map(Some).collect(),
            (Op::MaxPool | Op::Upsample | Op::Add, Some(input)) => all[input.0].clone(),
            (Op::Concat, _) => {
                let mut joined = Vec::new();
                let mut channel = 0;
                for input in &node.inputs {
                    joined.extend(all[input.0].iter().map(|lane| lane.map(|c| c + channel)));
                    channel += graph.channels(*input);
                }
                joined
            }
            _ => (0..node.channels.next_multiple_of(LANES))
                .map(|lane| (lane < node.channels).then_some(lane))
                .collect(),
        };
        all.push(lanes);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn no_node_of_the_detector_is_copied() {
        let graph = Network::vovnet27_slim().graph(12).unwrap();
        assert_eq!(Layout::new(&graph).copies, []);
    }

    #[test]
    fn an_aggregation_is_one_buffer() {
        let graph = Network::vovnet27_slim().graph(12).unwrap();
        let layout = Layout::new(&graph);
        let concat = graph
            .nodes
            .iter()
            .find(|node| node.name.ends_with("OSA2_1.all"))
            .unwrap();
        let blocks: Vec<Slice> = concat
            .inputs
            .iter()
            .map(|id| layout.slices[id.0].unwrap())
            .collect();
        let first: Vec<usize> = blocks.iter().map(|slice| slice.block).collect();
        assert_eq!(first, [0, 8, 12, 16, 20, 24]);
        assert!(blocks.iter().all(|slice| slice.buffer == blocks[0].buffer));
    }

    #[test]
    fn a_border_is_as_wide_as_the_largest_kernel_that_reads_it() {
        let graph = Network::vovnet27_slim().graph(12).unwrap();
        let layout = Layout::new(&graph);
        for (index, buffer) in layout.buffers.iter().enumerate() {
            let kernels = graph.convs().filter_map(|(id, conv)| {
                let slice = layout.slices[graph.node(id).inputs[0].0]?;
                (slice.buffer == index).then_some(conv.kernel)
            });
            assert_eq!(buffer.border, kernels.max().unwrap_or(1) / 2);
        }
        assert!(layout.buffers.iter().any(|buffer| buffer.border == 1));
        assert!(layout.buffers.iter().any(|buffer| buffer.border == 0));
    }

    #[test]
    fn channels_that_do_not_fill_a_block_leave_lanes_empty() {
        let network = Network {
            neck_mid_width: 20,
            ..Network::vovnet27_slim()
        };
        let graph = network.graph(12).unwrap();
        let layout = Layout::new(&graph);
        for (node, lanes) in graph.nodes.iter().zip(&layout.lanes) {
            let channels: Vec<usize> = lanes.iter().flatten().copied().collect();
            assert_eq!(
                channels,
                (0..node.channels).collect::<Vec<_>>(),
                "{}",
                node.name
            );
        }
    }
}

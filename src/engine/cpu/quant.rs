//! From floats to bytes: what one step of an activation or a weight is worth.
//!
//! Activations follow a ReLU, so they are unsigned and zero stays zero: the border needs no
//! correction. A node's step is its calibrated range / 255. Weights are signed, with one step
//! an output channel; the steps of the input's channels are multiplied into the weights first,
//! so a concatenation may join nodes of different ranges at no cost.

use super::plane::PictureBytes;
use crate::model::{ConvWeights, Manifest};
use crate::network::graph::{Conv, Graph, NodeId, Op};

/// One convolution in bytes.
pub(super) struct Weights {
    /// `[out, in, kernel, kernel]`.
    pub(super) values: Vec<i8>,
    /// What a sum of products is worth, in steps of the output (or in logits), by output.
    pub(super) scale: Vec<f32>,
    /// In the same unit.
    pub(super) bias: Vec<f32>,
}

/// What a step of every node's bytes is worth.
pub(super) struct Scales {
    /// By node and channel; empty for logits, which stay floats.
    steps: Vec<Vec<f32>>,
    /// The byte 0 of the picture, by channel.
    picture_zero: [f32; 3],
}

impl Scales {
    /// Scales for a graph with the manifest's calibrated ranges.
    ///
    /// # Errors
    /// With the name of a node that has no range.
    pub(super) fn new(graph: &Graph, manifest: &Manifest) -> Result<Scales, String> {
        let ranges = manifest.int8.as_ref().map(|int8| &int8.ranges);
        let range = |name: &str| {
            let range = ranges.and_then(|ranges| ranges.get(name)).copied();
            range.ok_or_else(|| name.to_owned())
        };
        let mut steps: Vec<Vec<f32>> = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let step = match (&node.op, node.inputs.first()) {
                (Op::Input, _) => manifest.std.map(|std| 1.0 / (255.0 * std)).to_vec(),
                (Op::MaxPool | Op::Upsample, Some(input)) => steps[input.0].clone(),
                (Op::Concat, _) => {
                    let parts = node.inputs.iter().map(|input| steps[input.0].as_slice());
                    parts.collect::<Vec<_>>().concat()
                }
                (Op::Conv(conv), _) if !conv.relu => Vec::new(),
                _ => vec![range(&node.name)?.max(f32::MIN_POSITIVE) / 255.0; node.channels],
            };
            steps.push(step);
        }
        let (mean, std) = (manifest.mean, manifest.std);
        Ok(Scales {
            steps,
            picture_zero: std::array::from_fn(|c| -mean[c] / std[c]),
        })
    }

    /// A convolution's weights in bytes; none when its input is not in bytes.
    pub(super) fn quantise(
        &self,
        graph: &Graph,
        (id, conv): (NodeId, &Conv),
        floats: &ConvWeights,
    ) -> Option<Weights> {
        let input = graph.node(id).inputs[0];
        let steps = &self.steps[input.0];
        if steps.len() != conv.in_channels {
            return None;
        }
        let zeros: &[f32] = match graph.node(input).op {
            Op::Input => &self.picture_zero,
            _ => &[],
        };
        let unit = self.steps[id.0].first().copied().unwrap_or(1.0);
        let taps = conv.kernel * conv.kernel;
        let mut weights = Weights {
            values: Vec::with_capacity(floats.weight.len()),
            scale: Vec::with_capacity(conv.out_channels),
            bias: Vec::with_capacity(conv.out_channels),
        };
        for (filter, &bias) in floats
            .weight
            .chunks_exact(conv.in_channels * taps)
            .zip(&floats.bias)
        {
            let scaled = |index: usize| filter[index] * steps[index / taps];
            let largest = (0..filter.len()).fold(0.0f32, |most, i| most.max(scaled(i).abs()));
            let step = largest.max(f32::MIN_POSITIVE) / 127.0;
            let mut bias = bias;
            for index in 0..filter.len() {
                let value = (scaled(index) / step).round().clamp(-127.0, 127.0);
                weights.values.push(value as i8);
                if let Some(zero) = zeros.get(index / taps) {
                    bias += value * step / steps[index / taps] * zero;
                }
            }
            weights.scale.push(step / unit);
            weights.bias.push(bias / unit);
        }
        Some(weights)
    }

    /// What the two summands' steps are worth in steps of the sum; none unless each summand has
    /// one step for all channels.
    pub(super) fn summands(&self, id: NodeId, inputs: &[NodeId]) -> Option<[f32; 2]> {
        let one = |id: &NodeId| {
            let steps = &self.steps[id.0];
            let first = *steps.first()?;
            steps.iter().all(|&step| step == first).then_some(first)
        };
        let unit = one(&id)?;
        let [left, right] = inputs else { return None };
        Some([one(left)? / unit, one(right)? / unit])
    }
}

/// The bytes of the picture around its edge: the nearest to a normalised zero.
pub(super) fn picture_border(manifest: &Manifest) -> PictureBytes {
    let [r, g, b] = manifest.mean.map(|mean| (255.0 * mean).round() as u8);
    [r, g, b, 0]
}

//! Quantisation: the scales of activations and weights in bytes.
//!
//! Activations follow a ReLU, so they are unsigned and zero stays zero: the border needs no
//! correction. A node's scale is its calibrated range / 255. Weights are signed, with one scale
//! an output channel; the scales of the input's channels are multiplied into the weights first,
//! so a concatenation may join nodes of different ranges at no cost.
//!
//! Processors without byte products add the products of two neighbouring channels in 16 bits. So
//! that the sums cannot overflow, weights of one sign of two neighbours are at most 128 together
//! (255 × 128 = 32,640). Filters seldom have their largest weights side by side, so this costs a
//! fraction of a bit; it holds for all processors, so that all compute the same bytes.

use super::memory::InputPixel;
use crate::model::{ConvWeights, Manifest};
use crate::network::graph::{Conv, Graph, NodeId, Op};

/// Largest weight in bytes.
const LARGEST: f32 = 127.0;

/// One convolution in bytes.
pub(super) struct Weights {
    /// `[out, in, kernel, kernel]`.
    pub(super) values: Vec<i8>,
    /// Value of a sum of products, in units of the output scale (or in logits), by output.
    pub(super) scale: Vec<f32>,
    /// In the same unit.
    pub(super) bias: Vec<f32>,
}

/// Quantisation scale per node and channel.
pub(super) struct Scales {
    /// By node and channel; empty for logits, which stay floats.
    scales: Vec<Vec<f32>>,
    /// Value of the byte 0 of the input image, by channel.
    input_zero: [f32; 3],
    /// Distance of the first channels of pairs that are multiplied together.
    pair_step: usize,
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
        let mut scales: Vec<Vec<f32>> = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let scale = match (&node.op, node.inputs.first()) {
                (Op::Input, _) => manifest.std.map(|std| 1.0 / (255.0 * std)).to_vec(),
                (Op::MaxPool | Op::Upsample, Some(input)) => scales[input.0].clone(),
                (Op::Concat, _) => {
                    let parts = node.inputs.iter().map(|input| scales[input.0].as_slice());
                    parts.collect::<Vec<_>>().concat()
                }
                (Op::Conv(conv), _) if !conv.relu => Vec::new(),
                _ => vec![range(&node.name)?.max(f32::MIN_POSITIVE) / 255.0; node.channels],
            };
            scales.push(scale);
        }
        let (mean, std) = (manifest.mean, manifest.std);
        Ok(Scales {
            scales,
            input_zero: std::array::from_fn(|c| -mean[c] / std[c]),
            pair_step: pair_step(graph),
        })
    }

    /// A convolution's weights in bytes; none when its input is not in bytes.
    pub(super) fn quantise(
        &self,
        graph: &Graph,
        id: NodeId,
        conv: &Conv,
        floats: &ConvWeights,
    ) -> Option<Weights> {
        let input = graph.node(id).inputs[0];
        let scales = &self.scales[input.0];
        if scales.len() != conv.in_channels {
            return None;
        }
        let zeros: &[f32] = match graph.node(input).op {
            Op::Input => &self.input_zero,
            _ => &[],
        };
        let unit = self.scales[id.0].first().copied().unwrap_or(1.0);
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
            let scaled = |index: usize| filter[index] * scales[index / taps];
            let largest = largest_pair(conv.in_channels, taps, self.pair_step, scaled);
            let scale = largest.max(f32::MIN_POSITIVE) / LARGEST;
            let mut bias = bias;
            for index in 0..filter.len() {
                let value = (scaled(index) / scale).round().clamp(-LARGEST, LARGEST);
                weights.values.push(value as i8);
                if let Some(zero) = zeros.get(index / taps) {
                    bias += value * scale / scales[index / taps] * zero;
                }
            }
            weights.scale.push(scale / unit);
            weights.bias.push(bias / unit);
        }
        Some(weights)
    }

    /// Scales of the two summands relative to the scale of the sum; none unless each summand has
    /// one scale for all channels.
    pub(super) fn summands(&self, id: NodeId, inputs: &[NodeId]) -> Option<[f32; 2]> {
        let one = |id: &NodeId| {
            let scales = &self.scales[id.0];
            let first = *scales.first()?;
            scales.iter().all(|&scale| scale == first).then_some(first)
        };
        let unit = one(&id)?;
        let [left, right] = inputs else { return None };
        Some([one(left)? / unit, one(right)? / unit])
    }
}

/// Largest sum of the values of one sign of two channels side by side, over all taps of a filter.
/// Each rounds up by half a step at most, so both together by one.
fn largest_pair(
    channels: usize,
    taps: usize,
    pair_step: usize,
    value: impl Fn(usize) -> f32,
) -> f32 {
    let mut largest = 0.0f32;
    for channel in (0..channels).step_by(pair_step) {
        for tap in 0..taps {
            let one = value(channel * taps + tap);
            let next = match channel + 1 < channels {
                true => value((channel + 1) * taps + tap),
                false => 0.0,
            };
            let positive = one.max(0.0) + next.max(0.0);
            let negative = one.min(0.0) + next.min(0.0);
            largest = largest.max(positive).max(-negative);
        }
    }
    largest
}

/// 2 if channels 2k and 2k + 1 are always multiplied together, 1 if any two neighbours may be: lanes
/// are padded after each part of a concatenation, and a part of odd width shifts the next.
fn pair_step(graph: &Graph) -> usize {
    let concats = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Concat));
    let mut parts = concats.flat_map(|node| &node.inputs);
    match parts.all(|&part| graph.node(part).channels.is_multiple_of(2)) {
        true => 2,
        false => 1,
    }
}

/// The bytes around the input image: the nearest to a normalised zero.
pub(super) fn input_border(manifest: &Manifest) -> InputPixel {
    let [r, g, b] = manifest.mean.map(|mean| (255.0 * mean).round() as u8);
    [r, g, b, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn products_of_two_neighbouring_channels_fit_into_16_bits() {
        let model = Model::bundled().unwrap();
        let scales = Scales::new(&model.graph, &model.manifest).unwrap();
        let mut largest = 0;
        for ((id, conv), floats) in model.graph.convs().zip(&model.weights) {
            let weights = scales.quantise(&model.graph, id, conv, floats).unwrap();
            let taps = conv.kernel * conv.kernel;
            for filter in weights.values.chunks_exact(conv.in_channels * taps) {
                for (index, one) in filter.iter().enumerate() {
                    let next = filter.get(index + taps).filter(|_| index / taps % 2 == 0);
                    let pair = [i32::from(*one), next.map_or(0, |next| i32::from(*next))];
                    let positive: i32 = pair.iter().map(|w| w.max(&0)).sum();
                    let negative: i32 = pair.iter().map(|w| w.min(&0)).sum();
                    largest = largest.max(255 * positive).max(-255 * negative);
                }
            }
        }
        assert!(
            (30_000..=i32::from(i16::MAX)).contains(&largest),
            "{largest}"
        );
    }
}

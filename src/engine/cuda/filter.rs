//! A convolution's weights in the order that the GPU reads them.

use crate::model::ConvWeights;
use crate::network::graph::Conv;

/// Weights `[out, kernel, kernel, in]` and biases, with zeros for padding channels on both sides.
pub(super) struct Filter {
    /// Channels written, padding included.
    pub(super) out_channels: usize,
    /// Channels read, padding included.
    pub(super) in_channels: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) relu: bool,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Filter {
    /// Orders a convolution's weights. `lanes` says which channel each value of an input pixel
    /// holds; `pixel` is how many values that is at least, `out_channels` how many are written.
    pub(super) fn new(
        conv: &Conv,
        weights: &ConvWeights,
        lanes: &[Option<usize>],
        pixel: usize,
        out_channels: usize,
    ) -> Filter {
        let (taps, in_channels) = (conv.kernel * conv.kernel, lanes.len().max(pixel));
        let mut weight = vec![0.0; out_channels * taps * in_channels];
        for (row, to) in weight.chunks_exact_mut(in_channels).enumerate() {
            let (out, tap) = (row / taps, row % taps);
            if out >= conv.out_channels {
                break;
            }
            for (value, lane) in to.iter_mut().zip(lanes) {
                if let Some(channel) = lane {
                    *value = weights.weight[(out * conv.in_channels + channel) * taps + tap];
                }
            }
        }
        let mut bias = weights.bias.clone();
        bias.resize(out_channels, 0.0);
        Filter {
            out_channels,
            in_channels,
            kernel: conv.kernel,
            stride: conv.stride,
            relu: conv.relu,
            weight,
            bias,
        }
    }
}

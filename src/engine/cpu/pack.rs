//! Weights in the order in which the kernels read them.

use super::aligned::Aligned;
use super::dot::CONSTANTS;
use super::memory::View;
use super::quant;
use super::simd::LANES;
use super::winograd::variant::{POINTS, Variant};
use crate::model::ConvWeights;
use crate::network::graph::Conv;
use std::sync::Arc;

/// Algorithm of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Implicit matrix product.
    Direct,
    /// Winograd minimal filtering.
    Winograd,
}

impl Algorithm {
    /// The fixed rule: Winograd wherever it applies, if it is wanted.
    pub(super) fn choose(conv: &Conv, winograd: bool) -> Algorithm {
        if winograd && conv.kernel == 3 && Variant::of(conv.stride).is_some() {
            Algorithm::Winograd
        } else {
            Algorithm::Direct
        }
    }
}

/// One convolution's weights and constants, as its kernel reads them.
pub(super) struct Packed {
    /// Which kernel the order is for.
    pub(super) algorithm: Algorithm,
    /// Blocks of input lanes.
    pub(super) in_blocks: usize,
    /// Lanes of an input block.
    pub(super) in_lanes: usize,
    /// Blocks of output channels.
    pub(super) out_blocks: usize,
    values: Aligned,
    constants: Aligned,
    /// Weights of an output block, in elements.
    block_len: usize,
    /// Bytes of a weight.
    element: usize,
    /// Constants of an output block.
    block_constants: usize,
}

/// Parameters of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Conv2dParams {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) out_channels: usize,
    pub(super) relu: bool,
    /// Whether the target has room exactly for the channels and not for whole blocks.
    pub(super) exact: bool,
}

/// A convolution to plan: weights, and where it reads and writes.
pub(super) struct Conv2d {
    pub(super) weights: Arc<Packed>,
    pub(super) source: View,
    pub(super) target: View,
    /// Rows of the target.
    pub(super) height: usize,
    /// Columns of the target.
    pub(super) width: usize,
    pub(super) params: Conv2dParams,
}

/// Which channel each lane of the input holds, and lanes a block.
#[derive(Clone, Copy)]
pub(super) struct InputLanes<'a> {
    pub(super) channels: &'a [Option<usize>],
    pub(super) block: usize,
}

impl InputLanes<'_> {
    fn blocks(&self) -> usize {
        self.channels.len().div_ceil(self.block)
    }

    /// Block, lane in the block, and channel of every lane that holds one.
    fn iter(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let lanes = self.channels.iter().enumerate();
        lanes.filter_map(|(lane, &channel)| Some((lane / self.block, lane % self.block, channel?)))
    }
}

impl Packed {
    /// f32 weights `[out block, tap or point, in lane, 16]`, with blocks of input lanes outside
    /// the taps for [`Algorithm::Direct`] and inside the points for [`Algorithm::Winograd`];
    /// a bias for each output. Lanes without a channel are zero.
    pub(super) fn floats(
        conv: &Conv,
        weights: &ConvWeights,
        lanes: InputLanes<'_>,
        algorithm: Algorithm,
    ) -> Packed {
        let taps = conv.kernel * conv.kernel;
        let variant = match algorithm {
            Algorithm::Direct => None,
            Algorithm::Winograd => Variant::of(conv.stride),
        };
        let points = variant.map_or(taps, |_| POINTS);
        let (in_blocks, out_blocks) = (lanes.blocks(), conv.out_channels.div_ceil(LANES));
        let block_len = points * in_blocks * lanes.block * LANES;
        let mut values = Aligned::zeroed(out_blocks * block_len * size_of::<f32>());
        let mut constants = Aligned::zeroed(out_blocks * LANES * size_of::<f32>());
        for out in 0..conv.out_channels {
            constants.set(out, weights.bias[out].to_ne_bytes());
            for (block, lane, channel) in lanes.iter() {
                let filter = &weights.weight[(out * conv.in_channels + channel) * taps..][..taps];
                let mut put = |point: usize, value: f32| {
                    let row = match algorithm {
                        Algorithm::Direct => block * taps + point,
                        Algorithm::Winograd => point * in_blocks + block,
                    };
                    let row = row * lanes.block + lane;
                    let at = (out / LANES) * block_len + row * LANES + out % LANES;
                    values.set(at, value.to_ne_bytes());
                };
                match (variant, filter.first_chunk()) {
                    (Some(variant), Some(filter)) => {
                        let points = variant.transform_filter(filter);
                        points.into_iter().enumerate().for_each(|(i, v)| put(i, v));
                    }
                    _ => filter.iter().enumerate().for_each(|(i, &v)| put(i, v)),
                }
            }
        }
        Packed {
            algorithm,
            in_blocks,
            in_lanes: lanes.block,
            out_blocks,
            values,
            constants,
            block_len,
            element: size_of::<f32>(),
            block_constants: LANES,
        }
    }

    /// Signed bytes `[out block, in block, tap, four lanes, 16, lane of the four]`; for each
    /// block of outputs sixteen biases, scales and offsets as [`super::dot`] wants them.
    pub(super) fn bytes(conv: &Conv, weights: &quant::Weights, lanes: InputLanes<'_>) -> Packed {
        let taps = conv.kernel * conv.kernel;
        let (in_blocks, out_blocks) = (lanes.blocks(), conv.out_channels.div_ceil(LANES));
        let block_len = taps * in_blocks * lanes.block * LANES;
        let mut values = Aligned::zeroed(out_blocks * block_len);
        let mut constants = Aligned::zeroed(out_blocks * CONSTANTS * size_of::<f32>());
        for out in 0..conv.out_channels {
            let mut offset = 0i32;
            for (block, lane, channel) in lanes.iter() {
                for tap in 0..taps {
                    let value = weights.values[(out * conv.in_channels + channel) * taps + tap];
                    let four = (block * taps + tap) * (lanes.block / 4) + lane / 4;
                    let at = (four * LANES + out % LANES) * 4 + lane % 4;
                    values.set((out / LANES) * block_len + at, value.to_ne_bytes());
                    offset += 128 * i32::from(value);
                }
            }
            let first = (out / LANES) * CONSTANTS + out % LANES;
            constants.set(first, weights.bias[out].to_ne_bytes());
            constants.set(first + LANES, weights.scale[out].to_ne_bytes());
            constants.set(first + 2 * LANES, offset.to_ne_bytes());
        }
        Packed {
            algorithm: Algorithm::Direct,
            in_blocks,
            in_lanes: lanes.block,
            out_blocks,
            values,
            constants,
            block_len,
            element: 1,
            block_constants: CONSTANTS,
        }
    }

    /// Elements from one output block's weights to the next's.
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    /// The weights of one output block and, behind them, of all later ones.
    pub(super) fn block(&self, block: usize) -> *const u8 {
        debug_assert!(block < self.out_blocks);
        let at = block * self.block_len * self.element;
        self.values.as_ptr().wrapping_add(at)
    }

    /// The constants of one output block and, behind them, of all later ones.
    pub(super) fn constants(&self, block: usize) -> *const f32 {
        debug_assert!(block < self.out_blocks);
        let constants = self.constants.as_ptr().cast::<f32>();
        constants.wrapping_add(block * self.block_constants)
    }
}

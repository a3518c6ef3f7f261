//! Weights in the order in which the kernels read them.

use super::aligned::Aligned;
use super::simd::LANES;
use super::winograd::{POINTS, transform_filter};
use crate::graph::Conv;
use crate::weights::ConvWeights;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Implicit matrix product.
    Direct,
    /// F(4×4, 3×3).
    Winograd,
}

impl Algorithm {
    /// The fixed rule: Winograd wherever it applies, if it is wanted.
    pub(super) fn choose(conv: &Conv, winograd: bool) -> Algorithm {
        if winograd && conv.kernel == 3 && conv.stride == 1 {
            Algorithm::Winograd
        } else {
            Algorithm::Direct
        }
    }
}

/// One convolution's weights, `[out block, tap or point, in lane, 16]` with blocks of input
/// lanes outside the taps for [`Algorithm::Direct`] and inside the points for
/// [`Algorithm::Winograd`]. Lanes without a channel are zero.
pub(super) struct Packed {
    /// Which kernel the order is for.
    pub(super) algorithm: Algorithm,
    /// Blocks of input lanes.
    pub(super) in_blocks: usize,
    /// Blocks of output channels.
    pub(super) out_blocks: usize,
    values: Aligned,
    bias: Aligned,
    block_len: usize,
}

impl Packed {
    /// Packs for an input whose lane `i` holds channel `lanes[i]`, in blocks of `block` lanes.
    pub(super) fn new(
        conv: &Conv,
        weights: &ConvWeights,
        lanes: &[Option<usize>],
        block: usize,
        algorithm: Algorithm,
    ) -> Packed {
        let taps = conv.kernel * conv.kernel;
        let points = match algorithm {
            Algorithm::Direct => taps,
            Algorithm::Winograd => POINTS,
        };
        let in_blocks = lanes.len() / block;
        let out_blocks = conv.out_channels.div_ceil(LANES);
        let block_len = points * lanes.len() * LANES;
        let mut values = Aligned::zeroed(out_blocks * block_len);
        let mut bias = Aligned::zeroed(out_blocks * LANES);
        for out in 0..conv.out_channels {
            bias.set(out, weights.bias[out]);
            for (lane, channel) in lanes.iter().enumerate() {
                let Some(channel) = channel else { continue };
                let filter = &weights.weight[(out * conv.in_channels + channel) * taps..][..taps];
                let mut put = |point: usize, value: f32| {
                    let (b, l) = (lane / block, lane % block);
                    let row = match algorithm {
                        Algorithm::Direct => (b * taps + point) * block + l,
                        Algorithm::Winograd => (point * in_blocks + b) * block + l,
                    };
                    let at = (out / LANES) * block_len + row * LANES + out % LANES;
                    values.set(at, value);
                };
                match (algorithm, filter.first_chunk()) {
                    (Algorithm::Winograd, Some(filter)) => {
                        let points = transform_filter(filter);
                        points.into_iter().enumerate().for_each(|(i, v)| put(i, v));
                    }
                    _ => filter.iter().enumerate().for_each(|(i, &v)| put(i, v)),
                }
            }
        }
        Packed {
            algorithm,
            in_blocks,
            out_blocks,
            values,
            bias,
            block_len,
        }
    }

    /// Floats from one output block's weights to the next's.
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    /// The weights of one output block and, behind them, of all later ones.
    pub(super) fn block(&self, block: usize) -> *const f32 {
        debug_assert!(block < self.out_blocks);
        self.values.as_ptr().wrapping_add(block * self.block_len)
    }

    /// The bias of one output block and, behind it, of all later ones.
    pub(super) fn bias(&self, block: usize) -> *const f32 {
        debug_assert!(block < self.out_blocks);
        self.bias.as_ptr().wrapping_add(block * LANES)
    }
}

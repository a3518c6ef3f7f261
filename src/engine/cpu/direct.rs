//! Direct convolution: the matrix kernel of [`super::tile`] walked over rows and output blocks.
#![allow(
    unsafe_code,
    reason = "walks raw planes; the plan has checked every extent"
)]

use super::memory::{Memory, View};
use super::pack::{Conv2d, Packed};
use super::simd::LANES;
use super::tile::{Group, TileArgs, Tiles};
use std::sync::Arc;

/// Bytes of input that a piece of work may read: it is read once for every group of output
/// blocks and should stay in the second-level cache meanwhile (128 to 900 KiB differ by 3 %).
const SLAB_BYTES: usize = 768 << 10;

/// A planned convolution of any odd kernel.
pub(super) struct Direct {
    weights: Arc<Packed>,
    source: View,
    target: View,
    args: TileArgs,
    /// Lanes that the very last output block writes.
    last_lanes: usize,
    stride: usize,
    height: usize,
    width: usize,
    /// Output rows of a piece of work.
    rows: usize,
    /// Shares of the output blocks, so that few rows still feed all threads.
    shares: usize,
    groups: Vec<Group>,
}

impl Direct {
    pub(super) fn plan(tiles: &Tiles, conv: Conv2d, threads: usize) -> Option<Direct> {
        let Conv2d {
            weights,
            source,
            target,
            height,
            width,
            params,
        } = conv;
        let pad = params.kernel / 2;
        // windows reach into the border and no further: the layout made it for this kernel
        if pad > source.border {
            return None;
        }
        let step = params.stride * source.pixel;
        let groups = Group::cover(tiles, step, weights.out_blocks, width)?;
        let row_bytes = weights.in_blocks * source.row * params.stride * source.element;
        let fit = (SLAB_BYTES / row_bytes).clamp(1, height);
        // several pieces a thread, so that one that loses its core delays the others little
        let rows = fit.min(height.div_ceil(4 * threads));
        let rows = if threads == 1 { fit } else { rows };
        let shares = if height.div_ceil(rows) >= 2 * threads {
            1
        } else {
            threads
        };
        let spare = weights.out_blocks * LANES - params.out_channels;
        Some(Direct {
            args: TileArgs {
                in_blocks: weights.in_blocks,
                in_lanes: weights.in_lanes,
                kernel: params.kernel,
                in_block: source.block,
                in_row: source.row,
                in_pixel: source.pixel,
                weight_block: weights.block_len(),
                out_block: target.block,
                out_pixel: target.pixel,
                last_lanes: LANES,
                relu: params.relu,
                to_bytes: target.element == 1,
            },
            last_lanes: if params.exact { LANES - spare } else { LANES },
            stride: params.stride,
            shares: shares.min(groups.len()),
            weights,
            source,
            target,
            height,
            width,
            rows,
            groups,
        })
    }

    /// Independent pieces of work for a batch.
    pub(super) fn items(&self, batch: usize) -> usize {
        batch * self.height.div_ceil(self.rows) * self.shares
    }

    /// Runs one piece of work.
    ///
    /// # Safety
    /// `memory` must be the arena that this step was planned for.
    pub(super) unsafe fn run(&self, memory: &Memory<'_>, item: usize) {
        let (slab, share) = (item / self.shares, item % self.shares);
        let slabs = self.height.div_ceil(self.rows);
        let (image, first) = (slab / slabs, slab % slabs * self.rows);
        let of_share = |part: usize| part * self.groups.len() / self.shares;
        for group in &self.groups[of_share(share)..of_share(share + 1)] {
            let last = group.block + group.blocks == self.weights.out_blocks;
            let args = TileArgs {
                last_lanes: if last { self.last_lanes } else { LANES },
                ..self.args
            };
            for y in first..(first + self.rows).min(self.height) {
                // SAFETY: passed on
                unsafe { self.row(memory, image, y, group, &args) };
            }
        }
    }

    /// One row of one group of output blocks.
    ///
    /// # Safety
    /// As for [`Direct::run`]; the row must be one of the output.
    unsafe fn row(
        &self,
        memory: &Memory<'_>,
        image: usize,
        y: usize,
        group: &Group,
        args: &TileArgs,
    ) {
        // SAFETY: a window starts half a kernel up and left, inside the border, which `plan` has
        // checked; the plan keeps height and width within source and target
        unsafe {
            let corner = (self.source.row + self.source.pixel) * self.source.element;
            let from = memory
                .read(&self.source, image, 0, y * self.stride, 0)
                .sub(args.kernel / 2 * corner);
            let to = memory.write(&self.target, image, group.block, y, 0);
            let weights = self.weights.block(group.block);
            let constants = self.weights.constants(group.block);
            for x in group.starts(self.width) {
                let from = from.add(x * self.stride * self.source.pixel * self.source.element);
                let to = to.add(x * self.target.pixel * self.target.element);
                (group.tile)(args, from, weights, constants, to);
            }
        }
    }
}

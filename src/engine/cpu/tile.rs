//! The one matrix kernel: a register tile of output blocks × pixels, summed over all inputs.
//!
//! A convolution is a matrix product whose input matrix is never built: for every input
//! channel of every kernel tap, each pixel's value is splatted and multiplied with a vector of
//! sixteen output channels' weights. All sums stay in registers from the bias to the ReLU.
//! The 36 products of a Winograd convolution are the same kernel with one tap and no bias.

#![allow(
    clippy::needless_range_loop,
    reason = "one index runs over several register arrays at once"
)]
#![allow(
    unsafe_code,
    reason = "register tiles over raw planes; the plan has checked every extent"
)]

use super::simd::{LANES, Simd};

/// A compiled register tile: `(args, input, weights, constants, output)`, in f32 or, as
/// [`super::dot`] has it, in bytes.
///
/// # Safety
/// `input` must be valid for reads at every tap of every pixel, `weights` for
/// `in_blocks × kernel²` taps of every block, `constants` for every block and `output` for
/// writes at every pixel of every block, all aligned for their elements; no other thread may
/// write any of it, or read the output.
pub(super) type Tile =
    unsafe fn(args: &TileArgs, *const u8, weights: *const u8, constants: *const f32, *mut u8);

/// The register tiles of one instruction set and precision.
pub(super) struct Tiles {
    /// Tiles as (output blocks, pixels).
    pub(super) shapes: &'static [(usize, usize)],
    /// The kernel for a tile that is in `shapes` and a step, which is how many elements the
    /// inputs of neighbouring output pixels are apart: 8 in the input image (pixels of four
    /// channels, stride 2), 16 and 32 in planes at stride 1 and 2.
    pub(super) get: fn(step: usize, blocks: usize, pixels: usize) -> Option<Tile>,
}

/// Sizes and distances of one call, distances in elements of what is read or written.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileArgs {
    /// Input blocks to sum over.
    pub(super) in_blocks: usize,
    /// Lanes of an input block that hold channels: 3 of the input image (4 in bytes), 16 of planes.
    pub(super) in_lanes: usize,
    /// Side of the kernel, odd.
    pub(super) kernel: usize,
    /// From one input block to the next.
    pub(super) in_block: usize,
    /// From one input row to the next.
    pub(super) in_row: usize,
    /// From one input pixel to the next.
    pub(super) in_pixel: usize,
    /// From one output block's weights to the next's.
    pub(super) weight_block: usize,
    /// From one output block to the next.
    pub(super) out_block: usize,
    /// From one output pixel to the next.
    pub(super) out_pixel: usize,
    /// Lanes of the last output block to write, 16 except in logits.
    pub(super) last_lanes: usize,
    /// Whether to clamp at zero.
    pub(super) relu: bool,
    /// Of the byte kernels: whether to write bytes or floats.
    pub(super) to_bytes: bool,
}

/// The kernel behind [`Tile`]: `BLOCKS × PIXELS` sums, pixels `STEP` floats apart.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
pub(super) unsafe fn multiply<
    S: Simd,
    const BLOCKS: usize,
    const PIXELS: usize,
    const STEP: usize,
>(
    isa: S::Isa,
    args: &TileArgs,
    input: *const u8,
    weights: *const u8,
    bias: *const f32,
    output: *mut u8,
) {
    let input = input.cast::<f32>();
    let mut weights = weights.cast::<f32>();
    let output = output.cast::<f32>();
    // SAFETY: all offsets follow the distances in `args`, for which the caller vouches
    unsafe {
        let mut sums = [[S::splat(isa, 0.0); PIXELS]; BLOCKS];
        for (block, sums) in sums.iter_mut().enumerate() {
            *sums = [S::load(isa, bias.add(block * LANES)); PIXELS];
        }
        for in_block in 0..args.in_blocks {
            for ky in 0..args.kernel {
                let mut tap = input.add(in_block * args.in_block + ky * args.in_row);
                for _kx in 0..args.kernel {
                    for lane in 0..args.in_lanes {
                        let mut column = [S::splat(isa, 0.0); BLOCKS];
                        for (block, column) in column.iter_mut().enumerate() {
                            *column = S::load(isa, weights.add(block * args.weight_block));
                        }
                        for pixel in 0..PIXELS {
                            let value = S::splat(isa, *tap.add(pixel * STEP + lane));
                            for block in 0..BLOCKS {
                                sums[block][pixel] =
                                    column[block].mul_add(value, sums[block][pixel]);
                            }
                        }
                        weights = weights.add(LANES);
                    }
                    tap = tap.add(args.in_pixel);
                }
            }
        }
        // Sums stay in registers only if every index into them is constant, so this loop must be
        // small enough to be unrolled: with a branch in it, each product above is also stored.
        let partial = args.last_lanes < LANES;
        let mut buffer = [[[0.0; LANES]; PIXELS]; BLOCKS];
        let (to, out_block, out_pixel) = match partial {
            true => (buffer.as_mut_ptr().cast(), PIXELS * LANES, LANES),
            false => (output, args.out_block, args.out_pixel),
        };
        let least = S::splat(isa, if args.relu { 0.0 } else { f32::NEG_INFINITY });
        for block in 0..BLOCKS {
            for pixel in 0..PIXELS {
                let to = to.add(block * out_block + pixel * out_pixel);
                sums[block][pixel].max(least).store(to);
            }
        }
        if partial {
            store_lanes(args, &buffer, output);
        }
    }
}

/// Writes a tile whose last block has fewer lanes than a vector.
///
/// # Safety
/// `output` must be valid for writes at every pixel of every block.
#[inline(always)]
unsafe fn store_lanes<const BLOCKS: usize, const PIXELS: usize>(
    args: &TileArgs,
    buffer: &[[[f32; LANES]; PIXELS]; BLOCKS],
    output: *mut f32,
) {
    for (block, pixels) in buffer.iter().enumerate() {
        let last = block + 1 == BLOCKS;
        let lanes = if last { args.last_lanes } else { LANES };
        for (pixel, values) in pixels.iter().enumerate() {
            // SAFETY: the caller vouches for all pixels, of which these are the lanes to write
            unsafe {
                let to = output.add(block * args.out_block + pixel * args.out_pixel);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, lanes);
            }
        }
    }
}

/// Consecutive output blocks that one register tile covers, and how it walks the pixels.
pub(super) struct Group {
    /// First output block.
    pub(super) block: usize,
    /// Output blocks.
    pub(super) blocks: usize,
    /// Pixels of a tile.
    pub(super) pixels: usize,
    /// The kernel.
    pub(super) tile: Tile,
}

impl Group {
    /// Covers `blocks` output blocks with the tiles that need the fewest cycles for a run of
    /// `length` pixels. None when there are no kernels for this step.
    pub(super) fn cover(
        tiles: &Tiles,
        step: usize,
        blocks: usize,
        length: usize,
    ) -> Option<Vec<Group>> {
        let mut groups = Vec::new();
        let mut block = 0;
        while block < blocks {
            let most = tiles.shapes.iter().map(|&(blocks, _)| blocks).max()?;
            let tile_blocks = most.min(blocks - block);
            let (_, pixels) = *tiles
                .shapes
                .iter()
                .filter(|&&(b, pixels)| b == tile_blocks && pixels <= length)
                .min_by_key(|&&(b, pixels)| length.div_ceil(pixels) * cost(b, pixels))?;
            groups.push(Group {
                block,
                blocks: tile_blocks,
                pixels,
                tile: (tiles.get)(step, tile_blocks, pixels)?,
            });
            block += tile_blocks;
        }
        Some(groups)
    }

    /// First pixels of the tiles that cover `length` pixels. The last tile is moved back to end
    /// with the run and so computes some pixels again: cheaper than a kernel for each remainder.
    pub(super) fn starts(&self, length: usize) -> impl Iterator<Item = usize> + use<> {
        let (pixels, last) = (self.pixels, length - self.pixels);
        (0..length.div_ceil(pixels)).map(move |tile| (tile * pixels).min(last))
    }
}

/// Time of one tile a channel, in quarter FMA slots: two multiply-adds and two loads start each
/// cycle, and about nine sums must be in flight to hide the latency of the multiply-add.
fn cost(blocks: usize, pixels: usize) -> usize {
    4 * (blocks * pixels).max(blocks + pixels).max(9) + 1
}

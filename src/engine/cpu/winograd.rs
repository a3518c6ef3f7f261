//! Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) for 3×3 convolutions.
//!
//! At stride 1 it is F(4×4, 3×3): 36 products for 16 outputs where the direct way needs 144.
//! At stride 2 the window's even and odd rows and columns are filtered apart: the even ones
//! meet two taps, by F(4, 2) in 5 products, the odd ones a single tap, in 4. So 9 × 9 products
//! replace 144, and as the 4 odd ones share a weight there are 36 weights here as well.
//!
//! A chunk of tiles goes through three passes in one thread's scratch memory, sized to stay in
//! the second-level cache: the input transform turns each window into its positions, the
//! matrix kernel of [`super::tile`] multiplies each position's channels with its weights,
//! and the output transform turns the sums into 4×4 outputs, adds the bias and clamps.
//! The weights are transformed once, at load ([`super::pack`]).

#![allow(
    clippy::needless_range_loop,
    reason = "one index runs over several register arrays at once"
)]
#![allow(
    unsafe_code,
    reason = "transforms over raw planes; the plan has checked every extent"
)]

pub(super) mod variant;

use super::memory::{Memory, TILE, View};
use super::pack::{Conv2d, Packed};
use super::simd::{LANES, Simd};
use super::tile::{Group, TileArgs, Tiles};
use std::sync::Arc;
use variant::Variant;

/// Bytes of transformed input that a chunk may take: half of a second-level cache. A quarter
/// was no faster.
const CHUNK_BYTES: usize = 512 << 10;

/// The transforms at one stride, along one side of a window of `N` pixels.
trait Scheme<const N: usize> {
    /// `N` pixels to `N` positions.
    fn input<S: Simd>(isa: S::Isa, d: [S; N]) -> [S; N];
    /// `N` positions to the tile's pixels.
    fn output<S: Simd>(isa: S::Isa, m: [S; N]) -> [S; TILE];
}

/// The compiled transforms of one instruction set at one stride.
pub(super) struct Transforms {
    pub(super) input: unsafe fn(&InputArgs, *const f32, *mut f32),
    pub(super) output: unsafe fn(&OutputArgs, *const f32, *const f32, *mut f32),
}

/// F(4, 3).
pub(super) struct Stride1;

impl Scheme<6> for Stride1 {
    #[inline(always)]
    fn input<S: Simd>(isa: S::Isa, d: [S; 6]) -> [S; 6] {
        let (two, four) = (S::splat(isa, 2.0), S::splat(isa, 4.0));
        let (minus_four, minus_five) = (S::splat(isa, -4.0), S::splat(isa, -5.0));
        let even = minus_four.mul_add(d[2], d[4]);
        let odd = minus_four.mul_add(d[1], d[3]);
        let even2 = d[4].sub(d[2]);
        let odd2 = two.mul_add(d[3].sub(d[1]), S::splat(isa, 0.0));
        [
            four.mul_add(d[0], minus_five.mul_add(d[2], d[4])),
            even.add(odd),
            even.sub(odd),
            even2.add(odd2),
            even2.sub(odd2),
            four.mul_add(d[1], minus_five.mul_add(d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(isa: S::Isa, m: [S; 6]) -> [S; TILE] {
        let (one_plus, one_minus) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (two_plus, two_minus) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(one_plus).add(two_plus),
            S::splat(isa, 2.0).mul_add(two_minus, one_minus),
            S::splat(isa, 4.0).mul_add(two_plus, one_plus),
            S::splat(isa, 8.0).mul_add(two_minus, one_minus.add(m[5])),
        ]
    }
}

/// F(4, 2) on the even pixels, the odd ones as they are.
pub(super) struct Stride2;

impl Scheme<9> for Stride2 {
    #[inline(always)]
    fn input<S: Simd>(isa: S::Isa, d: [S; 9]) -> [S; 9] {
        let (two, minus_two) = (S::splat(isa, 2.0), S::splat(isa, -2.0));
        let minus_three = S::splat(isa, -3.0);
        let e = [d[0], d[2], d[4], d[6], d[8]];
        [
            two.mul_add(e[0], minus_two.mul_add(e[2], e[3].sub(e[1]))),
            minus_two.mul_add(e[1], e[3].sub(e[2])),
            two.mul_add(e[1], minus_three.mul_add(e[2], e[3])),
            e[3].sub(e[1]),
            two.mul_add(e[1], minus_two.mul_add(e[3], e[4].sub(e[2]))),
            d[1],
            d[3],
            d[5],
            d[7],
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(isa: S::Isa, m: [S; 9]) -> [S; TILE] {
        let (plus, minus) = (m[1].add(m[2]), m[1].sub(m[2]));
        [
            m[0].add(plus).add(m[3]).add(m[5]),
            S::splat(isa, 2.0).mul_add(m[3], minus).add(m[6]),
            S::splat(isa, 4.0).mul_add(m[3], plus).add(m[7]),
            S::splat(isa, 8.0).mul_add(m[3], minus).add(m[4]).add(m[8]),
        ]
    }
}

/// Distances of the input transform, in floats.
pub(super) struct InputArgs {
    row: usize,
    /// From one point to the next in the scratch.
    point: usize,
}

/// Bᵀ·d·B for one window.
///
/// # Safety
/// `input` must be valid for `N` rows of `N` blocked pixels, `output` for all positions.
#[inline(always)]
#[allow(private_bounds, reason = "the schemes are this file's")]
pub(super) unsafe fn input_transform<S: Simd, F: Scheme<N>, const N: usize>(
    isa: S::Isa,
    args: &InputArgs,
    input: *const f32,
    output: *mut f32,
) {
    // SAFETY: offsets stay inside the window and the positions, for which the caller vouches
    unsafe {
        let mut half = [[S::splat(isa, 0.0); N]; N];
        for y in 0..N {
            let row = input.add(y * args.row);
            let mut pixels = [S::splat(isa, 0.0); N];
            for x in 0..N {
                pixels[x] = S::load(isa, row.add(x * LANES));
            }
            half[y] = F::input(isa, pixels);
        }
        for x in 0..N {
            let mut column = [S::splat(isa, 0.0); N];
            for y in 0..N {
                column[y] = half[y][x];
            }
            let column = F::input(isa, column);
            for y in 0..N {
                column[y].store(output.add((y * N + x) * args.point));
            }
        }
    }
}

/// Distances of the output transform, in floats, and what of the tile to write.
pub(super) struct OutputArgs {
    /// From one point to the next in the scratch.
    point: usize,
    row: usize,
    pixel: usize,
    /// Rows of the tile inside the plane, 1 to 4.
    rows: usize,
    /// Columns of the tile inside the plane, 1 to 4.
    columns: usize,
    relu: bool,
}

/// Aᵀ·m·A for one tile, plus bias, clamped at zero if asked.
///
/// # Safety
/// `input` must be valid for all positions, `bias` for one block, `output` for the tile's rows
/// and columns.
#[inline(always)]
#[allow(private_bounds, reason = "the schemes are this file's")]
pub(super) unsafe fn output_transform<S: Simd, F: Scheme<N>, const N: usize>(
    isa: S::Isa,
    args: &OutputArgs,
    input: *const f32,
    bias: *const f32,
    output: *mut f32,
) {
    // SAFETY: offsets stay inside the positions and the tile, for which the caller vouches
    unsafe {
        let mut half = [[S::splat(isa, 0.0); N]; TILE];
        for x in 0..N {
            let mut column = [S::splat(isa, 0.0); N];
            for y in 0..N {
                column[y] = S::load(isa, input.add((y * N + x) * args.point));
            }
            let column = F::output(isa, column);
            for y in 0..TILE {
                half[y][x] = column[y];
            }
        }
        let bias = S::load(isa, bias);
        let least = S::splat(isa, if args.relu { 0.0 } else { f32::NEG_INFINITY });
        for y in 0..TILE {
            let pixels = F::output(isa, half[y]);
            if y >= args.rows {
                break;
            }
            for x in 0..TILE {
                if x < args.columns {
                    let to = output.add(y * args.row + x * args.pixel);
                    pixels[x].add(bias).max(least).store(to);
                }
            }
        }
    }
}

/// A planned 3×3 convolution.
pub(super) struct Winograd {
    variant: &'static Variant,
    transforms: &'static Transforms,
    weights: Arc<Packed>,
    source: View,
    target: View,
    height: usize,
    width: usize,
    relu: bool,
    /// Tiles of a chunk; the last chunk may be shorter.
    chunk: usize,
    /// Chunks of one image.
    chunks: usize,
    /// Shares of the output blocks, so that few chunks still feed all threads.
    shares: usize,
    /// Register tiles for a whole chunk and for the last one.
    groups: [Vec<Group>; 2],
}

impl Winograd {
    pub(super) fn plan(
        tiles: &Tiles,
        transforms: &'static Transforms,
        conv: Conv2d,
        threads: usize,
    ) -> Option<Winograd> {
        let Conv2d {
            weights,
            source,
            target,
            height,
            width,
            params,
        } = conv;
        let variant = Variant::of(params.stride)?;
        if source.border == 0 {
            return None; // the windows start one pixel up and left of the tiles
        }
        let count = height.div_ceil(TILE) * width.div_ceil(TILE);
        let tile_bytes = variant.positions() * weights.in_blocks * LANES * size_of::<f32>();
        let widest = tiles.shapes.iter().map(|&(_, pixels)| pixels).max()?;
        // whole register tiles, as many as fit the cache and still leave a chunk for each thread
        let fit = (CHUNK_BYTES / tile_bytes).max(widest);
        let each = count.div_ceil(threads);
        let chunk = (fit - fit % widest)
            .min(each.next_multiple_of(widest))
            .min(count);
        // a chunk of a few tiles would load all the weights for little work
        let shares = match each < widest {
            true => threads.min(weights.out_blocks.div_ceil(2)),
            false => 1,
        };
        let chunks = count.div_ceil(chunk);
        let last = count - (chunks - 1) * chunk;
        let groups = |length| Group::cover(tiles, LANES, weights.out_blocks, length);
        Some(Winograd {
            groups: [groups(chunk)?, groups(last)?],
            variant,
            transforms,
            weights,
            source,
            target,
            height,
            width,
            relu: params.relu,
            chunk,
            chunks,
            shares,
        })
    }

    /// Independent pieces of work for a batch.
    pub(super) fn items(&self, batch: usize) -> usize {
        batch * self.chunks * self.shares
    }

    /// Bytes of scratch that one thread needs: transformed input and one group's sums.
    pub(super) fn scratch(&self) -> usize {
        let blocks = self.groups.iter().flatten().map(|group| group.blocks).max();
        let blocks = self.weights.in_blocks + blocks.unwrap_or(0);
        self.variant.positions() * self.chunk * LANES * blocks * size_of::<f32>()
    }

    /// Runs one piece of work.
    ///
    /// # Safety
    /// `memory` must be the arena that this step was planned for, `scratch` at least
    /// [`Winograd::scratch`] bytes of this thread's own, aligned for floats; no other piece of work may run twice.
    pub(super) unsafe fn run(&self, memory: &Memory<'_>, scratch: *mut u8, item: usize) {
        let scratch = scratch.cast::<f32>();
        let (chunk, share) = (item / self.shares, item % self.shares);
        let (image, chunk) = (chunk / self.chunks, chunk % self.chunks);
        let first = chunk * self.chunk;
        let tiles = first..(first + self.chunk).min(self.tiles());
        let groups = &self.groups[usize::from(chunk + 1 == self.chunks)];
        let of_share = |part: usize| part * groups.len() / self.shares;
        // SAFETY: the scratch is split behind the transformed input, as sized in `scratch`
        unsafe {
            let positions = self.variant.positions();
            let sums = scratch.add(positions * self.weights.in_blocks * self.chunk * LANES);
            self.transform_input(memory, image, tiles.clone(), scratch);
            for group in &groups[of_share(share)..of_share(share + 1)] {
                self.multiply(group, tiles.len(), scratch, sums);
                self.transform_output(memory, image, tiles.clone(), group, sums);
            }
        }
    }

    fn tiles(&self) -> usize {
        self.height.div_ceil(TILE) * self.width.div_ceil(TILE)
    }

    /// Top left output pixel of a tile.
    fn corner(&self, tile: usize) -> (usize, usize) {
        let columns = self.width.div_ceil(TILE);
        (TILE * (tile / columns), TILE * (tile % columns))
    }

    /// `[position, in block, tile, lane]` ← the windows of `tiles`.
    ///
    /// # Safety
    /// As for [`Winograd::run`], with room for all positions of the tiles at `transformed`.
    unsafe fn transform_input(
        &self,
        memory: &Memory<'_>,
        image: usize,
        tiles: std::ops::Range<usize>,
        transformed: *mut f32,
    ) {
        let in_blocks = self.weights.in_blocks;
        let args = InputArgs {
            row: self.source.row,
            point: in_blocks * tiles.len() * LANES,
        };
        for block in 0..in_blocks {
            for (slot, tile) in tiles.clone().enumerate() {
                let (y, x) = self.corner(tile);
                // SAFETY: the window starts one pixel up and left of the tile, inside the
                // border; planes are padded to whole tiles, so it ends inside too
                unsafe {
                    let (y, x) = (self.variant.stride * y, self.variant.stride * x);
                    let window = memory.read(&self.source, image, block, y, x).cast::<f32>();
                    let window = window.sub(self.source.row + self.source.pixel);
                    let slot = transformed.add((block * tiles.len() + slot) * LANES);
                    (self.transforms.input)(&args, window, slot);
                }
            }
        }
    }

    /// `[block, position, tile, lane]` ← transformed input × transformed weights.
    ///
    /// # Safety
    /// `input` must hold the transformed input of `tiles` tiles and `sums` have room for the sums
    /// of the group's blocks at all positions.
    unsafe fn multiply(&self, group: &Group, tiles: usize, input: *const f32, sums: *mut f32) {
        static NO_BIAS: [f32; 4 * LANES] = [0.0; 4 * LANES];
        let in_blocks = self.weights.in_blocks;
        let args = TileArgs {
            in_blocks,
            in_lanes: LANES,
            kernel: 1,
            in_block: tiles * LANES,
            in_row: 0,
            in_pixel: LANES,
            weight_block: self.weights.block_len(),
            out_block: self.variant.positions() * tiles * LANES,
            out_pixel: LANES,
            last_lanes: LANES,
            relu: false,
            to_bytes: false,
        };
        for position in 0..self.variant.positions() {
            let point = self.variant.point(position);
            // SAFETY: each pointer addresses its position of arrays sized [position, …] above
            unsafe {
                let weights = self.weights.block(group.block).cast::<f32>();
                let weights = weights.add(point * in_blocks * LANES * LANES).cast();
                let input = input.add(position * in_blocks * tiles * LANES);
                let sums = sums.add(position * tiles * LANES);
                for start in group.starts(tiles) {
                    let (from, to) = (input.add(start * LANES), sums.add(start * LANES));
                    (group.tile)(&args, from.cast(), weights, NO_BIAS.as_ptr(), to.cast());
                }
            }
        }
    }

    /// Output pixels of `tiles` ← sums.
    ///
    /// # Safety
    /// As for [`Winograd::run`], with the sums of the group's blocks at `sums`.
    unsafe fn transform_output(
        &self,
        memory: &Memory<'_>,
        image: usize,
        tiles: std::ops::Range<usize>,
        group: &Group,
        sums: *const f32,
    ) {
        let count = tiles.len();
        for block in 0..group.blocks {
            for (slot, tile) in tiles.clone().enumerate() {
                let (y, x) = self.corner(tile);
                let args = OutputArgs {
                    point: count * LANES,
                    row: self.target.row,
                    pixel: self.target.pixel,
                    rows: TILE.min(self.height - y),
                    columns: TILE.min(self.width - x),
                    relu: self.relu,
                };
                // SAFETY: rows and columns are cut to the plane; the sums are sized as written
                unsafe {
                    let positions = self.variant.positions();
                    let sums = sums.add((block * positions * count + slot) * LANES);
                    let bias = self.weights.constants(group.block + block);
                    let to = memory.write(&self.target, image, group.block + block, y, x);
                    (self.transforms.output)(&args, sums, bias, to.cast());
                }
            }
        }
    }
}

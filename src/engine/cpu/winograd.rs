//! Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray, arXiv 1509.09308): 36 products
//! for 16 outputs where a direct 3×3 convolution needs 144.
//!
//! A chunk of tiles goes through three passes in one thread's scratch memory, sized to stay in
//! the second-level cache: *gather* transforms each 6×6 input window into 36 points, the
//! matrix kernel of [`super::tile`] multiplies each point's channels with that point's weights,
//! and *scatter* transforms 36 sums back to 4×4 outputs, adds the bias and clamps.
//! The weights are transformed once, at load ([`super::pack`]).

#![allow(
    clippy::needless_range_loop,
    reason = "one index runs over several register arrays at once"
)]
#![allow(
    unsafe_code,
    reason = "transforms over raw planes; the plan has checked every extent"
)]

use super::memory::{Memory, View};
use super::pack::Packed;
use super::simd::{Kernels, LANES, Simd};
use super::tile::{Group, Shape, Source};
use std::sync::Arc;

/// Output pixels of a tile's side.
pub(super) const TILE: usize = 4;
/// Input pixels of a tile's side.
const WINDOW: usize = 6;
/// Points of the transformed window.
pub(super) const POINTS: usize = WINDOW * WINDOW;
/// Bytes of transformed input that a chunk may take: half of a small second-level cache.
const CHUNK_BYTES: usize = 512 << 10;

/// Rows of G: the points 0, 1, −1, 2, −2 and infinity.
const FILTER: [[f64; 3]; WINDOW] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// G·g·Gᵀ for one 3×3 filter, in f64 because the thirds and sixths do not round well.
pub(super) fn transform_filter(filter: &[f32; 9]) -> [f32; POINTS] {
    std::array::from_fn(|point| {
        let (row, column) = (&FILTER[point / WINDOW], &FILTER[point % WINDOW]);
        let mut sum = 0.0;
        for ky in 0..3 {
            for kx in 0..3 {
                sum += row[ky] * column[kx] * f64::from(filter[3 * ky + kx]);
            }
        }
        sum as f32
    })
}

/// Distances of the input transform, in floats.
pub(super) struct Gather {
    row: usize,
    /// From one point to the next in the scratch.
    point: usize,
}

/// Bᵀ·d·B for one 6×6 window.
///
/// # Safety
/// `input` must be valid for six rows of six blocked pixels, `output` for 36 points.
#[inline(always)]
pub(super) unsafe fn gather<S: Simd>(shape: &Gather, input: *const f32, output: *mut f32) {
    // SAFETY: offsets stay inside the window and the points, for which the caller vouches
    unsafe {
        let mut half = [[S::splat(0.0); WINDOW]; WINDOW];
        for (y, half) in half.iter_mut().enumerate() {
            let row = input.add(y * shape.row);
            let mut pixels = [S::splat(0.0); WINDOW];
            for (x, pixel) in pixels.iter_mut().enumerate() {
                *pixel = S::load(row.add(x * LANES));
            }
            *half = input_line(pixels);
        }
        for x in 0..WINDOW {
            let mut column = [S::splat(0.0); WINDOW];
            for (y, value) in column.iter_mut().enumerate() {
                *value = half[y][x];
            }
            for (y, value) in input_line(column).into_iter().enumerate() {
                value.store(output.add((y * WINDOW + x) * shape.point));
            }
        }
    }
}

/// Bᵀ on six values.
#[inline(always)]
unsafe fn input_line<S: Simd>(d: [S; WINDOW]) -> [S; WINDOW] {
    // SAFETY: arithmetic only; the caller has the instruction set
    unsafe {
        let (two, four) = (S::splat(2.0), S::splat(4.0));
        let (minus_four, minus_five) = (S::splat(-4.0), S::splat(-5.0));
        let even = minus_four.mul_add(d[2], d[4]);
        let odd = minus_four.mul_add(d[1], d[3]);
        let even2 = d[4].sub(d[2]);
        let odd2 = two.mul_add(d[3].sub(d[1]), S::splat(0.0));
        [
            four.mul_add(d[0], minus_five.mul_add(d[2], d[4])),
            even.add(odd),
            even.sub(odd),
            even2.add(odd2),
            even2.sub(odd2),
            four.mul_add(d[1], minus_five.mul_add(d[3], d[5])),
        ]
    }
}

/// Distances of the output transform, in floats, and what of the tile to write.
pub(super) struct Scatter {
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
/// `input` must be valid for 36 points, `bias` for one block, `output` for the tile's rows
/// and columns.
#[inline(always)]
pub(super) unsafe fn scatter<S: Simd>(
    shape: &Scatter,
    input: *const f32,
    bias: *const f32,
    output: *mut f32,
) {
    // SAFETY: offsets stay inside the points and the tile, for which the caller vouches
    unsafe {
        let mut half = [[S::splat(0.0); WINDOW]; TILE];
        for x in 0..WINDOW {
            let mut column = [S::splat(0.0); WINDOW];
            for (y, value) in column.iter_mut().enumerate() {
                *value = S::load(input.add((y * WINDOW + x) * shape.point));
            }
            for (y, value) in output_line(column).into_iter().enumerate() {
                half[y][x] = value;
            }
        }
        let bias = S::load(bias);
        for (y, half) in half.into_iter().enumerate().take(shape.rows) {
            let pixels = output_line(half).into_iter().take(shape.columns);
            for (x, value) in pixels.enumerate() {
                let sum = value.add(bias);
                let sum = if shape.relu {
                    sum.max(S::splat(0.0))
                } else {
                    sum
                };
                sum.store(output.add(y * shape.row + x * shape.pixel));
            }
        }
    }
}

/// Aᵀ on six values.
#[inline(always)]
unsafe fn output_line<S: Simd>(m: [S; WINDOW]) -> [S; TILE] {
    // SAFETY: arithmetic only; the caller has the instruction set
    unsafe {
        let (one_plus, one_minus) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (two_plus, two_minus) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(one_plus).add(two_plus),
            S::splat(2.0).mul_add(two_minus, one_minus),
            S::splat(4.0).mul_add(two_plus, one_plus),
            S::splat(8.0).mul_add(two_minus, one_minus.add(m[5])),
        ]
    }
}

/// A planned 3×3 stride-1 convolution.
pub(super) struct Winograd {
    kernels: &'static Kernels,
    weights: Arc<Packed>,
    source: View,
    target: View,
    height: usize,
    width: usize,
    relu: bool,
    /// Tiles of a chunk; the last chunk may be shorter.
    chunk: usize,
    /// Chunks of one picture.
    chunks: usize,
    /// Shares of the output blocks, so that few chunks still feed all threads.
    shares: usize,
    /// Register tiles for a whole chunk and for the last one.
    groups: [Vec<Group>; 2],
}

impl Winograd {
    pub(super) fn plan(
        kernels: &'static Kernels,
        weights: Arc<Packed>,
        (source, target): (View, View),
        (height, width): (usize, usize),
        relu: bool,
        threads: usize,
    ) -> Option<Winograd> {
        let tiles = height.div_ceil(TILE) * width.div_ceil(TILE);
        let tile_bytes = POINTS * weights.in_blocks * LANES * size_of::<f32>();
        let fewest = tiles.div_ceil((CHUNK_BYTES / tile_bytes).max(1));
        let even = fewest.next_multiple_of(threads);
        // a chunk of a few tiles would load all the weights for little work
        let (chunks, shares) = if tiles >= 14 * even {
            (even, 1)
        } else {
            (fewest, threads.min(weights.out_blocks.div_ceil(2)))
        };
        let chunk = tiles.div_ceil(chunks);
        let chunks = tiles.div_ceil(chunk);
        let last = tiles - (chunks - 1) * chunk;
        let source_kind = Source::Planes { stride: 1 };
        let groups = |tiles| Group::cover(&kernels.tiles, source_kind, weights.out_blocks, tiles);
        Some(Winograd {
            groups: [groups(chunk)?, groups(last)?],
            kernels,
            weights,
            source,
            target,
            height,
            width,
            relu,
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
        POINTS * self.chunk * LANES * blocks * size_of::<f32>()
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
            let sums = scratch.add(POINTS * self.weights.in_blocks * self.chunk * LANES);
            self.gather(memory, image, tiles.clone(), scratch);
            for group in &groups[of_share(share)..of_share(share + 1)] {
                self.multiply(group, tiles.len(), scratch, sums);
                self.scatter(memory, image, tiles.clone(), group, sums);
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

    /// `[point, in block, tile, lane]` ← the windows of `tiles`.
    unsafe fn gather(
        &self,
        memory: &Memory<'_>,
        image: usize,
        tiles: std::ops::Range<usize>,
        transformed: *mut f32,
    ) {
        let in_blocks = self.weights.in_blocks;
        let shape = Gather {
            row: self.source.row,
            point: in_blocks * tiles.len() * LANES,
        };
        for block in 0..in_blocks {
            for (slot, tile) in tiles.clone().enumerate() {
                let (y, x) = self.corner(tile);
                // SAFETY: the window starts one pixel up and left of the tile, inside the
                // border; planes are padded to whole tiles, so it ends inside too
                unsafe {
                    let window = memory.read(&self.source, image, block, y, x).cast::<f32>();
                    let window = window.sub(self.source.row + self.source.pixel);
                    let slot = transformed.add((block * tiles.len() + slot) * LANES);
                    (self.kernels.gather)(&shape, window, slot);
                }
            }
        }
    }

    /// `[block, point, tile, lane]` ← transformed input × transformed weights.
    unsafe fn multiply(&self, group: &Group, tiles: usize, input: *const f32, sums: *mut f32) {
        static NO_BIAS: [f32; 4 * LANES] = [0.0; 4 * LANES];
        let in_blocks = self.weights.in_blocks;
        let shape = Shape {
            in_blocks,
            kernel: 1,
            in_block: tiles * LANES,
            in_row: 0,
            in_pixel: LANES,
            weight_block: self.weights.block_len(),
            out_block: POINTS * tiles * LANES,
            out_pixel: LANES,
            last_lanes: LANES,
            relu: false,
            to_bytes: false,
        };
        for point in 0..POINTS {
            // SAFETY: each pointer addresses its point of arrays sized [point, …] above
            unsafe {
                let weights = self.weights.block(group.block).cast::<f32>();
                let weights = weights.add(point * in_blocks * LANES * LANES).cast();
                let input = input.add(point * in_blocks * tiles * LANES);
                let sums = sums.add(point * tiles * LANES);
                for start in group.starts(tiles) {
                    let (from, to) = (input.add(start * LANES), sums.add(start * LANES));
                    (group.tile)(&shape, from.cast(), weights, NO_BIAS.as_ptr(), to.cast());
                }
            }
        }
    }

    /// Output pixels of `tiles` ← sums.
    unsafe fn scatter(
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
                let shape = Scatter {
                    point: count * LANES,
                    row: self.target.row,
                    pixel: self.target.pixel,
                    rows: TILE.min(self.height - y),
                    columns: TILE.min(self.width - x),
                    relu: self.relu,
                };
                // SAFETY: rows and columns are cut to the plane; the sums are sized as written
                unsafe {
                    let sums = sums.add((block * POINTS * count + slot) * LANES);
                    let bias = self.weights.constants(group.block + block);
                    let to = memory.write(&self.target, image, group.block + block, y, x);
                    (self.kernels.scatter)(&shape, sums, bias, to.cast());
                }
            }
        }
    }
}

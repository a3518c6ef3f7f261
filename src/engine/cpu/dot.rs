//! The matrix kernel of [`super::tile`] in bytes: unsigned activations times signed weights,
//! summed exactly in 32 bits, then scaled, clamped and rounded back to bytes.
//!
//! Processors multiply bytes four at a time: one instruction adds, to each of sixteen sums,
//! the products of four channels with their four weights. So the kernel is the f32 one with
//! "four channels of a pixel" in the place of a float, and a block of sixteen output channels'
//! weights for them in the place of a vector.
//!
//! Integer sums have no rounding, and the epilogue does the same f32 operations in the same
//! order everywhere, so every instruction set gives exactly the scalar twin's bytes.

#![allow(
    clippy::needless_range_loop,
    reason = "one index runs over several register arrays at once"
)]
#![allow(
    unsafe_code,
    reason = "register tiles over raw planes; the plan has checked every extent"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::simd::{Isa, LANES, Lanes, Simd};
use super::tile::{Shape, Tiles};

/// Constants of a block of outputs: sixteen biases, sixteen scales and, as i32, sixteen offsets
/// that sums start from on processors that can only multiply signed with signed bytes.
pub(super) const CONSTANTS: usize = 3 * LANES;

/// Channels that one instruction multiplies.
const FOUR: usize = 4;

/// Sixteen 32-bit sums.
///
/// # Safety
/// All methods need the instruction set of the implementation and pointers that are valid for
/// what they read or write: [`CONSTANTS`] floats, 64 weights, four channels, sixteen bytes.
trait Dot: Copy {
    /// Four weights of sixteen outputs.
    type Weights: Copy;
    /// Four channels of a pixel, for all outputs.
    type Value: Copy;
    /// Sixteen floats.
    type Floats: Simd;

    unsafe fn start(constants: *const f32) -> Self;
    unsafe fn weights(from: *const u8) -> Self::Weights;
    unsafe fn value(from: *const u8) -> Self::Value;
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self;
    unsafe fn floats(self) -> Self::Floats;
    /// Clamps to 0..=255 and rounds half to even.
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8);
}

/// The byte kernels of an instruction set, and their name: the best that this machine has, as
/// byte products came later than the vectors around them.
pub(super) fn tiles(isa: Isa) -> (&'static str, &'static Tiles) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => ("avx512-vnni", &vnni::WIDE),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 if is_x86_feature_detected!("avxvnni") => {
            ("avx-vnni", &vnni::NARROW)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 if is_x86_feature_detected!("avx2") => ("avx2", &avx2::TILES),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => {
            ("neon-dotprod", &neon::TILES)
        }
        _ => ("scalar", &scalar::TILES),
    }
}

/// The kernel behind [`super::tile::Tile`]: `BLOCKS × PIXELS` sums, pixels `STEP`
/// bytes apart.
///
/// # Safety
/// As for [`super::tile::Tile`], and the CPU must have the instruction set of `D`.
#[inline(always)]
unsafe fn multiply<D: Dot, const BLOCKS: usize, const PIXELS: usize, const STEP: usize>(
    shape: &Shape,
    input: *const u8,
    mut weights: *const u8,
    constants: *const f32,
    output: *mut u8,
) {
    // SAFETY: all offsets follow the distances in `shape`, for which the caller vouches
    unsafe {
        let mut sums = [[D::start(constants); PIXELS]; BLOCKS];
        for (block, sums) in sums.iter_mut().enumerate() {
            *sums = [D::start(constants.add(block * CONSTANTS)); PIXELS];
        }
        for in_block in 0..shape.in_blocks {
            for ky in 0..shape.kernel {
                let mut tap = input.add(in_block * shape.in_block + ky * shape.in_row);
                for _kx in 0..shape.kernel {
                    for four in 0..shape.in_lanes / FOUR {
                        let mut column = [D::weights(weights); BLOCKS];
                        for (block, column) in column.iter_mut().enumerate().skip(1) {
                            *column = D::weights(weights.add(block * shape.weight_block));
                        }
                        for pixel in 0..PIXELS {
                            let value = D::value(tap.add(pixel * STEP + four * FOUR));
                            for block in 0..BLOCKS {
                                sums[block][pixel] = sums[block][pixel].dot(column[block], value);
                            }
                        }
                        weights = weights.add(FOUR * LANES);
                    }
                    tap = tap.add(shape.in_pixel);
                }
            }
        }
        // the sums leave their registers here, in a loop small enough to be unrolled; indexed by
        // anything but constants, they would live in memory above as well
        let mut done = [[D::start(constants); PIXELS]; BLOCKS];
        let to = done.as_mut_ptr().cast::<D>();
        for block in 0..BLOCKS {
            for pixel in 0..PIXELS {
                to.add(block * PIXELS + pixel)
                    .write_volatile(sums[block][pixel]);
            }
        }
        for (block, sums) in done.iter().enumerate() {
            let constants = constants.add(block * CONSTANTS);
            let (bias, scale) = (
                D::Floats::load(constants),
                D::Floats::load(constants.add(LANES)),
            );
            let last = block + 1 == BLOCKS;
            let lanes = if last { shape.last_lanes } else { LANES };
            for (pixel, &sum) in sums.iter().enumerate() {
                // product and sum rounded one by one: the scalar twin has no fused operation
                let product = sum.floats().mul_add(scale, D::Floats::splat(0.0));
                let mut value = product.add(bias);
                if shape.relu {
                    value = value.max(D::Floats::splat(0.0));
                }
                let to = block * shape.out_block + pixel * shape.out_pixel;
                if shape.to_bytes {
                    D::store_bytes(value, output.add(to));
                } else {
                    store_floats(value, output.cast::<f32>().add(to), lanes);
                }
            }
        }
    }
}

/// Writes the first `lanes` floats.
///
/// # Safety
/// The CPU must have the instruction set of `S`, and `to` be valid for `lanes` floats.
#[inline(always)]
unsafe fn store_floats<S: Simd>(value: S, to: *mut f32, lanes: usize) {
    // SAFETY: the caller vouches for `to`
    unsafe {
        if lanes == LANES {
            value.store(to);
        } else {
            let mut all = [0.0; LANES];
            value.store(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
        }
    }
}

/// Instantiates the kernel for `$dot` under `$feature` as a table `$name`.
macro_rules! byte_tiles {
    ($name:ident, $dot:ty, $(#[$feature:meta])?, [$(($blocks:literal, $pixels:literal)),* $(,)?]) => {
        pub(in crate::engine::cpu) static $name: crate::engine::cpu::tile::Tiles = {
            use crate::engine::cpu::{dot, tile::{Shape, Tile, Tiles}};

            $(#[$feature])?
            unsafe fn multiply<const BLOCKS: usize, const PIXELS: usize, const STEP: usize>(
                shape: &Shape,
                input: *const u8,
                weights: *const u8,
                constants: *const f32,
                output: *mut u8,
            ) {
                // SAFETY: the caller keeps the kernel's contract; the attribute above provides
                // the instruction set, and `tiles` hands this out only where the CPU has it
                unsafe {
                    dot::multiply::<$dot, BLOCKS, PIXELS, STEP>(
                        shape, input, weights, constants, output,
                    );
                }
            }

            fn get(step: usize, blocks: usize, pixels: usize) -> Option<Tile> {
                Some(match (step, blocks, pixels) {
                    $((8, $blocks, $pixels) => multiply::<$blocks, $pixels, 8>,)*
                    $((16, $blocks, $pixels) => multiply::<$blocks, $pixels, 16>,)*
                    $((32, $blocks, $pixels) => multiply::<$blocks, $pixels, 32>,)*
                    _ => return None,
                })
            }

            Tiles { shapes: &[$(($blocks, $pixels)),*], get }
        };
    };
}
use byte_tiles;

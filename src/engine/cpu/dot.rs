//! The matrix kernel of [`super::tile`] in bytes: unsigned activations times signed weights,
//! summed exactly in 32 bits, then scaled, clamped and rounded back to bytes.
//!
//! Processors multiply bytes four at a time: one instruction adds, to each of sixteen sums,
//! the products of four channels with their four weights. So the kernel is the f32 one with
//! "four channels of a pixel" in the place of a float, and a block of sixteen output channels'
//! weights for them in the place of a vector.
//!
//! Integer sums have no rounding, and the epilogue does the same f32 operations in the same
//! order everywhere, so every instruction set gives exactly the bytes of the scalar reference.

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

use super::simd::{Isa, LANES, Lanes, Simd, Token};
use super::tile::{TileArgs, Tiles};

/// Constants of a block of outputs: sixteen biases, sixteen scales and, as i32, sixteen offsets
/// that sums start from on processors that can only multiply signed with signed bytes.
pub(super) const CONSTANTS: usize = 3 * LANES;

/// Channels that one instruction multiplies.
const FOUR: usize = 4;

/// Sixteen 32-bit sums.
trait Dot: Copy {
    /// The instruction set: byte products, and the vectors around them.
    type Isa: Token + Into<<Self::Floats as Lanes>::Isa>;
    /// Four weights of sixteen outputs.
    type Weights: Copy;
    /// Four channels of a pixel, for all outputs.
    type Value: Copy;
    /// Sixteen floats.
    type Floats: Simd;

    /// Sums before the first product.
    ///
    /// # Safety
    /// `constants` must be valid for reading a block's [`CONSTANTS`] floats.
    unsafe fn start(isa: Self::Isa, constants: *const f32) -> Self;

    /// # Safety
    /// `from` must be valid for reading 64 bytes.
    unsafe fn weights(isa: Self::Isa, from: *const u8) -> Self::Weights;

    /// # Safety
    /// `from` must be valid for reading four bytes.
    unsafe fn value(isa: Self::Isa, from: *const u8) -> Self::Value;

    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self;

    fn floats(self) -> Self::Floats;

    /// Clamps to 0..=255 and rounds half to even.
    ///
    /// # Safety
    /// `to` must be valid for writing sixteen bytes.
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8);
}

/// The byte kernels of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct ByteKernels {
    pub(super) name: &'static str,
    pub(super) tiles: &'static Tiles,
    /// Whether a frame takes less time in bytes than in floats with Winograd.
    pub(super) faster: bool,
}

impl ByteKernels {
    /// The best byte kernels that this machine has beside `isa`, as byte products came later than
    /// the vectors around them.
    pub(super) fn of(isa: Isa) -> ByteKernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if vnni::Vnni512::new().is_some() => {
                ByteKernels::faster("avx512-vnni", &vnni::WIDE)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 if vnni::AvxVnni::new().is_some() => {
                ByteKernels::faster("avx-vnni", &vnni::NARROW)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 if super::simd::avx2::Avx2::new().is_some() => ByteKernels {
                name: "avx2",
                tiles: &avx2::TILES,
                faster: isa == Isa::Avx2, // floats have vectors of twice the length in AVX-512
            },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if neon::Dotprod::new().is_some() => {
                ByteKernels::faster("neon-dotprod", &neon::TILES)
            }
            _ => ByteKernels {
                name: "scalar",
                tiles: &scalar::TILES,
                faster: false,
            },
        }
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn faster(name: &'static str, tiles: &'static Tiles) -> ByteKernels {
        ByteKernels {
            name,
            tiles,
            faster: true,
        }
    }
}

/// The kernel behind [`super::tile::Tile`]: `BLOCKS × PIXELS` sums, pixels `STEP`
/// bytes apart.
///
/// # Safety
/// As for [`super::tile::Tile`].
#[inline(always)]
unsafe fn multiply<D: Dot, const BLOCKS: usize, const PIXELS: usize, const STEP: usize>(
    isa: D::Isa,
    args: &TileArgs,
    input: *const u8,
    mut weights: *const u8,
    constants: *const f32,
    output: *mut u8,
) {
    // SAFETY: all offsets follow the distances in `args`, for which the caller vouches
    unsafe {
        let mut sums = [[D::start(isa, constants); PIXELS]; BLOCKS];
        for (block, sums) in sums.iter_mut().enumerate() {
            *sums = [D::start(isa, constants.add(block * CONSTANTS)); PIXELS];
        }
        for in_block in 0..args.in_blocks {
            for ky in 0..args.kernel {
                let mut tap = input.add(in_block * args.in_block + ky * args.in_row);
                for _kx in 0..args.kernel {
                    for four in 0..args.in_lanes / FOUR {
                        let mut column = [D::weights(isa, weights); BLOCKS];
                        for (block, column) in column.iter_mut().enumerate().skip(1) {
                            *column = D::weights(isa, weights.add(block * args.weight_block));
                        }
                        for pixel in 0..PIXELS {
                            let value = D::value(isa, tap.add(pixel * STEP + four * FOUR));
                            for block in 0..BLOCKS {
                                sums[block][pixel] = sums[block][pixel].dot(column[block], value);
                            }
                        }
                        weights = weights.add(FOUR * LANES);
                    }
                    tap = tap.add(args.in_pixel);
                }
            }
        }
        // the sums leave their registers here, in a loop small enough to be unrolled; indexed by
        // anything but constants, they would live in memory above as well
        let mut done = [[D::start(isa, constants); PIXELS]; BLOCKS];
        let to = done.as_mut_ptr().cast::<D>();
        for block in 0..BLOCKS {
            for pixel in 0..PIXELS {
                to.add(block * PIXELS + pixel)
                    .write_volatile(sums[block][pixel]);
            }
        }
        finish(isa, args, &done, constants, output);
    }
}

/// Scales a tile's sums, adds the bias, and writes bytes or floats.
///
/// # Safety
/// As for [`multiply`], for constants and output.
#[inline(always)]
unsafe fn finish<D: Dot, const BLOCKS: usize, const PIXELS: usize>(
    isa: D::Isa,
    args: &TileArgs,
    tile: &[[D; PIXELS]; BLOCKS],
    constants: *const f32,
    output: *mut u8,
) {
    // SAFETY: all offsets follow the distances in `args`, for which the caller vouches
    unsafe {
        let floats = isa.into();
        for (block, sums) in tile.iter().enumerate() {
            let constants = constants.add(block * CONSTANTS);
            let (bias, scale) = (
                D::Floats::load(floats, constants),
                D::Floats::load(floats, constants.add(LANES)),
            );
            let last = block + 1 == BLOCKS;
            let lanes = if last { args.last_lanes } else { LANES };
            for (pixel, &sum) in sums.iter().enumerate() {
                // product and sum rounded one by one: the scalar reference has no fused operation
                let product = sum.floats().mul_add(scale, D::Floats::splat(floats, 0.0));
                let mut value = product.add(bias);
                if args.relu {
                    value = value.max(D::Floats::splat(floats, 0.0));
                }
                let to = block * args.out_block + pixel * args.out_pixel;
                if args.to_bytes {
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
/// `to` must be valid for writing `lanes` floats.
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
            use crate::engine::cpu::dot::{self, Dot};
            use crate::engine::cpu::simd::Token;
            use crate::engine::cpu::tile::{Tile, TileArgs, Tiles};

            /// # Safety
            /// As for [`Tile`], and the processor must have the instruction set.
            $(#[$feature])?
            unsafe fn multiply<const BLOCKS: usize, const PIXELS: usize, const STEP: usize>(
                args: &TileArgs,
                input: *const u8,
                weights: *const u8,
                constants: *const f32,
                output: *mut u8,
            ) {
                // SAFETY: the caller keeps the kernel's contract and vouches for the instruction set
                unsafe {
                    let isa = <$dot as Dot>::Isa::assume();
                    dot::multiply::<$dot, BLOCKS, PIXELS, STEP>(
                        isa, args, input, weights, constants, output,
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

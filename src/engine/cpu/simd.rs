//! One vector of sixteen floats on every instruction set, and the kernels compiled for each.
//!
//! Kernels are written once, generic over [`Simd`] and always inlined. Each file below this
//! one implements the trait for one instruction set and instantiates the kernels inside
//! `#[target_feature]` functions, which it hands out as a table of function pointers. Sixteen
//! lanes are one AVX-512 register, two AVX2 registers or four NEON registers, so every
//! instruction set shares one memory layout and one weight format.
#![allow(unsafe_code, reason = "declares the kernels' unsafe signatures")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(super) use bytes::Bytes;

use super::plane::Planes;
use super::tile::Tiles;
use super::winograd::Transforms;
pub(super) use crate::engine::layout::LANES;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Sixteen values of one pixel.
///
/// # Safety
/// All methods need the instruction set of the implementation; `load` and `store` need a
/// pointer that is valid for sixteen values (no alignment is asked for).
pub(super) trait Lanes: Copy {
    /// One value.
    type Element;
    unsafe fn load(from: *const Self::Element) -> Self;
    unsafe fn store(self, to: *mut Self::Element);
    unsafe fn max(self, other: Self) -> Self;
}

/// Sixteen floats.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Simd: Lanes<Element = f32> {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// `self × by + plus`.
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self;
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Arm with Advanced SIMD.
    Neon,
    /// Plain Rust, for every other machine and as the twin that the others are tested against.
    Scalar,
}

impl Isa {
    /// What this machine has, best first; never empty.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Scalar]
            .into_iter()
            .filter(|isa| isa.kernels().is_some())
    }

    /// The kernels, if this machine can run them.
    pub(super) fn kernels(self) -> Option<&'static Kernels> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f").then_some(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"))
                .then_some(&avx2::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon").then_some(&neon::KERNELS),
            Isa::Scalar => Some(&scalar::KERNELS),
            #[allow(unreachable_patterns, reason = "reached on the other architecture")]
            _ => None,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Scalar => "scalar",
        })
    }
}

/// The kernels of one instruction set. Calling any of them needs that instruction set;
/// [`Isa::kernels`] has looked.
pub(super) struct Kernels {
    /// The matrix kernel.
    pub(super) tiles: Tiles,
    /// Winograd's transforms for stride 1 and 2.
    pub(super) stride_1: Transforms,
    pub(super) stride_2: Transforms,
    pub(super) planes: Planes,
}

/// Instantiates every kernel for `$simd` under `$feature` and fills `KERNELS`.
macro_rules! kernels {
    ($simd:ty, $(#[$feature:meta])?, [$(($blocks:literal, $pixels:literal)),* $(,)?]) => {
        use crate::engine::cpu::{plane, tile, winograd};
        use crate::engine::cpu::simd::Kernels;

        pub(in crate::engine::cpu) static KERNELS: Kernels = Kernels {
            tiles: tile::Tiles { shapes: &[$(($blocks, $pixels)),*], get: tile_for },
            stride_1: winograd::Transforms { gather: gather_1, scatter: scatter_1 },
            stride_2: winograd::Transforms { gather: gather_2, scatter: scatter_2 },
            planes: plane::Planes { max_pool, enlarge, sum },
        };

        fn tile_for(step: usize, blocks: usize, pixels: usize) -> Option<tile::Tile> {
            Some(match (step, blocks, pixels) {
                $((8, $blocks, $pixels) => multiply::<$blocks, $pixels, 8>,)*
                $((16, $blocks, $pixels) => multiply::<$blocks, $pixels, 16>,)*
                $((32, $blocks, $pixels) => multiply::<$blocks, $pixels, 32>,)*
                _ => return None,
            })
        }

        kernels!(@wrap $(#[$feature])? multiply<BLOCKS, PIXELS, STEP> = tile::multiply::<$simd, BLOCKS, PIXELS, STEP>,
            (shape: &tile::Shape, input: *const u8, weights: *const u8, bias: *const f32, output: *mut u8));
        kernels!(@wrap $(#[$feature])? gather_1<> = winograd::gather::<$simd, winograd::Stride1, 6>,
            (shape: &winograd::Gather, input: *const f32, output: *mut f32));
        kernels!(@wrap $(#[$feature])? gather_2<> = winograd::gather::<$simd, winograd::Stride2, 9>,
            (shape: &winograd::Gather, input: *const f32, output: *mut f32));
        kernels!(@wrap $(#[$feature])? scatter_1<> = winograd::scatter::<$simd, winograd::Stride1, 6>,
            (shape: &winograd::Scatter, input: *const f32, bias: *const f32, output: *mut f32));
        kernels!(@wrap $(#[$feature])? scatter_2<> = winograd::scatter::<$simd, winograd::Stride2, 9>,
            (shape: &winograd::Scatter, input: *const f32, bias: *const f32, output: *mut f32));
        kernels!(@wrap $(#[$feature])? max_pool<> = plane::max_pool::<$simd>,
            (shape: &plane::Pool, input: *const u8, output: *mut u8));
        kernels!(@wrap $(#[$feature])? enlarge<> = plane::enlarge::<$simd>,
            (shape: &plane::Enlarge, input: *const u8, output: *mut u8));
        kernels!(@wrap $(#[$feature])? sum<> = plane::sum::<$simd>,
            (shape: &plane::Sum, left: *const u8, right: *const u8, output: *mut u8));
    };
    (@wrap $(#[$feature:meta])? $name:ident<$($generic:ident),*> = $kernel:expr, ($($arg:ident: $ty:ty),*)) => {
        $(#[$feature])?
        unsafe fn $name<$(const $generic: usize),*>($($arg: $ty),*) {
            // SAFETY: the caller keeps the kernel's contract; the attribute above provides the
            // instruction set, and `Isa::kernels` hands this out only where the CPU has it
            unsafe { $kernel($($arg),*) }
        }
    };
}
use kernels;

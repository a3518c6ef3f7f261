//! The f32 kernels compiled for each instruction set, as tables of function pointers.
#![allow(
    unsafe_code,
    reason = "enters functions compiled for an instruction set"
)]

use super::plane::Planes;
use super::simd::{Isa, Token, scalar::Scalar};
use super::tile::Tiles;
use super::winograd::Transforms;

/// The kernels of one instruction set. Calling any of them needs that instruction set;
/// [`Kernels::of`] has looked.
pub(super) struct Kernels {
    /// The matrix kernel.
    pub(super) tiles: Tiles,
    /// Winograd's transforms for stride 1 and 2.
    pub(super) stride_1: Transforms,
    pub(super) stride_2: Transforms,
    pub(super) planes: Planes,
}

impl Kernels {
    /// The kernels, if this machine can run them.
    pub(super) fn of(isa: Isa) -> Option<&'static Kernels> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::simd::avx512::Avx512::new().map(|_| &avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::simd::avx2::Avx2::new().map(|_| &avx2::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::simd::neon::Neon::new().map(|_| &neon::KERNELS),
            Isa::Scalar => Scalar::new().map(|_| &scalar::KERNELS),
            #[allow(unreachable_patterns, reason = "reached on the other architecture")]
            _ => None,
        }
    }
}

/// Instantiates every kernel for `$simd` under `$feature` and fills `KERNELS`.
macro_rules! kernels {
    ($simd:ty, $(#[$feature:meta])?, [$(($blocks:literal, $pixels:literal)),* $(,)?]) => {
        use crate::engine::cpu::simd::{Lanes, Token};
        use crate::engine::cpu::{kernels::Kernels, plane, tile, winograd};

        pub(super) static KERNELS: Kernels = Kernels {
            tiles: tile::Tiles { shapes: &[$(($blocks, $pixels)),*], get: tile_for },
            stride_1: winograd::Transforms { input: input_1, output: output_1 },
            stride_2: winograd::Transforms { input: input_2, output: output_2 },
            planes: plane::Planes { max_pool, upsample, sum },
        };

        fn tile_for(step: usize, blocks: usize, pixels: usize) -> Option<tile::Tile> {
            Some(match (step, blocks, pixels) {
                $((8, $blocks, $pixels) => multiply::<$blocks, $pixels, 8>,)*
                $((16, $blocks, $pixels) => multiply::<$blocks, $pixels, 16>,)*
                $((32, $blocks, $pixels) => multiply::<$blocks, $pixels, 32>,)*
                _ => return None,
            })
        }

        kernels!(@wrap $simd, $(#[$feature])? multiply<BLOCKS, PIXELS, STEP> = tile::multiply::<$simd, BLOCKS, PIXELS, STEP>,
            (args: &tile::TileArgs, input: *const u8, weights: *const u8, bias: *const f32, output: *mut u8));
        kernels!(@wrap $simd, $(#[$feature])? input_1<> = winograd::input_transform::<$simd, winograd::Stride1, 6>,
            (args: &winograd::InputArgs, input: *const f32, output: *mut f32));
        kernels!(@wrap $simd, $(#[$feature])? input_2<> = winograd::input_transform::<$simd, winograd::Stride2, 9>,
            (args: &winograd::InputArgs, input: *const f32, output: *mut f32));
        kernels!(@wrap $simd, $(#[$feature])? output_1<> = winograd::output_transform::<$simd, winograd::Stride1, 6>,
            (args: &winograd::OutputArgs, input: *const f32, bias: *const f32, output: *mut f32));
        kernels!(@wrap $simd, $(#[$feature])? output_2<> = winograd::output_transform::<$simd, winograd::Stride2, 9>,
            (args: &winograd::OutputArgs, input: *const f32, bias: *const f32, output: *mut f32));
        kernels!(@wrap $simd, $(#[$feature])? max_pool<> = plane::max_pool::<$simd>,
            (args: &plane::PoolArgs, input: *const u8, output: *mut u8));
        kernels!(@wrap $simd, $(#[$feature])? upsample<> = plane::upsample::<$simd>,
            (args: &plane::UpsampleArgs, input: *const u8, output: *mut u8));
        kernels!(@wrap $simd, $(#[$feature])? sum<> = plane::sum::<$simd>,
            (args: &plane::SumArgs, left: *const u8, right: *const u8, output: *mut u8));
    };
    (@wrap $simd:ty, $(#[$feature:meta])? $name:ident<$($generic:ident),*> = $kernel:expr, ($($arg:ident: $ty:ty),*)) => {
        /// # Safety
        /// As for the kernel itself, and the processor must have the instruction set.
        $(#[$feature])?
        unsafe fn $name<$(const $generic: usize),*>($($arg: $ty),*) {
            // SAFETY: the caller keeps the kernel's contract and vouches for the instruction set
            unsafe { $kernel(<$simd as Lanes>::Isa::assume(), $($arg),*) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    // 2 × 14 sums, 2 weights and 1 splat fill 31 of the 32 registers
    kernels!(crate::engine::cpu::simd::avx512::Floats, #[target_feature(enable = "avx512f")], [
        (2, 14), (2, 10), (2, 8), (2, 6), (2, 5), (2, 4), (2, 3), (2, 2), (2, 1),
        (1, 14), (1, 10), (1, 8), (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
    ]);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    // 6 pixels × 2 registers of sums, 2 of weights and 1 splat fill 15 of the 16 registers
    kernels!(crate::engine::cpu::simd::avx2::Floats, #[target_feature(enable = "avx2,fma")], [
        (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
    ]);
}

#[cfg(target_arch = "aarch64")]
mod neon {
    // 6 pixels × 4 registers of sums, 4 of weights and 1 splat fill 29 of the 32 registers
    kernels!(crate::engine::cpu::simd::neon::Floats, #[target_feature(enable = "neon")], [
        (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
    ]);
}

mod scalar {
    // the baseline x86-64 has 16 registers of 4 lanes: 2 pixels of sums stay in them
    kernels!([f32; crate::engine::cpu::simd::LANES], , [(1, 2), (1, 1)]);
}

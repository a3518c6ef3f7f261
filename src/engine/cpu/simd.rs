//! One vector of sixteen values on every instruction set, and the tokens that prove one.
//!
//! Kernels are written once, generic over [`Simd`] and always inlined; [`super::kernels`] and
//! [`super::dot`] compile them for each instruction set. Sixteen lanes are one AVX-512 register,
//! two AVX2 registers or four NEON registers, so every instruction set shares one memory layout
//! and one weight format.
//!
//! A vector can only be made with the token of its instruction set, and a token only where the
//! processor has it. So a vector is a proof, and arithmetic on vectors is safe; only loads and
//! stores, which take raw pointers, are not.
#![allow(
    unsafe_code,
    reason = "declares loads and stores, and the assumption behind a token"
)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod bytes;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

pub(super) use bytes::{Baseline, Bytes};

pub(super) use crate::engine::layout::LANES;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Proof that this processor has an instruction set.
pub(super) trait Token: Copy {
    /// The proof, if there is one.
    fn new() -> Option<Self>;

    /// The proof without a look at the processor, for functions that are compiled for the
    /// instruction set and so can only have been called where it is.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    unsafe fn assume() -> Self;
}

/// Defines the token of an instruction set that `$detected` finds.
macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $detected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(in crate::engine::cpu) struct $name(());

        impl $crate::engine::cpu::simd::Token for $name {
            fn new() -> Option<$name> {
                $detected.then_some($name(()))
            }

            #[inline(always)]
            unsafe fn assume() -> $name {
                $name(())
            }
        }
    };
}
pub(super) use token;

/// Calls intrinsics that take and give registers only.
macro_rules! registers {
    ($call:expr) => {
        // SAFETY: the instruction set is all that these intrinsics need. The function that calls
        // this has a token or a vector of it, and neither exists on a processor without it.
        unsafe { $call }
    };
}
pub(super) use registers;

/// Sixteen values of one pixel.
pub(super) trait Lanes: Copy {
    /// The instruction set.
    type Isa: Token;
    /// One value.
    type Element;

    /// # Safety
    /// `from` must be valid for reading sixteen values; it need not be aligned.
    unsafe fn load(isa: Self::Isa, from: *const Self::Element) -> Self;

    /// # Safety
    /// `to` must be valid for writing sixteen values; it need not be aligned.
    unsafe fn store(self, to: *mut Self::Element);

    fn max(self, other: Self) -> Self;
}

/// Sixteen floats.
pub(super) trait Simd: Lanes<Element = f32> {
    fn splat(isa: Self::Isa, value: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    /// `self × by + plus`.
    fn mul_add(self, by: Self, plus: Self) -> Self;
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Arm with Advanced SIMD.
    Neon,
    /// Plain Rust, for every other machine and as the reference that the others are tested against.
    Scalar,
}

impl Isa {
    /// The instruction sets of this machine, best first; never empty.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Scalar]
            .into_iter()
            .filter(|isa| isa.is_available())
    }

    /// Whether this machine has it.
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::Neon::new().is_some(),
            Isa::Scalar => true,
            #[allow(unreachable_patterns, reason = "reached on the other architecture")]
            _ => false,
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

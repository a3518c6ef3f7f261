//! Arm Advanced SIMD: four registers a vector, 32 registers.
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::{Lanes, Simd, registers, token};
use std::arch::aarch64::*;

token! {
    /// Advanced SIMD.
    Neon,
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Floats([float32x4_t; 4]);

impl Floats {
    #[inline(always)]
    pub(in crate::engine::cpu) fn from_registers(_: Neon, registers: [float32x4_t; 4]) -> Floats {
        Floats(registers)
    }

    #[inline(always)]
    pub(in crate::engine::cpu) fn registers(self) -> [float32x4_t; 4] {
        self.0
    }
}

/// The same operation on all four quarters.
macro_rules! quarters {
    ($f:ident, $a:expr $(, $rest:expr)*) => {
        registers!(Floats([
            $f($a[0] $(, $rest[0])*),
            $f($a[1] $(, $rest[1])*),
            $f($a[2] $(, $rest[2])*),
            $f($a[3] $(, $rest[3])*),
        ]))
    };
}

impl Lanes for Floats {
    type Isa = Neon;
    type Element = f32;

    #[inline(always)]
    unsafe fn load(_: Neon, from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen floats
        unsafe {
            Floats([
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for sixteen floats
        unsafe {
            vst1q_f32(to, self.0[0]);
            vst1q_f32(to.add(4), self.0[1]);
            vst1q_f32(to.add(8), self.0[2]);
            vst1q_f32(to.add(12), self.0[3]);
        }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        quarters!(vmaxq_f32, self.0, other.0)
    }
}

impl Simd for Floats {
    #[inline(always)]
    fn splat(_: Neon, value: f32) -> Self {
        registers!(Floats([vdupq_n_f32(value); 4]))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        quarters!(vaddq_f32, self.0, other.0)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        quarters!(vsubq_f32, self.0, other.0)
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        quarters!(vfmaq_f32, plus.0, self.0, by.0)
    }
}

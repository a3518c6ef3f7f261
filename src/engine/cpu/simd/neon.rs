//! Arm Advanced SIMD: four registers a vector, 32 registers.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is four intrinsics under the contract of the trait"
)]

use super::{Lanes, Simd, kernels};
use std::arch::aarch64::*;

/// The same operation on all four quarters.
macro_rules! quarters {
    ($f:ident, $a:ident $(, $rest:ident)*) => {
        [
            $f($a[0] $(, $rest[0])*),
            $f($a[1] $(, $rest[1])*),
            $f($a[2] $(, $rest[2])*),
            $f($a[3] $(, $rest[3])*),
        ]
    };
}

impl Lanes for [float32x4_t; 4] {
    type Element = f32;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        [
            vld1q_f32(from),
            vld1q_f32(from.add(4)),
            vld1q_f32(from.add(8)),
            vld1q_f32(from.add(12)),
        ]
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self[0]);
        vst1q_f32(to.add(4), self[1]);
        vst1q_f32(to.add(8), self[2]);
        vst1q_f32(to.add(12), self[3]);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        quarters!(vmaxq_f32, self, other)
    }
}

impl Simd for [float32x4_t; 4] {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [vdupq_n_f32(value); 4]
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        quarters!(vaddq_f32, self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        quarters!(vsubq_f32, self, other)
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        quarters!(vfmaq_f32, plus, self, by)
    }
}

// 6 pixels × 4 registers of sums, 4 of weights and 1 splat fill 29 of the 32 registers
kernels!([float32x4_t; 4], #[target_feature(enable = "neon")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

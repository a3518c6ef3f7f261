//! AVX-512F: one register a vector, 32 registers.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is one intrinsic under the contract of the trait"
)]

use super::{Lanes, Simd, kernels};
use std::arch::x86_64::*;

impl Lanes for __m512 {
    type Element = f32;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        _mm512_max_ps(self, other)
    }
}

impl Simd for __m512 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_ps(self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        _mm512_sub_ps(self, other)
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        _mm512_fmadd_ps(self, by, plus)
    }
}

// 2 × 14 sums, 2 weights and 1 splat fill 31 of the 32 registers
kernels!(__m512, #[target_feature(enable = "avx512f")], [
    (2, 14), (2, 10), (2, 8), (2, 6), (2, 5), (2, 4), (2, 3), (2, 2), (2, 1),
    (1, 14), (1, 10), (1, 8), (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

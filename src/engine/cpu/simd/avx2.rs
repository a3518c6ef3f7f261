//! AVX2 with FMA: two registers a vector, 16 registers.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is a pair of intrinsics under the contract of the trait"
)]

use super::{Lanes, Simd, kernels};
use std::arch::x86_64::*;

impl Lanes for [__m256; 2] {
    type Element = f32;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self[0]);
        _mm256_storeu_ps(to.add(8), self[1]);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        [
            _mm256_max_ps(self[0], other[0]),
            _mm256_max_ps(self[1], other[1]),
        ]
    }
}

impl Simd for [__m256; 2] {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [_mm256_set1_ps(value); 2]
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        [
            _mm256_add_ps(self[0], other[0]),
            _mm256_add_ps(self[1], other[1]),
        ]
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        [
            _mm256_sub_ps(self[0], other[0]),
            _mm256_sub_ps(self[1], other[1]),
        ]
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        [
            _mm256_fmadd_ps(self[0], by[0], plus[0]),
            _mm256_fmadd_ps(self[1], by[1], plus[1]),
        ]
    }
}

// 6 pixels × 2 registers of sums, 2 of weights and 1 splat fill 15 of the 16 registers
kernels!([__m256; 2], #[target_feature(enable = "avx2,fma")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

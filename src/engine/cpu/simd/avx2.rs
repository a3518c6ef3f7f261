//! AVX2 with FMA: two registers a vector, 16 registers.
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::{Lanes, Simd, registers, token};
use std::arch::x86_64::*;

token! {
    /// AVX2 and FMA.
    Avx2,
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Floats([__m256; 2]);

impl Floats {
    #[inline(always)]
    pub(in crate::engine::cpu) fn from_registers(_: Avx2, registers: [__m256; 2]) -> Floats {
        Floats(registers)
    }

    #[inline(always)]
    pub(in crate::engine::cpu) fn registers(self) -> [__m256; 2] {
        self.0
    }
}

impl Lanes for Floats {
    type Isa = Avx2;
    type Element = f32;

    #[inline(always)]
    unsafe fn load(_: Avx2, from: *const f32) -> Self {
        // SAFETY: the token proves AVX2; the caller vouches for sixteen floats
        unsafe { Floats([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the vector proves AVX2; the caller vouches for sixteen floats
        unsafe {
            _mm256_storeu_ps(to, self.0[0]);
            _mm256_storeu_ps(to.add(8), self.0[1]);
        }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        registers!(Floats([
            _mm256_max_ps(self.0[0], other.0[0]),
            _mm256_max_ps(self.0[1], other.0[1]),
        ]))
    }
}

impl Simd for Floats {
    #[inline(always)]
    fn splat(_: Avx2, value: f32) -> Self {
        registers!(Floats([_mm256_set1_ps(value); 2]))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        registers!(Floats([
            _mm256_add_ps(self.0[0], other.0[0]),
            _mm256_add_ps(self.0[1], other.0[1]),
        ]))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        registers!(Floats([
            _mm256_sub_ps(self.0[0], other.0[0]),
            _mm256_sub_ps(self.0[1], other.0[1]),
        ]))
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        registers!(Floats([
            _mm256_fmadd_ps(self.0[0], by.0[0], plus.0[0]),
            _mm256_fmadd_ps(self.0[1], by.0[1], plus.0[1]),
        ]))
    }
}

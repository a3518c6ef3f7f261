//! AVX-512F: one register a vector, 32 registers.
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::{Lanes, Simd, registers, token};
use std::arch::x86_64::*;

token! {
    /// AVX-512F.
    Avx512,
    is_x86_feature_detected!("avx512f")
}

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Floats(__m512);

impl Floats {
    #[inline(always)]
    pub(in crate::engine::cpu) fn from_register(_: Avx512, register: __m512) -> Floats {
        Floats(register)
    }

    #[inline(always)]
    pub(in crate::engine::cpu) fn register(self) -> __m512 {
        self.0
    }
}

impl Lanes for Floats {
    type Isa = Avx512;
    type Element = f32;

    #[inline(always)]
    unsafe fn load(_: Avx512, from: *const f32) -> Self {
        // SAFETY: the token proves AVX-512F; the caller vouches for sixteen floats
        unsafe { Floats(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the vector proves AVX-512F; the caller vouches for sixteen floats
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        registers!(Floats(_mm512_max_ps(self.0, other.0)))
    }
}

impl Simd for Floats {
    #[inline(always)]
    fn splat(_: Avx512, value: f32) -> Self {
        registers!(Floats(_mm512_set1_ps(value)))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        registers!(Floats(_mm512_add_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        registers!(Floats(_mm512_sub_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        registers!(Floats(_mm512_fmadd_ps(self.0, by.0, plus.0)))
    }
}

//! AVX2 without byte products. `vpmaddubsw` multiplies unsigned with signed bytes and adds two
//! products in 16 bits, which saturates at 32,767: [`quant`] keeps the weights of neighbouring
//! channels small enough together, so the sums are exact. A second instruction adds two of them in
//! 32 bits. (Tried before: bytes widened to 16 bits, where any weights are exact. It took 1.5 times
//! as long as f32 with Winograd.)
//!
//! [`quant`]: crate::engine::cpu::quant
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::{Dot, FOUR, LANES, byte_tiles};
use crate::engine::cpu::simd::avx2::{Avx2, Floats};
use crate::engine::cpu::simd::registers;
use std::arch::x86_64::*;

/// Two registers of eight sums.
#[derive(Clone, Copy)]
struct Sums(Avx2, [__m256i; 2]);

impl Dot for Sums {
    type Isa = Avx2;
    type Weights = [__m256i; 2];
    type Value = __m256i;
    type Floats = Floats;

    #[inline(always)]
    unsafe fn start(isa: Avx2, _constants: *const f32) -> Self {
        Sums(isa, registers!([_mm256_setzero_si256(); 2]))
    }
    #[inline(always)]
    unsafe fn weights(isa: Avx2, from: *const u8) -> Self::Weights {
        // SAFETY: passed on
        unsafe { weights(isa, from) }
    }
    #[inline(always)]
    unsafe fn value(isa: Avx2, from: *const u8) -> Self::Value {
        // SAFETY: passed on
        unsafe { value(isa, from) }
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let add = |i: usize| {
            registers!({
                let pairs = _mm256_maddubs_epi16(value, weights[i]);
                let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                _mm256_add_epi32(self.1[i], fours)
            })
        };
        Sums(self.0, [add(0), add(1)])
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        floats(self.0, self.1)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        // SAFETY: passed on
        unsafe { store_bytes(floats, to) }
    }
}

/// Four weights of each of sixteen outputs.
///
/// # Safety
/// `from` must be valid for reading 64 bytes.
#[inline(always)]
pub(super) unsafe fn weights(_: Avx2, from: *const u8) -> [__m256i; 2] {
    // SAFETY: the token proves AVX2; the caller vouches for 64 weights
    unsafe {
        [
            _mm256_loadu_si256(from.cast()),
            _mm256_loadu_si256(from.add(LANES * FOUR / 2).cast()),
        ]
    }
}

/// Four channels of a pixel, for eight outputs.
///
/// # Safety
/// `from` must be valid for reading four bytes.
#[inline(always)]
pub(super) unsafe fn value(_: Avx2, from: *const u8) -> __m256i {
    // SAFETY: the token proves AVX2; the caller vouches for four channels
    unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
}

/// Sixteen sums as floats.
#[inline(always)]
pub(super) fn floats(isa: Avx2, sums: [__m256i; 2]) -> Floats {
    let floats = registers!([_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]);
    Floats::from_registers(isa, floats)
}

/// Sixteen floats clamped to 0..=255, rounded half to even, as bytes.
///
/// # Safety
/// `to` must be valid for writing sixteen bytes.
#[inline(always)]
pub(super) unsafe fn store_bytes(floats: Floats, to: *mut u8) {
    let floats = floats.registers();
    let bytes = registers!({
        let round = |floats: __m256| {
            let positive = _mm256_max_ps(floats, _mm256_setzero_ps());
            _mm256_cvtps_epi32(_mm256_min_ps(positive, _mm256_set1_ps(255.0)))
        };
        // packing works within 128-bit halves: put the quarters back in order after each step
        let words = _mm256_packus_epi32(round(floats[0]), round(floats[1]));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm256_packus_epi16(words, words);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b11_01_10_00>(bytes))
    });
    // SAFETY: the caller vouches for sixteen bytes
    unsafe { _mm_storeu_si128(to.cast(), bytes) }
}

// 5 pixels × 2 registers of sums, 2 of weights, 1 value, 1 product and the ones fill 15 of the 16
byte_tiles!(TILES, Sums, #[target_feature(enable = "avx2,fma")], [
    (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

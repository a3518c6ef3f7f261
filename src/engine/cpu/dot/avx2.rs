//! AVX2 without byte products: bytes widened to 16 bits, whose products of pairs are exact.
//! (`vpmaddubsw` would be twice as fast and saturates.) No faster than f32, but it runs.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is a few intrinsics under the contract of the trait"
)]

use super::{Dot, LANES, byte_tiles};
use std::arch::x86_64::*;

/// Four registers, each with two half sums of four outputs.
#[derive(Clone, Copy)]
struct Halves([__m256i; 4]);

impl Dot for Halves {
    type Weights = [__m256i; 4];
    type Value = __m256i;
    type Floats = [__m256; 2];

    #[inline(always)]
    unsafe fn start(_constants: *const f32) -> Self {
        Halves([_mm256_setzero_si256(); 4])
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        let quarter = |i: usize| _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(i * LANES).cast()));
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }
    #[inline(always)]
    unsafe fn value(from: *const u8) -> Self::Value {
        let four = _mm_cvtsi32_si128(from.cast::<i32>().read_unaligned());
        _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(four))
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let add = |i: usize| _mm256_add_epi32(self.0[i], _mm256_madd_epi16(weights[i], value));
        Halves([add(0), add(1), add(2), add(3)])
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        // the horizontal sums of two registers come out as 0 1 4 5 | 2 3 6 7
        let whole = |a: usize| {
            let sums = _mm256_hadd_epi32(self.0[a], self.0[a + 1]);
            _mm256_cvtepi32_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(sums))
        };
        [whole(0), whole(2)]
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        store_bytes(floats, to);
    }
}

/// Sixteen floats clamped to 0..=255, rounded half to even, as bytes.
///
/// # Safety
/// Needs AVX2; `to` must be valid for sixteen bytes.
#[inline(always)]
pub(super) unsafe fn store_bytes(floats: [__m256; 2], to: *mut u8) {
    let round = |floats: __m256| {
        let positive = _mm256_max_ps(floats, _mm256_setzero_ps());
        _mm256_cvtps_epi32(_mm256_min_ps(positive, _mm256_set1_ps(255.0)))
    };
    // packing works within 128-bit halves: put the quarters back in order after each step
    let words = _mm256_packus_epi32(round(floats[0]), round(floats[1]));
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
    let bytes = _mm256_packus_epi16(words, words);
    let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
    _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(bytes));
}

// 2 pixels × 4 registers of sums, 4 of weights, 1 value and 1 product: 14 of the 16 registers
byte_tiles!(TILES, Halves, #[target_feature(enable = "avx2,fma")], [(1, 2), (1, 1)]);

//! AVX-512 VNNI, and AVX-VNNI of processors with 256-bit vectors: one instruction for
//! four products of each of sixteen or eight sums.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is a few intrinsics under the contract of the trait"
)]

use super::avx2::store_bytes;
use super::{Dot, LANES, byte_tiles};
use std::arch::x86_64::*;

impl Dot for __m512i {
    type Weights = __m512i;
    type Value = __m512i;
    type Floats = __m512;

    #[inline(always)]
    unsafe fn start(_constants: *const f32) -> Self {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn value(from: *const u8) -> Self::Value {
        _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        _mm512_dpbusd_epi32(self, value, weights)
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        _mm512_cvtepi32_ps(self)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        let clamped = _mm512_min_ps(
            _mm512_max_ps(floats, _mm512_setzero_ps()),
            _mm512_set1_ps(255.0),
        );
        let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped));
        _mm_storeu_si128(to.cast(), bytes);
    }
}

// 2 × 14 sums, 2 weights and 1 value fill 31 of the 32 registers
byte_tiles!(WIDE, __m512i, #[target_feature(enable = "avx512f,avx512vnni")], [
    (2, 14), (2, 10), (2, 8), (2, 6), (2, 5), (2, 4), (2, 3), (2, 2), (2, 1),
    (1, 14), (1, 10), (1, 8), (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

/// Two registers of eight sums.
#[derive(Clone, Copy)]
struct Pair([__m256i; 2]);

impl Dot for Pair {
    type Weights = [__m256i; 2];
    type Value = __m256i;
    type Floats = [__m256; 2];

    #[inline(always)]
    unsafe fn start(_constants: *const f32) -> Self {
        Pair([_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        [
            _mm256_loadu_si256(from.cast()),
            _mm256_loadu_si256(from.add(2 * LANES).cast()),
        ]
    }
    #[inline(always)]
    unsafe fn value(from: *const u8) -> Self::Value {
        _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        Pair([
            _mm256_dpbusd_avx_epi32(self.0[0], value, weights[0]),
            _mm256_dpbusd_avx_epi32(self.0[1], value, weights[1]),
        ])
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        self.0.map(|sums| _mm256_cvtepi32_ps(sums))
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        store_bytes(floats, to);
    }
}

// 6 pixels × 2 registers of sums, 2 of weights and 1 value fill 15 of the 16 registers
byte_tiles!(NARROW, Pair, #[target_feature(enable = "avx2,fma,avxvnni")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

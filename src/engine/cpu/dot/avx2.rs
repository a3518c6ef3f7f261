//! AVX2 without byte products: bytes widened to 16 bits, whose products of pairs are exact.
//! (`vpmaddubsw` would be twice as fast and saturates.) No faster than f32, but it runs.
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::{Dot, LANES, byte_tiles};
use crate::engine::cpu::simd::avx2::{Avx2, Floats};
use crate::engine::cpu::simd::registers;
use std::arch::x86_64::*;

/// Four registers, each with two half sums of four outputs.
#[derive(Clone, Copy)]
struct Halves(Avx2, [__m256i; 4]);

impl Dot for Halves {
    type Isa = Avx2;
    type Weights = [__m256i; 4];
    type Value = __m256i;
    type Floats = Floats;

    #[inline(always)]
    unsafe fn start(isa: Avx2, _constants: *const f32) -> Self {
        Halves(isa, registers!([_mm256_setzero_si256(); 4]))
    }
    #[inline(always)]
    unsafe fn weights(_: Avx2, from: *const u8) -> Self::Weights {
        // SAFETY: the token proves AVX2; the caller vouches for 64 weights
        unsafe {
            let quarter =
                |i: usize| _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(i * LANES).cast()));
            [quarter(0), quarter(1), quarter(2), quarter(3)]
        }
    }
    #[inline(always)]
    unsafe fn value(_: Avx2, from: *const u8) -> Self::Value {
        // SAFETY: the token proves AVX2; the caller vouches for four channels
        unsafe {
            let four = _mm_cvtsi32_si128(from.cast::<i32>().read_unaligned());
            _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(four))
        }
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let add = |i: usize| {
            registers!(_mm256_add_epi32(
                self.1[i],
                _mm256_madd_epi16(weights[i], value)
            ))
        };
        Halves(self.0, [add(0), add(1), add(2), add(3)])
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        // the horizontal sums of two registers come out as 0 1 4 5 | 2 3 6 7
        let whole = |a: usize| {
            registers!({
                let sums = _mm256_hadd_epi32(self.1[a], self.1[a + 1]);
                _mm256_cvtepi32_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(sums))
            })
        };
        Floats::from_registers(self.0, [whole(0), whole(2)])
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        // SAFETY: passed on
        unsafe { store_bytes(floats, to) }
    }
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

// 2 pixels × 4 registers of sums, 4 of weights, 1 value and 1 product: 14 of the 16 registers
byte_tiles!(TILES, Halves, #[target_feature(enable = "avx2,fma")], [(1, 2), (1, 1)]);

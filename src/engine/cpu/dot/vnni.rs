//! AVX-512 VNNI, and AVX-VNNI of processors with 256-bit vectors: one instruction for
//! four products of each of sixteen or eight sums.
#![allow(unsafe_code, reason = "loads, stores and intrinsics")]

use super::avx2 as narrow;
use super::{Dot, byte_tiles};
use crate::engine::cpu::simd::avx2::Avx2;
use crate::engine::cpu::simd::avx512::Avx512;
use crate::engine::cpu::simd::{Token, avx2, avx512, registers, token};
use std::arch::x86_64::*;

token! {
    /// AVX-512 VNNI.
    Vnni512,
    is_x86_feature_detected!("avx512vnni") && Avx512::new().is_some()
}

impl From<Vnni512> for Avx512 {
    #[inline(always)]
    fn from(_: Vnni512) -> Avx512 {
        // SAFETY: `Vnni512` has looked for AVX-512F as well
        unsafe { Avx512::assume() }
    }
}

/// One register of sixteen sums.
#[derive(Clone, Copy)]
struct Whole(Vnni512, __m512i);

impl Dot for Whole {
    type Isa = Vnni512;
    type Weights = __m512i;
    type Value = __m512i;
    type Floats = avx512::Floats;

    #[inline(always)]
    unsafe fn start(isa: Vnni512, _constants: *const f32) -> Self {
        Whole(isa, registers!(_mm512_setzero_si512()))
    }
    #[inline(always)]
    unsafe fn weights(_: Vnni512, from: *const u8) -> Self::Weights {
        // SAFETY: the token proves AVX-512F; the caller vouches for 64 weights
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn value(_: Vnni512, from: *const u8) -> Self::Value {
        // SAFETY: the token proves AVX-512F; the caller vouches for four channels
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        Whole(
            self.0,
            registers!(_mm512_dpbusd_epi32(self.1, value, weights)),
        )
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        avx512::Floats::from_register(self.0.into(), registers!(_mm512_cvtepi32_ps(self.1)))
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        let floats = floats.register();
        let bytes = registers!({
            let positive = _mm512_max_ps(floats, _mm512_setzero_ps());
            let clamped = _mm512_min_ps(positive, _mm512_set1_ps(255.0));
            _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(clamped))
        });
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { _mm_storeu_si128(to.cast(), bytes) }
    }
}

// 2 × 14 sums, 2 weights and 1 value fill 31 of the 32 registers
byte_tiles!(WIDE, Whole, #[target_feature(enable = "avx512f,avx512vnni")], [
    (2, 14), (2, 10), (2, 8), (2, 6), (2, 5), (2, 4), (2, 3), (2, 2), (2, 1),
    (1, 14), (1, 10), (1, 8), (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

token! {
    /// AVX-VNNI.
    AvxVnni,
    is_x86_feature_detected!("avxvnni") && Avx2::new().is_some()
}

impl From<AvxVnni> for Avx2 {
    #[inline(always)]
    fn from(_: AvxVnni) -> Avx2 {
        // SAFETY: `AvxVnni` has looked for AVX2 and FMA as well
        unsafe { Avx2::assume() }
    }
}

/// Two registers of eight sums.
#[derive(Clone, Copy)]
struct Pair(AvxVnni, [__m256i; 2]);

impl Dot for Pair {
    type Isa = AvxVnni;
    type Weights = [__m256i; 2];
    type Value = __m256i;
    type Floats = avx2::Floats;

    #[inline(always)]
    unsafe fn start(isa: AvxVnni, _constants: *const f32) -> Self {
        Pair(isa, registers!([_mm256_setzero_si256(); 2]))
    }
    #[inline(always)]
    unsafe fn weights(isa: AvxVnni, from: *const u8) -> Self::Weights {
        // SAFETY: passed on
        unsafe { narrow::weights(isa.into(), from) }
    }
    #[inline(always)]
    unsafe fn value(isa: AvxVnni, from: *const u8) -> Self::Value {
        // SAFETY: passed on
        unsafe { narrow::value(isa.into(), from) }
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let sums = registers!([
            _mm256_dpbusd_avx_epi32(self.1[0], value, weights[0]),
            _mm256_dpbusd_avx_epi32(self.1[1], value, weights[1]),
        ]);
        Pair(self.0, sums)
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        narrow::floats(self.0.into(), self.1)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        // SAFETY: passed on
        unsafe { narrow::store_bytes(floats, to) }
    }
}

// 6 pixels × 2 registers of sums, 2 of weights and 1 value fill 15 of the 16 registers
byte_tiles!(NARROW, Pair, #[target_feature(enable = "avx2,fma,avxvnni")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

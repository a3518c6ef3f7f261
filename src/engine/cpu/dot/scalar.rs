//! Plain Rust on arrays: the reference that every other byte kernel must equal exactly.
#![allow(unsafe_code, reason = "loads and stores")]

use super::{Dot, FOUR, LANES, byte_tiles};
use crate::engine::cpu::simd::scalar::Scalar;

impl Dot for [i32; LANES] {
    type Isa = Scalar;
    type Weights = [i8; FOUR * LANES];
    type Value = [u8; FOUR];
    type Floats = [f32; LANES];

    #[inline(always)]
    unsafe fn start(_: Scalar, _constants: *const f32) -> Self {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn weights(_: Scalar, from: *const u8) -> Self::Weights {
        // SAFETY: the caller vouches for 64 weights
        unsafe { from.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn value(_: Scalar, from: *const u8) -> Self::Value {
        // SAFETY: the caller vouches for four channels
        unsafe { from.cast::<Self::Value>().read_unaligned() }
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        std::array::from_fn(|lane| {
            let four = (0..FOUR).map(|i| i32::from(weights[FOUR * lane + i]) * i32::from(value[i]));
            self[lane] + four.sum::<i32>()
        })
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        self.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        let bytes = floats.map(|value| value.clamp(0.0, 255.0).round_ties_even() as u8);
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(bytes) }
    }
}

byte_tiles!(TILES, [i32; 16], , [(1, 2), (1, 1)]);

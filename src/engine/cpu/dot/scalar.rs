//! Plain Rust on arrays: the twin that every other byte kernel must equal exactly.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "the trait is unsafe for the instruction sets; here only loads and stores are"
)]

use super::{Dot, FOUR, LANES, byte_tiles};

impl Dot for [i32; LANES] {
    type Weights = [i8; FOUR * LANES];
    type Value = [u8; FOUR];
    type Floats = [f32; LANES];

    #[inline(always)]
    unsafe fn start(_constants: *const f32) -> Self {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        from.cast::<Self::Weights>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn value(from: *const u8) -> Self::Value {
        from.cast::<Self::Value>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        std::array::from_fn(|lane| {
            let four = (0..FOUR).map(|i| i32::from(weights[FOUR * lane + i]) * i32::from(value[i]));
            self[lane] + four.sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        self.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        let bytes = floats.map(|value| value.clamp(0.0, 255.0).round_ties_even() as u8);
        to.cast::<[u8; LANES]>().write_unaligned(bytes);
    }
}

byte_tiles!(TILES, [i32; 16], , [(1, 2), (1, 1)]);

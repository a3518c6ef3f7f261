//! Arm's dot-product extension, which boards since the Cortex-A75 have. It multiplies signed
//! with signed bytes, so activations are moved down by 128 (one exclusive-or) and sums start
//! at 128 times the weights.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "every method is a few intrinsics under the contract of the trait"
)]

use super::{Dot, LANES, byte_tiles};
use std::arch::aarch64::*;
use std::arch::asm;

/// Four registers of four sums.
#[derive(Clone, Copy)]
struct Quarters([int32x4_t; 4]);

/// Adds four products to each of four sums. The intrinsic is not stable Rust yet.
#[inline(always)]
unsafe fn sdot(sums: int32x4_t, weights: int8x16_t, value: int8x16_t) -> int32x4_t {
    let mut result = sums;
    asm!(
        ".arch_extension dotprod",
        "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
        inout(vreg) result,
        in(vreg) weights,
        in(vreg) value,
        options(pure, nomem, nostack, preserves_flags),
    );
    result
}

impl Dot for Quarters {
    type Weights = [int8x16_t; 4];
    type Value = int8x16_t;
    type Floats = [float32x4_t; 4];

    #[inline(always)]
    unsafe fn start(constants: *const f32) -> Self {
        let offsets = constants.add(2 * LANES).cast::<i32>();
        Quarters([
            vld1q_s32(offsets),
            vld1q_s32(offsets.add(4)),
            vld1q_s32(offsets.add(8)),
            vld1q_s32(offsets.add(12)),
        ])
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        let from = from.cast::<i8>();
        [
            vld1q_s8(from),
            vld1q_s8(from.add(16)),
            vld1q_s8(from.add(32)),
            vld1q_s8(from.add(48)),
        ]
    }
    #[inline(always)]
    unsafe fn value(from: *const u8) -> Self::Value {
        let four = from.cast::<u32>().read_unaligned() ^ 0x8080_8080;
        vreinterpretq_s8_u32(vdupq_n_u32(four))
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let sums = self.0;
        Quarters([
            sdot(sums[0], weights[0], value),
            sdot(sums[1], weights[1], value),
            sdot(sums[2], weights[2], value),
            sdot(sums[3], weights[3], value),
        ])
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        self.0.map(|sums| vcvtq_f32_s32(sums))
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        // conversions saturate, so no clamp is needed
        let words = |a: float32x4_t, b: float32x4_t| {
            let low = vqmovun_s32(vcvtnq_s32_f32(a));
            vcombine_u16(low, vqmovun_s32(vcvtnq_s32_f32(b)))
        };
        let low = vqmovn_u16(words(floats[0], floats[1]));
        let high = vqmovn_u16(words(floats[2], floats[3]));
        vst1q_u8(to, vcombine_u8(low, high));
    }
}

// 6 pixels × 4 registers of sums, 4 of weights and 1 value fill 29 of the 32 registers
byte_tiles!(TILES, Quarters, #[target_feature(enable = "neon,dotprod")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

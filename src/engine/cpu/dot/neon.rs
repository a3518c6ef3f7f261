//! Arm's dot-product extension, which boards since the Cortex-A75 have. It multiplies signed
//! with signed bytes, so activations are moved down by 128 (one exclusive-or) and sums start
//! at 128 times the weights.
#![allow(
    unsafe_code,
    reason = "loads, stores, intrinsics and an instruction by name"
)]

use super::{Dot, LANES, byte_tiles};
use crate::engine::cpu::simd::neon::{Floats, Neon};
use crate::engine::cpu::simd::{Token, registers, token};
use std::arch::aarch64::*;
use std::arch::asm;

token! {
    /// The dot-product extension.
    Dotprod,
    std::arch::is_aarch64_feature_detected!("dotprod") && Neon::new().is_some()
}

impl From<Dotprod> for Neon {
    #[inline(always)]
    fn from(_: Dotprod) -> Neon {
        // SAFETY: there is no dot product without Advanced SIMD, and `Dotprod` has looked
        unsafe { Neon::assume() }
    }
}

/// Four registers of four sums.
#[derive(Clone, Copy)]
struct Quarters(Dotprod, [int32x4_t; 4]);

/// Adds four products to each of four sums. The intrinsic is not stable Rust yet.
#[inline(always)]
fn sdot(_: Dotprod, sums: int32x4_t, weights: int8x16_t, value: int8x16_t) -> int32x4_t {
    let mut result = sums;
    // SAFETY: the token proves the instruction, which touches these registers alone
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) result,
            in(vreg) weights,
            in(vreg) value,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    result
}

impl Dot for Quarters {
    type Isa = Dotprod;
    type Weights = [int8x16_t; 4];
    type Value = int8x16_t;
    type Floats = Floats;

    #[inline(always)]
    unsafe fn start(isa: Dotprod, constants: *const f32) -> Self {
        // SAFETY: the caller vouches for a block's constants; the last sixteen are integers
        unsafe {
            let offsets = constants.add(2 * LANES).cast::<i32>();
            let sums = [
                vld1q_s32(offsets),
                vld1q_s32(offsets.add(4)),
                vld1q_s32(offsets.add(8)),
                vld1q_s32(offsets.add(12)),
            ];
            Quarters(isa, sums)
        }
    }
    #[inline(always)]
    unsafe fn weights(_: Dotprod, from: *const u8) -> Self::Weights {
        let from = from.cast::<i8>();
        // SAFETY: the caller vouches for 64 weights
        unsafe {
            [
                vld1q_s8(from),
                vld1q_s8(from.add(16)),
                vld1q_s8(from.add(32)),
                vld1q_s8(from.add(48)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn value(_: Dotprod, from: *const u8) -> Self::Value {
        // SAFETY: the caller vouches for four channels
        let four = unsafe { from.cast::<u32>().read_unaligned() } ^ 0x8080_8080;
        registers!(vreinterpretq_s8_u32(vdupq_n_u32(four)))
    }
    #[inline(always)]
    fn dot(self, weights: Self::Weights, value: Self::Value) -> Self {
        let Quarters(isa, sums) = self;
        let sums = [
            sdot(isa, sums[0], weights[0], value),
            sdot(isa, sums[1], weights[1], value),
            sdot(isa, sums[2], weights[2], value),
            sdot(isa, sums[3], weights[3], value),
        ];
        Quarters(isa, sums)
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        let sums = self.1;
        let floats = registers!([
            vcvtq_f32_s32(sums[0]),
            vcvtq_f32_s32(sums[1]),
            vcvtq_f32_s32(sums[2]),
            vcvtq_f32_s32(sums[3]),
        ]);
        Floats::from_registers(self.0.into(), floats)
    }
    #[inline(always)]
    unsafe fn store_bytes(floats: Self::Floats, to: *mut u8) {
        let floats = floats.registers();
        let bytes = registers!({
            // conversions saturate, so no clamp is needed
            let words = |a: float32x4_t, b: float32x4_t| {
                let low = vqmovun_s32(vcvtnq_s32_f32(a));
                vcombine_u16(low, vqmovun_s32(vcvtnq_s32_f32(b)))
            };
            let low = vqmovn_u16(words(floats[0], floats[1]));
            vcombine_u8(low, vqmovn_u16(words(floats[2], floats[3])))
        });
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { vst1q_u8(to, bytes) }
    }
}

// 6 pixels × 4 registers of sums, 4 of weights and 1 value fill 29 of the 32 registers
byte_tiles!(TILES, Quarters, #[target_feature(enable = "neon,dotprod")], [
    (1, 6), (1, 5), (1, 4), (1, 3), (1, 2), (1, 1),
]);

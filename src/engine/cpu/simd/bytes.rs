//! Sixteen bytes of one pixel. Every x86-64 and aarch64 has the instructions for them.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "the trait is unsafe for the instruction sets; here only load and store are"
)]

use super::Lanes;
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::{uint8x16_t as Vector, vld1q_u8, vmaxq_u8, vst1q_u8};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i as Vector, _mm_loadu_si128, _mm_max_epu8, _mm_storeu_si128};

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Bytes(
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))] Vector,
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))] [u8; super::LANES],
);

#[cfg(target_arch = "x86_64")]
impl Lanes for Bytes {
    type Element = u8;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Bytes(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        _mm_storeu_si128(to.cast(), self.0);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Bytes(_mm_max_epu8(self.0, other.0))
    }
}

#[cfg(target_arch = "aarch64")]
impl Lanes for Bytes {
    type Element = u8;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Bytes(vld1q_u8(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        vst1q_u8(to, self.0);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Bytes(vmaxq_u8(self.0, other.0))
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Lanes for Bytes {
    type Element = u8;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Bytes(from.cast::<[u8; super::LANES]>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        to.cast::<[u8; super::LANES]>().write_unaligned(self.0);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Bytes(std::array::from_fn(|i| self.0[i].max(other.0[i])))
    }
}

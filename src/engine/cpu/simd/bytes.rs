//! Sixteen bytes of one pixel. Every x86-64 and aarch64 target has the instructions for them.
#![allow(unsafe_code, reason = "loads, stores and an intrinsic")]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::registers;
use super::{Lanes, token};
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::{uint8x16_t as Vector, vld1q_u8, vmaxq_u8, vst1q_u8};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i as Vector, _mm_loadu_si128, _mm_max_epu8, _mm_storeu_si128};

token! {
    /// The instructions that every processor of the target has.
    Baseline,
    true
}

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Bytes(
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))] Vector,
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))] [u8; super::LANES],
);

#[cfg(target_arch = "x86_64")]
impl Lanes for Bytes {
    type Isa = Baseline;
    type Element = u8;

    #[inline(always)]
    unsafe fn load(_: Baseline, from: *const u8) -> Self {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { Bytes(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { _mm_storeu_si128(to.cast(), self.0) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Bytes(registers!(_mm_max_epu8(self.0, other.0)))
    }
}

#[cfg(target_arch = "aarch64")]
impl Lanes for Bytes {
    type Isa = Baseline;
    type Element = u8;

    #[inline(always)]
    unsafe fn load(_: Baseline, from: *const u8) -> Self {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { Bytes(vld1q_u8(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { vst1q_u8(to, self.0) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Bytes(registers!(vmaxq_u8(self.0, other.0)))
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Lanes for Bytes {
    type Isa = Baseline;
    type Element = u8;

    #[inline(always)]
    unsafe fn load(_: Baseline, from: *const u8) -> Self {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { Bytes(from.cast::<[u8; super::LANES]>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for sixteen bytes
        unsafe { to.cast::<[u8; super::LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Bytes(std::array::from_fn(|i| self.0[i].max(other.0[i])))
    }
}

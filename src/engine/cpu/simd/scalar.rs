//! Plain Rust on arrays; the compiler makes what it can of it.
#![allow(unsafe_code, reason = "loads and stores")]

use super::{LANES, Lanes, Simd, token};

token! {
    /// No instruction set beyond the target's own.
    Scalar,
    true
}

impl Lanes for [f32; LANES] {
    type Isa = Scalar;
    type Element = f32;

    #[inline(always)]
    unsafe fn load(_: Scalar, from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen floats
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for sixteen floats
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i].max(other[i]))
    }
}

impl Simd for [f32; LANES] {
    #[inline(always)]
    fn splat(_: Scalar, value: f32) -> Self {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // not f32::mul_add: without the instruction that is a library call
        std::array::from_fn(|i| self[i] * by[i] + plus[i])
    }
}

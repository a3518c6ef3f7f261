//! Plain Rust on arrays; the compiler makes what it can of it.
#![allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    reason = "the trait is unsafe for the instruction sets; here only load and store are"
)]

use super::{LANES, Lanes, Simd, kernels};

impl Lanes for [f32; LANES] {
    type Element = f32;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        from.cast::<Self>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        to.cast::<Self>().write_unaligned(self);
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i].max(other[i]))
    }
}

impl Simd for [f32; LANES] {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        // not f32::mul_add: without the instruction that is a library call
        std::array::from_fn(|i| self[i] * by[i] + plus[i])
    }
}

// the baseline x86-64 has 16 registers of 4 lanes: 2 pixels of sums stay in them
kernels!([f32; LANES], , [(1, 2), (1, 1)]);

//! The CPU engine allocates nothing once it has seen a picture size.
//! Alone in its binary, because it counts every allocation of the process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skipped"
)]
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use vovcam::engine::Engine;
use vovcam::engine::cpu::CpuEngine;
use vovcam::model::Model;
use vovcam::network::Network;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_frame_allocates_nothing() {
    let model = Model::random(Network::vovnet27_slim(), 12, 1).unwrap();
    let mut engine = CpuEngine::new(&model, 2).unwrap();
    let mut output = RawOutput::default();
    let picture = |height: usize, width: usize| Batch {
        batch: 1,
        height,
        width,
        data: vec![90; height * width * 3],
    };
    let sizes = [picture(64, 32), picture(32, 32)];
    for input in &sizes {
        engine.infer(input, &mut output).unwrap();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    engine.infer(&sizes[0], &mut output).unwrap();
    engine.infer(&sizes[0], &mut output).unwrap();
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!(after, before);
}

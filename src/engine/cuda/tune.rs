//! Measures which way of running a convolution is fastest on this GPU.
//!
//! cuDNN's own ranking times plain convolutions in packed arrays. What runs here has a fused
//! epilogue and reads and writes slices of concatenations, which cuDNN may refuse or be slow at,
//! so each way is tried as it would run: with its copies, and only if its answer is right. That
//! is decided by comparing with the plain kernel of `kernels.cu`. What is timed is a CUDA graph of
//! repeats, as frames are one: single launches would time the processor that makes them.
#![allow(
    unsafe_code,
    reason = "enqueues candidates on memory that is made here or belongs to the plan"
)]

use super::Float;
use super::choices::{Call, Choice};
use super::conv::{Arena, ConvShape, GpuFilter, Memory, PlannedConv, scratch};
use super::cudnn::{IMPLICIT_GEMM, PRECOMPUTED_GEMM};
use super::gpu::{Fault, Gpu, refused};
use crate::engine::EngineError;
use std::sync::Arc;

/// Scratch memory beyond which an algorithm is not worth it on a small board.
pub(super) const MOST_WORKSPACE: usize = 256 << 20;
/// Runs of one graph.
const REPEATS: usize = 20;
/// Launches of that graph that are timed; the fastest counts, because others share the GPU.
const LAUNCHES: usize = 3;

/// The fastest right way of running a convolution in an arena, which is
/// overwritten, with [`MOST_WORKSPACE`] bytes of scratch memory at `workspace`.
///
/// # Errors
/// When the GPU fails; an algorithm that cuDNN refuses is no failure.
pub(super) fn choose(
    gpu: &Gpu,
    shape: ConvShape,
    filter: &Arc<GpuFilter>,
    arena: Arena,
    workspace: u64,
) -> Result<Choice, EngineError> {
    let tuner = Tuner::new(gpu, shape, filter, arena, workspace).map_err(refused(format!(
        "preparing to time the convolution {shape}"
    )))?;
    let mut best: Option<Choice> = None;
    // every call with all copies: packed arrays have tensor-core kernels that slices lack
    for copied in copies(&shape) {
        calls(shape.relu)
            .try_for_each(|choice| tuner.keep_faster(choice.with_copies(copied), &mut best))?;
    }
    if best.is_none() {
        tracing::warn!("cuDNN runs no algorithm for the convolution {shape}; a slow kernel does");
    }
    Ok(best.unwrap_or(Choice::DIRECT))
}

/// The algorithms that cuDNN documents for NHWC, fused and plain, in place. The others are not
/// tried: one that faults on the GPU would end the process's use of it.
fn calls(relu: bool) -> impl Iterator<Item = Choice> {
    [Call::Fused, Call::Plain]
        .into_iter()
        .flat_map(move |call| {
            [IMPLICIT_GEMM, PRECOMPUTED_GEMM]
                .into_iter()
                .filter(move |&n| relu || call == Call::Plain || n == PRECOMPUTED_GEMM)
                .map(move |algorithm| Choice {
                    call,
                    algorithm,
                    ..Choice::DIRECT
                })
        })
}

/// Which copies are tried: in, out.
fn copies(shape: &ConvShape) -> Vec<(bool, bool)> {
    let possible = (!shape.from.is_packed(), !shape.to.is_packed());
    if !shape.slices {
        return vec![possible];
    }
    let mut copies = vec![(false, false), (false, true), (true, false), (true, true)];
    copies.retain(|&(copy_in, copy_out)| possible.0 >= copy_in && possible.1 >= copy_out);
    copies
}

/// The error that an answer may have, as a share of the largest value. Winograd's transform in
/// half precision is the worst of cuDNN's algorithms.
fn tolerance(precision: Float) -> f32 {
    match precision {
        Float::F16 => 1e-2,
        Float::F32 => 1e-3,
    }
}

struct Tuner<'a> {
    gpu: &'a Gpu,
    shape: ConvShape,
    filter: &'a Arc<GpuFilter>,
    arena_len: usize,
    memory: Memory,
    /// Output of the plain kernel, and two `i32` for the comparison behind it.
    expected: u64,
    most: u64,
    /// First byte of the output in the arena.
    output: u64,
    output_len: usize,
    #[expect(dead_code, reason = "owns what the addresses point to")]
    owned: [cudarc::driver::CudaSlice<u8>; 4],
}

impl<'a> Tuner<'a> {
    fn new(
        gpu: &'a Gpu,
        shape: ConvShape,
        filter: &'a Arc<GpuFilter>,
        arena: Arena,
        workspace: u64,
    ) -> Result<Tuner<'a>, Fault> {
        let bytes = shape.precision.bytes();
        let output_len = shape.to.span(shape.batch);
        let packed = |view: super::program::View| view.packed_at(0).span(shape.batch) * bytes;
        let (from, copy_in) = scratch(gpu, packed(shape.from))?;
        let (to, copy_out) = scratch(gpu, packed(shape.to))?;
        let (right, expected) = scratch(gpu, output_len * bytes)?;
        let (two, most) = scratch(gpu, 8)?;
        let tuner = Tuner {
            gpu,
            shape,
            filter,
            arena_len: arena.len,
            memory: Memory {
                arena: arena.address,
                copy_in,
                copy_out,
                workspace,
            },
            expected,
            most,
            output: arena.address + (shape.to.offset * bytes) as u64,
            output_len,
            owned: [from, to, right, two],
        };
        let direct = PlannedConv::new(shape, Arc::clone(filter), Choice::DIRECT)?;
        // SAFETY: views and scratch belong together, and everything is waited for
        unsafe {
            gpu.kernels.fill(arena.address, arena.len)?;
            direct.enqueue(gpu, &tuner.memory)?;
            let stream = gpu.stream.cu_stream();
            cudarc::driver::result::memcpy_dtod_async(
                expected,
                tuner.output,
                output_len * bytes,
                stream,
            )?;
        }
        gpu.wait()?;
        Ok(tuner)
    }

    /// Times a choice and keeps it when it is the fastest right one so far.
    fn keep_faster(&self, choice: Choice, best: &mut Option<Choice>) -> Result<(), EngineError> {
        let timed = self.time(choice).map_err(refused(format!(
            "timing {choice:?} of the convolution {}",
            self.shape
        )))?;
        if let Some(timed) = timed.filter(|timed| best.is_none_or(|best| timed.ms < best.ms)) {
            *best = Some(timed);
        }
        Ok(())
    }

    /// The choice with its time; none when cuDNN refuses it or its answer is wrong.
    fn time(&self, choice: Choice) -> Result<Option<Choice>, Fault> {
        let gpu = self.gpu;
        let described = PlannedConv::new(self.shape, Arc::clone(self.filter), choice)
            .and_then(|conv| conv.with_workspace(gpu));
        let Ok(mut conv) = described else {
            return Ok(None);
        };
        if conv.choice.workspace > MOST_WORKSPACE {
            return Ok(None);
        }
        // SAFETY: views and scratch belong together, and everything is waited for
        unsafe {
            gpu.kernels.fill(self.memory.arena, self.arena_len)?;
            let refused = conv.enqueue(gpu, &self.memory).is_err();
            gpu.wait()?; // an error here is the GPU's and not a refusal
            if refused {
                return Ok(None);
            }
        }
        let error = self.error()?;
        if error.is_nan() || error > tolerance(self.shape.precision) {
            tracing::debug!("convolution {}: {choice:?} is off by {error}", self.shape);
            return Ok(None);
        }
        conv.choice.ms = self.milliseconds(&conv)?;
        Ok(Some(conv.choice))
    }

    /// Largest difference to the plain kernel's answer, in and between the output's pixels, as a
    /// share of the largest value.
    fn error(&self) -> Result<f32, Fault> {
        let gpu = self.gpu;
        let mut bits = [0u8; 8];
        let stream = gpu.stream.cu_stream();
        // SAFETY: both arrays are as long, and `most` holds two integers
        unsafe {
            cudarc::driver::result::memset_d8_async(self.most, 0, bits.len(), stream)?;
            let arrays = (self.output, self.expected);
            gpu.kernels.compare(arrays, self.most, self.output_len)?;
            gpu.download(self.most, &mut bits)?;
        }
        let [difference, largest] = [0, 4]
            .map(|at| f32::from_le_bytes([bits[at], bits[at + 1], bits[at + 2], bits[at + 3]]));
        Ok(difference / largest.max(f32::MIN_POSITIVE))
    }

    /// Time of one run; cuDNN has loaded the algorithm's kernels in a run before.
    fn milliseconds(&self, conv: &PlannedConv) -> Result<f32, Fault> {
        let gpu = self.gpu;
        let run = || -> Result<(), Fault> {
            // SAFETY: views and scratch belong together; the caller waits
            (0..REPEATS).try_for_each(|_| unsafe { conv.enqueue(gpu, &self.memory) })
        };
        // where calls cannot be recorded, frames are single launches too
        let graph = gpu.record(run).unwrap_or_default();
        let mut least = f32::INFINITY;
        for launch in 0..=LAUNCHES {
            let start = gpu.mark()?;
            match &graph {
                Some(graph) => graph.launch()?,
                None => run()?,
            }
            let elapsed = start.elapsed_ms(&gpu.mark()?)?;
            if launch > 0 {
                least = least.min(elapsed); // the first also uploads the graph
            }
        }
        Ok(least / REPEATS as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::program::View;

    fn shape(pixels: (usize, usize), relu: bool) -> ConvShape {
        let view = |pixel| View {
            offset: 0,
            pixel,
            channels: 16,
            height: 8,
            width: 8,
        };
        ConvShape {
            precision: Float::F16,
            slices: true,
            batch: 1,
            from: view(pixels.0),
            to: view(pixels.1),
            kernel: 3,
            stride: 1,
            relu,
        }
    }

    #[test]
    fn packed_arrays_are_never_copied_and_slices_in_every_way() {
        let ways = |from, to| copies(&shape((from, to), true));
        assert_eq!(ways(16, 16), [(false, false)]);
        assert_eq!(ways(64, 16), [(false, false), (true, false)]);
        assert_eq!(ways(64, 32).len(), 4);
    }

    #[test]
    fn slices_are_always_copied_where_they_must_not_be_used() {
        let shape = ConvShape {
            slices: false,
            ..shape((64, 16), true)
        };
        assert_eq!(copies(&shape), [(true, false)]);
    }

    #[test]
    fn without_an_activation_only_the_documented_algorithm_is_fused() {
        let fused = calls(false).filter(|choice| choice.call == Call::Fused);
        assert_eq!(
            fused.map(|choice| choice.algorithm).collect::<Vec<_>>(),
            [PRECOMPUTED_GEMM]
        );
        assert_eq!((calls(true).count(), calls(false).count()), (4, 3));
    }
}

//! A program in memory: buffers, convolutions as chosen, and the frame as one CUDA graph.
#![allow(
    unsafe_code,
    reason = "enqueues work on addresses inside the plan's own memory"
)]

use super::Float;
use super::choices::{Choice, TuningCache};
use super::conv::{Arena, ConvShape, GpuFilter, Memory, PlannedConv, scratch};
use super::gpu::{Fault, Gpu, refused};
use super::kernels::{At, Normalisation};
use super::program::{Program, View, Work};
use super::tune;
use crate::engine::{BatchSize, EngineError};
use crate::tensor::RawOutput;
use cudarc::driver::{CudaGraph, CudaSlice, PinnedHostSlice, result};
use std::sync::Arc;
use std::time::Instant;

/// Everything that the plans of all sizes have in common.
pub(super) struct Shared {
    pub(super) precision: Float,
    /// See [`super::CudaOptions::slices`].
    pub(super) slices: bool,
    /// In the order of the graph's convolutions.
    pub(super) filters: Vec<Arc<GpuFilter>>,
    pub(super) normalisation: Normalisation,
}

/// A frame as one launch.
struct Recorded(CudaGraph);

// SAFETY: a graph must not be used by two threads at once; it is only reachable through its plan,
// and a plan only through `&mut CudaEngine`
unsafe impl Send for Recorded {}

/// Addresses in host memory.
#[derive(Clone, Copy)]
struct Host {
    images: *mut u8,
    logits: *mut f32,
}

// SAFETY: they point into the plan's own pinned memory, which goes where the plan goes
unsafe impl Send for Host {}

/// Everything to run one batch size without allocating.
pub(super) struct Plan {
    pub(super) program: Program,
    shared: Arc<Shared>,
    /// By convolution.
    convs: Vec<PlannedConv>,
    memory: Memory,
    /// Device addresses of the images' bytes and of the logits.
    images: u64,
    logits: u64,
    /// The frame as one launch; without it, the steps are launched one by one.
    graph: Option<Recorded>,
    pinned_images: PinnedHostSlice<u8>,
    pinned_logits: PinnedHostSlice<f32>,
    /// Where those two lie: asking them would wait, which is not allowed while recording.
    host: Host,
    #[expect(dead_code, reason = "owns what the addresses point to")]
    owned: [CudaSlice<u8>; 6],
}

impl Plan {
    /// Allocates, chooses algorithms that are not known yet, and records the frame.
    ///
    /// # Errors
    /// When the GPU fails or has too little memory.
    pub(super) fn new(
        gpu: &Gpu,
        shared: &Arc<Shared>,
        program: Program,
        tuning: &mut TuningCache,
    ) -> Result<Plan, EngineError> {
        let bytes = program.arena_len * shared.precision.bytes();
        let (arena_memory, arena) =
            scratch(gpu, bytes).map_err(refused(format!("allocating {bytes} bytes")))?;
        let convs = chosen(gpu, shared, &program, arena, tuning)?;
        let allocated = Plan::allocate(gpu, shared, program, convs, (arena_memory, arena));
        let mut plan = allocated.map_err(refused("allocating memory for a frame"))?;
        plan.first_run(gpu)
            .map_err(refused("running the first frame"))?;
        plan.graph = match gpu.record(|| plan.enqueue(gpu)) {
            Ok(graph) => graph.map(Recorded),
            Err(error) => {
                tracing::warn!("no CUDA graph, every step is launched by itself: {error}");
                None
            }
        };
        Ok(plan)
    }

    fn allocate(
        gpu: &Gpu,
        shared: &Arc<Shared>,
        program: Program,
        convs: Vec<PlannedConv>,
        (arena_memory, arena): (CudaSlice<u8>, u64),
    ) -> Result<Plan, Fault> {
        let most =
            |bytes: &dyn Fn(&PlannedConv) -> usize| convs.iter().map(bytes).max().unwrap_or(0);
        let bytes = program.batch * program.height * program.width * 3;
        let values: usize = program
            .logits
            .iter()
            .map(|logits| logits.values(program.batch))
            .sum();
        let (in_memory, copy_in) = scratch(gpu, most(&|conv| conv.copies().0))?;
        let (out_memory, copy_out) = scratch(gpu, most(&|conv| conv.copies().1))?;
        let (work_memory, workspace) = scratch(gpu, most(&|conv| conv.choice.workspace))?;
        let (image_memory, images) = scratch(gpu, bytes)?;
        let (logit_memory, logits) = scratch(gpu, 4 * values)?;
        // SAFETY: written before it is read: the images by `upload`, the logits by the copy
        // from the GPU. The images are only written here, so they may be write-combined.
        let mut pinned_images = unsafe { gpu.context.alloc_pinned(bytes) }?;
        // SAFETY: as above
        let mut pinned_logits = unsafe { gpu.context.alloc_pinned_with_flags(values, 0) }?;
        let host = Host {
            images: pinned_images.as_mut_ptr()?,
            logits: pinned_logits.as_mut_ptr()?,
        };
        Ok(Plan {
            program,
            shared: Arc::clone(shared),
            convs,
            memory: Memory {
                arena,
                copy_in,
                copy_out,
                workspace,
            },
            images,
            logits,
            graph: None,
            pinned_images,
            pinned_logits,
            host,
            owned: [
                arena_memory,
                in_memory,
                out_memory,
                work_memory,
                image_memory,
                logit_memory,
            ],
        })
    }

    /// The batch that it was made for.
    pub(super) fn size(&self) -> BatchSize {
        let Program {
            batch,
            height,
            width,
            ..
        } = self.program;
        BatchSize {
            batch,
            height,
            width,
        }
    }

    /// Whether a frame is one launch.
    pub(super) fn is_recorded(&self) -> bool {
        self.graph.is_some()
    }

    /// Runs a frame.
    pub(super) fn run(
        &mut self,
        gpu: &Gpu,
        images: &[u8],
        output: &mut RawOutput,
    ) -> Result<(), Fault> {
        self.stage(images)?;
        match &self.graph {
            Some(Recorded(graph)) => graph.launch()?,
            None => self.enqueue(gpu)?,
        }
        gpu.wait()?;
        let mut rest = self.pinned_logits.as_slice()?;
        for level in &mut output.levels {
            for to in [&mut level.class, &mut level.boxes] {
                let (these, others) = rest.split_at(to.len());
                to.copy_from_slice(these);
                rest = others;
            }
        }
        Ok(())
    }

    /// Runs a frame step by step and shows every step's view as bytes.
    pub(super) fn run_slowly(
        &mut self,
        gpu: &Gpu,
        images: &[u8],
        mut show: impl FnMut(usize, &View, &[u8]),
    ) -> Result<(), Fault> {
        self.stage(images)?;
        self.upload(gpu)?;
        for index in 0..self.program.steps.len() {
            self.step(gpu, index)?;
            let step = self.program.steps[index];
            let view = self.program.views[step.node.0];
            let size = self.shared.precision.bytes();
            let mut bytes = vec![0; view.span(self.program.batch) * size];
            // SAFETY: the view lies in the arena
            unsafe { gpu.download(self.memory.arena + (view.offset * size) as u64, &mut bytes) }?;
            show(step.node.0, &view, &bytes);
        }
        Ok(())
    }

    /// Copies the caller's images to where the GPU can fetch them by itself.
    fn stage(&mut self, images: &[u8]) -> Result<(), Fault> {
        if images.len() != self.pinned_images.len() {
            return Err(format!(
                "the images have {} bytes, {} were expected",
                images.len(),
                self.pinned_images.len()
            )
            .into());
        }
        let to = self.host.images;
        // SAFETY: as long, checked just above; the last frame's copy to the GPU was waited for
        unsafe { std::ptr::copy_nonoverlapping(images.as_ptr(), to, images.len()) };
        Ok(())
    }

    /// Runs a grey frame, so that cuDNN and the driver load what they load only once; neither
    /// may happen while a frame is recorded.
    fn first_run(&mut self, gpu: &Gpu) -> Result<(), Fault> {
        let grey = vec![128; self.pinned_images.len()];
        self.stage(&grey)?;
        self.enqueue(gpu)?;
        Ok(gpu.wait()?)
    }

    /// Enqueues a frame: bytes to the GPU, all steps, logits back.
    fn enqueue(&self, gpu: &Gpu) -> Result<(), Fault> {
        self.upload(gpu)?;
        for index in 0..self.program.steps.len() {
            self.step(gpu, index)?;
        }
        let (batch, arena) = (self.program.batch, self.memory.arena);
        let stream = gpu.stream.cu_stream();
        let (len, to) = (self.pinned_logits.len(), self.host.logits);
        // SAFETY: both logit buffers hold all values; they live as long as the plan, and `run`
        // waits before it reads the host's
        unsafe {
            gpu.kernels
                .logits(batch, arena, &self.program.logits, self.logits)?;
            let to = std::slice::from_raw_parts_mut(to, len);
            result::memcpy_dtoh_async(to, self.logits, stream)?;
        }
        Ok(())
    }

    fn upload(&self, gpu: &Gpu) -> Result<(), Fault> {
        let (len, from) = (self.pinned_images.len(), self.host.images);
        // SAFETY: both buffers hold all bytes and live as long as the plan
        unsafe {
            let from = std::slice::from_raw_parts(from, len);
            result::memcpy_htod_async(self.images, from, gpu.stream.cu_stream())?;
        }
        Ok(())
    }

    fn step(&self, gpu: &Gpu, index: usize) -> Result<(), Fault> {
        let (kernels, batch, memory) = (&gpu.kernels, self.program.batch, &self.memory);
        let at = |view| At {
            arena: memory.arena,
            view,
        };
        let by = self.shared.normalisation;
        // SAFETY: the program's views lie in the plan's arena, which is as long as it says, and
        // the scratch is as long as the largest convolution wants
        unsafe {
            match &self.program.steps[index].work {
                Work::Normalise { to } => kernels.normalise(batch, at(to), self.images, by)?,
                Work::Conv { conv, .. } => self.convs[*conv].enqueue(gpu, memory)?,
                Work::MaxPool { from, to } => kernels.max_pool(batch, at(to), at(from))?,
                Work::Upsample { from, to } => kernels.upsample(batch, at(to), at(from))?,
                Work::Add { left, right, to } => {
                    kernels.add(batch, at(to), (at(left), at(right)))?;
                }
                Work::Copy { from, to } => kernels.copy(batch, at(to), at(from))?,
            }
        }
        Ok(())
    }
}

/// Every convolution in the fastest way, known from before or measured now.
fn chosen(
    gpu: &Gpu,
    shared: &Shared,
    program: &Program,
    arena: u64,
    tuning: &mut TuningCache,
) -> Result<Vec<PlannedConv>, EngineError> {
    let mut convs = Vec::with_capacity(shared.filters.len());
    let began = Instant::now();
    let mut measured = 0;
    let arena_values = Arena {
        address: arena,
        len: program.arena_len,
    };
    let mut workspace: Option<(CudaSlice<u8>, u64)> = None;
    for step in &program.steps {
        let Work::Conv { conv, from, to } = step.work else {
            continue;
        };
        let filter = &shared.filters[conv];
        let shape = ConvShape {
            precision: shared.precision,
            slices: shared.slices,
            batch: program.batch,
            from,
            to,
            kernel: filter.kernel,
            stride: filter.stride,
            relu: filter.relu,
        };
        let key = shape.to_string();
        let describe = |choice: Choice| {
            PlannedConv::new(shape, Arc::clone(filter), choice)
                .and_then(|conv| conv.with_workspace(gpu))
        };
        // a choice that cuDNN no longer takes is measured again
        if let Some(Ok(conv)) = tuning.get(&key).map(describe) {
            convs.push(conv);
            continue;
        }
        measured += 1;
        let (_, workspace) = match &workspace {
            Some(known) => known,
            None => workspace.insert(
                scratch(gpu, tune::MOST_WORKSPACE)
                    .map_err(refused("allocating memory to time convolutions in"))?,
            ),
        };
        let choice = tune::choose(gpu, shape, filter, arena_values, *workspace)?;
        tuning.insert(key, choice);
        tuning.save(); // at once: a start that is ended half-way must not be in vain
        convs
            .push(describe(choice).map_err(refused(format!("preparing the convolution {shape}")))?);
    }
    if measured > 0 {
        tracing::info!(
            "chose cuDNN's algorithms for {measured} convolutions at {} x {}x{} pixels in {:.1} s",
            program.batch,
            program.width,
            program.height,
            began.elapsed().as_secs_f64()
        );
    }
    Ok(convs)
}

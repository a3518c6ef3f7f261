//! One convolution of a plan, in the way that was chosen for it.
#![allow(
    unsafe_code,
    reason = "hands addresses inside one plan's memory to cuDNN and to the kernels"
)]

use super::Float;
use super::choices::{Call, Choice};
use super::cudnn::{Arrays, Conv2dParams, Convolution};
use super::filter::Filter;
use super::gpu::{Fault, Gpu, refused};
use super::kernels::{At, ConvArguments};
use super::program::View;
use crate::engine::EngineError;
use cudarc::cudnn::result::CudnnError;
use cudarc::driver::{CudaSlice, DriverError};
use std::fmt;
use std::sync::Arc;

/// A filter on the GPU.
pub(super) struct GpuFilter {
    memory: CudaSlice<u8>,
    weight: u64,
    bias: u64,
    in_channels: usize,
    out_channels: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) relu: bool,
}

impl GpuFilter {
    /// Uploads a filter; `layer` is for messages.
    ///
    /// # Errors
    /// When its values do not fit the precision, or the GPU refuses.
    pub(super) fn new(
        gpu: &Gpu,
        precision: Float,
        filter: &Filter,
        layer: &str,
    ) -> Result<GpuFilter, EngineError> {
        let mut bytes = precision.to_bytes(&filter.weight);
        let bias_at = bytes.len().next_multiple_of(256);
        bytes.resize(bias_at, 0);
        bytes.extend(precision.to_bytes(&filter.bias));
        let values = filter.weight.iter().chain(&filter.bias);
        if let Some(value) = values.copied().find(|&value| !precision.holds(value)) {
            return Err(EngineError::Unsupported {
                engine: "cuda",
                reason: format!("a weight of layer '{layer}' is {value}, too large for f16"),
            });
        }
        let memory = gpu
            .upload(&bytes)
            .map_err(refused(format!("uploading the weights of '{layer}'")))?;
        let weight = gpu.address(&memory);
        Ok(GpuFilter {
            memory,
            weight,
            bias: weight + bias_at as u64,
            in_channels: filter.in_channels,
            out_channels: filter.out_channels,
            kernel: filter.kernel,
            stride: filter.stride,
            relu: filter.relu,
        })
    }

    /// Bytes on the GPU.
    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }
}

/// The memory that all views of a plan count from.
#[derive(Clone, Copy)]
pub(super) struct Arena {
    pub(super) address: u64,
    /// Values.
    pub(super) len: usize,
}

/// Where a plan's memory is.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    /// All views count from here.
    pub(super) arena: u64,
    /// For inputs that are copied out of their concatenation.
    pub(super) copy_in: u64,
    /// For outputs that are copied into their concatenation.
    pub(super) copy_out: u64,
    pub(super) workspace: u64,
}

/// Everything that a choice depends on; as text, its key in the tuning cache.
#[derive(Clone, Copy)]
pub(super) struct ConvShape {
    pub(super) precision: Float,
    /// Whether slices of concatenations may be read and written in place.
    pub(super) slices: bool,
    pub(super) batch: usize,
    pub(super) from: View,
    pub(super) to: View,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) relu: bool,
}

impl fmt::Display for ConvShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (&self.from, &self.to);
        write!(
            f,
            "{} n{} {}x{}x{}/{} k{}s{}{} {}x{}x{}/{}{}",
            self.precision,
            self.batch,
            from.height,
            from.width,
            from.channels,
            from.pixel,
            self.kernel,
            self.stride,
            if self.relu { " relu" } else { "" },
            to.height,
            to.width,
            to.channels,
            to.pixel,
            if self.slices { "" } else { " packed" }
        )
    }
}

/// A convolution ready to be enqueued.
pub(super) struct PlannedConv {
    pub(super) shape: ConvShape,
    pub(super) choice: Choice,
    filter: Arc<GpuFilter>,
    /// Not for [`Call::Direct`].
    cudnn: Option<Convolution>,
}

impl PlannedConv {
    /// Describes the convolution to cuDNN.
    ///
    /// # Errors
    /// When cuDNN refuses the description.
    pub(super) fn new(
        shape: ConvShape,
        filter: Arc<GpuFilter>,
        choice: Choice,
    ) -> Result<PlannedConv, CudnnError> {
        debug_assert_eq!(
            (filter.in_channels, filter.out_channels),
            (shape.from.channels, shape.to.channels)
        );
        let mut conv = PlannedConv {
            shape,
            choice,
            filter,
            cudnn: None,
        };
        if choice.call != Call::Direct {
            let views = (&conv.input(), &conv.output());
            let params = Conv2dParams {
                kernel: shape.kernel,
                stride: shape.stride,
                relu: shape.relu,
            };
            conv.cudnn = Some(Convolution::new(
                shape.precision,
                shape.batch,
                views,
                params,
            )?);
        }
        Ok(conv)
    }

    /// Asks cuDNN for the scratch memory and notes it in the choice.
    ///
    /// # Errors
    /// When cuDNN cannot run the algorithm.
    pub(super) fn with_workspace(mut self, gpu: &Gpu) -> Result<PlannedConv, CudnnError> {
        if let Some(cudnn) = &self.cudnn {
            self.choice.workspace = cudnn.workspace(&gpu.cudnn, self.choice.algorithm)?;
        }
        Ok(self)
    }

    fn input(&self) -> View {
        match self.choice.copy_in {
            true => self.shape.from.packed_at(0),
            false => self.shape.from,
        }
    }

    fn output(&self) -> View {
        match self.choice.copy_out {
            true => self.shape.to.packed_at(0),
            false => self.shape.to,
        }
    }

    /// Bytes of the copies in and out.
    pub(super) fn copies(&self) -> (usize, usize) {
        let bytes = |wanted: bool, view: View| match wanted {
            true => view.span(self.shape.batch) * self.shape.precision.bytes(),
            false => 0,
        };
        (
            bytes(self.choice.copy_in, self.input()),
            bytes(self.choice.copy_out, self.output()),
        )
    }

    /// Enqueues everything that the convolution takes.
    ///
    /// # Safety
    /// `memory` must belong to the plan that the views were made for, with as much scratch as
    /// [`PlannedConv::copies`] and the choice's workspace say, and outlive the stream's work.
    pub(super) unsafe fn enqueue(&self, gpu: &Gpu, memory: &Memory) -> Result<(), Fault> {
        let (kernels, batch) = (&gpu.kernels, self.shape.batch);
        let (input, output) = (self.input(), self.output());
        let at = |arena, view| At { arena, view };
        let mut from = at(memory.arena, &input);
        let mut to = at(memory.arena, &output);
        // SAFETY: all addresses come from `memory`, the caller's word; the views fit it, because
        // they are the program's own or packed copies of them in the scratch
        unsafe {
            if self.choice.copy_in {
                from.arena = memory.copy_in;
                kernels.copy(batch, from, at(memory.arena, &self.shape.from))?;
            }
            if self.choice.copy_out {
                to.arena = memory.copy_out;
            }
            self.call(gpu, memory, (from, to))?;
            if self.choice.copy_out {
                kernels.copy(batch, at(memory.arena, &self.shape.to), to)?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// As for [`PlannedConv::enqueue`].
    unsafe fn call(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        (from, to): (At<'_>, At<'_>),
    ) -> Result<(), Fault> {
        let (choice, batch) = (&self.choice, self.shape.batch);
        let bytes = self.shape.precision.bytes();
        let address = |at: At<'_>| at.arena + (at.view.offset * bytes) as u64;
        let arrays = Arrays {
            from: address(from),
            weight: self.filter.weight,
            bias: self.filter.bias,
            to: address(to),
            workspace: memory.workspace,
            workspace_len: choice.workspace,
        };
        let arguments = ConvArguments {
            weight: self.filter.weight,
            bias: self.filter.bias,
            kernel: self.shape.kernel,
            stride: self.shape.stride,
            relu: self.shape.relu,
        };
        // SAFETY: passed on
        unsafe {
            match (choice.call, &self.cudnn) {
                (Call::Fused, Some(cudnn)) => cudnn.fused(&gpu.cudnn, choice.algorithm, arrays)?,
                (Call::Plain, Some(cudnn)) => {
                    cudnn.plain(&gpu.cudnn, choice.algorithm, arrays)?;
                    gpu.kernels.bias_relu(batch, to, &arguments)?;
                }
                _ => gpu.kernels.direct(batch, (to, from), &arguments)?,
            }
        }
        Ok(())
    }
}

/// Bytes that live while choices are being made or plans run.
pub(super) fn scratch(gpu: &Gpu, bytes: usize) -> Result<(CudaSlice<u8>, u64), DriverError> {
    let memory = gpu.zeroed(bytes)?;
    let address = gpu.address(&memory);
    Ok((memory, address))
}

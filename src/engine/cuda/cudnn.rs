//! cuDNN's descriptors and the two calls that the engine makes of them.
//!
//! The raw functions are used and not cudarc's safe layer, because a convolution here reads and
//! writes slices of one arena, which that layer's borrowed slices cannot say.
#![allow(
    unsafe_code,
    reason = "cuDNN is a C library; descriptors are owned here and addresses come from Memory"
)]

use super::Float;
use super::program::View;
use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;
use cudarc::driver::CudaStream;
use std::ffi::{c_int, c_void};
use std::ptr::from_ref;

/// All forward algorithms, by their number in cuDNN.
pub(super) const ALGORITHMS: [sys::cudnnConvolutionFwdAlgo_t; 8] = {
    use sys::cudnnConvolutionFwdAlgo_t as Algorithm;
    [
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_FFT,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
    ]
};

/// Like the next, without indices that are computed before.
pub(super) const IMPLICIT_GEMM: u32 = 0;
/// The only algorithm that cuDNN documents for a fused call without an activation.
pub(super) const PRECOMPUTED_GEMM: u32 = 1;

/// A cuDNN library context bound to one stream.
pub(super) struct Handle(sys::cudnnHandle_t);

// SAFETY: cuDNN allows a handle to be used from any thread as long as one thread uses it at a
// time; the engine that owns it is only reachable through `&mut`, and it binds the CUDA context
// to the calling thread first
unsafe impl Send for Handle {}

impl Handle {
    /// A context whose kernels go to `stream`; the stream's CUDA context must be current.
    pub(super) fn new(stream: &CudaStream) -> Result<Handle, CudnnError> {
        let handle = Handle(result::create_handle()?);
        // SAFETY: both are alive; cuDNN's and the driver's stream are the same pointer
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }?;
        Ok(handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created in `new` and never given away
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

macro_rules! descriptor {
    ($name:ident, $raw:ty, $create:path, $destroy:path) => {
        struct $name($raw);

        impl $name {
            fn new() -> Result<$name, CudnnError> {
                Ok($name($create()?))
            }
        }

        // SAFETY: a descriptor is plain host memory without ties to a thread
        unsafe impl Send for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: created in `new` and never given away
                let _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

descriptor!(
    Tensor,
    sys::cudnnTensorDescriptor_t,
    result::create_tensor_descriptor,
    result::destroy_tensor_descriptor
);
descriptor!(
    Weights,
    sys::cudnnFilterDescriptor_t,
    result::create_filter_descriptor,
    result::destroy_filter_descriptor
);
descriptor!(
    Conv2dDescriptor,
    sys::cudnnConvolutionDescriptor_t,
    result::create_convolution_descriptor,
    result::destroy_convolution_descriptor
);
descriptor!(
    Activation,
    sys::cudnnActivationDescriptor_t,
    result::create_activation_descriptor,
    destroy_activation
);

/// cudarc's result layer has no such function.
///
/// # Safety
/// The descriptor must not have been destroyed.
unsafe fn destroy_activation(raw: sys::cudnnActivationDescriptor_t) -> Result<(), CudnnError> {
    // SAFETY: passed on
    unsafe { sys::cudnnDestroyActivationDescriptor(raw) }.result()
}

/// Parameters of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Conv2dParams {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) relu: bool,
}

/// Everything that cuDNN knows about one convolution.
pub(super) struct Convolution {
    from: Tensor,
    to: Tensor,
    bias: Tensor,
    weights: Weights,
    conv: Conv2dDescriptor,
    activation: Activation,
}

/// The arrays of one call, as device addresses.
#[derive(Clone, Copy)]
pub(super) struct Arrays {
    pub(super) from: u64,
    pub(super) weight: u64,
    pub(super) bias: u64,
    pub(super) to: u64,
    pub(super) workspace: u64,
    pub(super) workspace_len: usize,
}

impl Convolution {
    /// Describes a convolution from one view to another.
    pub(super) fn new(
        precision: Float,
        batch: usize,
        (from, to): (&View, &View),
        params: Conv2dParams,
    ) -> Result<Convolution, CudnnError> {
        use sys::cudnnActivationMode_t as Mode;
        let data = data_type(precision);
        let convolution = Convolution {
            from: tensor(data, batch, from)?,
            to: tensor(data, batch, to)?,
            bias: tensor(data, 1, &vector(to.channels))?,
            weights: Weights::new()?,
            conv: Conv2dDescriptor::new()?,
            activation: Activation::new()?,
        };
        let (pad, step) = (int(params.kernel / 2), int(params.stride));
        let mode = if params.relu {
            Mode::CUDNN_ACTIVATION_RELU
        } else {
            Mode::CUDNN_ACTIVATION_IDENTITY
        };
        // half with tensor cores and sums in float; float without TensorFloat-32's short mantissa
        let math = match precision {
            Float::F16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            Float::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        };
        // SAFETY: all descriptors were made just above and are alive
        unsafe {
            result::set_filter4d_descriptor(
                convolution.weights.0,
                data,
                sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
                [to.channels, from.channels, params.kernel, params.kernel].map(int),
            )?;
            result::set_convolution2d_descriptor(
                convolution.conv.0,
                pad,
                pad,
                step,
                step,
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )?;
            result::set_convolution_math_type(convolution.conv.0, math)?;
            result::set_activation_descriptor(
                convolution.activation.0,
                mode,
                sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN,
                0.0,
            )?;
        }
        Ok(convolution)
    }

    /// Bytes of scratch memory that an algorithm needs; an error where it cannot run.
    pub(super) fn workspace(&self, handle: &Handle, algorithm: u32) -> Result<usize, CudnnError> {
        // SAFETY: handle and descriptors are alive
        unsafe {
            result::get_convolution_forward_workspace_size(
                handle.0,
                self.from.0,
                self.weights.0,
                self.conv.0,
                self.to.0,
                ALGORITHMS[algorithm as usize],
            )
        }
    }

    /// Enqueues convolution, bias and activation.
    ///
    /// # Safety
    /// The addresses must hold what the views and the filter say, and `workspace` enough bytes.
    pub(super) unsafe fn fused(
        &self,
        handle: &Handle,
        algorithm: u32,
        arrays: Arrays,
    ) -> Result<(), CudnnError> {
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: handle and descriptors are alive, the arrays are the caller's word; the third
        // operand is scaled by zero, and naming the output for it is allowed
        unsafe {
            result::convolution_bias_activation_forward(
                handle.0,
                from_ref(&one).cast(),
                self.from.0,
                pointer(arrays.from),
                self.weights.0,
                pointer(arrays.weight),
                self.conv.0,
                ALGORITHMS[algorithm as usize],
                pointer(arrays.workspace).cast_mut(),
                arrays.workspace_len,
                from_ref(&zero).cast(),
                self.to.0,
                pointer(arrays.to),
                self.bias.0,
                pointer(arrays.bias),
                self.activation.0,
                self.to.0,
                pointer(arrays.to).cast_mut(),
            )
        }
    }

    /// Enqueues the convolution alone.
    ///
    /// # Safety
    /// As for [`Convolution::fused`].
    pub(super) unsafe fn plain(
        &self,
        handle: &Handle,
        algorithm: u32,
        arrays: Arrays,
    ) -> Result<(), CudnnError> {
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: handle and descriptors are alive, the arrays are the caller's word
        unsafe {
            result::convolution_forward(
                handle.0,
                from_ref(&one).cast(),
                self.from.0,
                pointer(arrays.from),
                self.weights.0,
                pointer(arrays.weight),
                self.conv.0,
                ALGORITHMS[algorithm as usize],
                pointer(arrays.workspace).cast_mut(),
                arrays.workspace_len,
                from_ref(&zero).cast(),
                self.to.0,
                pointer(arrays.to).cast_mut(),
            )
        }
    }
}

fn data_type(precision: Float) -> sys::cudnnDataType_t {
    match precision {
        Float::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
        Float::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
    }
}

/// A vector over channels, as cuDNN wants a bias.
fn vector(channels: usize) -> View {
    View {
        offset: 0,
        pixel: channels,
        channels,
        height: 1,
        width: 1,
    }
}

/// NHWC by its distances: a slice of channels is an array whose pixels are further apart.
fn tensor(data: sys::cudnnDataType_t, batch: usize, view: &View) -> Result<Tensor, CudnnError> {
    let row = view.width * view.pixel;
    let sides = [batch, view.channels, view.height, view.width].map(int);
    let distances = [view.height * row, 1, row, view.pixel].map(int);
    let tensor = Tensor::new()?;
    // SAFETY: made just above
    unsafe { result::set_tensor4d_descriptor_ex(tensor.0, data, sides, distances) }?;
    Ok(tensor)
}

/// `Program::new` refuses arrays that do not fit.
fn int(value: usize) -> c_int {
    value as c_int
}

fn pointer(address: u64) -> *const c_void {
    address as *const c_void
}

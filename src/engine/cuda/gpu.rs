//! One GPU: context, stream, cuDNN and kernels, or the reason why there is none.
#![allow(
    unsafe_code,
    reason = "asks the driver for its version, and moves bytes between raw addresses"
)]

use super::Float;
use super::cudnn::Handle;
use super::kernels::Kernels;
use crate::engine::EngineError;
use cudarc::cudnn::result::get_version;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys,
};
use std::sync::Arc;

/// Error of the driver or of cuDNN.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The CUDA version that the bindings are written for: older drivers lack functions.
const LEAST_DRIVER: i32 = 12_020;
/// The major version of cuDNN whose functions are called.
const LEAST_CUDNN: usize = 90_000;

/// A GPU that is ready to run convolutions.
pub(super) struct Gpu {
    // dropped in this order
    pub(super) cudnn: Handle,
    pub(super) kernels: Kernels,
    pub(super) stream: Arc<CudaStream>,
    pub(super) context: Arc<CudaContext>,
    /// Name and compute capability, such as `NVIDIA H100 PCIe (sm_90)`.
    pub(super) name: String,
    /// Such as `cuDNN 9.10.2, CUDA driver 12.6`.
    pub(super) versions: String,
    /// Such as `00000000:01:00.0`; a board's own GPU has none.
    pub(super) pci: Option<String>,
}

/// As NVML writes it: domain, bus, device and function. A GPU that sits on no bus is all zeros.
fn pci_address(context: &CudaContext) -> Option<String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
    };
    let domain = context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID).ok()?;
    let bus = context.attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID).ok()?;
    let device = context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID).ok()?;
    ((domain, bus, device) != (0, 0, 0)).then(|| format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
}

impl Gpu {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// Without a driver, a GPU, cuDNN, or with ones that are too old; says what to do.
    pub(super) fn open(ordinal: usize, precision: Float) -> Result<Gpu, EngineError> {
        libraries_present()?;
        let context = CudaContext::new(ordinal).map_err(|error| {
            unavailable(format!(
                "the NVIDIA driver has no usable GPU number {ordinal} ({error}); \
                 check 'nvidia-smi'"
            ))
        })?;
        let driver = driver_version().map_err(refused("asking for the driver's version"))?;
        if driver < LEAST_DRIVER {
            return Err(unavailable(format!(
                "the NVIDIA driver is for CUDA {}, at least {} is needed; update the driver, \
                 or JetPack to 6",
                version(driver),
                version(LEAST_DRIVER)
            )));
        }
        // one stream, no shared slices: events between streams would only break the capture
        // SAFETY: every array is used on `stream` alone
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(refused("making a stream"))?;
        let cudnn_version = get_version();
        if cudnn_version < LEAST_CUDNN {
            return Err(unavailable(format!(
                "cuDNN {cudnn_version} is too old, 9 is needed"
            )));
        }
        let cudnn = Handle::new(&stream).map_err(refused("starting cuDNN"))?;
        let kernels = Kernels::load(&context, &stream, precision)
            .map_err(|error| kernels_refused(error, driver))?;
        let capability = context
            .compute_capability()
            .map_err(refused("asking for the compute capability"))?;
        let name = context.name().map_err(refused("asking for the name"))?;
        let pci = pci_address(&context);
        Ok(Gpu {
            cudnn,
            kernels,
            stream,
            name: format!("{name} (sm_{}{})", capability.0, capability.1),
            versions: format!(
                "cuDNN {}.{}.{}, CUDA driver {}",
                cudnn_version / 10_000,
                cudnn_version / 100 % 100,
                cudnn_version % 100,
                version(driver)
            ),
            pci,
            context,
        })
    }

    /// Makes the GPU this thread's: an engine may be made on one thread and run on another.
    pub(super) fn bind(&self) -> Result<(), EngineError> {
        self.context
            .bind_to_thread()
            .map_err(refused("binding the GPU to a thread"))
    }

    /// Waits until everything enqueued so far has run.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.stream.synchronize()
    }

    /// Zeroed memory.
    pub(super) fn zeroed(&self, bytes: usize) -> Result<CudaSlice<u8>, DriverError> {
        self.stream.alloc_zeros(bytes.max(1))
    }

    /// The address of memory that is only used on this GPU's stream.
    pub(super) fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        memory.device_ptr(&self.stream).0
    }

    /// Copies bytes to a new array and waits.
    pub(super) fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>, DriverError> {
        let memory = self.stream.clone_htod(bytes)?;
        self.wait()?;
        Ok(memory)
    }

    /// Copies bytes back and waits.
    ///
    /// # Safety
    /// `from` must hold as many bytes.
    pub(super) unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.wait()?;
        // SAFETY: the source is the caller's word; the call returns when the bytes are there
        unsafe { result::memcpy_dtoh_sync(bytes, from) }
    }

    /// A mark in the stream that time can be measured between.
    pub(super) fn mark(&self) -> Result<CudaEvent, DriverError> {
        self.stream
            .record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
    }

    /// Records what `enqueue` sends to the stream, instead of running it, as one launch.
    ///
    /// # Errors
    /// When something of it cannot be recorded; the stream is as before then.
    pub(super) fn record(
        &self,
        enqueue: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<Option<CudaGraph>, Fault> {
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let enqueued = enqueue();
        // a capture must be ended even when it failed
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        let graph = graph?;
        if let Some(graph) = &graph {
            graph.upload()?;
        }
        Ok(graph)
    }
}

/// Refuses machines without the libraries, which cudarc would panic on.
#[cfg(not(feature = "candle-cuda"))]
fn libraries_present() -> Result<(), EngineError> {
    // SAFETY: loads and unloads a library by its usual names
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable(
            "there is no NVIDIA driver (libcuda.so.1); install it, or use --engine cpu".to_owned(),
        ));
    }
    // SAFETY: as above
    if !unsafe { cudarc::cudnn::sys::is_culib_present() } {
        return Err(unavailable(
            "there is no cuDNN (libcudnn.so.9); install cuDNN 9, on a Jetson with \
             'apt install nvidia-cudnn'"
                .to_owned(),
        ));
    }
    Ok(())
}

/// candle's own CUDA kernels link the libraries: without them the program does not even start.
#[cfg(feature = "candle-cuda")]
fn libraries_present() -> Result<(), EngineError> {
    Ok(())
}

fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes one integer
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

/// `12020` → `12.2`.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// This build's kernels and this GPU will never fit; anything else may pass.
fn kernels_refused(error: DriverError, driver: i32) -> EngineError {
    use sys::CUresult::{
        CUDA_ERROR_INVALID_PTX, CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    };
    let unsupported = |reason: String| EngineError::Unsupported {
        engine: "cuda",
        reason,
    };
    match error.0 {
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION => unsupported(format!(
            "its kernels were built with a newer CUDA than this driver's {}; \
             build with this machine's own nvcc",
            version(driver)
        )),
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_INVALID_PTX => unsupported(format!(
            "the driver does not take its kernels ({error}); build with \
             CUDA_COMPUTE_CAP set to this GPU's compute capability"
        )),
        _ => unavailable(format!("the driver cannot load its kernels ({error})")),
    }
}

fn unavailable(reason: String) -> EngineError {
    EngineError::Unavailable {
        engine: "cuda",
        reason,
    }
}

/// Maps a driver or cuDNN error. Allocates only when it failed, because every
/// frame passes here.
pub(super) fn refused<E: Into<Fault>>(doing: impl Into<String>) -> impl FnOnce(E) -> EngineError {
    |source| EngineError::Gpu {
        doing: doing.into(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(
            (version(12_020).as_str(), version(13_000).as_str()),
            ("12.2", "13.0")
        );
    }
}

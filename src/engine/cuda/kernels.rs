//! Launches the kernels of `kernels.cu`.
#![allow(
    unsafe_code,
    reason = "kernels take raw device addresses; each launch names the function whose parameters it must match"
)]

use super::Float;
use super::program::{Logits, View};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
    sys,
};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// `kernels.cu`, compiled by build.rs.
static PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// The same for drivers that are older than the compiler, which writes its own version into the
/// first directive; nothing in these kernels is younger than CUDA 12.
fn for_older_drivers(ptx: &str) -> String {
    let lower = |line: &str| match line.starts_with(".version ") {
        true => ".version 8.0".to_owned(),
        false => line.to_owned(),
    };
    ptx.lines().map(|line| lower(line) + "\n").collect()
}

/// Logit arrays of one call: class and boxes of four strides.
pub(super) const MOST_ARRAYS: usize = 8;

const THREADS: u32 = 256;

/// Laid out as `Image` in kernels.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Image {
    data: u64,
    pixel: i32,
    channels: i32,
    height: i32,
    width: i32,
}

// SAFETY: plain values, laid out as in C
unsafe impl DeviceRepr for Image {}

impl Image {
    pub(super) fn new(precision: Float, at: At<'_>) -> Image {
        Image {
            data: at.arena + (at.view.offset * precision.bytes()) as u64,
            pixel: at.view.pixel as i32,
            channels: at.view.channels as i32,
            height: at.view.height as i32,
            width: at.view.width as i32,
        }
    }
}

/// Laid out as `LogitArrays` in kernels.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct LogitArrays {
    from: [Image; MOST_ARRAYS],
    to: [u64; MOST_ARRAYS],
    channels: [i32; MOST_ARRAYS],
}

// SAFETY: plain values, laid out as in C
unsafe impl DeviceRepr for LogitArrays {}

impl LogitArrays {
    /// Arrays that are written one after the other from `to` on, and the longest one's values.
    ///
    /// # Panics
    /// With more than [`MOST_ARRAYS`] arrays.
    pub(super) fn new(
        precision: Float,
        batch: usize,
        arena: u64,
        logits: &[Logits],
        mut to: u64,
    ) -> (LogitArrays, u32) {
        let mut arrays = LogitArrays::default();
        let mut most = 0;
        for (i, array) in logits.iter().enumerate() {
            let view = &array.from;
            let values = array.values(batch);
            arrays.from[i] = Image::new(precision, At { arena, view });
            arrays.to[i] = to;
            arrays.channels[i] = array.channels as i32;
            to += 4 * values as u64;
            most = most.max(values as u32);
        }
        (arrays, most)
    }
}

/// The kernels of one precision, and where values lie in memory.
pub(super) struct Kernels {
    normalise: CudaFunction,
    max_pool: CudaFunction,
    upsample: CudaFunction,
    add: CudaFunction,
    copy: CudaFunction,
    bias_relu: CudaFunction,
    direct: CudaFunction,
    logits: CudaFunction,
    fill: CudaFunction,
    compare: CudaFunction,
    stream: Arc<CudaStream>,
    precision: Float,
    /// Blocks that fill the GPU; larger work is looped over.
    most_blocks: u32,
}

/// `(byte / 255 − mean) / std` as `byte × scale + shift`, by channel.
#[derive(Clone, Copy)]
pub(super) struct Normalisation {
    pub(super) scale: [f32; 3],
    pub(super) shift: [f32; 3],
}

impl Normalisation {
    pub(super) fn new(mean: &[f32; 3], std: &[f32; 3]) -> Normalisation {
        Normalisation {
            scale: std.map(|std| 1.0 / (255.0 * std)),
            shift: std::array::from_fn(|c| -mean[c] / std[c]),
        }
    }
}

/// A view in an arena that starts at `arena`.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) arena: u64,
    pub(super) view: &'a View,
}

/// Arguments of a convolution beside its views.
#[derive(Clone, Copy)]
pub(super) struct ConvArguments {
    pub(super) weight: u64,
    pub(super) bias: u64,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) relu: bool,
}

impl Kernels {
    /// Loads the kernels into a context.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
        precision: Float,
    ) -> Result<Kernels, DriverError> {
        use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let module = match context.load_module(Ptx::from_src(PTX)) {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                context.load_module(Ptx::from_src(for_older_drivers(PTX)))?
            }
            loaded => loaded?,
        };
        let function = |name: &str| module.load_function(&format!("{name}_{precision}"));
        let processors = context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Kernels {
            normalise: function("normalise")?,
            max_pool: function("max_pool")?,
            upsample: function("upsample")?,
            add: function("add")?,
            copy: function("copy")?,
            bias_relu: function("bias_relu")?,
            direct: function("direct")?,
            logits: function("logits")?,
            fill: function("fill")?,
            compare: function("compare")?,
            stream: Arc::clone(stream),
            precision,
            most_blocks: 8 * processors.max(1) as u32,
        })
    }

    fn image(&self, at: At<'_>) -> Image {
        Image::new(self.precision, at)
    }

    /// Packs of a whole view.
    fn packs(&self, batch: usize, view: &View) -> u32 {
        (batch * view.height * view.width * view.channels / self.precision.pack()) as u32
    }

    fn grid(&self, items: u32) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (items.div_ceil(THREADS).clamp(1, self.most_blocks), 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        }
    }

    /// Bytes at `from` to normalised values.
    ///
    /// # Safety
    /// For this and every launch below: the addresses must hold what the views say until the
    /// stream has run the kernel.
    pub(super) unsafe fn normalise(
        &self,
        batch: usize,
        to: At<'_>,
        from: u64,
        by: Normalisation,
    ) -> Result<(), DriverError> {
        let (image, n) = (self.image(to), self.packs(batch, to.view));
        let mut launch = self.stream.launch_builder(&self.normalise);
        launch.arg(&image).arg(&from).arg(&n);
        for value in by.scale.iter().chain(&by.shift) {
            launch.arg(value);
        }
        // SAFETY: arguments as in `normalise_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// 3×3 stride-2 ceil-mode pooling.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn max_pool(
        &self,
        batch: usize,
        to: At<'_>,
        from: At<'_>,
    ) -> Result<(), DriverError> {
        // SAFETY: arguments as in `max_pool_*`; addresses are the caller's word
        unsafe { self.move_packs(&self.max_pool, batch, to, from) }
    }

    /// Nearest-neighbour ×2 upsampling.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn upsample(
        &self,
        batch: usize,
        to: At<'_>,
        from: At<'_>,
    ) -> Result<(), DriverError> {
        // SAFETY: arguments as in `upsample_*`; addresses are the caller's word
        unsafe { self.move_packs(&self.upsample, batch, to, from) }
    }

    /// Copies a view.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn copy(
        &self,
        batch: usize,
        to: At<'_>,
        from: At<'_>,
    ) -> Result<(), DriverError> {
        // SAFETY: arguments as in `copy_*`; addresses are the caller's word
        unsafe { self.move_packs(&self.copy, batch, to, from) }
    }

    /// # Safety
    /// As for [`Kernels::normalise`]; `function` must take two images and a count.
    unsafe fn move_packs(
        &self,
        function: &CudaFunction,
        batch: usize,
        to: At<'_>,
        from: At<'_>,
    ) -> Result<(), DriverError> {
        let (n, to, from) = (self.packs(batch, to.view), self.image(to), self.image(from));
        let mut launch = self.stream.launch_builder(function);
        launch.arg(&to).arg(&from).arg(&n);
        // SAFETY: passed on
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// Element-wise sum.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn add(
        &self,
        batch: usize,
        to: At<'_>,
        (left, right): (At<'_>, At<'_>),
    ) -> Result<(), DriverError> {
        let n = self.packs(batch, to.view);
        let (to, left, right) = (self.image(to), self.image(left), self.image(right));
        let mut launch = self.stream.launch_builder(&self.add);
        launch.arg(&to).arg(&left).arg(&right).arg(&n);
        // SAFETY: arguments as in `add_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// Bias and activation in place.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn bias_relu(
        &self,
        batch: usize,
        to: At<'_>,
        conv: &ConvArguments,
    ) -> Result<(), DriverError> {
        let (n, to, relu) = (
            self.packs(batch, to.view),
            self.image(to),
            i32::from(conv.relu),
        );
        let mut launch = self.stream.launch_builder(&self.bias_relu);
        launch.arg(&to).arg(&conv.bias).arg(&relu).arg(&n);
        // SAFETY: arguments as in `bias_relu_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// A convolution with bias and activation, slowly.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn direct(
        &self,
        batch: usize,
        (to, from): (At<'_>, At<'_>),
        conv: &ConvArguments,
    ) -> Result<(), DriverError> {
        let n = (batch * to.view.height * to.view.width * to.view.channels) as u32;
        let (to, from) = (self.image(to), self.image(from));
        let (kernel, stride) = (conv.kernel as i32, conv.stride as i32);
        let relu = i32::from(conv.relu);
        let mut launch = self.stream.launch_builder(&self.direct);
        launch.arg(&to).arg(&from).arg(&conv.weight).arg(&conv.bias);
        launch.arg(&kernel).arg(&stride).arg(&relu).arg(&n);
        // SAFETY: arguments as in `direct_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// Writes the logits, one array after the other, as f32 to `to`.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn logits(
        &self,
        batch: usize,
        arena: u64,
        logits: &[Logits],
        to: u64,
    ) -> Result<(), DriverError> {
        let (arrays, most) = LogitArrays::new(self.precision, batch, arena, logits, to);
        let batch = batch as i32;
        let mut grid = self.grid(most);
        grid.grid_dim.1 = logits.len() as u32;
        let mut launch = self.stream.launch_builder(&self.logits);
        launch.arg(&arrays).arg(&batch);
        // SAFETY: arguments as in `logits_*`; addresses are the caller's word
        unsafe { launch.launch(grid) }.map(drop)
    }

    /// Fills memory with the same pseudo-random values on every call.
    ///
    /// # Safety
    /// See [`Kernels::normalise`].
    pub(super) unsafe fn fill(&self, to: u64, values: usize) -> Result<(), DriverError> {
        let n = values as u32;
        let mut launch = self.stream.launch_builder(&self.fill);
        launch.arg(&to).arg(&n);
        // SAFETY: arguments as in `fill_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }

    /// Raises `most[0]` to the largest difference and `most[1]` to the largest expected value,
    /// both as the bits of non-negative floats.
    ///
    /// # Safety
    /// See [`Kernels::normalise`]; `most` must hold two `i32`.
    pub(super) unsafe fn compare(
        &self,
        (got, expected): (u64, u64),
        most: u64,
        values: usize,
    ) -> Result<(), DriverError> {
        let n = values as u32;
        let mut launch = self.stream.launch_builder(&self.compare);
        launch.arg(&got).arg(&expected).arg(&most).arg(&n);
        // SAFETY: arguments as in `compare_*`; addresses are the caller's word
        unsafe { launch.launch(self.grid(n)) }.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::for_older_drivers;

    #[test]
    fn only_the_version_is_lowered() {
        let ptx = "// comment\n.version 9.0\n.target sm_75\n// .version 9.0\n";
        let lowered = "// comment\n.version 8.0\n.target sm_75\n// .version 9.0\n";
        assert_eq!(for_older_drivers(ptx), lowered);
    }
}

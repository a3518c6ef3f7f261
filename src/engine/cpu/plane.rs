//! Everything that is not a convolution: the input image, borders, pooling, upsampling, sums.
#![allow(
    unsafe_code,
    reason = "walks raw planes; the plan has checked every extent"
)]

use super::memory::{INPUT_PIXEL, InputPixel, Memory, Sides, View};
use super::simd::{Baseline, Bytes, LANES, Lanes, Simd, Token};

/// Kernels that treat whole planes, for one instruction set and precision. The pointers are to
/// the elements of that precision.
pub(super) struct Planes {
    pub(super) max_pool: unsafe fn(&PoolArgs, *const u8, *mut u8),
    pub(super) upsample: unsafe fn(&UpsampleArgs, *const u8, *mut u8),
    pub(super) sum: unsafe fn(&SumArgs, *const u8, *const u8, *mut u8),
}

/// The kernels for planes of bytes, the same on every instruction set.
pub(super) static BYTES: Planes = Planes {
    max_pool: max_pool_bytes,
    upsample: upsample_bytes,
    sum: sum_bytes,
};

/// # Safety
/// As for [`max_pool`].
unsafe fn max_pool_bytes(args: &PoolArgs, input: *const u8, output: *mut u8) {
    // SAFETY: every processor has the baseline; the rest is passed on
    unsafe { max_pool::<Bytes>(Baseline::assume(), args, input, output) }
}

/// # Safety
/// As for [`upsample`].
unsafe fn upsample_bytes(args: &UpsampleArgs, input: *const u8, output: *mut u8) {
    // SAFETY: every processor has the baseline; the rest is passed on
    unsafe { upsample::<Bytes>(Baseline::assume(), args, input, output) }
}

/// Distances and sides of a pooling, distances in elements.
pub(super) struct PoolArgs {
    in_row: usize,
    in_height: usize,
    in_width: usize,
    out_row: usize,
    out_height: usize,
    out_width: usize,
}

/// 3×3 stride-2 maximum of one plane. A window that hangs over the edge reads the last row or
/// column again, which never changes a maximum.
///
/// # Safety
/// `input` and `output` must be valid for the planes that `args` describes.
#[inline(always)]
pub(super) unsafe fn max_pool<L: Lanes>(
    isa: L::Isa,
    args: &PoolArgs,
    input: *const u8,
    output: *mut u8,
) {
    let (input, output) = (input.cast::<L::Element>(), output.cast::<L::Element>());
    for y in 0..args.out_height {
        for x in 0..args.out_width {
            // SAFETY: rows and columns are clamped to the plane
            unsafe {
                let first = input.add(2 * y * args.in_row + 2 * x * LANES);
                let mut most = L::load(isa, first);
                for ky in 0..3 {
                    let row = input.add((2 * y + ky).min(args.in_height - 1) * args.in_row);
                    for kx in 0..3 {
                        let column = (2 * x + kx).min(args.in_width - 1);
                        most = most.max(L::load(isa, row.add(column * LANES)));
                    }
                }
                most.store(output.add(y * args.out_row + x * LANES));
            }
        }
    }
}

/// Distances and sides of an upsampling, distances in elements.
pub(super) struct UpsampleArgs {
    in_row: usize,
    out_row: usize,
    height: usize,
    width: usize,
}

/// Repeats every pixel of one plane `height` × `width` as 2×2.
///
/// # Safety
/// `input` and `output` must be valid for the planes that `args` describes.
#[inline(always)]
pub(super) unsafe fn upsample<L: Lanes>(
    isa: L::Isa,
    args: &UpsampleArgs,
    input: *const u8,
    output: *mut u8,
) {
    let (input, output) = (input.cast::<L::Element>(), output.cast::<L::Element>());
    for y in 0..args.height {
        for x in 0..args.width {
            // SAFETY: the caller vouches for both planes
            unsafe {
                let value = L::load(isa, input.add(y * args.in_row + x * LANES));
                let to = output.add(2 * y * args.out_row + 2 * x * LANES);
                value.store(to);
                value.store(to.add(LANES));
                value.store(to.add(args.out_row));
                value.store(to.add(args.out_row + LANES));
            }
        }
    }
}

/// Distances and sides of a sum, distances in elements.
pub(super) struct SumArgs {
    left_row: usize,
    right_row: usize,
    out_row: usize,
    height: usize,
    width: usize,
    /// Input scales relative to the output scale; used for bytes only.
    scales: [f32; 2],
}

/// Adds two planes.
///
/// # Safety
/// All three pointers must be valid for the planes that `args` describes.
#[inline(always)]
pub(super) unsafe fn sum<S: Simd>(
    isa: S::Isa,
    args: &SumArgs,
    left: *const u8,
    right: *const u8,
    output: *mut u8,
) {
    let (left, right) = (left.cast::<f32>(), right.cast::<f32>());
    let output = output.cast::<f32>();
    for y in 0..args.height {
        for x in 0..args.width {
            // SAFETY: the caller vouches for all planes
            unsafe {
                let left = S::load(isa, left.add(y * args.left_row + x * LANES));
                let right = S::load(isa, right.add(y * args.right_row + x * LANES));
                left.add(right)
                    .store(output.add(y * args.out_row + x * LANES));
            }
        }
    }
}

/// Adds two planes of bytes, clamped and rounded half to even.
///
/// # Safety
/// All three pointers must be valid for the planes that `args` describes.
unsafe fn sum_bytes(args: &SumArgs, left: *const u8, right: *const u8, output: *mut u8) {
    let [left_scale, right_scale] = args.scales;
    for y in 0..args.height {
        // SAFETY: the caller vouches for all planes; the output overlaps neither input
        let (left, right, output) = unsafe {
            let row = args.width * LANES;
            (
                std::slice::from_raw_parts(left.add(y * args.left_row), row),
                std::slice::from_raw_parts(right.add(y * args.right_row), row),
                std::slice::from_raw_parts_mut(output.add(y * args.out_row), row),
            )
        };
        for ((sum, &left), &right) in output.iter_mut().zip(left).zip(right) {
            let value = f32::from(left) * left_scale + f32::from(right) * right_scale;
            *sum = value.min(255.0).round_ties_even() as u8;
        }
    }
}

/// Operation of a [`PlaneStep`] on each block of each image.
pub(super) enum PlaneOp {
    /// Max pooling of a source plane.
    MaxPool { source: View },
    /// Nearest-neighbour ×2 upsampling of a source plane.
    Upsample { source: View },
    /// Sum of two source planes.
    Sum {
        left: View,
        right: View,
        /// Input scales relative to the output scale.
        scales: [f32; 2],
    },
    /// Copy of a source plane, for a value that two concatenations need.
    Copy { source: View },
    /// Zeros around the plane, or these bytes around the input image.
    Clear { fill: InputPixel },
}

impl PlaneOp {
    /// Name, for reports.
    pub(super) fn name(&self) -> &'static str {
        match self {
            PlaneOp::MaxPool { .. } => "max pool",
            PlaneOp::Upsample { .. } => "upsample",
            PlaneOp::Sum { .. } => "sum",
            PlaneOp::Copy { .. } => "copy",
            PlaneOp::Clear { .. } => "clear border",
        }
    }
}

/// A planned step that treats all planes of a view alike.
pub(super) struct PlaneStep {
    pub(super) planes: &'static Planes,
    pub(super) op: PlaneOp,
    pub(super) target: View,
    /// Blocks of the target.
    pub(super) blocks: usize,
    /// Sides of the source (of the target for [`PlaneOp::Clear`]).
    pub(super) from: (usize, usize),
    /// Sides of the target.
    pub(super) to: (usize, usize),
}

impl PlaneStep {
    /// Independent pieces of work for a batch.
    pub(super) fn items(&self, batch: usize) -> usize {
        batch * self.blocks
    }

    /// Runs one plane.
    ///
    /// # Safety
    /// `memory` must be the arena that this step was planned for.
    pub(super) unsafe fn run(&self, memory: &Memory<'_>, item: usize) {
        let (image, block) = (item / self.blocks, item % self.blocks);
        let (height, width) = self.to;
        let out_row = self.target.row;
        // SAFETY: the plan keeps the sides of source and target within their views
        unsafe {
            let from = |view: &View| memory.read(view, image, block, 0, 0);
            let to = memory.write(&self.target, image, block, 0, 0);
            match &self.op {
                PlaneOp::MaxPool { source } => {
                    let args = PoolArgs {
                        in_row: source.row,
                        in_height: self.from.0,
                        in_width: self.from.1,
                        out_row,
                        out_height: height,
                        out_width: width,
                    };
                    (self.planes.max_pool)(&args, from(source), to);
                }
                PlaneOp::Upsample { source } => {
                    let args = UpsampleArgs {
                        in_row: source.row,
                        out_row,
                        height: self.from.0,
                        width: self.from.1,
                    };
                    (self.planes.upsample)(&args, from(source), to);
                }
                PlaneOp::Sum {
                    left,
                    right,
                    scales,
                } => {
                    let args = SumArgs {
                        left_row: left.row,
                        right_row: right.row,
                        out_row,
                        height,
                        width,
                        scales: *scales,
                    };
                    (self.planes.sum)(&args, from(left), from(right), to);
                }
                PlaneOp::Copy { source } => {
                    for y in 0..height {
                        let from = memory.read(source, image, block, y, 0);
                        let to = to.add(y * out_row * source.element);
                        std::ptr::copy_nonoverlapping(from, to, width * LANES * source.element);
                    }
                }
                PlaneOp::Clear { fill } => self.clear(to, *fill),
            }
        }
    }

    /// Fills everything around the plane whose pixel (0, 0) is `first`.
    ///
    /// # Safety
    /// `first` must be pixel (0, 0) of a plane of the target.
    unsafe fn clear(&self, first: *mut u8, fill: InputPixel) {
        let ((height, width), border) = (self.to, self.target.border);
        let (rows, columns) = Sides::new(self.to, border).bordered();
        let element = self.target.element;
        let (row, pixel) = (self.target.row * element, self.target.pixel * element);
        // SAFETY: `bordered` gives the sides that the view was laid out with
        unsafe {
            let corner = first.sub(border * (row + pixel));
            let zero = |y: usize, x: usize, pixels: usize| {
                let first = corner.add(y * row + x * pixel);
                if fill == [0; INPUT_PIXEL] {
                    return first.write_bytes(0, pixels * pixel);
                }
                for at in (0..pixels * pixel).step_by(fill.len()) {
                    first.add(at).cast::<InputPixel>().write_unaligned(fill);
                }
            };
            for y in (0..border).chain(border + height..rows) {
                zero(y, 0, columns);
            }
            for y in border..border + height {
                zero(y, 0, border);
                zero(y, border + width, columns - border - width);
            }
        }
    }
}

/// A planned first step: the caller's bytes with a border, normalised to floats or as they are.
pub(super) struct Normalise {
    pub(super) target: View,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Normalised value of every byte, by channel; none to keep bytes.
    pub(super) table: Option<std::sync::Arc<NormaliseTable>>,
}

/// Normalised value of every byte, by channel.
pub(super) type NormaliseTable = [[f32; 256]; 3];

impl Normalise {
    /// The table for a mean and deviation of values scaled to 0..=1.
    pub(super) fn table(mean: &[f32; 3], std: &[f32; 3]) -> NormaliseTable {
        std::array::from_fn(|c| {
            std::array::from_fn(|byte| (byte as f32 - 255.0 * mean[c]) / (255.0 * std[c]))
        })
    }

    /// Independent pieces of work for a batch.
    pub(super) fn items(&self, batch: usize) -> usize {
        batch * self.height
    }

    /// Runs one row.
    ///
    /// # Safety
    /// `memory` must be the arena that this step was planned for.
    pub(super) unsafe fn run(&self, memory: &Memory<'_>, item: usize) {
        let (image, y) = (item / self.height, item % self.height);
        let pixels = memory.images[item * self.width * 3..][..self.width * 3].chunks_exact(3);
        // SAFETY: the row is inside the view and no other piece's
        let first = unsafe { memory.write(&self.target, image, 0, y, 0) };
        match &self.table {
            Some(table) => {
                // SAFETY: the row is `width` pixels of floats long
                let row = unsafe {
                    let first = first.cast::<[f32; INPUT_PIXEL]>();
                    std::slice::from_raw_parts_mut(first, self.width)
                };
                for (pixel, rgb) in row.iter_mut().zip(pixels) {
                    for c in 0..3 {
                        pixel[c] = table[c][usize::from(rgb[c])];
                    }
                }
            }
            None => {
                // SAFETY: the row is `width` pixels of bytes long
                let row = unsafe {
                    let first = first.cast::<InputPixel>();
                    std::slice::from_raw_parts_mut(first, self.width)
                };
                for (pixel, rgb) in row.iter_mut().zip(pixels) {
                    *pixel = [rgb[0], rgb[1], rgb[2], 0];
                }
            }
        }
    }
}

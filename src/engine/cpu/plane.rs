//! Everything that is not a convolution: the picture, borders, pooling, enlarging, sums.
#![allow(
    unsafe_code,
    reason = "walks raw planes; the plan has checked every extent"
)]

use super::memory::{Memory, Sides, View};
use super::simd::{Bytes, LANES, Lanes, Simd};

/// What treats whole planes, for one instruction set and precision. The pointers are to the
/// elements of that precision.
pub(super) struct Planes {
    pub(super) max_pool: unsafe fn(&Pool, *const u8, *mut u8),
    pub(super) enlarge: unsafe fn(&Enlarge, *const u8, *mut u8),
    pub(super) sum: unsafe fn(&Sum, *const u8, *const u8, *mut u8),
}

/// The kernels for planes of bytes, the same on every instruction set.
pub(super) static BYTES: Planes = Planes {
    max_pool: max_pool::<Bytes>,
    enlarge: enlarge::<Bytes>,
    sum: sum_bytes,
};

/// Distances and sides of a pooling, distances in elements.
pub(super) struct Pool {
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
/// `input` and `output` must be valid for the planes that `shape` describes.
#[inline(always)]
pub(super) unsafe fn max_pool<L: Lanes>(shape: &Pool, input: *const u8, output: *mut u8) {
    let (input, output) = (input.cast::<L::Element>(), output.cast::<L::Element>());
    for y in 0..shape.out_height {
        for x in 0..shape.out_width {
            // SAFETY: rows and columns are clamped to the plane
            unsafe {
                let first = input.add(2 * y * shape.in_row + 2 * x * LANES);
                let mut most = L::load(first);
                for ky in 0..3 {
                    let row = input.add((2 * y + ky).min(shape.in_height - 1) * shape.in_row);
                    for kx in 0..3 {
                        let column = (2 * x + kx).min(shape.in_width - 1);
                        most = most.max(L::load(row.add(column * LANES)));
                    }
                }
                most.store(output.add(y * shape.out_row + x * LANES));
            }
        }
    }
}

/// Distances and sides of an enlargement, distances in elements.
pub(super) struct Enlarge {
    in_row: usize,
    out_row: usize,
    height: usize,
    width: usize,
}

/// Repeats every pixel of one plane `height` × `width` as 2×2.
///
/// # Safety
/// `input` and `output` must be valid for the planes that `shape` describes.
#[inline(always)]
pub(super) unsafe fn enlarge<L: Lanes>(shape: &Enlarge, input: *const u8, output: *mut u8) {
    let (input, output) = (input.cast::<L::Element>(), output.cast::<L::Element>());
    for y in 0..shape.height {
        for x in 0..shape.width {
            // SAFETY: the caller vouches for both planes
            unsafe {
                let value = L::load(input.add(y * shape.in_row + x * LANES));
                let to = output.add(2 * y * shape.out_row + 2 * x * LANES);
                value.store(to);
                value.store(to.add(LANES));
                value.store(to.add(shape.out_row));
                value.store(to.add(shape.out_row + LANES));
            }
        }
    }
}

/// Distances and sides of a sum, distances in elements.
pub(super) struct Sum {
    left_row: usize,
    right_row: usize,
    out_row: usize,
    height: usize,
    width: usize,
    /// What a step of each summand is worth in steps of the sum; used for bytes only.
    steps: [f32; 2],
}

/// Adds two planes.
///
/// # Safety
/// All three pointers must be valid for the planes that `shape` describes.
#[inline(always)]
pub(super) unsafe fn sum<S: Simd>(shape: &Sum, left: *const u8, right: *const u8, output: *mut u8) {
    let (left, right) = (left.cast::<f32>(), right.cast::<f32>());
    let output = output.cast::<f32>();
    for y in 0..shape.height {
        for x in 0..shape.width {
            // SAFETY: the caller vouches for all planes
            unsafe {
                let left = S::load(left.add(y * shape.left_row + x * LANES));
                let right = S::load(right.add(y * shape.right_row + x * LANES));
                left.add(right)
                    .store(output.add(y * shape.out_row + x * LANES));
            }
        }
    }
}

/// Adds two planes of bytes, clamped and rounded half to even.
///
/// # Safety
/// All three pointers must be valid for the planes that `shape` describes.
unsafe fn sum_bytes(shape: &Sum, left: *const u8, right: *const u8, output: *mut u8) {
    let [left_step, right_step] = shape.steps;
    for y in 0..shape.height {
        // SAFETY: the caller vouches for all planes; the output overlaps neither input
        let (left, right, output) = unsafe {
            let row = shape.width * LANES;
            (
                std::slice::from_raw_parts(left.add(y * shape.left_row), row),
                std::slice::from_raw_parts(right.add(y * shape.right_row), row),
                std::slice::from_raw_parts_mut(output.add(y * shape.out_row), row),
            )
        };
        for ((sum, &left), &right) in output.iter_mut().zip(left).zip(right) {
            let value = f32::from(left) * left_step + f32::from(right) * right_step;
            *sum = value.min(255.0).round_ties_even() as u8;
        }
    }
}

/// What a [`PlaneStep`] does to each block of each picture.
pub(super) enum Work {
    /// Max pooling of a source plane.
    MaxPool { source: View },
    /// Enlargement of a source plane.
    Enlarge { source: View },
    /// Sum of two source planes.
    Sum {
        left: View,
        right: View,
        /// What a step of each is worth in steps of the sum.
        steps: [f32; 2],
    },
    /// Copy of a source plane, for a value that two concatenations need.
    Copy { source: View },
    /// Zeros around the plane, or these bytes around the picture.
    Clear { fill: PictureBytes },
}

impl Work {
    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Work::MaxPool { .. } => "max pool",
            Work::Enlarge { .. } => "enlarge",
            Work::Sum { .. } => "sum",
            Work::Copy { .. } => "copy",
            Work::Clear { .. } => "clear border",
        }
    }
}

/// A planned step that treats all planes of a view alike.
pub(super) struct PlaneStep {
    pub(super) planes: &'static Planes,
    pub(super) work: Work,
    pub(super) target: View,
    /// Blocks of the target.
    pub(super) blocks: usize,
    /// Sides of the source (of the target for [`Work::Clear`]).
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
            match &self.work {
                Work::MaxPool { source } => {
                    let shape = Pool {
                        in_row: source.row,
                        in_height: self.from.0,
                        in_width: self.from.1,
                        out_row,
                        out_height: height,
                        out_width: width,
                    };
                    (self.planes.max_pool)(&shape, from(source), to);
                }
                Work::Enlarge { source } => {
                    let shape = Enlarge {
                        in_row: source.row,
                        out_row,
                        height: self.from.0,
                        width: self.from.1,
                    };
                    (self.planes.enlarge)(&shape, from(source), to);
                }
                Work::Sum { left, right, steps } => {
                    let shape = Sum {
                        left_row: left.row,
                        right_row: right.row,
                        out_row,
                        height,
                        width,
                        steps: *steps,
                    };
                    (self.planes.sum)(&shape, from(left), from(right), to);
                }
                Work::Copy { source } => {
                    for y in 0..height {
                        let from = memory.read(source, image, block, y, 0);
                        let to = to.add(y * out_row * source.element);
                        std::ptr::copy_nonoverlapping(from, to, width * LANES * source.element);
                    }
                }
                Work::Clear { fill } => self.clear(to, *fill),
            }
        }
    }

    /// Fills everything around the plane whose pixel (0, 0) is `first`.
    ///
    /// # Safety
    /// `first` must be pixel (0, 0) of a plane of the target.
    unsafe fn clear(&self, first: *mut u8, fill: PictureBytes) {
        let ((height, width), border) = (self.to, self.target.border);
        let (rows, columns) = Sides::new(self.to, border).bordered();
        let element = self.target.element;
        let (row, pixel) = (self.target.row * element, self.target.pixel * element);
        // SAFETY: `bordered` gives the sides that the view was laid out with
        unsafe {
            let corner = first.sub(border * (row + pixel));
            let zero = |y: usize, x: usize, pixels: usize| {
                let first = corner.add(y * row + x * pixel);
                if fill == [0; PICTURE_PIXEL] {
                    return first.write_bytes(0, pixels * pixel);
                }
                for at in (0..pixels * pixel).step_by(fill.len()) {
                    first.add(at).cast::<PictureBytes>().write_unaligned(fill);
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

/// A pixel of the picture in bytes: red, green, blue and one to spare.
pub(super) type PictureBytes = [u8; PICTURE_PIXEL];

/// A planned first step: the caller's bytes with a border, normalised to floats or as they are.
pub(super) struct Picture {
    pub(super) target: View,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Normalised value of every byte, by channel; none to keep bytes.
    pub(super) table: Option<std::sync::Arc<PictureTable>>,
}

/// Normalised value of every byte, by channel.
pub(super) type PictureTable = [[f32; 256]; 3];

/// Elements of a pixel of the picture: three channels and one to spare, so that a
/// pixel never crosses a cache line.
pub(super) const PICTURE_PIXEL: usize = 4;

impl Picture {
    /// The table for a mean and deviation of values scaled to 0..=1.
    pub(super) fn table(mean: &[f32; 3], std: &[f32; 3]) -> PictureTable {
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
        let pixels = memory.picture[item * self.width * 3..][..self.width * 3].chunks_exact(3);
        // SAFETY: the row is inside the view and no other piece's
        let first = unsafe { memory.write(&self.target, image, 0, y, 0) };
        match &self.table {
            Some(table) => {
                // SAFETY: the row is `width` pixels of floats long
                let row = unsafe {
                    let first = first.cast::<[f32; PICTURE_PIXEL]>();
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
                    let first = first.cast::<PictureBytes>();
                    std::slice::from_raw_parts_mut(first, self.width)
                };
                for (pixel, rgb) in row.iter_mut().zip(pixels) {
                    *pixel = [rgb[0], rgb[1], rgb[2], 0];
                }
            }
        }
    }
}

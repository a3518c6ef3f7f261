//! Everything that is not a convolution: the picture, borders, pooling, enlarging, sums.
#![allow(
    unsafe_code,
    reason = "walks raw planes; the plan has checked every extent"
)]

use super::memory::{Memory, View, bordered};
use super::simd::{Kernels, LANES, Simd};

/// Distances and sides of a pooling, distances in floats.
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
pub(super) unsafe fn max_pool<S: Simd>(shape: &Pool, input: *const f32, output: *mut f32) {
    for y in 0..shape.out_height {
        for x in 0..shape.out_width {
            // SAFETY: rows and columns are clamped to the plane
            unsafe {
                let first = input.add(2 * y * shape.in_row + 2 * x * LANES);
                let mut most = S::load(first);
                for ky in 0..3 {
                    let row = input.add((2 * y + ky).min(shape.in_height - 1) * shape.in_row);
                    for kx in 0..3 {
                        let column = (2 * x + kx).min(shape.in_width - 1);
                        most = most.max(S::load(row.add(column * LANES)));
                    }
                }
                most.store(output.add(y * shape.out_row + x * LANES));
            }
        }
    }
}

/// Distances and sides of an enlargement, distances in floats.
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
pub(super) unsafe fn enlarge<S: Simd>(shape: &Enlarge, input: *const f32, output: *mut f32) {
    for y in 0..shape.height {
        for x in 0..shape.width {
            // SAFETY: the caller vouches for both planes
            unsafe {
                let value = S::load(input.add(y * shape.in_row + x * LANES));
                let to = output.add(2 * y * shape.out_row + 2 * x * LANES);
                value.store(to);
                value.store(to.add(LANES));
                value.store(to.add(shape.out_row));
                value.store(to.add(shape.out_row + LANES));
            }
        }
    }
}

/// Distances and sides of a sum, distances in floats.
pub(super) struct Sum {
    left_row: usize,
    right_row: usize,
    out_row: usize,
    height: usize,
    width: usize,
}

/// Adds two planes.
///
/// # Safety
/// All three pointers must be valid for the planes that `shape` describes.
#[inline(always)]
pub(super) unsafe fn sum<S: Simd>(
    shape: &Sum,
    left: *const f32,
    right: *const f32,
    output: *mut f32,
) {
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

/// What a [`PlaneStep`] does to each block of each picture.
pub(super) enum Work {
    /// Max pooling of a source plane.
    MaxPool { source: View },
    /// Enlargement of a source plane.
    Enlarge { source: View },
    /// Sum of two source planes.
    Sum { left: View, right: View },
    /// Copy of a source plane, for a value that two concatenations need.
    Copy { source: View },
    /// Zeros around the plane.
    Clear,
}

/// A planned step that treats all planes of a view alike.
pub(super) struct PlaneStep {
    pub(super) kernels: &'static Kernels,
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
                    (self.kernels.max_pool)(&shape, from(source), to);
                }
                Work::Enlarge { source } => {
                    let shape = Enlarge {
                        in_row: source.row,
                        out_row,
                        height: self.from.0,
                        width: self.from.1,
                    };
                    (self.kernels.enlarge)(&shape, from(source), to);
                }
                Work::Sum { left, right } => {
                    let shape = Sum {
                        left_row: left.row,
                        right_row: right.row,
                        out_row,
                        height,
                        width,
                    };
                    (self.kernels.sum)(&shape, from(left), from(right), to);
                }
                Work::Copy { source } => {
                    for y in 0..height {
                        let from = memory.read(source, image, block, y, 0);
                        std::ptr::copy_nonoverlapping(from, to.add(y * out_row), width * LANES);
                    }
                }
                Work::Clear => self.clear(to),
            }
        }
    }

    /// Zeros everything around the plane whose pixel (0, 0) is `first`.
    unsafe fn clear(&self, first: *mut f32) {
        let ((height, width), (rows, columns)) = (self.to, bordered(self.to.0, self.to.1));
        let View { row, pixel, .. } = self.target;
        // SAFETY: `bordered` gives the sides that the view was laid out with
        unsafe {
            let corner = first.sub(row + pixel);
            let zero = |y: usize, x: usize, pixels: usize| {
                corner
                    .add(y * row + x * pixel)
                    .write_bytes(0, pixels * pixel);
            };
            zero(0, 0, columns);
            for y in 1..=height {
                zero(y, 0, 1);
                zero(y, width + 1, columns - width - 1);
            }
            for y in height + 1..rows {
                zero(y, 0, columns);
            }
        }
    }
}

/// A planned first step: bytes to normalised floats.
pub(super) struct Picture {
    pub(super) target: View,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Normalised value of every byte, by channel.
    pub(super) table: std::sync::Arc<[[f32; 256]; 3]>,
}

/// Floats of a pixel of the normalised picture: three channels and one to spare, so that a
/// pixel never crosses a cache line.
pub(super) const PICTURE_PIXEL: usize = 4;

impl Picture {
    /// The table for a mean and deviation of values scaled to 0..=1.
    pub(super) fn table(mean: &[f32; 3], std: &[f32; 3]) -> [[f32; 256]; 3] {
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
        let bytes = &memory.picture[item * self.width * 3..][..self.width * 3];
        // SAFETY: the row is inside the view, `width` pixels long, and no other piece's
        let row = unsafe {
            let first = memory.write(&self.target, image, 0, y, 0);
            std::slice::from_raw_parts_mut(first, self.width * PICTURE_PIXEL)
        };
        for (pixel, rgb) in row
            .chunks_exact_mut(PICTURE_PIXEL)
            .zip(bytes.chunks_exact(3))
        {
            for c in 0..3 {
                pixel[c] = self.table[c][usize::from(rgb[c])];
            }
        }
    }
}

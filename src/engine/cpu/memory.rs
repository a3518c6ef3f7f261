//! Where values lie: views into the arena and into the caller's logits.
//!
//! A plane is `[row, column, 16 channels]` with a border of zeros, as wide as the largest kernel
//! that reads it needs: above and on the left, and below and on the right of sides rounded up to
//! whole Winograd tiles (the largest are those at stride 2). So no kernel tests bounds. A buffer
//! is `[image, block, plane]`, and a slice of its blocks is a view with the same distances.
#![allow(
    unsafe_code,
    reason = "hands out raw pointers into the arena; every view is checked when planned"
)]

use crate::network::graph::MOST_LEVELS;
use crate::tensor::RawOutput;
use std::marker::PhantomData;

/// Logit arrays that a network can have: class and boxes at each stride.
pub(super) const MOST_OUTPUTS: usize = 2 * MOST_LEVELS;

/// Output pixels of a side of a Winograd tile.
pub(super) const TILE: usize = 4;

/// Elements of a pixel of the input image: three channels and one to spare, so that a pixel
/// never crosses a cache line.
pub(super) const INPUT_PIXEL: usize = 4;

/// A pixel of the input image in bytes: red, green, blue and one to spare.
pub(super) type InputPixel = [u8; INPUT_PIXEL];

/// Which memory a view is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The engine's own.
    Arena,
    /// Logit array `2 × level` (class) or `2 × level + 1` (boxes) of the caller.
    Output(usize),
}

/// A 4-D array inside a [`Base`]; distances in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) base: Base,
    /// To pixel (0, 0) of the first block.
    pub(super) offset: usize,
    /// From one image to the next.
    pub(super) image: usize,
    /// From one block to the next.
    pub(super) block: usize,
    /// From one row to the next.
    pub(super) row: usize,
    /// From one pixel to the next.
    pub(super) pixel: usize,
    /// Bytes of an element.
    pub(super) element: usize,
    /// Pixels of the border on each side; 0 in logits.
    pub(super) border: usize,
}

/// Elements of a pixel, and bytes of an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct PixelSize {
    pub(super) len: usize,
    pub(super) element: usize,
}

/// Sides of planes and of the border around them, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) border: usize,
}

impl Sides {
    /// Planes of `height` × `width` whose largest reader has a kernel of `2 × border + 1`. Every
    /// plane gets a border of at least a pixel: without one, planes whose sides are powers of
    /// two would lie powers of two apart, and all blocks of a pixel in one set of the cache.
    pub(super) fn new((height, width): (usize, usize), border: usize) -> Sides {
        Sides {
            height,
            width,
            border: border.max(1),
        }
    }

    /// Rows and columns with the border.
    pub(super) fn bordered(&self) -> (usize, usize) {
        // tiles of a stride-2 convolution reach two input pixels further for each output pixel
        let side = |side: usize| side.next_multiple_of(2 * TILE) + 2 * self.border;
        (side(self.height), side(self.width))
    }
}

impl View {
    /// A buffer of `blocks` bordered planes at byte `start`, a multiple of an element.
    pub(super) fn planes(
        start: usize,
        blocks: usize,
        sides: Sides,
        PixelSize {
            len: pixel,
            element,
        }: PixelSize,
    ) -> View {
        let (rows, columns) = sides.bordered();
        let row = columns * pixel;
        View {
            base: Base::Arena,
            offset: start / element + sides.border * (row + pixel),
            border: sides.border,
            image: blocks * rows * row,
            block: rows * row,
            row,
            pixel,
            element,
        }
    }

    /// The view that starts `blocks` blocks further on.
    pub(super) fn skip(self, blocks: usize) -> View {
        View {
            offset: self.offset + blocks * self.block,
            ..self
        }
    }

    /// Logits `[image, row × column, channels]`: one pixel's blocks lie side by side.
    pub(super) fn logits(output: usize, channels: usize, height: usize, width: usize) -> View {
        View {
            base: Base::Output(output),
            offset: 0,
            border: 0,
            image: height * width * channels,
            block: super::simd::LANES,
            row: width * channels,
            pixel: channels,
            element: size_of::<f32>(),
        }
    }

    fn at(&self, image: usize, block: usize, y: usize, x: usize) -> usize {
        self.offset + image * self.image + block * self.block + y * self.row + x * self.pixel
    }
}

/// The memory of one inference, shared by all threads.
pub(super) struct Memory<'a> {
    arena: *mut u8,
    arena_len: usize,
    outputs: [*mut u8; MOST_OUTPUTS],
    output_lens: [usize; MOST_OUTPUTS],
    /// The batch, `[batch, height, width, 3]`.
    pub(super) images: &'a [u8],
    lifetime: PhantomData<&'a mut u8>,
}

// SAFETY: the pointers are only used inside one `Pool::run` at a time, whose pieces of work
// write disjoint pixels (each step's partition) and read only what earlier steps wrote
unsafe impl Sync for Memory<'_> {}

impl<'a> Memory<'a> {
    /// Borrows everything for one inference. `output` must be sized for the batch.
    pub(super) fn new(
        arena: &'a mut super::aligned::Aligned,
        images: &'a [u8],
        output: &'a mut RawOutput,
    ) -> Memory<'a> {
        let mut outputs = [std::ptr::null_mut(); MOST_OUTPUTS];
        let mut output_lens = [0; MOST_OUTPUTS];
        let arrays = output
            .levels
            .iter_mut()
            .flat_map(|level| [&mut level.class, &mut level.boxes]);
        for (i, array) in arrays.enumerate() {
            outputs[i] = array.as_mut_ptr().cast();
            output_lens[i] = size_of_val(array.as_slice());
        }
        Memory {
            arena: arena.as_mut_ptr(),
            arena_len: arena.len(),
            outputs,
            output_lens,
            images,
            lifetime: PhantomData,
        }
    }

    /// The byte `at` of the arena, which no view covers.
    ///
    /// # Safety
    /// `at` must be at most the arena's length.
    pub(super) unsafe fn scratch(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.arena_len);
        // SAFETY: inside the allocation or one past it
        unsafe { self.arena.add(at) }
    }

    /// A pixel of a view, to read.
    ///
    /// # Safety
    /// As for [`Memory::write`].
    pub(super) unsafe fn read(
        &self,
        view: &View,
        image: usize,
        block: usize,
        y: usize,
        x: usize,
    ) -> *const u8 {
        // SAFETY: passed on
        unsafe { self.write(view, image, block, y, x) }
    }

    /// A pixel of a view, to write.
    ///
    /// # Safety
    /// The pixel must be inside the view, and the view planned for this memory.
    pub(super) unsafe fn write(
        &self,
        view: &View,
        image: usize,
        block: usize,
        y: usize,
        x: usize,
    ) -> *mut u8 {
        let (base, len) = match view.base {
            Base::Arena => (self.arena, self.arena_len),
            Base::Output(i) => (self.outputs[i], self.output_lens[i]),
        };
        let at = view.element * view.at(image, block, y, x);
        debug_assert!(at < len, "byte {at} of {len}: {view:?}");
        // SAFETY: inside the allocation, as the caller promises and the assertion checks
        unsafe { base.add(at) }
    }
}

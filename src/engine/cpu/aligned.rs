//! Cache-line aligned float buffers, the memory behind weights, planes and scratch.

/// One cache line: sixteen channels of one pixel.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; 16]);

/// A zeroed run of floats that starts on a cache line.
pub(super) struct Aligned {
    lines: Vec<Line>,
}

impl Aligned {
    /// At least `len` zeros.
    pub(super) fn zeroed(len: usize) -> Aligned {
        Aligned {
            lines: vec![Line([0.0; 16]); len.div_ceil(16)],
        }
    }

    /// Makes room for `len` floats; the contents are lost when it grows.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len() < len {
            // free first: two arenas at once would double the peak
            self.lines = Vec::new();
            *self = Aligned::zeroed(len);
        }
    }

    /// Floats held.
    pub(super) fn len(&self) -> usize {
        16 * self.lines.len()
    }

    /// The first float.
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// The first float, to write.
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Writes one float.
    pub(super) fn set(&mut self, index: usize, value: f32) {
        self.lines[index / 16].0[index % 16] = value;
    }
}

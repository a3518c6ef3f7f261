//! Cache-line aligned memory, behind weights, planes and scratch.

/// One cache line: sixteen f32 or sixty-four bytes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; LINE]);

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// A zeroed run of bytes that starts on a cache line.
pub(super) struct Aligned {
    lines: Vec<Line>,
}

impl Aligned {
    /// At least `len` zero bytes.
    pub(super) fn zeroed(len: usize) -> Aligned {
        Aligned {
            lines: vec![Line([0; LINE]); len.div_ceil(LINE)],
        }
    }

    /// Makes room for `len` bytes; the contents are lost when it grows.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len() < len {
            // free first: two arenas at once would double the peak
            self.lines = Vec::new();
            *self = Aligned::zeroed(len);
        }
    }

    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        LINE * self.lines.len()
    }

    /// The first byte.
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// The first byte, to write.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Writes a value's bytes as the `index`-th value of its size.
    pub(super) fn set<const SIZE: usize>(&mut self, index: usize, value: [u8; SIZE]) {
        let at = index * SIZE;
        self.lines[at / LINE].0[at % LINE..][..SIZE].copy_from_slice(&value);
    }
}

//! Tensors at the boundary of the network: pictures in, logits out.

/// A batch of letterboxed pictures, 8-bit RGB; engines normalise.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Pictures.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[batch, height, width, 3]`, values 0..=255.
    pub data: Vec<u8>,
}

/// The detector's logits on the host, before any threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawOutput {
    /// Pictures in the batch.
    pub batch: usize,
    /// One entry a stride, finest first.
    pub levels: Vec<RawLevel>,
}

/// Logits at one stride. Cells are row-major; a cell's values lie side by side, because
/// decoding looks at one cell at a time and at few of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawLevel {
    /// Input pixels per cell.
    pub stride: usize,
    /// Rows of cells.
    pub height: usize,
    /// Columns of cells.
    pub width: usize,
    /// `[batch, height × width, classes]`.
    pub class: Vec<f32>,
    /// `[batch, height × width, 4 × bins]`: left, top, right, bottom.
    pub boxes: Vec<f32>,
}

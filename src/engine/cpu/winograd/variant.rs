//! The two variants of Winograd's filtering: their sizes, and the transform of the weights.

/// Transformed weights of a side, at either stride.
const SIDE: usize = 6;
/// Transformed weights of a filter.
pub(in crate::engine::cpu) const POINTS: usize = SIDE * SIDE;

/// Winograd's filtering at one stride.
pub(in crate::engine::cpu) struct Variant {
    /// Pixels of a window's side, which is also its number of positions.
    side: usize,
    pub(super) stride: usize,
    /// Rows of G, one for each transformed weight of a side.
    filter: [[f64; 3]; SIDE],
    /// The transformed weight that each position of a side is multiplied with.
    weights: &'static [usize],
}

/// Stride 1, at the points 0, 1, −1, 2, −2 and infinity.
static STRIDE_1: Variant = Variant {
    side: 6,
    stride: 1,
    filter: [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ],
    weights: &[0, 1, 2, 3, 4, 5],
};

/// Stride 2: the even pixels at the points 0, 1, −1, 2 and infinity, then the odd ones.
static STRIDE_2: Variant = Variant {
    side: 9,
    stride: 2,
    filter: [
        [1.0 / 2.0, 0.0, 0.0],
        [-1.0 / 2.0, 0.0, -1.0 / 2.0],
        [-1.0 / 6.0, 0.0, 1.0 / 6.0],
        [1.0 / 6.0, 0.0, 1.0 / 3.0],
        [0.0, 0.0, 1.0],
        [0.0, 1.0, 0.0],
    ],
    weights: &[0, 1, 2, 3, 4, 5, 5, 5, 5],
};

impl Variant {
    /// The transforms for a 3×3 convolution, if there are any for this stride.
    pub(in crate::engine::cpu) fn of(stride: usize) -> Option<&'static Variant> {
        [&STRIDE_1, &STRIDE_2]
            .into_iter()
            .find(|variant| variant.stride == stride)
    }

    /// G·g·Gᵀ for one 3×3 filter, in f64 because the thirds and sixths do not round well.
    pub(in crate::engine::cpu) fn transform_filter(&self, filter: &[f32; 9]) -> [f32; POINTS] {
        std::array::from_fn(|point| {
            let (row, column) = (&self.filter[point / SIDE], &self.filter[point % SIDE]);
            let mut sum = 0.0;
            for ky in 0..3 {
                for kx in 0..3 {
                    sum += row[ky] * column[kx] * f64::from(filter[3 * ky + kx]);
                }
            }
            sum as f32
        })
    }

    /// Positions of a window: products of a tile.
    pub(super) fn positions(&self) -> usize {
        self.side * self.side
    }

    /// The transformed weight of a position.
    pub(super) fn point(&self, position: usize) -> usize {
        SIDE * self.weights[position / self.side] + self.weights[position % self.side]
    }
}

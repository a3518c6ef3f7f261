//! Optimal assignment of rows to columns: the pairs whose gains have the greatest sum, each row and
//! column at most once.
//!
//! Most tracks overlap one detection and most detections one track. So the graph of pairs is cut into
//! its connected parts first; a part of one pair needs no search, and the others are solved by
//! shortest augmenting paths (the Hungarian method as in Jonker and Volgenant 1987).

/// A possible match.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The row, such as a track.
    pub row: usize,
    /// The column, such as a detection.
    pub col: usize,
    /// What the match is worth, above 0.
    pub gain: f32,
}

/// Solves assignments; reuses its buffers.
#[derive(Debug, Default)]
pub struct Assigner {
    /// Of rows, then of columns: the parent in a tree of connected nodes.
    parents: Vec<usize>,
    /// Root of a part, and a pair of it.
    parts: Vec<(usize, Pair)>,
    rows: Vec<usize>,
    cols: Vec<usize>,
    gains: Vec<f32>,
    search: Search,
}

impl Assigner {
    /// Appends the chosen `(row, column)` pairs to `chosen`, by row. `rows` and `cols` are the numbers
    /// of rows and columns; a pair is listed once.
    ///
    /// # Panics
    /// If a pair is outside the rows and columns.
    pub fn solve(
        &mut self,
        rows: usize,
        cols: usize,
        pairs: &[Pair],
        chosen: &mut Vec<(usize, usize)>,
    ) {
        self.parents.clear();
        self.parents.extend(0..rows + cols);
        for pair in pairs {
            assert!(pair.row < rows && pair.col < cols, "{pair:?}");
            let (a, b) = (self.root(pair.row), self.root(rows + pair.col));
            self.parents[a] = b;
        }
        self.parts.clear();
        for &pair in pairs {
            let root = self.root(pair.row);
            self.parts.push((root, pair));
        }
        self.parts
            .sort_unstable_by_key(|(root, pair)| (*root, pair.row, pair.col));
        let begin = chosen.len();
        let parts = std::mem::take(&mut self.parts);
        for part in parts.chunk_by(|a, b| a.0 == b.0) {
            match part {
                [(_, only)] => chosen.push((only.row, only.col)),
                _ => self.solve_part(part, chosen),
            }
        }
        self.parts = parts;
        chosen[begin..].sort_unstable();
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.parents[node] != node {
            self.parents[node] = self.parents[self.parents[node]];
            node = self.parents[node];
        }
        node
    }

    /// Lays the pairs of a part into a dense matrix with at most as many rows as columns.
    fn solve_part(&mut self, part: &[(usize, Pair)], chosen: &mut Vec<(usize, usize)>) {
        self.rows.clear();
        self.cols.clear();
        self.rows.extend(part.iter().map(|(_, pair)| pair.row));
        self.cols.extend(part.iter().map(|(_, pair)| pair.col));
        for ids in [&mut self.rows, &mut self.cols] {
            ids.sort_unstable();
            ids.dedup();
        }
        let turned = self.rows.len() > self.cols.len();
        let (height, width) = match turned {
            true => (self.cols.len(), self.rows.len()),
            false => (self.rows.len(), self.cols.len()),
        };
        self.gains.clear();
        self.gains.resize(height * width, 0.0);
        for (_, pair) in part {
            let row = self.rows.partition_point(|&id| id < pair.row);
            let col = self.cols.partition_point(|&id| id < pair.col);
            let (y, x) = if turned { (col, row) } else { (row, col) };
            self.gains[y * width + x] = pair.gain;
        }
        let found = self.search.run(&self.gains, height, width);
        for (x, &y) in found.iter().enumerate() {
            // without a gain there is no pair, only a place that the matrix had to fill
            if y != FREE && self.gains[y * width + x] > 0.0 {
                let (row, col) = if turned { (x, y) } else { (y, x) };
                chosen.push((self.rows[row], self.cols[col]));
            }
        }
    }
}

/// A column without a row.
const FREE: usize = usize::MAX;

/// Shortest augmenting paths in a dense matrix.
#[derive(Debug, Default)]
struct Search {
    row_price: Vec<f32>,
    col_price: Vec<f32>,
    row_of: Vec<usize>,
    reached_from: Vec<usize>,
    distance: Vec<f32>,
    done: Vec<bool>,
}

impl Search {
    /// The row of each column, for the greatest sum of `gains` (`[height, width]`, `height` ≤
    /// `width`); every row has a column.
    fn run(&mut self, gains: &[f32], height: usize, width: usize) -> &[usize] {
        fn fill<T: Copy>(buffer: &mut Vec<T>, len: usize, value: T) {
            buffer.clear();
            buffer.resize(len, value);
        }
        fill(&mut self.row_price, height, 0.0);
        fill(&mut self.col_price, width, 0.0);
        fill(&mut self.row_of, width, FREE);
        fill(&mut self.reached_from, width, FREE);
        for start in 0..height {
            fill(&mut self.distance, width, f32::INFINITY);
            fill(&mut self.done, width, false);
            self.augment(gains, width, start);
        }
        &self.row_of
    }

    /// Gives row `start` a column, moving other rows along the cheapest path.
    fn augment(&mut self, gains: &[f32], width: usize, start: usize) {
        let (mut row, mut from) = (start, FREE);
        let end = loop {
            let (mut nearest, mut step) = (FREE, f32::INFINITY);
            for col in (0..width).filter(|&col| !self.done[col]) {
                let cost = -gains[row * width + col] - self.row_price[row] - self.col_price[col];
                if cost < self.distance[col] {
                    self.distance[col] = cost;
                    self.reached_from[col] = from;
                }
                if self.distance[col] < step {
                    (nearest, step) = (col, self.distance[col]);
                }
            }
            // the prices keep every cost at 0 or above, and those of matched pairs at 0
            self.row_price[start] += step;
            for col in 0..width {
                if self.done[col] {
                    self.row_price[self.row_of[col]] += step;
                    self.col_price[col] -= step;
                } else {
                    self.distance[col] -= step;
                }
            }
            self.done[nearest] = true;
            match self.row_of[nearest] {
                FREE => break nearest,
                next => (row, from) = (next, nearest),
            }
        };
        let mut col = end;
        while col != FREE {
            let before = self.reached_from[col];
            self.row_of[col] = match before {
                FREE => start,
                other => self.row_of[other],
            };
            col = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(pairs: &[Pair], chosen: &[(usize, usize)]) -> f32 {
        let gain = |&(row, col): &(usize, usize)| {
            let pair = pairs.iter().find(|p| (p.row, p.col) == (row, col));
            pair.expect("a pair that was not offered").gain
        };
        chosen.iter().map(gain).sum()
    }

    /// The greatest sum over all choices.
    fn best(pairs: &[Pair], taken_rows: u32, taken_cols: u32) -> f32 {
        let Some((first, rest)) = pairs.split_first() else {
            return 0.0;
        };
        let without = best(rest, taken_rows, taken_cols);
        let (row, col) = (1 << first.row, 1 << first.col);
        match taken_rows & row == 0 && taken_cols & col == 0 {
            true => without.max(first.gain + best(rest, taken_rows | row, taken_cols | col)),
            false => without,
        }
    }

    proptest! {
        #[test]
        fn the_sum_is_the_greatest_and_nothing_is_used_twice(
            rows in 1..5usize,
            cols in 1..5usize,
            gains in prop::collection::vec(prop::option::of(1..1000u16), 16),
        ) {
            let mut pairs = Vec::new();
            for row in 0..rows {
                for col in 0..cols {
                    if let Some(gain) = gains[row * 4 + col] {
                        pairs.push(Pair { row, col, gain: f32::from(gain) / 1000.0 });
                    }
                }
            }
            let mut chosen = Vec::new();
            Assigner::default().solve(rows, cols, &pairs, &mut chosen);
            prop_assert!((total(&pairs, &chosen) - best(&pairs, 0, 0)).abs() < 1e-4);
            prop_assert!(chosen.windows(2).all(|two| two[0].0 < two[1].0), "{chosen:?}");
            let mut cols: Vec<usize> = chosen.iter().map(|pair| pair.1).collect();
            cols.sort_unstable();
            prop_assert!(cols.windows(2).all(|two| two[0] < two[1]), "{cols:?}");
        }
    }

    #[test]
    fn a_good_pair_is_not_given_up_for_two_poor_ones_unless_they_are_worth_more() {
        let pair = |row, col, gain| Pair { row, col, gain };
        let mut chosen = Vec::new();
        let mut assigner = Assigner::default();
        let pairs = [pair(0, 0, 0.7), pair(0, 1, 0.3), pair(1, 0, 0.3)];
        assigner.solve(2, 2, &pairs, &mut chosen);
        assert_eq!(chosen, [(0, 0)]);
        chosen.clear();
        let pairs = [pair(0, 0, 0.5), pair(0, 1, 0.3), pair(1, 0, 0.3)];
        assigner.solve(2, 2, &pairs, &mut chosen);
        assert_eq!(chosen, [(0, 1), (1, 0)]);
    }
}

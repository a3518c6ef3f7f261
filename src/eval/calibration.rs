//! int8 calibration: activation ranges of every layer, measured on images.
//!
//! A byte has 256 levels, so a range is a trade-off: a large range rounds small values coarsely, a
//! small range clamps large ones. The chosen range has the lowest mean squared error over a
//! histogram of the values.

use crate::engine::EngineError;
use crate::engine::reference::ReferenceEngine;
use crate::model::{Int8, Model};
use crate::network::graph::{Graph, Op};
use crate::tensor::Batch;
use candle_core::{Device, Tensor};

/// Bins of a histogram: about eight per quantisation level at the largest range.
const BINS: usize = 2048;
/// Quantisation intervals of a byte.
const LEVELS: f64 = 255.0;

/// Measures the ranges of a model's activations.
pub struct Calibration {
    engine: ReferenceEngine,
    /// By graph node; `None` for nodes without a range.
    histograms: Vec<Option<Histogram>>,
    images: usize,
}

impl Calibration {
    /// A calibration without measurements.
    ///
    /// # Errors
    /// If candle refuses the weights.
    pub fn new(model: &Model) -> Result<Calibration, EngineError> {
        Ok(Calibration {
            engine: ReferenceEngine::new(model, &Device::Cpu)?,
            histograms: ranged(&model.graph)
                .map(|ranged| ranged.then(Histogram::default))
                .collect(),
            images: 0,
        })
    }

    /// Measures the activations of a batch of images.
    ///
    /// # Errors
    /// If the input size does not fit the network, or candle fails.
    pub fn add(&mut self, input: &Batch) -> Result<(), EngineError> {
        let values = self.engine.forward_pictures(input)?;
        let nodes = &self.engine.graph().nodes;
        for ((histogram, value), node) in self.histograms.iter_mut().zip(&values).zip(nodes) {
            let Some(histogram) = histogram else { continue };
            let values = flat(value).map_err(|source| EngineError::Candle {
                layer: node.name.clone(),
                source,
            })?;
            values.into_iter().for_each(|value| histogram.add(value));
        }
        self.images += input.batch;
        Ok(())
    }

    /// The ranges of all images so far.
    pub fn finish(&self) -> Int8 {
        let nodes = self.engine.graph().nodes.iter();
        Int8 {
            pictures: self.images,
            ranges: nodes
                .zip(&self.histograms)
                .filter_map(|(node, histogram)| {
                    Some((node.name.clone(), histogram.as_ref()?.range()))
                })
                .collect(),
        }
    }
}

/// For each node, whether its values are quantised with a range of their own: outputs of layers
/// except logits.
fn ranged(graph: &Graph) -> impl Iterator<Item = bool> {
    graph.nodes.iter().map(|node| match &node.op {
        Op::Conv(conv) => conv.relu,
        Op::Add => true,
        _ => false,
    })
}

fn flat(value: &Tensor) -> candle_core::Result<Vec<f32>> {
    value.flatten_all()?.to_vec1::<f32>()
}

/// Histogram of non-negative values; its bins widen as larger values are added.
struct Histogram {
    counts: Vec<u64>,
    /// Upper end of the last bin.
    end: f32,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: vec![0; BINS],
            end: f32::MIN_POSITIVE,
        }
    }
}

impl Histogram {
    fn add(&mut self, value: f32) {
        if value <= 0.0 {
            return; // zero is exact with every range
        }
        while value >= self.end && self.end < f32::MAX / 2.0 {
            self.widen(value);
        }
        let bin = (value / self.end * BINS as f32) as usize;
        self.counts[bin.min(BINS - 1)] += 1;
    }

    /// Doubles the width of the bins, or sets it while the histogram is empty.
    fn widen(&mut self, value: f32) {
        if self.counts.iter().all(|&count| count == 0) {
            self.end = 2.0 * value;
            return;
        }
        for bin in 0..BINS / 2 {
            self.counts[bin] = self.counts[2 * bin] + self.counts[2 * bin + 1];
        }
        self.counts[BINS / 2..].fill(0);
        self.end *= 2.0;
    }

    /// Upper end of the range with the lowest mean squared error.
    fn range(&self) -> f32 {
        let width = f64::from(self.end) / BINS as f64;
        let Some(last) = self.counts.iter().rposition(|&count| count > 0) else {
            return 1.0; // all values are zero: any range is exact
        };
        let error = |bins: usize| {
            let end = bins as f64 * width;
            let rounding = (end / LEVELS).powi(2) / 12.0;
            let of_bin = |(bin, &count): (usize, &u64)| {
                let beyond = ((bin as f64 + 0.5) * width - end).max(0.0);
                count as f64
                    * if bin < bins {
                        rounding
                    } else {
                        beyond * beyond
                    }
            };
            self.counts[..=last]
                .iter()
                .enumerate()
                .map(of_bin)
                .sum::<f64>()
        };
        let fewest = (last / 16).max(1);
        let best = (fewest..=last + 1).min_by(|&a, &b| error(a).total_cmp(&error(b)));
        (best.unwrap_or(last + 1) as f64 * width) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn an_even_spread_keeps_its_whole_range() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|i| histogram.add(i as f32 / 2500.0));
        assert!(
            (histogram.range() - 4.0).abs() < 0.05,
            "{}",
            histogram.range()
        );
    }

    #[test]
    fn one_outlier_does_not_stretch_the_range() {
        let mut histogram = Histogram::default();
        (0..5_000_000).for_each(|i| histogram.add((i % 1000) as f32 / 1000.0));
        histogram.add(10.0);
        assert!(histogram.range() < 4.0, "{}", histogram.range());
    }

    #[test]
    fn every_layer_that_becomes_bytes_has_a_range() {
        let model = Model::random(Network::vovnet27_slim(), 3, 1).unwrap();
        let mut calibration = Calibration::new(&model).unwrap();
        let input = Batch {
            batch: 1,
            height: 32,
            width: 32,
            data: (0..32 * 32 * 3).map(|i| (i * 37 % 251) as u8).collect(),
        };
        calibration.add(&input).unwrap();
        let int8 = calibration.finish();
        assert_eq!(int8.pictures, 1);
        assert_eq!(
            int8.ranges.len(),
            ranged(&model.graph).filter(|&r| r).count()
        );
        assert!(
            int8.ranges
                .values()
                .all(|range| *range > 0.0 && range.is_finite())
        );
    }
}

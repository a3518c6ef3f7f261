//! The detector network, described once: backbone → neck → head.
//!
//! Nothing here computes; a [`Network`] becomes a [`Graph`] and the engines run that.
//! The same network in PyTorch, for training, is `models/training/vovcam_train/model.py`.

pub mod graph;
pub mod head;
pub mod neck;
pub mod vovnet;

use crate::network::graph::{Conv, Graph, NodeId};
use serde::{Deserialize, Serialize};
use vovnet::VovNet;

/// The most channels or bins that a manifest may ask for: far more than any detector has, and far
/// from where sizes overflow.
const MOST_CHANNELS: usize = 1 << 16;

/// The strides that a detector may predict on, in pixels of the input.
pub const STRIDES: [usize; 4] = [4, 8, 16, 32];

/// The shape of a detector, as a model's manifest states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which backbone.
    pub backbone: VovNet,
    /// Channels of every neck and head feature map.
    pub neck_width: usize,
    /// Channels of the 3×3 convolutions inside a neck block.
    pub neck_mid_width: usize,
    /// Prediction strides, finest first: a run of [`STRIDES`] that ends with 32.
    pub strides: Vec<usize>,
    /// Bins of the distribution over each box side's distance.
    pub box_bins: usize,
}

impl Network {
    /// The network that ships with the program.
    pub fn vovnet27_slim() -> Network {
        Network {
            backbone: VovNet::Slim27,
            neck_width: 96,
            neck_mid_width: 64,
            strides: vec![8, 16, 32],
            box_bins: 16,
        }
    }

    /// Lays the detector out as a graph for `classes` classes.
    ///
    /// # Errors
    /// When widths are zero or the strides are not a run of [`STRIDES`] ending with 32.
    pub fn graph(&self, classes: usize) -> Result<Graph, String> {
        if self.neck_width == 0 || self.neck_mid_width == 0 || self.box_bins < 2 || classes == 0 {
            return Err(format!(
                "network widths must be positive and box_bins at least 2, got neck_width {}, \
                 neck_mid_width {}, box_bins {}, {classes} classes",
                self.neck_width, self.neck_mid_width, self.box_bins
            ));
        }
        let most = self.neck_width.max(self.neck_mid_width);
        if most.max(self.box_bins).max(classes) > MOST_CHANNELS {
            return Err(format!(
                "network widths, box_bins and classes must be at most {MOST_CHANNELS}, got neck_width {}, \
                 neck_mid_width {}, box_bins {}, {classes} classes",
                self.neck_width, self.neck_mid_width, self.box_bins
            ));
        }
        if self.strides.is_empty() || !STRIDES.ends_with(&self.strides) {
            return Err(format!(
                "strides must be [8, 16, 32] or another run of {STRIDES:?} that ends with 32, got {:?}",
                self.strides
            ));
        }
        let (mut graph, input) = Graph::new();
        let features = self.backbone.build(&mut graph, input, "backbone.");
        let levels: Vec<(usize, NodeId)> = features
            .into_iter()
            .filter(|(stride, _)| self.strides.contains(stride))
            .collect();
        graph.features = levels.clone();
        let pyramid = neck::build(&mut graph, &levels, self.neck_width, self.neck_mid_width);
        graph.outputs = head::build(
            &mut graph,
            &pyramid,
            self.neck_width,
            classes,
            self.box_bins,
        );
        Ok(graph)
    }
}

/// Size of a convolution.
#[derive(Clone, Copy)]
struct ConvSize {
    out_channels: usize,
    kernel: usize,
    stride: usize,
}

impl ConvSize {
    /// 1×1, stride 1.
    fn pointwise(out_channels: usize) -> ConvSize {
        ConvSize {
            out_channels,
            kernel: 1,
            stride: 1,
        }
    }

    /// 3×3.
    fn square(out_channels: usize, stride: usize) -> ConvSize {
        ConvSize {
            out_channels,
            kernel: 3,
            stride,
        }
    }
}

/// Names of a convolution and its batch norm: the tensors are `<weight>.weight`,
/// `<norm>.running_mean` and so on.
struct ConvNames {
    layer: String,
    weight: String,
    norm: String,
}

/// Convolution – batch norm – ReLU, the building block of backbone, neck and head.
fn conv_bn_relu(graph: &mut Graph, input: NodeId, names: ConvNames, size: ConvSize) -> NodeId {
    let conv = Conv {
        weight: format!("{}.weight", names.weight),
        norm: Some(names.norm),
        bias: None,
        in_channels: graph.channels(input),
        out_channels: size.out_channels,
        kernel: size.kernel,
        stride: size.stride,
        relu: true,
    };
    graph.conv(names.layer, input, conv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_must_be_a_run_that_ends_with_32() {
        for (strides, good) in [
            (vec![8, 16, 32], true),
            (vec![4, 8, 16, 32], true),
            (vec![32], true),
            (vec![8, 16], false),
            (vec![8, 32], false),
            (vec![], false),
        ] {
            let network = Network {
                strides: strides.clone(),
                ..Network::vovnet27_slim()
            };
            assert_eq!(network.graph(12).is_ok(), good, "{strides:?}");
        }
    }

    #[test]
    fn a_stride_4_level_adds_a_finer_output() {
        let network = Network {
            strides: vec![4, 8, 16, 32],
            ..Network::vovnet27_slim()
        };
        let graph = network.graph(12).unwrap();
        let shapes = graph.shapes(64, 96);
        let finest = graph.outputs[0];
        assert_eq!(
            (
                finest.stride,
                shapes[finest.class.0].height,
                shapes[finest.class.0].width
            ),
            (4, 16, 24)
        );
        assert_eq!(graph.outputs.len(), 4);
    }
}

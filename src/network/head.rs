//! An anchor-free head: one point a cell, class logits and four box distances.
//!
//! The convolutions are shared between the levels, their batch norms are not (the statistics
//! of the levels differ; arXiv 2212.07784 found this split best). A box side's distance is the
//! mean of a distribution over `bins` whole strides (generalised focal loss, arXiv 2006.04388).

use super::{ConvNames, ConvSize, conv_bn_relu};
use crate::network::graph::{Conv, Graph, NodeId, OutputLevel};

/// Adds the head behind the neck's `pyramid` (stride, node).
pub fn build(
    graph: &mut Graph,
    pyramid: &[(usize, NodeId)],
    width: usize,
    classes: usize,
    bins: usize,
) -> Vec<OutputLevel> {
    let mut levels = Vec::with_capacity(pyramid.len());
    for &(stride, feature) in pyramid {
        let shared = |graph: &mut Graph, input, part: &str| {
            let names = ConvNames {
                layer: format!("head.{part}.s{stride}"),
                weight: format!("head.{part}.conv"),
                norm: format!("head.{part}.norm_s{stride}"),
            };
            conv_bn_relu(graph, input, names, ConvSize::square(width, 1))
        };
        let stem = shared(graph, feature, "stem");
        let class = shared(graph, stem, "cls");
        let boxes = shared(graph, stem, "reg");
        levels.push(OutputLevel {
            stride,
            class: predict(graph, class, "head.cls_pred", stride, classes),
            boxes: predict(graph, boxes, "head.reg_pred", stride, 4 * bins),
        });
    }
    levels
}

/// The last 1×1 convolution: bias, no norm, no activation.
fn predict(graph: &mut Graph, input: NodeId, name: &str, stride: usize, channels: usize) -> NodeId {
    let conv = Conv {
        weight: format!("{name}.weight"),
        norm: None,
        bias: Some(format!("{name}.bias")),
        in_channels: graph.channels(input),
        out_channels: channels,
        kernel: 1,
        stride: 1,
        relu: false,
    };
    graph.conv(format!("{name}.s{stride}"), input, conv)
}

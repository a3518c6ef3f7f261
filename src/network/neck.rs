//! A path-aggregation neck made of small one-shot aggregation blocks: coarse meaning flows
//! down to the fine levels and fine position back up, every level with the same width.

use super::{ConvNames, ConvSize, conv_bn_relu};
use crate::network::graph::{Graph, NodeId};

/// Adds the neck behind the backbone's `levels` (stride, node), finest first.
/// Returns one feature map of `width` channels a level, finest first.
pub fn build(
    graph: &mut Graph,
    levels: &[(usize, NodeId)],
    width: usize,
    mid: usize,
) -> Vec<(usize, NodeId)> {
    let mut down: Vec<(usize, NodeId)> = Vec::new(); // coarsest first
    for &(stride, feature) in levels.iter().rev() {
        let lateral = conv(
            graph,
            feature,
            &format!("neck.lateral.s{stride}"),
            ConvSize::pointwise(width),
        );
        let merged = match down.last() {
            None => lateral,
            Some(&(_, coarser)) => {
                let up = graph.upsample(format!("neck.up.s{stride}"), coarser);
                let both = graph.concat(format!("neck.top_down.s{stride}.in"), &[lateral, up]);
                osa_block(graph, both, &format!("neck.top_down.s{stride}"), width, mid)
            }
        };
        down.push((stride, merged));
    }
    let mut pyramid: Vec<(usize, NodeId)> = Vec::new(); // finest first
    for &(stride, merged) in down.iter().rev() {
        let out = match pyramid.last() {
            None => merged,
            Some(&(_, finer)) => {
                let reduced = conv(
                    graph,
                    finer,
                    &format!("neck.down.s{stride}"),
                    ConvSize::square(width, 2),
                );
                let both = graph.concat(format!("neck.bottom_up.s{stride}.in"), &[reduced, merged]);
                osa_block(
                    graph,
                    both,
                    &format!("neck.bottom_up.s{stride}"),
                    width,
                    mid,
                )
            }
        };
        pyramid.push((stride, out));
    }
    pyramid
}

/// Two 3×3 convolutions and one concatenation, reduced to `width` by a 1×1 convolution.
fn osa_block(graph: &mut Graph, input: NodeId, name: &str, width: usize, mid: usize) -> NodeId {
    let first = conv(
        graph,
        input,
        &format!("{name}.layers.0"),
        ConvSize::square(mid, 1),
    );
    let second = conv(
        graph,
        first,
        &format!("{name}.layers.1"),
        ConvSize::square(mid, 1),
    );
    let all = graph.concat(format!("{name}.all"), &[input, first, second]);
    conv(
        graph,
        all,
        &format!("{name}.concat"),
        ConvSize::pointwise(width),
    )
}

fn conv(graph: &mut Graph, input: NodeId, name: &str, size: ConvSize) -> NodeId {
    let names = ConvNames {
        layer: name.to_owned(),
        weight: format!("{name}.conv"),
        norm: format!("{name}.norm"),
    };
    conv_bn_relu(graph, input, names, size)
}

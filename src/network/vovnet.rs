//! VoVNet: Lee et al., "An Energy and GPU-Computation Efficient Backbone Network for
//! Real-Time Object Detection", CVPRW 2019, arXiv 1904.09730, table 1.
//!
//! Tensor names are those of the authors' PyTorch checkpoints behind a prefix.

use super::{ConvNames, ConvSize, conv_bn_relu};
use crate::network::graph::{Graph, NodeId};
use serde::{Deserialize, Serialize};

/// The published variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VovNet {
    /// VoVNet-27-slim, 3.0 M parameters without a classifier.
    #[serde(rename = "vovnet27_slim")]
    Slim27,
    /// VoVNet-39.
    #[serde(rename = "vovnet39")]
    V39,
    /// VoVNet-57.
    #[serde(rename = "vovnet57")]
    V57,
}

/// One row of the paper's table: stages 2 to 5.
struct Config {
    /// Width of the five 3×3 convolutions of a module.
    stage_channels: [usize; 4],
    /// Width after a module's 1×1 convolution.
    concat_channels: [usize; 4],
    /// One-shot aggregation modules in a stage.
    modules: [usize; 4],
}

/// 3×3 convolutions in one OSA module, in every variant.
const LAYERS: usize = 5;

impl VovNet {
    fn config(self) -> Config {
        match self {
            VovNet::Slim27 => Config {
                stage_channels: [64, 80, 96, 112],
                concat_channels: [128, 256, 384, 512],
                modules: [1, 1, 1, 1],
            },
            VovNet::V39 => Config {
                stage_channels: [128, 160, 192, 224],
                concat_channels: [256, 512, 768, 1024],
                modules: [1, 1, 2, 2],
            },
            VovNet::V57 => Config {
                stage_channels: [128, 160, 192, 224],
                concat_channels: [256, 512, 768, 1024],
                modules: [1, 1, 4, 3],
            },
        }
    }

    /// Adds the backbone behind `input`; tensor names get `prefix`.
    /// Returns the outputs of stages 2 to 5 with their strides 4, 8, 16, 32.
    pub fn build(self, graph: &mut Graph, input: NodeId, prefix: &str) -> Vec<(usize, NodeId)> {
        let config = self.config();
        let mut x = input;
        for (i, (channels, stride)) in [(64, 2), (64, 1), (128, 2)].into_iter().enumerate() {
            let name = format!("{prefix}stem.stem_{}", i + 1);
            x = authors_conv(graph, x, &name, ConvSize::square(channels, stride));
        }
        let mut features = Vec::new();
        for stage in 0..4 {
            let number = stage + 2; // the paper counts the stem as stage 1
            if stage > 0 {
                x = graph.max_pool(format!("{prefix}stage{number}.pool"), x);
            }
            for module in 0..config.modules[stage] {
                let name = format!("{prefix}stage{number}.OSA{number}_{}", module + 1);
                let widths = OsaWidths {
                    layer: config.stage_channels[stage],
                    concat: config.concat_channels[stage],
                };
                x = osa_module(graph, x, &name, widths, module > 0);
            }
            features.push((4 << stage, x));
        }
        features
    }
}

/// Widths of an OSA module.
#[derive(Clone, Copy)]
struct OsaWidths {
    /// Of the five 3×3 convolutions.
    layer: usize,
    /// After the 1×1 convolution.
    concat: usize,
}

/// One-shot aggregation: five 3×3 convolutions in a chain, and one concatenation of the
/// module's input with all five outputs.
fn osa_module(
    graph: &mut Graph,
    input: NodeId,
    name: &str,
    widths: OsaWidths,
    identity: bool,
) -> NodeId {
    let short = name.rsplit('.').next().unwrap_or(name);
    let mut collected = vec![input];
    let mut x = input;
    for layer in 0..LAYERS {
        let layer_name = format!("{name}.layers.{layer}.{short}_{layer}");
        x = authors_conv(graph, x, &layer_name, ConvSize::square(widths.layer, 1));
        collected.push(x);
    }
    let all = graph.concat(format!("{name}.all"), &collected);
    let out = authors_conv(
        graph,
        all,
        &format!("{name}.concat.{short}_concat"),
        ConvSize::pointwise(widths.concat),
    );
    if identity {
        graph.add(format!("{name}.identity"), out, input)
    } else {
        out
    }
}

/// The authors name the two halves of a block `<name>/conv` and `<name>/norm`.
fn authors_conv(graph: &mut Graph, input: NodeId, name: &str, size: ConvSize) -> NodeId {
    let names = ConvNames {
        layer: name.to_owned(),
        weight: format!("{name}/conv"),
        norm: format!("{name}/norm"),
    };
    conv_bn_relu(graph, input, names, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backbone(variant: VovNet) -> Graph {
        let (mut graph, input) = Graph::new();
        graph.features = variant.build(&mut graph, input, "");
        graph
    }

    #[test]
    fn the_27_slim_backbone_has_the_known_size() {
        let graph = backbone(VovNet::Slim27);
        assert_eq!(graph.cost(224, 224).parameters, 3_012_736);
        for (side, giga) in [(224, 2.176), (320, 4.441), (512, 11.369)] {
            let macs = graph.cost(side, side).macs as f64 / 1e9;
            assert!((macs - giga).abs() < 5e-4, "{macs} at {side}");
        }
    }

    #[test]
    fn every_variant_has_the_tables_modules_and_widths() {
        for (variant, channels, modules) in [
            (VovNet::Slim27, [128, 256, 384, 512], 4),
            (VovNet::V39, [256, 512, 768, 1024], 6),
            (VovNet::V57, [256, 512, 768, 1024], 9),
        ] {
            let graph = backbone(variant);
            let widths: Vec<usize> = graph
                .features
                .iter()
                .map(|&(_, id)| graph.channels(id))
                .collect();
            assert_eq!(widths, channels);
            let found = graph
                .nodes
                .iter()
                .filter(|node| node.name.ends_with(".all"))
                .count();
            assert_eq!(found, modules, "{variant:?}");
        }
    }

    #[test]
    fn tensor_names_are_the_authors() {
        let graph = backbone(VovNet::V39);
        let names: Vec<&str> = graph
            .convs()
            .map(|(_, conv)| conv.weight.as_str())
            .collect();
        for name in [
            "stem.stem_1/conv.weight",
            "stage2.OSA2_1.layers.0.OSA2_1_0/conv.weight",
            "stage5.OSA5_2.concat.OSA5_2_concat/conv.weight",
        ] {
            assert!(names.contains(&name), "{name} is missing");
        }
    }
}

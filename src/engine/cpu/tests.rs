//! The engine against candle, and every instruction set's kernels against their scalar twins.

use super::*;
use crate::calibration::Calibration;
use crate::engine::reference::ReferenceEngine;
use crate::graph::{Conv, Graph};
use crate::model::{Network as Detector, vovnet::VovNet};
use crate::weights::ConvWeights;
use proptest::prelude::*;

/// Pseudo-random bytes.
fn picture(batch: usize, height: usize, width: usize) -> ModelInput {
    let mut state = 1u32;
    ModelInput {
        batch,
        height,
        width,
        data: (0..batch * height * width * 3)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect(),
        letterboxes: Vec::new(),
    }
}

fn detector() -> Model {
    Model::random(Detector::vovnet27_slim(), 12, 1).unwrap()
}

fn reference(model: &Model, input: &ModelInput) -> RawOutput {
    let mut engine = ReferenceEngine::new(model, &candle_core::Device::Cpu).unwrap();
    let mut output = RawOutput::default();
    engine.infer(input, &mut output).unwrap();
    output
}

/// Largest difference over largest value, the worst over all logit arrays.
fn relative_error(got: &RawOutput, expected: &RawOutput) -> f32 {
    assert_eq!(got.batch, expected.batch);
    assert_eq!(got.levels.len(), expected.levels.len());
    let arrays = got.levels.iter().zip(&expected.levels);
    arrays
        .flat_map(|(a, b)| [(&a.class, &b.class), (&a.boxes, &b.boxes)])
        .map(|(a, b)| {
            assert_eq!(a.len(), b.len());
            error(a, b)
        })
        .fold(0.0, f32::max)
}

fn error(a: &[f32], b: &[f32]) -> f32 {
    assert!(a.iter().all(|v| v.is_finite()));
    let largest = b.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, f32::max) / largest.max(f32::MIN_POSITIVE)
}

fn options(isa: Isa, threads: usize, winograd: bool) -> CpuOptions {
    CpuOptions {
        threads,
        isa: Some(isa),
        winograd,
        ..CpuOptions::default()
    }
}

#[test]
fn the_detector_agrees_with_candle() {
    let model = detector();
    for (batch, height, width) in [(1, 64, 96), (2, 96, 64)] {
        let input = picture(batch, height, width);
        let expected = reference(&model, &input);
        for isa in Isa::available() {
            for (threads, winograd) in [(1, true), (2, true), (2, false)] {
                let options = options(isa, threads, winograd);
                let mut engine = CpuEngine::with_options(&model, options).unwrap();
                let mut output = RawOutput::default();
                engine.infer(&input, &mut output).unwrap();
                let error = relative_error(&output, &expected);
                assert!(error <= 1e-4, "{}: {error}", engine.describe());
            }
        }
    }
}

#[test]
fn identity_sums_and_a_stride_4_level_agree_with_candle() {
    let network = Detector {
        backbone: VovNet::V39,
        strides: vec![4, 8, 16, 32],
        ..Detector::vovnet27_slim()
    };
    let model = Model::random(network, 3, 2).unwrap();
    let input = picture(1, 32, 64);
    let mut output = RawOutput::default();
    CpuEngine::new(&model, 2)
        .unwrap()
        .infer(&input, &mut output)
        .unwrap();
    let error = relative_error(&output, &reference(&model, &input));
    assert!(error <= 1e-4, "{error}");
}

#[test]
fn channels_that_do_not_fill_blocks_agree_with_candle() {
    let network = Detector {
        neck_width: 40,
        neck_mid_width: 20,
        box_bins: 9,
        ..Detector::vovnet27_slim()
    };
    let model = Model::random(network, 5, 3).unwrap();
    let input = picture(1, 32, 32);
    let mut output = RawOutput::default();
    CpuEngine::new(&model, 1)
        .unwrap()
        .infer(&input, &mut output)
        .unwrap();
    let error = relative_error(&output, &reference(&model, &input));
    assert!(error <= 1e-4, "{error}");
}

#[test]
fn sizes_share_the_arena_without_a_trace() {
    let model = detector();
    let mut engine = CpuEngine::new(&model, 2).unwrap();
    let (small, large) = (picture(1, 32, 64), picture(1, 96, 64));
    let mut first = RawOutput::default();
    engine.infer(&small, &mut first).unwrap();
    let mut other = RawOutput::default();
    engine.infer(&large, &mut other).unwrap();
    let mut again = RawOutput::default();
    engine.infer(&small, &mut again).unwrap();
    assert_eq!(first, again);
}

#[test]
fn a_size_that_does_not_divide_is_refused() {
    let model = detector();
    let mut engine = CpuEngine::new(&model, 1).unwrap();
    let error = engine
        .infer(&picture(1, 64, 72), &mut RawOutput::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "input of 72x64 pixels: both sides must be positive multiples of 32"
    );
}

/// A graph of the picture, a stride-2 convolution, and `more`, whose last node is the output.
fn graph_of(
    channels: usize,
    more: impl Fn(&mut Graph, crate::graph::NodeId) -> crate::graph::NodeId,
) -> Graph {
    let (mut graph, input) = Graph::new();
    let first = conv(&mut graph, input, channels, 3, 2, false);
    let last = more(&mut graph, first);
    let class = conv(&mut graph, last, 7, 1, 1, false);
    let boxes = conv(&mut graph, last, 16, 1, 1, false);
    graph.outputs.push(crate::graph::OutputLevel {
        stride: 2,
        class,
        boxes,
    });
    graph
}

fn conv(
    graph: &mut Graph,
    input: crate::graph::NodeId,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    relu: bool,
) -> crate::graph::NodeId {
    let name = format!("conv{}", graph.nodes.len());
    let conv = Conv {
        weight: name.clone(),
        norm: None,
        bias: Some(name.clone()),
        in_channels: graph.channels(input),
        out_channels,
        kernel,
        stride,
        relu,
    };
    graph.conv(name, input, conv)
}

/// The graph with pseudo-random weights.
fn model_of(graph: Graph) -> Model {
    let mut state = 7u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let weights = graph
        .convs()
        .map(|(_, conv)| ConvWeights {
            weight: (0..conv.weight_len()).map(|_| random()).collect(),
            bias: (0..conv.out_channels).map(|_| random()).collect(),
        })
        .collect();
    Model {
        graph,
        weights,
        ..detector()
    }
}

/// Runs a graph on every instruction set, with and without Winograd, against candle.
fn agree(graph: Graph, input: &ModelInput) -> Result<(), TestCaseError> {
    let model = model_of(graph);
    let expected = reference(&model, input);
    for isa in Isa::available() {
        for winograd in [false, true] {
            let engine = CpuEngine::with_options(&model, options(isa, 2, winograd));
            let mut output = RawOutput::default();
            let mut engine = engine.unwrap();
            engine.infer(input, &mut output).unwrap();
            let error = relative_error(&output, &expected);
            prop_assert!(error <= 1e-4, "{}: {error}", engine.describe());
        }
    }
    Ok(())
}

/// The graph with pseudo-random weights and a ReLU after every convolution but the logits.
fn model_of_relu(mut graph: Graph) -> Model {
    let logits: Vec<usize> = graph
        .outputs
        .iter()
        .flat_map(|level| [level.class.0, level.boxes.0])
        .collect();
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        if let Op::Conv(conv) = &mut node.op {
            conv.relu = !logits.contains(&index);
        }
    }
    model_of(graph)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn ragged_int8_layers_equal_their_scalar_twins(
        (height, width) in (1usize..14, 1usize..14),
        (from, to) in (1usize..40, 1usize..70),
        kernel in prop::sample::select(vec![1, 3]),
    ) {
        let graph = graph_of(from, |graph, x| {
            let y = conv(graph, x, to, kernel, 1, true);
            let pooled = graph.max_pool("pool", y);
            let z = conv(graph, pooled, from, 3, 1, true);
            graph.concat("joined", &[pooled, z])
        });
        let input = picture(1, 2 * height, 2 * width);
        bytes_agree(&calibrated(model_of_relu(graph), &input), &input)?;
    }

    #[test]
    fn ragged_convolutions_agree_with_candle(
        (height, width) in (1usize..14, 1usize..14),
        (from, to) in (1usize..40, 1usize..70),
        (kernel, relu) in (prop::sample::select(vec![1, 3]), any::<bool>()),
    ) {
        let graph = graph_of(from, |graph, x| conv(graph, x, to, kernel, 1, relu));
        agree(graph, &picture(1, 2 * height, 2 * width))?;
    }

    #[test]
    fn concatenations_pools_and_enlargements_agree_with_candle(
        (height, width) in (1usize..6, 1usize..6),
        (a, b) in (1usize..20, 1usize..20),
        batch in 1usize..3,
    ) {
        // a pooled side of an even side is half of it, so the enlargement fits again
        let graph = graph_of(a, |graph, x| {
            let pooled = graph.max_pool("pool", x);
            let up = graph.upsample("up", pooled);
            let y = conv(graph, x, b, 3, 1, true);
            let inner = graph.concat("inner", &[up, y]);
            let z = conv(graph, inner, a, 3, 1, false);
            let sum = graph.add("sum", z, x);
            // y is joined twice: the second time it must be copied
            graph.concat("outer", &[inner, sum, y])
        });
        agree(graph, &picture(batch, 4 * height, 4 * width))?;
    }
}

#[test]
fn every_instruction_set_has_every_tile_that_it_names() {
    for isa in Isa::available() {
        let kernels = Kernels::of(isa).unwrap();
        for tiles in [&kernels.tiles, ByteKernels::of(isa).tiles] {
            for &(blocks, pixels) in tiles.shapes {
                for step in [8, 16, 32] {
                    assert!((tiles.get)(step, blocks, pixels).is_some());
                }
            }
            // any number of blocks and pixels can be covered
            assert!(tiles.shapes.contains(&(1, 1)), "{isa}");
        }
    }
}

/// The model with ranges measured on `input`.
fn calibrated(mut model: Model, input: &ModelInput) -> Model {
    let mut calibration = Calibration::new(&model).unwrap();
    calibration.add(input).unwrap();
    model.manifest.int8 = Some(calibration.finish());
    model
}

fn int8(isa: Isa, threads: usize) -> CpuOptions {
    CpuOptions {
        threads,
        isa: Some(isa),
        precision: Precision::Int8,
        ..CpuOptions::default()
    }
}

/// Runs a model in bytes on every instruction set and expects the scalar twin's exact logits.
fn bytes_agree(model: &Model, input: &ModelInput) -> Result<RawOutput, TestCaseError> {
    let mut twin = RawOutput::default();
    let mut scalar = CpuEngine::with_options(model, int8(Isa::Scalar, 1)).unwrap();
    scalar.infer(input, &mut twin).unwrap();
    for isa in Isa::available() {
        let mut engine = CpuEngine::with_options(model, int8(isa, 2)).unwrap();
        let mut output = RawOutput::default();
        engine.infer(input, &mut output).unwrap();
        prop_assert!(output == twin, "{} differs", engine.describe());
    }
    Ok(twin)
}

#[test]
fn int8_equals_its_scalar_twin_and_is_near_f32() {
    let input = picture(2, 64, 96);
    for backbone in [VovNet::Slim27, VovNet::V39] {
        let network = Detector {
            backbone,
            ..Detector::vovnet27_slim()
        };
        let model = calibrated(Model::random(network, 12, 1).unwrap(), &input);
        let output = bytes_agree(&model, &input).unwrap();
        let error = relative_error(&output, &reference(&model, &input));
        assert!(error <= 0.1, "{error}");
    }
}

#[test]
fn int8_without_ranges_says_what_to_do() {
    let error = CpuEngine::with_options(&detector(), int8(Isa::Scalar, 1)).err();
    let error = error.unwrap().to_string();
    assert!(error.contains("vovcam calibrate"), "{error}");
}

/// One convolution in bytes, computed the slow and obvious way in f64 from the same steps.
#[test]
fn int8_layers_are_as_exact_as_their_steps() {
    let (height, width) = (5, 7);
    let graph = graph_of(20, |graph, x| conv(graph, x, 33, 3, 1, true));
    let input = picture(1, 2 * height, 2 * width);
    let model = calibrated(model_of_relu(graph), &input);
    let output = bytes_agree(&model, &input).unwrap();
    let expected = reference(&model, &input);
    // two layers of bytes: 1/255 of the range each, weights 1/254 of their largest
    let error = relative_error(&output, &expected);
    assert!(error <= 0.03, "{error}");
}

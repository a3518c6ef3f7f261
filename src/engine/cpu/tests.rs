//! The engine against candle, and every instruction set's kernels against the scalar reference.
//! Long because all share the same generated graphs and weights.

use super::*;
use crate::engine::reference::ReferenceEngine;
use crate::eval::calibration::Calibration;
use crate::model::ConvWeights;
use crate::network::Network as Detector;
use crate::network::graph::{Conv, Graph};
use crate::network::vovnet::VovNet;
use proptest::prelude::*;

/// Pseudo-random bytes.
fn image(batch: usize, height: usize, width: usize) -> Batch {
    let mut state = 1u32;
    Batch {
        batch,
        height,
        width,
        data: (0..batch * height * width * 3)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect(),
    }
}

fn detector() -> Model {
    Model::random(Detector::vovnet27_slim(), 12, 1).unwrap()
}

fn reference(model: &Model, input: &Batch) -> RawOutput {
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
        let input = image(batch, height, width);
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
    let input = image(1, 32, 64);
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
    let input = image(1, 32, 32);
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
    let (small, large) = (image(1, 32, 64), image(1, 96, 64));
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
        .infer(&image(1, 64, 72), &mut RawOutput::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "input of 72x64 pixels: both sides must be positive multiples of 32"
    );
}

/// A graph of the input, a 3×3 stride-2 convolution, and `more`, whose last node is the output.
fn graph_of(
    channels: usize,
    more: impl Fn(&mut Graph, crate::network::graph::NodeId) -> crate::network::graph::NodeId,
) -> Graph {
    graph_with_stem(channels, 3, more)
}

/// [`graph_of`] with another kernel for the first convolution.
fn graph_with_stem(
    channels: usize,
    kernel: usize,
    more: impl Fn(&mut Graph, crate::network::graph::NodeId) -> crate::network::graph::NodeId,
) -> Graph {
    let (mut graph, input) = Graph::new();
    let first = conv(&mut graph, input, channels, kernel, 2, false);
    let last = more(&mut graph, first);
    let class = conv(&mut graph, last, 7, 1, 1, false);
    let boxes = conv(&mut graph, last, 16, 1, 1, false);
    graph.outputs.push(crate::network::graph::OutputLevel {
        stride: 64 / graph.shapes(64, 64)[last.0].height,
        class,
        boxes,
    });
    graph
}

fn conv(
    graph: &mut Graph,
    input: crate::network::graph::NodeId,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    relu: bool,
) -> crate::network::graph::NodeId {
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
fn agree(graph: Graph, input: &Batch) -> Result<(), TestCaseError> {
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
    fn ragged_int8_layers_equal_the_scalar_reference(
        (height, width) in (1usize..8, 1usize..8),
        (from, to) in (1usize..40, 1usize..70),
        (stem, kernel) in (
            prop::sample::select(vec![3, 5, 7]),
            prop::sample::select(vec![1, 3, 5, 7]),
        ),
    ) {
        let graph = graph_with_stem(from, stem, |graph, x| {
            let y = conv(graph, x, to, kernel, 1, true);
            let pooled = graph.max_pool("pool", y);
            let z = conv(graph, pooled, from, 3, 1, true);
            graph.concat("joined", &[pooled, z])
        });
        let input = image(1, 4 * height, 4 * width);
        bytes_agree(&calibrated(model_of_relu(graph), &input), &input)?;
    }

    #[test]
    fn ragged_convolutions_agree_with_candle(
        (height, width) in (1usize..14, 1usize..14),
        (from, to) in (1usize..40, 1usize..70),
        (stem, kernel, relu) in (
            prop::sample::select(vec![1, 3, 5, 7]),
            prop::sample::select(vec![1, 3, 5, 7, 9]),
            any::<bool>(),
        ),
    ) {
        let graph = graph_with_stem(from, stem, |graph, x| conv(graph, x, to, kernel, 1, relu));
        agree(graph, &image(1, 2 * height, 2 * width))?;
    }

    #[test]
    fn concatenations_pools_and_upsamplings_agree_with_candle(
        (height, width) in (1usize..6, 1usize..6),
        (a, b) in (1usize..20, 1usize..20),
        batch in 1usize..3,
    ) {
        // a pooled side of an even side is half of it, so the upsampled one fits again
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
        agree(graph, &image(batch, 4 * height, 4 * width))?;
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
fn calibrated(mut model: Model, input: &Batch) -> Model {
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

/// Runs a model in bytes on every instruction set and expects the scalar reference's exact logits.
fn bytes_agree(model: &Model, input: &Batch) -> Result<RawOutput, TestCaseError> {
    let mut expected = RawOutput::default();
    let mut scalar = CpuEngine::with_options(model, int8(Isa::Scalar, 1)).unwrap();
    scalar.infer(input, &mut expected).unwrap();
    for isa in Isa::available() {
        let mut engine = CpuEngine::with_options(model, int8(isa, 2)).unwrap();
        let mut output = RawOutput::default();
        engine.infer(input, &mut output).unwrap();
        prop_assert!(output == expected, "{} differs", engine.describe());
    }
    Ok(expected)
}

#[test]
fn int8_equals_its_scalar_reference_and_is_near_f32() {
    let input = image(2, 64, 96);
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

/// Bytes of one image, `[channels, height, width]`, and what lies around it by channel.
struct BytePlanes {
    height: usize,
    width: usize,
    values: Vec<u8>,
    border: Vec<u8>,
}

impl BytePlanes {
    /// Outside the image, the border.
    fn at(&self, channel: usize, y: Option<usize>, x: Option<usize>) -> u8 {
        match (y, x) {
            (Some(y), Some(x)) if y < self.height && x < self.width => {
                self.values[(channel * self.height + y) * self.width + x]
            }
            _ => self.border[channel],
        }
    }

    /// A convolution the slow and obvious way: `[out, height, width]` in units of the output's
    /// scale, with exact sums of the quantised weights' products and the rest in f64.
    fn convolve(&self, conv: &Conv, weights: &quant::Weights) -> (usize, usize, Vec<f64>) {
        let pad = conv.kernel / 2;
        let side = |side: usize| (side - 1) / conv.stride + 1;
        let (height, width) = (side(self.height), side(self.width));
        let mut values = Vec::new();
        for out in 0..conv.out_channels {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let mut sum = 0i64;
                for channel in 0..conv.in_channels {
                    for (ky, kx) in
                        (0..conv.kernel).flat_map(|ky| (0..conv.kernel).map(move |kx| (ky, kx)))
                    {
                        let tap = (ky * conv.kernel) + kx;
                        let filter = (out * conv.in_channels + channel) * conv.kernel.pow(2);
                        let row = (y * conv.stride + ky).checked_sub(pad);
                        let column = (x * conv.stride + kx).checked_sub(pad);
                        let value = self.at(channel, row, column);
                        sum += i64::from(weights.values[filter + tap]) * i64::from(value);
                    }
                }
                let (scale, bias) = (weights.scale[out], weights.bias[out]);
                values.push(sum as f64 * f64::from(scale) + f64::from(bias));
            }
        }
        (height, width, values)
    }
}

/// Convolutions in bytes, computed the slow and obvious way in f64 from the same scales: packing,
/// borders, sums and rounding of the kernels add nothing of their own.
#[test]
fn int8_layers_are_as_exact_as_their_scales() {
    let (height, width) = (10, 14);
    let graph = graph_of(20, |graph, x| {
        let y = conv(graph, x, 33, 3, 1, true);
        conv(graph, y, 19, 5, 2, true)
    });
    let input = image(1, 2 * height, 2 * width);
    let model = calibrated(model_of_relu(graph), &input);
    let output = bytes_agree(&model, &input).unwrap();

    let scales = quant::Scales::new(&model.graph, &model.manifest).unwrap();
    let cells = input.height * input.width;
    let mut planes = BytePlanes {
        height: input.height,
        width: input.width,
        values: (0..3 * cells)
            .map(|i| input.data[i % cells * 3 + i / cells])
            .collect(),
        border: quant::input_border(&model.manifest)[..3].to_vec(),
    };
    let level = &output.levels[0];
    let mut compared = 0;
    for ((id, conv), floats) in model.graph.convs().zip(&model.weights) {
        let weights = scales.quantise(&model.graph, id, conv, floats).unwrap();
        let (height, width, values) = planes.convolve(conv, &weights);
        let logits = [
            (model.graph.outputs[0].class, &level.class),
            (model.graph.outputs[0].boxes, &level.boxes),
        ];
        if let Some((_, got)) = logits.into_iter().find(|(output, _)| *output == id) {
            let (cells, channels) = (height * width, conv.out_channels);
            let expected: Vec<f32> = (0..cells * channels)
                .map(|i| values[i % channels * cells + i / channels] as f32)
                .collect();
            let error = error(got, &expected);
            assert!(error <= 1e-6, "{}: {error}", model.graph.node(id).name);
            compared += got.len();
        } else {
            planes = BytePlanes {
                height,
                width,
                values: values
                    .iter()
                    .map(|value| value.clamp(0.0, 255.0).round_ties_even() as u8)
                    .collect(),
                border: vec![0; conv.out_channels],
            };
        }
    }
    assert_eq!(compared, level.class.len() + level.boxes.len());
}

#[test]
fn a_graph_that_no_kernel_runs_is_refused_and_never_run() {
    let spoiled = |spoil: fn(&mut Conv)| {
        let mut graph = graph_of(8, |graph, x| conv(graph, x, 8, 3, 1, true));
        match &mut graph.nodes[2].op {
            Op::Conv(conv) => spoil(conv),
            op => panic!("{op:?}"),
        }
        model_of(graph)
    };
    let even = spoiled(|conv| conv.kernel = 4);
    let stride = spoiled(|conv| conv.stride = 3);
    let channels = spoiled(|conv| conv.in_channels = 80);
    for (model, expected) in [
        (&even, "layer 'conv2': expected an odd kernel, got 4"),
        (&stride, "layer 'conv2': expected stride 1 or 2, got 3"),
        (
            &channels,
            "layer 'conv2': expected 8 channels to read, got 80",
        ),
    ] {
        let reference = ReferenceEngine::new(model, &candle_core::Device::Cpu).err();
        let f32 = CpuEngine::with_options(model, options(Isa::Scalar, 1, true)).err();
        let int8 = CpuEngine::with_options(model, int8(Isa::Scalar, 1)).err();
        for error in [reference, f32, int8].map(Option::unwrap) {
            assert!(
                matches!(&error, EngineError::Unsupported { reason, .. } if reason.contains(expected)),
                "{error}"
            );
        }
    }
}

#[test]
fn summands_of_different_sides_are_refused() {
    let graph = graph_of(8, |graph, x| {
        let pooled = graph.max_pool("pool", x);
        graph.add("sum", x, pooled)
    });
    let model = model_of(graph);
    let mut reference = ReferenceEngine::new(&model, &candle_core::Device::Cpu).unwrap();
    let run = reference.infer(&image(1, 8, 8), &mut RawOutput::default());
    let made = CpuEngine::new(&model, 1).err();
    for (error, expected) in [
        (
            run.unwrap_err(),
            "layer 'sum': expected 4x4 pixels, got 2x2",
        ),
        (made.unwrap(), "layer 'sum': expected 2x2 pixels, got 1x1"),
    ] {
        assert!(
            matches!(&error, EngineError::Unsupported { reason, .. } if reason.contains(expected)),
            "{error}"
        );
    }
}

#[test]
fn bytes_that_do_not_fill_the_input_are_refused() {
    let model = detector();
    let mut input = image(1, 32, 32);
    input.data.pop();
    let engines: [Box<dyn Engine>; 2] = [
        Box::new(ReferenceEngine::new(&model, &candle_core::Device::Cpu).unwrap()),
        Box::new(CpuEngine::new(&model, 1).unwrap()),
    ];
    for mut engine in engines {
        let error = engine.infer(&input, &mut RawOutput::default()).unwrap_err();
        assert_eq!(error.to_string(), "3071 bytes of images: expected 3072");
    }
}

/// Not every machine is faster in int8, so the choice is tried as if it were.
#[test]
fn int8_is_chosen_where_it_is_faster_and_the_reason_is_told() {
    let plain = detector();
    let ranged = calibrated(detector(), &image(1, 32, 32));
    let mut torn = calibrated(detector(), &image(1, 32, 32));
    torn.manifest.int8.as_mut().unwrap().ranges.clear();
    let scalar = options(Isa::Scalar, 1, true);
    for (model, faster, expected) in [
        (
            &ranged,
            true,
            "cpu scalar int8, 1 thread (int8: faster here, and the model has int8 ranges)",
        ),
        (
            &ranged,
            false,
            "cpu scalar f32 winograd, 1 thread (f32: int8 is not faster with 'scalar')",
        ),
        (
            &plain,
            true,
            "cpu scalar f32 winograd, 1 thread (f32: the model 'random' has no int8 ranges)",
        ),
        (
            &torn,
            true,
            "cpu scalar f32 winograd, 1 thread (f32: the model 'random' has no int8 range for \
             'backbone.stem.stem_1'; measure them with 'vovcam calibrate', or use --precision f32)",
        ),
    ] {
        let engine = CpuEngine::of_best_precision(model, scalar, faster).unwrap();
        assert_eq!(engine.start_line(), expected);
    }
    let asked = CpuEngine::with_options(&ranged, scalar).unwrap();
    assert_eq!(asked.start_line(), "cpu scalar f32 winograd, 1 thread");
}

#[test]
fn the_default_precision_is_that_of_this_machine() {
    let ranged = calibrated(detector(), &image(1, 32, 32));
    let best = Isa::available().next().unwrap();
    let engine = CpuEngine::with_best_precision(&ranged, CpuOptions::default()).unwrap();
    let expected = match ByteKernels::of(best).faster {
        true => "(int8: faster here, and the model has int8 ranges)",
        false => "(f32: int8 is not faster on this processor)",
    };
    let line = engine.start_line();
    assert!(line.ends_with(expected), "{line}");
}

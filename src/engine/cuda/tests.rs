//! Programs, views, filters and kernels against candle: kernels.cu is built for the CPU here.
//! Tests that need a GPU are in `tests/cuda.rs`.
#![allow(unsafe_code, reason = "calls kernels.cu, which takes raw addresses")]

use super::kernels::{At, Image, LogitArrays, Normalisation};
use super::program::Work;
use super::*;
use crate::engine::reference::ReferenceEngine;
use crate::model::ConvWeights;
use crate::network::Network;
use crate::network::graph::{Conv, NodeId, OutputLevel};
use crate::network::vovnet::VovNet;
use candle_core::{Device, Tensor};
use libloading::{Library, Symbol};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Runs a program with the real kernels, built for the CPU.
struct HostRun<'a> {
    model: &'a Model,
    precision: Float,
    program: Program,
    filters: Vec<Filter>,
    layout: Layout,
    /// Of 16 bytes, as the kernels' packs are.
    arena: Vec<u128>,
    /// Where the arena starts.
    address: u64,
    kernels: &'static Library,
}

/// kernels.cu as a library for the CPU.
fn host_kernels() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("kernels.so");
        let built = Command::new("c++")
            .args([
                "-x",
                "c++",
                "-std=c++17",
                "-O2",
                "-shared",
                "-fPIC",
                "-w",
                "-I",
            ])
            .arg(root.join("tests/cuda"))
            .arg("-o")
            .arg(&library)
            .arg(root.join("src/engine/cuda/kernels.cu"))
            .status();
        assert!(
            built
                .expect("these tests need a C++ compiler named 'c++'")
                .success()
        );
        // SAFETY: the library has no initialisers
        unsafe { Library::new(&library) }.unwrap()
    })
}

/// Calls a kernel by its name in kernels.cu.
macro_rules! kernel {
    ($run:expr, $name:expr, $($argument:expr => $type:ty),+) => {{
        let name = format!("{}_{}", $name, $run.precision);
        // SAFETY: the types are those of the kernel's parameters, and the addresses lie in the
        // run's own arrays
        unsafe {
            let kernel: Symbol<'_, unsafe extern "C" fn($($type),+)> =
                $run.kernels.get(name.as_bytes()).unwrap();
            kernel($($argument),+);
        }
    }};
}

impl<'a> HostRun<'a> {
    fn new(model: &'a Model, input: &Batch, precision: Float) -> HostRun<'a> {
        let layout = Layout::new(&model.graph);
        let size = BatchSize::of(input);
        let program = Program::new(&model.graph, &layout, size, precision.pack()).unwrap();
        let mut filters = filters(model, &layout, precision);
        if precision == Float::F16 {
            let round = |v: &mut f32| *v = f16::from_f32(*v).to_f32();
            for filter in &mut filters {
                filter
                    .weight
                    .iter_mut()
                    .chain(&mut filter.bias)
                    .for_each(round);
            }
        }
        // all ones is no number in both precisions: what is read before it is written spreads
        let mut arena = vec![u128::MAX; (program.arena_len * precision.bytes()).div_ceil(16)];
        HostRun {
            model,
            precision,
            filters,
            layout,
            address: arena.as_mut_ptr() as u64,
            arena,
            program,
            kernels: host_kernels(),
        }
    }

    fn image(&self, view: &View) -> Image {
        Image::new(
            self.precision,
            At {
                arena: self.address,
                view,
            },
        )
    }

    fn packs(&self, view: &View) -> u32 {
        let pixels = self.program.batch * view.height * view.width;
        (pixels * view.channels / self.precision.pack()) as u32
    }

    fn step(&mut self, index: usize, input: &Batch) {
        let step = self.program.steps[index];
        let node = self.program.views[step.node.0];
        match step.work {
            Work::Normalise { to } => {
                let manifest = &self.model.manifest;
                let by = Normalisation::new(&manifest.mean, &manifest.std);
                let ([a, b, c], [d, e, f]) = (by.scale, by.shift);
                kernel!(self, "normalise", self.image(&to) => Image,
                    input.data.as_ptr() => *const u8, self.packs(&to) => u32,
                    a => f32, b => f32, c => f32, d => f32, e => f32, f => f32);
            }
            Work::Conv { conv, from, to } => {
                assert_eq!(to, node);
                let filter = &self.filters[conv];
                assert_eq!(
                    (filter.in_channels, filter.out_channels),
                    (from.channels, to.channels)
                );
                let weight = self.precision.to_bytes(&filter.weight);
                let bias = self.precision.to_bytes(&filter.bias);
                let values = self.program.batch * to.height * to.width * to.channels;
                kernel!(self, "direct", self.image(&to) => Image, self.image(&from) => Image,
                    weight.as_ptr() => *const u8, bias.as_ptr() => *const u8,
                    filter.kernel as i32 => i32, filter.stride as i32 => i32,
                    i32::from(filter.relu) => i32, values as u32 => u32);
            }
            Work::MaxPool { from, to } => self.two("max_pool", &to, &from),
            Work::Upsample { from, to } => self.two("upsample", &to, &from),
            Work::Copy { from, to } => self.two("copy", &to, &from),
            Work::Add { left, right, to } => {
                kernel!(self, "add", self.image(&to) => Image, self.image(&left) => Image,
                    self.image(&right) => Image, self.packs(&to) => u32);
            }
        }
    }

    fn two(&self, name: &str, to: &View, from: &View) {
        kernel!(self, name, self.image(to) => Image, self.image(from) => Image,
            self.packs(to) => u32);
    }

    fn bytes(&self, view: &View) -> &[u8] {
        let size = self.precision.bytes();
        let start = view.offset * size;
        &bytes_of(&self.arena)[start..start + view.span(self.program.batch) * size]
    }

    /// A node's output as the engine shows it.
    fn shown(&self, node: NodeId) -> Vec<f32> {
        let view = &self.program.views[node.0];
        let lanes = &self.layout.lanes[node.0];
        unpack(
            self.precision,
            self.program.batch,
            view,
            lanes,
            self.bytes(view),
        )
    }

    /// The logits as the host gets them, by the kernel that gathers them.
    fn logits(&self) -> Vec<f32> {
        let batch = self.program.batch;
        let arrays = &self.program.logits;
        let values: usize = arrays.iter().map(|array| array.values(batch)).sum();
        let mut to = vec![f32::NAN; values];
        let address = to.as_mut_ptr() as u64;
        let (table, _) = LogitArrays::new(self.precision, batch, self.address, arrays, address);
        for array in 0..arrays.len() {
            // SAFETY: sets the block that the next kernel believes to be
            unsafe {
                let set: Symbol<'_, unsafe extern "C" fn(u32)> =
                    self.kernels.get(b"set_block_y").unwrap();
                set(array as u32);
            }
            kernel!(self, "logits", table => LogitArrays, batch as i32 => i32);
        }
        to
    }
}

/// Pseudo-random bytes.
fn images(batch: usize, height: usize, width: usize) -> Batch {
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Batch {
        batch,
        height,
        width,
        data: (0..batch * height * width * 3).map(|_| byte()).collect(),
    }
}

/// Largest difference over largest value; infinite when something is no number.
fn relative_error(got: &[f32], right: &[f32]) -> f32 {
    assert_eq!(got.len(), right.len());
    let largest = right
        .iter()
        .fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let off = got.iter().zip(right).map(|(a, b)| (a - b).abs());
    off.fold(0.0f32, |most, off| {
        if off.is_nan() {
            f32::INFINITY
        } else {
            most.max(off)
        }
    }) / largest
}

/// Holds every layer of the program, and the logits, to candle's.
fn agrees(model: &Model, input: &Batch, precision: Float, tolerance: f32) {
    // the kernels' block number is a global
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut reference = ReferenceEngine::new(model, &Device::Cpu).unwrap();
    let (mean, std) = (model.manifest.mean, model.manifest.std);
    let normalised: Vec<f32> = (0..input.data.len())
        .map(|i| (f32::from(input.data[i]) / 255.0 - mean[i % 3]) / std[i % 3])
        .collect();
    let shape = (input.batch, input.height, input.width, 3);
    let nhwc = Tensor::from_vec(normalised, shape, &Device::Cpu).unwrap();
    let expected = reference
        .forward(&nhwc.permute((0, 3, 1, 2)).unwrap())
        .unwrap();
    let mut host = HostRun::new(model, input, precision);
    for index in 0..host.program.steps.len() {
        host.step(index, input);
        let node = host.program.steps[index].node;
        if model.graph.node(node).op == Op::Concat {
            continue; // complete only after its last copy; what reads it is compared
        }
        let right = expected[node.0].flatten_all().unwrap();
        let error = relative_error(&host.shown(node), &right.to_vec1::<f32>().unwrap());
        let name = &model.graph.node(node).name;
        assert!(
            error <= tolerance,
            "{precision} layer '{name}' is off by {error}"
        );
    }
    let mut output = RawOutput::default();
    reference.infer(input, &mut output).unwrap();
    let levels = output.levels.iter();
    let right: Vec<f32> = levels
        .flat_map(|level| [&level.class[..], &level.boxes].concat())
        .collect();
    let error = relative_error(&host.logits(), &right);
    assert!(error <= tolerance, "{precision} logits are off by {error}");
}

#[test]
fn every_layer_of_the_detector_agrees_with_candle() {
    let model = Model::random(Network::vovnet27_slim(), 12, 1).unwrap();
    agrees(&model, &images(1, 64, 32), Float::F32, 1e-4);
    agrees(&model, &images(2, 32, 64), Float::F32, 1e-4);
    agrees(&model, &images(1, 64, 64), Float::F16, 1e-2);
}

#[test]
fn channels_that_do_not_fill_blocks_and_a_stride_4_level_agree_with_candle() {
    let network = Network {
        neck_width: 40,
        neck_mid_width: 20,
        box_bins: 9,
        strides: vec![4, 8, 16, 32],
        ..Network::vovnet27_slim()
    };
    let model = Model::random(network, 5, 3).unwrap();
    agrees(&model, &images(1, 32, 32), Float::F32, 1e-4);
}

#[test]
fn the_bundled_model_keeps_its_answers_in_half_precision() {
    let model = Model::bundled().unwrap();
    agrees(&model, &images(1, 96, 96), Float::F16, 1e-2);
}

#[test]
fn identity_sums_agree_with_candle() {
    let network = Network {
        backbone: VovNet::V39,
        ..Network::vovnet27_slim()
    };
    let model = Model::random(network, 3, 2).unwrap();
    agrees(&model, &images(1, 32, 32), Float::F32, 1e-4);
}

fn conv(graph: &mut Graph, input: NodeId, out_channels: usize, stride: usize) -> NodeId {
    let name = format!("conv{}", graph.nodes.len());
    let conv = Conv {
        weight: name.clone(),
        norm: None,
        bias: Some(name.clone()),
        in_channels: graph.channels(input),
        out_channels,
        kernel: 3,
        stride,
        relu: false,
    };
    graph.conv(name, input, conv)
}

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
        ..Model::random(Network::vovnet27_slim(), 1, 1).unwrap()
    }
}

#[test]
fn what_two_concatenations_join_is_copied_into_the_second() {
    let (mut graph, input) = Graph::new();
    let x = conv(&mut graph, input, 20, 2);
    let pooled = graph.max_pool("pool", x);
    let up = graph.upsample("up", pooled);
    let y = conv(&mut graph, x, 7, 1);
    let inner = graph.concat("inner", &[up, y]);
    let z = conv(&mut graph, inner, 20, 1);
    let sum = graph.add("sum", z, x);
    let outer = graph.concat("outer", &[inner, sum, y]);
    let class = conv(&mut graph, outer, 3, 1);
    let boxes = conv(&mut graph, outer, 8, 1);
    graph.outputs.push(OutputLevel {
        stride: 2,
        class,
        boxes,
    });
    let model = model_of(graph);
    let input = images(2, 12, 8);
    let copies = HostRun::new(&model, &input, Float::F32).program.steps;
    assert!(
        copies
            .iter()
            .any(|step| matches!(step.work, Work::Copy { .. }))
    );
    agrees(&model, &input, Float::F32, 1e-4);
    agrees(&model, &input, Float::F16, 1e-2);
}

fn size(batch: usize, height: usize, width: usize) -> BatchSize {
    BatchSize {
        batch,
        height,
        width,
    }
}

#[test]
fn the_input_cannot_be_pooled_or_joined() {
    for joined in [false, true] {
        let (mut graph, input) = Graph::new();
        let x = conv(&mut graph, input, 16, 1);
        let last = match joined {
            true => graph.concat("bad", &[input, x]),
            false => graph.max_pool("bad", input),
        };
        conv(&mut graph, last, 16, 1);
        let layout = Layout::new(&graph);
        let refused = Program::new(&graph, &layout, size(1, 8, 8), 8).err();
        let expected = "it has no kernel for layer 'bad'; use --engine cpu";
        assert_eq!(refused.as_deref(), Some(expected));
    }
}

#[test]
fn arrays_beyond_32_bit_indices_are_refused() {
    let graph = Network::vovnet27_slim().graph(12).unwrap();
    let layout = Layout::new(&graph);
    let refused = Program::new(&graph, &layout, size(64, 4096, 4096), 8).err();
    let refused = refused.unwrap();
    assert!(
        refused.contains("is too large at 64 x 4096x4096 pixels"),
        "{refused}"
    );
}

#[test]
fn weights_too_large_for_half_precision_are_noticed() {
    assert!(Float::F16.holds(65_504.0) && Float::F32.holds(70_000.0));
    assert!(!Float::F16.holds(70_000.0) && !Float::F16.holds(f32::NAN));
}

#[test]
fn bias_and_activation_by_themselves_are_those_of_the_convolution() {
    for precision in [Float::F16, Float::F32] {
        let view = View {
            offset: 16,
            pixel: 48,
            channels: 32,
            height: 2,
            width: 3,
        };
        let values: Vec<f32> = (0..16 + view.span(1))
            .map(|i| (i % 7) as f32 - 3.0)
            .collect();
        let bias: Vec<f32> = (0..32).map(|i| i as f32 / 4.0 - 4.0).collect();
        let mut arena = aligned(&precision.to_bytes(&values));
        let bytes = precision.to_bytes(&bias);
        let to = Image::new(
            precision,
            At {
                arena: arena.as_ptr() as u64,
                view: &view,
            },
        );
        let host = Bare {
            precision,
            kernels: host_kernels(),
        };
        let packs = (view.height * view.width * view.channels / precision.pack()) as u32;
        kernel!(host, "bias_relu", to => Image, bytes.as_ptr() => *const u8, 1 => i32, packs => u32);
        let got = arena.as_mut_slice();
        for (i, &before) in values.iter().enumerate() {
            let channel = i.checked_sub(16).map(|i| i % 48).filter(|&c| c < 32);
            let expected = channel.map_or(before, |c| (before + bias[c]).max(0.0));
            let value = precision.value(bytes_of(got), i);
            assert_eq!(value, expected, "{precision} value {i}");
        }
    }
}

#[test]
fn fillings_repeat_and_comparisons_see_every_difference() {
    let kernels = host_kernels();
    for precision in [Float::F16, Float::F32] {
        let host = Bare { precision, kernels };
        let mut arrays = [vec![0u128; 64], vec![0u128; 64]];
        let n = 64 * precision.pack() as u32;
        for array in &mut arrays {
            kernel!(host, "fill", array.as_mut_ptr() => *mut u128, n => u32);
        }
        let [a, b] = &mut arrays;
        assert_eq!(a, b);
        let values: Vec<f32> = (0..n as usize)
            .map(|i| precision.value(bytes_of(a), i))
            .collect();
        assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)));
        let most = |a: &[u128], b: &[u128]| {
            let mut most = [0i32; 2];
            kernel!(host, "compare", a.as_ptr() => *const u128, b.as_ptr() => *const u128,
                most.as_mut_ptr() => *mut i32, n => u32);
            most.map(|bits| f32::from_bits(bits as u32))
        };
        let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert_eq!(most(a, b), [0.0, largest]);
        let zeros = vec![0u128; 64];
        assert_eq!(most(&zeros, b), [largest, largest]);
        b[63] = u128::MAX; // no number
        assert_eq!(most(b, &zeros)[0], f32::INFINITY);
    }
}

/// The fields that `kernel!` reads.
struct Bare {
    precision: Float,
    kernels: &'static Library,
}

/// Bytes in memory that is aligned for packs.
fn aligned(bytes: &[u8]) -> Vec<u128> {
    let whole = |chunk: &[u8]| {
        let mut word = [0; 16];
        word[..chunk.len()].copy_from_slice(chunk);
        u128::from_le_bytes(word)
    };
    bytes.chunks(16).map(whole).collect()
}

fn bytes_of(words: &[u128]) -> &[u8] {
    // SAFETY: any bytes are bytes
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 16 * words.len()) }
}

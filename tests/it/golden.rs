//! The bundled weights give what PyTorch gives: features and logits at two input sizes.
//!
//! `tests/fixtures/golden.json` is written by `models/training/golden.py` from the bundled model.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;
use vovcam::engine::reference::ReferenceEngine;
use vovcam::model::Model;
use vovcam::network::graph::NodeId;

#[derive(Deserialize)]
struct Golden {
    sha256: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    height: usize,
    width: usize,
    tensors: BTreeMap<String, Summary>,
}

/// The script's summary of a tensor.
#[derive(Deserialize)]
struct Summary {
    shape: Vec<usize>,
    mean: f64,
    std: f64,
    values: Vec<f64>,
}

const TOLERANCE: f64 = 1e-4;

#[test]
fn the_reference_engine_agrees_with_pytorch() {
    let golden: Golden = serde_json::from_str(include_str!("../fixtures/golden.json")).unwrap();
    let model = Model::bundled().unwrap();
    assert_eq!(
        golden.sha256, model.manifest.sha256,
        "golden.json was made from other weights: run models/training/golden.py again"
    );
    let engine = ReferenceEngine::new(&model, &Device::Cpu).unwrap();
    for case in &golden.cases {
        let values = engine.forward(&wave(case.height, case.width)).unwrap();
        for (name, id) in named_outputs(&engine) {
            let summary = &case.tensors[&name];
            check(
                &format!("{name} at {}x{}", case.height, case.width),
                &values[id.0],
                summary,
            );
        }
    }
}

/// `C3`… for the backbone's features by log₂ of the stride, `cls_s8`, `box_s8`… for the logits.
fn named_outputs(engine: &ReferenceEngine) -> Vec<(String, NodeId)> {
    let graph = engine.graph();
    let features = graph
        .features
        .iter()
        .map(|&(stride, id)| (format!("C{}", stride.ilog2()), id));
    let logits = graph.outputs.iter().flat_map(|level| {
        [
            (format!("cls_s{}", level.stride), level.class),
            (format!("box_s{}", level.stride), level.boxes),
        ]
    });
    features.chain(logits).collect()
}

/// The script's input: `x[c, i, j] = sin(0.37·c + 0.11·i + 0.07·j)`.
fn wave(height: usize, width: usize) -> Tensor {
    let mut values = Vec::with_capacity(3 * height * width);
    for c in 0..3 {
        for i in 0..height {
            for j in 0..width {
                values.push((0.37 * c as f64 + 0.11 * i as f64 + 0.07 * j as f64).sin() as f32);
            }
        }
    }
    Tensor::from_vec(values, (1, 3, height, width), &Device::Cpu).unwrap()
}

fn check(what: &str, tensor: &Tensor, golden: &Summary) {
    assert_eq!(&tensor.dims()[1..], golden.shape, "shape of {what}");
    let flat: Vec<f64> = tensor
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|&v| v.into())
        .collect();
    let mean = flat.iter().sum::<f64>() / flat.len() as f64;
    let variance = flat.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / flat.len() as f64;
    close(&format!("mean of {what}"), mean, golden.mean);
    close(&format!("std of {what}"), variance.sqrt(), golden.std);
    let last = golden.values.len() - 1;
    for (k, &expected) in golden.values.iter().enumerate() {
        close(
            &format!("{what}, sample {k}"),
            flat[k * (flat.len() - 1) / last],
            expected,
        );
    }
}

/// Relative where values are large, absolute where they are small.
fn close(what: &str, got: f64, expected: f64) {
    let error = (got - expected).abs() / expected.abs().max(1.0);
    assert!(error <= TOLERANCE, "{what}: expected {expected}, got {got}");
}

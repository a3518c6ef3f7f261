//! Model files: a JSON manifest and the safetensors file that it names.
//!
//! Loading checks the fields of the manifest, the SHA-256 of the file, and name, dtype and shape of
//! every tensor that the graph needs. It folds batch norm into the convolutions, so that engines
//! have only weights and biases.

use crate::detection::Labels;
use crate::geometry::MAX_INPUT_SIDE;
use crate::network::Network;
use crate::network::graph::{Conv, Graph};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Value of `format` in a manifest.
pub const FORMAT: &str = "vovcam-model.v1";

/// PyTorch's default epsilon, which is used in training.
const BATCH_NORM_EPSILON: f32 = 1e-5;

static BUNDLED_MANIFEST: &[u8] = include_bytes!("../models/vovnet27_slim.json");
static BUNDLED_WEIGHTS: &[u8] = include_bytes!("../models/vovnet27_slim.safetensors");

/// The manifest of a model: parameters for detection, and the origin of the weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// Model name.
    pub name: String,
    /// The safetensors file, relative to the manifest.
    pub weights: String,
    /// Lower-case hex SHA-256 of that file.
    pub sha256: String,
    /// Architecture of the network.
    pub network: Network,
    /// Class names by class id.
    pub classes: Vec<String>,
    /// Long side of the input in pixels, as used in training.
    pub input_size: usize,
    /// Mean of the R, G, B channels, for values scaled to 0..=1.
    pub mean: [f32; 3],
    /// Standard deviation of the R, G, B channels, for values scaled to 0..=1.
    pub std: [f32; 3],
    /// Grey level of the letterbox border, 0..=255.
    pub pad_value: u8,
    /// Default thresholds.
    pub thresholds: DefaultThresholds,
    /// Activation ranges for int8 engines; absent until the model is calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8: Option<Int8>,
    /// Training data and parameters.
    #[serde(default)]
    pub training: serde_json::Value,
    /// Results on evaluation sets.
    #[serde(default)]
    pub measured: serde_json::Value,
}

/// Ranges of activations, measured on images by [`crate::eval::calibration`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8 {
    /// Number of images of the measurement.
    pub pictures: usize,
    /// By graph node: the value that is quantised to 255; larger ones are clamped.
    pub ranges: BTreeMap<String, f32>,
}

/// Default thresholds of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultThresholds {
    /// Score threshold of the classes that `classes` does not name, 0..=1.
    pub score: f32,
    /// Score thresholds by class name, 0..=1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, f32>,
    /// IoU above which NMS drops the lower score, 0..=1.
    pub nms_iou: f32,
}

/// A model that passed every check: manifest, graph and folded weights.
#[derive(Debug)]
pub struct Model {
    /// The manifest.
    pub manifest: Manifest,
    /// The network as a graph.
    pub graph: Graph,
    /// Weights of the convolutions, in the order of [`Graph::convs`].
    pub weights: Vec<ConvWeights>,
    /// Path of the manifest or `built in`, for logs.
    pub origin: String,
}

/// One convolution with its batch norm folded in.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    /// Shape `[out, in, kernel, kernel]`.
    pub weight: Vec<f32>,
    /// Shape `[out]`.
    pub bias: Vec<f32>,
}

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read the model file '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The manifest is not valid.
    #[error("the model manifest '{origin}' is not valid: {reason}")]
    Manifest {
        /// The manifest.
        origin: String,
        /// Expected and got.
        reason: String,
    },
    /// The weights do not belong to the manifest.
    #[error(
        "the weights '{origin}' have SHA-256 {got}, the manifest expects {expected}: \
         copy both files again, or export them again"
    )]
    Hash {
        /// The weights file.
        origin: String,
        /// SHA-256 in the manifest.
        expected: String,
        /// SHA-256 of the file.
        got: String,
    },
    /// Not a safetensors file.
    #[error("the weights '{origin}' are not a safetensors file: {reason}")]
    Format {
        /// The weights file.
        origin: String,
        /// The parser's error.
        reason: String,
    },
    /// A tensor is missing or has another shape or dtype.
    #[error("tensor '{tensor}' in '{origin}': expected {expected}, got {got}")]
    Tensor {
        /// The weights file.
        origin: String,
        /// The tensor's name.
        tensor: String,
        /// Shape, dtype or values that the network needs.
        expected: String,
        /// Those in the file.
        got: String,
    },
}

impl Model {
    /// Class names by class id.
    pub fn labels(&self) -> Labels {
        Labels::new(&self.manifest.classes)
    }

    /// The model built into the program.
    ///
    /// # Errors
    /// Only if the program was built with damaged model files.
    pub fn bundled() -> Result<Model, ModelError> {
        Model::from_bytes(BUNDLED_MANIFEST, BUNDLED_WEIGHTS, "built in")
    }

    /// Loads a model from the path of its manifest, or of its safetensors file if the manifest has the
    /// same name with `.json`.
    ///
    /// # Errors
    /// If a file cannot be read or fails a check.
    pub fn load(path: &Path) -> Result<Model, ModelError> {
        let manifest_path = path.with_extension("json");
        let manifest = read(&manifest_path)?;
        let parsed = parse_manifest(&manifest, &manifest_path.display().to_string())?;
        let weights = read(&manifest_path.with_file_name(&parsed.weights))?;
        Model::from_bytes(&manifest, &weights, &manifest_path.display().to_string())
    }

    /// Loads a model from bytes in memory; `origin` is for messages.
    ///
    /// # Errors
    /// If the bytes fail a check.
    pub fn from_bytes(manifest: &[u8], weights: &[u8], origin: &str) -> Result<Model, ModelError> {
        let manifest = parse_manifest(manifest, origin)?;
        let file = format!("{} of {origin}", manifest.weights);
        let got = hex(&Sha256::digest(weights));
        if got != manifest.sha256 {
            return Err(ModelError::Hash {
                origin: file,
                expected: manifest.sha256,
                got,
            });
        }
        let graph = manifest
            .network
            .graph(manifest.classes.len())
            .map_err(|reason| ModelError::Manifest {
                origin: origin.to_owned(),
                reason,
            })?;
        let tensors = SafeTensors::deserialize(weights).map_err(|e| ModelError::Format {
            origin: file.clone(),
            reason: e.to_string(),
        })?;
        let reader = TensorReader {
            tensors,
            origin: &file,
        };
        let weights = graph
            .convs()
            .map(|(_, conv)| reader.folded(conv))
            .collect::<Result<_, _>>()?;
        Ok(Model {
            manifest,
            graph,
            weights,
            origin: origin.to_owned(),
        })
    }
}

impl Model {
    /// A model with pseudo-random weights that keep activations in range, for benchmarks and kernel
    /// tests. The same `seed` gives the same weights on every machine.
    ///
    /// # Errors
    /// If the architecture is not valid.
    pub fn random(network: Network, classes: usize, seed: u64) -> Result<Model, ModelError> {
        let graph = network
            .graph(classes)
            .map_err(|reason| ModelError::Manifest {
                origin: "random weights".to_owned(),
                reason,
            })?;
        let mut state = seed;
        let weights = graph
            .convs()
            .map(|(_, conv)| random_conv(conv, &mut state))
            .collect();
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            name: "random".to_owned(),
            weights: String::new(),
            sha256: String::new(),
            network,
            classes: (0..classes).map(|class| format!("class{class}")).collect(),
            input_size: 320,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            pad_value: 114,
            thresholds: DefaultThresholds {
                score: 0.35,
                classes: BTreeMap::new(),
                nms_iou: 0.6,
            },
            int8: None,
            training: serde_json::Value::Null,
            measured: serde_json::Value::Null,
        };
        Ok(Model {
            manifest,
            graph,
            weights,
            origin: "random weights".to_owned(),
        })
    }
}

/// Uniform weights with variance 2 / fan-in (He et al. 2015), and small biases.
fn random_conv(conv: &Conv, state: &mut u64) -> ConvWeights {
    let mut uniform = || {
        // SplitMix64 (Steele et al. 2014)
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let fan_in = conv.in_channels * conv.kernel * conv.kernel;
    let bound = (6.0 / fan_in as f32).sqrt();
    ConvWeights {
        weight: (0..conv.weight_len()).map(|_| bound * uniform()).collect(),
        bias: (0..conv.out_channels).map(|_| 0.1 * uniform()).collect(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse_manifest(bytes: &[u8], origin: &str) -> Result<Manifest, ModelError> {
    let bad = |reason: String| ModelError::Manifest {
        origin: origin.to_owned(),
        reason,
    };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    if manifest.format != FORMAT {
        return Err(bad(format!(
            "format: expected '{FORMAT}', got '{}'",
            manifest.format
        )));
    }
    if manifest.std.iter().any(|&s| !(s.is_finite() && s > 0.0)) {
        return Err(bad(format!(
            "std: expected positive numbers, got {:?}",
            manifest.std
        )));
    }
    if manifest.mean.iter().any(|mean| !mean.is_finite()) {
        return Err(bad(format!(
            "mean: expected finite numbers, got {:?}",
            manifest.mean
        )));
    }
    let mut ranges = manifest.int8.iter().flat_map(|int8| &int8.ranges);
    if let Some((name, range)) = ranges.find(|(_, range)| !(range.is_finite() && **range >= 0.0)) {
        return Err(bad(format!(
            "int8.ranges.{name}: expected a finite number of at least 0, got {range}"
        )));
    }
    let side = manifest.input_size;
    if side == 0 || !side.is_multiple_of(32) || side > MAX_INPUT_SIDE as usize {
        return Err(bad(format!(
            "input_size: expected a multiple of 32 up to {MAX_INPUT_SIDE}, got {side}"
        )));
    }
    check_thresholds(&manifest).map_err(bad)?;
    Ok(manifest)
}

fn check_thresholds(manifest: &Manifest) -> Result<(), String> {
    let thresholds = &manifest.thresholds;
    let unit = |name: &str, value: f32| match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(format!("thresholds.{name}: expected 0 to 1, got {value}")),
    };
    unit("score", thresholds.score)?;
    unit("nms_iou", thresholds.nms_iou)?;
    for (class, &score) in &thresholds.classes {
        if !manifest.classes.contains(class) {
            let classes = manifest.classes.join(", ");
            return Err(format!(
                "thresholds.classes: expected classes of the model ({classes}), got '{class}'"
            ));
        }
        unit(&format!("classes.{class}"), score)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads tensors from a safetensors file.
struct TensorReader<'a> {
    tensors: SafeTensors<'a>,
    origin: &'a str,
}

impl TensorReader<'_> {
    /// Weights and bias of a convolution with its batch norm folded in.
    fn folded(&self, conv: &Conv) -> Result<ConvWeights, ModelError> {
        let out = conv.out_channels;
        let shape = [out, conv.in_channels, conv.kernel, conv.kernel];
        let mut weight = self.tensor(&conv.weight, &shape)?;
        let mut bias = match &conv.bias {
            Some(name) => self.tensor(name, &[out])?,
            None => vec![0.0; out],
        };
        if let Some(norm) = &conv.norm {
            let part = |name: &str| self.tensor(&format!("{norm}.{name}"), &[out]);
            let (gamma, beta) = (part("weight")?, part("bias")?);
            let (mean, variance) = (part("running_mean")?, part("running_var")?);
            for (o, row) in weight.chunks_exact_mut(conv.weight_len() / out).enumerate() {
                let scale = gamma[o] / (variance[o] + BATCH_NORM_EPSILON).sqrt();
                row.iter_mut().for_each(|w| *w *= scale);
                bias[o] = beta[o] + (bias[o] - mean[o]) * scale;
            }
        }
        if weight.iter().chain(&bias).any(|value| !value.is_finite()) {
            return Err(self.error(&conv.weight, "finite values", "NaN or infinity".to_owned()));
        }
        Ok(ConvWeights { weight, bias })
    }

    /// A tensor as f32, with a check of its shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let view = self.tensors.tensor(name).map_err(|_| {
            self.error(
                name,
                &format!("a tensor of shape {shape:?}"),
                "none of that name".to_owned(),
            )
        })?;
        if view.shape() != shape {
            return Err(self.error(
                name,
                &format!("shape {shape:?}"),
                format!("{:?}", view.shape()),
            ));
        }
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            Dtype::F16 => Ok(data
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect()),
            Dtype::BF16 => Ok(data
                .chunks_exact(2)
                .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect()),
            other => Err(self.error(name, "dtype F32, F16 or BF16", format!("{other:?}"))),
        }
    }

    fn error(&self, tensor: &str, expected: &str, got: String) -> ModelError {
        ModelError::Tensor {
            origin: self.origin.to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.to_owned(),
            got,
        }
    }
}

//! The graph on candle tensors: any candle device, no tricks. This is the oracle for the fast
//! engines and the baseline that they are measured against.

use super::{Engine, EngineError, check_input};
use crate::board::GpuPlace;
use crate::model::Model;
use crate::network::graph::{Graph, NodeId, Op};
use crate::tensor::{Batch, RawOutput};
use candle_core::{D, Device, Result as CandleResult, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

/// Runs a graph with candle's own operations in f32.
pub struct ReferenceEngine {
    graph: Graph,
    /// By node: the convolution of an [`Op::Conv`].
    convs: Vec<Option<Conv2d>>,
    mean: Tensor,
    std: Tensor,
    device: Device,
}

impl ReferenceEngine {
    /// Puts the folded weights on `device`.
    ///
    /// # Errors
    /// When the graph breaks a rule or the device refuses a tensor.
    pub fn new(model: &Model, device: &Device) -> Result<ReferenceEngine, EngineError> {
        let graph = model.graph.clone();
        graph.check().map_err(super::refused("reference"))?;
        let mut convs: Vec<Option<Conv2d>> = graph.nodes.iter().map(|_| None).collect();
        for ((id, conv), weights) in graph.convs().zip(&model.weights) {
            let shape = (
                conv.out_channels,
                conv.in_channels,
                conv.kernel,
                conv.kernel,
            );
            let build = || -> CandleResult<Conv2d> {
                let weight = Tensor::from_slice(&weights.weight, shape, device)?;
                let bias = Tensor::from_slice(&weights.bias, conv.out_channels, device)?;
                let config = Conv2dConfig {
                    padding: conv.kernel / 2,
                    stride: conv.stride,
                    ..Conv2dConfig::default()
                };
                Ok(Conv2d::new(weight, Some(bias), config))
            };
            convs[id.0] = Some(build().map_err(|source| candle(&graph.node(id).name, source))?);
        }
        let channel = |values: &[f32; 3]| {
            Tensor::from_slice(&values.map(|v| v * 255.0), (1, 3, 1, 1), device)
                .map_err(|e| candle("input", e))
        };
        Ok(ReferenceEngine {
            convs,
            mean: channel(&model.manifest.mean)?,
            std: channel(&model.manifest.std)?,
            device: device.clone(),
            graph,
        })
    }

    /// Runs the graph on an already normalised `[N, 3, H, W]` tensor; every node's output.
    ///
    /// # Errors
    /// When candle fails in a layer.
    pub fn forward(&self, input: &Tensor) -> Result<Vec<Tensor>, EngineError> {
        let mut values: Vec<Tensor> = Vec::with_capacity(self.graph.nodes.len());
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let value = self
                .node(i, input, &values)
                .map_err(|source| candle(&node.name, source))?;
            values.push(value);
        }
        Ok(values)
    }

    /// Runs the graph on a batch of images; every node's output.
    ///
    /// # Errors
    /// When the images do not fit the network, or candle fails in a layer.
    pub fn forward_pictures(&self, input: &Batch) -> Result<Vec<Tensor>, EngineError> {
        check_input(self.graph.max_stride(), input)?;
        self.graph
            .checked_shapes(input.height, input.width)
            .map_err(super::refused("reference"))?;
        self.forward(&self.normalised(input).map_err(|e| candle("input", e))?)
    }

    /// The graph being run.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn node(&self, index: usize, input: &Tensor, values: &[Tensor]) -> CandleResult<Tensor> {
        let node = &self.graph.nodes[index];
        let arg = |n: usize| &values[node.inputs[n].0];
        match (&node.op, &self.convs[index]) {
            (Op::Input, _) => Ok(input.clone()),
            (Op::Conv(conv), Some(layer)) => {
                let out = layer.forward(arg(0))?;
                if conv.relu { out.relu() } else { Ok(out) }
            }
            (Op::Conv(_), None) => candle_core::bail!("the convolution has no weights"),
            (Op::MaxPool, _) => max_pool_ceil(arg(0)),
            (Op::Upsample, _) => {
                let (_, _, h, w) = arg(0).dims4()?;
                arg(0).upsample_nearest2d(2 * h, 2 * w)
            }
            (Op::Concat, _) => {
                let parts: Vec<&Tensor> = node.inputs.iter().map(|id| &values[id.0]).collect();
                Tensor::cat(&parts, 1)
            }
            (Op::Add, _) => arg(0) + arg(1),
        }
    }

    fn normalised(&self, input: &Batch) -> CandleResult<Tensor> {
        let shape = (input.batch, input.height, input.width, 3);
        let bytes = Tensor::from_slice(&input.data, shape, &self.device)?;
        let planes = bytes
            .permute((0, 3, 1, 2))?
            .to_dtype(candle_core::DType::F32)?;
        planes.broadcast_sub(&self.mean)?.broadcast_div(&self.std)
    }
}

impl Engine for ReferenceEngine {
    fn gpu(&self) -> Option<GpuPlace> {
        (!self.device.is_cpu()).then(GpuPlace::default)
    }

    fn describe(&self) -> String {
        let device = match self.device {
            Device::Cpu => "CPU",
            Device::Cuda(_) => "CUDA",
            Device::Metal(_) => "Metal",
        };
        format!("reference: candle f32 on {device}")
    }

    fn infer(&mut self, input: &Batch, output: &mut RawOutput) -> Result<(), EngineError> {
        let values = self.forward_pictures(input)?;
        output.resize_for(&self.graph, input.batch, input.height, input.width);
        for (level, out) in output.levels.iter_mut().zip(&self.graph.outputs) {
            let rows = |id: NodeId, to: &mut Vec<f32>| -> CandleResult<()> {
                let cells = values[id.0].permute((0, 2, 3, 1))?.flatten_all()?;
                to.copy_from_slice(&cells.to_vec1::<f32>()?);
                Ok(())
            };
            rows(out.class, &mut level.class).map_err(|e| candle("class logits", e))?;
            rows(out.boxes, &mut level.boxes).map_err(|e| candle("box logits", e))?;
        }
        Ok(())
    }
}

/// candle's pooling has no ceil mode: repeat the last row and column where a window hangs over
/// (a repeated value never changes a maximum).
fn max_pool_ceil(x: &Tensor) -> CandleResult<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let hang =
        |side: usize| (2 * (side.saturating_sub(3).div_ceil(2) + 1) + 1).saturating_sub(side);
    x.pad_with_same(D::Minus1, 0, hang(w))?
        .pad_with_same(D::Minus2, 0, hang(h))?
        .max_pool2d_with_stride(3, 2)
}

fn candle(layer: &str, source: candle_core::Error) -> EngineError {
    EngineError::Candle {
        layer: layer.to_owned(),
        source,
    }
}

//! The detector: preprocessing, engine and postprocessing in sequence, with reused buffers.

use crate::board::GpuPlace;
use crate::detect::postprocess::Postprocessor;
use crate::detect::preprocess::{PreprocessError, Preprocessor};
use crate::detect::{Detect, DetectPlan, Found};
use crate::detection::StageTimes;
use crate::detection::Thresholds;
use crate::engine::{self, Engine, EngineError, EngineOptions};
use crate::frame::Frame;
use crate::geometry::InputSize;
use crate::geometry::Size;
use crate::geometry::input_size_for;
use crate::model::{Manifest, Model};
use crate::tensor::Batch;
use crate::tensor::RawOutput;
use std::time::{Duration, Instant};

/// Options of a [`Detector`].
#[derive(Clone, Debug, Default)]
pub struct DetectorOptions {
    /// Engine that runs the network.
    pub engine: EngineOptions,
    /// Input size; `None` = the long side from the model's manifest.
    pub input: Option<InputSize>,
    /// Thresholds; `None` = the defaults from the model's manifest.
    pub thresholds: Option<Thresholds>,
}

/// Detection failed on a frame.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The frame could not be letterboxed.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
}

/// Detects objects in frames of any size; reuses its buffers.
pub struct Detector {
    engine: Box<dyn Engine>,
    preprocessor: Preprocessor,
    postprocessor: Postprocessor,
    input: Batch,
    output: RawOutput,
    input_size: InputSize,
    multiple: u32,
    thresholds: Thresholds,
}

impl Detector {
    /// Loads a model into the selected engine.
    ///
    /// # Errors
    /// If the selected engine cannot run the model on this machine.
    pub fn new(model: &Model, options: &DetectorOptions) -> Result<Detector, EngineError> {
        let manifest = &model.manifest;
        let thresholds = options.thresholds.clone();
        Ok(Detector {
            engine: engine::load(model, &options.engine)?,
            preprocessor: Preprocessor::new(manifest.pad_value),
            postprocessor: Postprocessor::default(),
            input: Batch::default(),
            output: RawOutput::default(),
            input_size: options
                .input
                .unwrap_or(InputSize::LongSide(manifest.input_size as u32)),
            multiple: model.graph.max_stride() as u32,
            thresholds: thresholds.unwrap_or_else(|| default_thresholds(manifest)),
        })
    }

    /// The engine's kernels, precision and threads, for the log.
    pub fn describe(&self) -> String {
        self.engine.describe()
    }

    /// The same, with the reason for the precision unless it was asked for.
    pub fn start_line(&self) -> String {
        self.engine.start_line()
    }

    /// The GPU that runs the network; `None` on the CPU.
    pub fn gpu(&self) -> Option<GpuPlace> {
        self.engine.gpu()
    }

    /// The network's input size in pixels for frames of size `frame`.
    pub fn input_size(&self, frame: Size) -> Size {
        match self.input_size {
            InputSize::Exact(size) => size,
            InputSize::LongSide(side) => input_size_for(frame, side, self.multiple),
        }
    }

    /// A plan with the thresholds of [`DetectorOptions`].
    pub fn plan(&self) -> DetectPlan {
        DetectPlan {
            thresholds: self.thresholds.clone(),
        }
    }

    /// Detects objects in one frame with the thresholds of [`DetectorOptions`].
    ///
    /// # Errors
    /// If the frame's bytes do not match its size, or the engine fails.
    pub fn detect_one(&mut self, frame: &Frame) -> Result<Found, DetectError> {
        let mut found = Found::default();
        let plan = self.plan();
        self.detect_frame(frame, &plan, &mut found)?;
        Ok(found)
    }

    fn detect_frame(
        &mut self,
        frame: &Frame,
        plan: &DetectPlan,
        found: &mut Found,
    ) -> Result<(), DetectError> {
        let mut stopwatch = Stopwatch(Instant::now());
        let size = self.input_size(frame.meta.size);
        let letterbox = self.preprocessor.letterbox(frame, size, &mut self.input)?;
        let preprocess = stopwatch.split();
        self.engine.infer(&self.input, &mut self.output)?;
        let inference = stopwatch.split();
        self.postprocessor.run(
            &self.output,
            0,
            &letterbox,
            &plan.thresholds,
            &mut found.detections,
        );
        found.times = StageTimes {
            decode: frame.meta.decode,
            preprocess,
            inference,
            postprocess: stopwatch.split(),
            age: Duration::ZERO,
        };
        Ok(())
    }
}

impl Detect for Detector {
    fn detect(
        &mut self,
        frames: &[Frame],
        plan: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError> {
        let mut pairs = frames.iter().zip(found);
        pairs.try_for_each(|(frame, found)| self.detect_frame(frame, plan, found))
    }
}

/// The default thresholds from the manifest.
pub fn default_thresholds(manifest: &Manifest) -> Thresholds {
    let defaults = &manifest.thresholds;
    let mut thresholds =
        Thresholds::uniform(manifest.classes.len(), defaults.score, defaults.nms_iou);
    for (score, class) in thresholds.score.iter_mut().zip(&manifest.classes) {
        *score = *defaults.classes.get(class).unwrap_or(score);
    }
    thresholds
}

/// Measures consecutive intervals.
struct Stopwatch(Instant);

impl Stopwatch {
    /// Time since the previous call.
    fn split(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

//! The detector: preprocessing, engine and postprocessing in sequence, with reused buffers.

use crate::board::GpuPlace;
use crate::detect::merge::Merger;
use crate::detect::postprocess::Postprocessor;
use crate::detect::preprocess::{PreprocessError, Preprocessor};
use crate::detect::{Detect, DetectPlan, Found};
use crate::detection::{Detection, StageTimes, Thresholds};
use crate::engine::{self, Engine, EngineError, EngineOptions};
use crate::frame::Frame;
use crate::geometry::{InputSize, Region, Size, Tiling, input_size_for};
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
    /// Tiles in which a frame is searched besides the whole.
    pub tiling: Tiling,
}

/// Most pictures in a batch of several frames; the tiles of one frame are never divided.
const MOST_PICTURES: usize = 32;

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
    merger: Merger,
    /// Regions of the frames of a batch.
    regions: Vec<Region>,
    /// Detections of one region.
    of_region: Vec<Detection>,
    input: Batch,
    output: RawOutput,
    input_size: InputSize,
    multiple: u32,
    thresholds: Thresholds,
    tiling: Tiling,
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
            merger: Merger::default(),
            regions: Vec::new(),
            of_region: Vec::new(),
            input: Batch::default(),
            output: RawOutput::default(),
            input_size: options
                .input
                .unwrap_or(InputSize::LongSide(manifest.input_size as u32)),
            multiple: model.graph.max_stride() as u32,
            thresholds: thresholds.unwrap_or_else(|| default_thresholds(manifest)),
            tiling: options.tiling,
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

    /// The network's input size in pixels for frames, or tiles, of size `frame`.
    pub fn input_size(&self, frame: Size) -> Size {
        match self.input_size {
            InputSize::Exact(size) => size,
            InputSize::LongSide(side) => input_size_for(frame, side, self.multiple),
        }
    }

    /// A plan with the thresholds and tiles of [`DetectorOptions`].
    pub fn plan(&self) -> DetectPlan {
        DetectPlan {
            thresholds: self.thresholds.clone(),
            tiling: self.tiling,
        }
    }

    /// Detects objects in one frame with the plan of [`Detector::plan`].
    ///
    /// # Errors
    /// If the frame's bytes do not match its size, or the engine fails.
    pub fn detect_one(&mut self, frame: &Frame) -> Result<Found, DetectError> {
        let mut found = [Found::default()];
        let plan = self.plan();
        self.detect(std::slice::from_ref(frame), &plan, &mut found)?;
        let [found] = found;
        Ok(found)
    }

    /// Detects in frames of one size, all of whose regions are one batch.
    fn detect_batch(
        &mut self,
        frames: &[Frame],
        plan: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError> {
        let Some(first) = frames.first() else {
            return Ok(());
        };
        let mut stopwatch = Stopwatch(Instant::now());
        let size = first.meta.size;
        let input_size = self.input_size(plan.tiling.tile(size));
        plan.tiling.regions(size, input_size, &mut self.regions);
        let regions = &self.regions;
        let input = &mut self.input;
        self.preprocessor.begin(regions, frames.len(), input);
        for (index, (frame, found)) in frames.iter().zip(&mut *found).enumerate() {
            for (item, region) in (index * regions.len()..).zip(regions) {
                self.preprocessor.scale(frame, region, item, input)?;
            }
            found.times = StageTimes {
                decode: frame.meta.decode,
                preprocess: stopwatch.split(),
                ..StageTimes::default()
            };
        }
        self.engine.infer(&self.input, &mut self.output)?;
        let inference = stopwatch.split() / frames.len() as u32;
        for (index, found) in found.iter_mut().enumerate() {
            self.postprocess(index * self.regions.len(), &plan.thresholds, found);
            found.times.inference = inference;
            found.times.postprocess = stopwatch.split();
        }
        Ok(())
    }

    /// The detections of the frame whose regions begin at picture `first` of the batch.
    fn postprocess(&mut self, first: usize, thresholds: &Thresholds, found: &mut Found) {
        let (post, output) = (&mut self.postprocessor, &self.output);
        if let [whole] = self.regions.as_slice() {
            post.run(output, first, whole, thresholds, &mut found.detections);
            return;
        }
        self.merger.begin();
        for (index, region) in self.regions.iter().enumerate() {
            let detections = &mut self.of_region;
            post.run(output, first + index, region, thresholds, detections);
            self.merger.add(index, region, detections);
        }
        self.merger
            .finish(&self.regions, thresholds, &mut found.detections);
    }
}

impl Detect for Detector {
    /// Frames of the same size that follow one another go through the network in one batch.
    fn detect(
        &mut self,
        frames: &[Frame],
        plan: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError> {
        let most = MOST_PICTURES / plan.tiling.inputs() as usize;
        let (mut frames, mut found) = (frames, found);
        while let Some(first) = frames.first() {
            let same = frames
                .iter()
                .take_while(|frame| frame.meta.size == first.meta.size);
            let count = same.take(most.max(1)).count();
            let (batch, other_frames) = frames.split_at(count);
            let (batch_found, other_found) = found.split_at_mut(count);
            self.detect_batch(batch, plan, batch_found)?;
            (frames, found) = (other_frames, other_found);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineChoice;
    use crate::network::Network;

    fn detector(engine: EngineChoice, input: InputSize) -> Detector {
        let model = Model::random(Network::vovnet27_slim(), 3, 1).unwrap();
        let options = DetectorOptions {
            engine: EngineOptions {
                engine,
                threads: 1,
                precision: Some(engine::Precision::F32),
                ..EngineOptions::default()
            },
            input: Some(input),
            thresholds: Some(Thresholds::uniform(3, 0.0, 0.6)), // every cell
            tiling: Tiling::default(),
        };
        Detector::new(&model, &options).unwrap()
    }

    /// Noise with a bright rectangle.
    fn frame(id: u64, width: u32, height: u32) -> Frame {
        let mut random = fastrand::Rng::with_seed(id);
        let pixel = |i: u32| match (i % width, i / width) {
            (x, y) if x > width / 3 && y > height / 2 => 200,
            _ => 0,
        };
        let bytes = (0..3 * width * height).map(|i| random.u8(..50) + pixel(i / 3));
        Frame::from_rgb(id, Size::new(width, height), bytes.collect())
    }

    fn detections(found: &[Found]) -> Vec<&[Detection]> {
        found.iter().map(|found| &*found.detections).collect()
    }

    /// Frames of one call, with a change of size among them, give what they give alone.
    #[test]
    fn a_batch_gives_what_single_frames_give() {
        let mut frames: Vec<Frame> = (0..3).map(|id| frame(id, 96, 64)).collect();
        frames.push(frame(3, 64, 96));
        frames.push(frame(4, 96, 64));
        for engine in [EngineChoice::Cpu, EngineChoice::Reference] {
            let mut detector = detector(engine, InputSize::LongSide(64));
            for tiles in ["off", "2x1"] {
                let mut plan = detector.plan();
                plan.tiling.tiles = tiles.parse().unwrap();
                let mut together = vec![Found::default(); frames.len()];
                detector.detect(&frames, &plan, &mut together).unwrap();
                let mut alone = vec![Found::default(); frames.len()];
                for (frame, found) in frames.iter().zip(&mut alone) {
                    let (frame, found) = (std::slice::from_ref(frame), std::slice::from_mut(found));
                    detector.detect(frame, &plan, found).unwrap();
                }
                assert!(alone.iter().all(|found| found.detections.len() > 1));
                assert!(
                    detections(&together) == detections(&alone),
                    "{engine:?}, {tiles}"
                );
                assert!(
                    together
                        .iter()
                        .all(|found| found.times.inference > Duration::ZERO)
                );
            }
        }
    }

    /// Tiles off: whole frame, network and NMS, without anything else in between.
    #[test]
    fn without_tiles_the_path_is_preprocessor_engine_postprocessor() {
        let mut detector = detector(EngineChoice::Cpu, InputSize::LongSide(64));
        let frame = frame(1, 96, 64);
        let found = detector.detect_one(&frame).unwrap();
        let mut batch = Batch::default();
        let size = Size::new(64, 64);
        assert_eq!(detector.input_size(frame.meta.size), size);
        let region = Preprocessor::new(114)
            .letterbox(&frame, size, &mut batch)
            .unwrap();
        let mut output = RawOutput::default();
        detector.engine.infer(&batch, &mut output).unwrap();
        let mut expected = Vec::new();
        let thresholds = detector.plan().thresholds;
        Postprocessor::default().run(&output, 0, &region, &thresholds, &mut expected);
        assert_eq!(found.detections, expected);
    }

    /// The tiles of a frame are one batch of the input size that a tile asks for.
    #[test]
    fn tiles_are_one_batch_of_the_tiles_input_size() {
        let mut detector = detector(EngineChoice::Cpu, InputSize::LongSide(96));
        let frame = frame(1, 200, 100);
        let mut plan = detector.plan();
        plan.tiling.tiles = "1x2".parse().unwrap();
        let mut found = [Found::default()];
        detector
            .detect(std::slice::from_ref(&frame), &plan, &mut found)
            .unwrap();
        // a tile has 200x56 pixels
        let input = &detector.input;
        assert_eq!((input.batch, input.width, input.height), (3, 96, 32));
        let frame_box = |found: &Detection| {
            let [x, y, width, height] = found.bbox.xywh();
            x + width < 200.01 && y + height < 100.01
        };
        assert!(found[0].detections.iter().all(frame_box));
        plan.tiling = Tiling::default();
        detector
            .detect(std::slice::from_ref(&frame), &plan, &mut found)
            .unwrap();
        let input = &detector.input;
        assert_eq!((input.batch, input.width, input.height), (1, 96, 64));
    }
}

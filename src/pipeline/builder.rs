//! Assembles a [`Pipeline`] for programs that use this crate as a library.

use super::{Control, Pipeline, PipelineError, Stop};
use crate::analyse::Analyzer;
use crate::board::Board;
use crate::capture::{self, CaptureError, CaptureOptions, SourceSpec};
use crate::clock::{Clock, SystemClock};
use crate::detect::Detector;
use crate::message::{ModelInfo, RunInfo};
use crate::model::Model;
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::Health;
use crate::monitor::power::{self, Sampler};
use crate::sink::Sink;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time without a frame after which a camera counts as lost.
const CAMERA_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two `stats` messages.
const STATS_INTERVAL: Duration = Duration::from_secs(10);

/// Collects the parts of a run: a source and a detector, then analyzers and sinks.
pub struct PipelineBuilder {
    pipeline: Pipeline,
}

impl PipelineBuilder {
    /// A run of `detector` on a source named as for `vovcam --source`, with the board's power
    /// meter. A camera that is lost is waited for.
    ///
    /// # Errors
    /// When the source cannot be opened.
    pub fn new(
        source: &(impl AsRef<OsStr> + ?Sized),
        model: &Model,
        detector: Detector,
        stop: &Stop,
    ) -> Result<PipelineBuilder, PipelineError> {
        let spec = SourceSpec::parse(source).map_err(CaptureError::Unusable)?;
        let clock = SystemClock::shared();
        let options = CaptureOptions {
            size: None,
            fps: None,
            format: None,
            timeout: CAMERA_TIMEOUT,
            retry: true,
            clock: Arc::clone(&clock),
            stop: stop.signal().clone(),
        };
        let source = capture::open(&spec, &options)?;
        let sampler = sampler(&detector, &clock);
        let run = run_info(&spec.name(), source.describe(), model, &detector, &sampler);
        let plan = detector.plan();
        Ok(PipelineBuilder {
            pipeline: Pipeline {
                run,
                source,
                detector: Box::new(detector),
                plan,
                analyzers: Vec::new(),
                sinks: Vec::new(),
                sampler,
                metrics: Metrics::new(Arc::clone(&clock)),
                clock,
                health: Health::default(),
                control: Control::default(),
                max_frames: None,
                stats_interval: STATS_INTERVAL,
            },
        })
    }

    /// Adds an analyzer; they see reports in the order in which they were added.
    #[must_use]
    pub fn analyzer(mut self, analyzer: impl Analyzer + 'static) -> Self {
        self.pipeline.analyzers.push(Box::new(analyzer));
        self
    }

    /// Adds a sink, which gets a thread of its own.
    #[must_use]
    pub fn sink(mut self, sink: impl Sink + Send + 'static) -> Self {
        self.pipeline.sinks.push(Box::new(sink));
        self
    }

    /// Ends the run after this many frames.
    #[must_use]
    pub fn max_frames(mut self, frames: u64) -> Self {
        self.pipeline.max_frames = Some(frames);
        self
    }

    /// The run, ready for [`Pipeline::run`].
    pub fn build(self) -> Pipeline {
        self.pipeline
    }
}

/// A sampler of the first power meter that works; the reasons why others do not are logged.
pub(crate) fn sampler(detector: &Detector, clock: &Arc<dyn Clock>) -> Sampler {
    let root = Path::new("/");
    let mut reasons = Vec::new();
    let meter = power::find(root, detector.gpu().as_ref(), &mut reasons);
    for reason in reasons {
        tracing::info!("power meter: {reason}");
    }
    Sampler::new(meter, root, Arc::clone(clock))
}

/// The facts that the first message of a run states.
pub(crate) fn run_info(
    camera: &str,
    source: String,
    model: &Model,
    detector: &Detector,
    sampler: &Sampler,
) -> RunInfo {
    let (manifest, started) = (&model.manifest, jiff::Timestamp::now());
    RunInfo {
        run_id: format!("{}-{}", started.as_millisecond(), std::process::id()),
        started,
        camera: camera.into(),
        source,
        model: ModelInfo {
            name: manifest.name.clone(),
            sha256: manifest.sha256.clone(),
            input_size: manifest.input_size,
        },
        tiling: detector.plan().tiling,
        engine: detector.describe(),
        board: Board::read(Path::new("/")),
        meter: sampler.info(),
        labels: model.labels(),
        shapes: Arc::default(), // those of the analyzers, once the run begins
    }
}

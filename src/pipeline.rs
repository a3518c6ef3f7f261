//! A run: threads and the channels between them.
//!
//! ```text
//!  vc-capture ──Frame──▶ vc-detect (detector, analyzers) ─┬─Message──▶ vc-log     JSONL
//!                                                         ├─Message──▶ vc-save    annotated frames
//!                                                         └─Message──▶ vc-window  its process
//!  vc-power ──▶ Metrics ◀── all stages
//!  vc-control: figures and events to all sinks; settings to vc-detect; service manager
//! ```
//!
//! Live sources keep the newest frame and count the frames it replaced; clips and folders lose
//! nothing, so every hand-off waits. Each sink has a queue of its own, with a policy of its own.
//!
//! The end follows the data: the capture stage sees the stop and returns, its channel disconnects,
//! the detect stage drains it and returns, the queues are closed, the sinks drain them and flush. A
//! stage that fails or panics stops the run in the same way (`pipeline/supervisor.rs`); the error
//! names it.

mod builder;
mod capture;
pub mod control;
mod detect;
mod handoff;
mod outputs;
mod queue;
mod stop;
mod supervisor;
#[cfg(test)]
mod tests;

pub use builder::PipelineBuilder;
pub(crate) use builder::{run_info, sampler};
pub use stop::Stop;

use crate::analyse::Analyzer;
use crate::capture::{CaptureError, Source};
use crate::clock::Clock;
use crate::detect::{Detect, DetectError, DetectPlan};
use crate::message::RunInfo;
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::Health;
use crate::monitor::power::Sampler;
use crate::sink::{BoxedSink, SinkError};
use crate::stats::Totals;
use capture::CaptureStage;
use control::{Control, ControlStage};
use crossbeam_channel::never;
use detect::DetectStage;
use handoff::{Policy, handoff};
use outputs::{Inlet, Outputs};
use std::sync::Arc;
use std::time::Duration;
use stop::Latch;
use supervisor::{Part, Supervisor};

/// Frames of a clip or folder that wait for the detector.
const FRAMES_AHEAD: usize = 2;

/// The parts of a run.
pub struct Pipeline {
    /// Constant facts about the run, the first message of every sink.
    pub run: RunInfo,
    /// The frames.
    pub source: Box<dyn Source>,
    /// The detector.
    pub detector: Box<dyn Detect>,
    /// Its first plan.
    pub plan: DetectPlan,
    /// Stages after it, in order.
    pub analyzers: Vec<Box<dyn Analyzer>>,
    /// Outputs, each of which gets a thread of its own.
    pub sinks: Vec<BoxedSink>,
    /// Power and heat.
    pub sampler: Sampler,
    /// Figures of the run.
    pub metrics: Arc<Metrics>,
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// The state of the stages, for the service manager.
    pub health: Health,
    /// Service manager and reload requests.
    pub control: Control,
    /// End after this many frames.
    pub max_frames: Option<u64>,
    /// Time between two `stats` messages.
    pub stats_interval: Duration,
}

/// The first failure of a run.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The source failed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The detector failed.
    #[error("detection failed at frame {frame}")]
    Detect {
        /// Frame id.
        frame: u64,
        /// The detector's error.
        source: DetectError,
    },
    /// A sink failed.
    #[error("output '{name}' failed")]
    Sink {
        /// The sink.
        name: &'static str,
        /// Its error.
        source: SinkError,
    },
    /// An output hangs, and the run was interrupted.
    #[error(
        "output '{output}' hangs and was left behind, with {messages} messages that it had not taken: \
         is its disk or its reader stuck?"
    )]
    LeftBehind {
        /// The output.
        output: &'static str,
        /// Messages that waited for it.
        messages: u64,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for stage '{stage}'")]
    Spawn {
        /// The stage.
        stage: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// A defect in this program.
    #[error("stage '{stage}' panicked ({reason}): please report this with the lines above")]
    Panicked {
        /// The stage.
        stage: &'static str,
        /// The panic's message.
        reason: String,
    },
}

impl Pipeline {
    /// Runs until the source ends, `max_frames` are done, a sink asks for it (a closed window) or
    /// `stop` is triggered. Everything queued for a sink is written before this returns, and no
    /// thread is left; after [`Stop::interrupt`], stages that hang are left behind.
    ///
    /// # Errors
    /// The first failure of any stage; the others have drained and flushed all the same.
    /// [`PipelineError::LeftBehind`] if an output hangs after an interrupt.
    pub fn run(self, stop: &Stop) -> Result<Totals, PipelineError> {
        let metrics = Arc::clone(&self.metrics);
        let mut stages = Supervisor::new(stop, &self.health, &self.clock);
        let shapes = self.analyzers.iter().flat_map(|analyzer| analyzer.shapes());
        let run = Arc::new(RunInfo {
            shapes: self.run.shapes.iter().cloned().chain(shapes).collect(),
            ..self.run.clone()
        });
        let (outputs, inlets) = Outputs::new(&self.sinks, &run, &self.metrics, &self.clock, stop);
        let inputs_over = Latch::default();
        if let Err(error) = self.start(&mut stages, &run, &outputs, inlets, &inputs_over, stop) {
            stages.fail(error);
        }
        for stage in stages.end(Part::Inputs) {
            tracing::warn!("stage '{stage}' hangs and is left behind; the others end without it");
        }
        inputs_over.release();
        for stage in stages.end(Part::Detector) {
            tracing::warn!("stage '{stage}' is busy still and is left behind");
        }
        outputs.stats();
        outputs.close();
        let hanging = stages.end(Part::Outputs).into_iter();
        let mut hanging = hanging.map(|output| PipelineError::LeftBehind {
            output,
            messages: outputs.give_up(output),
        });
        let failure = stages.failure().or_else(|| hanging.next());
        hanging.for_each(|error| tracing::error!("{error}"));
        failure.map_or_else(|| Ok(metrics.totals()), Err)
    }

    /// Starts all threads, sinks first.
    fn start(
        self,
        stages: &mut Supervisor,
        run: &Arc<RunInfo>,
        outputs: &Outputs,
        inlets: Vec<Inlet>,
        inputs_over: &Latch,
        stop: &Stop,
    ) -> Result<(), PipelineError> {
        for (sink, inlet) in self.sinks.into_iter().zip(inlets) {
            stages.spawn(Part::Outputs, sink.name(), move || inlet.serve(sink))?;
        }
        start_power(stages, self.sampler, stop, &self.metrics, outputs)?;
        let (plans, new_plans) = handoff(Policy::Newest, never());
        let control = ControlStage {
            control: self.control,
            stop: stop.clone(),
            clock: Arc::clone(&self.clock),
            stats_interval: self.stats_interval,
            plans,
            outputs: outputs.clone(),
        };
        stages.spawn(Part::Inputs, "control", move || control.run())?;
        let policy = match self.source.is_live() {
            true => Policy::Newest,
            false => Policy::Lossless(FRAMES_AHEAD),
        };
        let (frames, received) = handoff(policy, inputs_over.signal().clone());
        let capture = CaptureStage {
            source: self.source,
            frames,
            outputs: outputs.clone(),
            metrics: Arc::clone(&self.metrics),
            health: self.health.clone(),
            stop: stop.clone(),
        };
        let detect = DetectStage {
            detector: self.detector,
            plan: self.plan,
            new_plans,
            analyzers: self.analyzers,
            frames: received,
            outputs: outputs.clone(),
            run: Arc::clone(run),
            metrics: self.metrics,
            clock: self.clock,
            health: self.health,
            remaining: self.max_frames,
            stop: stop.clone(),
        };
        stages.spawn(Part::Detector, "detect", move || detect.run())?;
        stages.spawn(Part::Inputs, "capture", move || capture.run())
    }
}

fn start_power(
    stages: &mut Supervisor,
    mut sampler: Sampler,
    stop: &Stop,
    metrics: &Arc<Metrics>,
    outputs: &Outputs,
) -> Result<(), PipelineError> {
    let (stop, metrics, outputs) = (stop.clone(), Arc::clone(metrics), outputs.clone());
    stages.spawn(Part::Inputs, "power", move || {
        sampler.run(stop.signal(), &metrics, |event| outputs.event(event));
        Ok(())
    })
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

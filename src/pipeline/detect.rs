//! The detect stage: frames to reports, through the analyzers, to the sinks.

use super::handoff::HandoffReceiver;
use super::outputs::Outputs;
use super::{PipelineError, Stop};
use crate::analyse::Analyzer;
use crate::clock::Clock;
use crate::detect::{Detect, DetectPlan, Found};
use crate::frame::Frame;
use crate::message::{Report, RunInfo};
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::Health;
use crate::stats::Snapshot;
use std::sync::Arc;
use std::time::Duration;

/// Time between two snapshots of the figures that reports carry.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct DetectStage {
    pub(super) detector: Box<dyn Detect>,
    pub(super) plan: DetectPlan,
    pub(super) new_plans: HandoffReceiver<DetectPlan>,
    pub(super) analyzers: Vec<Box<dyn Analyzer>>,
    pub(super) frames: HandoffReceiver<Frame>,
    pub(super) outputs: Outputs,
    pub(super) run: Arc<RunInfo>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Health,
    /// Frames still to be detected, where there is a limit.
    pub(super) remaining: Option<u64>,
    pub(super) stop: Stop,
}

impl DetectStage {
    /// Until the capture stage ends, the limit of frames is reached or the run is interrupted: then
    /// no further frame is begun. The run stops with it: the capture stage may be waiting for a
    /// camera that sends nothing.
    pub(super) fn run(mut self) -> Result<(), PipelineError> {
        self.adapt_plan();
        let result = self.frames();
        self.stop.stop();
        result
    }

    /// Lets the analyzers change what the settings ask of the detector.
    fn adapt_plan(&mut self) {
        for analyzer in &mut self.analyzers {
            analyzer.adapt(&mut self.plan);
        }
    }

    fn frames(&mut self) -> Result<(), PipelineError> {
        let mut stats = Arc::new(Snapshot::default());
        let mut stats_at = None;
        let mut dropped_before = 0;
        while self.remaining != Some(0) && !self.stop.is_interrupted() {
            let Ok(frame) = self.frames.recv() else { break };
            if let Ok(Some(plan)) = self.new_plans.try_recv() {
                self.plan = plan;
                self.adapt_plan();
            }
            let mut found = [Found::default()];
            self.detector
                .detect(std::slice::from_ref(&frame), &self.plan, &mut found)
                .map_err(|source| PipelineError::Detect {
                    frame: frame.meta.id,
                    source,
                })?;
            let [
                Found {
                    detections,
                    mut times,
                },
            ] = found;
            let now = self.clock.now();
            times.age = now.since(frame.meta.captured);
            let dropped = self.metrics.dropped_frames();
            let Frame { meta, pixels } = frame;
            let mut report = Report {
                run: Arc::clone(&self.run),
                frame: meta,
                detections,
                times,
                dropped: dropped - dropped_before,
                stats: Arc::clone(&stats),
                counts: None,
            };
            for analyzer in &mut self.analyzers {
                analyzer.step(&mut report, &mut |event| self.outputs.event(event));
            }
            // what the analyzers leave is what was found
            self.metrics.record(now, &times, report.detections.len());
            if let Some(counts) = &report.counts {
                self.metrics.set_counts(counts);
            }
            if stats_at.is_none_or(|at| now.since(at) >= SNAPSHOT_INTERVAL) {
                stats = Arc::new(self.metrics.snapshot());
                if stats_at.replace(now).is_none() {
                    self.health.announce(); // the first detection
                }
            }
            report.stats = Arc::clone(&stats);
            self.outputs.frame(report, &pixels);
            dropped_before = dropped;
            self.remaining = self.remaining.map(|remaining| remaining - 1);
        }
        Ok(())
    }
}

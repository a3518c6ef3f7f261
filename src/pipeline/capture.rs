//! The capture stage: frames from the source to the detector.

use super::handoff::{Disconnected, HandoffSender};
use super::outputs::Outputs;
use super::{PipelineError, Stop, chain};
use crate::capture::{Next, Source, SourceEvent};
use crate::event::{Event, EventKind};
use crate::frame::Frame;
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::Health;
use std::sync::Arc;

pub(super) struct CaptureStage {
    pub(super) source: Box<dyn Source>,
    pub(super) frames: HandoffSender<Frame>,
    pub(super) outputs: Outputs,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Health,
    pub(super) stop: Stop,
}

impl CaptureStage {
    /// Until the source ends, the detector ends, or the run stops.
    pub(super) fn run(mut self) -> Result<(), PipelineError> {
        let mut expected_id = None;
        while !self.stop.is_stopped() {
            let frame = match self.source.next() {
                Ok(Next::Frame(frame)) => frame,
                Ok(Next::Event(event)) => {
                    self.source_event(event);
                    continue;
                }
                Ok(Next::End) => break,
                Err(error) if error.is_damaged_frame() => {
                    let reason = chain(&error);
                    tracing::warn!("skipped a frame: {reason}");
                    self.metrics.add_damaged(1);
                    // it had a number, and is not to be counted as dropped as well
                    expected_id = expected_id.map(|id| id + 1);
                    let event = Event::new(EventKind::DamagedFrame).message(reason);
                    self.outputs.event(event);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let id = frame.meta.id;
            self.metrics
                .add_driver_drops(expected_id.map_or(0, |expected| id.saturating_sub(expected)));
            expected_id = Some(id + 1);
            match self.frames.send(frame) {
                Ok(replaced) => self.metrics.add_replaced(u64::from(replaced.is_some())),
                Err(Disconnected) => break,
            }
        }
        Ok(())
    }

    fn source_event(&self, event: SourceEvent) {
        match event {
            SourceEvent::Lost { reason, retry_by } => {
                self.health.camera_lost(retry_by);
                let event = Event::new(EventKind::CameraLost).message(reason);
                self.outputs.event(event);
            }
            SourceEvent::Retrying { retry_by } => self.health.camera_lost(retry_by),
            SourceEvent::Found => {
                self.health.camera_found();
                self.outputs.event(Event::new(EventKind::CameraFound));
            }
        }
    }
}

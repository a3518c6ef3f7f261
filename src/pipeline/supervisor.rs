//! Threads of a run: every one is started here, reports how it ended, and is joined here.
//!
//! A stage that fails or panics stops the run at once; the others drain and flush. The first
//! failure in time is the run's error. After an interrupt the run does not wait for ever, nor for
//! its inputs after any stop: a stage that hangs in a system call is left behind with its thread.

use super::{PipelineError, Stop, chain};
use crate::clock::{Clock, MonoTime};
use crate::monitor::notify::Health;
use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time that the inputs have to end after a stop that is no interrupt: they have nothing to lose,
/// and a child process that is asked to end has a second for it.
const INPUT_GRACE: Duration = Duration::from_secs(10);

/// The parts of a run, in the order in which they end: each works until those before it have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Capture, power, control.
    Inputs,
    /// The detector with its analyzers.
    Detector,
    /// The sinks.
    Outputs,
}

impl Part {
    /// When a part must have ended, from the interrupt on. With what the program does before and
    /// after, a signal ends it within 3 s.
    fn limit(self) -> Duration {
        match self {
            // a child process has 1 s between SIGINT and SIGKILL
            Part::Inputs => Duration::from_millis(1200),
            Part::Detector => Duration::from_millis(2000),
            Part::Outputs => Duration::from_millis(2500),
        }
    }
}

/// How a stage ended.
struct StageExit {
    id: usize,
    outcome: Result<(), PipelineError>,
}

/// A stage that has not reported its end yet.
struct Running {
    id: usize,
    stage: &'static str,
    part: Part,
    thread: JoinHandle<()>,
}

/// The threads of a run.
pub(super) struct Supervisor {
    stop: Stop,
    health: Health,
    clock: Arc<dyn Clock>,
    running: Vec<Running>,
    started: usize,
    /// When the interrupt was seen.
    interrupted: Option<MonoTime>,
    report: Sender<StageExit>,
    exits: Receiver<StageExit>,
    first_failure: Option<PipelineError>,
}

impl Supervisor {
    pub(super) fn new(stop: &Stop, health: &Health, clock: &Arc<dyn Clock>) -> Supervisor {
        let (report, exits) = unbounded(); // one entry a thread
        Supervisor {
            stop: stop.clone(),
            health: health.clone(),
            clock: Arc::clone(clock),
            running: Vec::new(),
            started: 0,
            interrupted: None,
            report,
            exits,
            first_failure: None,
        }
    }

    /// Starts a stage in a thread of its own, named `vc-STAGE`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn spawn(
        &mut self,
        part: Part,
        stage: &'static str,
        body: impl FnOnce() -> Result<(), PipelineError> + Send + 'static,
    ) -> Result<(), PipelineError> {
        let (stop, health, report) = (self.stop.clone(), self.health.clone(), self.report.clone());
        let id = self.started;
        let guarded = move || {
            let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
                Err(PipelineError::Panicked {
                    stage,
                    reason: panic_message(payload.as_ref()),
                })
            });
            if outcome.is_err() {
                health.fail();
                stop.stop();
            }
            let _ = report.send(StageExit { id, outcome });
        };
        let thread = std::thread::Builder::new()
            .name(format!("vc-{stage}"))
            .spawn(guarded)
            .map_err(|source| PipelineError::Spawn { stage, source })?;
        self.started += 1;
        self.running.push(Running {
            id,
            stage,
            part,
            thread,
        });
        Ok(())
    }

    /// A stage could not be started: stops those that were.
    pub(super) fn fail(&mut self, error: PipelineError) {
        self.health.fail();
        self.stop.stop();
        self.first_failure.get_or_insert(error);
    }

    /// Waits until all stages of a part have ended; returns those that hang and are left behind.
    pub(super) fn end(&mut self, part: Part) -> Vec<&'static str> {
        while self.running.iter().any(|running| running.part == part) {
            let (patience, changed) = self.patience(part);
            let over = patience.map_or_else(never, |time| self.clock.ticks(time));
            select! {
                recv(self.exits) -> exit => exit.into_iter().for_each(|exit| self.ended(exit)),
                recv(changed) -> _ => {}
                recv(over) -> _ => break,
            }
        }
        let hanging = self.running.extract_if(.., |running| running.part == part);
        hanging.map(|running| running.stage).collect()
    }

    /// How long a part may still take, and a channel that disconnects when that changes.
    fn patience(&mut self, part: Part) -> (Option<Duration>, Receiver<()>) {
        if self.stop.is_interrupted() {
            let now = self.clock.now();
            let since = *self.interrupted.get_or_insert_with(|| {
                tracing::info!("stopping; again to leave at once");
                now
            });
            let left = part.limit().saturating_sub(now.since(since));
            return (Some(left), never());
        }
        if !self.stop.is_stopped() {
            return (None, self.stop.signal().clone());
        }
        let grace = (part == Part::Inputs).then_some(INPUT_GRACE);
        (grace, self.stop.interrupted().clone())
    }

    /// Joins a stage that has reported its end.
    fn ended(&mut self, exit: StageExit) {
        let Some(at) = self.running.iter().position(|r| r.id == exit.id) else {
            return; // it was left behind, and has ended after all
        };
        let Running { stage, thread, .. } = self.running.swap_remove(at);
        // the body's panic is caught: what is left is the end of the thread
        let _ = thread.join();
        tracing::debug!("stage '{stage}' ended");
        match exit.outcome {
            Err(error) if self.first_failure.is_some() => {
                tracing::error!("stage '{stage}' failed as well: {}", chain(&error));
            }
            Err(error) => self.first_failure = Some(error),
            Ok(()) => {}
        }
    }

    /// The first failure in time.
    pub(super) fn failure(self) -> Option<PipelineError> {
        self.first_failure
    }
}

/// The text of a panic.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

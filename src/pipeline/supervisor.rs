//! Threads of a run: every one is started here, reports how it ended, and is joined here.
//!
//! A stage that fails or panics stops the run at once; the others drain and flush. The first
//! failure in time is the run's error.

use super::{PipelineError, Stop, chain};
use crate::monitor::notify::Health;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// How a stage ended.
struct StageExit {
    stage: &'static str,
    outcome: Result<(), PipelineError>,
}

/// The threads of a run. Dropping it stops the run and joins them.
pub(super) struct Supervisor {
    stop: Stop,
    health: Health,
    threads: Vec<(&'static str, JoinHandle<()>)>,
    report: Sender<StageExit>,
    exits: Receiver<StageExit>,
}

impl Supervisor {
    pub(super) fn new(stop: &Stop, health: &Health) -> Supervisor {
        let (report, exits) = unbounded(); // one entry a thread
        Supervisor {
            stop: stop.clone(),
            health: health.clone(),
            threads: Vec::new(),
            report,
            exits,
        }
    }

    /// Starts a stage in a thread of its own, named `vc-STAGE`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn spawn(
        &mut self,
        stage: &'static str,
        body: impl FnOnce() -> Result<(), PipelineError> + Send + 'static,
    ) -> Result<(), PipelineError> {
        let guard = self.guard(stage);
        let thread = std::thread::Builder::new()
            .name(format!("vc-{stage}"))
            .spawn(move || guard(Box::new(body)))
            .map_err(|source| PipelineError::Spawn { stage, source })?;
        self.threads.push((stage, thread));
        Ok(())
    }

    /// Runs a stage in the caller's thread, under the same rules.
    pub(super) fn run_here(
        &self,
        stage: &'static str,
        body: impl FnOnce() -> Result<(), PipelineError>,
    ) {
        self.guard(stage)(Box::new(body));
    }

    /// Runs a stage's body and reports its end, whatever it is.
    fn guard(
        &self,
        stage: &'static str,
    ) -> impl FnOnce(Box<dyn FnOnce() -> Result<(), PipelineError> + '_>) + Send + 'static {
        let (stop, health, report) = (self.stop.clone(), self.health.clone(), self.report.clone());
        move |body| {
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
            let _ = report.send(StageExit { stage, outcome });
        }
    }

    /// Waits for the end of all stages.
    ///
    /// # Errors
    /// The first failure in time; later ones are logged.
    pub(super) fn join(mut self) -> Result<(), PipelineError> {
        self.join_threads();
        let mut first = Ok(());
        for StageExit { stage, outcome } in self.exits.try_iter() {
            match (&first, outcome) {
                (Ok(()), outcome) => first = outcome,
                (Err(_), Err(error)) => {
                    tracing::error!("stage '{stage}' failed as well: {}", chain(&error))
                }
                _ => {}
            }
        }
        first
    }

    fn join_threads(&mut self) {
        for (stage, thread) in self.threads.drain(..) {
            // the body's panic is caught; what is left are panics of the guard itself
            if thread.join().is_err() {
                tracing::error!("the thread of stage '{stage}' ended without a report");
            }
            tracing::debug!("stage '{stage}' ended");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop.stop();
            self.join_threads();
        }
    }
}

/// The text of a panic.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

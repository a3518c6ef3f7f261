//! The control stage: figures for the log at fixed times, the service manager, and requests to
//! read the settings again.

use super::handoff::HandoffSender;
use super::outputs::Outputs;
use super::{PipelineError, Stop, chain};
use crate::clock::Clock;
use crate::detect::DetectPlan;
use crate::event::{Event, EventKind};
use crate::monitor::notify::Notifier;
use crossbeam_channel::{Receiver, never, select};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Settings that were read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// The detector's plan from the next frame on.
    pub plan: DetectPlan,
    /// The changes, as text for the log.
    pub changes: String,
}

/// Reads the settings again.
///
/// # Errors
/// When they are wrong; then nothing has changed.
pub type Reload = Box<dyn FnMut() -> Result<Reloaded, Box<dyn Error + Send + Sync>> + Send>;

/// Inputs of the control stage besides time; none by default.
pub struct Control {
    /// The service manager.
    pub notifier: Option<Notifier>,
    /// Wakes the notifier before its next turn.
    pub news: Receiver<()>,
    /// Reads the settings again.
    pub reload: Option<Reload>,
    /// Requests to do so.
    pub reload_requests: Receiver<()>,
}

impl Default for Control {
    fn default() -> Control {
        Control {
            notifier: None,
            news: never(),
            reload: None,
            reload_requests: never(),
        }
    }
}

/// The control stage with everything that it serves.
pub(super) struct ControlStage {
    pub(super) control: Control,
    pub(super) stop: Stop,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stats_interval: Duration,
    pub(super) plans: HandoffSender<DetectPlan>,
    pub(super) outputs: Outputs,
}

impl ControlStage {
    /// Serves until the run stops. New plans go to the detect stage, which takes them up between
    /// two frames; figures and events go to all sinks.
    pub(super) fn run(self) -> Result<(), PipelineError> {
        let mut control = self.control;
        let stats = self.clock.ticks(self.stats_interval);
        let notify = match &control.notifier {
            Some(notifier) => self.clock.ticks(notifier.interval()),
            None => never(),
        };
        loop {
            select! {
                recv(self.stop.signal()) -> _ => break,
                recv(stats) -> _ => self.outputs.stats(),
                recv(notify) -> _ => control.notify(),
                recv(control.news) -> news => match news {
                    Ok(()) => control.notify(),
                    Err(_) => control.news = never(),
                },
                recv(control.reload_requests) -> request => match request {
                    Ok(()) => self.outputs.event(control.reload(&self.plans)),
                    Err(_) => control.reload_requests = never(),
                },
            }
        }
        if let Some(notifier) = &mut control.notifier {
            notifier.stopping();
        }
        Ok(())
    }
}

impl Control {
    fn notify(&mut self) {
        if let Some(notifier) = &mut self.notifier {
            notifier.tick();
        }
    }

    fn reload(&mut self, plans: &HandoffSender<DetectPlan>) -> Event {
        let rejected = |reason: String| Event::new(EventKind::ConfigRejected).message(reason);
        let Some(reload) = &mut self.reload else {
            return rejected("there is no settings file".to_owned());
        };
        let reloaded = match &mut self.notifier {
            Some(notifier) => notifier.reloading(reload),
            None => reload(),
        };
        match reloaded {
            Ok(Reloaded { plan, changes }) => {
                tracing::info!("settings read again: {changes}");
                // a detect stage that has ended needs no plan
                let _ = plans.send(plan);
                Event::new(EventKind::ConfigReloaded).message(changes)
            }
            Err(error) => {
                let reason = chain(error.as_ref());
                tracing::error!("settings not read, the old ones stay: {reason}");
                rejected(reason)
            }
        }
    }
}

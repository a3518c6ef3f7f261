//! The control stage: figures for the log at fixed times, the service manager, and requests to
//! read the settings again.

use super::latest::LatestSender;
use super::outputs::Outputs;
use super::{Stop, chain};
use crate::clock::Clock;
use crate::detect::DetectPlan;
use crate::event::{Event, EventKind};
use crate::monitor::notify::Notifier;
use crossbeam_channel::{Receiver, never, select};
use std::error::Error;
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

impl Control {
    /// Serves until the run stops. New plans go to the detect stage, which takes them up between
    /// two frames; figures and events go to all sinks.
    pub(super) fn run(
        mut self,
        stop: &Stop,
        clock: &dyn Clock,
        stats_interval: Duration,
        plans: &LatestSender<DetectPlan>,
        outputs: &Outputs,
    ) {
        let stats = clock.ticks(stats_interval);
        let notify = self
            .notifier
            .as_ref()
            .map_or_else(never, |notifier| clock.ticks(notifier.interval()));
        loop {
            select! {
                recv(stop.signal()) -> _ => break,
                recv(stats) -> _ => outputs.stats(),
                recv(notify) -> _ => self.notify(),
                recv(self.news) -> news => match news {
                    Ok(()) => self.notify(),
                    Err(_) => self.news = never(),
                },
                recv(self.reload_requests) -> request => match request {
                    Ok(()) => outputs.event(self.reload(plans)),
                    Err(_) => self.reload_requests = never(),
                },
            }
        }
        if let Some(notifier) = &mut self.notifier {
            notifier.stopping();
        }
    }

    fn notify(&mut self) {
        if let Some(notifier) = &mut self.notifier {
            notifier.tick();
        }
    }

    fn reload(&mut self, plans: &LatestSender<DetectPlan>) -> Event {
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

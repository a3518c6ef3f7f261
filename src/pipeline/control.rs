//! What comes from outside while a run goes on: settings to read anew, and a service manager
//! that wants to know how it goes.

use super::latest::Giver;
use super::{Stop, chain};
use crate::config::reload::Reloader;
use crate::detection::Thresholds;
use crate::event::Event;
use crate::monitor::notify::Notifier;
use crossbeam_channel::{Receiver, never, select, tick};

/// The outside of a run; by default there is none.
pub struct Control {
    /// Who is told.
    pub notifier: Option<Notifier>,
    /// News that the notifier should not wait with.
    pub news: Receiver<()>,
    /// Reads the settings again.
    pub reloader: Option<Reloader>,
    /// Requests to do so.
    pub reloads: Receiver<()>,
}

impl Default for Control {
    fn default() -> Control {
        Control {
            notifier: None,
            news: never(),
            reloader: None,
            reloads: never(),
        }
    }
}

impl Control {
    /// Whether there is anything to wait for.
    pub(super) fn is_needed(&self) -> bool {
        self.notifier.is_some() || self.reloader.is_some()
    }

    /// Serves requests until the run stops. New thresholds go to the detector, which takes them
    /// up between two frames; what happened goes to `log`.
    pub(super) fn run(mut self, stop: &Stop, thresholds: &Giver<Thresholds>, log: impl Fn(Event)) {
        let ticks = self
            .notifier
            .as_ref()
            .map_or_else(never, |notifier| tick(notifier.interval()));
        loop {
            select! {
                recv(stop.signal()) -> _ => break,
                recv(ticks) -> _ => self.tick(),
                recv(self.news) -> news => match news {
                    Ok(()) => self.tick(),
                    Err(_) => self.news = never(),
                },
                recv(self.reloads) -> request => match request {
                    Ok(()) => log(self.reload(thresholds)),
                    Err(_) => self.reloads = never(),
                },
            }
        }
        if let Some(notifier) = &mut self.notifier {
            notifier.stopping();
        }
    }

    fn tick(&mut self) {
        if let Some(notifier) = &mut self.notifier {
            notifier.tick();
        }
    }

    fn reload(&mut self, thresholds: &Giver<Thresholds>) -> Event {
        let Some(reloader) = &mut self.reloader else {
            return Event::config_rejected("there is no settings file");
        };
        let reloaded = match &mut self.notifier {
            Some(notifier) => notifier.reloading(|| reloader.reload()),
            None => reloader.reload(),
        };
        match reloaded {
            Ok(reloaded) => {
                tracing::info!("settings read again: {reloaded}");
                let event = Event::config_reloaded(&reloaded.to_string());
                // a detector that has ended needs no thresholds
                let _ = thresholds.give(reloaded.thresholds);
                event
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::error!("settings not read, the old ones stay: {reason}");
                Event::config_rejected(&reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::latest::{Policy, Taker, handoff};
    use super::*;
    use crate::config::Settings;
    use crossbeam_channel::bounded;

    /// Runs `control` until it has served one request, then stops it.
    fn serve(control: Control) -> (Taker<Thresholds>, Event) {
        let stop = Stop::default();
        let (give, taken) = handoff(Policy::Newest);
        let (log, events) = bounded(1);
        control.run(&stop, &give, |event| {
            log.send(event).unwrap();
            stop.stop();
        });
        (taken, events.recv().unwrap())
    }

    #[test]
    fn a_reload_reaches_detector_and_log_and_a_bad_file_only_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let model =
            crate::model::Model::random(crate::network::Network::vovnet27_slim(), 2, 1).unwrap();
        let path = dir.path().join("vovcam.toml");
        let control = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let (requests, reloads) = bounded(1);
            requests.send(()).unwrap();
            let none = Settings::default();
            let manifest = model.manifest.clone();
            Control {
                reloader: Some(Reloader::new(path.clone(), none.clone(), none, manifest)),
                reloads, // its sender is gone after the one request
                ..Control::default()
            }
        };
        let (taken, event) = serve(control("threshold = 0.25"));
        assert_eq!(taken.try_take().unwrap().unwrap().score, [0.25, 0.25]);
        assert_eq!(event, Event::config_reloaded("changed: threshold"));

        let (taken, event) = serve(control("threshold = 2"));
        assert!(taken.try_take().is_err(), "nothing was given");
        assert_eq!(event.event, "config_rejected");
        let message = event.message.as_deref().unwrap();
        assert!(message.contains("from 0 to 1"), "{message}");
    }
}

//! What a service manager such as systemd is told: ready, status, alive, reloading, stopping.
//!
//! `READY=1` waits for the first detection, or for the certainty that the camera is lost, so that
//! units ordered after this one find a detector that works or a log that says why not. The
//! watchdog is fed only when frames came through the detector since the last time, or while a
//! lost camera is being tried again on schedule: a timer alone would feed it for a hung stage.
//! Without `NOTIFY_SOCKET` in the environment nothing is sent at all.

use crate::clock::{Clock, MonoTime};
use crate::monitor::metrics::Metrics;
use crate::stats::Snapshot;
use crossbeam_channel::{Receiver, Sender, bounded};
use sd_notify::NotifyState;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often the status is sent.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The camera is not known to be lost.
const NOT_LOST: u64 = 0;

/// What only the stages know: whether the camera is lost, and when something happened that should
/// not wait for the next status. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    /// When a lost camera will have been tried again, in ns; [`NOT_LOST`] while there are frames.
    retried_by_ns: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    news: Sender<()>,
}

impl Default for Health {
    /// With nobody who waits for news.
    fn default() -> Health {
        Health::new().0
    }
}

impl Health {
    /// The health, and a channel on which news are announced.
    pub fn new() -> (Health, Receiver<()>) {
        let (news, announced) = bounded(1);
        let health = Health {
            retried_by_ns: Arc::new(AtomicU64::new(NOT_LOST)),
            failed: Arc::new(AtomicBool::new(false)),
            news,
        };
        (health, announced)
    }

    /// The camera is known to be lost, and `by` then it will have been tried again.
    pub fn camera_lost(&self, by: MonoTime) {
        let before = self.retried_by_ns.swap(by.ns.max(NOT_LOST + 1), Relaxed);
        if before == NOT_LOST {
            self.announce();
        }
    }

    /// The camera sends frames.
    pub fn camera_found(&self) {
        self.retried_by_ns.store(NOT_LOST, Relaxed);
    }

    /// A stage has failed: the run is ending, and the watchdog is not fed any more.
    pub fn fail(&self) {
        self.failed.store(true, Relaxed);
    }

    /// Wakes the one who waits for news; one that is busy will see them anyway.
    pub fn announce(&self) {
        let _ = self.news.try_send(());
    }

    fn camera(&self, now: MonoTime) -> Camera {
        match self.retried_by_ns.load(Relaxed) {
            NOT_LOST => Camera::Sends,
            by if now.ns <= by => Camera::Retried,
            _ => Camera::Overdue,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Camera {
    /// As far as known.
    Sends,
    /// Lost, and tried again on schedule.
    Retried,
    /// Lost, and the try that was due hangs.
    Overdue,
}

/// The way to the service manager.
type Deliver = Box<dyn FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send>;

/// Tells the service manager.
pub struct Notifier {
    deliver: Deliver,
    watchdog: Option<Duration>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Health,
    ready: bool,
    /// Frames detected when the watchdog was last fed.
    frames: u64,
    failing: bool,
}

impl Notifier {
    /// For the service manager of the environment; `None` where there is none.
    pub fn from_env(
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> Option<Notifier> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let deliver = Box::new(|states: &[NotifyState<'_>]| sd_notify::notify(states));
        let watchdog = sd_notify::watchdog_enabled();
        Some(Notifier::new(deliver, watchdog, clock, metrics, health))
    }

    fn new(
        deliver: Deliver,
        watchdog: Option<Duration>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> Notifier {
        Notifier {
            deliver,
            watchdog,
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            health: health.clone(),
            ready: false,
            frames: 0,
            failing: false,
        }
    }

    /// The watchdog's patience, where there is one.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// How often [`Notifier::tick`] is to be called: in time for a short watchdog.
    pub fn interval(&self) -> Duration {
        let patience = self.watchdog.unwrap_or(STATUS_EVERY);
        (patience / 4).clamp(Duration::from_millis(10), STATUS_EVERY)
    }

    /// Status, and as far as it is true: alive and ready.
    pub fn tick(&mut self) {
        let stats = self.metrics.snapshot();
        let camera = self.health.camera(self.clock.now());
        let progress = stats.frames != self.frames || camera == Camera::Retried;
        let alive = progress && !self.health.failed.load(Relaxed);
        self.frames = stats.frames;
        let status = status(&stats, camera);
        let mut states = vec![NotifyState::Status(&status)];
        if alive && !self.ready {
            states.push(NotifyState::Ready);
        }
        if alive && self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        // a READY=1 that did not arrive is sent again
        self.ready |= self.send(&states) && alive;
    }

    /// Says that settings are being read anew, while `work` does it.
    pub fn reloading<T>(&mut self, work: impl FnOnce() -> T) -> T {
        if !self.ready {
            // the first READY=1 is still owed, and must not come from here
            return work();
        }
        let mut states = vec![NotifyState::Reloading];
        // systemd 253 and newer want to know which request this answers
        states.extend(NotifyState::monotonic_usec_now().ok());
        self.send(&states);
        let done = work();
        self.send(&[NotifyState::Ready]);
        done
    }

    /// The run is ending.
    pub fn stopping(&mut self) {
        let states = [NotifyState::Stopping, NotifyState::Status("stopping")];
        self.send(&states);
    }

    /// Whether it arrived. A service manager that does not listen must not end the detection; it
    /// is complained about once.
    fn send(&mut self, states: &[NotifyState<'_>]) -> bool {
        let sent = (self.deliver)(states);
        match &sent {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!("cannot tell the service manager (NOTIFY_SOCKET): {error}");
            }
            Err(_) => {}
        }
        sent.is_ok()
    }
}

/// `29.9 fps, p95 41 ms, 7.3 W, 12 frames lost`.
fn status(stats: &Snapshot, camera: Camera) -> String {
    let mut parts = Vec::with_capacity(4);
    match camera {
        Camera::Sends => parts.push(stats.fps.map_or_else(
            || "waiting for frames".to_owned(),
            |fps| format!("{fps:.1} fps"),
        )),
        Camera::Retried => parts.push("camera lost, trying again".to_owned()),
        Camera::Overdue => parts.push("camera lost, and opening it hangs".to_owned()),
    }
    if let Some(p95) = stats.latency_p95 {
        parts.push(format!("p95 {} ms", p95.as_millis()));
    }
    parts.push(match &stats.energy {
        Some(energy) => energy.average.to_string(),
        None => "no power meter".to_owned(),
    });
    let drops = stats.drops;
    let frames = drops.driver + drops.replaced + drops.damaged;
    parts.push(format!("{frames} frames lost"));
    if drops.log > 0 {
        parts.push(format!("{} log lines lost", drops.log));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;
    use crate::detection::StageTimes;
    use crate::units::Watts;
    use std::fmt::Write;
    use std::os::unix::net::UnixDatagram;

    const WATCHDOG: Duration = Duration::from_secs(10);

    struct Manager {
        socket: UnixDatagram,
        clock: Arc<SimClock>,
        metrics: Arc<Metrics>,
        health: Health,
        news: Receiver<()>,
        notifier: Notifier,
    }

    /// A service manager's end of a datagram socket, and a notifier on the other.
    fn manager() -> Manager {
        let (ours, socket) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let clock = Arc::new(SimClock::default());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let metrics = Metrics::new(Arc::clone(&shared));
        let (health, news) = Health::new();
        let send = move |states: &[NotifyState<'_>]| {
            let mut text = String::new();
            states
                .iter()
                .for_each(|state| writeln!(text, "{state}").unwrap());
            ours.send(text.as_bytes()).map(drop)
        };
        let notifier = Notifier::new(Box::new(send), Some(WATCHDOG), &shared, &metrics, &health);
        Manager {
            socket,
            clock,
            metrics,
            health,
            news,
            notifier,
        }
    }

    impl Manager {
        /// What one tick sends, without the status.
        fn tick(&mut self) -> Vec<String> {
            self.notifier.tick();
            let mut states = self.received();
            assert!(states.remove(0).starts_with("STATUS="));
            states
        }

        fn received(&self) -> Vec<String> {
            let mut bytes = [0; 1024];
            let mut all = Vec::new();
            while let Ok(len) = self.socket.recv(&mut bytes) {
                let text = std::str::from_utf8(&bytes[..len]).unwrap();
                all.extend(text.lines().map(str::to_owned));
            }
            all
        }

        fn detect(&self) {
            self.clock.advance(Duration::from_millis(100));
            let times = StageTimes {
                age: Duration::from_millis(41),
                ..StageTimes::default()
            };
            self.metrics.record(self.clock.now(), &times, 0);
        }
    }

    #[test]
    fn ready_waits_for_a_detection_and_the_watchdog_for_progress() {
        let mut manager = manager();
        assert!(manager.tick().is_empty(), "nothing was detected yet");
        manager.detect();
        assert_eq!(manager.tick(), ["READY=1", "WATCHDOG=1"]);
        manager.detect();
        assert_eq!(manager.tick(), ["WATCHDOG=1"]);
        manager.clock.advance(Duration::from_secs(1));
        assert!(manager.tick().is_empty(), "no frame: the detector may hang");
    }

    #[test]
    fn a_lost_camera_counts_as_ready_and_alive_only_while_it_is_tried_on_schedule() {
        let mut manager = manager();
        let due = manager.clock.now() + Duration::from_secs(30);
        manager.health.camera_lost(due);
        assert!(manager.news.try_recv().is_ok(), "news do not wait");
        assert_eq!(manager.tick(), ["READY=1", "WATCHDOG=1"]);
        manager.clock.advance(Duration::from_secs(29));
        assert_eq!(manager.tick(), ["WATCHDOG=1"]);
        manager.clock.advance(Duration::from_secs(2));
        assert!(manager.tick().is_empty(), "the try that was due hangs");
        manager.health.camera_found();
        assert!(manager.tick().is_empty(), "found, but nothing detected yet");
    }

    #[test]
    fn the_watchdog_is_not_fed_once_a_stage_has_failed() {
        let mut manager = manager();
        manager.detect();
        assert_eq!(manager.tick(), ["READY=1", "WATCHDOG=1"]);
        manager.health.fail();
        manager.detect();
        let due = manager.clock.now() + Duration::from_secs(30);
        manager.health.camera_lost(due);
        assert!(
            manager.tick().is_empty(),
            "frames and retries do not count any more"
        );
    }

    #[test]
    fn the_status_has_speed_latency_power_and_losses() {
        let mut manager = manager();
        manager.detect();
        manager.detect();
        let info = crate::stats::MeterInfo {
            source: "test",
            scope: "board".to_owned(),
        };
        let window = Duration::from_secs(5);
        manager.metrics.set_power(Watts(7.3), window, &info);
        manager.metrics.add_replaced(3);
        manager.metrics.losses_of("log").add(2);
        manager.notifier.tick();
        assert_eq!(
            manager.received()[0],
            "STATUS=10.0 fps, p95 41 ms, 7.3 W, 3 frames lost, 2 log lines lost"
        );
    }

    #[test]
    fn a_reload_is_bracketed_and_never_makes_a_service_ready_that_is_not() {
        let mut manager = manager();
        assert_eq!(manager.notifier.reloading(|| 7), 7);
        assert!(manager.received().is_empty());
        manager.detect();
        manager.tick();
        manager.notifier.reloading(|| ());
        let states = manager.received();
        assert_eq!((states[0].as_str(), states.len()), ("RELOADING=1", 3));
        assert!(states[1].starts_with("MONOTONIC_USEC=") && states[2] == "READY=1");
        manager.notifier.stopping();
        assert_eq!(manager.received()[0], "STOPPING=1");
    }

    #[test]
    fn a_manager_that_is_gone_is_survived() {
        let Manager {
            socket,
            mut notifier,
            ..
        } = manager();
        drop(socket);
        notifier.tick();
        notifier.stopping();
        assert!(notifier.failing);
    }
}

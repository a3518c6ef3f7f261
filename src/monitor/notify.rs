//! Notification of a service manager such as systemd (sd_notify(3)): ready, status, watchdog,
//! reloading, stopping.
//!
//! `READY=1` is sent after the first detection, or once the camera is known to be lost, so that
//! units ordered after this one start with a working detector or a log with the reason. `WATCHDOG=1`
//! is sent only if the detector finished frames since the last time, or while a lost camera is
//! retried on schedule: a timer alone would also keep a hung stage alive. Without `NOTIFY_SOCKET`
//! in the environment nothing is sent.

use crate::clock::{Clock, MonoTime};
use crate::monitor::metrics::Metrics;
use crate::monitor::vitals::{Signs, Vitals};
use crate::stats::Snapshot;
use crossbeam_channel::{Receiver, Sender, bounded};
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Interval between status messages.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Value of [`Health::retry_by_ns`] while the camera sends frames.
const NOT_LOST: u64 = 0;

/// State that the stages report to the [`Notifier`]: whether the camera is lost, whether a stage
/// failed, and a wake-up signal for changes that must not wait for the next status. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    /// When the current retry of a lost camera ends at the latest, in ns; [`NOT_LOST`] while the
    /// camera sends frames.
    retry_by_ns: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    wake: Sender<()>,
}

impl Default for Health {
    /// Health without a listener.
    fn default() -> Health {
        Health::new().0
    }
}

impl Health {
    /// The health, and a channel that receives a value at [`Health::announce`].
    pub fn new() -> (Health, Receiver<()>) {
        let (wake, announced) = bounded(1);
        let health = Health {
            retry_by_ns: Arc::new(AtomicU64::new(NOT_LOST)),
            failed: Arc::new(AtomicBool::new(false)),
            wake,
        };
        (health, announced)
    }

    /// The camera is lost; its next retry ends at time `by` at the latest.
    pub fn camera_lost(&self, by: MonoTime) {
        let before = self.retry_by_ns.swap(by.ns.max(NOT_LOST + 1), Relaxed);
        if before == NOT_LOST {
            self.announce();
        }
    }

    /// The camera sends frames.
    pub fn camera_found(&self) {
        self.retry_by_ns.store(NOT_LOST, Relaxed);
    }

    /// A stage has failed: the run is ending, and the watchdog gets no more messages.
    pub fn fail(&self) {
        self.failed.store(true, Relaxed);
    }

    /// Wakes the receiver of [`Health::new`]. If a wake-up is already pending, another is not needed.
    pub fn announce(&self) {
        let _ = self.wake.try_send(());
    }

    /// Whether a stage has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// The camera at time `now`.
    pub(super) fn camera(&self, now: MonoTime) -> CameraState {
        match self.retry_by_ns.load(Relaxed) {
            NOT_LOST => CameraState::Sending,
            by if now.ns <= by => CameraState::Retrying,
            _ => CameraState::Overdue,
        }
    }
}

/// A camera or other source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameraState {
    /// It sends frames, or is not known to be lost.
    Sending,
    /// It is lost and retried on schedule.
    Retrying,
    /// It is lost, and the last retry hangs.
    Overdue,
}

/// Sends states to the service manager.
type SendStates = Box<dyn FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send>;

/// Notifies the service manager.
pub struct Notifier {
    send_states: SendStates,
    watchdog: Option<Duration>,
    vitals: Vitals,
    ready: bool,
    failing: bool,
}

impl Notifier {
    /// For the service manager in `NOTIFY_SOCKET`; `None` if it is not set, or if its kind of socket
    /// is none of this program's, which is logged.
    pub fn from_env(
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> Option<Notifier> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let manager = match ManagerSocket::named(&name) {
            Ok(manager) => manager,
            Err(reason) => {
                tracing::info!("the service manager is not notified: {reason}");
                return None;
            }
        };
        let send_states = Box::new(move |states: &[NotifyState<'_>]| manager.send(states));
        let watchdog = sd_notify::watchdog_enabled();
        Some(Notifier::new(send_states, watchdog, clock, metrics, health))
    }

    fn new(
        send_states: SendStates,
        watchdog: Option<Duration>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> Notifier {
        Notifier {
            send_states,
            watchdog,
            vitals: Vitals::new(clock, metrics, health),
            ready: false,
            failing: false,
        }
    }

    /// The watchdog interval (`WatchdogSec`), if the service has one.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Interval at which [`Notifier::tick`] is to be called: at most a quarter of the watchdog interval.
    pub fn interval(&self) -> Duration {
        let limit = self.watchdog.unwrap_or(STATUS_EVERY);
        (limit / 4).clamp(Duration::from_millis(10), STATUS_EVERY)
    }

    /// Sends the status and, if the run makes progress, `WATCHDOG=1` and the first `READY=1`.
    pub fn tick(&mut self) {
        let Signs {
            stats,
            camera,
            alive,
        } = self.vitals.look();
        let status = status(&stats, camera);
        let mut states = vec![NotifyState::Status(&status)];
        if alive && !self.ready {
            states.push(NotifyState::Ready);
        }
        if alive && self.watchdog.is_some() {
            states.push(NotifyState::Watchdog);
        }
        // a READY=1 that could not be sent is repeated
        self.ready |= self.send(&states) && alive;
    }

    /// Sends `RELOADING=1`, runs `work`, which reloads the settings, and sends `READY=1`.
    pub fn reloading<T>(&mut self, work: impl FnOnce() -> T) -> T {
        if !self.ready {
            // a READY=1 from here would report a service as ready that is not
            return work();
        }
        let mut states = vec![NotifyState::Reloading];
        // required by systemd 253 and newer with Type=notify-reload (sd_notify(3))
        states.extend(NotifyState::monotonic_usec_now().ok());
        self.send(&states);
        let done = work();
        self.send(&[NotifyState::Ready]);
        done
    }

    /// Sends that the run is ending.
    pub fn stopping(&mut self) {
        let states = [NotifyState::Stopping, NotifyState::Status("stopping")];
        self.send(&states);
    }

    /// Sends states; `false` on failure. A failure does not end the run; the first one is logged.
    fn send(&mut self, states: &[NotifyState<'_>]) -> bool {
        let sent = (self.send_states)(states);
        match &sent {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!("cannot notify the service manager (NOTIFY_SOCKET): {error}");
            }
            Err(_) => {}
        }
        sent.is_ok()
    }
}

/// The socket of a service manager.
struct ManagerSocket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ManagerSocket {
    /// By the value of `NOTIFY_SOCKET` (sd_notify(3)): an absolute path, or `@NAME` in the abstract
    /// namespace.
    fn named(name: &OsStr) -> Result<ManagerSocket, String> {
        let failed = |e: io::Error| format!("NOTIFY_SOCKET '{}': {e}", name.display());
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name),
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => {
                return Err(format!(
                    "NOTIFY_SOCKET: expected '/PATH' or '@NAME', got '{}', which this program cannot send to",
                    name.display()
                ));
            }
        };
        let address = address.map_err(failed)?;
        let socket = UnixDatagram::unbound().map_err(failed)?;
        // a manager that does not read must not hold the control stage up
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(ManagerSocket { socket, address })
    }

    /// One datagram, a state a line.
    fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.socket
            .send_to_addr(text.as_bytes(), &self.address)
            .map(drop)
    }
}

/// The status text, such as `29.9 fps, p95 41 ms, 7.3 W, 12 frames lost`.
fn status(stats: &Snapshot, camera: CameraState) -> String {
    let mut parts = Vec::with_capacity(4);
    match camera {
        CameraState::Sending => parts.push(stats.fps.map_or_else(
            || "waiting for frames".to_owned(),
            |fps| format!("{fps:.1} fps"),
        )),
        CameraState::Retrying => parts.push("camera lost, trying again".to_owned()),
        CameraState::Overdue => parts.push("camera lost, and opening it hangs".to_owned()),
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

    const WATCHDOG: Duration = Duration::from_secs(10);

    struct Manager {
        socket: UnixDatagram,
        clock: Arc<SimClock>,
        metrics: Arc<Metrics>,
        health: Health,
        wake: Receiver<()>,
        notifier: Notifier,
    }

    /// A service manager's end of a datagram socket, and a notifier on the other.
    fn manager() -> Manager {
        let (ours, socket) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let clock = Arc::new(SimClock::default());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let metrics = Metrics::new(Arc::clone(&shared));
        let (health, wake) = Health::new();
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
            wake,
            notifier,
        }
    }

    impl Manager {
        /// The states that one tick sends, without the status.
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
        assert!(
            manager.wake.try_recv().is_ok(),
            "a loss is announced at once"
        );
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
    fn a_manager_is_found_by_its_path_and_by_its_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let text = |listener: &UnixDatagram| {
            let mut bytes = [0; 99];
            let len = listener.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        let manager = ManagerSocket::named(path.as_os_str()).unwrap();
        let states = [NotifyState::Ready, NotifyState::Status("5 fps")];
        manager.send(&states).unwrap();
        assert_eq!(text(&listener), "READY=1\nSTATUS=5 fps\n");

        let name = format!("vovcam-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let manager = ManagerSocket::named(OsStr::new(&format!("@{name}"))).unwrap();
        manager.send(&[NotifyState::Ready]).unwrap();
        assert_eq!(text(&listener), "READY=1\n");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let manager = ManagerSocket::named(path.as_os_str()).unwrap();
        let refused = std::iter::repeat_with(|| manager.send(&[NotifyState::Ready]));
        let refused = refused.take(100_000).find_map(Result::err).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn sockets_of_other_kinds_are_named() {
        for name in ["vsock:2:1234", "vsock-stream:2:1234", "notify", "./notify"] {
            let reason = ManagerSocket::named(OsStr::new(name)).err().unwrap();
            assert!(reason.contains(&format!("got '{name}'")), "{reason}");
        }
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

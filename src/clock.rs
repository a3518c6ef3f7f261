//! Time comes in through a seam: the real clock in the program, a simulated one in tests.

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nanoseconds on the monotonic clock since the clock was made; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonoTime {
    /// Nanoseconds.
    pub ns: u64,
}

impl MonoTime {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: MonoTime) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl std::ops::Add<Duration> for MonoTime {
    type Output = MonoTime;

    fn add(self, rhs: Duration) -> MonoTime {
        MonoTime {
            ns: self
                .ns
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}

/// Where the program reads the time, and how it waits.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Monotonic time.
    fn now(&self) -> MonoTime;
    /// Wall-clock time, UTC; may jump when the board gets its time from the network.
    fn wall(&self) -> Timestamp;
    /// Waits for `time` or until `stop` disconnects; whether it was the stop.
    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now, ready to be shared between stages.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock {
            start: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> MonoTime {
        MonoTime::default() + self.start.elapsed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool {
        stop.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

/// A clock that moves only when told to, for tests.
#[derive(Debug, Default)]
pub struct SimClock {
    now: Mutex<MonoTime>,
}

impl SimClock {
    /// Moves both the monotonic and the wall clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = *now + by;
    }
}

impl Clock for SimClock {
    fn now(&self) -> MonoTime {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_nanos(self.now().ns)
    }

    /// Takes no time; the clock moves instead.
    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool {
        let stopped = stop.try_recv() == Err(TryRecvError::Disconnected);
        if !stopped {
            self.advance(time);
        }
        stopped
    }
}

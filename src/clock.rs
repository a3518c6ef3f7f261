//! The clock as a trait: the system clock in the program, a simulated one in tests.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time on the monotonic clock since the [`Clock`] was created; never goes back.
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

/// Source of time, and waits.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Monotonic time.
    fn now(&self) -> MonoTime;
    /// Wall-clock time, UTC; may jump when the board receives its time from the network.
    fn wall(&self) -> Timestamp;
    /// A channel that receives a value every `interval`, the first after one interval. It holds one
    /// value; while it is full, further ticks are dropped.
    fn ticks(&self, interval: Duration) -> Receiver<Instant>;
    /// Waits for `time` or until `stop` disconnects; `true` if it disconnected.
    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool;
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock to share between stages; its monotonic time is zero now.
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

    fn ticks(&self, interval: Duration) -> Receiver<Instant> {
        crossbeam_channel::tick(interval)
    }

    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool {
        stop.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

/// A clock for tests: it moves only by [`SimClock::advance`] and [`Clock::wait`].
#[derive(Debug, Default)]
pub struct SimClock {
    state: Mutex<SimState>,
}

#[derive(Debug, Default)]
struct SimState {
    now: MonoTime,
    tickers: Vec<Ticker>,
}

#[derive(Debug)]
struct Ticker {
    interval: Duration,
    next: MonoTime,
    ticks: Sender<Instant>,
}

impl SimClock {
    /// Moves both the monotonic and the wall clock forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.now = state.now + by;
        let now = state.now;
        for ticker in &mut state.tickers {
            while ticker.next <= now {
                ticker.next = ticker.next + ticker.interval;
                let _ = ticker.ticks.try_send(Instant::now());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, SimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn now(&self) -> MonoTime {
        self.lock().now
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_nanos(self.now().ns)
    }

    fn ticks(&self, interval: Duration) -> Receiver<Instant> {
        let interval = interval.max(Duration::from_nanos(1));
        let (ticks, receiver) = bounded(1);
        let mut state = self.lock();
        let next = state.now + interval;
        state.tickers.push(Ticker {
            interval,
            next,
            ticks,
        });
        receiver
    }

    /// Returns at once and advances the clock by `time`.
    fn wait(&self, stop: &Receiver<()>, time: Duration) -> bool {
        let stopped = stop.try_recv() == Err(TryRecvError::Disconnected);
        if !stopped {
            self.advance(time);
        }
        stopped
    }
}

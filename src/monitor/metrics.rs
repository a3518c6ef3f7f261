//! Live metrics: frames per second and latency over a window, drops by stage, power.

use crate::clock::{Clock, MonoTime};
use crate::detection::StageTimes;
use crate::stats::{Counts, Drops, Energy, Heat, MeterInfo, Snapshot, Totals};
use crate::units::{Joules, Watts};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Window of frames per second and latency.
const WINDOW: Duration = Duration::from_secs(5);
/// Maximum frames in the window: 5 s at 800 frames per second.
const WINDOW_FRAMES: usize = 4096;

/// Metrics shared between the stages. Calls hold the lock only briefly.
#[derive(Debug)]
pub struct Metrics {
    clock: Arc<dyn Clock>,
    state: Mutex<MetricsState>,
    driver: AtomicU64,
    replaced: AtomicU64,
    damaged: AtomicU64,
    sinks: Mutex<Vec<(&'static str, LossCounter)>>,
}

/// Number of messages that one sink lost; clones share it.
#[derive(Clone, Debug, Default)]
pub struct LossCounter(Arc<AtomicU64>);

impl LossCounter {
    /// Adds further losses.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Losses since the start.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Name of the sink whose losses count as log lines.
const LOG: &str = "log";

#[derive(Debug, Default)]
struct MetricsState {
    /// The frames of the window.
    window: VecDeque<FinishedFrame>,
    /// Buffer for sorting the ages.
    ages: Vec<Duration>,
    totals: Totals,
    first: Option<MonoTime>,
    power: Option<Energy>,
    heat: Heat,
    counts: Option<Arc<Counts>>,
}

/// A frame that has its detections.
#[derive(Clone, Copy, Debug)]
struct FinishedFrame {
    at: MonoTime,
    age: Duration,
}

impl Metrics {
    /// Metrics on this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Metrics> {
        Arc::new(Metrics {
            clock,
            state: Mutex::new(MetricsState {
                window: VecDeque::with_capacity(WINDOW_FRAMES),
                ages: Vec::with_capacity(WINDOW_FRAMES),
                ..MetricsState::default()
            }),
            driver: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            sinks: Mutex::new(Vec::new()),
        })
    }

    /// Records a frame whose detections were ready at `now`.
    pub fn record(&self, now: MonoTime, times: &StageTimes, detections: usize) {
        let mut state = self.lock();
        if state.window.len() == WINDOW_FRAMES {
            state.window.pop_front();
        }
        let age = times.age;
        state.window.push_back(FinishedFrame { at: now, age });
        let began = MonoTime {
            ns: now.ns.saturating_sub(times.age.as_nanos() as u64),
        };
        let first = *state.first.get_or_insert(began);
        let totals = &mut state.totals;
        totals.frames += 1;
        totals.detections += detections as u64;
        totals.elapsed = now.since(first);
        totals.spent.decode += times.decode;
        totals.spent.preprocess += times.preprocess;
        totals.spent.inference += times.inference;
        totals.spent.postprocess += times.postprocess;
        totals.spent.age += times.age;
    }

    /// Adds frames that the driver dropped.
    pub fn add_driver_drops(&self, count: u64) {
        self.driver.fetch_add(count, Relaxed);
    }

    /// Adds frames that were replaced by a newer one.
    pub fn add_replaced(&self, count: u64) {
        self.replaced.fetch_add(count, Relaxed);
    }

    /// Adds damaged frames.
    pub fn add_damaged(&self, count: u64) {
        self.damaged.fetch_add(count, Relaxed);
    }

    /// The counter of messages that the sink `name` lost.
    pub fn losses_of(&self, name: &'static str) -> LossCounter {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, losses)) = sinks.iter().find(|(known, _)| *known == name) {
            return losses.clone();
        }
        let losses = LossCounter::default();
        sinks.push((name, losses.clone()));
        losses
    }

    /// Adds energy spent.
    pub fn add_energy(&self, spent: Joules) {
        let total = &mut self.lock().totals.energy;
        *total = Some(Joules(total.map_or(0.0, |joules| joules.0) + spent.0));
    }

    /// Sets the mean power over the meter's window.
    pub fn set_power(&self, average: Watts, window: Duration, info: &MeterInfo) {
        self.lock().power = Some(Energy {
            average,
            per_frame: None,
            window,
            scope: info.scope.clone(),
            source: info.source.to_owned(),
        });
    }

    /// Clears the power after a meter failure.
    pub fn clear_power(&self) {
        self.lock().power = None;
    }

    /// Sets temperature and throttling counter.
    pub fn set_heat(&self, heat: Heat) {
        self.lock().heat = heat;
    }

    /// Sets what zones and lines have counted.
    pub fn set_counts(&self, counts: &Arc<Counts>) {
        let known = &mut self.lock().counts;
        if !known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, counts))
        {
            *known = Some(Arc::clone(counts));
        }
    }

    /// Number of frames so far that did not reach the detector.
    pub fn dropped_frames(&self) -> u64 {
        let drops = self.drops();
        drops.driver + drops.replaced + drops.damaged
    }

    /// The current metrics.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        let mut state = self.lock();
        while state
            .window
            .front()
            .is_some_and(|frame| now.since(frame.at) > WINDOW)
        {
            state.window.pop_front();
        }
        let fps = rate(&state.window);
        let MetricsState { window, ages, .. } = &mut *state;
        ages.clear();
        ages.extend(window.iter().map(|frame| frame.age));
        ages.sort_unstable();
        let energy = state.power.clone().map(|energy| Energy {
            per_frame: fps.map(|fps| Joules(energy.average.0 / fps)),
            ..energy
        });
        Snapshot {
            fps,
            latency_p50: quantile(&state.ages, 0.50),
            latency_p95: quantile(&state.ages, 0.95),
            latency_p99: quantile(&state.ages, 0.99),
            frames: state.totals.frames,
            drops: self.drops(),
            energy,
            spent: state.totals.energy,
            temperature: state.heat.hottest,
            throttled: state.heat.throttled,
            counts: state.counts.clone(),
        }
    }

    /// Totals of the run so far.
    pub fn totals(&self) -> Totals {
        let last = self.snapshot();
        Totals {
            drops: self.drops(),
            last,
            ..self.lock().totals.clone()
        }
    }

    fn drops(&self) -> Drops {
        Drops {
            driver: self.driver.load(Relaxed),
            replaced: self.replaced.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
            log: self.lost(|name| name == LOG),
            outputs: self.lost(|name| name != LOG),
        }
    }

    fn lost(&self, of: impl Fn(&str) -> bool) -> u64 {
        let sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = sinks.iter().filter(|(name, _)| of(name));
        chosen.map(|(_, losses)| losses.get()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, MetricsState> {
        // the metrics stay usable if a stage panicked
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frames per second between the first and the last frame of the window.
fn rate(window: &VecDeque<FinishedFrame>) -> Option<f64> {
    let (first, last) = (window.front()?.at, window.back()?.at);
    let seconds = last.since(first).as_secs_f64();
    (seconds > 0.0).then(|| (window.len() - 1) as f64 / seconds)
}

/// Nearest-rank quantile of sorted values.
fn quantile(sorted: &[Duration], q: f64) -> Option<Duration> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    #[test]
    fn fps_and_latency_are_those_of_the_last_seconds() {
        let clock = Arc::new(SimClock::default());
        let metrics = Metrics::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(metrics.snapshot(), Snapshot::default());
        for frame in 1..=200u64 {
            clock.advance(Duration::from_millis(if frame <= 100 { 200 } else { 50 }));
            let age = Duration::from_millis(frame);
            metrics.record(
                clock.now(),
                &StageTimes {
                    age,
                    ..StageTimes::default()
                },
                2,
            );
        }
        let snapshot = metrics.snapshot();
        assert!((snapshot.fps.unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(snapshot.latency_p95, Some(Duration::from_millis(195)));
        let totals = metrics.totals();
        assert_eq!((totals.frames, totals.detections), (200, 400));
        clock.advance(Duration::from_secs(60));
        assert_eq!(
            metrics.snapshot().fps,
            None,
            "a stall is not shown as speed"
        );
    }

    #[test]
    fn joules_a_frame_are_mean_power_by_fps() {
        let clock = Arc::new(SimClock::default());
        let metrics = Metrics::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let info = MeterInfo {
            source: "test",
            scope: "board".to_owned(),
        };
        metrics.set_power(Watts(10.0), Duration::from_secs(5), &info);
        assert_eq!(metrics.snapshot().energy.unwrap().per_frame, None);
        for _ in 0..10 {
            clock.advance(Duration::from_millis(250));
            metrics.record(clock.now(), &StageTimes::default(), 0);
        }
        let energy = metrics.snapshot().energy.unwrap();
        assert!((energy.per_frame.unwrap().0 - 2.5).abs() < 1e-9);
    }
}

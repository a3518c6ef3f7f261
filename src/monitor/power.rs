//! Watts and joules: where they come from, and their mean over a window.
//!
//! A board has at most one meter here, the first that works of: the INA3221 or INA238 of a
//! Jetson; on a PC NVML for the NVIDIA card if the network runs on it, else RAPL for the processor.
//! They measure different things (module, card, package), so their values are never added; the
//! scope is logged with them.
//! Meters average over up to half a second themselves: a reading per frame would be false
//! precision, so power is integrated over at least [`WINDOW`].

pub mod heat;
pub mod ina;
#[cfg(target_os = "linux")]
pub mod nvml;
pub mod rapl;

use crate::board::GpuPlace;
use crate::clock::{Clock, MonoTime};
use crate::event::{Event, EventKind};
use crate::monitor::metrics::Metrics;
use crate::stats::MeterInfo;
use crate::units::{Joules, Watts};
use crossbeam_channel::{Receiver, select};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Mean power is that of at least this long.
pub const WINDOW: Duration = Duration::from_secs(5);
/// The INA3221 averages over 430 ms on Xavier and Orin: asking more often tells nothing new.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// What a meter says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// Power of the moment.
    Power(Watts),
    /// Energy since the previous reading.
    Energy(Joules),
}

/// Why a meter cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// A file of /sys.
    #[error("cannot read the power sensor '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value that is no number.
    #[error("power sensor '{}': expected a number, got '{got}'", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is in it.
        got: String,
    },
    /// A defect of the meter's driver or of this program.
    #[error("reading the power meter panicked; power is unknown until it can be read again")]
    Panicked,
    /// NVML.
    #[error("the NVIDIA driver does not report power: {0}")]
    Driver(String),
}

/// A source of watts or joules.
pub trait PowerMeter: Send {
    /// What is measured, by whom.
    fn info(&self) -> MeterInfo;

    /// Power now, or energy since the last call (none at the first).
    ///
    /// # Errors
    /// When the sensor does not answer.
    fn read(&mut self) -> Result<Reading, PowerError>;
}

/// The first meter that works under the file-system root `root` for a network that runs on `gpu`,
/// or on no GPU; every failure on the way goes to `reasons`, for `doctor`.
pub fn find(
    root: &Path,
    gpu: Option<&GpuPlace>,
    reasons: &mut Vec<String>,
) -> Option<Box<dyn PowerMeter>> {
    let mut take = |found: Result<Option<Box<dyn PowerMeter>>, PowerError>| {
        found.unwrap_or_else(|error| {
            reasons.push(describe(&error));
            None
        })
    };
    if let Some(meter) = take(ina::find(root)) {
        return Some(meter);
    }
    #[cfg(target_os = "linux")]
    if let Some(gpu) = gpu
        && root == Path::new("/")
        && let Some(meter) = take(nvml::find(gpu))
    {
        return Some(meter);
    }
    take(rapl::find(root))
}

fn describe(error: &PowerError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let fix = match error {
        PowerError::Read { path, source } if source.kind() == ErrorKind::PermissionDenied => {
            format!(
                "; to let users read it: 'sudo chmod a+r {}' until the next boot, or a udev rule",
                path.display()
            )
        }
        _ => String::new(),
    };
    format!("{error}{}{fix}", cause.unwrap_or_default())
}

/// Reads the meter twice a second and keeps the mean of the window up to date in [`Metrics`].
pub struct Sampler {
    meter: Option<Box<dyn PowerMeter>>,
    root: PathBuf,
    clock: Arc<dyn Clock>,
    last: Option<MonoTime>,
    /// Energy and length of each interval of the window.
    window: VecDeque<(Joules, Duration)>,
    throttled_before: Option<u64>,
    failing: bool,
}

impl Sampler {
    /// Samples `meter`, and heat under the file-system root `root`.
    pub fn new(meter: Option<Box<dyn PowerMeter>>, root: &Path, clock: Arc<dyn Clock>) -> Sampler {
        Sampler {
            meter,
            root: root.to_owned(),
            clock,
            last: None,
            window: VecDeque::with_capacity(32),
            throttled_before: None,
            failing: false,
        }
    }

    /// What is measured, where anything is.
    pub fn info(&self) -> Option<MeterInfo> {
        self.meter.as_ref().map(|meter| meter.info())
    }

    /// Samples until `stop` disconnects. A meter that fails, and be it by a panic, does not end the
    /// run: its figures become unknown, `emit` receives an event, and it is tried again.
    pub fn run(&mut self, stop: &Receiver<()>, metrics: &Metrics, emit: impl Fn(Event)) {
        let ticks = self.clock.ticks(SAMPLE_INTERVAL);
        loop {
            let before = self.failing;
            self.step(metrics);
            match (before, self.failing) {
                (false, true) => emit(Event::new(EventKind::MeterLost)),
                (true, false) => emit(Event::new(EventKind::MeterFound)),
                _ => {}
            }
            select! {
                recv(stop) -> _ => return self.step(metrics),
                recv(ticks) -> _ => {}
            }
        }
    }

    /// One sample: power integrated over the real time since the last one.
    pub fn step(&mut self, metrics: &Metrics) {
        let mut heat = heat::read(&self.root);
        let before = *self.throttled_before.get_or_insert(heat.throttled);
        heat.throttled = heat.throttled.saturating_sub(before);
        metrics.set_heat(heat);
        let Some(meter) = &mut self.meter else { return };
        let reading = catch_unwind(AssertUnwindSafe(|| meter.read()))
            .unwrap_or_else(|_| Err(PowerError::Panicked));
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("{}", describe(&error));
                }
                metrics.clear_power();
                return;
            }
        };
        if std::mem::take(&mut self.failing) && matches!(reading, Reading::Power(_)) {
            // nobody knows the power meanwhile; a counter of energy went on
            self.last = None;
            self.window.clear();
        }
        let now = self.clock.now();
        let Some(elapsed) = self.last.replace(now).map(|last| now.since(last)) else {
            return; // the first reading only starts the interval
        };
        let spent = match reading {
            Reading::Power(watts) => watts.over(elapsed),
            Reading::Energy(joules) => joules,
        };
        metrics.add_energy(spent);
        self.window.push_back((spent, elapsed));
        let length = |window: &VecDeque<(Joules, Duration)>| {
            window.iter().map(|&(_, time)| time).sum::<Duration>()
        };
        while self.window.len() > 1 && length(&self.window) - self.window[0].1 >= WINDOW {
            self.window.pop_front();
        }
        let (total, time) = (
            self.window.iter().map(|(joules, _)| joules.0).sum(),
            length(&self.window),
        );
        if time >= WINDOW
            && let Some(average) = Joules(total).per(time)
        {
            metrics.set_power(average, time, &meter.info());
        }
    }
}

/// A file's text without the newline or NUL at its end.
fn text(path: &Path) -> Result<String, PowerError> {
    let text = std::fs::read_to_string(path).map_err(|source| PowerError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// A file's number.
fn number(path: &Path) -> Result<f64, PowerError> {
    let text = text(path)?;
    text.trim().parse().map_err(|_| PowerError::Value {
        path: path.to_owned(),
        got: text,
    })
}

/// Entries of a folder in name order; none where it does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    /// Readings in order; `None` is a failure.
    struct Fixed(VecDeque<Option<Reading>>);

    impl PowerMeter for Fixed {
        fn info(&self) -> MeterInfo {
            MeterInfo {
                source: "test",
                scope: "board".to_owned(),
            }
        }

        fn read(&mut self) -> Result<Reading, PowerError> {
            let reading = self.0.pop_front().unwrap();
            reading.ok_or_else(|| PowerError::Driver("gone".to_owned()))
        }
    }

    /// What is known after each of these readings, which are `seconds` apart.
    fn sampled(readings: &[Option<Reading>], seconds: u64) -> Vec<(Option<f64>, Option<f64>)> {
        let clock = Arc::new(SimClock::default());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let metrics = Metrics::new(Arc::clone(&shared));
        let meter = Fixed(readings.iter().copied().collect());
        let mut sampler = Sampler::new(Some(Box::new(meter)), Path::new("/nonexistent"), shared);
        readings
            .iter()
            .map(|_| {
                sampler.step(&metrics);
                clock.advance(Duration::from_secs(seconds));
                let average = metrics.snapshot().energy.map(|energy| energy.average.0);
                (average, metrics.totals().energy.map(|joules| joules.0))
            })
            .collect()
    }

    #[test]
    fn only_a_sensor_that_is_forbidden_wants_other_rights() {
        let said = |kind: ErrorKind| {
            describe(&PowerError::Read {
                path: "sensor".into(),
                source: kind.into(),
            })
        };
        assert!(said(ErrorKind::PermissionDenied).contains("'sudo chmod a+r sensor'"));
        assert!(!said(ErrorKind::NotFound).contains("chmod"));
    }

    #[test]
    fn power_is_integrated_over_the_real_time_and_shown_once_a_window_has_passed() {
        let readings = [0.0, 10.0, 40.0, 40.0].map(|watts| Some(Reading::Power(Watts(watts))));
        let expected = [
            (None, None), // one reading is no interval
            (None, Some(20.0)),
            (None, Some(100.0)),
            (Some(30.0), Some(180.0)),
        ];
        assert_eq!(sampled(&readings, 2), expected);
    }

    #[test]
    fn a_time_without_readings_costs_nothing_unless_a_counter_tells() {
        let watts = Some(Reading::Power(Watts(10.0)));
        let expected = [None, Some(50.0), Some(50.0), Some(50.0), Some(100.0)];
        let known = sampled(&[watts, watts, None, watts, watts], 5);
        assert_eq!(known.iter().map(|k| k.1).collect::<Vec<_>>(), expected);
        // nor is the last power that was known taken for the power of now
        let shown = [None, Some(10.0), None, None, Some(10.0)];
        assert_eq!(known.iter().map(|k| k.0).collect::<Vec<_>>(), shown);

        let joules = |joules| Some(Reading::Energy(Joules(joules)));
        let known = sampled(&[joules(0.0), joules(50.0), None, joules(100.0)], 5);
        assert_eq!(known[3], (Some(10.0), Some(150.0)));
    }
}

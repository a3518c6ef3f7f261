//! Power measurement: power meters, and mean power over a window.
//!
//! At most one meter is used, the first that works of: the INA3221 or INA238 of a Jetson; on a PC,
//! NVML for the NVIDIA card if the network runs on it, else RAPL for the processor. They measure
//! different parts (module, card, package), so their values are never added; the scope is logged.
//! Meters average over up to half a second themselves, so a value per frame would have false
//! precision: power is integrated over at least [`WINDOW`].

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
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Minimum window of the mean power.
pub const WINDOW: Duration = Duration::from_secs(5);
/// The INA3221 averages over 430 ms on Xavier and Orin; faster sampling gives no new values.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// One reading of a meter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// Momentary power.
    Power(Watts),
    /// Energy since the previous reading.
    Energy(Joules),
}

/// A meter that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// A sysfs file cannot be read.
    #[error("cannot read the power sensor '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A sysfs file does not contain a number.
    #[error("power sensor '{}': expected a number, got '{got}'", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Its contents.
        got: String,
    },
    /// A defect of the meter's driver or of this program.
    #[error("reading the power meter panicked; power is unknown until it can be read again")]
    Panicked,
    /// The NVIDIA driver (NVML) reports an error.
    #[error("the NVIDIA driver does not report power: {0}")]
    Driver(String),
}

/// A power or energy meter.
pub trait PowerMeter: Send {
    /// The meter and what it measures.
    fn info(&self) -> MeterInfo;

    /// Momentary power, or the energy since the last call (0 at the first call).
    ///
    /// # Errors
    /// If the sensor cannot be read.
    fn read(&mut self) -> Result<Reading, PowerError>;
}

/// The first working meter below the file-system root `root`, for a network that runs on `gpu`, or
/// on the CPU. Meters that exist but cannot be read are added to `failures`, for `doctor`.
pub fn find(
    root: &Path,
    gpu: Option<&GpuPlace>,
    failures: &mut Vec<String>,
) -> Option<Box<dyn PowerMeter>> {
    let mut take = |found: Result<Option<Box<dyn PowerMeter>>, PowerError>| {
        found.unwrap_or_else(|error| {
            failures.push(describe(&error));
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

/// Reads the meter twice per second and updates the mean power in [`Metrics`].
pub struct Sampler {
    meter: Option<Box<dyn PowerMeter>>,
    root: PathBuf,
    clock: Arc<dyn Clock>,
    last: Option<MonoTime>,
    /// The intervals of the window.
    window: VecDeque<Interval>,
    throttled_before: Option<u64>,
    failure: Option<String>,
}

/// Energy spent between two readings.
#[derive(Clone, Copy)]
struct Interval {
    energy: Joules,
    length: Duration,
}

impl Sampler {
    /// Samples `meter`, and temperatures below the file-system root `root`.
    pub fn new(meter: Option<Box<dyn PowerMeter>>, root: &Path, clock: Arc<dyn Clock>) -> Sampler {
        Sampler {
            meter,
            root: root.to_owned(),
            clock,
            last: None,
            window: VecDeque::with_capacity(32),
            throttled_before: None,
            failure: None,
        }
    }

    /// The meter, if there is one.
    pub fn info(&self) -> Option<MeterInfo> {
        self.meter.as_ref().map(|meter| meter.info())
    }

    /// Samples until `stop` disconnects. A meter that fails or panics does not end the run: the
    /// power becomes unknown, `emit` receives an event, and the meter is read again at the next tick.
    pub fn run(&mut self, stop: &Receiver<()>, metrics: &Metrics, emit: impl Fn(Event)) {
        let ticks = self.clock.ticks(SAMPLE_INTERVAL);
        let mut stopped = false;
        loop {
            let before = self.failure.is_some();
            // all of a sample, so that no sensor's driver can end the run
            if catch_unwind(AssertUnwindSafe(|| self.step(metrics))).is_err() {
                self.fail(&PowerError::Panicked, metrics);
            }
            match (before, &self.failure) {
                (false, Some(reason)) => {
                    emit(Event::new(EventKind::MeterLost).message(reason.as_str()));
                }
                (true, None) => emit(Event::new(EventKind::MeterFound)),
                _ => {}
            }
            if stopped {
                return; // after a last sample, which completes the energy of the run
            }
            select! {
                recv(stop) -> _ => stopped = true,
                recv(ticks) -> _ => {}
            }
        }
    }

    /// Takes one sample: power integrated over the time since the last sample.
    pub fn step(&mut self, metrics: &Metrics) {
        let mut heat = heat::read(&self.root);
        let before = *self.throttled_before.get_or_insert(heat.throttled);
        heat.throttled = heat.throttled.saturating_sub(before);
        metrics.set_heat(heat);
        let Some(meter) = &mut self.meter else { return };
        let reading = match meter.read() {
            Ok(reading) => reading,
            Err(error) => return self.fail(&error, metrics),
        };
        if self.failure.take().is_some() && matches!(reading, Reading::Power(_)) {
            // the power during the gap is unknown; an energy counter kept counting
            self.last = None;
            self.window.clear();
        }
        let now = self.clock.now();
        let Some(elapsed) = self.last.replace(now).map(|last| now.since(last)) else {
            return; // the first reading only begins an interval
        };
        let spent = match reading {
            Reading::Power(watts) => watts.over(elapsed),
            Reading::Energy(joules) => joules,
        };
        metrics.add_energy(spent);
        self.window.push_back(Interval {
            energy: spent,
            length: elapsed,
        });
        let length = |window: &VecDeque<Interval>| {
            window
                .iter()
                .map(|interval| interval.length)
                .sum::<Duration>()
        };
        while self.window.len() > 1 && length(&self.window) - self.window[0].length >= WINDOW {
            self.window.pop_front();
        }
        let (total, time) = (
            self.window.iter().map(|interval| interval.energy.0).sum(),
            length(&self.window),
        );
        if time >= WINDOW
            && let Some(average) = Joules(total).per(time)
        {
            metrics.set_power(average, time, &meter.info());
        }
    }
}

impl Sampler {
    /// From here on the power is unknown; the reason is logged once.
    fn fail(&mut self, error: &PowerError, metrics: &Metrics) {
        metrics.clear_power();
        if self.failure.is_none() {
            let reason = describe(error);
            tracing::warn!("{reason}");
            self.failure = Some(reason);
        }
    }
}

/// Contents of a sysfs file without the newline or NUL at its end.
fn read_text(path: &Path) -> Result<String, PowerError> {
    let read = || {
        // what is no file of sysfs, such as a named pipe, must not hold the power stage up
        let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let mut file = File::options()
            .read(true)
            .custom_flags(nonblock)
            .open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map(|_| text)
    };
    let text = read().map_err(|source| PowerError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// The number in a sysfs file.
fn read_number(path: &Path) -> Result<f64, PowerError> {
    let text = read_text(path)?;
    text.trim().parse().map_err(|_| PowerError::Value {
        path: path.to_owned(),
        got: text,
    })
}

/// Entries of a folder in name order; none if it does not exist.
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

    /// Mean power and total energy after each of these readings, which are `seconds` apart.
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
    fn a_sensor_that_is_a_pipe_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power1_input");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read_number(&path), Err(PowerError::Value { .. })));
        // a writer that says nothing
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        assert!(matches!(read_number(&path), Err(PowerError::Read { .. })));
    }

    #[test]
    fn power_is_integrated_over_the_real_time_and_shown_once_a_window_has_passed() {
        let readings = [0.0, 10.0, 40.0, 40.0].map(|watts| Some(Reading::Power(Watts(watts))));
        let expected = [
            (None, None), // one reading makes no interval
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
        // the last known power is not reported as the current one
        let shown = [None, Some(10.0), None, None, Some(10.0)];
        assert_eq!(known.iter().map(|k| k.0).collect::<Vec<_>>(), shown);

        let joules = |joules| Some(Reading::Energy(Joules(joules)));
        let known = sampled(&[joules(0.0), joules(50.0), None, joules(100.0)], 5);
        assert_eq!(known[3], (Some(10.0), Some(150.0)));
    }
}

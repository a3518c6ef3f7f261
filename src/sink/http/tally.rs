//! Counts of a run for `/metrics`, and their text in the Prometheus exposition format 0.0.4.
//!
//! Names follow Prometheus's conventions: base units, `_total` for what only grows. What this
//! machine cannot measure has no metric: 0 would be a value.

use crate::detection::StageTimes;
use crate::event::EventKind;
use crate::message::{Report, RunInfo};
use crate::monitor::notify::CameraState;
use crate::monitor::vitals::Signs;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::fmt::{Display, Write as _};
use std::time::Duration;

/// Upper bounds of the histograms' buckets in seconds.
const BOUNDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
/// The stages whose time is told.
const STAGES: [&str; 4] = ["decode", "preprocess", "inference", "postprocess"];

/// Counts of times, by bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    /// By bound; those beyond the last are in the total alone.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|&bound| seconds <= bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += time;
    }
}

/// What the run's messages add up to.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Detections by class id.
    detections: Vec<u64>,
    age: Histogram,
    stages: [Histogram; STAGES.len()],
    camera_lost: u64,
    last_reload_succeeded: bool,
}

impl Tally {
    /// Of a run with this number of classes.
    pub(super) fn new(classes: usize) -> Tally {
        Tally {
            detections: vec![0; classes],
            age: Histogram::default(),
            stages: Default::default(),
            camera_lost: 0,
            last_reload_succeeded: true,
        }
    }

    /// Adds a frame.
    pub(super) fn frame(&mut self, report: &Report) {
        for detection in &report.detections {
            if let Some(count) = self.detections.get_mut(detection.class_id) {
                *count += 1;
            }
        }
        let StageTimes {
            decode,
            preprocess,
            inference,
            postprocess,
            age,
        } = report.times;
        self.age.add(age);
        let times = [decode, preprocess, inference, postprocess];
        for (stage, time) in self.stages.iter_mut().zip(times) {
            stage.add(time);
        }
    }

    /// Adds an event.
    pub(super) fn event(&mut self, kind: EventKind) {
        match kind {
            EventKind::CameraLost => self.camera_lost += 1,
            EventKind::ConfigReloaded => self.last_reload_succeeded = true,
            EventKind::ConfigRejected => self.last_reload_succeeded = false,
            _ => {}
        }
    }

    /// All metrics.
    pub(super) fn exposition(
        &self,
        run: &RunInfo,
        newest: Option<&Report>,
        signs: &Signs,
        ready: bool,
    ) -> String {
        let mut text = Exposition::default();
        let stats = &signs.stats;
        text.family(
            "vovcam_build_info",
            "gauge",
            "The program and what it runs.",
        );
        let version = env!("CARGO_PKG_VERSION");
        let (model, engine) = (run.model.name.as_str(), run.engine.as_str());
        let build = [("version", version), ("model", model), ("engine", engine)];
        text.sample(&build, 1);
        text.one(
            "vovcam_start_timestamp_seconds",
            "gauge",
            "Start of the run, Unix time.",
            unix_seconds(run.started),
        );
        text.one(
            "vovcam_ready",
            "gauge",
            "Whether the first detection was made, or the camera is known to be lost.",
            u8::from(ready),
        );
        text.one(
            "vovcam_frames_total",
            "counter",
            "Frames through the detector.",
            stats.frames,
        );
        text.family(
            "vovcam_frames_dropped_total",
            "counter",
            "Frames lost before the detector.",
        );
        for (stage, count) in [
            ("driver", stats.drops.driver),
            ("replaced", stats.drops.replaced),
            ("damaged", stats.drops.damaged),
        ] {
            text.sample(&[("stage", stage)], count);
        }
        text.one(
            "vovcam_log_lines_lost_total",
            "counter",
            "Log lines lost to a full queue or disk.",
            stats.drops.log,
        );
        text.one(
            "vovcam_output_messages_lost_total",
            "counter",
            "Messages that outputs other than the log had no room for.",
            stats.drops.outputs,
        );
        self.objects(&mut text, run, newest);
        self.times(&mut text);
        if let Some(newest) = newest {
            text.one(
                "vovcam_last_frame_timestamp_seconds",
                "gauge",
                "Capture of the newest frame with detections, Unix time.",
                unix_seconds(newest.frame.wall),
            );
        }
        text.one(
            "vovcam_camera_up",
            "gauge",
            "Whether the camera is not known to be lost.",
            u8::from(signs.camera == CameraState::Sending),
        );
        text.one(
            "vovcam_camera_lost_total",
            "counter",
            "How often the camera was lost.",
            self.camera_lost,
        );
        if let (Some(meter), Some(spent)) = (&run.meter, stats.spent) {
            text.family(
                "vovcam_energy_joules_total",
                "counter",
                "Energy of the measured part since the start; its rate is the mean power in watts.",
            );
            let of = [("source", meter.source), ("scope", meter.scope.as_str())];
            text.sample(&of, spent.0);
        }
        if let Some(temperature) = stats.temperature {
            text.one(
                "vovcam_temperature_celsius",
                "gauge",
                "Temperature of the hottest zone.",
                temperature.0,
            );
        }
        // a board without a counter reads as 0
        if stats.throttled > 0 {
            text.family(
                "vovcam_throttle_events_total",
                "counter",
                "Throttling events of the board.",
            );
            text.sample(&[("kind", "over_current")], stats.throttled);
        }
        text.one(
            "vovcam_config_last_reload_successful",
            "gauge",
            "Whether the settings that were read last were right.",
            u8::from(self.last_reload_succeeded),
        );
        process(&mut text);
        text.0
    }

    fn objects(&self, text: &mut Exposition, run: &RunInfo, newest: Option<&Report>) {
        let names = run.labels.names();
        text.family("vovcam_detections_total", "counter", "Detections by class.");
        for (name, count) in names.iter().zip(&self.detections) {
            text.sample(&[("class", name.as_str())], count);
        }
        let Some(newest) = newest else { return };
        text.family(
            "vovcam_objects",
            "gauge",
            "Objects in the newest frame by class.",
        );
        for (id, name) in names.iter().enumerate() {
            let of_class = newest.detections.iter().filter(|d| d.class_id == id);
            text.sample(&[("class", name.as_str())], of_class.count());
        }
    }

    fn times(&self, text: &mut Exposition) {
        text.family(
            "vovcam_frame_age_seconds",
            "histogram",
            "Time from capture to detections.",
        );
        text.histogram(&[], &self.age);
        text.family(
            "vovcam_stage_duration_seconds",
            "histogram",
            "Time that a frame spent in a stage.",
        );
        for (stage, histogram) in STAGES.iter().zip(&self.stages) {
            text.histogram(&[("stage", *stage)], histogram);
        }
    }
}

/// The figures of the process that all programs have, as far as the system tells them.
fn process(text: &mut Exposition) {
    if let Ok(time) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
        text.one(
            "process_cpu_seconds_total",
            "counter",
            "Processor time of all threads.",
            Duration::from(time).as_secs_f64(),
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        text.one(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            1024 * kib,
        );
    }
    if let Some(threads) = field("Threads:") {
        text.one("process_threads", "gauge", "Threads.", threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // the listing itself is one of them
        let count = open.count().saturating_sub(1);
        text.one("process_open_fds", "gauge", "Open files.", count);
    }
}

fn unix_seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

/// Text in the exposition format; the samples belong to the family begun last.
#[derive(Default)]
struct Exposition(String, &'static str);

impl Exposition {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // a String takes all
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn one(&mut self, name: &'static str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
            below += count;
            let bound = bound.to_string();
            self.suffixed(
                "_bucket",
                &[labels, &[("le", bound.as_str())]].concat(),
                below,
            );
        }
        let all = [labels, &[("le", "+Inf")]].concat();
        self.suffixed("_bucket", &all, histogram.count);
        self.suffixed("_sum", labels, histogram.sum.as_secs_f64());
        self.suffixed("_count", labels, histogram.count);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let Exposition(text, name) = self;
        let _ = write!(text, "{name}{suffix}");
        for (index, (key, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(text, "{before}{key}=\"{}\"", escaped(value));
        }
        let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::{Detection, Labels};
    use crate::geometry::{BBox, Size};
    use crate::sink::testing::frame_message;
    use crate::stats::{MeterInfo, Snapshot};
    use crate::units::{Celsius, Joules};

    fn signs(stats: Snapshot) -> Signs {
        Signs {
            stats,
            camera: CameraState::Sending,
            alive: true,
        }
    }

    fn run() -> RunInfo {
        let names = ["person", "a \"b\"\\\nc"].map(str::to_owned);
        RunInfo::of_labels("front", Labels::new(&names))
    }

    #[test]
    fn without_meter_and_sensor_there_is_no_metric_of_them() {
        let text = Tally::new(2).exposition(&run(), None, &signs(Snapshot::default()), false);
        for absent in [
            "joules",
            "celsius",
            "throttle",
            "vovcam_objects",
            "last_frame",
        ] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        assert!(text.contains("\nvovcam_camera_up 1\n"));
        assert!(text.contains("\nvovcam_detections_total{class=\"a \\\"b\\\"\\\\\\nc\"} 0\n"));
    }

    #[test]
    fn frames_add_up_by_class_bucket_and_stage() {
        let mut report = (*frame_message(7).report).clone();
        let size = Size::new(8, 8);
        report.detections = vec![
            Detection {
                class_id: 0,
                score: 0.5,
                bbox: BBox::clamped(0.0, 0.0, 4.0, 4.0, size),
                track_id: None,
            };
            3
        ];
        report.times.age = Duration::from_millis(30);
        report.times.inference = Duration::from_millis(20);
        let mut tally = Tally::new(2);
        tally.frame(&report);
        report.times.age = Duration::from_secs(9);
        tally.frame(&report);
        tally.event(EventKind::CameraLost);
        tally.event(EventKind::ConfigRejected);
        let mut run = run();
        run.meter = Some(MeterInfo {
            source: "ina3221",
            scope: "VDD_IN".to_owned(),
        });
        let stats = Snapshot {
            frames: 2,
            spent: Some(Joules(12.5)),
            temperature: Some(Celsius(51.2)),
            throttled: 1,
            ..Snapshot::default()
        };
        let text = tally.exposition(&run, Some(&report), &signs(stats), true);
        for line in [
            "vovcam_frames_total 2",
            "vovcam_detections_total{class=\"person\"} 6",
            "vovcam_objects{class=\"person\"} 3",
            "vovcam_frame_age_seconds_bucket{le=\"0.02\"} 0",
            "vovcam_frame_age_seconds_bucket{le=\"0.05\"} 1",
            "vovcam_frame_age_seconds_bucket{le=\"5\"} 1",
            "vovcam_frame_age_seconds_bucket{le=\"+Inf\"} 2",
            "vovcam_frame_age_seconds_sum 9.03",
            "vovcam_stage_duration_seconds_bucket{stage=\"inference\",le=\"0.02\"} 2",
            "vovcam_stage_duration_seconds_count{stage=\"inference\"} 2",
            "vovcam_energy_joules_total{source=\"ina3221\",scope=\"VDD_IN\"} 12.5",
            "vovcam_temperature_celsius 51.2",
            "vovcam_throttle_events_total{kind=\"over_current\"} 1",
            "vovcam_camera_lost_total 1",
            "vovcam_config_last_reload_successful 0",
            "vovcam_last_frame_timestamp_seconds 0",
            "vovcam_ready 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}:\n{text}");
        }
        let cpu = text
            .lines()
            .find(|l| l.starts_with("process_cpu_seconds_total "));
        assert!(
            cpu.unwrap()
                .split_once(' ')
                .unwrap()
                .1
                .parse::<f64>()
                .unwrap()
                > 0.0
        );
    }
}

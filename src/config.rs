//! Settings: `vovcam.toml`, strict and with the same names as the command line, and the merge
//! of both over the defaults. Long because each setting stands in five places (option, key, merge,
//! difference, check), which must be read side by side.

pub mod reload;
mod threshold;

pub use threshold::ThresholdSpec;

use crate::capture::decode::MAX_SIDE;
use crate::detection::Thresholds;
use crate::engine::cpu::Isa;
use crate::engine::{EngineChoice, EngineOptions, Precision};
use crate::frame::PixelFormat;
use crate::geometry::InputSize;
use crate::geometry::Size;
use crate::model::Manifest;
use crate::sink::jsonl::file::LogOptions;
use crate::units::Bytes;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings that may stand on the command line or in `vovcam.toml`; `None` = not given there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Camera: /dev/video0, a /dev/v4l/by-id path, or a number
    #[arg(long, value_name = "CAMERA", conflicts_with = "source")]
    #[serde(default, deserialize_with = "path_or_number")]
    pub device: Option<String>,
    /// Clip, folder of pictures, '-' for raw frames on standard input, an address ffmpeg can read
    /// such as 'rtsp://ADDRESS', 'csi://0', 'gst:PIPELINE', or 'pattern'
    #[arg(long, value_name = "FILE|DIR|ADDRESS|-|pattern")]
    pub source: Option<String>,
    /// Wished frame size; the size of raw frames on standard input
    #[arg(long, value_name = "WxH")]
    #[serde(default, deserialize_with = "from_text")]
    pub size: Option<Size>,
    /// Wished frames per second
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// Pixel format of raw frames on standard input, or the only one to ask a camera for
    /// [default: the cheapest to decode]: rgb8, gray8, yuyv, uyvy, nv12, i420, mjpeg
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    #[serde(default, deserialize_with = "format_from_text")]
    pub format: Option<PixelFormat>,
    /// Model manifest or weights [default: the model built in]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// What runs the network [default: auto]
    #[arg(long, value_enum)]
    pub engine: Option<EngineChoice>,
    /// What the values between layers are: int8 is about twice as fast where the processor
    /// multiplies bytes, and a little less precise [default: f16 on a GPU, f32 on a CPU]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// CPU instruction set [default: the best of this machine]
    #[arg(long, value_enum)]
    pub isa: Option<Isa>,
    /// CPU threads for the network, 0 = one a core [default: 0]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Input size of the network: its long side, or both; more sees smaller objects
    /// [default: what the model was trained for]
    #[arg(long, value_name = "SIDE|WxH")]
    pub input: Option<InputSize>,
    /// Least score, for all classes or some: '0.4', 'person=0.6,car=0.3'
    #[arg(long, value_name = "SCORE")]
    pub threshold: Option<ThresholdSpec>,
    /// Only these classes, by name: 'person,car'
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub classes: Option<Vec<String>>,
    /// No window
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub headless: Option<bool>,
    /// Log one JSON line a frame to this file, '-' = standard output
    #[arg(long, value_name = "PATH|-")]
    pub jsonl: Option<String>,
    /// Begin a new log file before one exceeds this size: '64M', at least 64K [default: never]
    #[arg(long, value_name = "BYTES")]
    pub rotate_size: Option<Bytes>,
    /// Full log files that are kept beside the current one [default: 8]
    #[arg(long, value_name = "N")]
    pub rotate_keep: Option<u32>,
    /// Write no log while less than this is free on its disk: '64M' [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub min_free: Option<Bytes>,
    /// Seconds that a log line may wait to be forced to the disk, 0 = every line is [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub fsync_interval: Option<f64>,
    /// Save annotated frames: a folder for JPEGs, or a file ending in .avi
    #[arg(long, value_name = "DIR|FILE.avi")]
    pub save: Option<PathBuf>,
    /// Stop after this many frames
    #[arg(long, value_name = "N")]
    pub max_frames: Option<u64>,
    /// Seconds between 'stats' lines in the log [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub stats_interval: Option<f64>,
    /// Seconds without a frame after which a camera counts as lost [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub camera_timeout: Option<f64>,
    /// End with an error when the camera is lost, instead of waiting for it to return
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_retry: Option<bool>,
}

/// A day, for settings in seconds.
const LONGEST_SECONDS: f64 = 86_400.0;
/// A file holds the `run` line and then some.
const LEAST_ROTATE_SIZE: Bytes = Bytes(64 << 10);

/// Every key of `vovcam.toml`, for "did you mean".
const KEYS: [&str; 24] = [
    "device",
    "source",
    "size",
    "fps",
    "format",
    "model",
    "engine",
    "precision",
    "isa",
    "threads",
    "input",
    "threshold",
    "classes",
    "headless",
    "jsonl",
    "rotate_size",
    "rotate_keep",
    "min_free",
    "fsync_interval",
    "save",
    "max_frames",
    "stats_interval",
    "camera_timeout",
    "no_retry",
];

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key that does not exist.
    #[error("unknown key '{key}' in '{}'{hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("'{}': {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, where, expected and got.
        reason: String,
    },
    /// A class that the model does not know.
    #[error("unknown class '{name}'{hint}")]
    UnknownClass {
        /// The name.
        name: String,
        /// The nearest known class, and all of them.
        hint: String,
    },
    /// A value outside its range.
    #[error("{name}: expected {expected}, got {got}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What was given.
        got: String,
    },
}

impl Settings {
    /// Reads `vovcam.toml`.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or has an unknown key or a wrong value.
    pub fn load(path: &Path) -> Result<Settings, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Settings::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
        let invalid = |e: toml::de::Error| ConfigError::Invalid {
            path: path.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        };
        let table: toml::Table = toml::from_str(text).map_err(invalid)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                hint: did_you_mean(key, &KEYS),
            });
        }
        // from the text again, so that a wrong value is reported with its line
        let settings: Settings = toml::from_str(text).map_err(invalid)?;
        let checked = match settings.device.is_some() && settings.source.is_some() {
            true => Err("'device' and 'source' exclude each other: keep one".to_owned()),
            false => settings.validate().map_err(|e| e.to_string()),
        };
        checked.map_err(|reason| ConfigError::Invalid {
            path: path.to_owned(),
            reason,
        })?;
        Ok(settings)
    }

    /// These settings, and `other`'s where these say nothing.
    pub fn or(self, other: Settings) -> Settings {
        // a source named here must not be joined by a camera named there
        let (device, source) = match (&self.device, &self.source) {
            (None, None) => (other.device, other.source),
            _ => (self.device, self.source),
        };
        Settings {
            device,
            source,
            size: self.size.or(other.size),
            fps: self.fps.or(other.fps),
            format: self.format.or(other.format),
            model: self.model.or(other.model),
            engine: self.engine.or(other.engine),
            precision: self.precision.or(other.precision),
            isa: self.isa.or(other.isa),
            threads: self.threads.or(other.threads),
            input: self.input.or(other.input),
            threshold: self.threshold.or(other.threshold),
            classes: self.classes.or(other.classes),
            headless: self.headless.or(other.headless),
            jsonl: self.jsonl.or(other.jsonl),
            rotate_size: self.rotate_size.or(other.rotate_size),
            rotate_keep: self.rotate_keep.or(other.rotate_keep),
            min_free: self.min_free.or(other.min_free),
            fsync_interval: self.fsync_interval.or(other.fsync_interval),
            save: self.save.or(other.save),
            max_frames: self.max_frames.or(other.max_frames),
            stats_interval: self.stats_interval.or(other.stats_interval),
            camera_timeout: self.camera_timeout.or(other.camera_timeout),
            no_retry: self.no_retry.or(other.no_retry),
        }
    }

    /// The keys whose values differ.
    pub fn differing(&self, other: &Settings) -> Vec<&'static str> {
        // without `..`, so that a new key cannot be forgotten here
        let Settings {
            device,
            source,
            size,
            fps,
            format,
            model,
            engine,
            precision,
            isa,
            threads,
            input,
            threshold,
            classes,
            headless,
            jsonl,
            rotate_size,
            rotate_keep,
            min_free,
            fsync_interval,
            save,
            max_frames,
            stats_interval,
            camera_timeout,
            no_retry,
        } = self;
        let differing = [
            (*device != other.device).then_some("device"),
            (*source != other.source).then_some("source"),
            (*size != other.size).then_some("size"),
            (*fps != other.fps).then_some("fps"),
            (*format != other.format).then_some("format"),
            (*model != other.model).then_some("model"),
            (*engine != other.engine).then_some("engine"),
            (*precision != other.precision).then_some("precision"),
            (*isa != other.isa).then_some("isa"),
            (*threads != other.threads).then_some("threads"),
            (*input != other.input).then_some("input"),
            (*threshold != other.threshold).then_some("threshold"),
            (*classes != other.classes).then_some("classes"),
            (*headless != other.headless).then_some("headless"),
            (*jsonl != other.jsonl).then_some("jsonl"),
            (*rotate_size != other.rotate_size).then_some("rotate_size"),
            (*rotate_keep != other.rotate_keep).then_some("rotate_keep"),
            (*min_free != other.min_free).then_some("min_free"),
            (*fsync_interval != other.fsync_interval).then_some("fsync_interval"),
            (*save != other.save).then_some("save"),
            (*max_frames != other.max_frames).then_some("max_frames"),
            (*stats_interval != other.stats_interval).then_some("stats_interval"),
            (*camera_timeout != other.camera_timeout).then_some("camera_timeout"),
            (*no_retry != other.no_retry).then_some("no_retry"),
        ];
        differing.into_iter().flatten().collect()
    }

    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// When a number is outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |name, right: bool, expected, got: String| match right {
            true => Ok(()),
            false => Err(ConfigError::Range {
                name,
                expected,
                got,
            }),
        };
        let fps = self.fps.unwrap_or(1.0);
        range(
            "fps",
            (0.001..=1000.0).contains(&fps),
            "0.001 to 1000",
            fps.to_string(),
        )?;
        let frame = self.size.unwrap_or(Size::new(1, 1));
        range(
            "size",
            frame.width.max(frame.height) <= MAX_SIDE,
            "at most 16384 pixels a side",
            frame.to_string(),
        )?;
        range(
            "classes",
            self.classes.as_ref().is_none_or(|names| !names.is_empty()),
            "at least one name, or no such key for all",
            "none".to_owned(),
        )?;
        let (size, keep) = (self.rotate_size, self.rotate_keep.unwrap_or(1));
        let (threads, fsync) = (
            self.threads.unwrap_or(0),
            self.fsync_interval.unwrap_or(0.0),
        );
        range("threads", threads <= 256, "0 to 256", threads.to_string())?;
        let seconds = |name, value: Option<f64>| {
            let seconds = value.unwrap_or(1.0);
            let right = seconds > 0.0 && seconds <= LONGEST_SECONDS;
            let expected = "more than 0, at most 86400 seconds";
            range(name, right, expected, seconds.to_string())
        };
        seconds("stats_interval", self.stats_interval)?;
        seconds("camera_timeout", self.camera_timeout)?;
        range(
            "rotate_size",
            size.is_none_or(|size| size >= LEAST_ROTATE_SIZE),
            "at least 64K",
            format!("{} bytes", size.map_or(0, |size| size.0)),
        )?;
        range(
            "rotate_keep",
            (1..=1000).contains(&keep),
            "1 to 1000",
            keep.to_string(),
        )?;
        range(
            "fsync_interval",
            (0.0..=LONGEST_SECONDS).contains(&fsync),
            "0 to 86400 seconds",
            fsync.to_string(),
        )
    }

    /// How the log file is kept.
    pub fn log_options(&self) -> LogOptions {
        let defaults = LogOptions::default();
        LogOptions {
            rotate_size: self.rotate_size.map(|size| size.0),
            rotate_keep: self.rotate_keep.unwrap_or(defaults.rotate_keep),
            min_free: self.min_free.map_or(defaults.min_free, |free| free.0),
            fsync_interval: self
                .fsync_interval
                .map_or(defaults.fsync_interval, Duration::from_secs_f64),
        }
    }

    /// What runs the network.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            engine: self.engine.unwrap_or_default(),
            precision: self.precision,
            threads: self.threads.unwrap_or(0),
            isa: self.isa,
        }
    }

    /// The thresholds for a model's classes.
    ///
    /// # Errors
    /// When a class name is unknown.
    pub fn thresholds(&self, manifest: &Manifest) -> Result<Thresholds, ConfigError> {
        let names = &manifest.classes;
        let mut thresholds = crate::detect::default_thresholds(manifest);
        if let Some(spec) = &self.threshold {
            if let Some(score) = spec.all {
                thresholds.score.fill(score);
            }
            for (name, &score) in &spec.by_class {
                thresholds.score[class_id(name, names)?] = score;
            }
        }
        if let Some(wanted) = &self.classes {
            let ids = wanted
                .iter()
                .map(|name| class_id(name, names))
                .collect::<Result<Vec<_>, _>>()?;
            for (id, score) in thresholds.score.iter_mut().enumerate() {
                if !ids.contains(&id) {
                    *score = f32::INFINITY; // no score reaches it
                }
            }
        }
        Ok(thresholds)
    }
}

fn class_id(name: &str, names: &[String]) -> Result<usize, ConfigError> {
    names
        .iter()
        .position(|known| known == name)
        .ok_or_else(|| ConfigError::UnknownClass {
            name: name.to_owned(),
            hint: did_you_mean(name, names),
        })
}

/// `: did you mean 'x'?` when something is near, and what there is.
fn did_you_mean(word: &str, known: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let nearest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, name)) if likeness > 0.75 => {
            format!(": did you mean '{name}'? (known: {})", names.join(", "))
        }
        _ => format!(": known are {}", names.join(", ")),
    }
}

/// A pixel format by its name, any case.
pub fn parse_format(text: &str) -> Result<PixelFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "rgb8" | "rgb24" | "rgb" => Ok(PixelFormat::Rgb8),
        "gray8" | "grey" | "gray" => Ok(PixelFormat::Gray8),
        "yuyv" => Ok(PixelFormat::Yuyv),
        "uyvy" => Ok(PixelFormat::Uyvy),
        "nv12" => Ok(PixelFormat::Nv12),
        "i420" | "yuv420p" => Ok(PixelFormat::I420),
        "mjpeg" | "mjpg" => Ok(PixelFormat::Mjpeg),
        _ => Err(format!(
            "expected rgb8, gray8, yuyv, uyvy, nv12, i420 or mjpeg, got '{text}'"
        )),
    }
}

fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err = String>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn path_or_number<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected a device path such as \"/dev/video0\", or a number"
    )]
    enum Device {
        Number(u32),
        Path(String),
    }
    Ok(Some(match Device::deserialize(deserializer)? {
        Device::Number(number) => number.to_string(),
        Device::Path(path) => path,
    }))
}

fn format_from_text<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PixelFormat>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_format(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, ConfigError> {
        Settings::parse(text, Path::new("vovcam.toml"))
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = parse("treshold = 0.4").unwrap_err().to_string();
        assert!(
            error.contains("unknown key 'treshold' in 'vovcam.toml': did you mean 'threshold'?"),
            "{error}"
        );
    }

    #[test]
    fn the_key_list_is_the_struct() {
        // serde names every field in its own complaint about an unknown one
        let error = toml::from_str::<Settings>("zzz = 1")
            .unwrap_err()
            .to_string();
        for key in KEYS {
            assert!(error.contains(&format!("`{key}`")), "{key} is not a field");
        }
        assert_eq!(error.matches('`').count(), 2 * (KEYS.len() + 1));
    }

    #[test]
    fn values_are_checked_with_their_line() {
        for (text, expected) in [
            ("size = \"12\"", "WIDTHxHEIGHT"),
            ("fps = 30\nthreshold = 1.5", "line 2"),
            ("input = 100", "multiples of 32"),
            ("engine = \"gpu\"", "cuda"),
            ("format = \"h264\"", "mjpeg"),
            ("device = []", "or a number"),
            ("threshold = [1]", "expected a score such as 0.4"),
            ("input = [1]", "expected a side such as 640"),
            ("rotate_size = -1", "expected bytes"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn values_outside_their_range_say_what_would_be_right() {
        for (text, expected) in [
            ("fps = 0", "fps: expected 0.001 to 1000, got 0"),
            (
                "size = \"70000x100\"",
                "size: expected at most 16384 pixels a side, got 70000x100",
            ),
            (
                "classes = []",
                "classes: expected at least one name, or no such key for all, got none",
            ),
            (
                "device = 0\nsource = \"a.avi\"",
                "'device' and 'source' exclude each other: keep one",
            ),
            ("threads = 300", "threads: expected 0 to 256, got 300"),
            (
                "camera_timeout = 1e6",
                "camera_timeout: expected more than 0, at most 86400 seconds, got 1000000",
            ),
            (
                "rotate_size = \"1K\"",
                "rotate_size: expected at least 64K, got 1024 bytes",
            ),
            ("rotate_keep = 0", "rotate_keep: expected 1 to 1000, got 0"),
            (
                "fsync_interval = -1",
                "fsync_interval: expected 0 to 86400 seconds, got -1",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("'vovcam.toml': {expected}"));
        }
        let good = "rotate_size = \"64K\"\nrotate_keep = 3\nmin_free = 1000\nfsync_interval = 0";
        let settings = parse(good).unwrap();
        assert_eq!(
            settings.log_options(),
            LogOptions {
                rotate_size: Some(65_536),
                rotate_keep: 3,
                min_free: 1000,
                fsync_interval: Duration::ZERO,
            }
        );
    }

    #[test]
    fn the_command_line_wins_and_a_source_replaces_a_camera() {
        let file =
            parse("device = \"/dev/video0\"\nthreshold = { person = 0.6 }\nfps = 15").unwrap();
        let line = Settings {
            source: Some("pattern".to_owned()),
            fps: Some(30.0),
            ..Settings::default()
        };
        let merged = line.or(file);
        assert_eq!(
            (merged.device, merged.source.as_deref(), merged.fps),
            (None, Some("pattern"), Some(30.0))
        );
        assert_eq!(merged.threshold.unwrap().by_class["person"], 0.6);
    }

    #[test]
    fn thresholds_and_classes_meet_the_model() {
        let model =
            crate::model::Model::random(crate::network::Network::vovnet27_slim(), 3, 1).unwrap();
        let settings = Settings {
            threshold: Some("0.5,class1=0.7".parse().unwrap()),
            classes: Some(vec!["class1".to_owned(), "class2".to_owned()]),
            ..Settings::default()
        };
        assert_eq!(
            settings.thresholds(&model.manifest).unwrap().score,
            [f32::INFINITY, 0.7, 0.5]
        );
        let wrong = Settings {
            classes: Some(vec!["clas1".to_owned()]),
            ..Settings::default()
        };
        let error = wrong.thresholds(&model.manifest).unwrap_err().to_string();
        assert!(error.contains("did you mean 'class1'?"), "{error}");
    }
}

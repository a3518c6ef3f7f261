//! Settings: `vovcam.toml`, strict and with the same names as the command line, and the merge
//! of both over the defaults.

use crate::detector::InputSize;
use crate::engine::EngineChoice;
use crate::frame::{PixelFormat, Size};
use crate::postprocess::Thresholds;
use crate::weights::Manifest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Settings that may stand on the command line or in `vovcam.toml`; `None` = not given there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Camera: /dev/video0, a /dev/v4l/by-id path, or a number
    #[arg(long, value_name = "CAMERA", conflicts_with = "source")]
    pub device: Option<String>,
    /// Clip, folder of pictures, '-' for raw frames on standard input, an address ffmpeg
    /// can read, or 'pattern'
    #[arg(long, value_name = "FILE|DIR|-|pattern")]
    pub source: Option<String>,
    /// Wished frame size; the size of raw frames on standard input
    #[arg(long, value_name = "WxH")]
    #[serde(default, deserialize_with = "from_text")]
    pub size: Option<Size>,
    /// Wished frames per second
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// Pixel format of raw frames on standard input, or the only one to ask a camera for
    /// [default: the cheapest to decode]: rgb8, gray8, yuyv, uyvy, nv12, mjpeg
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    #[serde(default, deserialize_with = "format_from_text")]
    pub format: Option<PixelFormat>,
    /// Model manifest or weights [default: the model built in]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// What runs the network [default: auto]
    #[arg(long, value_enum)]
    pub engine: Option<EngineChoice>,
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

/// Every key of `vovcam.toml`, for "did you mean".
const KEYS: [&str; 18] = [
    "device",
    "source",
    "size",
    "fps",
    "format",
    "model",
    "engine",
    "threads",
    "input",
    "threshold",
    "classes",
    "headless",
    "jsonl",
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
        toml::from_str(text).map_err(invalid)
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
            threads: self.threads.or(other.threads),
            input: self.input.or(other.input),
            threshold: self.threshold.or(other.threshold),
            classes: self.classes.or(other.classes),
            headless: self.headless.or(other.headless),
            jsonl: self.jsonl.or(other.jsonl),
            save: self.save.or(other.save),
            max_frames: self.max_frames.or(other.max_frames),
            stats_interval: self.stats_interval.or(other.stats_interval),
            camera_timeout: self.camera_timeout.or(other.camera_timeout),
            no_retry: self.no_retry.or(other.no_retry),
        }
    }

    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// When a number is outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |name, value: Option<f64>| match value {
            Some(v) if !(v.is_finite() && v > 0.0) => Err(ConfigError::Range {
                name,
                expected: "a positive number",
                got: v.to_string(),
            }),
            _ => Ok(()),
        };
        positive("fps", self.fps)?;
        positive("stats_interval", self.stats_interval)?;
        positive("camera_timeout", self.camera_timeout)?;
        match self.threads {
            Some(threads) if threads > 256 => Err(ConfigError::Range {
                name: "threads",
                expected: "0 to 256",
                got: threads.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The thresholds for a model's classes.
    ///
    /// # Errors
    /// When a class name is unknown.
    pub fn thresholds(&self, manifest: &Manifest) -> Result<Thresholds, ConfigError> {
        let names = &manifest.classes;
        let mut thresholds = crate::detector::default_thresholds(manifest);
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

/// A least score for all classes, for some, or both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "ThresholdToml")]
pub struct ThresholdSpec {
    /// For every class that is not named.
    pub all: Option<f32>,
    /// By class name.
    pub by_class: BTreeMap<String, f32>,
}

/// `0.4`, `"person=0.6,car=0.3"` or `{ person = 0.6 }`.
#[derive(Deserialize)]
#[serde(untagged)]
enum ThresholdToml {
    All(f32),
    Text(String),
    ByClass(BTreeMap<String, f32>),
}

impl TryFrom<ThresholdToml> for ThresholdSpec {
    type Error = String;

    fn try_from(toml: ThresholdToml) -> Result<ThresholdSpec, String> {
        match toml {
            ThresholdToml::Text(text) => text.parse(),
            ThresholdToml::All(score) => score.to_string().parse(),
            ThresholdToml::ByClass(by_class) => {
                by_class
                    .values()
                    .try_for_each(|&score| check_score(score, &score.to_string()))?;
                Ok(ThresholdSpec {
                    all: None,
                    by_class,
                })
            }
        }
    }
}

impl std::str::FromStr for ThresholdSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ThresholdSpec, String> {
        let mut spec = ThresholdSpec::default();
        for part in text.split(',').map(str::trim) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (Some(name.trim()), value.trim()),
                None => (None, part),
            };
            let score: f32 = value.parse().map_err(|_| {
                format!("expected a score such as '0.4' or 'person=0.6,car=0.3', got '{part}'")
            })?;
            check_score(score, part)?;
            match name {
                Some(name) => drop(spec.by_class.insert(name.to_owned(), score)),
                None => spec.all = Some(score),
            }
        }
        Ok(spec)
    }
}

fn check_score(score: f32, text: &str) -> Result<(), String> {
    match (0.0..=1.0).contains(&score) {
        true => Ok(()),
        false => Err(format!("expected a score from 0 to 1, got '{text}'")),
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
        "mjpeg" | "mjpg" => Ok(PixelFormat::Mjpeg),
        _ => Err(format!(
            "expected rgb8, gray8, yuyv, uyvy, nv12 or mjpeg, got '{text}'"
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
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
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
            crate::weights::Model::random(crate::model::Network::vovnet27_slim(), 3, 1).unwrap();
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

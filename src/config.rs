//! Settings: one definition of each serves the command line, `vovcam.toml`, the merge of both, the
//! difference on reload, the check of values and the table in docs/configuration.md.
//!
//! ```text
//!  command line ──clap──▶ Settings ──serde──▶ toml::Table ─┐
//!  vovcam.toml ──checked key by key────────▶ toml::Table ──┴─merge──▶ Resolved ──▶ options
//! ```
//!
//! A setting is a field here, of a type that checks its own value ([`values`]): its name is the
//! key, its comment the help and the line in the table. Defaults are in the methods that turn
//! settings into the options of a stage. Outputs and analyzers have tables of their own in the
//! file, which this module hands over as they are.

mod choice;
#[cfg(test)]
mod documented;
mod error;
mod file;
mod merge;
mod os_text;
pub mod reload;
mod threshold;
pub mod values;

pub use error::ConfigError;
pub use merge::{Resolved, resolve};
pub use threshold::ThresholdSpec;

use crate::capture::address::shown_source;
use crate::detection::Thresholds;
use crate::engine::cpu::Isa;
use crate::engine::{EngineChoice, EngineOptions, Precision};
use crate::frame::PixelFormat;
use crate::geometry::{InputSize, TileOverlap, Tiles, Tiling};
use crate::model::Manifest;
use crate::sink::http::HttpOptions;
use crate::sink::jsonl::file::LogOptions;
use crate::units::{Bytes, DAY_MS, Interval};
use error::did_you_mean;
use serde::{Deserialize, Deserializer, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::{CameraName, Device, Fps, FrameSize, HostNames, ListenAddress, RotateSize, Whole};

/// Settings of a run; `None` = not given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Settings {
    /// The source of frames.
    #[command(flatten)]
    #[serde(flatten)]
    pub source: SourceSettings,
    /// Model, engine and thresholds.
    #[command(flatten)]
    #[serde(flatten)]
    pub detector: DetectorSettings,
    /// Window and saved frames.
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputSettings,
    /// The log.
    #[command(flatten)]
    #[serde(flatten)]
    pub log: LogSettings,
    /// The page and metrics.
    #[command(flatten)]
    #[serde(flatten)]
    pub http: HttpSettings,
    /// Follow each object from frame to frame and number it; on by itself with zones or lines. The
    /// table 'track' of the file has its settings
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub track: Option<bool>,
    /// Stop after this many frames [default: never]
    #[arg(long, value_name = "N")]
    pub max_frames: Option<Whole<0, { u64::MAX }>>,
}

/// The source of frames.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct SourceSettings {
    /// Name of the camera in every line of the log [default: from the source]
    #[arg(long, value_name = "NAME")]
    pub name: Option<CameraName>,
    /// Camera: /dev/video0, a /dev/v4l/by-id path, or a number [default: /dev/video0 if no source
    /// is given]
    #[arg(long, value_name = "CAMERA", conflicts_with = "source")]
    pub device: Option<Device>,
    /// Clip, image, folder of images, '-' or a named pipe for raw frames, an address that ffmpeg can
    /// read such as 'rtsp://ADDRESS', 'csi://N', 'gst:PIPELINE', or a test pattern, 'pattern' or
    /// 'pattern:FRAMES'; not together with a device [default: none]
    #[arg(long, value_name = "FILE|DIR|ADDRESS|-|pattern", value_parser = os_text::parser::<OsString>())]
    #[serde(with = "os_text")]
    pub source: Option<OsString>,
    /// Requested frame size of V4L2 and CSI cameras; size of raw frames and of the pattern
    /// [default: 1280x720 for cameras]
    #[arg(long, value_name = "WxH")]
    pub size: Option<FrameSize>,
    /// Requested frames per second; paces the pattern [default: 30 for cameras]
    #[arg(long, value_name = "N")]
    pub fps: Option<Fps>,
    /// Pixel format of raw frames on standard input, or the only one to ask a camera for
    /// [default: rgb8; for cameras the cheapest to decode]
    #[arg(long, value_name = "FORMAT", value_parser = choice::parser::<PixelFormat>())]
    #[arg(ignore_case = true)]
    #[serde(deserialize_with = "choice::from_toml")]
    pub format: Option<PixelFormat>,
    /// Time without a frame after which a camera counts as lost [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub camera_timeout: Option<Interval<1, DAY_MS>>,
    /// End with exit code 69 when the camera is lost, instead of waiting for it to return
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_retry: Option<bool>,
}

/// Model and engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct EngineSettings {
    /// Model manifest, or weights with the manifest beside them [default: the model built in]
    #[arg(long, value_name = "PATH", value_parser = os_text::parser::<PathBuf>())]
    #[serde(with = "os_text")]
    pub model: Option<PathBuf>,
    /// Engine that runs the network [default: auto]
    #[arg(long, value_name = "ENGINE", value_parser = choice::parser::<EngineChoice>())]
    #[arg(ignore_case = true)]
    #[serde(deserialize_with = "choice::from_toml")]
    pub engine: Option<EngineChoice>,
    /// Activation precision [default: int8 on a CPU where it is faster and the model has int8
    /// ranges, f16 on a GPU, else f32]
    #[arg(long, value_name = "PRECISION", value_parser = choice::parser::<Precision>())]
    #[arg(ignore_case = true)]
    #[serde(deserialize_with = "choice::from_toml")]
    pub precision: Option<Precision>,
    /// CPU instruction set [default: the best of this machine]
    #[arg(long, value_name = "ISA", value_parser = choice::parser::<Isa>())]
    #[arg(ignore_case = true)]
    #[serde(deserialize_with = "choice::from_toml")]
    pub isa: Option<Isa>,
    /// CPU threads for the network, 0 = one a core [default: 0]
    #[arg(long, value_name = "N")]
    pub threads: Option<Whole<0, 256>>,
}

/// Model, engine, input and thresholds of a detector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct DetectorSettings {
    /// Model and engine.
    #[command(flatten)]
    #[serde(flatten)]
    pub engine: EngineSettings,
    /// Input size of the network: its long side, or both sides; a larger one finds smaller objects
    /// and takes more time [default: as the model was trained]
    #[arg(long, value_name = "SIDE|WxH")]
    pub input: Option<InputSize>,
    /// Tiles.
    #[command(flatten)]
    #[serde(flatten)]
    pub tiles: TileSettings,
    /// Score threshold, for all classes or some: '0.4', 'person=0.6,car=0.3', in the file also
    /// { person = 0.6 } [default: the model's]
    #[arg(long, value_name = "SCORE")]
    pub threshold: Option<ThresholdSpec>,
    /// Only these classes, by name [default: all]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = values::listed_name)]
    #[serde(deserialize_with = "class_names")]
    pub classes: Option<Vec<String>>,
}

/// Tiles of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct TileSettings {
    /// Search each frame in overlapping tiles too, each with its own network input, which finds
    /// small objects; the time grows with the number of tiles: docs/small-objects.md [default: off]
    #[arg(long, value_name = "off|CxR")]
    pub tiles: Option<Tiles>,
    /// Overlap of neighbouring tiles as a fraction of a tile: more than the largest object that only
    /// tiles can find [default: 0.2]
    #[arg(long, value_name = "FRACTION")]
    pub tile_overlap: Option<TileOverlap>,
}

impl TileSettings {
    /// Layout and overlap.
    pub fn tiling(&self) -> Tiling {
        Tiling {
            tiles: self.tiles.unwrap_or_default(),
            overlap: self.tile_overlap.unwrap_or_default(),
        }
    }
}

/// Window and saved frames.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct OutputSettings {
    /// No window
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub headless: Option<bool>,
    /// Save annotated frames: a folder for JPEGs, or a file ending in .avi, which plays a live
    /// source as fast as its frames came and a clip at its own times [default: none]
    #[arg(long, value_name = "DIR|FILE.avi", value_parser = os_text::parser::<PathBuf>())]
    #[serde(with = "os_text")]
    pub save: Option<PathBuf>,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct LogSettings {
    /// Append one JSON line a frame to this file, '-' = standard output [default: none]
    #[arg(long, value_name = "PATH|-", value_parser = os_text::parser::<PathBuf>())]
    #[serde(with = "os_text")]
    pub jsonl: Option<PathBuf>,
    /// Begin a new log file before one exceeds this size [default: never]
    #[arg(long, value_name = "BYTES")]
    pub rotate_size: Option<RotateSize>,
    /// Full log files that are kept beside the current one; NAME.1 is the newest [default: 8]
    #[arg(long, value_name = "N")]
    pub rotate_keep: Option<Whole<1, 1000>>,
    /// Write no log while less than this is free on its disk [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub min_free: Option<Bytes>,
    /// Longest time that a line may wait to be forced to the disk, 0 = every line is at once
    /// [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub fsync_interval: Option<Interval<0, DAY_MS>>,
    /// Time between 'stats' lines in the log [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub stats_interval: Option<Interval<1, DAY_MS>>,
}

/// The page and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct HttpSettings {
    /// Serve a page with the live picture, figures and metrics at this address; one that other
    /// machines can reach needs a token [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<ListenAddress>,
    /// File that holds the token which the page's readers must give [default: none]
    #[arg(long, value_name = "PATH", value_parser = os_text::parser::<PathBuf>())]
    #[serde(with = "os_text")]
    pub http_token_file: Option<PathBuf>,
    /// Names besides its addresses under which this machine's page is opened [default: none]
    #[arg(long, value_name = "NAME,NAME")]
    pub http_names: Option<HostNames>,
}

impl Settings {
    /// The settings of a file without tables of outputs and analyzers.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn load(path: &Path) -> Result<Settings, ConfigError> {
        Ok(file::read(path, &[])?.settings)
    }

    /// Frames after which the run ends.
    pub fn max_frames(&self) -> Option<u64> {
        self.max_frames.map(Whole::get)
    }
}

/// The settings that are given, without the secrets of an address or a pipeline.
impl fmt::Debug for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut given = toml::Table::try_from(self).map_err(|_| fmt::Error)?;
        if let Some(toml::Value::String(source)) = given.get_mut("source") {
            *source = shown_source(source);
        }
        given.fmt(f)
    }
}

impl SourceSettings {
    /// Time without a frame after which a camera counts as lost.
    pub fn camera_timeout(&self) -> Duration {
        self.camera_timeout
            .map_or(Duration::from_secs(5), Interval::duration)
    }

    /// Whether to wait for a lost camera.
    pub fn retry(&self) -> bool {
        self.no_retry != Some(true)
    }
}

impl EngineSettings {
    /// The engine and its options.
    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            engine: self.engine.unwrap_or_default(),
            precision: self.precision,
            threads: self.threads.map_or(0, |threads| threads.get() as usize),
            isa: self.isa,
        }
    }
}

impl DetectorSettings {
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

impl OutputSettings {
    /// Whether the run has no window.
    pub fn headless(&self) -> bool {
        self.headless == Some(true)
    }
}

impl HttpSettings {
    /// Where to serve, and to whom.
    pub fn options(&self) -> HttpOptions {
        HttpOptions {
            address: self.http.map(ListenAddress::get),
            token_file: self.http_token_file.clone(),
            names: self
                .http_names
                .clone()
                .map_or_else(Vec::new, HostNames::get),
        }
    }
}

impl LogSettings {
    /// Rotation, limits and syncing of the log file.
    pub fn options(&self) -> LogOptions {
        let defaults = LogOptions::default();
        LogOptions {
            rotate_size: self.rotate_size.map(|size| size.get().0),
            rotate_keep: self
                .rotate_keep
                .map_or(defaults.rotate_keep, |keep| keep.get() as u32),
            min_free: self.min_free.map_or(defaults.min_free, |free| free.0),
            fsync_interval: self
                .fsync_interval
                .map_or(defaults.fsync_interval, Interval::duration),
        }
    }

    /// Time between `stats` lines.
    pub fn stats_interval(&self) -> Duration {
        self.stats_interval
            .map_or(Duration::from_secs(10), Interval::duration)
    }
}

/// Every key of the file: the options of the command line, from their one definition.
fn keys() -> Vec<String> {
    use clap::Args as _;
    let options = Settings::augment_args(clap::Command::new("keys"));
    let ids = options.get_arguments().map(|option| option.get_id());
    ids.map(ToString::to_string).collect()
}

/// A list of names, or the text of one as on the command line. It is not empty: an empty one would
/// find nothing.
fn class_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let value = toml::Value::deserialize(deserializer)?;
    let texts: Option<Vec<&str>> = match &value {
        toml::Value::String(text) => Some(text.split(',').collect()),
        toml::Value::Array(names) => names.iter().map(toml::Value::as_str).collect(),
        _ => None,
    };
    let names = texts.and_then(|texts| {
        let names = texts.into_iter().map(values::listed_name);
        names.collect::<Result<Vec<String>, _>>().ok()
    });
    names
        .filter(|names| !names.is_empty())
        .map(Some)
        .ok_or_else(|| {
            serde::de::Error::custom(format!(
                "expected a list of names such as [\"person\", \"car\"] or \"person, car\", or no \
                 such key for all classes, got '{value}'"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_classes_meet_the_model() {
        let model =
            crate::model::Model::random(crate::network::Network::vovnet27_slim(), 3, 1).unwrap();
        let settings = DetectorSettings {
            threshold: Some("0.5,class1=0.7".parse().unwrap()),
            classes: Some(vec!["class1".to_owned(), "class2".to_owned()]),
            ..DetectorSettings::default()
        };
        assert_eq!(
            settings.thresholds(&model.manifest).unwrap().score,
            [f32::INFINITY, 0.7, 0.5]
        );
        let wrong = DetectorSettings {
            classes: Some(vec!["clas1".to_owned()]),
            ..DetectorSettings::default()
        };
        let error = wrong.thresholds(&model.manifest).unwrap_err().to_string();
        assert!(error.contains("did you mean 'class1'?"), "{error}");
    }

    #[test]
    fn class_names_are_a_list_or_its_text_with_blanks_or_without() {
        let names = |text: &str| {
            let settings = toml::from_str::<Settings>(text);
            settings.map(|settings| settings.detector.classes.unwrap())
        };
        let expected = ["person".to_owned(), "traffic light".to_owned()];
        for text in [
            r#"classes = ["person", "traffic light"]"#,
            r#"classes = [" person", "traffic light "]"#,
            r#"classes = "person,traffic light""#,
            r#"classes = " person , traffic light""#,
        ] {
            assert_eq!(names(text).unwrap(), expected, "{text}");
        }
        for bad in ["''", "'person,'", "[' ']", "[1]", "1"] {
            let error = names(&format!("classes = {bad}")).unwrap_err().to_string();
            assert!(error.contains("expected a list of names"), "{bad}: {error}");
        }
    }

    #[test]
    fn settings_are_shown_without_the_secrets_of_a_source() {
        for (source, shown) in [
            (
                "rtsp://u:s3cret@camera/live?k=s3cret",
                "rtsp://camera/live?…",
            ),
            ("gst:rtspsrc user-pw=s3cret", "gst:…"),
            ("clip.avi", "clip.avi"),
        ] {
            let line = Settings {
                source: SourceSettings {
                    source: Some(source.into()),
                    ..SourceSettings::default()
                },
                ..Settings::default()
            };
            let resolved = format!("{:?}", resolve(&line, None, &[]).unwrap());
            assert!(
                resolved.contains(shown) && !resolved.contains("s3cret"),
                "{resolved}"
            );
        }
    }

    #[test]
    fn the_log_is_kept_as_the_settings_say() {
        let settings: Settings = toml::from_str(
            "rotate_size = \"64K\"\nrotate_keep = 3\nmin_free = 1000\nfsync_interval = 0",
        )
        .unwrap();
        assert_eq!(
            settings.log.options(),
            LogOptions {
                rotate_size: Some(65_536),
                rotate_keep: 3,
                min_free: 1000,
                fsync_interval: Duration::ZERO,
            }
        );
    }
}

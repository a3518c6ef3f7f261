//! The command line: one file a body.

mod calibrate;
mod detect;
mod doctor;
mod eval;
mod run;
mod signals;
mod stages;

use crate::capture::CaptureError;
use crate::config::{ConfigError, Settings};
use crate::detect::{Detector, DetectorOptions};
use crate::engine::cpu::Isa;
use crate::engine::{EngineChoice, EngineError, EngineOptions, Precision};
use crate::model::{Model, ModelError};
use clap::{Parser, Subcommand};
use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Camera object detection with VoVNet-27-slim: boxes, JSONL, live FPS and joules per frame.
#[derive(Debug, Parser)]
#[command(name = "vovcam", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
    /// More log lines on stderr; twice for all
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const AFTER_HELP: &str = "\
Exit codes: 0 stopped or done, 1 the run failed, 2 usage, 66 a model, clip or picture is missing
or bad, 69 no camera (with --no-retry) or a program that reads it is missing, 78 configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Detect on a camera, clip or folder until it ends or Ctrl-C (the default)
    Run(Box<RunArgs>),
    /// Detect on single pictures
    Detect(detect::DetectArgs),
    /// Measure average precision on a labelled set
    Eval(eval::EvalArgs),
    /// Measure a model's int8 ranges on pictures and write them into its manifest
    Calibrate(calibrate::CalibrateArgs),
    /// Check camera, model, engine, power meter and display, and say how to fix what is missing
    Doctor(doctor::DoctorArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Settings file; the command line wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What runs the network, for commands without a settings file.
#[derive(Clone, Copy, Debug, clap::Args)]
struct EngineArgs {
    /// What runs the network
    #[arg(long, value_enum, default_value_t)]
    engine: EngineChoice,
    /// What the values between layers are [default: f16 on a GPU, f32 on a CPU]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// CPU threads for the network, 0 = one a core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,
    /// CPU instruction set [default: the best of this machine]
    #[arg(long, value_enum)]
    isa: Option<Isa>,
}

fn threads() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(0..=256)
}

impl EngineArgs {
    fn options(self) -> EngineOptions {
        EngineOptions {
            engine: self.engine,
            precision: self.precision,
            threads: self.threads,
            isa: self.isa,
        }
    }
}

/// An error with its exit code, printed as one chain.
#[derive(Debug)]
pub struct Failure {
    /// The process exit code.
    pub code: u8,
    error: Box<dyn Error + Send + Sync>,
}

/// The run failed.
pub(crate) const RUN_FAILED: u8 = 1;
/// Wrong command line.
pub(crate) const USAGE: u8 = 2;
/// A model, clip or picture is missing or bad (sysexits EX_NOINPUT).
pub(crate) const NO_INPUT: u8 = 66;
/// No camera (sysexits EX_UNAVAILABLE).
pub(crate) const NO_CAMERA: u8 = 69;
/// Bad configuration (sysexits EX_CONFIG).
pub(crate) const CONFIG: u8 = 78;

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure {
            code,
            error: error.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        Failure::new(NO_INPUT, error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        engine_failure(error, false)
    }
}

impl Cli {
    /// Runs the chosen command to its end.
    ///
    /// # Errors
    /// What went wrong, with the exit code.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            None => run::run(self.run),
            Some(Command::Run(args)) => run::run(*args),
            Some(Command::Detect(args)) => detect::run(args),
            Some(Command::Eval(args)) => eval::run(args),
            Some(Command::Calibrate(args)) => calibrate::run(&args),
            Some(Command::Doctor(args)) => doctor::run(&args),
        }
    }
}

impl RunArgs {
    /// The command line over the settings file, checked.
    fn merged(&self) -> Result<Settings, Failure> {
        let file = match &self.config {
            Some(path) => Settings::load(path).map_err(|e| Failure::new(CONFIG, e))?,
            None => Settings::default(),
        };
        // the file's own values were checked as it was read
        let settings = self.settings.clone().or(file);
        settings.validate().map_err(|e| Failure::new(USAGE, e))?;
        Ok(settings)
    }
}

/// A line on stderr, for people. On a full disk, or when nobody listens any more, it is lost: that
/// must not end the run as `eprintln!` would.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The exit code of a source that cannot be read.
fn capture_code(error: &CaptureError) -> u8 {
    match error {
        CaptureError::Camera { .. } | CaptureError::Missing { .. } => NO_CAMERA,
        CaptureError::Unusable(_) => USAGE,
        _ => NO_INPUT,
    }
}

/// The exit code of a bad value: the configuration's fault where there is one, else the command
/// line's.
fn config_code(in_file: bool) -> u8 {
    if in_file { CONFIG } else { USAGE }
}

fn config_failure(error: ConfigError, in_file: bool) -> Failure {
    Failure::new(config_code(in_file), error)
}

fn engine_failure(error: EngineError, in_file: bool) -> Failure {
    let code = match error {
        EngineError::Unsupported { .. } => config_code(in_file),
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

/// The model named, or the one built in.
fn load_model(path: Option<&Path>) -> Result<Model, ModelError> {
    match path {
        Some(path) => Model::load(path),
        None => Model::bundled(),
    }
}

/// Model and detector for these settings.
fn load_detector(settings: &Settings, in_file: bool) -> Result<(Model, Detector), Failure> {
    let mut model = load_model(settings.model.as_deref())?;
    let thresholds = settings
        .thresholds(&model.manifest)
        .map_err(|e| config_failure(e, in_file))?;
    let options = DetectorOptions {
        engine: settings.engine_options(),
        input: settings.input,
        thresholds: Some(thresholds),
    };
    let detector = Detector::new(&model, &options).map_err(|e| engine_failure(e, in_file))?;
    model.weights = Vec::new(); // the engine has its own; small boards want the memory
    Ok((model, detector))
}

/// Refuses to save annotated pictures over the pictures that are read.
fn keep_apart<'a>(
    save: Option<&Path>,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> Result<(), Failure> {
    let Some(save) = save else { return Ok(()) };
    // a folder that does not exist yet holds no inputs
    let Ok(target) = save.canonicalize() else {
        return Ok(());
    };
    let folder = |input: &Path| {
        let path = input.canonicalize().ok()?;
        if path.is_dir() {
            Some(path)
        } else {
            path.parent().map(Path::to_owned)
        }
    };
    match inputs.any(|input| folder(input).is_some_and(|folder| folder == target)) {
        false => Ok(()),
        true => Err(Failure::new(
            USAGE,
            format!(
                "'{}' holds the pictures that are read and annotated ones would overwrite them: \
                 give --save another folder",
                save.display()
            ),
        )),
    }
}

/// Refuses to save an annotated clip over the clip that is read.
fn keep_clip(save: Option<&Path>, clip: &Path) -> Result<(), Failure> {
    let same = |save: &Path| matches!((save.canonicalize(), clip.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match save.filter(|save| same(save)) {
        None => Ok(()),
        Some(save) => Err(Failure::new(
            USAGE,
            format!(
                "'{}' is the clip that is read and the annotated one would overwrite it: \
                 give --save another name",
                save.display()
            ),
        )),
    }
}

//! The command line: one file a command.

mod calibrate;
mod detect;
mod doctor;
mod eval;
mod exit;
mod messages;
mod overlap;
mod run;
mod signals;
mod stages;
mod window;

use crate::capture::address::{shown_source, without_secrets};
use crate::config::{DetectorSettings, Resolved, Settings, resolve};
use crate::detect::{Detector, DetectorOptions};
use crate::escape::{self, Printable};
use crate::model::{Model, ModelError};
use clap::{Parser, Subcommand};
use exit::{
    CONFIG, NO_CAMERA, NO_INPUT, RUN_FAILED, USAGE, capture_code, config_code, config_failure,
    engine_failure,
};
use overlap::{keep_apart, keep_clip};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use exit::Failure;
pub use messages::{Messages, say};
pub use window::was_window;

/// Camera object detection with VoVNet-27-slim: boxes, JSONL, live FPS and joules per frame.
#[derive(Debug, Parser)]
#[command(name = "vovcam", version, args_conflicts_with_subcommands = true, after_help = exit::HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
    /// More log lines on stderr; twice for all
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Detect on a camera, clip or folder until it ends or Ctrl-C (the default)
    Run(Box<RunArgs>),
    /// Detect on single images
    Detect(detect::DetectArgs),
    /// Measure average precision on a labelled set
    Eval(eval::EvalArgs),
    /// Measure a model's int8 ranges on images and write them into its manifest
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

impl Cli {
    /// Runs the chosen command to its end.
    ///
    /// # Errors
    /// The failure, with its exit code.
    pub fn run(self) -> Result<(), Failure> {
        signals::end_first_process();
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
    /// The command line over the settings file, in which `tables` may stand.
    fn resolve(&self, tables: &[&str]) -> Result<Resolved, Failure> {
        let file = self.config.as_deref();
        resolve(&self.settings, file, tables).map_err(|e| config_failure(e, file.is_some()))
    }
}

/// The failure of a write to standard output. A reader that has left has all it wanted: the command
/// ends there, and that is no failure.
fn print_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::reader_left(),
        _ => Failure::new(
            RUN_FAILED,
            format!("cannot write to standard output: {error}"),
        ),
    }
}

/// Prints what the parser of the command line has to say, help among it, and returns the exit code.
/// clap repeats arguments as they were given: a mistake in one that is an address, or a name that a
/// terminal cannot show, is shown as the same mistake in one that can be shown.
pub fn explain(error: &clap::Error) -> u8 {
    let args: Vec<OsString> = std::env::args_os().collect();
    let shown = args.iter().map(|arg| {
        let text = Printable(escape::name(arg)).to_string();
        OsString::from(shown_source(&text))
    });
    let shown: Vec<OsString> = shown.collect();
    let _ = match shown == args {
        true => error.print(),
        false => match Cli::try_parse_from(shown) {
            Err(harmless) if harmless.kind() == error.kind() => harmless.print(),
            _ => {
                let text = escape::lines(&without_secrets(&error.render().to_string()));
                write!(std::io::stderr(), "{text}")
            }
        },
    };
    u8::try_from(error.exit_code()).unwrap_or(USAGE)
}

/// The model named, or the one built in.
fn load_model(path: Option<&Path>) -> Result<Model, ModelError> {
    match path {
        Some(path) => Model::load(path),
        None => Model::bundled(),
    }
}

/// Model and detector for these settings.
fn load_detector(settings: &DetectorSettings, in_file: bool) -> Result<(Model, Detector), Failure> {
    let mut model = load_model(settings.engine.model.as_deref())?;
    let thresholds = settings
        .thresholds(&model.manifest)
        .map_err(|e| config_failure(e, in_file))?;
    let options = DetectorOptions {
        engine: settings.engine.options(),
        input: settings.input,
        thresholds: Some(thresholds),
        tiling: settings.tiles.tiling(),
    };
    let detector = Detector::new(&model, &options).map_err(|e| engine_failure(e, in_file))?;
    model.weights = Vec::new(); // the engine has its own; small boards want the memory
    Ok((model, detector))
}

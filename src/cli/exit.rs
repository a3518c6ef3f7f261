//! The one table from errors to exit codes.

use crate::capture::CaptureError;
use crate::capture::address::without_secrets;
use crate::config::ConfigError;
use crate::engine::EngineError;
use crate::model::ModelError;
use std::error::Error;
use std::fmt;

/// The run failed.
pub(crate) const RUN_FAILED: u8 = 1;
/// Wrong command line.
pub(crate) const USAGE: u8 = 2;
/// A model, clip or image is missing or bad, or a source gave no frame (sysexits EX_NOINPUT).
pub(crate) const NO_INPUT: u8 = 66;
/// No camera (sysexits EX_UNAVAILABLE).
pub(crate) const NO_CAMERA: u8 = 69;
/// Bad configuration (sysexits EX_CONFIG).
pub(crate) const CONFIG: u8 = 78;

/// The codes as `--help` lists them.
pub(super) const HELP: &str = "\
Exit codes: 0 stopped or done, 1 the run failed, 2 usage, 66 a model, clip or image is missing
or bad or the source gave no frame, 69 no camera (with --no-retry) or a program that reads it is
missing, 78 configuration.";

/// An error with its exit code, printed as one chain.
#[derive(Debug)]
pub struct Failure {
    /// The process exit code.
    pub code: u8,
    /// `None` where there is nothing to say.
    error: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure {
            code,
            error: Some(error.into()),
        }
    }

    /// The reader of standard output has left: the end of the command, with exit code 0 and no
    /// message.
    pub(crate) fn reader_left() -> Failure {
        Failure {
            code: 0,
            error: None,
        }
    }

    /// Says what failed, on standard error.
    pub fn report(&self) {
        if self.error.is_some() {
            super::say(format_args!("vovcam: {self}"));
        }
    }
}

/// The chain of causes. An address that a text of others quotes is shown without its secrets.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = &self.error else {
            return f.write_str("the reader of standard output has left");
        };
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        f.write_str(&without_secrets(&text))
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

/// The exit code of a source that cannot be read.
pub(super) fn capture_code(error: &CaptureError) -> u8 {
    match error {
        CaptureError::Camera { .. } | CaptureError::Missing { .. } => NO_CAMERA,
        CaptureError::Unusable(_) => USAGE,
        _ => NO_INPUT,
    }
}

/// The exit code of a wrong setting: the configuration's fault where there is a file, else the
/// command line's.
pub(super) fn config_code(in_file: bool) -> u8 {
    if in_file { CONFIG } else { USAGE }
}

pub(super) fn config_failure(error: ConfigError, in_file: bool) -> Failure {
    let code = match error {
        ConfigError::UnknownClass { .. } => config_code(in_file),
        ConfigError::NotText(_) => USAGE,
        _ => CONFIG,
    };
    Failure::new(code, error)
}

pub(super) fn engine_failure(error: EngineError, in_file: bool) -> Failure {
    let code = match error {
        EngineError::Unsupported { .. } => config_code(in_file),
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

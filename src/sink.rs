//! Where results go: the JSONL log, annotated pictures, the window.

pub mod jsonl;
pub mod render;
pub mod save;
pub mod window;

use std::path::PathBuf;

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file cannot be made or written.
    #[error("cannot write {what} to '{}'", path.display())]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Lines are missing where none may be.
    #[error("the log '{}' lacks {lines} lines that the disk refused", path.display())]
    Incomplete {
        /// Where.
        path: PathBuf,
        /// How many.
        lines: u64,
    },
    /// A picture cannot be encoded.
    #[error("cannot encode frame {frame} as JPEG")]
    Encode {
        /// Frame id.
        frame: u64,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// A clip cannot be written.
    #[error(transparent)]
    Clip(#[from] crate::avi::AviError),
}

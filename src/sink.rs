//! Sinks: the outputs of a run. One file each.
//!
//! Every sink receives every [`Message`] of the run through a queue of its own ([`Queue`]) in a
//! thread of its own, so that a slow or stuck sink delays neither detection nor other sinks. The
//! picture of a frame is drawn and encoded at most once ([`picture::Picture`]).

pub mod http;
pub mod jsonl;
mod message;
pub mod picture;
pub mod render;
pub mod save;
#[cfg(test)]
pub(crate) mod testing;
pub mod window;

pub use message::{FrameMessage, Message};

use crate::clock::Clock;
use crate::event::Event;
use crate::monitor::vitals::Vitals;
use crossbeam_channel::Receiver;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Policy for frames that arrive faster than a sink accepts them. Other messages are never replaced;
/// up to [`OTHER_MESSAGES`] of them wait, further ones are counted as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// One frame waits; a newer one replaces it.
    Newest,
    /// This many frames wait; further ones are lost and counted.
    Bounded(usize),
    /// This many frames wait; then the detector waits.
    Lossless(usize),
}

/// Messages other than frames that may wait in a sink's queue.
pub const OTHER_MESSAGES: usize = 1024;

/// Whether the run continues after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It continues.
    Continue,
    /// It stops, with the reason for the log.
    Stop(&'static str),
}

/// An output of the run. All calls come from one thread.
pub trait Sink {
    /// Short name for threads, messages and metrics, such as `log`.
    fn name(&self) -> &'static str;

    /// Policy of the queue before this sink.
    fn queue(&self) -> Queue;

    /// Whether frames are sent with their pixels. If not, the queue holds no pixels in memory.
    fn needs_pictures(&self) -> bool {
        false
    }

    /// Where the need for pixels changes during the run: frames of a sink that
    /// [needs pictures](Sink::needs_pictures) carry them only while this is set. `None`: always.
    fn picture_demand(&self) -> Option<PictureDemand> {
        None
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// If the sink cannot continue. This ends the run; temporary failures are handled in the sink.
    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError>;

    /// Maximum time between two calls of [`Sink::upkeep`].
    fn upkeep_interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Called every [`Sink::upkeep_interval`], with or without messages.
    ///
    /// # Errors
    /// As [`Sink::accept`].
    fn upkeep(&mut self) -> Result<Flow, SinkError> {
        Ok(Flow::Continue)
    }

    /// Messages that the sink received but lost, such as on a full disk, since the start.
    fn lost(&self) -> u64 {
        0
    }

    /// Events of the sink itself since the last call, for the other sinks.
    fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Completes the output. Called once after the last message, also after an error.
    ///
    /// # Errors
    /// If the output is incomplete.
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A need for pixels that comes and goes, such as with the viewers of a stream. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct PictureDemand(Arc<AtomicBool>);

impl PictureDemand {
    /// Whether frames are to carry their pixels from now on. A frame that waits in a queue stays as
    /// it is.
    pub fn set(&self, wanted: bool) {
        self.0.store(wanted, Relaxed);
    }

    /// Whether they do.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A sink that can run in a thread of its own.
pub type BoxedSink = Box<dyn Sink + Send>;

/// Properties of the run that an output needs when it is opened.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// Whether the source is live (a camera), so that a lost frame is better than a late one.
    pub live: bool,
    /// Frames per second of the source, where known.
    pub fps: Option<f64>,
    /// The run's clock.
    pub clock: Arc<dyn Clock>,
    /// Name of the camera or other source.
    pub camera: Arc<str>,
    /// Disconnects when somebody waits for the end of the run: an output that still waits for a
    /// reader or a device a moment later is left behind.
    pub interrupted: Receiver<()>,
    /// The run's signs of life.
    pub vitals: Vitals,
}

/// An output that has a table of its own in the settings file.
#[derive(Clone, Copy, Debug)]
pub struct TableOutput {
    /// The table's name, which is the module's.
    pub table: &'static str,
    /// Opens the output with the contents of the table.
    pub open: fn(toml::Value, &SinkContext) -> Result<BoxedSink, SinkError>,
}

/// Declares a module for each output and lists it in [`TABLE_OUTPUTS`].
macro_rules! table_outputs {
    ($($module:ident),* $(,)?) => {
        $(pub mod $module;)*

        /// The outputs that have a table `[NAME]` in the settings file.
        pub const TABLE_OUTPUTS: &[TableOutput] = &[
            $(TableOutput { table: stringify!($module), open: $module::open }),*
        ];
    };
}

// One line per output: its file is `src/sink/NAME.rs`, with a function
// `open(options: toml::Value, context: &SinkContext) -> Result<BoxedSink, SinkError>`.
table_outputs! {}

/// An output that cannot be opened, written or completed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file cannot be created or written.
    #[error("cannot write {what} to '{}'", path.display())]
    Write {
        /// The kind of data.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Lines are missing from a log that must be complete.
    #[error("the log '{}' is missing {lines} lines that could not be written", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// Number of lines.
        lines: u64,
    },
    /// A frame cannot be encoded.
    #[error("cannot encode frame {frame} as JPEG: {reason}")]
    Encode {
        /// Frame id.
        frame: u64,
        /// The encoder's message.
        reason: String,
    },
    /// A clip cannot be written.
    #[error(transparent)]
    Clip(#[from] crate::avi::AviError),
    /// A name of a clip in a format that is not written.
    #[error("cannot save a clip as '{}': expected a folder, for JPEGs, or a file ending in '.avi'", path.display())]
    NoClip {
        /// The name.
        path: PathBuf,
    },
    /// The output's options are not valid.
    #[error("settings table [{table}]: {reason}")]
    Options {
        /// The table.
        table: &'static str,
        /// Expected and got.
        reason: String,
    },
    /// The value of a setting cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's key.
        setting: &'static str,
        /// Expected and got.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on '{address}': is another program there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// Any other failure, of an output that is not part of this crate.
    #[error("{0}")]
    Other(String),
}

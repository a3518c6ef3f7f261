//! The live window, in a process of its own.
//!
//! Xlib ends the process whose display has an error or goes away, and waits for a display that
//! hangs. So minifb is used in a child process (`window/child.rs`); the run keeps its detection and
//! its log whatever happens there. docs/decisions/window.md has the reasons.

mod child;
mod process;
mod visual;

pub use child::show;
pub use visual::describe as describe_display;

use super::picture::Picture;
use super::{Flow, Message, Queue, Sink, SinkError};
use crate::event::{Event, EventKind};
use crate::geometry::Size;
use process::{Process, State};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Makes the command that calls [`show`] in another process, with a size for the window.
pub type WindowCommand = fn(Size) -> Command;

/// A window that shows annotated frames, scaled to fit; Esc, Q and its own button end the run.
pub struct Window {
    command: WindowCommand,
    size: Size,
    /// `None` where there is no window any more.
    process: Option<Process>,
    /// The process has ended before, and this is another.
    second: bool,
    /// The newest frame that was not shown yet.
    newest: Option<Arc<Picture>>,
    events: Vec<Event>,
}

impl Window {
    /// Starts the window's process; the window opens a moment later. A display that cannot be used
    /// is told in an event then.
    ///
    /// # Errors
    /// The reason as text: no display is named, or the process cannot be started.
    pub fn open(command: WindowCommand, size: Size) -> Result<Window, String> {
        if std::env::var_os("DISPLAY").is_none() {
            return Err(match std::env::var_os("WAYLAND_DISPLAY") {
                None => "no display (DISPLAY is not set)",
                Some(_) => "no X display (DISPLAY is not set): the window needs Xwayland",
            }
            .to_owned());
        }
        let process = Process::start(command(size));
        Ok(Window {
            command,
            size,
            process: Some(process.map_err(|e| format!("its process cannot be started: {e}"))?),
            second: false,
            newest: None,
            events: Vec::new(),
        })
    }

    /// Shows the newest frame once the process has shown the one before.
    fn serve(&mut self) -> Flow {
        let Some(process) = &mut self.process else {
            self.newest = None;
            return Flow::Continue;
        };
        match process.state() {
            State::Ready => {
                if let Some(picture) = self.newest.take()
                    && let Err(error) = process.show(picture.annotated(), picture.size())
                {
                    self.give_up(&format!("a picture cannot be handed over: {error}"));
                }
            }
            State::Busy => {}
            State::Closed => {
                self.process = None;
                return Flow::Stop("the window was closed");
            }
            State::Ended { reason, opened } => self.ended(&reason, opened),
        }
        Flow::Continue
    }

    /// A process whose window was open is started again, once.
    fn ended(&mut self, reason: &str, opened: bool) {
        if !opened || self.second {
            return self.give_up(reason);
        }
        tracing::warn!("the window has gone: {reason}; it is opened again");
        self.second = true;
        match Process::start((self.command)(self.size)) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.give_up(&format!("its process cannot be started: {error}")),
        }
    }

    fn give_up(&mut self, reason: &str) {
        tracing::warn!("no window: {reason}; the run goes on without it");
        self.process = None;
        let event = Event::new(EventKind::WindowLost);
        self.events.push(event.message(reason));
    }
}

/// Interval at which the process is listened to; at 30 ms a key press seems immediate.
const POLL_INTERVAL: Duration = Duration::from_millis(30);

impl Sink for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn queue(&self) -> Queue {
        Queue::Newest
    }

    fn needs_pictures(&self) -> bool {
        true
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        if let Message::Frame(frame) = message {
            self.newest.clone_from(&frame.picture);
        }
        Ok(self.serve())
    }

    fn upkeep_interval(&self) -> Duration {
        POLL_INTERVAL
    }

    fn upkeep(&mut self) -> Result<Flow, SinkError> {
        Ok(self.serve())
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

//! Events: what happened to a run besides its frames.

/// Something that happened, for an `event` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What, such as `camera_lost`.
    pub event: &'static str,
    /// Why, for people.
    pub message: Option<String>,
    /// Lines that are missing before this one, where that is what the event is about.
    pub lines_lost: Option<u64>,
}

impl Event {
    /// A frame was skipped.
    pub fn damaged_frame(reason: &str) -> Event {
        Event::new("damaged_frame", reason)
    }

    /// The settings were read again, and what that changed.
    pub fn config_reloaded(changes: &str) -> Event {
        Event::new("config_reloaded", changes)
    }

    /// The settings were to be read again, but are wrong; the old ones stay.
    pub fn config_rejected(reason: &str) -> Event {
        Event::new("config_rejected", reason)
    }

    pub(crate) fn new(event: &'static str, message: &str) -> Event {
        Event {
            event,
            message: Some(message.to_owned()),
            lines_lost: None,
        }
    }
}

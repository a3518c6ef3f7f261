//! Events: what happens during a run besides its frames. Every event reaches every sink.

use serde_json::{Map, Value};

/// The kinds of events, and the names they have in logs and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// No frames arrive from the camera any more.
    CameraLost,
    /// Frames arrive again.
    CameraFound,
    /// A frame was damaged and skipped.
    DamagedFrame,
    /// The settings were read again.
    ConfigReloaded,
    /// The settings were to be read again but are wrong; the old ones stay.
    ConfigRejected,
    /// The log began a new file.
    Rotated,
    /// The log's disk is full, or has less free space than it must have.
    DiskFull,
    /// The log's disk refuses writes.
    DiskError,
    /// The log can be written again.
    DiskRecovered,
    /// A line that a crash had cut short was removed from the log.
    LogRepaired,
    /// The power meter cannot be read any more.
    MeterLost,
    /// The power meter can be read again.
    MeterFound,
    /// The display cannot be used any more, or not at all: the run goes on without a window.
    WindowLost,
    /// An object has entered a zone.
    ZoneEntered,
    /// An object has left a zone.
    ZoneLeft,
    /// An object has crossed a line.
    LineCrossed,
    /// An event of an analyzer, by a name of lower-case letters, digits and `_`.
    Custom(&'static str),
}

impl EventKind {
    /// All kinds but [`EventKind::Custom`].
    pub const BUILT_IN: [EventKind; 16] = [
        EventKind::CameraLost,
        EventKind::CameraFound,
        EventKind::DamagedFrame,
        EventKind::ConfigReloaded,
        EventKind::ConfigRejected,
        EventKind::Rotated,
        EventKind::DiskFull,
        EventKind::DiskError,
        EventKind::DiskRecovered,
        EventKind::LogRepaired,
        EventKind::MeterLost,
        EventKind::MeterFound,
        EventKind::WindowLost,
        EventKind::ZoneEntered,
        EventKind::ZoneLeft,
        EventKind::LineCrossed,
    ];

    /// The name in logs and messages, such as `camera_lost`.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::CameraLost => "camera_lost",
            EventKind::CameraFound => "camera_found",
            EventKind::DamagedFrame => "damaged_frame",
            EventKind::ConfigReloaded => "config_reloaded",
            EventKind::ConfigRejected => "config_rejected",
            EventKind::Rotated => "rotated",
            EventKind::DiskFull => "disk_full",
            EventKind::DiskError => "disk_error",
            EventKind::DiskRecovered => "disk_recovered",
            EventKind::LogRepaired => "log_repaired",
            EventKind::MeterLost => "meter_lost",
            EventKind::MeterFound => "meter_found",
            EventKind::WindowLost => "window_lost",
            EventKind::ZoneEntered => "zone_entered",
            EventKind::ZoneLeft => "zone_left",
            EventKind::LineCrossed => "line_crossed",
            EventKind::Custom(name) => name,
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The kind.
    pub kind: EventKind,
    /// The reason or details as text.
    pub message: Option<String>,
    /// Further fields, which logs write beside the message.
    pub fields: Map<String, Value>,
}

impl Event {
    /// An event without message and fields.
    pub fn new(kind: EventKind) -> Event {
        Event {
            kind,
            message: None,
            fields: Map::new(),
        }
    }

    /// The same event with a message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Event {
        self.message = Some(message.into());
        self
    }

    /// The same event with one more field.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Event {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

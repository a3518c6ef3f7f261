//! Analysis: stages between detection and the sinks that see every report in order.

use crate::detect::DetectPlan;
use crate::detection::Labels;
use crate::event::Event;
use crate::frame::FrameMeta;
use crate::geometry::Shape;
use crate::message::Report;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A stage that looks at every report in order, may change it, and may emit events.
///
/// Analyzers run in the detector's thread, in the order in which they are listed: their time is
/// added to the latency of every frame.
pub trait Analyzer: Send {
    /// The name in messages.
    fn name(&self) -> &'static str;

    /// Changes what the detector is asked for, such as a lower score threshold. Called with every
    /// plan before its first frame; the plan is what the settings ask for, changed by the analyzers
    /// that are listed earlier.
    fn adapt(&mut self, _plan: &mut DetectPlan) {}

    /// Looks at the next report. Events go to all sinks before the report does.
    fn step(&mut self, report: &mut Report, emit: &mut dyn FnMut(Event));

    /// What is to be drawn into every picture; asked for once, before the first report.
    fn shapes(&self) -> Vec<Shape> {
        Vec::new()
    }
}

/// What the analyzers in the settings file are made from.
#[derive(Clone, Copy, Debug)]
pub struct AnalyzerContext<'a> {
    /// The settings, with all tables of the file.
    pub settings: &'a toml::Table,
    /// The model's classes.
    pub labels: &'a Labels,
}

impl AnalyzerContext<'_> {
    /// The options of the table `[name]`; `None` where there is none or the key is `false`. A key
    /// that is `true`, as an option of the command line gives it, is an empty table.
    ///
    /// # Errors
    /// What was expected and what is there.
    pub fn table<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let value = match self.settings.get(name) {
            None | Some(toml::Value::Boolean(false)) => return Ok(None),
            Some(toml::Value::Boolean(true)) => toml::Table::new().into(),
            Some(table @ toml::Value::Table(_)) => table.clone(),
            Some(_) => {
                return Err(format!(
                    "settings table [{name}]: expected one table, [{name}], got several"
                ));
            }
        };
        read(value, &format!("[{name}]")).map(Some)
    }

    /// The options of every table `[[name]]`, in the order of the file.
    ///
    /// # Errors
    /// What was expected and what is there.
    pub fn tables<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, String> {
        let several = match self.settings.get(name) {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(several)) => several,
            Some(_) => {
                return Err(format!(
                    "settings table [{name}]: expected [[{name}]], of which there may be several"
                ));
            }
        };
        let numbered = several.iter().zip(1..);
        numbered
            .map(|(value, number)| {
                let place = match value.get("name").and_then(toml::Value::as_str) {
                    Some(text) => format!("[[{name}]] '{text}'"),
                    None => format!("[[{name}]] number {number}"),
                };
                read(value.clone(), &place)
            })
            .collect()
    }
}

fn read<T: DeserializeOwned>(value: toml::Value, place: &str) -> Result<T, String> {
    value.try_into().map_err(|error: toml::de::Error| {
        // the name of the key is on a line of its own
        let reason = error.to_string().trim_end().replace('\n', " ");
        format!("settings table {place}: {reason}")
    })
}

/// What making an analyzer gives: `None` where the settings do not ask for it. The error names the
/// table and says what was expected.
pub type Made = Result<Option<Box<dyn Analyzer>>, String>;

/// An analyzer in the settings file.
#[derive(Clone, Copy, Debug)]
pub struct TableAnalyzer {
    /// The module's name.
    pub name: &'static str,
    /// The tables that it reads, `[NAME]` or `[[NAME]]`.
    pub tables: &'static [&'static str],
    /// Makes the analyzer.
    pub make: fn(&AnalyzerContext<'_>) -> Made,
}

/// Declares a module for each analyzer and lists it in [`TABLE_ANALYZERS`].
macro_rules! table_analyzers {
    ($($module:ident),* $(,)?) => {
        $(pub mod $module;)*

        /// The analyzers that are configured by tables of the settings file, in the order in which
        /// they see a report.
        pub const TABLE_ANALYZERS: &[TableAnalyzer] = &[
            $(TableAnalyzer {
                name: stringify!($module),
                tables: $module::TABLES,
                make: $module::make,
            }),*
        ];
    };
}

// One line an analyzer: its file is `src/analyse/NAME.rs`, with the constant `TABLES` and the function
// `make(context: &AnalyzerContext<'_>) -> Made`.
table_analyzers! { track, zones }

/// The time of reports, from 0 at the first: the clip's own time where frames have one, else that
/// of their capture. It never goes back, whatever a clip's clock does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeline {
    /// The last frame's time by its own clock.
    last: Option<Duration>,
    now: Duration,
}

impl Timeline {
    /// Takes the next frame's time, and returns the time on this line.
    pub fn advance(&mut self, frame: &FrameMeta) -> Duration {
        let captured = Duration::from_nanos(frame.captured.ns);
        let time = frame.position.unwrap_or(captured);
        let last = self.last.replace(time).unwrap_or(time);
        self.now += time.saturating_sub(last);
        self.now
    }
}

//! Analysis: stages between detection and the sinks that see every report in order.

use crate::event::Event;
use crate::message::Report;

/// A stage that looks at every report in order, may change it, and may emit events.
///
/// Analyzers run in the detector's thread, in the order in which they are listed: their time is
/// added to the latency of every frame.
pub trait Analyzer: Send {
    /// The name in messages.
    fn name(&self) -> &'static str;

    /// Looks at the next report. Events go to all sinks before the report does.
    fn step(&mut self, report: &mut Report, emit: &mut dyn FnMut(Event));
}

/// An analyzer in the settings file.
#[derive(Clone, Copy, Debug)]
pub struct TableAnalyzer {
    /// The table's name, which is the module's.
    pub table: &'static str,
    /// Makes the analyzer from the table's contents; the error says what was expected.
    pub make: fn(toml::Value) -> Result<Box<dyn Analyzer>, String>,
}

/// Declares a module for each analyzer and lists it in [`TABLE_ANALYZERS`].
macro_rules! table_analyzers {
    ($($module:ident),* $(,)?) => {
        $(pub mod $module;)*

        /// The analyzers that are configured by a table `[NAME]` of the settings file, in the
        /// order in which they see a report.
        pub const TABLE_ANALYZERS: &[TableAnalyzer] = &[
            $(TableAnalyzer { table: stringify!($module), make: $module::make }),*
        ];
    };
}

// One line an analyzer: its file is `src/analyse/NAME.rs`, with a function
// `make(options: toml::Value) -> Result<Box<dyn Analyzer>, String>`.
table_analyzers! {}

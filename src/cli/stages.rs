//! The outputs and analyzers of a run, as the settings ask for them.

use super::Failure;
use crate::analyse::{Analyzer, AnalyzerContext, TABLE_ANALYZERS};
use crate::config::Settings;
use crate::sink::http::Http;
use crate::sink::jsonl::{JsonlWriter, LogSink};
use crate::sink::save::Recorder;
use crate::sink::{BoxedSink, SinkContext, SinkError, TABLE_OUTPUTS};

/// The tables that a settings file may have besides the top-level keys.
pub(super) fn tables() -> Vec<&'static str> {
    let outputs = TABLE_OUTPUTS.iter().map(|output| output.table);
    let analyzers = TABLE_ANALYZERS.iter().flat_map(|analyzer| analyzer.tables);
    outputs.chain(analyzers.copied()).collect()
}

/// Opens every output that the settings ask for but the window, which stays in the first thread.
///
/// # Errors
/// The first that cannot be opened.
pub(super) fn open_outputs(
    settings: &Settings,
    tables: &toml::Table,
    context: &SinkContext,
) -> Result<Vec<BoxedSink>, SinkError> {
    let mut sinks: Vec<BoxedSink> = Vec::new();
    if let Some(dest) = &settings.log.jsonl {
        let log = JsonlWriter::open(dest, settings.log.options(), context)?;
        sinks.push(Box::new(LogSink::new(log, context.live)));
    }
    if let Some(path) = &settings.output.save {
        sinks.push(Box::new(Recorder::create(path, context)?));
    }
    let http = Http::open(settings.http.options(), context)?;
    sinks.extend(http.map(|http| Box::new(http) as BoxedSink));
    for output in TABLE_OUTPUTS {
        if let Some(options) = tables.get(output.table) {
            sinks.push((output.open)(options.clone(), context)?);
        }
    }
    Ok(sinks)
}

/// Makes every analyzer that the settings ask for, which `context` has.
///
/// # Errors
/// The first whose options are wrong.
pub(super) fn make_analyzers(
    context: &AnalyzerContext<'_>,
) -> Result<Vec<Box<dyn Analyzer>>, Failure> {
    let mut analyzers = Vec::new();
    for analyzer in TABLE_ANALYZERS {
        let made = (analyzer.make)(context);
        analyzers.extend(made.map_err(|reason| Failure::new(super::CONFIG, reason))?);
    }
    Ok(analyzers)
}

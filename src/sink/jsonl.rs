//! The JSONL log, schema `vovcam.v1`: one object per line, `type` first.
//!
//! `assets/vovcam.v1.schema.json` is the schema, docs/jsonl.md explains it. Unknown values are
//! `null`, never 0 or "". Every line is one write, so that readers do not see partial lines while
//! the program runs. [`file::LogOptions`] sets rotation, the minimum free space and fsync.

pub mod file;
mod patience;
pub(super) mod record;
mod storage;

pub use record::SCHEMA;

use super::{Flow, Message, Queue, Sink, SinkContext, SinkError};
use crate::event::Event;
use crate::message::Report;
use crate::message::RunInfo;
use crate::stats::Snapshot;
use file::{LogFile, LogOptions};
use jiff::Timestamp;
use patience::Patience;
use record::LogLine;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Writes the log. Once it is open, no call but [`JsonlWriter::finish`] fails: lines that cannot be
/// written are counted as lost, and writing is retried.
pub struct JsonlWriter {
    output: Output,
    /// Empty before the `run` line.
    camera: Arc<str>,
    line: Vec<u8>,
}

enum Output {
    File(Box<LogFile>),
    Stream(Stream),
}

/// Standard output, or the writer of a library user.
struct Stream {
    writer: Writer,
    lost: u64,
    failing: bool,
    /// The last line was cut short by a failure.
    torn: bool,
    /// The reader has closed its end of the pipe.
    reader_left: bool,
}

impl JsonlWriter {
    /// Appends to a file as `options` say, or writes to standard output when `dest` is `-`.
    ///
    /// # Errors
    /// If the file cannot be opened for appending. A full or read-only disk is not an error here:
    /// it is handled like one that fills up later.
    pub fn open(
        dest: impl AsRef<Path>,
        options: LogOptions,
        context: &SinkContext,
    ) -> Result<JsonlWriter, SinkError> {
        let dest = dest.as_ref();
        let output = match dest.to_str() {
            // by these paths its pipe would be opened once more, and its reader's end not noticed
            Some("-" | "/dev/stdout" | "/dev/fd/1") => {
                let stdout = standard_output().map_err(|source| SinkError::Write {
                    what: "the JSONL log",
                    path: dest.into(),
                    source,
                })?;
                Output::Stream(Stream::to(match stdout.metadata() {
                    Ok(metadata) if metadata.is_file() => Writer::Any(Box::new(stdout)),
                    _ => Writer::Pipe(stdout, Patience::new(&context.interrupted)),
                }))
            }
            _ => Output::File(Box::new(LogFile::open(dest, options, context)?)),
        };
        Ok(JsonlWriter {
            output,
            camera: "".into(),
            line: Vec::with_capacity(4096),
        })
    }

    /// Writes to any writer, for tests and library users.
    pub fn to(output: Box<dyn Write + Send>) -> JsonlWriter {
        JsonlWriter {
            output: Output::Stream(Stream::to(Writer::Any(output))),
            camera: "".into(),
            line: Vec::with_capacity(4096),
        }
    }

    /// Writes the `run` line, and again as the first line of every further file.
    pub fn run(&mut self, run: &Arc<RunInfo>) {
        self.camera = Arc::clone(&run.camera);
        if self.encode(&LogLine::run(run)) {
            match &mut self.output {
                Output::File(file) => file.set_header(&self.line),
                Output::Stream(stream) => stream.write(&self.line),
            }
        }
    }

    /// Writes a `frame` line.
    pub fn frame(&mut self, report: &Report) {
        self.write(&LogLine::frame(report));
    }

    /// Writes a `stats` line.
    pub fn stats(&mut self, ts: Timestamp, stats: &Snapshot) {
        let camera = Arc::clone(&self.camera);
        self.write(&LogLine::stats(ts, &camera, stats));
    }

    /// Writes an `event` line.
    pub fn event(&mut self, ts: Timestamp, event: &Event) {
        let camera = Arc::clone(&self.camera);
        self.write(&LogLine::event(ts, &camera, event));
    }

    /// Syncs the file if [`LogOptions::fsync_interval`] has passed; call about every second.
    pub fn tick(&mut self) {
        if let Output::File(file) = &mut self.output {
            file.sync_if_due();
        }
    }

    /// Events of the log file itself (rotation, disk) since the last call. The log has them already.
    pub fn take_events(&mut self) -> Vec<Event> {
        match &mut self.output {
            Output::File(file) => file.take_events(),
            Output::Stream(_) => Vec::new(),
        }
    }

    /// Whether the reader of standard output has closed the pipe, which ends the log.
    pub fn reader_left(&self) -> bool {
        matches!(&self.output, Output::Stream(stream) if stream.reader_left)
    }

    /// Number of lines that could not be written.
    pub fn lost(&self) -> u64 {
        match &self.output {
            Output::File(file) => file.lost(),
            Output::Stream(stream) => stream.lost,
        }
    }

    /// Syncs the log to the disk. With `complete`, lost lines are an error.
    ///
    /// # Errors
    /// If the sync fails or, with `complete`, if lines were lost. A closed pipe is not an error: the
    /// reader has read all it wanted.
    pub fn finish(self, complete: bool) -> Result<(), SinkError> {
        match self.output {
            Output::File(file) => file.finish(complete),
            Output::Stream(mut stream) => {
                if let Writer::Any(writer) = &mut stream.writer {
                    let _ = writer.flush();
                }
                match stream.lost {
                    lines if complete && lines > 0 => Err(SinkError::Incomplete {
                        path: "-".into(),
                        lines,
                    }),
                    _ => Ok(()),
                }
            }
        }
    }

    fn write(&mut self, line: &LogLine<'_>) {
        if self.encode(line) {
            match &mut self.output {
                Output::File(file) => file.append(&self.line),
                Output::Stream(stream) => stream.write(&self.line),
            }
        }
    }

    /// Encodes a line; `false` on failure, which only a defect in this program causes.
    fn encode(&mut self, line: &LogLine<'_>) -> bool {
        self.line.clear();
        line.write_to(&mut self.line)
            .map_err(|error| tracing::error!("a log line cannot be encoded: {error}"))
            .is_ok()
    }
}

/// Log lines that may wait for the disk: 8 s at 30 frames per second.
const QUEUE_LINES: usize = 256;

/// The log as a sink.
pub struct LogSink {
    log: JsonlWriter,
    live: bool,
}

impl LogSink {
    /// A sink that writes to `log`. If the source is not `live`, no line may be lost: the detector
    /// waits for the log, and missing lines at the end are an error.
    pub fn new(log: JsonlWriter, live: bool) -> LogSink {
        LogSink { log, live }
    }
}

impl Sink for LogSink {
    fn name(&self) -> &'static str {
        "log"
    }

    fn queue(&self) -> Queue {
        match self.live {
            true => Queue::Bounded(QUEUE_LINES),
            false => Queue::Lossless(QUEUE_LINES),
        }
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        match message {
            Message::Run(run) => self.log.run(run),
            Message::Frame(frame) => self.log.frame(&frame.report),
            Message::Stats { ts, stats } => self.log.stats(*ts, stats),
            Message::Event { ts, event } => self.log.event(*ts, event),
        }
        Ok(match self.log.reader_left() {
            true => Flow::Stop("the log's reader has closed its pipe"),
            false => Flow::Continue,
        })
    }

    fn upkeep(&mut self) -> Result<Flow, SinkError> {
        self.log.tick();
        Ok(Flow::Continue)
    }

    fn lost(&self) -> u64 {
        self.log.lost()
    }

    fn take_events(&mut self) -> Vec<Event> {
        self.log.take_events()
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.log.finish(!self.live)
    }
}

/// Where the lines of a [`Stream`] go.
enum Writer {
    /// Standard output, unless it is a file.
    Pipe(File, Patience),
    /// A file, or the writer of a library user.
    Any(Box<dyn Write + Send>),
}

/// Standard output without the buffer and lock of [`std::io::stdout`].
fn standard_output() -> io::Result<File> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(File::from(stdout))
}

impl Writer {
    /// Writes a line; on a failure, tells also how many bytes of it were written.
    fn write(&mut self, line: &[u8]) -> Result<(), (usize, io::Error)> {
        match self {
            Writer::Any(writer) => writer
                .write_all(line)
                .and_then(|()| writer.flush())
                .map_err(|error| (0, error)),
            Writer::Pipe(file, patience) => {
                let mut done = 0;
                while done < line.len() {
                    let written = patience.write(file, &line[done..]);
                    done += written.map_err(|error| (done, error))?;
                }
                Ok(())
            }
        }
    }
}

impl Stream {
    fn to(writer: Writer) -> Stream {
        Stream {
            writer,
            lost: 0,
            failing: false,
            torn: false,
            reader_left: false,
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.reader_left {
            return;
        }
        let end_torn: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = match self.writer.write(end_torn) {
            Ok(()) => self.writer.write(line),
            failed => failed,
        };
        match written {
            Ok(()) => {
                self.torn = false;
                if std::mem::take(&mut self.failing) {
                    tracing::warn!(
                        "the JSONL log can be written again; {} lines were lost",
                        self.lost
                    );
                }
            }
            Err((_, error)) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_left = true,
            Err((done, error)) => {
                self.torn |= done > 0;
                self.lost += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        "cannot write the JSONL log: {error}; detection continues, lost lines are counted"
                    );
                }
            }
        }
    }
}

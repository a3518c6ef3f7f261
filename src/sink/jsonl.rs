//! The JSONL log, schema `vovcam.v1`: one object a line, `type` first.
//!
//! `assets/vovcam.v1.schema.json` is the contract, docs/jsonl.md explains it. Unknown values are
//! `null`, never 0 or "". Every line is one write, so that readers never see half a line while
//! the program lives. A file is kept whole, within its size and off a full disk as
//! [`file::LogOptions`] say.

pub mod file;
mod record;
mod storage;

pub use record::SCHEMA;

use super::{Flow, Message, Queue, Sink, SinkError};
use crate::clock::{Clock, SystemClock};
use crate::event::Event;
use crate::message::Report;
use crate::message::RunInfo;
use crate::stats::Snapshot;
use file::{LogFile, LogOptions};
use jiff::Timestamp;
use record::Line;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Writes the log. After creation it never fails: a full disk costs lines, which are counted,
/// and is noticed to be over.
pub struct JsonlWriter {
    output: Output,
    /// Known from the `run` line on.
    camera: Arc<str>,
    line: Vec<u8>,
}

enum Output {
    File(Box<LogFile>),
    Stream(Stream),
}

/// Standard output, or whatever a library user has.
struct Stream {
    writer: Box<dyn Write + Send>,
    lost: u64,
    failing: bool,
    /// The other end of the pipe is closed.
    reader_left: bool,
}

impl JsonlWriter {
    /// Appends to a file without rotation, or writes to standard output when `dest` is `-`.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn create(dest: &str) -> Result<JsonlWriter, SinkError> {
        JsonlWriter::open(dest, LogOptions::default(), SystemClock::shared(), "")
    }

    /// Appends to a file as `options` say, or writes to standard output when `dest` is `-`.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, other than for a disk that is full or
    /// read-only: that may pass, and is treated as if it came later.
    pub fn open(
        dest: &str,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        camera: &str,
    ) -> Result<JsonlWriter, SinkError> {
        let output = match dest {
            "-" => Output::Stream(Stream::to(Box::new(io::stdout()))),
            path => {
                let file = LogFile::open(Path::new(path), options, clock, camera)?;
                Output::File(Box::new(file))
            }
        };
        Ok(JsonlWriter {
            output,
            camera: "".into(),
            line: Vec::with_capacity(4096),
        })
    }

    /// Writes to anything, for tests and other programs.
    pub fn to(output: Box<dyn Write + Send>) -> JsonlWriter {
        JsonlWriter {
            output: Output::Stream(Stream::to(output)),
            camera: "".into(),
            line: Vec::with_capacity(4096),
        }
    }

    /// The log's first line, and the first line of every file that follows.
    pub fn run(&mut self, run: &Arc<RunInfo>) {
        self.camera = Arc::clone(&run.camera);
        if self.encode(&Line::run(run)) {
            match &mut self.output {
                Output::File(file) => file.set_head(&self.line),
                Output::Stream(stream) => stream.write(&self.line),
            }
        }
    }

    /// A frame's line.
    pub fn frame(&mut self, report: &Report) {
        self.write(&Line::frame(report));
    }

    /// Figures of the moment.
    pub fn stats(&mut self, ts: Timestamp, stats: &Snapshot) {
        let camera = Arc::clone(&self.camera);
        self.write(&Line::stats(ts, &camera, stats));
    }

    /// Something that happened.
    pub fn event(&mut self, ts: Timestamp, event: &Event) {
        let camera = Arc::clone(&self.camera);
        self.write(&Line::event(ts, &camera, event));
    }

    /// To be called every second or so: what is due to be forced to the disk is.
    pub fn tick(&mut self) {
        if let Output::File(file) = &mut self.output {
            file.sync_if_due();
        }
    }

    /// Events of the log file itself (rotation, disk) since the last call. They are in the log
    /// already.
    pub fn take_events(&mut self) -> Vec<Event> {
        match &mut self.output {
            Output::File(file) => file.take_events(),
            Output::Stream(_) => Vec::new(),
        }
    }

    /// Whether the reader of standard output has closed it: the log ends there.
    pub fn reader_left(&self) -> bool {
        matches!(&self.output, Output::Stream(stream) if stream.reader_left)
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        match &self.output {
            Output::File(file) => file.lost(),
            Output::Stream(stream) => stream.lost,
        }
    }

    /// Makes sure that what was written is on the disk. With `complete`, lost lines are an error.
    ///
    /// # Errors
    /// When the system cannot promise that. A reader that closed its pipe has read enough.
    pub fn finish(self, complete: bool) -> Result<(), SinkError> {
        match self.output {
            Output::File(file) => file.finish(complete),
            Output::Stream(mut stream) => {
                let _ = stream.writer.flush();
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

    fn write(&mut self, line: &Line<'_>) {
        if self.encode(line) {
            match &mut self.output {
                Output::File(file) => file.append(&self.line),
                Output::Stream(stream) => stream.write(&self.line),
            }
        }
    }

    /// Whether the line could be encoded, which only a defect prevents.
    fn encode(&mut self, line: &Line<'_>) -> bool {
        self.line.clear();
        line.write_to(&mut self.line)
            .map_err(|error| tracing::error!("a log line cannot be encoded: {error}"))
            .is_ok()
    }
}

/// Log lines that may wait for the disk: 8 s of them at 30 frames per second.
const QUEUE_LINES: usize = 256;

/// The log as a sink.
pub struct LogSink {
    log: JsonlWriter,
    live: bool,
}

impl LogSink {
    /// Around a log. From a source that is not `live` no line may be lost: the detector waits,
    /// and a log that lacks lines at the end is an error.
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

impl Stream {
    fn to(writer: Box<dyn Write + Send>) -> Stream {
        Stream {
            writer,
            lost: 0,
            failing: false,
            reader_left: false,
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.reader_left {
            return;
        }
        let written = self
            .writer
            .write_all(line)
            .and_then(|()| self.writer.flush());
        match written {
            Ok(()) if std::mem::take(&mut self.failing) => {
                tracing::warn!(
                    "the JSONL log can be written again; {} lines were lost",
                    self.lost
                );
            }
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_left = true,
            Err(error) => {
                self.lost += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        "cannot write the JSONL log: {error}; detection goes on, lost lines are counted"
                    );
                }
            }
        }
    }
}

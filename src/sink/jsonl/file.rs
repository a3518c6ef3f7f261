//! The log as a file, with rotation, a minimum of free disk space, and recovery from failures.
//!
//! - **Complete lines**: a line is one write, and the remains of a failed write are truncated. The
//!   remains of a power cut are repaired at the next start. A lock keeps a second process out.
//! - **Rotation**: before a line would exceed [`LogOptions::rotate_size`] the file becomes
//!   `NAME.1`, `NAME.1` becomes `NAME.2` and so on; [`LogOptions::rotate_keep`] of them are kept.
//!   Their total size never exceeds `rotate_size × (rotate_keep + 1)`, if a line fits in a file.
//! - **Full disk**: below [`LogOptions::min_free`] free bytes nothing is written, so that other
//!   programs on the board can continue. While the disk is full, read-only or broken, lines are
//!   counted as lost and a write is retried every second. When it succeeds, an `event` line reports
//!   the gap.
//! - **Sync**: data are synced to the disk every [`LogOptions::fsync_interval`], at rotation and at
//!   the end.

use super::record::LogLine;
use super::storage::{Storage, StoredFile, System};
use crate::clock::{Clock, MonoTime};
use crate::event::{Event, EventKind};
use crate::sink::{SinkContext, SinkError};
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Interval of the checks of free space and of the file's path, and of retries on a failed disk.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Maximum length of a partial last line that is repaired, bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// Rotation, disk space and sync of a log file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogOptions {
    /// Maximum size of a file in bytes; `None` = no rotation.
    pub rotate_size: Option<u64>,
    /// Number of older files that are kept.
    pub rotate_keep: u32,
    /// Minimum free space on the disk in bytes; below it nothing is written.
    pub min_free: u64,
    /// Maximum time between two syncs; zero = a sync after every line.
    pub fsync_interval: Duration,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            rotate_size: None,
            rotate_keep: 8,
            min_free: 0,
            fsync_interval: Duration::from_secs(10),
        }
    }
}

/// A log file.
pub(super) struct LogFile {
    storage: Box<dyn Storage>,
    path: PathBuf,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    /// `None` while the file cannot be opened.
    file: Option<Box<dyn StoredFile>>,
    /// Length of the file in bytes.
    len: u64,
    /// The file ends with a partial line that could not be truncated.
    torn: bool,
    /// First line of every file.
    header: Vec<u8>,
    /// The current file does not have its header yet.
    header_due: bool,
    /// Encoded events about the file itself that are not written yet.
    pending_events: Vec<u8>,
    /// Events about the file itself, for other sinks.
    events: Vec<Event>,
    camera: Arc<str>,
    /// Buffer of the next write.
    out: Vec<u8>,
    outage: Option<Outage>,
    checked: Option<MonoTime>,
    synced: MonoTime,
    unsynced: bool,
    lost: u64,
}

/// A period in which lines cannot be written.
struct Outage {
    event: Event,
    at: Timestamp,
    began: MonoTime,
    retry_at: MonoTime,
    /// The log already has the event.
    logged: bool,
    lost_before: u64,
}

/// The reason why a line was not written.
#[derive(Debug)]
enum WriteFailure {
    /// Free space is below `min_free`.
    BelowMinFree { free: u64, min_free: u64 },
    /// A system call failed.
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl WriteFailure {
    fn of(doing: &'static str) -> impl FnOnce(io::Error) -> WriteFailure {
        move |error| WriteFailure::System { doing, error }
    }

    fn event(&self) -> Event {
        let kind = match self {
            WriteFailure::BelowMinFree { .. } => EventKind::DiskFull,
            WriteFailure::System { error, .. } if is_full(error) => EventKind::DiskFull,
            WriteFailure::System { .. } => EventKind::DiskError,
        };
        Event::new(kind).message(self.to_string())
    }
}

impl std::fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteFailure::BelowMinFree { free, min_free } => write!(
                f,
                "{free} bytes are free on the disk, fewer than the minimum of {min_free} (min_free)"
            ),
            WriteFailure::System { doing, error } => write!(f, "{doing} failed: {error}"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether a failure may be temporary, unlike a path that can never be opened.
fn is_temporary(error: &io::Error) -> bool {
    is_full(error)
        || error.kind() == io::ErrorKind::ReadOnlyFilesystem
        || error.raw_os_error() == Some(nix::libc::EIO)
}

impl LogFile {
    pub(super) fn open(
        path: &Path,
        options: LogOptions,
        context: &SinkContext,
    ) -> Result<LogFile, SinkError> {
        let interrupted = context.interrupted.clone();
        let system = Box::new(System { interrupted });
        LogFile::open_in(
            system,
            path,
            options,
            Arc::clone(&context.clock),
            &context.camera,
        )
    }

    fn open_in(
        storage: Box<dyn Storage>,
        path: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        camera: &str,
    ) -> Result<LogFile, SinkError> {
        let mut log = LogFile {
            storage,
            path: path.to_owned(),
            options,
            synced: clock.now(),
            clock,
            file: None,
            len: 0,
            torn: false,
            header: Vec::new(),
            header_due: false,
            pending_events: Vec::new(),
            events: Vec::new(),
            camera: camera.into(),
            out: Vec::new(),
            outage: None,
            checked: None,
            unsynced: false,
            lost: 0,
        };
        match log.reopen() {
            Ok(()) => log.remove_surplus(),
            Err(error) if is_temporary(&error) => {
                log.on_failure(&WriteFailure::of("opening it")(error), 0)
            }
            Err(source) => return Err(log.error(source)),
        }
        Ok(log)
    }

    /// Sets the first line of this file and of every further one.
    pub(super) fn set_header(&mut self, line: &[u8]) {
        self.header = line.to_owned();
        self.header_due = true;
        self.append(&[]);
    }

    /// Writes a line with its newline, or counts it as lost.
    pub(super) fn append(&mut self, line: &[u8]) {
        let now = self.clock.now();
        let waiting = |outage: &Outage| now < outage.retry_at;
        // an empty line is a write of the header alone, which stays due on failure
        let (before, line_count) = (self.lost, u64::from(!line.is_empty()));
        if self.outage.as_ref().is_some_and(waiting) {
            self.lost += line_count;
        } else if let Err(failure) = self.try_append(line, now) {
            self.lost += line_count;
            self.on_failure(&failure, before);
        }
        self.sync_if_due();
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Syncs the file if `fsync_interval` has passed.
    pub(super) fn sync_if_due(&mut self) {
        let due = self.clock.now().since(self.synced) >= self.options.fsync_interval;
        if due
            && self.outage.is_none()
            && let Err(error) = self.sync()
        {
            self.on_failure(
                &WriteFailure::of("syncing it to the disk")(error),
                self.lost,
            );
        }
    }

    /// Syncs the file. With `complete`, lost lines are an error.
    pub(super) fn finish(mut self, complete: bool) -> Result<(), SinkError> {
        self.sync().map_err(|e| self.error(e))?;
        match self.lost {
            lines if lines > 0 && complete => Err(SinkError::Incomplete {
                path: self.path,
                lines,
            }),
            _ => Ok(()),
        }
    }

    fn error(&self, source: io::Error) -> SinkError {
        SinkError::Write {
            what: "the JSONL log",
            path: self.path.clone(),
            source,
        }
    }

    fn try_append(&mut self, line: &[u8], now: MonoTime) -> Result<(), WriteFailure> {
        if self
            .checked
            .is_none_or(|at| now.since(at) >= CHECK_EVERY || self.outage.is_some())
        {
            self.check(now)?;
        }
        self.compose(line, now);
        let full = |size: u64| self.len > 0 && self.len + self.out.len() as u64 > size;
        if self.is_regular() && self.options.rotate_size.is_some_and(full) {
            self.rotate()?;
            self.compose(line, now);
        }
        self.write_out().map_err(WriteFailure::of("writing"))?;
        (self.torn, self.header_due) = (false, false);
        self.pending_events.clear();
        if self.outage.take().is_some() {
            tracing::warn!(
                "the log '{}' can be written again; {} lines were lost so far",
                self.path.display(),
                self.lost
            );
        }
        Ok(())
    }

    /// Fills `out` with everything that is due before the line, and the line.
    fn compose(&mut self, line: &[u8], now: MonoTime) {
        self.out.clear();
        if self.torn {
            self.out.push(b'\n');
        }
        if self.header_due {
            self.out.extend_from_slice(&self.header);
        }
        self.out.extend_from_slice(&self.pending_events);
        self.describe_gap(now);
        self.out.extend_from_slice(line);
    }

    /// Checks the free space, and reopens the file if its path does not refer to it any more.
    fn check(&mut self, now: MonoTime) -> Result<(), WriteFailure> {
        self.checked = Some(now);
        let moved = |file: &dyn StoredFile| file.is_regular() && !file.is_at(&self.path);
        if self.file.as_deref().is_none_or(moved) {
            // another program rotated or deleted it
            self.file = None;
            self.reopen().map_err(WriteFailure::of("opening it"))?;
        } else if let Some(file) = &self.file
            && file.is_regular()
        {
            self.len = file.len().unwrap_or(self.len); // another program may have truncated it
        }
        let min_free = self.options.min_free;
        if min_free > 0 && self.is_regular() {
            // hysteresis of 1/16, so that logging does not toggle with every line
            let min_free = match self.outage {
                Some(_) => min_free + min_free / 16,
                None => min_free,
            };
            // a file system that does not report its free space has no minimum
            let free = self.storage.free_bytes(&self.path).unwrap_or(u64::MAX);
            if free < min_free {
                return Err(WriteFailure::BelowMinFree { free, min_free });
            }
        }
        Ok(())
    }

    /// Opens the file, repairs its end, and marks its header as due.
    fn reopen(&mut self) -> io::Result<()> {
        let mut file = self.storage.open(&self.path)?;
        (self.len, self.torn) = (0, false);
        if file.is_regular() {
            self.len = file.len()?;
            match repair(file.as_mut(), self.len)? {
                Repair::None => {}
                Repair::Closed => self.torn = true, // the next write begins with a newline
                Repair::Cut(bytes) => {
                    self.len -= bytes;
                    let message = format!("{bytes} bytes of a line cut short were removed");
                    self.add_event(Event::new(EventKind::LogRepaired).message(message));
                }
            }
        }
        self.header_due = !self.header.is_empty();
        self.file = Some(file);
        Ok(())
    }

    /// Renames every older file to the next number, and opens a new file.
    fn rotate(&mut self) -> Result<(), WriteFailure> {
        let failed = WriteFailure::of;
        self.sync().map_err(failed("syncing it to the disk"))?;
        let keep = self.options.rotate_keep.max(1);
        // only up to the first gap in the numbers: if a later step fails and the rotation is
        // repeated, or after a power cut in between, no further file is removed
        let gap = (1..keep).find(|&n| !self.storage.exists(&self.numbered(n)));
        let gap = gap.unwrap_or(keep);
        if self.storage.exists(&self.numbered(gap)) {
            let removed = self.storage.remove(&self.numbered(gap));
            removed.map_err(failed("removing the oldest file"))?;
        }
        for n in (1..gap).rev() {
            let moved = self
                .storage
                .rename(&self.numbered(n), &self.numbered(n + 1));
            moved.map_err(failed("renaming an older file"))?;
        }
        let moved = self.storage.rename(&self.path, &self.numbered(1));
        moved.map_err(failed("renaming it"))?;
        self.file = None;
        self.reopen().map_err(failed("opening a new file"))?;
        if let Err(error) = self.storage.sync_folder(&self.path) {
            // not every file system supports it; then the renames may not survive a power cut
            tracing::debug!("the log's folder: {error}");
        }
        let full = self.numbered(1).display().to_string();
        let message = format!("the previous file is now '{full}'");
        self.add_event(Event::new(EventKind::Rotated).message(message));
        Ok(())
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// Removes files left by an earlier run with a larger `rotate_keep`.
    fn remove_surplus(&mut self) {
        if self.options.rotate_size.is_none() || !self.is_regular() {
            return;
        }
        for n in self.options.rotate_keep.max(1) + 1.. {
            let path = self.numbered(n);
            if !self.storage.exists(&path) || self.storage.remove(&path).is_err() {
                return;
            }
            tracing::info!("removed the old log '{}'", path.display());
        }
    }

    fn is_regular(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.is_regular())
    }

    fn add_event(&mut self, event: Event) {
        push(
            &mut self.pending_events,
            self.clock.wall(),
            &self.camera,
            &event,
        );
        self.events.push(event);
    }

    /// Events of the file since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// At the end of an outage, appends its first event, if the log does not have it yet, and its
    /// duration and losses.
    fn describe_gap(&mut self, now: MonoTime) {
        let Some(outage) = &self.outage else { return };
        if !outage.logged {
            push(&mut self.out, outage.at, &self.camera, &outage.event);
        }
        let lines = self.lost - outage.lost_before;
        let seconds = now.since(outage.began).as_secs_f64();
        let event = Event::new(EventKind::DiskRecovered)
            .message(format!("{lines} lines were lost in {seconds:.0} s"))
            .field("lines_lost", lines);
        push(&mut self.out, self.clock.wall(), &self.camera, &event);
        self.events.push(event);
    }

    /// Writes `out`. The remains of a failed write are truncated.
    fn write_out(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut done = 0;
        while done < self.out.len() {
            let error = match file.write(&self.out[done..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    done += written;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if done > 0 {
                let cut = file.len().and_then(|len| file.truncate(len - done as u64));
                if cut.is_err() {
                    (self.torn, self.len) = (true, self.len + done as u64);
                }
            }
            return Err(error);
        }
        self.len += done as u64;
        self.unsynced |= done > 0;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file
            && self.unsynced
            && file.is_regular()
        {
            file.sync()?;
        }
        self.unsynced = false;
        self.synced = self.clock.now();
        Ok(())
    }

    /// Begins an outage, reported once: on stderr and, where possible, in the log. During an outage,
    /// only schedules the next retry.
    fn on_failure(&mut self, failure: &WriteFailure, lost_before: u64) {
        let now = self.clock.now();
        if let Some(outage) = &mut self.outage {
            outage.retry_at = now + CHECK_EVERY;
            return;
        }
        tracing::warn!(
            "the log '{}' cannot be written: {failure}; detection continues, lost lines are counted",
            self.path.display()
        );
        let mut outage = Outage {
            event: failure.event(),
            at: self.clock.wall(),
            began: now,
            retry_at: now + CHECK_EVERY,
            logged: false,
            lost_before,
        };
        if matches!(failure, WriteFailure::BelowMinFree { .. }) {
            // there is still room for one line, which tells the reader why the log stops
            self.out.clear();
            push(&mut self.out, outage.at, &self.camera, &outage.event);
            outage.logged = !self.torn && self.write_out().is_ok();
        }
        self.events.push(outage.event.clone());
        self.outage = Some(outage);
    }
}

/// Appends an event's line.
fn push(bytes: &mut Vec<u8>, at: Timestamp, camera: &str, event: &Event) {
    if let Err(error) = LogLine::event(at, camera, event).write_to(bytes) {
        tracing::error!("a log line cannot be encoded: {error}");
    }
}

/// State of the last line of a file.
enum Repair {
    /// It is complete.
    None,
    /// It lacks only its newline, or another program wrote it: it is kept.
    Closed,
    /// It was partial; this many bytes were removed.
    Cut(u64),
}

/// Removes a partial last line, which a crash may have left.
fn repair(file: &mut dyn StoredFile, len: u64) -> io::Result<Repair> {
    let mut tail = Vec::new();
    let mut start = len;
    let limit = len.saturating_sub(LONGEST_LINE);
    // read backwards in growing steps up to the newline before the last line or the start of the file
    let line = loop {
        if let Some(newline) = tail.iter().rposition(|&b| b == b'\n') {
            break &tail[newline + 1..];
        }
        if start == 0 {
            break &tail[..];
        }
        if start == limit {
            return Ok(Repair::Closed);
        }
        let wanted = (2 * tail.len() as u64).max(4096);
        start = len.saturating_sub(wanted).max(limit);
        tail.resize((len - start) as usize, 0);
        file.read_at(&mut tail, start)?;
    };
    if line.is_empty() {
        return Ok(Repair::None);
    }
    const BEGINNING: &[u8] = b"{\"type\":";
    // after a power cut a file may have its full length but zeros instead of data
    let ours = line.starts_with(BEGINNING) || BEGINNING.starts_with(line) || line[0] == 0;
    if !ours || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
        return Ok(Repair::Closed);
    }
    let bytes = line.len() as u64;
    tracing::warn!("the log's last line was cut short: {bytes} bytes of it are removed");
    file.truncate(len - bytes)?;
    Ok(Repair::Cut(bytes))
}

#[cfg(test)]
mod tests;

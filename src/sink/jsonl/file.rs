//! The log as a file that is kept whole, within its size, and off a full disk.
//!
//! - **Whole**: a line is one write, and what a failed write left behind is cut off again. What a
//!   power cut left behind is repaired at the next start. A second process is refused.
//! - **Within its size**: before a line would exceed [`LogOptions::rotate_size`] the file becomes
//!   `NAME.1`, `NAME.1` becomes `NAME.2` and so on; [`LogOptions::rotate_keep`] of them stay. All
//!   together never exceed `rotate_size × (rotate_keep + 1)`, as long as a line fits a file.
//! - **Off a full disk**: below [`LogOptions::min_free`] bytes nothing is written, so that other
//!   programs of the board can go on. While the disk is full, read-only or broken, lines are
//!   counted as lost and one is tried every second; when one succeeds, the gap is an `event` line.
//! - **On the disk** for sure: data are forced out every [`LogOptions::fsync_interval`], at
//!   rotation and at the end.

use super::record::Line;
use super::storage::{Storage, StoredFile, System};
use crate::clock::{Clock, MonoTime};
use crate::event::{Event, EventKind};
use crate::sink::SinkError;
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often free space is looked at, a moved file noticed and a failing disk tried again.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How far back the start of a torn last line is looked for.
const LONGEST_LINE: u64 = 16 << 20;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogOptions {
    /// Bytes at which a new file is begun; `None` = never.
    pub rotate_size: Option<u64>,
    /// Full files that are kept beside the current one.
    pub rotate_keep: u32,
    /// Free bytes on the disk below which nothing is written.
    pub min_free: u64,
    /// Longest time that a line may be on its way to the disk; zero = every line waits for it.
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
    /// `None` while it cannot be opened.
    file: Option<Box<dyn StoredFile>>,
    /// Bytes in it.
    len: u64,
    /// It ends within a line that could not be cut off.
    torn: bool,
    /// The line that every file begins with, and whether this file still lacks it.
    head: Vec<u8>,
    head_owed: bool,
    /// Events about the file itself that are still to be written.
    notes: Vec<u8>,
    /// The same, and those that are written, for other sinks.
    events: Vec<Event>,
    camera: Arc<str>,
    /// Bytes of the next write.
    out: Vec<u8>,
    trouble: Option<Trouble>,
    checked: Option<MonoTime>,
    synced: MonoTime,
    unsynced: bool,
    lost: u64,
}

/// The disk refuses lines.
struct Trouble {
    event: Event,
    at: Timestamp,
    began: MonoTime,
    try_again: MonoTime,
    /// The log itself already says so.
    noted: bool,
    lost_before: u64,
}

/// Why a line was not written.
#[derive(Debug)]
enum Refusal {
    /// Less than `min_free` is left.
    Floor { free: u64, floor: u64 },
    /// The system refused.
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl Refusal {
    fn of(doing: &'static str) -> impl FnOnce(io::Error) -> Refusal {
        move |error| Refusal::System { doing, error }
    }

    fn event(&self) -> Event {
        let kind = match self {
            Refusal::Floor { .. } => EventKind::DiskFull,
            Refusal::System { error, .. } if is_full(error) => EventKind::DiskFull,
            Refusal::System { .. } => EventKind::DiskError,
        };
        Event::new(kind).message(self.to_string())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Floor { free, floor } => write!(
                f,
                "{free} bytes are free on the disk, and {floor} are to stay free (min_free)"
            ),
            Refusal::System { doing, error } => write!(f, "{doing} failed: {error}"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// What may pass by itself, as opposed to a path that will never do.
fn may_pass(error: &io::Error) -> bool {
    is_full(error)
        || error.kind() == io::ErrorKind::ReadOnlyFilesystem
        || error.raw_os_error() == Some(nix::libc::EIO)
}

impl LogFile {
    pub(super) fn open(
        path: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        camera: &str,
    ) -> Result<LogFile, SinkError> {
        LogFile::open_in(Box::new(System), path, options, clock, camera)
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
            head: Vec::new(),
            head_owed: false,
            notes: Vec::new(),
            events: Vec::new(),
            camera: camera.into(),
            out: Vec::new(),
            trouble: None,
            checked: None,
            unsynced: false,
            lost: 0,
        };
        match log.reopen() {
            Ok(()) => log.remove_surplus(),
            Err(error) if may_pass(&error) => log.refused(&Refusal::of("opening it")(error), 0),
            Err(source) => return Err(log.error(source)),
        }
        Ok(log)
    }

    /// The line that this file and every one after it begins with.
    pub(super) fn set_head(&mut self, line: &[u8]) {
        self.head = line.to_owned();
        self.head_owed = true;
        self.append(&[]);
    }

    /// Writes a line with its newline, or counts it as lost.
    pub(super) fn append(&mut self, line: &[u8]) {
        let now = self.clock.now();
        let waiting = |trouble: &Trouble| now < trouble.try_again;
        // without a line it is only the head, which stays owed
        let (before, line_count) = (self.lost, u64::from(!line.is_empty()));
        if self.trouble.as_ref().is_some_and(waiting) {
            self.lost += line_count;
        } else if let Err(refusal) = self.try_append(line, now) {
            self.lost += line_count;
            self.refused(&refusal, before);
        }
        self.sync_if_due();
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Forces to the disk what has waited long enough.
    pub(super) fn sync_if_due(&mut self) {
        let due = self.clock.now().since(self.synced) >= self.options.fsync_interval;
        if due
            && self.trouble.is_none()
            && let Err(error) = self.sync()
        {
            self.refused(&Refusal::of("forcing it to the disk")(error), self.lost);
        }
    }

    /// Forces everything to the disk. With `complete`, lost lines are an error.
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

    fn try_append(&mut self, line: &[u8], now: MonoTime) -> Result<(), Refusal> {
        if self
            .checked
            .is_none_or(|at| now.since(at) >= CHECK_EVERY || self.trouble.is_some())
        {
            self.check(now)?;
        }
        self.compose(line, now);
        let full = |size: u64| self.len > 0 && self.len + self.out.len() as u64 > size;
        if self.is_regular() && self.options.rotate_size.is_some_and(full) {
            self.rotate()?;
            self.compose(line, now);
        }
        self.write_out().map_err(Refusal::of("writing"))?;
        (self.torn, self.head_owed) = (false, false);
        self.notes.clear();
        if self.trouble.take().is_some() {
            tracing::warn!(
                "the log '{}' can be written again; {} lines were lost so far",
                self.path.display(),
                self.lost
            );
        }
        Ok(())
    }

    /// What goes out with a line: all that is owed before it.
    fn compose(&mut self, line: &[u8], now: MonoTime) {
        self.out.clear();
        if self.torn {
            self.out.push(b'\n');
        }
        if self.head_owed {
            self.out.extend_from_slice(&self.head);
        }
        self.out.extend_from_slice(&self.notes);
        self.describe_gap(now);
        self.out.extend_from_slice(line);
    }

    /// Free space, and whether the file is still where it is looked for.
    fn check(&mut self, now: MonoTime) -> Result<(), Refusal> {
        self.checked = Some(now);
        let moved = |file: &dyn StoredFile| file.is_regular() && !file.is_at(&self.path);
        if self.file.as_deref().is_none_or(moved) {
            // another program rotates it, or it was deleted
            self.file = None;
            self.reopen().map_err(Refusal::of("opening it"))?;
        } else if let Some(file) = &self.file
            && file.is_regular()
        {
            self.len = file.len().unwrap_or(self.len); // another program may have emptied it
        }
        let floor = self.options.min_free;
        if floor > 0 && self.is_regular() {
            // not to go on and off with every line, a little more must be free to go on
            let floor = match self.trouble {
                Some(_) => floor + floor / 16,
                None => floor,
            };
            // a file system that does not know its free space is not held to any
            let free = self.storage.free_bytes(&self.path).unwrap_or(u64::MAX);
            if free < floor {
                return Err(Refusal::Floor { free, floor });
            }
        }
        Ok(())
    }

    /// Opens the file, repairs its end, and owes it the head.
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
                    self.note(Event::new(EventKind::LogRepaired).message(message));
                }
            }
        }
        self.head_owed = !self.head.is_empty();
        self.file = Some(file);
        Ok(())
    }

    /// Makes room for a new file by moving every older one up, and begins it.
    fn rotate(&mut self) -> Result<(), Refusal> {
        let failed = Refusal::of;
        self.sync().map_err(failed("forcing it to the disk"))?;
        let keep = self.options.rotate_keep.max(1);
        // only up to the first gap: when a later step fails and all is tried again, or after a
        // power cut in between, no further file is pushed out
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
            // some file systems cannot; the names are then as safe as they are
            tracing::debug!("the log's folder: {error}");
        }
        let full = self.numbered(1).display().to_string();
        let message = format!("the file before is '{full}'");
        self.note(Event::new(EventKind::Rotated).message(message));
        Ok(())
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// Files that an earlier run with a larger `rotate_keep` left behind.
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

    fn note(&mut self, event: Event) {
        push(&mut self.notes, self.clock.wall(), &self.camera, &event);
        self.events.push(event);
    }

    /// Events of the file since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// At the end of a gap: when and why it began, where the log does not say so yet, and its length.
    fn describe_gap(&mut self, now: MonoTime) {
        let Some(trouble) = &self.trouble else { return };
        if !trouble.noted {
            push(&mut self.out, trouble.at, &self.camera, &trouble.event);
        }
        let lines = self.lost - trouble.lost_before;
        let seconds = now.since(trouble.began).as_secs_f64();
        let event = Event::new(EventKind::DiskRecovered)
            .message(format!("{lines} lines were lost in {seconds:.0} s"))
            .field("lines_lost", lines);
        push(&mut self.out, self.clock.wall(), &self.camera, &event);
        self.events.push(event);
    }

    /// Writes `out`. What a failed write left behind is cut off again.
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
                let cut = file.len().and_then(|len| file.cut(len - done as u64));
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

    /// The disk refuses: said once, on stderr and as far as possible in the log itself.
    fn refused(&mut self, refusal: &Refusal, lost_before: u64) {
        let now = self.clock.now();
        if let Some(trouble) = &mut self.trouble {
            trouble.try_again = now + CHECK_EVERY;
            return;
        }
        tracing::warn!(
            "the log '{}' cannot be written: {refusal}; detection goes on, lost lines are counted",
            self.path.display()
        );
        let mut trouble = Trouble {
            event: refusal.event(),
            at: self.clock.wall(),
            began: now,
            try_again: now + CHECK_EVERY,
            noted: false,
            lost_before,
        };
        if matches!(refusal, Refusal::Floor { .. }) {
            // there is room for this one line, and a reader learns at once why the log stops
            self.out.clear();
            push(&mut self.out, trouble.at, &self.camera, &trouble.event);
            trouble.noted = !self.torn && self.write_out().is_ok();
        }
        self.events.push(trouble.event.clone());
        self.trouble = Some(trouble);
    }
}

/// Appends an event's line.
fn push(bytes: &mut Vec<u8>, at: Timestamp, camera: &str, event: &Event) {
    if let Err(error) = Line::event(at, camera, event).write_to(bytes) {
        tracing::error!("a log line cannot be encoded: {error}");
    }
}

enum Repair {
    /// The last line is whole.
    None,
    /// It only lacks its newline, or is not ours to remove.
    Closed,
    /// So many bytes of it were removed.
    Cut(u64),
}

/// Looks at the end of a file that a crash may have torn.
fn repair(file: &mut dyn StoredFile, len: u64) -> io::Result<Repair> {
    let mut tail = Vec::new();
    let mut start = len;
    let limit = len.saturating_sub(LONGEST_LINE);
    // backwards in growing steps until the newline before the last line, or the file's start
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
    // a power cut may also leave a file long enough but without its data
    let ours = line.starts_with(BEGINNING) || BEGINNING.starts_with(line) || line[0] == 0;
    if !ours || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
        return Ok(Repair::Closed);
    }
    let bytes = line.len() as u64;
    tracing::warn!("the log's last line was cut short: {bytes} bytes of it are removed");
    file.cut(len - bytes)?;
    Ok(Repair::Cut(bytes))
}

#[cfg(test)]
mod tests;

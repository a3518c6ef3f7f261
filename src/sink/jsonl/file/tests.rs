//! The log on a disk that fills up, fails, turns read-only or loses power.

use super::*;
use crate::clock::SimClock;
use crate::monitor::vitals::Vitals;
use crossbeam_channel::{Receiver, bounded, never};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;

type Contents = Arc<Mutex<Vec<u8>>>;

/// A file system in memory, with fault injection.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Contents>,
    /// Bytes left before the disk is full; `None` = endless.
    room: Option<usize>,
    /// Fails every write, truncation, rename and opening.
    broken: Option<i32>,
    renames_fail: bool,
    cuts_fail: bool,
    syncs_fail: bool,
    syncs: usize,
}

impl Disk {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn check(&self) -> io::Result<()> {
        match self.0.lock().unwrap().broken {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }

    fn text(&self, path: &str) -> String {
        let state = self.0.lock().unwrap();
        let bytes = state.files[Path::new(path)].lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let bytes = Arc::new(Mutex::new(bytes.to_owned()));
        self.set(|state| drop(state.files.insert(path.into(), bytes)));
    }

    fn names(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let name = |path: &PathBuf| path.display().to_string();
        state.files.keys().map(name).collect()
    }

    fn total(&self) -> usize {
        let state = self.0.lock().unwrap();
        let len = |bytes: &Contents| bytes.lock().unwrap().len();
        state.files.values().map(len).sum()
    }
}

impl Storage for Disk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.check()?;
        let mut state = self.0.lock().unwrap();
        let bytes = state.files.entry(path.to_owned()).or_default();
        Ok(Box::new(DiskFile {
            bytes: Arc::clone(bytes),
            disk: self.clone(),
        }))
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.lock().unwrap().files.contains_key(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        let mut state = self.0.lock().unwrap();
        if state.renames_fail {
            return Err(io::Error::from_raw_os_error(nix::libc::EACCES));
        }
        let bytes = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().unwrap().files.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let room = self.0.lock().unwrap().room;
        Ok(room.map_or(u64::MAX, |room| room as u64))
    }
}

struct DiskFile {
    bytes: Contents,
    disk: Disk,
}

impl StoredFile for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.check()?;
        let mut state = self.disk.0.lock().unwrap();
        let fits = state.room.unwrap_or(usize::MAX).min(bytes.len());
        if fits == 0 {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        state.room = state.room.map(|room| room - fits);
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.check()?;
        let mut state = self.disk.0.lock().unwrap();
        if state.cuts_fail {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        let mut bytes = self.bytes.lock().unwrap();
        let freed = bytes.len() - len as usize;
        bytes.truncate(len as usize);
        state.room = state.room.map(|room| room + freed);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        bytes.copy_from_slice(&self.bytes.lock().unwrap()[start..start + bytes.len()]);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.syncs += 1;
        match state.syncs_fail {
            true => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            false => Ok(()),
        }
    }

    fn is_at(&self, path: &Path) -> bool {
        let state = self.disk.0.lock().unwrap();
        let there = state.files.get(path);
        there.is_some_and(|bytes| Arc::ptr_eq(bytes, &self.bytes))
    }

    fn is_regular(&self) -> bool {
        true
    }
}

const HEADER: &[u8] = b"{\"type\":\"run\"}\n";

struct Rig {
    disk: Disk,
    clock: Arc<SimClock>,
    log: LogFile,
}

fn rig(disk: &Disk, options: LogOptions) -> Rig {
    let clock = Arc::new(SimClock::default());
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let storage = Box::new(disk.clone());
    let mut log = LogFile::open_in(storage, Path::new("log"), options, shared, "test").unwrap();
    log.set_header(HEADER);
    Rig {
        disk: disk.clone(),
        clock,
        log,
    }
}

impl Rig {
    fn line(&mut self, n: usize) {
        self.log
            .append(format!("{{\"type\":\"frame\",\"n\":\"{n:03}\"}}\n").as_bytes());
    }

    fn lines(&mut self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| self.line(n));
    }
}

/// The number without the leading zeros, which give all lines the same length.
fn number(text: &str) -> String {
    text.parse::<usize>().unwrap().to_string()
}

/// The kind of each line: `run`, a frame's number or an event's name. Every line must be valid JSON.
fn kinds(text: &str) -> Vec<String> {
    assert!(text.is_empty() || text.ends_with('\n'), "torn: {text}");
    let kind = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        match value["type"].as_str().unwrap() {
            "frame" => number(value["n"].as_str().unwrap()),
            "event" => value["event"].as_str().unwrap().to_owned(),
            other => other.to_owned(),
        }
    };
    text.lines().map(kind).collect()
}

fn rotating(rotate_size: u64, rotate_keep: u32) -> LogOptions {
    LogOptions {
        rotate_size: Some(rotate_size),
        rotate_keep,
        ..LogOptions::default()
    }
}

#[test]
fn rotation_holds_the_cap_and_every_file_begins_with_the_run_line() {
    let disk = Disk::default();
    let mut rig = rig(&disk, rotating(1000, 2));
    for n in 0..200 {
        rig.line(n);
        assert!(rig.disk.total() <= 3000, "line {n}: {}", rig.disk.total());
    }
    assert_eq!(rig.log.lost(), 0);
    assert_eq!(disk.names(), ["log", "log.1", "log.2"]);
    let mut numbers = Vec::new();
    for name in ["log.2", "log.1", "log"] {
        let kinds = kinds(&disk.text(name));
        assert_eq!(kinds[..2], ["run", "rotated"], "{name}");
        numbers.extend(kinds[2..].iter().map(|n| n.parse::<usize>().unwrap()));
    }
    let first = numbers[0];
    assert!(numbers.iter().copied().eq(first..200), "{numbers:?}");
}

#[test]
fn a_rotation_that_fails_again_and_again_loses_no_older_file() {
    let disk = Disk::default();
    let mut rig = rig(&disk, rotating(200, 3));
    rig.lines(0..30);
    assert_eq!(disk.names(), ["log", "log.1", "log.2", "log.3"]);
    let before: Vec<String> = ["log.1", "log.2"].map(|name| disk.text(name)).to_vec();
    disk.set(|state| state.renames_fail = true);
    for n in 30..60 {
        rig.clock.advance(CHECK_EVERY);
        rig.line(n);
    }
    assert!(disk.total() <= 800, "the cap holds");
    assert!(before.iter().all(|text| {
        let names = disk.names();
        names.iter().any(|name| disk.text(name) == *text)
    }));
    disk.set(|state| state.renames_fail = false);
    rig.clock.advance(CHECK_EVERY);
    rig.line(60);
    let kinds = kinds(&disk.text("log"));
    assert_eq!(
        kinds,
        ["run", "rotated", "disk_error", "disk_recovered", "60"]
    );
}

#[test]
fn a_full_disk_costs_lines_which_are_counted_and_never_leaves_half_a_line() {
    let disk = Disk::default();
    let mut rig = rig(&disk, LogOptions::default());
    rig.lines(0..3);
    disk.set(|state| state.room = Some(40)); // 1.5 lines
    rig.lines(3..10);
    assert_eq!(kinds(&disk.text("log")), ["run", "0", "1", "2", "3"]);
    assert_eq!(rig.log.lost(), 6);
    disk.set(|state| state.room = None);
    rig.line(10);
    assert_eq!(rig.log.lost(), 7, "not tried again before a second is over");
    rig.clock.advance(CHECK_EVERY);
    rig.line(11);
    let text = disk.text("log");
    let kinds = kinds(&text);
    assert_eq!(kinds[5..], ["disk_full", "disk_recovered", "11"]);
    let gap: Value = serde_json::from_str(text.lines().nth(6).unwrap()).unwrap();
    assert_eq!(gap["lines_lost"], 7);
}

#[test]
fn below_the_floor_nothing_is_written_but_why() {
    let disk = Disk::default();
    let options = LogOptions {
        min_free: 10_000,
        ..LogOptions::default()
    };
    let mut rig = rig(&disk, options);
    rig.line(0);
    disk.set(|state| state.room = Some(9_999));
    rig.clock.advance(CHECK_EVERY);
    rig.lines(1..5);
    assert_eq!(kinds(&disk.text("log")), ["run", "0", "disk_full"]);
    disk.set(|state| state.room = Some(10_001));
    rig.clock.advance(CHECK_EVERY);
    rig.line(5);
    assert_eq!(
        rig.log.lost(),
        5,
        "writing starts again at 1/16 above the minimum"
    );
    disk.set(|state| state.room = Some(20_000));
    rig.clock.advance(CHECK_EVERY);
    rig.line(6);
    let kinds = kinds(&disk.text("log"));
    assert_eq!(kinds, ["run", "0", "disk_full", "disk_recovered", "6"]);
}

#[test]
fn a_read_only_or_broken_disk_is_waited_for_even_at_the_start() {
    for code in [nix::libc::EROFS, nix::libc::EIO, nix::libc::ENOSPC] {
        let disk = Disk::default();
        disk.set(|state| state.broken = Some(code));
        let mut rig = rig(&disk, LogOptions::default());
        rig.lines(0..2);
        disk.set(|state| state.broken = None);
        rig.clock.advance(CHECK_EVERY);
        rig.line(2);
        let kinds = kinds(&disk.text("log"));
        let why = if code == nix::libc::ENOSPC {
            "disk_full"
        } else {
            "disk_error"
        };
        assert_eq!(kinds, ["run", why, "disk_recovered", "2"]);
        assert_eq!(rig.log.lost(), 2);
    }
}

#[test]
fn half_a_line_that_cannot_be_cut_off_is_closed_before_the_next() {
    let disk = Disk::default();
    let mut rig = rig(&disk, LogOptions::default());
    disk.set(|state| (state.room, state.cuts_fail) = (Some(10), true));
    rig.line(0);
    disk.set(|state| state.room = None);
    rig.clock.advance(CHECK_EVERY);
    rig.line(1);
    let text = disk.text("log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "{\"type\":\"f");
    assert_eq!(
        kinds(&[lines[2], lines[3], lines[4], ""].join("\n")),
        ["disk_full", "disk_recovered", "1"]
    );
}

#[test]
fn a_line_torn_by_a_crash_is_removed_and_nothing_else_is() {
    let whole = "{\"type\":\"frame\",\"n\":1}\n";
    let long = format!("{{\"type\":\"frame\",\"n\":\"{}", "x".repeat(100_000));
    for (tail, kept, repaired) in [
        ("", "", false),
        ("{\"type\":\"frame\",\"n\":2", "", true),
        ("{\"ty", "", true),
        (long.as_str(), "", true),
        ("{\"type\":\"fra\0\0\0\0", "", true),
        ("\0\0\0\0\0\0\0\0", "", true),
        // complete except for its newline
        (
            "{\"type\":\"frame\",\"n\":2}",
            "{\"type\":\"frame\",\"n\":2}\n",
            false,
        ),
        // written by another program
        ("my notes", "my notes\n", false),
    ] {
        for before in ["", whole] {
            let disk = Disk::default();
            disk.put("log", format!("{before}{tail}").as_bytes());
            rig(&disk, LogOptions::default());
            let text = disk.text("log");
            let rest = text.strip_prefix(&format!("{before}{kept}")).unwrap();
            let expected: &[&str] = match repaired {
                true => &["run", "log_repaired"],
                false => &["run"],
            };
            assert_eq!(kinds(rest), expected, "{tail:.30}");
        }
    }
}

#[test]
fn a_file_that_was_moved_away_or_deleted_is_made_anew() {
    let disk = Disk::default();
    let mut rig = rig(&disk, LogOptions::default());
    rig.line(0);
    disk.rename(Path::new("log"), Path::new("elsewhere"))
        .unwrap();
    rig.clock.advance(CHECK_EVERY);
    rig.line(1);
    assert_eq!(kinds(&disk.text("elsewhere")), ["run", "0"]);
    assert_eq!(kinds(&disk.text("log")), ["run", "1"]);
}

#[test]
fn lines_are_forced_to_the_disk_when_due_at_rotation_and_at_the_end() {
    let disk = Disk::default();
    let mut rig = rig(&disk, rotating(1000, 1));
    let syncs = || disk.0.lock().unwrap().syncs;
    rig.lines(0..5);
    assert_eq!(syncs(), 0);
    rig.clock.advance(Duration::from_secs(10));
    rig.log.sync_if_due();
    rig.log.sync_if_due();
    assert_eq!(syncs(), 1, "once");
    rig.lines(5..45);
    assert_eq!((syncs(), disk.names().len()), (2, 2));
    rig.log.finish(true).unwrap();
    assert_eq!(syncs(), 3);

    let every_line = LogOptions {
        fsync_interval: Duration::ZERO,
        ..LogOptions::default()
    };
    let mut rig = super::tests::rig(&Disk::default(), every_line);
    rig.lines(0..5);
    assert_eq!(rig.disk.0.lock().unwrap().syncs, 6);
}

#[test]
fn a_sync_that_fails_is_told_and_an_incomplete_log_is_an_error_where_it_must_be_complete() {
    let disk = Disk::default();
    let mut rig = rig(&disk, LogOptions::default());
    disk.set(|state| state.syncs_fail = true);
    rig.clock.advance(Duration::from_secs(10));
    rig.line(0);
    disk.set(|state| state.syncs_fail = false);
    rig.line(1);
    rig.clock.advance(CHECK_EVERY);
    rig.line(2);
    let kinds = kinds(&disk.text("log"));
    assert_eq!(kinds, ["run", "0", "disk_error", "disk_recovered", "2"]);
    let error = rig.log.finish(true).unwrap_err().to_string();
    assert!(error.contains("1 line"), "{error}");
}

fn context(interrupted: Receiver<()>) -> SinkContext {
    SinkContext {
        live: true,
        fps: None,
        clock: Arc::new(SimClock::default()),
        camera: "test".into(),
        interrupted,
        vitals: Vitals::default(),
    }
}

#[test]
fn a_pipe_without_a_reader_keeps_what_it_holds_and_is_given_up_at_the_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (run, interrupted) = bounded::<()>(0);
    let mut log = LogFile::open(&path, LogOptions::default(), &context(interrupted)).unwrap();
    log.set_header(HEADER);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    drop(run);
    // a pipe holds 64 KiB
    (0..100).for_each(|_| log.append(&line));
    let lost = log.lost();
    assert!((20..60).contains(&lost), "{lost} of 100 lines lost");
    let mut reader = File::open(&path).unwrap();
    let mut held = vec![0; HEADER.len() + line.len()];
    reader.read_exact(&mut held).unwrap();
    assert_eq!(held, [HEADER, &line].concat(), "the reader comes late");
    let error = log.finish(true).unwrap_err().to_string();
    assert!(error.contains(&format!("missing {lost} lines")), "{error}");
}

#[test]
fn on_a_real_disk_a_second_process_is_refused_and_rotation_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let context = context(never());
    let mut log = LogFile::open(&path, rotating(1000, 1), &context).unwrap();
    log.set_header(HEADER);
    let second = LogFile::open(&path, LogOptions::default(), &context);
    let error = second.err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("another process"), "{source}");
    for _ in 0..100 {
        log.append(b"{\"type\":\"frame\",\"n\":\"1\"}\n");
    }
    log.finish(true).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 2);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kinds(&text)[..2], ["run", "rotated"]);
    assert!(!dir.path().join("log.2").exists() && text.len() <= 1000);
    let system = System {
        interrupted: never(),
    };
    assert!(system.free_bytes(&path).unwrap() > 0);
}

#[test]
fn files_beyond_a_smaller_keep_are_removed_at_the_start() {
    let disk = Disk::default();
    for name in ["log.1", "log.2", "log.3", "log.4", "log.20260102"] {
        disk.put(name, b"");
    }
    rig(&disk, rotating(1000, 2));
    assert_eq!(disk.names(), ["log", "log.1", "log.2", "log.20260102"]);
}

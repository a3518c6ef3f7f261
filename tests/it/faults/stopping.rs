//! One signal ends the program within 3 s, wherever it waits: a row for each source, each output and
//! each command, brought to the point where it waits for what never comes.

use crate::support::{Follow, Limit, PATIENCE, Running, count, lines, vovcam};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::any::Any;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The program promises 3 s; a machine that does much else takes longer.
const LIMIT: Duration = Duration::from_secs(6);

/// A run with a small network that is ready at once.
const QUICK: [&str; 5] = ["--headless", "--input", "64", "--engine", "reference"];

/// A program that is brought to wait.
struct Row {
    command: Command,
    /// Returns once it waits.
    waits: Box<dyn FnOnce(&Child)>,
    end: End,
    /// Part of its messages.
    says: &'static str,
    /// Its log, which must be whole, from the run's first message to the last figures.
    log: Option<PathBuf>,
    /// What is there as long as the program.
    keeps: Option<Box<dyn Any>>,
}

/// How a program ends.
#[derive(Debug, PartialEq)]
enum End {
    Code(i32),
    /// By the signal, which a command without anything to complete does not handle.
    Signal,
}

impl End {
    fn of(status: ExitStatus) -> End {
        match (status.code(), status.signal()) {
            (Some(code), _) => End::Code(code),
            (None, signal) => {
                assert_eq!(signal, Some(Signal::SIGTERM as i32));
                End::Signal
            }
        }
    }
}

impl Row {
    /// A run of `source` that logs to a file.
    fn source(dir: &Path, source: &str) -> Row {
        let log = dir.join("log.jsonl");
        let mut command = vovcam();
        command.args(QUICK).args(["--source", source, "--jsonl"]);
        command.arg(&log).stdin(Stdio::null());
        Row {
            command,
            waits: Box::new(|child| asleep(child, "vc-capture")),
            end: End::Code(0),
            says: "frames in",
            log: Some(log),
            keeps: None,
        }
    }

    /// A run of `source` that logs to a place where nobody reads.
    fn log(source: &[&str], log: &Path) -> Row {
        let mut command = vovcam();
        command.args(QUICK).args(source).arg("--jsonl").arg(log);
        Row {
            command,
            waits: Box::new(|_| ()),
            end: End::Code(0),
            says: "nobody reads it",
            log: None,
            keeps: None,
        }
    }

    /// A command that waits in its first thread.
    fn command(args: &[&str], path: &Path) -> Row {
        let mut command = vovcam();
        command.args(args).arg(path);
        Row {
            command,
            waits: Box::new(|child| asleep(child, "vovcam")),
            end: End::Signal,
            says: "",
            log: None,
            keeps: None,
        }
    }
}

/// Starts the row's program, lets it come to wait, sends one signal, and expects its end.
fn check(row: impl FnOnce(&Path) -> Row) {
    let dir = tempfile::tempdir().unwrap();
    let mut row = row(dir.path());
    let messages = dir.path().join("messages");
    row.command.stderr(File::create(&messages).unwrap());
    let mut child = row.command.spawn().unwrap();
    let _limit = Limit::of(&child);
    (row.waits)(&child);
    assert_eq!(child.try_wait().unwrap(), None, "it is still there");
    let stdin = child.stdin.take(); // `wait` would close it, which ends a source
    let asked = Instant::now();
    kill(pid(&child), Signal::SIGTERM).unwrap();
    let end = End::of(child.wait().unwrap());
    let took = asked.elapsed();
    drop(stdin);
    let said = std::fs::read_to_string(&messages).unwrap();
    assert_eq!(end, row.end, "after {took:?}: {said}");
    assert!(took < LIMIT, "it took {took:?}: {said}");
    assert!(said.contains(row.says), "no '{}' in: {said}", row.says);
    drop(row.keeps);
    if let Some(log) = row.log {
        let lines = lines(&std::fs::read_to_string(log).unwrap());
        let kinds = [&lines[0]["type"], &lines.last().unwrap()["type"]];
        assert_eq!(kinds, ["run", "stats"], "{lines:?}");
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Waits for a condition that no event tells.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// The state of a program's thread, by its name.
fn state(program: Pid, thread: &str) -> Option<char> {
    let tasks = std::fs::read_dir(format!("/proc/{program}/task")).ok()?;
    let stats = tasks.flatten().map(|task| task.path().join("stat"));
    let mut stats = stats.filter_map(|path| std::fs::read_to_string(path).ok());
    stats.find_map(|stat| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let state = rest.trim_start().chars().next()?;
        (name == thread).then_some(state)
    })
}

/// Waits until a thread sleeps whenever it is looked at: it waits for something.
fn asleep(child: &Child, thread: &str) {
    let mut times = 0;
    until(&format!("'{thread}' sleeps"), || {
        times = match state(pid(child), thread) {
            Some('S' | 'D') => times + 1,
            Some('Z') => panic!("it has ended"),
            _ => 0,
        };
        times == 100
    });
}

fn pipe_in(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

/// Makes a pipe as small as it gets, and waits until it is full.
fn fill_up(pipe: impl AsFd) {
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    until("the pipe is full", || {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    });
}

/// Waits until the program has opened a named pipe and filled it. Nobody reads it.
fn fill_up_named(path: &Path) {
    let mut options = File::options();
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let mut opened = None;
    until("the log is open", || match options.open(path) {
        Ok(pipe) => {
            opened = Some(pipe);
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(Errno::ENXIO as i32));
            false
        }
    });
    fill_up(opened.unwrap());
}

/// A program in a folder that comes first in PATH.
fn stand_in(dir: &Path, name: &str, script: &str) -> String {
    let path = dir.join(name);
    let text = format!("#!/bin/sh\ndir={}\n{script}\n", dir.display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", dir.display())
}

/// Writes two grey frames of 64x64 pixels and then nothing, whatever it is asked.
const DEAF: &str = r#"[ "$1" = -version ] && exit 0
trap '' INT TERM HUP
{
    printf 'YUV4MPEG2 W64 H64 F25:1 C420mpeg2\n'
    for n in 1 2; do printf 'FRAME\n'; head -c 6144 /dev/zero; done
} >&0
while :; do sleep 1000; done"#;

/// A run of `source` behind a program that neither sends nor ends.
fn behind(dir: &Path, source: &str, program: &str) -> Row {
    let mut row = Row::source(dir, source);
    row.command.env("PATH", stand_in(dir, program, DEAF));
    row
}

/// A row that hangs before the run begins: there is nothing to log.
fn at_the_start(mut row: Row, started: PathBuf) -> Row {
    (row.says, row.log) = ("", None);
    row.waits = Box::new(move |_| until("the program is asked", || started.exists()));
    row
}

macro_rules! rows {
    ($($name:ident: $row:expr;)*) => {
        $(#[test]
        fn $name() {
            check($row);
        })*
    };
}

// sources
rows! {
    standard_input_without_data: |dir| {
        let mut row = Row::source(dir, "-");
        row.command.args(["--format", "mjpeg"]).stdin(Stdio::piped());
        row
    };
    frames_from_a_named_pipe_without_a_writer: |dir| {
        let mut row = Row::source(dir, pipe_in(dir, "frames").to_str().unwrap());
        row.command.args(["--format", "mjpeg"]);
        row
    };
    a_clip_that_is_a_pipe_without_a_writer: |dir| {
        let path = pipe_in(dir, "clip.avi");
        let mut row = Row::source(dir, path.to_str().unwrap());
        // as ffmpeg does, which waits in open(2)
        let script = "[ \"$1\" = -version ] && exit 0\ntouch $dir/asked; exec cat $dir/clip.avi";
        row.command.env("PATH", stand_in(dir, "ffmpeg", script));
        at_the_start(row, dir.join("asked"))
    };
    a_program_that_does_not_tell_its_version: |dir| {
        let mut row = Row::source(dir, "clip.mp4");
        let script = "trap '' INT TERM; touch $dir/asked; while :; do sleep 1000; done";
        row.command.env("PATH", stand_in(dir, "ffmpeg", script));
        at_the_start(row, dir.join("asked"))
    };
    a_clip_behind_a_program_that_is_deaf: |dir| behind(dir, "clip.mp4", "ffmpeg");
    a_stream_behind_a_program_that_is_deaf: |dir| behind(dir, "rtsp://camera/s", "ffmpeg");
    a_pipeline_that_is_deaf: |dir| behind(dir, "gst:videotestsrc", "gst-launch-1.0");
    a_camera_that_is_waited_for: |dir| {
        let mut row = Row::source(dir, "pattern:1");
        row.command = vovcam();
        row.command.args(QUICK).arg("--device").arg(dir.join("none"));
        row.command.arg("--jsonl").arg(row.log.as_ref().unwrap());
        row
    };
    a_pattern_of_a_frame_a_quarter_hour: |dir| {
        let mut row = Row::source(dir, "pattern");
        row.command.args(["--fps", "0.001"]);
        row
    };
}

const CLIP: [&str; 4] = ["--source", "pattern:100000", "--size", "64x64"];
const CAMERA: [&str; 6] = ["--source", "pattern", "--fps", "200", "--size", "64x64"];

/// A log in a named pipe whose reader, if any, does not read.
fn in_a_pipe(dir: &Path, source: &[&str], end: End) -> Row {
    let path = pipe_in(dir, "log");
    let mut row = Row::log(source, &path);
    row.waits = Box::new(move |_| fill_up_named(&path));
    row.end = end;
    row
}

/// A log on standard output, a pipe that nobody reads.
fn on_standard_output(source: &[&str], end: End) -> Row {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut row = Row::log(source, Path::new("-"));
    let ours = writer.try_clone().unwrap();
    row.command.stdout(writer);
    row.waits = Box::new(move |_| fill_up(&ours));
    row.end = end;
    row.keeps = Some(Box::new(reader));
    row
}

// outputs: a clip's log must be complete
rows! {
    a_clips_log_in_a_pipe_without_a_reader: |dir| in_a_pipe(dir, &CLIP, End::Code(1));
    a_cameras_log_in_a_pipe_without_a_reader: |dir| in_a_pipe(dir, &CAMERA, End::Code(0));
    a_cameras_log_in_a_pipe_with_a_reader_that_is_stopped: |dir| {
        let mut row = in_a_pipe(dir, &CAMERA, End::Code(0));
        row.keeps = Some(Box::new(Stopped::reader(&dir.join("log"))));
        row
    };
    a_clips_log_on_standard_output_that_nobody_reads: |_| on_standard_output(&CLIP, End::Code(1));
    a_cameras_log_on_standard_output_that_nobody_reads: |_| {
        on_standard_output(&CAMERA, End::Code(0))
    };
    a_log_that_nobody_reads_after_the_source_has_ended: |_| {
        let source = ["--source", "pattern:60", "--size", "64x64"];
        let mut row = on_standard_output(&source, End::Code(1));
        let full = row.waits;
        row.waits = Box::new(|child| {
            full(child);
            // control ends when the detector has
            until("the run stops", || state(pid(child), "vc-control").is_none());
        });
        row
    };
}

// commands, and what a run reads before it can be asked to end in order
rows! {
    settings_in_a_pipe_without_a_writer: |dir| Row::command(&["--config"], &pipe_in(dir, "p"));
    a_model_in_a_pipe_without_a_writer: |dir| {
        Row::command(&["--source", "pattern", "--model"], &pipe_in(dir, "model.json"))
    };
    detect_on_a_pipe_without_a_writer: |dir| {
        Row::command(&["detect", "--engine", "reference"], &pipe_in(dir, "p"))
    };
    eval_on_a_pipe_without_a_writer: |dir| Row::command(&["eval", "--data"], &pipe_in(dir, "p"));
    calibrate_on_a_pipe_without_a_writer: |dir| {
        Row::command(&["calibrate", "--source", "pattern", "--model"], &pipe_in(dir, "model.json"))
    };
}

/// A process that has opened a pipe for reading and was stopped then.
struct Stopped(Child);

impl Stopped {
    fn reader(pipe: &Path) -> Stopped {
        let script = "exec <\"$0\"; kill -STOP $$; cat >/dev/null";
        let reader = Command::new("sh").args(["-c", script]).arg(pipe).spawn();
        Stopped(reader.unwrap())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn messages_that_nobody_reads_hold_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut follow = Follow::file(&log);
    let (_reader, mut messages) = std::io::pipe().unwrap();
    fcntl(&messages, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    messages.write_all(&[b'\n'; 4096]).unwrap();
    let mut run = vovcam();
    run.args(QUICK).args(CAMERA).arg("-vv");
    run.arg("--jsonl").arg(&log).stderr(messages);
    let mut child = run.spawn().unwrap();
    let _limit = Limit::of(&child);
    for _ in 0..20 {
        follow.line(); // detection goes on
    }
    let asked = Instant::now();
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert_eq!(End::of(child.wait().unwrap()), End::Code(0));
    assert!(asked.elapsed() < LIMIT, "it took {:?}", asked.elapsed());
    let lines = lines(&std::fs::read_to_string(log).unwrap());
    assert_eq!(lines.last().unwrap()["type"], "stats");
}

#[test]
fn the_first_process_of_a_container_ends_like_any_other() {
    let namespace = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let container = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(namespace).arg(program);
        command
    };
    if !container("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        return; // not everybody may have a namespace of his own
    }
    let dir = tempfile::tempdir().unwrap();
    let pipe = pipe_in(dir.path(), "picture");
    let program = env!("CARGO_BIN_EXE_vovcam");
    let mut outer = container(program);
    outer.args(["detect", "--engine", "reference"]).arg(&pipe);
    let mut outer = outer.spawn().unwrap();
    let _limit = Limit::of(&outer);
    let children = format!("/proc/{0}/task/{0}/children", outer.id());
    let mut inner = None;
    until("the program has started", || {
        let pids = std::fs::read_to_string(&children).unwrap_or_default();
        inner = pids.trim().parse().ok().map(Pid::from_raw);
        inner.is_some_and(|pid| state(pid, "vovcam") == Some('S'))
    });
    kill(inner.unwrap(), Signal::SIGTERM).unwrap();
    assert_eq!(End::of(outer.wait().unwrap()), End::Code(143));
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let dir = tempfile::tempdir().unwrap();
        // a source that takes its time
        let mut row = behind(dir.path(), "rtsp://camera/s", "ffmpeg");
        let mut child = row.command.stderr(Stdio::piped()).spawn().unwrap();
        let _limit = Limit::of(&child);
        asleep(&child, "vc-capture");
        kill(pid(&child), signal).unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap());
        let stopping = |line: std::io::Result<String>| line.unwrap().contains("again to leave");
        assert!(messages.lines().any(stopping));
        kill(pid(&child), signal).unwrap();
        assert_eq!(End::of(child.wait().unwrap()), End::Code(code));
    }
}

#[test]
fn a_log_in_a_pipe_whose_reader_comes_late_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe_in(dir.path(), "log");
    let mut run = vovcam();
    run.args(QUICK)
        .args(["--source", "pattern:3", "--size", "64x64"]);
    let mut child = run.arg("--jsonl").arg(&path).spawn().unwrap();
    let _limit = Limit::of(&child);
    let mut log = String::new();
    File::open(&path).unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(End::of(child.wait().unwrap()), End::Code(0));
    assert_eq!(count(&lines(&log), "frame"), 3);
}

#[test]
fn settings_in_a_pipe_are_read_once_and_no_reload_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe_in(dir.path(), "settings");
    let mut run = vovcam();
    run.args(QUICK)
        .args(CAMERA)
        .args(["--jsonl", "-", "--config"]);
    let mut run = Running::start(run.arg(&path));
    std::fs::write(&path, "threshold = 1.0\n").unwrap();
    run.frame();
    run.signal("-HUP");
    assert!(run.event("config_rejected").contains("a second time"));
    run.stop();
}

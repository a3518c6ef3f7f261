//! A child process that writes frames and never outlives this process.
//!
//! It runs in a process group of its own, so that Ctrl-C on the terminal reaches only this
//! process, and so that the child and everything it started can be killed together. If this
//! process dies, the kernel kills the child (`PR_SET_PDEATHSIG`, prctl(2)). Frames arrive through
//! the child's descriptor 0, because some libraries (NVIDIA's Argus) print on descriptor 1;
//! descriptors 1 and 2 go to [`ProgramLog`].
#![allow(
    unsafe_code,
    reason = "prctl(PR_SET_PDEATHSIG) and fcntl must be called between fork and exec"
)]

use super::address::Secrets;
use super::pipe::Pipe;
use super::program_log::ProgramLog;
use super::{CaptureError, CaptureOptions};
use crate::clock::{MonoTime, SystemClock};
use crossbeam_channel::{Receiver, RecvTimeoutError, never};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// A program with its arguments.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) args: Vec<OsString>,
    pub(super) script: Option<Script>,
    /// How to install the program, for the error if it is missing.
    pub(super) install: &'static str,
    /// The source that it reads, for messages; without secrets.
    pub(super) input: String,
    /// What its messages must not show.
    pub(super) secrets: Secrets,
}

/// A text that the program reads from a pipe: its arguments are shown to every user of the machine.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) text: String,
    /// Index of the argument that becomes `pipe:N`, as ffmpeg names a descriptor.
    pub(super) argument: usize,
}

/// Time for a child to exit after SIGINT, or after it closed its output. A run that is interrupted
/// waits a little longer for its source.
const GRACE: Duration = Duration::from_secs(1);
/// Time for a program to tell its version: it may have to be read from a slow disk.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Interval between checks whether it has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running program and the pipe with its frames.
pub(super) struct Child {
    process: std::process::Child,
    /// Disconnects when the run is to stop.
    stop: Receiver<()>,
    /// `None` after [`Child::end`].
    data: Option<BufReader<Pipe>>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts the program. `PR_SET_PDEATHSIG` kills the child when the **thread** that started it
    /// exits (prctl(2)), so call this from the main thread or from the thread that reads.
    ///
    /// # Errors
    /// [`CaptureError::Missing`] if the program is not installed, [`CaptureError::Program`] if it
    /// cannot be started.
    pub(super) fn spawn(launch: &Launch, options: &CaptureOptions) -> Result<Child, CaptureError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CaptureError::Missing {
                program: launch.program.clone(),
                input: launch.input.clone(),
                install: launch.install,
            },
            _ => CaptureError::Program {
                program: launch.program.clone(),
                input: launch.input.clone(),
                reason: format!("cannot be started: {error}"),
            },
        };
        let (data, data_in) = io::pipe().map_err(failed)?;
        let (messages, messages_in) = io::pipe().map_err(failed)?;
        let mut args = launch.args.clone();
        let mut secrets = launch.secrets.clone();
        let script = launch.script.as_ref();
        let pipe = script.map(|script| filled_pipe(&script.text)).transpose();
        let pipe = pipe.map_err(failed)?;
        if let (Some(script), Some(pipe)) = (script, &pipe) {
            let name = format!("pipe:{}", pipe.as_raw_fd());
            secrets.put(&name, &launch.input);
            args[script.argument] = name.into();
        }
        let mut command = Command::new(&launch.program);
        command
            .args(args)
            .stdin(data_in)
            .stdout(messages_in.try_clone().map_err(failed)?)
            .stderr(messages_in)
            .process_group(0);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name); // only this process notifies the service manager
        }
        die_with_parent(&mut command);
        if let Some(pipe) = &pipe {
            inherit(&mut command, pipe.as_raw_fd());
        }
        let process = command.spawn().map_err(failed)?;
        let log = ProgramLog::new(messages, &launch.program, secrets, &options.clock);
        let data = File::from(OwnedFd::from(data));
        let data = Pipe::new(data, Some(log), &options.stop, &options.clock);
        Ok(Child {
            process,
            stop: options.stop.clone(),
            data: Some(BufReader::with_capacity(1 << 16, data)),
            status: None,
        })
    }

    /// The program's frame data.
    ///
    /// # Errors
    /// `BrokenPipe` after [`Child::end`].
    pub(super) fn data(&mut self) -> io::Result<&mut BufReader<Pipe>> {
        self.data.as_mut().ok_or(io::ErrorKind::BrokenPipe.into())
    }

    /// See [`ProgramLog::frame_time`].
    pub(super) fn frame_time(&mut self, frame: u64) -> Option<i64> {
        let pipe = self.data.as_mut()?.get_mut();
        pipe.log.as_mut()?.frame_time(frame)
    }

    /// Deadline of reads, see [`Pipe::set_deadline`].
    pub(super) fn set_deadline(&mut self, deadline: Option<MonoTime>) {
        if let Some(data) = &mut self.data {
            data.get_mut().set_deadline(deadline);
        }
    }

    /// Ends the program and returns its exit status and the last line of its messages. A program
    /// that closed its output gets [`GRACE`] to exit by itself.
    pub(super) fn end(&mut self) -> (Option<ExitStatus>, Option<String>) {
        let exited = exits_within(self.pid(), GRACE, &self.stop);
        let data = self.data.take();
        let last_line = data.and_then(|data| data.into_inner().log?.drain());
        self.kill(exited);
        (self.status, last_line)
    }

    /// Kills the process group. SIGINT goes first, so that the client of a camera daemon
    /// (nvargus-daemon) can release the camera; SIGKILL follows after [`GRACE`].
    fn kill(&mut self, exited: bool) {
        if self.status.is_some() {
            return;
        }
        // closing the pipe unblocks a child that waits to write to it
        self.data = None;
        if !exited {
            // an error here or below means that the process group is gone
            let _ = killpg(self.pid(), Signal::SIGINT);
            exits_within(self.pid(), GRACE, &never());
        }
        let _ = killpg(self.pid(), Signal::SIGKILL);
        self.status = self.process.wait().ok();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill(false);
    }
}

/// Waits for the exit without reaping the process: while it is a zombie, its process group id is not
/// reused. A stop ends the wait.
fn exits_within(pid: Pid, time: Duration, stop: &Receiver<()>) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let polls = time.as_millis() / POLL_INTERVAL.as_millis();
    for poll in 0..=polls {
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            _ => return true,
        }
        let stopped = || stop.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Disconnected);
        if poll < polls && stopped() {
            break;
        }
    }
    false
}

/// What `PROGRAM -version` prints, within [`ANSWER_TIME`]; `None` if it is not installed, fails or
/// hangs, or at the stop.
pub(super) fn version(program: &str, stop: &Receiver<()>) -> Option<String> {
    let clock = SystemClock::shared();
    let (answer, answer_in) = io::pipe().ok()?;
    let mut command = Command::new(program);
    let command = command
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(answer_in);
    let mut process = command
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    command.stdout(Stdio::null()); // drops this process' end of the pipe
    let answer = File::from(OwnedFd::from(answer));
    let mut answer = Pipe::new(answer, None, stop, &clock);
    answer.set_deadline(Some(clock.now() + ANSWER_TIME));
    let mut text = String::new();
    let read = answer.read_to_string(&mut text);
    let pid = Pid::from_raw(process.id().cast_signed());
    if read.is_err() || !exits_within(pid, GRACE, stop) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    process.wait().ok()?.success().then_some(text)
}

/// A pipe that holds a text, and whose writing end is closed.
fn filled_pipe(text: &str) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    // a text that the pipe does not hold is an error: nobody reads yet
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    writer.write_all(text.as_bytes())?;
    Ok(reader)
}

/// Leaves a descriptor open in the program.
fn inherit(command: &mut Command, fd: RawFd) {
    let pre_exec = move || {
        // SAFETY: the caller keeps the descriptor open until the command has started.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and no memory
    // may be allocated: `pre_exec` makes the system call fcntl, and its errors are plain numbers.
    unsafe {
        command.pre_exec(pre_exec);
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let pre_exec = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // the parent may have died before prctl took effect
        match std::os::unix::process::parent_id() == parent {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and no memory
    // may be allocated: `pre_exec` makes the system calls prctl and getppid, and its errors are
    // plain numbers.
    unsafe {
        command.pre_exec(pre_exec);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;
    use std::os::unix::fs::PermissionsExt;

    fn shell(script: &str) -> Child {
        let launch = Launch {
            program: "sh".to_owned(),
            args: vec!["-c".into(), script.into()],
            script: None,
            install: "",
            input: "test".to_owned(),
            secrets: Secrets::default(),
        };
        Child::spawn(&launch, &test_options()).unwrap()
    }

    fn read(child: &mut Child) -> String {
        let mut text = String::new();
        child.data().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Whether a process exists and is not a zombie.
    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn data_come_on_descriptor_0_and_all_the_rest_is_messages() {
        let mut child = shell("echo noise; echo data >&0; echo reason >&2; exit 3");
        assert_eq!(read(&mut child), "data\n");
        let (status, last_line) = child.end();
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(last_line.as_deref(), Some("reason"));
    }

    #[test]
    fn a_flood_of_messages_holds_nothing_up() {
        // more than a pipe holds, before the data
        let mut child = shell(
            "i=0; while [ $i -lt 20000 ]; do echo message $i; i=$((i+1)); done; echo data >&0",
        );
        assert_eq!(read(&mut child), "data\n");
        assert_eq!(child.end().1.as_deref(), Some("message 19999"));
    }

    #[test]
    fn a_program_that_ignores_the_request_is_ended_with_all_that_it_started() {
        let mut child = shell("trap '' INT TERM; sleep 1000 & echo $! >&0; wait; sleep 1000");
        let mut line = String::new();
        io::BufRead::read_line(child.data().unwrap(), &mut line).unwrap();
        let (grandchild, own) = (line.trim(), child.process.id().to_string());
        assert!(lives(grandchild) && lives(&own));
        drop(child);
        assert!(!lives(&own));
        // the signal was sent; when the process exits depends on the scheduler
        while lives(grandchild) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_version_is_told_and_a_program_that_hangs_is_not_waited_for_beyond_the_stop() {
        let dir = tempfile::tempdir().unwrap();
        let program = |script: &str| {
            let path = dir.path().join("program");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let told = version(&program("echo \"$1\" 5.1"), &never());
        assert_eq!(told.as_deref(), Some("-version 5.1\n"));
        assert_eq!(version(&program("echo 5.1; exit 1"), &never()), None);
        assert_eq!(version("no-such-program", &never()), None);
        let (stopped, stop) = crossbeam_channel::bounded(0);
        drop(stopped);
        assert_eq!(version(&program("exec sleep 1000"), &stop), None);
    }

    #[test]
    fn a_script_is_read_from_a_pipe_that_messages_do_not_name() {
        let launch = Launch {
            program: "sh".to_owned(),
            args: ["-c", "cat /dev/fd/${0#pipe:} >&0; echo no $0 >&2", "", "x"]
                .map(OsString::from)
                .into(),
            script: Some(Script {
                text: "line 1\nline 2\n".to_owned(),
                argument: 2,
            }),
            install: "",
            input: "rtsp://camera".to_owned(),
            secrets: Secrets::default(),
        };
        // a second start gets the text again
        for _ in 0..2 {
            let mut child = Child::spawn(&launch, &test_options()).unwrap();
            assert_eq!(read(&mut child), "line 1\nline 2\n");
            assert_eq!(child.end().1.as_deref(), Some("no rtsp://camera"));
        }
    }

    #[test]
    fn a_script_that_no_pipe_holds_is_an_error_and_no_hang() {
        let error = filled_pipe(&"x".repeat(1 << 24)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_how_to_install_it() {
        let launch = Launch {
            program: "no-such-program".to_owned(),
            args: vec![],
            script: None,
            install: "apt-get install it",
            input: "rtsp://camera".to_owned(),
            secrets: Secrets::default(),
        };
        let error = Child::spawn(&launch, &test_options()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "'rtsp://camera' needs the program 'no-such-program', which is not installed: apt-get install it"
        );
    }
}

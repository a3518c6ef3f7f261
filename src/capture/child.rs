//! A program that writes frames, as a child process that never outlives this one.
//!
//! It gets a process group of its own, so that a Ctrl-C on the terminal is this program's to
//! handle, and all that it started can be ended together. Should this process die, the kernel
//! kills it. Its data come through descriptor 0: on descriptor 1 some libraries (NVIDIA's Argus)
//! print, which belongs to the messages, as does what comes on descriptor 2.
#![allow(
    unsafe_code,
    reason = "the kernel's promise to kill the child is made between fork and exec"
)]

use super::pipe::{Aside, Pipe};
use super::{CaptureError, CaptureOptions};
use crate::clock::{Clock, MonoTime};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, BufReader, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    /// How to get the program where it is missing.
    pub(super) install: &'static str,
    /// What it is started for, as shown in messages.
    pub(super) input: String,
}

/// How long a child may take to end after it was asked to, or closed its output.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running program and its data.
pub(super) struct Child {
    process: std::process::Child,
    /// `None` once it was told to end.
    data: Option<BufReader<Pipe<Messages>>>,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts the program. The kernel's promise holds as long as the calling **thread** lives, so
    /// this must be the main thread or the one that reads.
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
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.args)
            .stdin(data_in)
            .stdout(messages_in.try_clone().map_err(failed)?)
            .stderr(messages_in)
            .process_group(0);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name); // the service manager is not the child's business
        }
        die_with_parent(&mut command);
        let process = command.spawn().map_err(failed)?;
        let messages = Messages::new(messages, &launch.program, &options.clock);
        let data = File::from(OwnedFd::from(data));
        let data = Pipe::new(data, messages, &options.stop, &options.clock);
        Ok(Child {
            process,
            data: Some(BufReader::with_capacity(1 << 16, data)),
            ended: None,
        })
    }

    /// What the program writes; at its end once it was told to end.
    pub(super) fn data(&mut self) -> io::Result<&mut BufReader<Pipe<Messages>>> {
        self.data.as_mut().ok_or(io::ErrorKind::BrokenPipe.into())
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<MonoTime>) {
        if let Some(data) = &mut self.data {
            data.get_mut().set_deadline(deadline);
        }
    }

    /// Ends the program, after waiting a moment for it to end by itself where it closed its data;
    /// how it ended, and the last that it said.
    pub(super) fn end(&mut self) -> (Option<ExitStatus>, Option<String>) {
        let by_itself = self.ends_within(GRACE);
        let said = self.data.take().and_then(|data| {
            let mut messages = data.into_inner().aside;
            messages.listen_to_the_end();
            messages.last
        });
        self.kill(by_itself);
        (self.ended, said)
    }

    /// Whether it has ended; it stays a zombie, so that its group's number is not given away.
    fn ends_within(&self, time: Duration) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let looks = time.as_millis() / LOOK_EVERY.as_millis();
        for look in 0..=looks {
            match waitid(Id::Pid(self.pid()), flags) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                _ => return true,
            }
            if look < looks {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        false
    }

    /// Asks it to end, as a Ctrl-C would (a camera's daemon wants its clients to say goodbye), and
    /// then ends it with everything that it started.
    fn kill(&mut self, ended: bool) {
        if self.ended.is_some() {
            return;
        }
        // a child that is held up by its full pipes must notice
        self.data = None;
        if !ended {
            // errors here and below: there is nothing left to be ended
            let _ = killpg(self.pid(), Signal::SIGINT);
            self.ends_within(GRACE);
        }
        let _ = killpg(self.pid(), Signal::SIGKILL);
        self.ended = self.process.wait().ok();
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

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let promise = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // the parent may have died before the promise was made
        match std::os::unix::process::parent_id() == parent {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and no memory
    // may be allocated: `promise` makes the system calls prctl and getppid, and its errors are
    // plain numbers.
    unsafe {
        command.pre_exec(promise);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

/// What a program says, line by line into the log; a flood of it is thinned out.
pub(super) struct Messages {
    pipe: Option<PipeReader>,
    program: String,
    clock: Arc<dyn Clock>,
    line: Vec<u8>,
    /// The last whole line.
    last: Option<String>,
    flood: Flood,
}

/// Lines that are shown in [`Flood::SPAN`]; the rest is counted.
struct Flood {
    began: MonoTime,
    shown: u32,
    hidden: u64,
}

impl Flood {
    const SHOWN: u32 = 20;
    const SPAN: Duration = Duration::from_secs(10);

    /// Whether a line is shown, and how many before it were not.
    fn admit(&mut self, now: MonoTime) -> Option<u64> {
        if now.since(self.began) >= Flood::SPAN {
            (self.began, self.shown) = (now, 0);
        }
        if self.shown == Flood::SHOWN {
            self.hidden += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

/// A line longer than this is cut.
const MAX_LINE: usize = 400;

impl Messages {
    fn new(pipe: PipeReader, program: &str, clock: &Arc<dyn Clock>) -> Messages {
        Messages {
            pipe: Some(pipe),
            program: program.to_owned(),
            clock: Arc::clone(clock),
            line: Vec::new(),
            last: None,
            flood: Flood {
                began: clock.now(),
                shown: 0,
                hidden: 0,
            },
        }
    }

    /// What is left in the pipe, without waiting for more.
    fn listen_to_the_end(&mut self) {
        // a pipe holds 64 KiB; what a grandchild goes on writing does not matter
        for _ in 0..32 {
            let Some(fd) = self.fd() else { break };
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO) != Ok(1) {
                break;
            }
            self.listen();
        }
        self.end_line();
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let text = without_passwords(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        if text.trim().is_empty() {
            return;
        }
        if let Some(hidden) = self.flood.admit(self.clock.now()) {
            if hidden > 0 {
                tracing::info!("{}: {hidden} more lines are not shown", self.program);
            }
            tracing::info!("{}: {}", self.program, text.trim());
        }
        self.last = Some(text.trim().to_owned());
    }
}

impl Aside for Messages {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        match self.pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
            Some(Ok(len)) if len > 0 => self.take(&bytes[..len]),
            // at its end, or of no use any more
            _ => self.pipe = None,
        }
    }
}

/// Text with `user:password@` in its addresses made `user:***@`: logs are read by many.
pub(super) fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("://");
        let end = part
            .find(|c: char| c == '/' || c.is_whitespace())
            .unwrap_or(part.len());
        let user = part[..end].rfind('@').map(|at| &part[..at]);
        match user.and_then(|user| user.split_once(':')) {
            Some((name, password)) => {
                shown.push_str(name);
                shown.push_str(":***");
                shown.push_str(&part[name.len() + 1 + password.len()..]);
            }
            None => shown.push_str(part),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;

    fn shell(script: &str) -> Child {
        let launch = Launch {
            program: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            install: "",
            input: "test".to_owned(),
        };
        Child::spawn(&launch, &test_options()).unwrap()
    }

    fn read(child: &mut Child) -> String {
        let mut text = String::new();
        child.data().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Whether a process is there and no zombie.
    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn data_come_on_descriptor_0_and_all_the_rest_is_messages() {
        let mut child = shell("echo noise; echo data >&0; echo reason >&2; exit 3");
        assert_eq!(read(&mut child), "data\n");
        let (status, said) = child.end();
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(said.as_deref(), Some("reason"));
    }

    #[test]
    fn a_flood_of_messages_holds_nothing_up() {
        // far more than a pipe holds, before the data
        let mut child = shell(
            "i=0; while [ $i -lt 20000 ]; do echo message $i; i=$((i+1)); done; echo data >&0",
        );
        assert_eq!(read(&mut child), "data\n");
        assert_eq!(child.end().1.as_deref(), Some("message 19999"));
    }

    #[test]
    fn a_flood_is_thinned_out() {
        let mut flood = Flood {
            began: MonoTime::default(),
            shown: 0,
            hidden: 0,
        };
        let start = MonoTime::default();
        let shown = (0..100).filter(|_| flood.admit(start).is_some()).count();
        assert_eq!(shown, 20);
        assert_eq!(flood.admit(start + Flood::SPAN), Some(80));
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
        // the kernel has sent the signal; being gone is a matter of scheduling
        while lives(grandchild) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_how_to_install_it() {
        let launch = Launch {
            program: "no-such-program".to_owned(),
            args: vec![],
            install: "apt-get install it",
            input: "rtsp://camera".to_owned(),
        };
        let error = Child::spawn(&launch, &test_options()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "'rtsp://camera' needs the program 'no-such-program', which is not installed: apt-get install it"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("rtsp://u:p@host/s", "rtsp://u:***@host/s"),
            (
                "[rtsp @ 0x1] rtsp://u:p:q@h:554/s: refused",
                "[rtsp @ 0x1] rtsp://u:***@h:554/s: refused",
            ),
            (
                "location=rtsp://u:p@q@host latency=0",
                "location=rtsp://u:***@host latency=0",
            ),
            ("rtsp://u:it's@host/s", "rtsp://u:***@host/s"),
            ("rtsp://user@host/a@b", "rtsp://user@host/a@b"),
            ("rtsp://host:554/s", "rtsp://host:554/s"),
            ("clip.mp4", "clip.mp4"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}

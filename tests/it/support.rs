//! Shared by the tests: the program under test, its log, tools that must be installed, and a limit
//! to every wait.

pub(crate) mod allocations;
pub(crate) mod display;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Far more than anything in a test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// The bundled clip.
pub(crate) const CLIP: &str = "assets/street.avi";

/// The program, without what the tester's session would tell it.
pub(crate) fn vovcam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vovcam"));
    for name in [
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "VOVCAM_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// The program with a small network, no window, and its log on standard output.
pub(crate) fn logging(args: &[&str]) -> Command {
    let mut command = vovcam();
    command
        .args(["--headless", "--jsonl", "-", "--input", "64"])
        .args(args);
    command
}

/// The result of a program that has ended.
pub(crate) struct Ended {
    /// `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs to the end, with nothing on standard input.
pub(crate) fn finish(command: &mut Command) -> Ended {
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Runs to the end, its output as the test has redirected it; only what is piped is returned.
pub(crate) fn ended(command: &mut Command) -> Ended {
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let _limit = Limit::of(&child);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A running program whose log lines are read as they come.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
    _limit: Limit,
}

impl Running {
    /// Starts a program that logs to standard output.
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        Running {
            lines: BufReader::new(child.stdout.take().unwrap()),
            _limit: Limit::of(&child),
            child,
        }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid()]).status();
        assert!(sent.unwrap().success());
    }

    /// The next line, which must be whole; `None` at the end of the log.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        if line.is_empty() {
            return None;
        }
        assert!(line.ends_with('\n'), "a torn line: {line}");
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Lines up to and including the first that is wanted.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut all = Vec::new();
        while !all.last().is_some_and(&wanted) {
            all.push(self.next().expect("the log ended too early"));
        }
        all
    }

    /// The next line that is wanted; those before it are dropped.
    pub(crate) fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(wanted).pop().unwrap()
    }

    /// The next `frame` line.
    pub(crate) fn frame(&mut self) -> Value {
        self.line(|line| line["type"] == "frame")
    }

    /// The message of the next event of this name.
    pub(crate) fn event(&mut self, name: &str) -> String {
        let event = self.line(|line| line["event"] == name);
        event["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The rest of the log, and how the program ended.
    pub(crate) fn rest(mut self) -> (Vec<Value>, ExitStatus) {
        let rest = std::iter::from_fn(|| self.next()).collect();
        (rest, self.child.wait().unwrap())
    }

    /// Asks it to stop, expects a good end, and returns the rest of the log.
    pub(crate) fn stop(self) -> Vec<Value> {
        self.signal("-TERM");
        let (rest, status) = self.rest();
        assert_eq!(status.code(), Some(0));
        rest
    }

    /// Closes the reading end of its log, and tells how it ended.
    pub(crate) fn leave(mut self) -> ExitStatus {
        let (nothing, _) = std::io::pipe().unwrap();
        self.lines = BufReader::new(OwnedFd::from(nothing).into());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A limit to every wait: kills a program that still runs after [`PATIENCE`], so that whatever
/// reads from it comes to an end and the test fails instead of hanging.
pub(crate) struct Limit {
    _running: Sender<()>,
}

impl Limit {
    /// Over when it is dropped.
    pub(crate) fn of(child: &Child) -> Limit {
        let (running, over) = channel();
        let pid = child.id().to_string();
        std::thread::spawn(move || {
            if over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        });
        Limit { _running: running }
    }
}

/// Reads the lines of a file as another process appends them.
pub(crate) struct Follow {
    tail: Child,
    lines: BufReader<ChildStdout>,
    _limit: Limit,
}

impl Follow {
    /// Creates the file.
    pub(crate) fn file(path: &Path) -> Follow {
        File::create(path).unwrap();
        let mut tail = Command::new("tail")
            .args(["--lines=+1", "--follow"])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Follow {
            lines: BufReader::new(tail.stdout.take().unwrap()),
            _limit: Limit::of(&tail),
            tail,
        }
    }

    /// Waits for the next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let len = self.lines.read_line(&mut line).unwrap();
        assert!(len > 0, "the file got no further line in time");
        line
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.tail.kill();
        let _ = self.tail.wait();
    }
}

/// The reading end of a named pipe, which tells whether a process that holds the other end lives.
pub(crate) struct Lifeline(File);

impl Lifeline {
    pub(crate) fn open(path: &Path) -> Lifeline {
        let mut options = OpenOptions::new();
        // opening must not wait for a process that may have ended
        options
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        Lifeline(options.open(path).unwrap())
    }

    /// Whether any process holds the writing end.
    pub(crate) fn is_held(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(0) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            other => panic!("nothing is written to a lifeline, got {other:?}"),
        }
    }

    /// Waits until the last process that held the writing end has ended.
    pub(crate) fn until_free(&mut self) {
        if self.is_held() {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())]; // hang-up is always told
            let patience = PollTimeout::try_from(PATIENCE).unwrap();
            assert_eq!(poll(&mut fds, patience), Ok(1), "the process still lives");
        }
    }
}

/// Where a program that the test needs is; `None` where the test is to be skipped.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = installed(name);
    if found.is_none() {
        skip(&format!("'{name}' is not installed"));
    }
    found
}

/// Where a program is that a test uses if it is there. `.ci/setup test` does not install it, for a
/// reason that the test gives.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Says why a test is skipped. Under `VOVCAM_REQUIRE_TOOLS=1`, which continuous integration sets,
/// that is a failure: `.ci/setup test` installs all that a test needs.
#[allow(clippy::print_stdout, reason = "a skipped test says why")]
pub(crate) fn skip(reason: &str) {
    let required = std::env::var_os("VOVCAM_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "VOVCAM_REQUIRE_TOOLS=1, but {reason}");
    println!("skipped: {reason}");
}

/// The log's published format.
pub(crate) fn schema() -> jsonschema::Validator {
    let schema = serde_json::from_str(include_str!("../../assets/vovcam.v1.schema.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// The lines of a log, each whole and as the schema says.
pub(crate) fn lines(log: &str) -> Vec<Value> {
    assert!(log.is_empty() || log.ends_with('\n'), "torn: {log}");
    let schema = schema();
    let parse = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let errors: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line}\n{errors:?}");
        assert!(line.starts_with("{\"type\":"), "{line}");
        value
    };
    log.lines().map(parse).collect()
}

/// How many of a log's lines are of this type.
pub(crate) fn count(lines: &[Value], kind: &str) -> usize {
    lines.iter().filter(|line| line["type"] == kind).count()
}

/// Whether this process runs the test of this name and no other. Otherwise starts such a process,
/// and fails where the test fails there: for a test that counts or changes what all share.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "VOVCAM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let Ended { stdout, .. } = finish(command.args(["--exact", test]).env(ALONE, "1"));
    assert!(stdout.contains("test result: ok. 1 passed"), "{stdout}");
    false
}

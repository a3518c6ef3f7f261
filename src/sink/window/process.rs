//! The run's side of the window's process.
//!
//! Pixels go through a file in memory, which is the child's standard input; a socket, its standard
//! output and standard error, carries the rest:
//!
//! - to the child, for each picture: width and height, each 4 bytes, little-endian;
//! - from the child, lines: [`READY`] when it has shown what it was given, [`CLOSED`] when the user
//!   has closed the window, [`FAILED`] with the reason when there can be no window. All others are
//!   messages of libraries; the last one is the reason if the process ends.
//!
//! The child asks for each picture, so no write here ever waits for it.

use crate::geometry::Size;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// The window is open, and the next picture is wanted.
pub(super) const READY: &str = "window: ready";
/// The user has closed the window.
pub(super) const CLOSED: &str = "window: closed";
/// There can be no window; the reason follows.
pub(super) const FAILED: &str = "window: failed: ";
/// Maximum length of a line, bytes; more of it is dropped.
const LONGEST_LINE: usize = 1000;

/// The state of the process.
pub(super) enum State {
    /// It wants a picture.
    Ready,
    /// It opens the window or shows a picture.
    Busy,
    /// The user has closed the window.
    Closed,
    /// The process has ended, or is about to.
    Ended {
        reason: String,
        /// Whether its window was open.
        opened: bool,
    },
}

/// A running process. It is killed when this is dropped.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    pixels: File,
    /// The child wants a picture.
    ready: bool,
    /// It wanted one before.
    opened: bool,
    /// The beginning of the next line.
    line: Vec<u8>,
    last_line: Option<String>,
}

impl Process {
    pub(super) fn start(mut command: Command) -> io::Result<Process> {
        let pixels = memory_file()?;
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        command
            .stdin(pixels.try_clone()?)
            .stdout(OwnedFd::from(theirs.try_clone()?))
            .stderr(OwnedFd::from(theirs))
            // Ctrl-C on the terminal is the run's, which ends this process
            .process_group(0);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        Ok(Process {
            child: command.spawn()?,
            socket,
            pixels,
            ready: false,
            opened: false,
            line: Vec::new(),
            last_line: None,
        })
    }

    /// Hands over a picture, packed RGB of `size`. Only in the state [`State::Ready`].
    pub(super) fn show(&mut self, rgb: &[u8], size: Size) -> io::Result<()> {
        self.ready = false;
        self.pixels.write_all_at(rgb, 0)?;
        let sides = [size.width.to_le_bytes(), size.height.to_le_bytes()];
        match self.socket.write_all(sides.as_flattened()) {
            // it has ended: the next state tells why
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Reads what the process has said since the last call.
    pub(super) fn state(&mut self) -> State {
        let mut bytes = [0; 1024];
        loop {
            let len = match self.socket.read(&mut bytes) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if len == 0 {
                return self.ended();
            }
            for &byte in &bytes[..len] {
                if byte != b'\n' {
                    if self.line.len() < LONGEST_LINE {
                        self.line.push(byte);
                    }
                } else if let Some(state) = self.end_line() {
                    return state;
                }
            }
        }
        match self.ready {
            true => State::Ready,
            false => State::Busy,
        }
    }

    /// The state that a line tells, unless it is [`State::Ready`].
    fn end_line(&mut self) -> Option<State> {
        let line = String::from_utf8_lossy(&self.line).trim().to_owned();
        self.line.clear();
        match line.as_str() {
            "" => {}
            READY => (self.ready, self.opened) = (true, true),
            CLOSED => return Some(State::Closed),
            _ => {
                if let Some(reason) = line.strip_prefix(FAILED.trim_end()) {
                    return Some(State::Ended {
                        reason: reason.trim().to_owned(),
                        opened: self.opened,
                    });
                }
                tracing::debug!("the window's process: {line}");
                self.last_line = Some(line);
            }
        }
        None
    }

    fn ended(&mut self) -> State {
        self.end_line();
        let status = self.child.wait();
        let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
        let last_line = self.last_line.take().map(|line| format!(": {line}"));
        State::Ended {
            reason: format!(
                "its process ended ({status}){}",
                last_line.unwrap_or_default()
            ),
            opened: self.opened,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may be waiting for a display that hangs
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that has no name and is on no disk.
#[cfg(target_os = "linux")]
fn memory_file() -> io::Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    Ok(File::from(memfd_create(
        c"vovcam-window",
        MFdFlags::MFD_CLOEXEC,
    )?))
}

/// A file that has no name.
#[cfg(not(target_os = "linux"))]
fn memory_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("vovcam-window-{}", std::process::id()));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

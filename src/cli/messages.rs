//! Messages for people, on standard error.

use crate::escape::Printable;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Longest time that a message waits for a reader that does not read, in ms.
const PATIENCE_MS: u16 = 200;
/// A write of at most this many bytes does not wait where poll(2) says that a pipe takes data: a
/// page of it is free then.
const PIPE_BUF: usize = 4096;

/// Whether a message is lost rather than waited for.
static NEVER_WAIT: AtomicBool = AtomicBool::new(false);
/// Messages lost since the last one that was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Standard error. In a run, a reader that does not read (a pager that is stopped, a journal that
/// hangs) loses messages and holds no stage up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages;

/// From here on messages are lost rather than waited for.
pub(super) fn never_wait() {
    NEVER_WAIT.store(true, Relaxed);
}

/// A line on stderr, for people, with control characters written out. On a full disk, or when
/// nobody listens any more, it is lost: that must not end the run as `eprintln!` would.
pub fn say(line: impl std::fmt::Display) {
    let _ = Messages.write_all(format!("{}\n", Printable(line)).as_bytes());
}

impl Write for Messages {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if !NEVER_WAIT.load(Relaxed) {
            return io::stderr().write(message);
        }
        let before = LOST.load(Relaxed);
        if !takes_data(if before > 0 { 0 } else { PATIENCE_MS }) {
            LOST.fetch_add(1, Relaxed);
            return Ok(message.len());
        }
        let lost = LOST.swap(0, Relaxed);
        if lost > 0 {
            writeln!(io::stderr(), "{lost} messages were lost: nobody read them")?;
        }
        io::stderr().write(&message[..message.len().min(PIPE_BUF)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error takes data within this time.
fn takes_data(patience_ms: u16) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // what cannot be polled is written to as it is
    poll(&mut fds, PollTimeout::from(patience_ms)) != Ok(0)
}

//! Writing to a pipe or a device whose reader may not read. A write waits for the reader, but only
//! for a moment once somebody waits for the end of the run.

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A write of at most this many bytes (`PIPE_BUF`) does not wait where poll(2) says that a pipe
/// takes data, and no other writer's bytes come between its own.
const PIPE_BUF: usize = 4096;
/// Interval between checks of the interrupt while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time that a reader has to go on reading after the interrupt.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// How long writes wait.
pub(super) struct Patience {
    /// Disconnects at the interrupt.
    interrupted: Receiver<()>,
    /// When waiting ends, once the run was interrupted.
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(interrupted: &Receiver<()>) -> Patience {
        Patience {
            interrupted: interrupted.clone(),
            until: None,
        }
    }

    /// Writes a part of `bytes`, once the reader takes it.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if the reader does not read and the run was interrupted.
    pub(super) fn write(&mut self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(file)?;
            match file.write(&bytes[..bytes.len().min(PIPE_BUF)]) {
                // no room for as much as this: a device, or another writer was faster
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pause(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    /// Waits until the file takes data.
    fn wait(&mut self, file: &File) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
            let left = self.left();
            let step = PollTimeout::try_from(left.min(POLL_INTERVAL)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, step) {
                Ok(0) if left.is_zero() => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "nobody reads it"));
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How long a write may still wait.
    fn left(&mut self) -> Duration {
        if self.interrupted.try_recv() != Err(TryRecvError::Disconnected) {
            return POLL_INTERVAL;
        }
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + LAST_WAIT);
        until.saturating_duration_since(now)
    }

    fn pause(&self) {
        let moment = Duration::from_millis(10);
        if self.interrupted.recv_timeout(moment) == Err(RecvTimeoutError::Disconnected) {
            std::thread::sleep(moment); // the end is near: `wait` sees it
        }
    }
}

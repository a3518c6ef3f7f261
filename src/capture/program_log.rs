//! Standard output and standard error of a child program, line by line into this program's log.

use super::address::Secrets;
use crate::clock::{Clock, MonoTime};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Lines are cut to this many bytes.
const MAX_LINE: usize = 400;

/// Reads a program's messages and logs them, at a limited rate.
pub(super) struct ProgramLog {
    /// `None` once the program has closed it.
    pipe: Option<PipeReader>,
    program: String,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    line: Vec<u8>,
    /// The last complete line.
    last: Option<String>,
    limit: RateLimit,
}

/// Limits the lines logged per [`RateLimit::PERIOD`]; further lines are only counted.
struct RateLimit {
    began: MonoTime,
    shown: u32,
    hidden: u64,
}

impl RateLimit {
    const LINES: u32 = 20;
    const PERIOD: Duration = Duration::from_secs(10);

    fn new(now: MonoTime) -> RateLimit {
        RateLimit {
            began: now,
            shown: 0,
            hidden: 0,
        }
    }

    /// `None` if the line is not to be logged, else the number of lines suppressed before it.
    fn admit(&mut self, now: MonoTime) -> Option<u64> {
        if now.since(self.began) >= RateLimit::PERIOD {
            (self.began, self.shown) = (now, 0);
        }
        if self.shown == RateLimit::LINES {
            self.hidden += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

impl ProgramLog {
    pub(super) fn new(
        pipe: PipeReader,
        program: &str,
        secrets: Secrets,
        clock: &Arc<dyn Clock>,
    ) -> ProgramLog {
        ProgramLog {
            pipe: Some(pipe),
            program: program.to_owned(),
            secrets,
            clock: Arc::clone(clock),
            line: Vec::new(),
            last: None,
            limit: RateLimit::new(clock.now()),
        }
    }

    /// The descriptor to poll; `None` once it is closed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads and logs the bytes available. Blocks if there are none: call it after a poll.
    pub(super) fn read_available(&mut self) {
        let mut bytes = [0; 4096];
        match self.pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
            Some(Ok(len)) if len > 0 => self.push(&bytes[..len]),
            // end of file, or a failure that would repeat
            _ => self.pipe = None,
        }
    }

    /// Reads and logs what is left in the pipe, without waiting for more; the last complete line.
    pub(super) fn drain(mut self) -> Option<String> {
        // a pipe holds 64 KiB (pipe(7)); output of a grandchild that still runs does not matter
        for _ in 0..32 {
            let Some(fd) = self.fd() else { break };
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO) != Ok(1) {
                break;
            }
            self.read_available();
        }
        self.end_line();
        self.last
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let text = self
            .secrets
            .taken_out_of(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        if text.trim().is_empty() {
            return;
        }
        if let Some(hidden) = self.limit.admit(self.clock.now()) {
            if hidden > 0 {
                tracing::info!("{}: {hidden} more lines are not shown", self.program);
            }
            tracing::info!("{}: {}", self.program, text.trim());
        }
        self.last = Some(text.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_thinned_out() {
        let mut limit = RateLimit::new(MonoTime::default());
        let start = MonoTime::default();
        let shown = (0..100).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(shown, 20);
        assert_eq!(limit.admit(start + RateLimit::PERIOD), Some(80));
    }
}

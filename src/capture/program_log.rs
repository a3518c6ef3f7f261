//! Standard output and standard error of a child program, line by line into this program's log.

use super::address::Secrets;
use crate::clock::{Clock, MonoTime};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
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
    /// The last complete line, or one that tells more than those behind it.
    last: Option<String>,
    /// Number and time in µs of frames that the program announced and that were not asked for yet.
    times: VecDeque<(u64, i64)>,
    limit: RateLimit,
}

/// What ffmpeg says of an input without video; in which line, depends on its version.
pub(super) const NO_STREAM: &str = "matches no streams";
/// What an ffmpeg says that cannot print the times of frames: an old one, or one built without.
const NO_TIMES: [&str; 3] = [
    "Option 'direct' not found",
    "No such filter: 'metadata'",
    "No such filter: 'settb'",
];

/// Whether ffmpeg ended because it cannot print the times of frames.
pub(super) fn lacks_times(message: &str) -> bool {
    NO_TIMES.iter().any(|words| message.contains(words))
}

/// Its advice on an input without video, which is for its own users.
const MAP_ADVICE: &str = "add a trailing '?' to the map";

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
            times: VecDeque::new(),
            limit: RateLimit::new(clock.now()),
        }
    }

    /// Time of a frame in µs, for a frame that has arrived; `None` where the program printed none.
    pub(super) fn frame_time(&mut self, frame: u64) -> Option<i64> {
        self.times.retain(|&(number, _)| number >= frame);
        if self.times.is_empty() {
            // it is printed before the frame is written
            self.read_waiting();
        }
        let &(number, time) = self.times.front()?;
        (number == frame).then_some(time)
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
        self.read_waiting();
        self.end_line();
        self.last
    }

    /// Reads and logs what is in the pipe, without waiting for more.
    fn read_waiting(&mut self) {
        // a pipe holds 64 KiB (pipe(7)); output of a grandchild that still runs does not matter
        for _ in 0..32 {
            let Some(fd) = self.fd() else { break };
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO) != Ok(1) {
                break;
            }
            self.read_available();
        }
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
        let line = String::from_utf8_lossy(&self.line);
        let time = frame_time(&line);
        if let Some(time) = time {
            self.times.extend(time);
            self.line.clear();
            return;
        }
        let text = self.secrets.taken_out_of(&line);
        self.line.clear();
        if text.trim().is_empty() || text.contains(MAP_ADVICE) {
            return;
        }
        if let Some(hidden) = self.limit.admit(self.clock.now()) {
            if hidden > 0 {
                tracing::info!("{}: {hidden} more lines are not shown", self.program);
            }
            tracing::info!("{}: {}", self.program, text.trim());
        }
        // these say more than what comes behind them
        let tells = |line: &String| line.contains(NO_STREAM) || lacks_times(line);
        if !self.last.as_ref().is_some_and(tells) {
            self.last = Some(text.trim().to_owned());
        }
    }
}

/// Number and time of a frame in a line of ffmpeg's filter `metadata=print`; `Some(None)` for its
/// lines without a time. `capture/program.rs` has the filter.
fn frame_time(line: &str) -> Option<Option<(u64, i64)>> {
    if line == "vovcam=0" {
        return Some(None); // the value that makes it print
    }
    let (number, rest) = line.strip_prefix("frame:")?.split_once("pts:")?;
    let time = rest.split_whitespace().next()?;
    let number = number.trim().parse().ok()?;
    Some(time.parse().ok().map(|time| (number, time)))
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

    #[test]
    fn times_of_frames_are_told_from_messages_and_asked_for_by_number() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let clock = crate::capture::test_options().clock;
        let mut log = ProgramLog::new(reader, "ffmpeg", Secrets::default(), &clock);
        let lines = "frame:0    pts:-40000  pts_time:-0.04\nvovcam=0\n\
                     frame:1    pts:NOPTS   pts_time:NOPTS\nvovcam=0\n\
                     frame:2    pts:201000  pts_time:0.201\nframe of reference\n";
        std::io::Write::write_all(&mut writer, lines.as_bytes()).unwrap();
        let times = [0, 1, 2, 3].map(|frame| log.frame_time(frame));
        assert_eq!(times, [Some(-40_000), None, Some(201_000), None]);
        drop(writer);
        assert_eq!(log.drain().as_deref(), Some("frame of reference"));
    }
}

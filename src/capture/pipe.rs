//! A pipe reader with cancellation and a deadline, which also reads a program's messages while
//! it waits for data.

use super::program_log::ProgramLog;
use super::{CaptureError, CaptureOptions};
use crate::clock::{Clock, MonoTime};
use crossbeam_channel::{Receiver, TryRecvError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Interval between checks of the stop signal while waiting, in ms.
const POLL_MS: u16 = 100;

/// Reads the data pipe.
pub(super) struct Pipe {
    data: File,
    /// The program's messages, where the other end is a program that was started here.
    pub(super) log: Option<ProgramLog>,
    stop: Receiver<()>,
    clock: Arc<dyn Clock>,
    deadline: Option<MonoTime>,
}

/// A read was cancelled because the run is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the run is stopping")]
struct Stopped;

/// Whether a read failed because the run is stopping.
pub(super) fn is_stop(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

impl Pipe {
    /// `stop` disconnects when the run is to stop.
    pub(super) fn new(
        data: File,
        log: Option<ProgramLog>,
        stop: &Receiver<()>,
        clock: &Arc<dyn Clock>,
    ) -> Pipe {
        Pipe {
            data,
            log,
            stop: stop.clone(),
            clock: Arc::clone(clock),
            deadline: None,
        }
    }

    /// A named pipe, which may get its writer later: only the reads wait, so that a stop ends them.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn named(path: &Path, options: &CaptureOptions) -> Result<Pipe, CaptureError> {
        let failed = |source| CaptureError::Read {
            path: path.to_owned(),
            source,
        };
        let data = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(failed)?;
        // the opening alone must not wait
        fcntl(&data, FcntlArg::F_SETFL(OFlag::empty())).map_err(|e| failed(e.into()))?;
        Ok(Pipe::new(data, None, &options.stop, &options.clock))
    }

    /// Reads after this time fail with [`io::ErrorKind::TimedOut`].
    pub(super) fn set_deadline(&mut self, deadline: Option<MonoTime>) {
        self.deadline = deadline;
    }

    /// Waits until data can be read, and reads the program's messages meanwhile.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            if self.stop.try_recv() == Err(TryRecvError::Disconnected) {
                return Err(io::Error::other(Stopped));
            }
            let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let data = wanted(self.data.as_fd());
            let ready = |fd: &PollFd<'_>| fd.any() != Some(false);
            let polled = match self.log.as_ref().and_then(ProgramLog::fd) {
                Some(log) => {
                    let mut fds = [data, wanted(log)];
                    poll(&mut fds, PollTimeout::from(POLL_MS))
                        .map(|_| (ready(&fds[0]), ready(&fds[1])))
                }
                None => {
                    let mut fds = [data];
                    poll(&mut fds, PollTimeout::from(POLL_MS)).map(|_| (ready(&fds[0]), false))
                }
            };
            let (data_ready, log_ready) = match polled {
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            if log_ready && let Some(log) = &mut self.log {
                log.read_available();
            }
            if data_ready {
                return Ok(());
            }
            if self.deadline.is_some_and(|at| self.clock.now() >= at) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.data.read(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;
    use crate::clock::SimClock;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    fn pipe(stop: &Receiver<()>, clock: &Arc<dyn Clock>) -> (io::PipeWriter, Pipe) {
        let (reader, writer) = io::pipe().unwrap();
        let data = File::from(OwnedFd::from(reader));
        (writer, Pipe::new(data, None, stop, clock))
    }

    #[test]
    fn data_come_through_and_the_end_is_seen() {
        let options = test_options();
        let (mut writer, mut pipe) = pipe(&options.stop, &options.clock);
        writer.write_all(b"frame").unwrap();
        drop(writer);
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        assert_eq!(text, "frame");
    }

    #[test]
    fn a_stop_and_a_deadline_end_the_wait_for_a_writer_that_says_nothing() {
        let clock = Arc::new(SimClock::default());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let (trigger, stop) = crossbeam_channel::bounded(0);
        let (_writer, mut pipe) = pipe(&stop, &shared);
        pipe.set_deadline(Some(clock.now() + Duration::from_secs(5)));
        clock.advance(Duration::from_secs(5));
        let error = pipe.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(trigger);
        let error = pipe.read(&mut [0; 9]).unwrap_err();
        assert!(is_stop(&error), "{error}");
    }
}

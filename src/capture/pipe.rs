//! Reading a pipe without being held up by it: the run's stop and a deadline are looked at while
//! nothing comes, and what a program says on the side is listened to.

use crate::clock::{Clock, MonoTime};
use crossbeam_channel::{Receiver, TryRecvError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// How long a wait may go without a look at the stop signal, in ms.
const POLL_MS: u16 = 100;

/// Messages beside the data, to be read whenever there are some.
pub(super) trait Aside: Send {
    /// Where they come from; `None` once that end is closed.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Reads what there is.
    fn listen(&mut self);
}

/// A program that says nothing beside its data.
pub(super) struct Silent;

impl Aside for Silent {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn listen(&mut self) {}
}

/// A pipe with patience.
pub(super) struct Pipe<A> {
    data: File,
    pub(super) aside: A,
    stop: Receiver<()>,
    clock: Arc<dyn Clock>,
    deadline: Option<MonoTime>,
}

/// The run stops: there is nothing more to read.
#[derive(Debug, thiserror::Error)]
#[error("the run is stopping")]
struct Stopped;

/// Whether a read ended because the run stops.
pub(super) fn is_stop(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

impl<A: Aside> Pipe<A> {
    pub(super) fn new(
        data: File,
        aside: A,
        stop: &Receiver<()>,
        clock: &Arc<dyn Clock>,
    ) -> Pipe<A> {
        Pipe {
            data,
            aside,
            stop: stop.clone(),
            clock: Arc::clone(clock),
            deadline: None,
        }
    }

    /// Reads after this time fail with [`io::ErrorKind::TimedOut`].
    pub(super) fn set_deadline(&mut self, deadline: Option<MonoTime>) {
        self.deadline = deadline;
    }

    /// Waits until there are data, and listens meanwhile.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            if self.stop.try_recv() == Err(TryRecvError::Disconnected) {
                return Err(io::Error::other(Stopped));
            }
            let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let data = wanted(self.data.as_fd());
            let ready = |fd: &PollFd<'_>| fd.any() != Some(false);
            let polled = match self.aside.fd() {
                Some(aside) => {
                    let mut fds = [data, wanted(aside)];
                    poll(&mut fds, PollTimeout::from(POLL_MS))
                        .map(|_| (ready(&fds[0]), ready(&fds[1])))
                }
                None => {
                    let mut fds = [data];
                    poll(&mut fds, PollTimeout::from(POLL_MS)).map(|_| (ready(&fds[0]), false))
                }
            };
            let (data, aside) = match polled {
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            if aside {
                self.aside.listen();
            }
            if data {
                return Ok(());
            }
            if self.deadline.is_some_and(|at| self.clock.now() >= at) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl<A: Aside> Read for Pipe<A> {
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

    fn pipe(stop: &Receiver<()>, clock: &Arc<dyn Clock>) -> (io::PipeWriter, Pipe<Silent>) {
        let (reader, writer) = io::pipe().unwrap();
        let data = File::from(OwnedFd::from(reader));
        (writer, Pipe::new(data, Silent, stop, clock))
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

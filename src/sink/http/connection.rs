//! One client: bytes in, bytes out, and what it waits for. No call waits for the client.

use super::live::Line;
use super::request::{LONGEST_HEAD, Parsed, Request, parse};
use super::response::{Status, head, kind};
use nix::poll::PollFlags;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for the head of a request, and the same while there is no room for further clients.
const HEAD_TIME: Duration = Duration::from_secs(5);
const HEAD_TIME_WHEN_FULL: Duration = Duration::from_secs(1);
/// Time for a whole response, for one picture of a stream, and for any progress of events.
const SEND_TIME: Duration = Duration::from_secs(10);
/// Time that a client of `/snapshot.jpg` waits for the next frame.
const PICTURE_TIME: Duration = Duration::from_secs(5);
/// Time for the client to take the last bytes and close.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Bytes of events that wait for one client; a client that is further behind is closed.
const MOST_WAITING: usize = 256 * 1024;
/// Bytes that a client may send after its request.
const MOST_IGNORED: usize = 64 * 1024;
/// The line between two pictures of a stream.
const BOUNDARY: &[u8] = b"--frame\r\n";

/// Bytes of a response, shared where many clients get the same.
pub(super) enum Bytes {
    Fixed(&'static [u8]),
    Own(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Fixed(bytes) => bytes,
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

/// At most so many a second.
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    pub(super) fn new(every: Duration, now: Instant) -> Pace {
        Pace { every, next: now }
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    fn taken(&mut self, now: Instant) {
        self.next = (self.next + self.every).max(now);
    }
}

/// The answer to a request.
pub(super) enum Answer {
    /// A whole response.
    Whole(Status, &'static str, Bytes),
    /// The next picture.
    Picture,
    /// One picture after another.
    Stream(Pace),
    /// Lines of the log, with `frame` lines at this pace.
    Events(Option<Pace>),
}

enum Phase {
    /// The head of the request is not complete.
    Head,
    /// The response is on its way.
    Sending,
    /// The response is the next picture.
    Picture,
    Stream(Pace),
    Events(Option<Pace>),
    /// All is sent; what the client still sends is read, as closing before would undo the response.
    Linger,
    Closed,
}

/// A client.
pub(super) struct Connection {
    stream: TcpStream,
    /// The address at which the client has reached this machine.
    reached: IpAddr,
    input: Vec<u8>,
    ignored: usize,
    input_ended: bool,
    output: VecDeque<Bytes>,
    /// Bytes of the first output that are sent.
    sent: usize,
    /// Bytes in `output`.
    waiting: usize,
    phase: Phase,
    /// Start of what the limit of the phase counts from.
    since: Instant,
}

impl Connection {
    /// A client that was just accepted.
    pub(super) fn new(stream: TcpStream, now: Instant) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            reached: stream.local_addr()?.ip(),
            stream,
            input: Vec::new(),
            ignored: 0,
            input_ended: false,
            output: VecDeque::new(),
            sent: 0,
            waiting: 0,
            phase: Phase::Head,
            since: now,
        })
    }

    pub(super) fn reached(&self) -> IpAddr {
        self.reached
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.phase, Phase::Stream(_))
    }

    pub(super) fn is_events(&self) -> bool {
        matches!(self.phase, Phase::Events(_))
    }

    /// Whether the next picture is for this client.
    pub(super) fn wants_picture(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Picture => true,
            Phase::Stream(pace) => self.output.is_empty() && pace.is_due(now),
            _ => false,
        }
    }

    /// Whether the next `frame` line is for this client.
    pub(super) fn wants_frame(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Events(Some(pace)) => self.output.is_empty() && pace.is_due(now),
            _ => false,
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.input_ended);
        flags.set(PollFlags::POLLOUT, !self.output.is_empty());
        (self.stream.as_fd(), flags)
    }

    /// When this client needs attention, whatever it sends, which may be now or before; `full` while
    /// there is no room for others. A client whose turn has come waits for a picture or a line, and
    /// not for a time.
    pub(super) fn due(&self, now: Instant, full: bool) -> Option<Instant> {
        match &self.phase {
            Phase::Stream(pace) | Phase::Events(Some(pace)) if self.output.is_empty() => {
                (!pace.is_due(now)).then_some(pace.next)
            }
            _ => self.limit(full),
        }
    }

    fn limit(&self, full: bool) -> Option<Instant> {
        let time = match &self.phase {
            Phase::Head if full => HEAD_TIME_WHEN_FULL,
            Phase::Head => HEAD_TIME,
            Phase::Sending => SEND_TIME,
            Phase::Picture => PICTURE_TIME,
            Phase::Stream(_) | Phase::Events(_) if self.output.is_empty() => return None,
            Phase::Stream(_) | Phase::Events(_) => SEND_TIME,
            Phase::Linger => LINGER_TIME,
            Phase::Closed => return None,
        };
        Some(self.since + time)
    }

    /// Ends what has taken too long.
    pub(super) fn check_time(&mut self, now: Instant, full: bool) {
        if self.limit(full).is_none_or(|limit| now < limit) {
            return;
        }
        match self.phase {
            Phase::Head if !self.input.is_empty() => self.refuse(
                Status::RequestTimeout,
                "the request was not complete in time",
                now,
            ),
            Phase::Picture => self.refuse(
                Status::Unavailable,
                "no frame came in time: is the camera lost?",
                now,
            ),
            _ => self.phase = Phase::Closed,
        }
    }

    /// Reads what there is; a request once its head is complete.
    pub(super) fn read(&mut self, now: Instant) -> Option<Request> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.input_ended = true;
                    // a client that closes its end has a response that is on its way sent all the same
                    if !matches!(self.phase, Phase::Sending) {
                        self.phase = Phase::Closed;
                    }
                    return None;
                }
                Ok(count) if matches!(self.phase, Phase::Head) => {
                    let room = LONGEST_HEAD - self.input.len();
                    self.input.extend_from_slice(&bytes[..count.min(room)]);
                    match parse(&self.input) {
                        Parsed::Incomplete => {}
                        Parsed::Complete(request) => return Some(request),
                        Parsed::Wrong(status, reason) => {
                            self.refuse(status, reason, now);
                            return None;
                        }
                    }
                }
                Ok(count) => {
                    self.ignored += count;
                    if self.ignored > MOST_IGNORED {
                        self.phase = Phase::Closed;
                        return None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.phase = Phase::Closed;
                    return None;
                }
            }
        }
    }

    /// Answers the request; `head_only` for HEAD.
    pub(super) fn answer(&mut self, answer: Answer, head_only: bool, now: Instant) {
        self.input = Vec::new();
        self.since = now;
        let (status, kind, body) = match answer {
            Answer::Whole(status, kind, body) => (status, kind, body),
            Answer::Picture if !head_only => {
                self.phase = Phase::Picture;
                return;
            }
            Answer::Stream(pace) if !head_only => {
                self.push(Bytes::Own(head(Status::Ok, kind::PARTS, None)));
                self.push(Bytes::Fixed(BOUNDARY));
                self.phase = Phase::Stream(pace);
                return;
            }
            Answer::Events(pace) if !head_only => {
                self.push(Bytes::Own(head(Status::Ok, kind::EVENTS, None)));
                self.push(Bytes::Fixed(b"retry: 3000\n\n"));
                self.phase = Phase::Events(pace);
                return;
            }
            // their length is not known before they are made
            Answer::Picture => return self.head_alone(kind::JPEG),
            Answer::Stream(_) => return self.head_alone(kind::PARTS),
            Answer::Events(_) => return self.head_alone(kind::EVENTS),
        };
        self.push(Bytes::Own(head(status, kind, Some(body.get().len()))));
        if !head_only {
            self.push(body);
        }
        self.phase = Phase::Sending;
    }

    fn head_alone(&mut self, kind: &str) {
        self.push(Bytes::Own(head(Status::Ok, kind, None)));
        self.phase = Phase::Sending;
    }

    /// Answers with a reason.
    pub(super) fn refuse(&mut self, status: Status, reason: &str, now: Instant) {
        let body = Bytes::Own(format!("{reason}\n").into_bytes());
        self.answer(Answer::Whole(status, kind::TEXT, body), false, now);
    }

    /// Sends a picture to a client that [wants](Connection::wants_picture) one.
    pub(super) fn picture(&mut self, jpeg: &Arc<[u8]>, now: Instant) {
        let picture = Bytes::Shared(Arc::clone(jpeg));
        match &mut self.phase {
            Phase::Picture => {
                self.answer(Answer::Whole(Status::Ok, kind::JPEG, picture), false, now)
            }
            Phase::Stream(pace) => {
                pace.taken(now);
                self.since = now;
                let length = jpeg.len();
                let part = format!("Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n");
                self.push(Bytes::Own(part.into_bytes()));
                self.push(picture);
                // at once, as browsers show a picture when the line after it has come
                self.push(Bytes::Fixed(b"\r\n"));
                self.push(Bytes::Fixed(BOUNDARY));
            }
            _ => {}
        }
    }

    /// Sends a line to a client of events.
    pub(super) fn line(&mut self, line: &Line, now: Instant) {
        if line.is_frame && !self.wants_frame(now) {
            return;
        }
        let Phase::Events(pace) = &mut self.phase else {
            return;
        };
        if let (true, Some(pace)) = (line.is_frame, pace) {
            pace.taken(now);
        }
        if self.output.is_empty() {
            self.since = now;
        }
        self.push(Bytes::Shared(Arc::clone(&line.text)));
        if self.waiting > MOST_WAITING {
            self.phase = Phase::Closed;
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.get().is_empty() {
            self.waiting += bytes.get().len();
            self.output.push_back(bytes);
        }
    }

    /// Sends as much as the client takes.
    pub(super) fn write(&mut self, now: Instant) {
        while let Some(first) = self.output.front() {
            let rest = &first.get()[self.sent..];
            match self.stream.write(rest) {
                Ok(0) => {
                    self.phase = Phase::Closed;
                    return;
                }
                Ok(count) => {
                    let whole = count == rest.len();
                    self.sent += count;
                    self.waiting -= count;
                    if matches!(self.phase, Phase::Events(_)) {
                        self.since = now;
                    }
                    if whole {
                        self.output.pop_front();
                        self.sent = 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.phase = Phase::Closed;
                    return;
                }
            }
        }
        if matches!(self.phase, Phase::Sending) {
            self.since = now;
            self.phase = match self.input_ended || self.stream.shutdown(Shutdown::Write).is_err() {
                true => Phase::Closed,
                false => Phase::Linger,
            };
        }
    }
}

//! The server: one thread and one poll(2) for all clients.
//!
//! It waits for clients, time and news of the sink at once, and for nothing else: no client can hold
//! another one up. Pictures are encoded here, once for all clients that wait for one, so that the
//! sink's thread is free for the run.

use super::connection::{Answer, Bytes, Connection, Pace};
use super::live::{Live, Wakes};
use super::request::Request;
use super::response::{Status, kind};
use super::token::Token;
use crate::sink::picture::Picture;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most clients at once; further ones wait until one of them has gone.
const MOST_CLIENTS: usize = 256;
/// Most clients of `/stream.mjpg` at once.
const MOST_STREAMS: usize = 8;
/// Most clients of `/api/v1/events` at once.
const MOST_EVENTS: usize = 16;
/// Pause after a client could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bounds of the parameter `fps`.
const RATES: std::ops::RangeInclusive<f64> = 0.01..=1000.0;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/app.css");
const SCRIPT: &str = include_str!("page/app.js");
const ICON: &str = include_str!("page/icon.svg");
const SCHEMA: &str = include_str!("../../../assets/vovcam.v1.schema.json");

/// Who may ask.
pub(super) struct Gate {
    /// Names of this machine besides its addresses, in lower case.
    pub(super) names: Vec<String>,
    pub(super) token: Option<Token>,
}

pub(super) struct Server {
    listener: TcpListener,
    live: Arc<Live>,
    wakes: Wakes,
    gate: Gate,
    clients: Vec<Connection>,
    /// No client is accepted before.
    paused_until: Option<Instant>,
    encoding_failed: bool,
}

impl Server {
    pub(super) fn new(listener: TcpListener, live: Arc<Live>, wakes: Wakes, gate: Gate) -> Server {
        Server {
            listener,
            live,
            wakes,
            gate,
            clients: Vec::new(),
            paused_until: None,
            encoding_failed: false,
        }
    }

    /// Serves until the run is over.
    ///
    /// # Errors
    /// When the socket cannot be listened on any more.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut now = Instant::now();
        loop {
            let ready = self.wait(now)?;
            self.wakes.clear();
            if self.live.has_ended() {
                return Ok(());
            }
            now = Instant::now();
            self.serve(&ready, now);
            self.accept(now)?;
            self.hand_out(now);
            let full = self.is_full();
            for client in &mut self.clients {
                client.write(now);
                client.check_time(now, full);
            }
            self.clients.retain(|client| !client.is_closed());
            self.want(now);
        }
    }

    fn is_full(&self) -> bool {
        self.clients.len() >= MOST_CLIENTS
    }

    /// Waits for anything to happen; tells which clients can be read from. `seen` is the time for which
    /// the clients were last looked at: what became due since then must not be missed.
    fn wait(&mut self, seen: Instant) -> io::Result<Vec<bool>> {
        let full = self.is_full();
        let paused = self.paused_until.filter(|&until| seen < until);
        self.paused_until = paused;
        let listen = match full || paused.is_some() {
            true => PollFlags::empty(),
            false => PollFlags::POLLIN,
        };
        let mut fds = Vec::with_capacity(2 + self.clients.len());
        fds.push(PollFd::new(self.wakes.0.as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.listener.as_fd(), listen));
        for client in &self.clients {
            let (fd, flags) = client.interest();
            fds.push(PollFd::new(fd, flags));
        }
        let clients = self.clients.iter();
        let times = clients.filter_map(|client| client.due(seen, full));
        let timeout = match times.chain(paused).min() {
            // rounded up: a wait that is too short would be repeated until the time has come
            Some(time) => {
                let wait =
                    time.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = |fd: &PollFd<'_>| {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
        };
        Ok(fds[2..].iter().map(readable).collect())
    }

    /// Reads from the clients that have sent something, and answers requests.
    fn serve(&mut self, ready: &[bool], now: Instant) {
        for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            if let Some(request) = self.clients[index].read(now) {
                let head_only = request.method == "HEAD";
                match self.route(index, &request, now) {
                    Ok(answer) => self.clients[index].answer(answer, head_only, now),
                    Err((status, reason)) => self.clients[index].refuse(status, reason, now),
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        while !self.is_full() && self.paused_until.is_none() {
            match self.listener.accept() {
                // a client that has gone already needs no place
                Ok((stream, _)) => self.clients.extend(Connection::new(stream, now)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    // no socket that listens
                    ErrorKind::InvalidInput => return Err(error),
                    _ => self.paused_until = Some(now + ACCEPT_PAUSE),
                },
            }
        }
        Ok(())
    }

    /// Hands the news to the clients that wait for them.
    fn hand_out(&mut self, now: Instant) {
        let news = self.live.news();
        for line in &news.lines {
            for client in &mut self.clients {
                client.line(line, now);
            }
        }
        let wanted = self.clients.iter().any(|client| client.wants_picture(now));
        let Some(picture) = news.picture.filter(|_| wanted) else {
            return;
        };
        let Some(jpeg) = self.encode(&picture) else {
            return;
        };
        for client in &mut self.clients {
            if client.wants_picture(now) {
                client.picture(&jpeg, now);
            }
        }
    }

    /// The picture as JPEG. A copy: a slow client keeps it and not the frame's pixels in memory.
    fn encode(&mut self, picture: &Picture) -> Option<Arc<[u8]>> {
        match picture.jpeg() {
            Ok(jpeg) => Some(jpeg.into()),
            Err(error) => {
                if !std::mem::replace(&mut self.encoding_failed, true) {
                    tracing::warn!("http: no pictures: {error}");
                }
                None
            }
        }
    }

    /// Tells the sink what the clients wait for.
    fn want(&self, now: Instant) {
        let any = |wants: &dyn Fn(&Connection) -> bool| self.clients.iter().any(wants);
        self.live.want(
            any(&|client| client.wants_picture(now)),
            any(&Connection::is_events),
            any(&|client| client.wants_frame(now)),
        );
    }

    fn route(
        &self,
        client: usize,
        request: &Request,
        now: Instant,
    ) -> Result<Answer, (Status, &'static str)> {
        let reached = self.clients[client].reached();
        if !request.is_for(reached, &self.gate.names) {
            return Err((
                Status::Forbidden,
                "'Host' is no name of this machine: the setting 'http_names' has further ones",
            ));
        }
        if request.cross_site {
            return Err((Status::Forbidden, "pages of other sites may not embed this"));
        }
        let token = self.gate.token.as_ref();
        if token.is_some_and(|token| !token.is_in(request.authorization.as_deref())) {
            return Err((
                Status::Unauthorized,
                "expected the token, as 'Authorization: Bearer TOKEN' or as a password",
            ));
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Err((Status::MethodNotAllowed, "expected GET or HEAD"));
        }
        let fixed = |kind, text: &'static str| {
            Ok(Answer::Whole(
                Status::Ok,
                kind,
                Bytes::Fixed(text.as_bytes()),
            ))
        };
        let made = |kind, text: Option<Vec<u8>>| match text {
            Some(text) => Ok(Answer::Whole(Status::Ok, kind, Bytes::Own(text))),
            None => Err((Status::Unavailable, "the run has not begun")),
        };
        let count = |is: fn(&Connection) -> bool| {
            let those = self.clients.iter().filter(|client| is(client));
            those.count()
        };
        match request.path.as_str() {
            "/" => fixed(kind::HTML, PAGE),
            "/app.css" => fixed(kind::CSS, STYLE),
            "/app.js" => fixed(kind::SCRIPT, SCRIPT),
            "/icon.svg" => fixed(kind::SVG, ICON),
            "/schema.json" => fixed(kind::JSON, SCHEMA),
            "/api/v1/state" => made(kind::JSON, self.live.state()),
            "/metrics" => made(kind::METRICS, self.live.metrics().map(String::into_bytes)),
            "/healthz" => healthy(self.live.health().1, "the run makes no progress"),
            "/readyz" => healthy(self.live.health().0, "no frame has been detected yet"),
            "/snapshot.jpg" => Ok(Answer::Picture),
            "/stream.mjpg" if count(Connection::is_stream) >= MOST_STREAMS => {
                Err((Status::Unavailable, "8 streams are open already"))
            }
            "/stream.mjpg" => Ok(Answer::Stream(Pace::new(interval(request)?, now))),
            "/api/v1/events" if count(Connection::is_events) >= MOST_EVENTS => Err((
                Status::Unavailable,
                "16 clients of events are there already",
            )),
            "/api/v1/events" => {
                let every = interval(request)?;
                let frames = match request.parameter("frames") {
                    None | Some("0") => None,
                    Some("1") => Some(Pace::new(every, now)),
                    Some(_) => return Err((Status::BadRequest, "expected 'frames=1'")),
                };
                Ok(Answer::Events(frames))
            }
            _ => Err((Status::NotFound, "there is nothing at this path")),
        }
    }
}

fn healthy(is: bool, reason: &'static str) -> Result<Answer, (Status, &'static str)> {
    match is {
        true => Ok(Answer::Whole(Status::Ok, kind::TEXT, Bytes::Fixed(b"ok\n"))),
        false => Err((Status::Unavailable, reason)),
    }
}

/// Shortest time between two frames by the parameter `fps`.
fn interval(request: &Request) -> Result<Duration, (Status, &'static str)> {
    let Some(text) = request.parameter("fps") else {
        return Ok(Duration::ZERO);
    };
    let rate = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.map(|rate: f64| Duration::from_secs_f64(1.0 / rate))
        .ok_or((
            Status::BadRequest,
            "fps: expected a number from 0.01 to 1000",
        ))
}

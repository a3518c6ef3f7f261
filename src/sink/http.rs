//! A page with the live picture, pictures, figures and metrics over HTTP/1.1, read only.
//!
//! ```text
//!  vc-http (this sink) ──Live──▶ vc-http-io (server) ◀──▶ clients
//!       ▲ pictures only while a client waits for one ◀──demand──┘
//! ```
//!
//! The sink adds up what it receives; the server's thread waits for all clients in one poll(2),
//! because neither may wait for the other. docs/network.md has paths, limits and metrics,
//! docs/decisions/http.md the reasons.

mod connection;
mod listener;
mod live;
#[doc(hidden)]
pub mod request;
#[doc(hidden)]
pub mod response;
mod server;
mod tally;
mod token;

use super::{Flow, Message, PictureDemand, Queue, Sink, SinkContext, SinkError};
use live::Live;
use server::{Gate, Server};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use token::Token;

/// Messages of frames that may wait for the sink, which needs microseconds for each.
const QUEUE_FRAMES: usize = 64;

/// Where to serve, and to whom.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// The address to bind; a socket that the service manager has passed wins over it.
    pub address: Option<SocketAddr>,
    /// A file that holds the token which clients must give; needed for every address but loopback.
    pub token_file: Option<PathBuf>,
    /// Names of this machine that requests may have as their host besides its addresses.
    pub names: Vec<String>,
}

/// The page, pictures, figures and metrics.
pub struct Http {
    live: Arc<Live>,
    /// The address that is listened on.
    address: SocketAddr,
    /// `None` once its end was reported.
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Http {
    /// Begins to listen; `None` where the options have no address and no socket was passed.
    ///
    /// # Errors
    /// When the address cannot be bound, is not loopback and has no token, or the token is wrong.
    pub fn open(options: HttpOptions, context: &SinkContext) -> Result<Option<Http>, SinkError> {
        let token = options.token_file.as_deref().map(Token::read).transpose()?;
        let open_to_all = |address: &SocketAddr| token.is_none() && !address.ip().is_loopback();
        if let Some(address) = options.address.filter(open_to_all) {
            return Err(needs_token(address));
        }
        let Some(listener) = listener::listener(options.address)? else {
            return Ok(None);
        };
        let address = listener.local_addr().map_err(failed)?;
        if open_to_all(&address) {
            return Err(needs_token(address));
        }
        let gate = Gate {
            names: options.names,
            token,
        };
        let (live, wakes) =
            Live::new(context.vitals.clone(), context.clock.clone()).map_err(failed)?;
        let server = Server::new(listener, Arc::clone(&live), wakes, gate);
        tracing::info!("http: http://{address}/");
        Http::start(live, address, move || server.run()).map(Some)
    }

    fn start(
        live: Arc<Live>,
        address: SocketAddr,
        serve: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Http, SinkError> {
        let server = std::thread::Builder::new()
            .name("vc-http-io".to_owned())
            .spawn(serve)
            .map_err(failed)?;
        Ok(Http {
            live,
            address,
            server: Some(server),
        })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's failure, if it has ended.
    fn check(&mut self) -> Result<Flow, SinkError> {
        match self.server.take_if(|server| server.is_finished()) {
            Some(server) => end_of(server).map(|()| Flow::Continue),
            None => Ok(Flow::Continue),
        }
    }
}

fn end_of(server: JoinHandle<io::Result<()>>) -> Result<(), SinkError> {
    match server.join() {
        Ok(ended) => ended.map_err(failed),
        Err(_) => Err(SinkError::Other(
            "the HTTP server panicked: please report this with the lines above".to_owned(),
        )),
    }
}

fn failed(error: io::Error) -> SinkError {
    SinkError::Other(format!("the HTTP server cannot go on: {error}"))
}

fn needs_token(address: SocketAddr) -> SinkError {
    SinkError::Setting {
        setting: listener::SETTING,
        reason: format!(
            "'{address}' can be reached from other machines: expected a file with a token in \
             'http_token_file', or an address of this machine alone such as '127.0.0.1:8990'"
        ),
    }
}

impl Sink for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn queue(&self) -> Queue {
        // every frame is counted; which one is shown does not matter
        Queue::Bounded(QUEUE_FRAMES)
    }

    fn needs_pictures(&self) -> bool {
        true
    }

    fn picture_demand(&self) -> Option<PictureDemand> {
        Some(self.live.pictures.clone())
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        match message {
            Message::Run(run) => self.live.run(run),
            Message::Frame(frame) => self.live.frame(frame),
            Message::Event { ts, event } => self.live.event(*ts, event),
            // the sink looks at the figures more often
            Message::Stats { .. } => {}
        }
        self.check()
    }

    fn upkeep(&mut self) -> Result<Flow, SinkError> {
        self.live.tick();
        self.check()
    }

    fn lost(&self) -> u64 {
        self.live.lost()
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        self.live.end();
        self.server.take().map_or(Ok(()), end_of)
    }
}

impl Drop for Http {
    /// A run that was not begun leaves no thread behind either.
    fn drop(&mut self) {
        self.live.end();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::detection::Labels;
    use crate::frame::Frame;
    use crate::geometry::Size;
    use crate::message::RunInfo;
    use crate::monitor::vitals::Vitals;
    use crate::sink::picture::PictureMaker;
    use crate::sink::testing::message_of;
    use std::io::{Read, Write};
    use std::net::{IpAddr, Ipv4Addr, TcpStream};

    /// The next bytes up to the end of this text.
    fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        bytes
    }

    #[test]
    fn pictures_are_asked_for_and_encoded_only_while_a_client_waits_for_one() {
        let context = SinkContext {
            live: true,
            fps: None,
            clock: SystemClock::shared(),
            camera: "test".into(),
            interrupted: crossbeam_channel::never(),
            vitals: Vitals::default(),
        };
        let options = HttpOptions {
            address: "127.0.0.1:0".parse().ok(),
            ..HttpOptions::default()
        };
        let mut http = Http::open(options, &context).unwrap().unwrap();
        let (demand, address) = (http.picture_demand().unwrap(), http.address());
        let until = |wanted: bool| {
            while demand.is_set() != wanted {
                std::thread::yield_now();
            }
        };
        let pictures = PictureMaker::new(Labels::new(&[]), false);
        let run = RunInfo::of_labels("test", Labels::new(&[]));
        http.accept(&Message::Run(Arc::new(run))).unwrap();
        let mut frame = |id: u64| {
            let frame = Frame::from_rgb(id, Size::new(16, 8), vec![90; 3 * 16 * 8]);
            let message = Message::Frame(message_of(frame, &pictures));
            http.accept(&message).unwrap();
        };
        assert!(!demand.is_set());
        let connect = || {
            let mut stream = TcpStream::connect(address).unwrap();
            let request = b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).unwrap();
            read_until(&mut stream, b"--frame\r\n");
            stream
        };
        frame(0);
        let (mut first, mut second) = (connect(), connect());
        until(true);
        assert_eq!(
            pictures.counts(),
            (0, 0),
            "nobody waited for the first frame"
        );
        for id in 1..=3 {
            frame(id);
            let part = read_until(&mut first, b"\r\n--frame\r\n");
            assert_eq!(part, read_until(&mut second, b"\r\n--frame\r\n"));
            assert_eq!(pictures.counts(), (id, id), "once for both");
            until(true);
        }
        drop((first, second));
        until(false);
        Box::new(http).finish().unwrap();
    }

    const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn live() -> Arc<Live> {
        Live::new(Vitals::default(), SystemClock::shared())
            .unwrap()
            .0
    }

    #[test]
    fn a_server_that_panics_or_fails_is_a_failure_of_the_sink() {
        let mut http = Http::start(live(), NOWHERE, || panic!("injected")).unwrap();
        let error = loop {
            match http.upkeep() {
                Ok(_) => std::thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("panicked"), "{error}");
        assert!(Box::new(http).finish().is_ok(), "reported once");
        let refused = || Err(io::Error::other("no socket"));
        let error = Box::new(Http::start(live(), NOWHERE, refused).unwrap()).finish();
        assert!(error.unwrap_err().to_string().contains("no socket"));
    }
}

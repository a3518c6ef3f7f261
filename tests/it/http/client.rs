//! The program as a server, and a client that sees every byte.

use crate::support::{Limit, PATIENCE, vovcam};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// A run that serves, and the messages it has written so far.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    messages: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    _limit: Limit,
}

/// The program on the test pattern, served on a port that the system chooses.
pub(crate) fn pattern(args: &[&str]) -> Command {
    let mut command = vovcam();
    command
        .args(["--source", "pattern", "--size", "320x240", "--fps", "30"])
        .args(["--headless", "--input", "64", "--http", "127.0.0.1:0"])
        .args(args);
    command
}

impl Served {
    pub(crate) fn start(command: &mut Command) -> Served {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let limit = Limit::of(&child);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let messages = Arc::new(Mutex::new(String::new()));
        let address = loop {
            let mut line = String::new();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "it ended: {}",
                messages.lock().unwrap()
            );
            messages.lock().unwrap().push_str(&line);
            if let Some((_, rest)) = line.split_once("http: http://") {
                break rest.trim_end().trim_end_matches('/').parse().unwrap();
            }
        };
        let all = Arc::clone(&messages);
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                all.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Served {
            child,
            address,
            messages,
            reader: Some(reader),
            _limit: limit,
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    pub(crate) fn exchange(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        // the server may refuse what it has read, and close, before all is sent
        let _ = stream.write_all(request);
        Response::read(stream)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, fields: &str) -> Response {
        let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        self.exchange(text.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "")
    }

    /// Opens a response without an end, and reads its head.
    pub(crate) fn open(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let status = line(&mut reader);
        assert_eq!(status, "HTTP/1.1 200 OK", "{path}");
        while !line(&mut reader).is_empty() {}
        reader
    }

    pub(crate) fn until_ready(&self) {
        until(|| self.get("/readyz").status == 200);
    }

    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.messages.lock().unwrap().clone())
    }

    pub(crate) fn stop(self) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        let (status, messages) = self.end();
        assert_eq!(status.code(), Some(0), "{messages}");
        messages
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    /// By name in lower case.
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn read(stream: TcpStream) -> Response {
        let mut bytes = Vec::new();
        let mut stream = BufReader::new(stream);
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no response: {}", String::from_utf8_lossy(&bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let (status, fields) = head.split_once("\r\n").unwrap();
        let fields = fields.lines().map(|field| {
            let (name, value) = field.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        });
        Response {
            status: status.split(' ').nth(1).unwrap().parse().unwrap(),
            fields: fields.collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A line without its end.
pub(crate) fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(reader.read_line(&mut line).unwrap() > 0, "it ended");
    line.trim_end().to_owned()
}

/// Asks until it is so.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "never");
        std::thread::yield_now();
    }
}

/// The next JPEG of a stream, with the line after it.
pub(crate) fn part(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    assert_eq!(line(stream), "--frame");
    assert_eq!(line(stream), "Content-Type: image/jpeg");
    let length = line(stream);
    let length = length.strip_prefix("Content-Length: ").unwrap();
    assert_eq!(line(stream), "");
    let mut jpeg = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut jpeg).unwrap();
    assert_eq!(line(stream), "");
    jpeg
}

pub(crate) fn check_jpeg(jpeg: &[u8]) {
    let image = image::load_from_memory_with_format(jpeg, image::ImageFormat::Jpeg).unwrap();
    assert_eq!((image.width(), image.height()), (320, 240));
}

//! The head of a response, with what every response says to browsers.

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of RFC 9110")]
pub enum Status {
    Ok = 200,
    BadRequest = 400,
    Unauthorized = 401,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    HeadTooLarge = 431,
    InternalError = 500,
    Unavailable = 503,
    VersionNotSupported = 505,
}

impl Status {
    fn reason(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::BadRequest => "Bad Request",
            Status::Unauthorized => "Unauthorized",
            Status::Forbidden => "Forbidden",
            Status::NotFound => "Not Found",
            Status::MethodNotAllowed => "Method Not Allowed",
            Status::RequestTimeout => "Request Timeout",
            Status::HeadTooLarge => "Request Header Fields Too Large",
            Status::InternalError => "Internal Server Error",
            Status::Unavailable => "Service Unavailable",
            Status::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

/// What a response holds.
pub(super) mod kind {
    pub(crate) const HTML: &str = "text/html; charset=utf-8";
    pub(crate) const CSS: &str = "text/css; charset=utf-8";
    pub(crate) const SCRIPT: &str = "text/javascript; charset=utf-8";
    pub(crate) const SVG: &str = "image/svg+xml";
    pub(crate) const JPEG: &str = "image/jpeg";
    pub(crate) const JSON: &str = "application/json";
    pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
    pub(crate) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    pub(crate) const EVENTS: &str = "text/event-stream";
    pub(crate) const PARTS: &str = "multipart/x-mixed-replace; boundary=frame";
}

/// Fields of every response. Nothing is kept by a cache, nothing comes from elsewhere, no other
/// site's page may embed or read it, and no address of it is told to others.
const ALWAYS: &str = "Connection: close\r\n\
    Cache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: no-referrer\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// The head of a response; `length` is `None` where the body ends with the connection.
pub(super) fn head(status: Status, kind: &str, length: Option<usize>) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\n{ALWAYS}",
        status as u16,
        status.reason()
    );
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str(match status {
        // the browser asks for the token by itself, and gives it for all requests to this origin
        Status::Unauthorized => "WWW-Authenticate: Basic realm=\"vovcam\", charset=\"UTF-8\"\r\n",
        Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
        Status::Unavailable => "Retry-After: 5\r\n",
        _ => "",
    });
    head.push_str("\r\n");
    head.into_bytes()
}

//! One HTTP/1.1 request: its head, read from the bytes of a connection.
//!
//! Stricter than RFC 9112 where that costs no client of today anything: no bodies, no absolute
//! targets, one `Host`. Every response closes its connection, so bytes after the head have no
//! meaning and nothing can be smuggled in them.

use super::response::Status;
use std::net::IpAddr;

/// Longest head in bytes.
pub(super) const LONGEST_HEAD: usize = 16 * 1024;
/// Most header fields.
const MOST_FIELDS: usize = 64;

/// The head of a request, as far as this server looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, or another method.
    pub method: String,
    /// The target before `?`, not decoded: no path here needs it.
    pub path: String,
    /// The target after `?`.
    pub query: String,
    /// The host without its port, in lower case; the brackets of an IPv6 address are left out.
    pub host: String,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// A browser's request from another site's page, and no navigation to this one.
    pub cross_site: bool,
}

/// The state of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is not complete.
    Incomplete,
    /// A head.
    Complete(Request),
    /// No request that this server takes, with the reason.
    Wrong(Status, &'static str),
}

/// Reads the head of a request.
pub fn parse(bytes: &[u8]) -> Parsed {
    let head = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => match understood(&request) {
            Ok(request) => Parsed::Complete(request),
            Err((status, reason)) => Parsed::Wrong(status, reason),
        },
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST_HEAD => Parsed::Wrong(
            Status::HeadTooLarge,
            "the head of the request is longer than 16 KiB",
        ),
        Ok(httparse::Status::Partial) => Parsed::Incomplete,
        Err(httparse::Error::TooManyHeaders) => Parsed::Wrong(
            Status::HeadTooLarge,
            "the request has more than 64 header fields",
        ),
        Err(httparse::Error::Version) => {
            Parsed::Wrong(Status::VersionNotSupported, "expected HTTP/1.1")
        }
        Err(_) => Parsed::Wrong(Status::BadRequest, "this is no HTTP/1.1 request"),
    }
}

type Refused = (Status, &'static str);

fn understood(head: &httparse::Request<'_, '_>) -> Result<Request, Refused> {
    let bad = |reason| Err((Status::BadRequest, reason));
    if head.version != Some(1) {
        return Err((Status::VersionNotSupported, "expected HTTP/1.1"));
    }
    let target = head.path.unwrap_or_default();
    if !target.starts_with('/') {
        return bad("expected a target that begins with '/'");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        ..Request::default()
    };
    let (mut hosts, mut cross_site, mut navigates) = (0, false, false);
    for field in head.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let Ok(value) = std::str::from_utf8(field.value) else {
            continue; // none of the fields below has other characters
        };
        let value = value.trim();
        if is("host") {
            hosts += 1;
            request.host = host_of(value).ok_or((Status::BadRequest, "'Host' is no host"))?;
        } else if is("authorization") {
            if request.authorization.replace(value.to_owned()).is_some() {
                return bad("more than one 'Authorization'");
            }
        } else if is("transfer-encoding") || (is("content-length") && value != "0") {
            return bad("expected a request without a body");
        } else if is("sec-fetch-site") {
            cross_site = matches!(value, "cross-site" | "same-site");
        } else if is("sec-fetch-mode") {
            navigates = value == "navigate";
        }
    }
    if hosts != 1 {
        return bad("expected one 'Host'");
    }
    request.cross_site = cross_site && !navigates;
    Ok(request)
}

/// The host of `HOST`, `HOST:PORT` or `[IPV6]:PORT`, in lower case.
fn host_of(value: &str) -> Option<String> {
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':')?),
            };
            (address, port)
        }
        None => match value.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (value, None),
        },
    };
    let port_is_number = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let right = port_is_number && !host.is_empty() && host.chars().all(in_host);
    right.then(|| host.to_ascii_lowercase())
}

impl Request {
    /// The value of a parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether the host is the address that the client has reached, a name of this machine for
    /// itself, or one of `names`. A page that lets its own name resolve to this machine's address
    /// (DNS rebinding) has another one.
    pub fn is_for(&self, reached: IpAddr, names: &[String]) -> bool {
        let by_address = |address: IpAddr| {
            let address = address.to_canonical();
            address == reached.to_canonical() || address.is_loopback()
        };
        self.host == "localhost"
            || names.contains(&self.host)
            || self.host.parse().is_ok_and(by_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Complete(request) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &str) -> Status {
        match parse(text.as_bytes()) {
            Parsed::Wrong(status, _) => status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let text = "GET /stream.mjpg?fps=5&x=1 HTTP/1.1\r\nHost: Board.Local:8990\r\nAuthorization: Bearer x\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Parsed::Incomplete, "{end}");
        }
        let request = request(text);
        assert_eq!(
            (request.path.as_str(), request.host.as_str()),
            ("/stream.mjpg", "board.local")
        );
        assert_eq!(request.parameter("fps"), Some("5"));
        assert_eq!(request.parameter("frames"), None);
        assert_eq!(request.authorization.as_deref(), Some("Bearer x"));
    }

    #[test]
    fn what_is_ambiguous_or_no_request_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(refused(text), Status::BadRequest, "{text:?}");
        }
        let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
        assert_eq!(refused(old), Status::VersionNotSupported);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
        assert_eq!(refused(&many), Status::HeadTooLarge);
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LONGEST_HEAD));
        assert_eq!(refused(&long), Status::HeadTooLarge);
    }

    #[test]
    fn only_names_and_addresses_of_this_machine_are_its_hosts() {
        let reached = "192.168.1.7".parse().unwrap();
        let names = ["cam.example".to_owned()];
        let is_for = |host: &str| {
            let request = request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            request.is_for(reached, &names)
        };
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8990",
            "[::1]:8990",
            "192.168.1.7",
            "[::ffff:192.168.1.7]",
            "cam.example:80",
        ] {
            assert!(is_for(host), "{host}");
        }
        for host in [
            "evil.example",
            "192.168.1.8",
            "localhost.evil.example",
            "1",
            "a.cam.example",
        ] {
            assert!(!is_for(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_link_here_but_not_embed() {
        let head = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let cross = |fields| request(&head(fields)).cross_site;
        assert!(cross(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"
        ));
        assert!(!cross(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
        ));
        assert!(!cross(
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n"
        ));
        assert!(!cross(""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_more_bytes_change_no_verdict(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            more in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let first = parse(&bytes);
            let longer = parse(&[bytes, more].concat());
            if first != Parsed::Incomplete {
                prop_assert_eq!(first, longer);
            }
        }

        #[test]
        fn heads_of_odd_fields_are_read_or_refused(
            method in "[A-Z]{1,8}",
            target in "/[ -~]{0,20}",
            fields in proptest::collection::vec(("[ -~]{0,12}", "[ -~\\t]{0,20}"), 0..5),
        ) {
            let fields: String = fields.iter().map(|(k, v)| format!("{k}:{v}\r\n")).collect();
            let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            match parse(text.as_bytes()) {
                Parsed::Complete(request) => prop_assert_eq!(request.host, "a"),
                Parsed::Wrong(..) => {}
                Parsed::Incomplete => prop_assert!(false, "the head is complete"),
            }
        }
    }
}

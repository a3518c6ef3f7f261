//! Addresses of sources, and what of them may be shown.
//!
//! An address often holds a secret: a password, a token in the query or in the path. Logs, events and
//! the process list are read by others. So an [`Address`] shows its scheme, its host and those parts
//! of its path that are words of the trade (`rtsp://10.0.0.7:554/…/live?…`), and everything else only
//! to who asks for it by name ([`Address::reveal`]). [`Secrets`] takes the same parts out of what
//! other programs write.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt::{self, Display, Write};

/// Stands for a part that is not shown.
const HIDDEN: &str = "…";

/// Words of paths that cameras and recorders have in common, and so no secrets.
const WORDS: [&str; 66] = [
    "av",
    "avi",
    "axis",
    "bin",
    "cam",
    "camera",
    "cameras",
    "cgi",
    "ch",
    "channel",
    "channels",
    "clip",
    "fullsize",
    "h",
    "hd",
    "hls",
    "high",
    "image",
    "images",
    "img",
    "index",
    "isapi",
    "jpeg",
    "jpg",
    "live",
    "low",
    "m",
    "m3u",
    "main",
    "media",
    "mjpeg",
    "mjpg",
    "mkv",
    "mov",
    "mp",
    "mpeg",
    "mpg",
    "nphmotionjpeg",
    "onvif",
    "play",
    "playlist",
    "preview",
    "profile",
    "sd",
    "sdp",
    "smil",
    "snap",
    "snapshot",
    "stream",
    "streaming",
    "streams",
    "sub",
    "track",
    "ts",
    "unicast",
    "v",
    "video",
    "videostream",
    "videos",
    "view",
    "webcam",
    "webm",
    "wmv",
    "yuv",
    "y4m",
    "x",
];
/// Numbers of a path with more digits may be a secret.
const MOST_DIGITS: usize = 3;

/// An address that a source is read from, such as `rtsp://user:password@host/path?query`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Any text with `://` in it.
    pub fn new(text: impl Into<String>) -> Address {
        Address(text.into())
    }

    /// The whole address, for who opens it. Not for messages.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a part of it is not shown.
    pub fn has_secrets(&self) -> bool {
        let parts = Parts::of(&self.0);
        let hidden = [parts.user, parts.query, parts.fragment];
        parts.scheme != "file"
            && (hidden.iter().any(|part| !part.is_empty())
                || parts.shown_scheme() == HIDDEN
                || parts.shown_host().is_none()
                || !parts.path.split('/').all(is_known))
    }

    /// What it is about, for the camera's name in logs: its host, or its scheme.
    pub fn host(&self) -> String {
        let parts = Parts::of(&self.0);
        match parts.shown_host() {
            Some(host) if !host.is_empty() => host.to_owned(),
            _ => parts.shown_scheme().to_owned(),
        }
    }

    /// Its parts that other programs may repeat.
    pub fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add_address(self);
        secrets
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Parts::of(&self.0).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// The parts of an address; each may be empty.
struct Parts<'a> {
    scheme: &'a str,
    /// Without the `@`.
    user: &'a str,
    host: &'a str,
    /// From its `/` on.
    path: &'a str,
    /// Behind the `?`.
    query: &'a str,
    /// Behind the `#`.
    fragment: &'a str,
    /// Path, query and fragment together.
    behind: &'a str,
}

impl<'a> Parts<'a> {
    fn of(address: &'a str) -> Parts<'a> {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (path, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Parts {
            scheme,
            user,
            host,
            path,
            query,
            fragment,
            behind: rest,
        }
    }

    fn shown_scheme(&self) -> &'a str {
        match self.scheme.len() <= 16 && self.scheme.chars().all(of_scheme) {
            true => self.scheme,
            false => HIDDEN,
        }
    }

    /// Host and port; `None` where they may be a part of the password: one that has a `/`, `?` or
    /// `#` in it ends the authority too early.
    fn shown_host(&self) -> Option<&'a str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (self.host, ""),
        };
        let is_host = self.host.chars().all(plain)
            && port.chars().all(|c| c.is_ascii_digit())
            && (!name.contains(':') || name.starts_with('['));
        (is_host && !self.behind.contains('@')).then_some(self.host)
    }
}

impl Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == "file" {
            // a path, which is shown elsewhere too
            return write!(f, "file://{}{}", self.host, self.path);
        }
        let host = self.shown_host().unwrap_or(HIDDEN);
        write!(f, "{}://{host}", self.shown_scheme())?;
        for (index, segment) in self.path.split('/').enumerate() {
            if index > 0 {
                f.write_char('/')?;
            }
            f.write_str(if is_known(segment) { segment } else { HIDDEN })?;
        }
        f.write_str(if self.query.is_empty() { "" } else { "?…" })?;
        f.write_str(if self.fragment.is_empty() { "" } else { "#…" })
    }
}

/// Whether a segment of a path is too short for a secret, or consists of known words and short numbers
/// alone, such as `ch0_0.h264`.
fn is_known(segment: &str) -> bool {
    if segment.len() < SHORTEST && segment.chars().all(char::is_alphanumeric) {
        return true;
    }
    let known = |part: &str| {
        let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = part.len() - letters.len();
        let word =
            letters.is_empty() || WORDS.iter().any(|word| word.eq_ignore_ascii_case(letters));
        word && digits <= MOST_DIGITS
    };
    segment.split(['-', '_', '.']).all(known)
}

/// The words of a GStreamer pipeline, as a shell would split them.
#[derive(Clone, PartialEq, Eq)]
pub struct Pipeline(Vec<String>);

impl Pipeline {
    /// A pipeline of these words.
    pub fn new(words: Vec<String>) -> Pipeline {
        Pipeline(words)
    }

    /// The words as they are, for who starts the pipeline. Not for messages.
    pub fn reveal(&self) -> &[String] {
        &self.0
    }

    /// Values of its properties, which the program may repeat.
    pub fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        for word in &self.0 {
            let value = word
                .split_once('=')
                .map_or(word.as_str(), |(_, value)| value);
            if value.contains("://") {
                secrets.add_address(&Address::new(value));
            } else if shown_word(word).contains(HIDDEN) {
                secrets.add(value);
            }
        }
        secrets
    }
}

/// A word of a pipeline without the value of a property. What stays are names of elements and
/// properties, and formats such as `video/x-raw,width=640`.
fn shown_word(word: &str) -> String {
    let is_format = ["video/", "image/", "application/x-rtp"]
        .iter()
        .any(|kind| word.starts_with(kind));
    match word.split_once('=') {
        _ if is_format && !word.contains("://") => word.to_owned(),
        Some((name, value)) if value.contains("://") => format!("{name}={}", Address::new(value)),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None if word.contains("://") => Address::new(word).to_string(),
        None if word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!._-".contains(c)) =>
        {
            word.to_owned()
        }
        None => HIDDEN.to_owned(),
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|word| shown_word(word)).collect();
        write!(f, "gst:{}", words.join(" "))
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({self})")
    }
}

/// What another program that reads a source may repeat in its messages, and must not be shown.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Texts and what stands for them, the longest first.
    texts: Vec<(String, String)>,
}

/// Shorter texts are too common to be taken out.
const SHORTEST: usize = 3;
/// Shorter texts are taken out only where no letter or digit touches them.
const SHORT: usize = 6;

impl Secrets {
    fn add_address(&mut self, address: &Address) {
        self.put(address.reveal(), &address.to_string());
        if !address.has_secrets() {
            return;
        }
        let parts = Parts::of(address.reveal());
        self.add(parts.behind.trim_start_matches(['/', '?', '#']));
        self.add(parts.user);
        parts.user.split([':', ' ']).for_each(|part| self.add(part));
        if let Some((_, password)) = parts.user.split_once(':') {
            self.add(password); // it may have a ':' in it
        }
        if parts.shown_host().is_none() {
            parts
                .host
                .split(':')
                .chain([parts.host])
                .for_each(|part| self.add(part));
        }
        for segment in parts.path.split('/').filter(|segment| !is_known(segment)) {
            self.add(segment);
            segment
                .split(|c: char| !c.is_alphanumeric())
                .for_each(|part| self.add(part));
        }
        for part in parts.query.split(['&', ';']).chain([parts.fragment]) {
            self.add(part.split_once('=').map_or(part, |(_, value)| value));
        }
    }

    /// A secret, in every form in which it may be repeated.
    fn add(&mut self, secret: &str) {
        let decoded = percent_decode_str(secret).decode_utf8_lossy();
        let encoded = utf8_percent_encode(&decoded, NON_ALPHANUMERIC).to_string();
        for form in [secret, &decoded, &encoded, &decoded.replace('+', " ")] {
            self.put(form, HIDDEN);
        }
    }

    /// What stands for a text.
    pub(super) fn put(&mut self, text: &str, shown: &str) {
        let known = |word: &str| WORDS.iter().any(|known| known.eq_ignore_ascii_case(word));
        if text.len() < SHORTEST || text == shown || known(text) {
            return;
        }
        if !self.texts.iter().any(|(other, _)| other == text) {
            self.texts.push((text.to_owned(), shown.to_owned()));
            self.texts
                .sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
    }

    /// The text without any of them, and with every other address in it as an [`Address`] is shown.
    pub fn taken_out_of(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (secret, shown) in &self.texts {
            text = replaced(&text, secret, shown);
        }
        without_secrets(&text)
    }
}

fn replaced(text: &str, secret: &str, shown: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    let of_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    while let Some(at) = rest.find(secret) {
        let (before, behind) = (&rest[..at], &rest[at + secret.len()..]);
        let alone = !of_word(before.chars().next_back()) && !of_word(behind.chars().next());
        result.push_str(before);
        result.push_str(if alone || secret.len() >= SHORT {
            shown
        } else {
            secret
        });
        rest = behind;
    }
    result.push_str(rest);
    result
}

/// A text in which every address is shown as an [`Address`] is: for texts of others, which may quote
/// one.
pub fn without_secrets(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let begin = rest[..at].trim_end_matches(of_scheme).len();
        let end = rest[at..].find(char::is_whitespace);
        let end = end.map_or(rest.len(), |end| at + end);
        // quotes and full stops belong to the sentence around it
        let address = rest[begin..end].trim_end_matches(|c: char| "'\"`.,:;)]}>".contains(c));
        result.push_str(&rest[..begin]);
        result.push_str(&Address::new(address).to_string());
        rest = &rest[begin + address.len()..];
    }
    result.push_str(rest);
    result
}

/// A text that may name a source, as far as it may be shown.
pub fn shown_source(text: &str) -> String {
    match text.starts_with("gst:") {
        true => format!("gst:{HIDDEN}"),
        false => without_secrets(text),
    }
}

fn of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_scheme_its_host_and_known_words() {
        for (address, shown) in [
            ("rtsp://10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
            (
                "rtsp://me:secret@10.0.0.7:554/live/ch0_0.h264",
                "rtsp://10.0.0.7:554/live/ch0_0.h264",
            ),
            (
                "http://cam.local:80/tok3n/video?user=a&pwd=b",
                "http://cam.local:80/…/video?…",
            ),
            (
                "http://cam/axis-cgi/mjpg/video.cgi?token",
                "http://cam/axis-cgi/mjpg/video.cgi?…",
            ),
            (
                "rtsp://nvr/Streaming/Channels/101",
                "rtsp://nvr/Streaming/Channels/101",
            ),
            ("rtsp://nvr/cam/12345", "rtsp://nvr/cam/…"),
            (
                "rtsp://h/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp",
                "rtsp://h/…",
            ),
            ("rtmp://host/live/streamkey", "rtmp://host/live/…"),
            (
                "srt://host:9000?passphrase=secret#part",
                "srt://host:9000?…#…",
            ),
            ("http://[fe80::1]:8080/video", "http://[fe80::1]:8080/video"),
            ("udp://@:5000", "udp://:5000"),
            ("file:///home/me/clip.mp4", "file:///home/me/clip.mp4"),
            // passwords with characters that should have been encoded
            ("rtsp://admin:pa/ss@host:554/live", "rtsp://…/…/live"),
            ("rtsp://admin:pa?ss@host/live", "rtsp://…?…"),
            ("rtsp://admin:p#w@host/live", "rtsp://…#…"),
            ("rtsp://admin:p:w@q@host/live", "rtsp://host/live"),
            ("rtsp://u:p@q/r@host/live", "rtsp://…/…/live"),
            ("rtsp://admin:secret/live", "rtsp://…/live"),
            ("http://user%3Apw%40host/video", "http://…/video"),
            ("http://user:p w@host/video", "http://host/video"),
            ("concat:http://a/b|http://u:p@h/c", "concat:http://…/…//…/c"),
            ("subfile,,start,1,end,2,,:http://h/video", "…://h/video"),
        ] {
            let address = Address::new(address);
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("Address({shown})"));
            let hides = shown.contains(HIDDEN)
                || address.reveal().matches('@').count() > shown.matches('@').count();
            assert_eq!(
                address.has_secrets(),
                hides && !shown.starts_with("udp"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_camera_is_named_after_its_host() {
        for (address, host) in [
            ("rtsp://me:secret@10.0.0.7:554/live?token=x", "10.0.0.7:554"),
            ("rtsp://me:sec/ret@host/live", "rtsp"),
            ("unix:///run/camera", "unix"),
        ] {
            assert_eq!(Address::new(address).host(), host);
        }
    }

    #[test]
    fn a_pipeline_shows_its_elements_and_formats() {
        let words = "rtspsrc location=rtsp://u:p@h/live user-pw=s3cret latency=0 ! rtph264depay ! video/x-raw,width=640 ! \
                     souphttpsrc extra-headers=\"auth, x=y\" ! \"odd word\"";
        let pipeline = Pipeline::new(shlex::split(words).unwrap());
        let shown = "gst:rtspsrc location=rtsp://h/live user-pw=… latency=… ! rtph264depay ! \
                     video/x-raw,width=640 ! souphttpsrc extra-headers=… ! …";
        assert_eq!(pipeline.to_string(), shown);
        assert_eq!(format!("{pipeline:?}"), format!("Pipeline({shown})"));
        let message = "rtspsrc0: 's3cret' was refused by rtsp://u:p@h/live: auth, x=y";
        let shown = "rtspsrc0: '…' was refused by rtsp://h/live: …";
        assert_eq!(pipeline.secrets().taken_out_of(message), shown);
    }

    #[test]
    fn what_a_program_repeats_of_an_address_is_taken_out() {
        let address =
            Address::new("http://admin:pa%20ss+1@cam:80/tok3n/video.cgi?key=a%2Fb c&n=12&pin=123");
        let secrets = address.secrets();
        for (message, shown) in [
            (address.reveal(), "http://cam:80/…/video.cgi?…"),
            (
                "[http @ 0x1] Impossible to open 'http://admin:pa%20ss+1@cam:80/tok3n/video.cgi?key=a%2Fb c&n=12&pin=123'",
                "[http @ 0x1] Impossible to open 'http://cam:80/…/video.cgi?…'",
            ),
            (
                "user 'admin', password 'pa ss+1' or pa ss 1",
                "user '…', password '…' or …",
            ),
            (
                "GET /tok3n/video.cgi?key=a%2Fb%20c: a/b c",
                "GET /…/video.cgi?key=…: …",
            ),
            (
                "HTTP error 404, pin 123, 1234 bytes, 12 lines",
                "HTTP error 404, pin …, 1234 bytes, 12 lines",
            ),
            ("administrator", "administrator"),
            (
                "tcp://127.0.0.1:1?timeout=0 failed: refused",
                "tcp://127.0.0.1:1?… failed: refused",
            ),
            (
                "Opening 'https://other/SECRET/x.ts?k=v' for reading",
                "Opening 'https://other/…/x.ts?…' for reading",
            ),
            (
                "URL: http://a/SECRET, Redirect to: (NULL)",
                "URL: http://a/…, Redirect to: (NULL)",
            ),
            (
                "proxy=http://me:SECRET@proxy:3128.",
                "proxy=http://proxy:3128.",
            ),
            ("no address: :// or http://", "no address: :// or http://"),
        ] {
            assert_eq!(secrets.taken_out_of(message), shown);
        }
    }

    #[test]
    fn no_secret_of_any_form_is_left_in_any_message() {
        let secret = "S3CR3Tx";
        for address in [
            "rtsp://S3CR3Tx@h/live",
            "rtsp://u:S3CR3Tx@h/live",
            "rtsp://u:a/S3CR3Tx@h/live",
            "rtsp://h/S3CR3Tx",
            "rtsp://h/live/S3CR3Tx/1",
            "rtsp://h/a_S3CR3Tx.sdp",
            "http://h/live?S3CR3Tx",
            "http://h/live?a=S3CR3Tx",
            "http://h/live;k=S3CR3Tx",
            "http://h/live#S3CR3Tx",
            "http://h/live?a#S3CR3Tx",
            "http://S3CR3Tx:x@h",
            "http://u:p@S3CR3Tx?@h",
            "rtsp://u:%53S3CR3Tx@h/live",
            "rtmp://h/app playpath=S3CR3Tx",
            "rtsp://u:p w S3CR3Tx@h/live",
            "http://u:'S3CR3Tx'@h/",
        ] {
            let address = Address::new(address);
            let parts = address.reveal().split(|c: char| "/?&#;:@= ".contains(c));
            let quotes = parts.chain([address.reveal(), &address.reveal()[4..]]);
            let quotes = quotes.map(|part| format!("error in '{part}', that is <{part}>: {part}"));
            for message in quotes.chain([format!("{address} {address:?} {}", address.host())]) {
                let shown = address.secrets().taken_out_of(&message);
                assert!(!shown.contains(secret), "{message}: {shown}");
            }
        }
    }
}

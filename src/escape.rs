//! Text from outside on its way to people: names of any bytes, and control characters written out.
//!
//! File names, the name of a camera or another program's messages may hold any character. Raw, an
//! escape sequence is carried out by the terminal, and a newline forges a line of the log.

use std::ffi::OsStr;
use std::fmt::{self, Display, Write};

/// Displays its contents on one line, with control characters written out: `\n`, `\x1b`, `\u{9b}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_active) {
            self.0.write_str(&rest[..at])?;
            let mut chars = rest[at..].chars();
            match chars.next() {
                Some('\n') => self.0.write_str("\\n")?,
                Some('\r') => self.0.write_str("\\r")?,
                Some('\t') => self.0.write_str("\\t")?,
                Some(c) if c.is_ascii() => write!(self.0, "\\x{:02x}", c as u32)?,
                Some(c) => write!(self.0, "\\u{{{:x}}}", c as u32)?,
                None => {}
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Whether a terminal or a reader does something else with a character than show it: control
/// characters, line separators, and those that turn the direction of the text around them.
fn is_active(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Several lines, each as [`Printable`].
pub fn lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| Printable(line).to_string());
    lines.collect::<Vec<_>>().join("\n")
}

/// A name or path as text. Bytes that are not UTF-8 are written as `\xNN`, so that two names that
/// differ in them stay different; control characters are left as they are.
pub fn name(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes all
        }
    }
    text
}

/// Writes out the control characters that JSON allows raw within its texts (U+007F to U+009F), as
/// `\u009b`: some terminals carry them out.
pub fn controls_in_json(json: &mut Vec<u8>) {
    let is_control = |at: usize, json: &[u8]| match json[at] {
        0x7f => true,
        0xc2 => matches!(json.get(at + 1), Some(0x80..=0x9f)),
        _ => false,
    };
    let mut at = 0;
    while let Some(found) = (at..json.len()).find(|&at| is_control(at, json)) {
        let len = if json[found] == 0x7f { 1 } else { 2 };
        let code = json[found + len - 1]; // U+0080 to U+009F end in their own number
        let escaped = format!("\\u{code:04x}");
        at = found + escaped.len();
        json.splice(found..found + len, escaped.into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_a_terminal_would_carry_out_is_written_out() {
        let shown = |text: &str| Printable(text).to_string();
        assert_eq!(shown("straße\\ 'a' 日本"), "straße\\ 'a' 日本");
        assert_eq!(shown("a\x1b[31m\r\n\tb\0"), "a\\x1b[31m\\r\\n\\tb\\x00");
        assert_eq!(shown("\u{9b}2J\u{7f}"), "\\u{9b}2J\\x7f");
        assert_eq!(
            shown("gpj\u{202e}.exe\u{2028}"),
            "gpj\\u{202e}.exe\\u{2028}"
        );
        assert_eq!(lines("a\x07\nb"), "a\\x07\nb");
    }

    #[test]
    fn names_of_any_bytes_stay_different() {
        let text = |bytes| name(OsStr::from_bytes(bytes));
        assert_eq!(text(b"n\xe9.jpg"), "n\\xe9.jpg");
        assert_eq!(text(b"n\xe8.jpg"), "n\\xe8.jpg");
        assert_eq!(text("né\n.jpg".as_bytes()), "né\n.jpg");
    }

    #[test]
    fn json_keeps_its_meaning() {
        for text in ["plain é 日", "a\u{7f}b\u{80}\u{9f}\u{a0}", "\u{9b}", ""] {
            let mut json = serde_json::to_vec(text).unwrap();
            controls_in_json(&mut json);
            let shown = String::from_utf8(json).unwrap();
            assert!(!shown.contains(char::is_control), "{shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}

//! The token that clients must give: as `Authorization: Bearer TOKEN`, or as the password of Basic
//! authentication under any user name, for which browsers ask by themselves. It is never part of
//! an address, which logs and histories keep.

use crate::sink::SinkError;
use sha2::{Digest, Sha256};
use std::fmt;
use std::hint::black_box;
use std::path::Path;

/// The setting that names the file.
pub(super) const SETTING: &str = "http_token_file";
/// Fewest characters: a guess must not succeed within years.
const SHORTEST: usize = 16;
/// Most characters, so that the header field fits.
const LONGEST: usize = 1024;

/// The SHA-256 of a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the token, which is all that the file holds but blanks around it.
    ///
    /// # Errors
    /// When the file cannot be read or holds no such token.
    pub(super) fn read(path: &Path) -> Result<Token, SinkError> {
        let wrong = |reason: String| SinkError::Setting {
            setting: SETTING,
            reason: format!("'{}': {reason}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        Token::new(text.trim()).map_err(wrong)
    }

    fn new(text: &str) -> Result<Token, String> {
        let length = text.chars().count();
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err(format!(
                "expected a token of {SHORTEST} to {LONGEST} characters, got {length}; \
                 'openssl rand -hex 24' makes one"
            ));
        }
        match text.chars().all(|c| c.is_ascii_graphic()) {
            true => Ok(Token(digest(text.as_bytes()))),
            false => Err(
                "expected a token of letters, digits and signs in ASCII, without blanks".to_owned(),
            ),
        }
    }

    /// Whether the value of `Authorization` has the token. The time that this takes does not depend
    /// on how much of the token is right.
    pub(super) fn is_in(&self, authorization: Option<&str>) -> bool {
        let Some((scheme, credentials)) = authorization.and_then(|value| value.split_once(' '))
        else {
            return false;
        };
        let credentials = credentials.trim();
        let given = if scheme.eq_ignore_ascii_case("bearer") {
            credentials.as_bytes().to_vec()
        } else if scheme.eq_ignore_ascii_case("basic") {
            let Some(decoded) = from_base64(credentials) else {
                return false;
            };
            let Some(colon) = decoded.iter().position(|&byte| byte == b':') else {
                return false;
            };
            decoded[colon + 1..].to_vec()
        } else {
            return false;
        };
        let pairs = self.0.iter().zip(digest(&given));
        black_box(pairs.fold(0, |differing, (a, b)| differing | (a ^ b))) == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Decodes base64 with padding (RFC 4648, section 4).
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(3 * text.len() / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = ((bits << 6 | u32::from(value)) & 0xffff, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789abcdef";

    #[test]
    fn a_token_is_a_bearer_or_the_password_of_any_user() {
        let token = Token::new(TEXT).unwrap();
        let is_in = |value: &str| token.is_in(Some(value));
        assert!(is_in("Bearer 0123456789abcdef"));
        assert!(is_in("bearer  0123456789abcdef"));
        // printf 'me:0123456789abcdef' | base64, and without a user
        assert!(is_in("Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg=="));
        assert!(is_in("Basic OjAxMjM0NTY3ODlhYmNkZWY="));
        assert!(!token.is_in(None));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcdeX",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg",
            "Basic !!!!",
            "Digest 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!is_in(wrong), "'{wrong}'");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        for wrong in ["Z", "Zg", "Z===", "Zm9v=", "Zm-v", "Zg==Zg=="] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_short_or_odd_token_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Token::read(&path).err().map(|e| e.to_string())
        };
        assert_eq!(error(&format!("{TEXT}\n")), None);
        assert!(error("short").unwrap().contains("'openssl rand -hex 24'"));
        assert!(
            error("0123456789 abcdef")
                .unwrap()
                .contains("without blanks")
        );
        let gone = Token::read(&dir.path().join("none")).unwrap_err();
        assert!(gone.to_string().starts_with("http_token_file: '"), "{gone}");
    }
}

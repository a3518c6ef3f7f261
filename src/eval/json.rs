//! JSON element by element, and as Python's `json` module reads it: with `NaN` and `Infinity`, whole
//! numbers of any size, and the last of equal keys. A byte order mark is skipped.

use jiter::{Jiter, JiterError, JsonValue, Peek};

/// Longest value that a message quotes, in characters.
const MOST_SHOWN: usize = 40;

/// Reads one file from its beginning to its end. Every error says where.
pub(super) struct Reader<'j> {
    json: Jiter<'j>,
}

impl<'j> Reader<'j> {
    pub(super) fn new(bytes: &'j [u8]) -> Result<Reader<'j>, String> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err("expected UTF-8, got UTF-16: save the file as UTF-8".to_owned());
        }
        Ok(Reader {
            json: Jiter::new(bytes).with_allow_inf_nan(),
        })
    }

    /// An object: calls `read` for each field of these names, by its index, and skips all others.
    pub(super) fn object(
        &mut self,
        names: &[&str],
        mut read: impl FnMut(&mut Self, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        self.expect(Peek::Object, "an object")?;
        let place = |key: &str| names.iter().position(|name| *name == key);
        let mut key = self.json.next_object().map(|key| key.map(place));
        while let Some(field) = key.map_err(|e| self.at(&e))? {
            match field {
                Some(index) => read(self, index)?,
                None => self.json.next_skip().map_err(|e| self.at(&e))?,
            }
            key = self.json.next_key().map(|key| key.map(place));
        }
        Ok(())
    }

    /// A list: calls `read` for each element, by its index.
    pub(super) fn list(
        &mut self,
        mut read: impl FnMut(&mut Self, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        self.expect_list()?;
        let mut more = self.json.next_array();
        let mut index = 0;
        while more.map_err(|e| self.at(&e))?.is_some() {
            read(self, index)?;
            index += 1;
            more = self.json.array_step();
        }
        Ok(())
    }

    /// Refuses anything but a list.
    pub(super) fn expect_list(&mut self) -> Result<(), String> {
        self.expect(Peek::Array, "a list")
    }

    /// The fields of these names of an object; `None` for a field that is absent.
    pub(super) fn fields<const N: usize>(
        &mut self,
        names: &[&str; N],
    ) -> Result<[Option<JsonValue<'j>>; N], String> {
        let mut values = [const { None }; N];
        self.object(names, |reader, index| {
            values[index] = Some(reader.value()?);
            Ok(())
        })?;
        Ok(values)
    }

    /// Nothing but blanks may follow.
    pub(super) fn end(mut self) -> Result<(), String> {
        self.json.finish().map_err(|e| self.at(&e))
    }

    fn value(&mut self) -> Result<JsonValue<'j>, String> {
        self.json.next_value().map_err(|e| self.at(&e))
    }

    /// Refuses a value of another kind, which is quoted.
    fn expect(&mut self, kind: Peek, name: &str) -> Result<(), String> {
        let found = self.json.peek().map_err(|e| self.at(&e))?;
        match found == kind {
            true => Ok(()),
            false => Err(format!("expected {name}, got {}", shown(&self.value()?))),
        }
    }

    fn at(&self, error: &JiterError) -> String {
        format!("{} at {}", error.error_type, error.get_position(&self.json))
    }
}

/// A value for a message: short, and on one line.
pub(super) fn shown(value: &JsonValue) -> String {
    let text = match value {
        JsonValue::Null => "null".to_owned(),
        JsonValue::Bool(value) => value.to_string(),
        JsonValue::Int(number) => number.to_string(),
        JsonValue::BigInt(number) => number.to_string(),
        JsonValue::Float(number) => format!("{number:?}"),
        JsonValue::Str(text) => format!("the text '{}'", text.escape_debug()),
        JsonValue::Array(items) => {
            let items: Vec<String> = items.iter().take(MOST_SHOWN).map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        JsonValue::Object(_) => "an object".to_owned(),
    };
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A number as Python's `float` takes it; `true` is 1.
pub(super) fn number(value: &JsonValue) -> Option<f64> {
    match value {
        JsonValue::Bool(value) => Some(f64::from(u8::from(*value))),
        JsonValue::Int(number) => Some(*number as f64),
        JsonValue::BigInt(number) => number.to_string().parse().ok(),
        JsonValue::Float(number) => Some(*number),
        _ => None,
    }
}

/// An optional field: null stands for nothing.
pub(super) fn given<'v, 'j>(value: &'v Option<JsonValue<'j>>) -> Option<&'v JsonValue<'j>> {
    value.as_ref().filter(|value| **value != JsonValue::Null)
}

/// The number that a text holds, as Python's `float` reads it: with blanks around it and with `_`
/// between digits.
pub(super) fn number_in(text: &str) -> Option<f64> {
    let text = text.trim();
    let between_digits = |at: usize| {
        let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        at > 0 && digit(text.as_bytes().get(at - 1)) && digit(text.as_bytes().get(at + 1))
    };
    match text.match_indices('_').all(|(at, _)| between_digits(at)) {
        true => text.replace('_', "").parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &[u8]) -> Result<[Option<JsonValue<'_>>; 2], String> {
        let mut reader = Reader::new(text)?;
        let fields = reader.fields(&["a", "b"])?;
        reader.end().map(|()| fields)
    }

    #[test]
    fn what_pythons_module_reads_is_read() {
        let [a, b] =
            fields(b" {\"a\": NaN, \"x\": [{\"a\": 1}], \"a\": -Infinity, \"b\": null}\n").unwrap();
        assert_eq!(
            a.as_ref().and_then(number),
            Some(f64::NEG_INFINITY),
            "the last of equal keys"
        );
        assert_eq!(b, Some(JsonValue::Null));
        let [a, _] = fields(b"\xef\xbb\xbf{\"a\": 123456789012345678901234567890}").unwrap();
        assert_eq!(
            a.as_ref().and_then(number),
            Some(123_456_789_012_345_678_901_234_567_890.0)
        );
    }

    #[test]
    fn errors_say_where() {
        for (text, error) in [
            (
                &b"{\"a\": 1"[..],
                "EOF while parsing an object at line 1 column 7",
            ),
            (b"{\"a\": 1,\n \"b\": tru}", "expected ident at line 2"),
            (b"{\"a\": 1} 2", "trailing characters at line 1 column 10"),
            (
                b"[1, \"two\"]",
                "expected an object, got [1, the text 'two']",
            ),
            (b"\xff\xfe{\0}\0", "expected UTF-8, got UTF-16"),
            (b"", "EOF while parsing a value"),
        ] {
            let got = fields(text).unwrap_err();
            assert!(got.starts_with(error), "{got}");
        }
    }

    #[test]
    fn texts_hold_numbers_as_python_reads_them() {
        for (text, number) in [
            ("10", 10.0),
            (" 1.5e1\n", 15.0),
            ("1_0", 10.0),
            ("-.5", -0.5),
            ("+1.", 1.0),
        ] {
            assert_eq!(number_in(text), Some(number), "{text}");
        }
        assert!(number_in("nan").is_some_and(f64::is_nan));
        for text in ["", "1__0", "_1", "1_", "1_.0", "0x10", "1 0", "ten"] {
            assert_eq!(number_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_message_quotes_no_more_than_a_line() {
        assert_eq!(shown(&JsonValue::Str("a\nb".into())), "the text 'a\\nb'");
        assert_eq!(
            shown(&JsonValue::Str("x".repeat(99).into()))
                .chars()
                .count(),
            MOST_SHOWN + 1
        );
    }
}

//! Ids of images and categories, as annotation files write them.

use super::json::shown;
use jiter::JsonValue;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// An id: a number or a text. Numbers are equal by value, as in Python: `1`, `1.0` and `true` are
/// the same id, `"1"` is another.
#[derive(Clone, Debug)]
pub enum Id {
    /// A whole number.
    Whole(i64),
    /// A whole number beyond 64 bits (some tools write UUIDs so), by its decimal digits.
    Big(Box<str>),
    /// Any other finite number.
    Fraction(f64),
    /// A text.
    Text(Box<str>),
}

impl Id {
    /// The id that a value of the file stands for.
    pub(super) fn read(value: &JsonValue) -> Result<Id, String> {
        Ok(match value {
            JsonValue::Bool(value) => Id::Whole(i64::from(*value)),
            JsonValue::Int(number) => Id::Whole(*number),
            JsonValue::BigInt(number) => Id::Big(number.to_string().into()),
            JsonValue::Float(number) if number.is_finite() => Id::of_float(*number),
            JsonValue::Str(text) => Id::Text(text.as_ref().into()),
            other => {
                let other = shown(other);
                return Err(format!("expected a number or a text, got {other}"));
            }
        })
    }

    /// The id that a reference to an image or category stands for: `None` for null and for what is
    /// not finite, which refer to nothing.
    pub(super) fn reference(value: &JsonValue) -> Result<Option<Id>, String> {
        match value {
            JsonValue::Null => Ok(None),
            JsonValue::Float(number) if !number.is_finite() => Ok(None),
            value => Id::read(value).map(Some),
        }
    }

    fn of_float(number: f64) -> Id {
        let limit = 2f64.powi(63);
        match number.fract() == 0.0 {
            true if (-limit..limit).contains(&number) => Id::Whole(number as i64),
            true => Id::Big(format!("{number:.0}").into()),
            false => Id::Fraction(number),
        }
    }

    /// Whether it is a text: texts and numbers have no common order.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Id::Text(_))
    }

    /// A number's value, rounded.
    fn value(&self) -> f64 {
        match self {
            Id::Whole(number) => *number as f64,
            Id::Fraction(number) => *number,
            Id::Big(digits) => digits.parse().unwrap_or(f64::NAN),
            Id::Text(_) => f64::NAN,
        }
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Id) -> Ordering {
        match (self, other) {
            (Id::Whole(a), Id::Whole(b)) => a.cmp(b),
            (Id::Text(a), Id::Text(b)) => a.cmp(b),
            (Id::Text(_), _) => Ordering::Greater,
            (_, Id::Text(_)) => Ordering::Less,
            (Id::Big(a), Id::Big(b)) if a == b => Ordering::Equal,
            // a fraction is no whole number, and what has more than 64 bits no Id::Whole
            (a, b) => a
                .value()
                .total_cmp(&b.value())
                .then_with(|| a.digits_cmp(b)),
        }
    }
}

impl Id {
    /// The order of two numbers whose values round to the same.
    fn digits_cmp(&self, other: &Id) -> Ordering {
        let digits = |id: &Id| id.to_string();
        let order = digits(self).cmp(&digits(other));
        match self.value() < 0.0 {
            true => order.reverse(),
            false => order,
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Id) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Id::Whole(number) => number.hash(state),
            Id::Fraction(number) => number.to_bits().hash(state),
            Id::Big(text) | Id::Text(text) => text.hash(state),
        }
    }
}

/// As in the file, texts in quotes.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Whole(number) => number.fmt(f),
            Id::Big(digits) => digits.fmt(f),
            Id::Fraction(number) => number.fmt(f),
            Id::Text(text) => write!(f, "'{text}'"),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Id::Whole(number) => number.serialize(serializer),
            Id::Fraction(number) => number.serialize(serializer),
            Id::Text(text) => text.serialize(serializer),
            Id::Big(digits) => RawValue::from_string(digits.to_string())
                .map_err(S::Error::custom)?
                .serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn id(json: &str) -> Result<Id, String> {
        Id::read(&JsonValue::parse(json.as_bytes(), true).unwrap())
    }

    fn ids<const N: usize>(texts: [&str; N]) -> [Id; N] {
        texts.map(|text| id(text).unwrap())
    }

    const UUID: &str = "340282366920938463463374607431768211455";

    #[test]
    fn numbers_are_equal_by_value_and_differ_from_texts() {
        let one: HashSet<Id> = ids(["1", "1.0", "true", "1e0"]).into();
        assert_eq!(one.len(), 1);
        let several: HashSet<Id> = ids(["0", "1", "\"1\"", "1.5", UUID]).into();
        assert_eq!(several.len(), 5);
        assert_eq!(id("-0.0"), id("0"));
        assert_eq!(id("1e20"), id("100000000000000000000"));
        assert_eq!(
            id("9007199254740993").unwrap().to_string(),
            "9007199254740993"
        );
    }

    #[test]
    fn numbers_are_ordered_by_value_and_texts_letter_by_letter() {
        let near = "340282366920938463463374607431768211454";
        let low = "-340282366920938463463374607431768211455";
        let in_order = ids([low, "-2", "-1.5", "0", "2", "2.5", "10", near, UUID]);
        assert!(in_order.is_sorted_by(|a, b| a < b));
        assert!(ids(["\"10\"", "\"2\"", "\"a\""]).is_sorted());
    }

    #[test]
    fn an_id_is_written_as_it_was_read() {
        for text in ["7", "1.5", "\"img_1\"", UUID] {
            assert_eq!(serde_json::to_string(&id(text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_id_is_named() {
        for text in ["null", "NaN", "[1]", "{}"] {
            let error = id(text).unwrap_err();
            assert!(
                error.starts_with("expected a number or a text, got "),
                "{error}"
            );
        }
    }
}

//! The tables `[[zone]]` and `[[line]]`.

use crate::detection::Labels;
use crate::geometry::Size;
use crate::units::{DAY_MS, Interval, serde_by_text};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Zones, and lines, at most.
const MAX_SHAPES: usize = 64;
/// Corners of a zone.
const CORNERS: std::ops::RangeInclusive<usize> = 3..=100;

/// A table `[[zone]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneOptions {
    pub(super) name: ShapeName,
    /// Corners in order; the last is joined to the first.
    pub(super) polygon: Vec<Point>,
    /// Classes by name; `None` = all.
    pub(super) classes: Option<Vec<String>>,
    /// Time inside before it counts as entered.
    min_dwell: Option<Interval<0, DAY_MS>>,
    #[serde(default)]
    pub(super) anchor: Anchor,
    #[serde(default)]
    pub(super) margin: Margin,
}

/// A table `[[line]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineOptions {
    pub(super) name: ShapeName,
    pub(super) from: Point,
    pub(super) to: Point,
    /// Classes by name; `None` = all.
    pub(super) classes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) anchor: Anchor,
    #[serde(default)]
    pub(super) margin: Margin,
}

/// The point of a box that is in a zone or passes a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Anchor {
    /// The middle of the lower side: where somebody stands.
    #[default]
    Bottom,
    /// The middle of the box.
    Centre,
}

impl ZoneOptions {
    pub(super) fn min_dwell(&self) -> Duration {
        self.min_dwell.map_or(Duration::ZERO, Interval::duration)
    }

    /// # Errors
    /// When the corners enclose nothing.
    pub(super) fn check(&self) -> Result<(), String> {
        let corners = self.polygon.len();
        let wrong = |reason: &str| {
            Err(format!(
                "settings table [[zone]] '{}': polygon: {reason}",
                self.name
            ))
        };
        if !CORNERS.contains(&corners) {
            let (least, most) = CORNERS.into_inner();
            return wrong(&format!(
                "expected {least} to {most} corners, got {corners}"
            ));
        }
        // twice the areas of triangles from the first corner: all of them 0 is a line
        let [x, y] = self.polygon[0].0;
        let flat = self.polygon.windows(2).all(|two| {
            let ([ax, ay], [bx, by]) = (two[0].0, two[1].0);
            ((ax - x) * (by - y) - (ay - y) * (bx - x)).abs() < 1e-6
        });
        match flat {
            true => wrong("expected corners that enclose an area, got corners on one line"),
            false => Ok(()),
        }
    }
}

impl LineOptions {
    /// # Errors
    /// When both ends are the same.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.from.0 == self.to.0 {
            false => Ok(()),
            true => Err(format!(
                "settings table [[line]] '{}': expected 'from' and 'to' at different places, got '{}' for both",
                self.name, self.from
            )),
        }
    }
}

/// Refuses too many tables, and two of one name.
///
/// # Errors
/// What was expected and what is there.
pub(super) fn check_names<'a>(
    table: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut known: Vec<&str> = Vec::new();
    for name in names {
        if known.contains(&name) {
            return Err(format!(
                "settings table [[{table}]]: two of the name '{name}': give each a name of its own"
            ));
        }
        known.push(name);
    }
    match known.len() {
        0..=MAX_SHAPES => Ok(()),
        count => Err(format!(
            "settings table [[{table}]]: expected at most {MAX_SHAPES}, got {count}"
        )),
    }
}

/// Class ids of names.
///
/// # Errors
/// When a name is unknown, or there is none in the list.
pub(super) fn class_ids(
    names: &Option<Vec<String>>,
    labels: &Labels,
) -> Result<Option<Vec<usize>>, String> {
    let Some(names) = names else { return Ok(None) };
    if names.is_empty() {
        return Err("classes: expected names, or no such key for all classes, got '[]'".to_owned());
    }
    let known = labels.names();
    let ids = names.iter().map(|name| {
        let id = known.iter().position(|known| known == name.trim());
        id.ok_or_else(|| {
            format!(
                "classes: unknown class '{name}': known are {}",
                known.join(", ")
            )
        })
    });
    ids.collect::<Result<_, _>>().map(Some)
}

/// Name of a zone or a line, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShapeName(String);

serde_by_text!(ShapeName);

impl ShapeName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for ShapeName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShapeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ShapeName {
    type Err = String;

    fn from_str(text: &str) -> Result<ShapeName, String> {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
        let fits = (1..=64).contains(&text.chars().count()) && text.trim() == text;
        match fits && text.chars().all(allowed) {
            true => Ok(ShapeName(text.to_owned())),
            false => Err(format!(
                "expected a name of 1 to 64 letters, digits, blanks, '-', '_' or '.', got '{text}'"
            )),
        }
    }
}

/// A place as fractions of the frame's width and height, from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(super) struct Point(pub(super) [f32; 2]);

impl Point {
    pub(super) fn fractions(self) -> [f32; 2] {
        self.0
    }

    pub(super) fn pixels(self, size: Size) -> [f32; 2] {
        let [x, y] = self.0;
        [x * size.width as f32, y * size.height as f32]
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.0[0], self.0[1])
    }
}

impl TryFrom<toml::Value> for Point {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Point, String> {
        let number = |value: &toml::Value| match value {
            toml::Value::Integer(number) => Some(*number as f32),
            toml::Value::Float(number) => Some(*number as f32),
            _ => None,
        };
        let pair = value
            .as_array()
            .map(Vec::as_slice)
            .and_then(|pair| match pair {
                [x, y] => Some([number(x)?, number(y)?]),
                _ => None,
            });
        let inside = |pair: &[f32; 2]| pair.iter().all(|part| (0.0..=1.0).contains(part));
        pair.filter(inside).map(Point).ok_or_else(|| {
            format!(
                "expected a place such as [0.5, 1.0], two fractions of the frame's width and height \
                 from 0 to 1, got '{value}'"
            )
        })
    }
}

/// The margin around an anchor, as a part of the box's width and height, from 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Margin(f32);

serde_by_text!(Margin);

impl Default for Margin {
    /// Half a box.
    fn default() -> Margin {
        Margin(0.5)
    }
}

impl Margin {
    /// In pixels, across and down.
    pub(super) fn reach(self, [width, height]: [f32; 2]) -> [f32; 2] {
        [self.0 * width, self.0 * height]
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Margin {
    type Err = String;

    fn from_str(text: &str) -> Result<Margin, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (0.0..=2.0).contains(number))
            .map(Margin)
            .ok_or_else(|| format!("expected a number from 0 to 2, in boxes, got '{text}'"))
    }
}

//! Score thresholds as people write them: `0.4`, `person=0.6,car=0.3`, or a TOML table.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A score threshold for all classes, for some, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ThresholdToml", into = "ThresholdToml")]
pub struct ThresholdSpec {
    /// For every class that is not named.
    pub all: Option<f32>,
    /// By class name.
    pub by_class: BTreeMap<String, f32>,
}

/// `0.4`, `"person=0.6,car=0.3"` or `{ person = 0.6 }`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a score such as 0.4, a text such as \"person=0.6,car=0.3\" or a table such as { person = 0.6 }"
)]
enum ThresholdToml {
    All(f32),
    Text(String),
    ByClass(BTreeMap<String, f32>),
}

impl TryFrom<ThresholdToml> for ThresholdSpec {
    type Error = String;

    fn try_from(toml: ThresholdToml) -> Result<ThresholdSpec, String> {
        match toml {
            ThresholdToml::Text(text) => text.parse(),
            ThresholdToml::All(score) => score.to_string().parse(),
            ThresholdToml::ByClass(by_class) => {
                by_class.iter().try_for_each(|(name, &score)| {
                    check_score(score, &format!("{name} = {score}"))
                })?;
                Ok(ThresholdSpec {
                    all: None,
                    by_class,
                })
            }
        }
    }
}

impl From<ThresholdSpec> for ThresholdToml {
    fn from(spec: ThresholdSpec) -> ThresholdToml {
        match spec.all {
            Some(score) if spec.by_class.is_empty() => ThresholdToml::All(score),
            Some(_) => ThresholdToml::Text(spec.to_string()),
            // names may hold what the text sets apart
            None => ThresholdToml::ByClass(spec.by_class),
        }
    }
}

impl fmt::Display for ThresholdSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all.iter().map(f32::to_string);
        let by_class = self.by_class.iter();
        let by_class = by_class.map(|(name, score)| format!("{name}={score}"));
        f.write_str(&all.chain(by_class).collect::<Vec<_>>().join(","))
    }
}

impl std::str::FromStr for ThresholdSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ThresholdSpec, String> {
        let mut spec = ThresholdSpec::default();
        for part in text.split(',').map(str::trim) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (Some(name.trim()), value.trim()),
                None => (None, part),
            };
            let score: f32 = value.parse().map_err(|_| {
                format!("expected a score such as '0.4' or 'person=0.6,car=0.3', got '{part}'")
            })?;
            check_score(score, part)?;
            match name {
                Some(name) => drop(spec.by_class.insert(name.to_owned(), score)),
                None => spec.all = Some(score),
            }
        }
        Ok(spec)
    }
}

fn check_score(score: f32, text: &str) -> Result<(), String> {
    match (0.0..=1.0).contains(&score) {
        true => Ok(()),
        false => Err(format!("expected a score from 0 to 1, got '{text}'")),
    }
}

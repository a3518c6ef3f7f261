//! Reading `vovcam.toml`: strict, and every error names file, line and key.

use super::error::did_you_mean;
use super::{ConfigError, Settings, keys};
use crate::capture::address::without_secrets;
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file that was read and found right.
#[derive(Debug)]
pub(super) struct SettingsFile {
    /// Its flat keys.
    pub(super) settings: Settings,
    /// Its tables of outputs and analyzers, untouched.
    pub(super) tables: toml::Table,
}

/// Reads a file; `tables` are the names of tables that outputs and analyzers check themselves.
pub(super) fn read(path: &Path, tables: &[&str]) -> Result<SettingsFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path, tables)
}

fn parse(text: &str, path: &Path, tables: &[&str]) -> Result<SettingsFile, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let (line, column) = place(text, error.span());
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            column,
            reason: error.message().to_owned(),
        }
    };
    let document = DeTable::parse(text).map_err(syntax)?;
    let mut entries: Vec<_> = document.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let keys = keys();
    let mut own = DeTable::new();
    let mut others = toml::Table::new();
    for (key, value) in entries {
        let (name, line) = (key.get_ref().to_string(), place(text, Some(key.span())).0);
        let wrong = |reason: String| ConfigError::Value {
            path: path.to_owned(),
            line,
            key: name.clone(),
            // it quotes the value, which may be an address that belongs elsewhere
            reason: without_secrets(&reason),
        };
        let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        let is_key = keys.contains(&name);
        // 'track' is a flag as well as a table
        if is_key && !(is_table && tables.contains(&name.as_str())) {
            check(&key, &value).map_err(wrong)?;
            own.insert(key, value);
        } else if tables.contains(&name.as_str()) {
            let table = table(&name, value).map_err(wrong)?;
            others.insert(name, table);
        } else {
            let mut known: Vec<&str> = keys.iter().map(String::as_str).collect();
            known.extend(
                tables
                    .iter()
                    .filter(|table| !keys.iter().any(|key| key == *table)),
            );
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                line,
                hint: did_you_mean(&name, &known),
                key: name,
            });
        }
    }
    exclude(text, path, &own, "device", "source")?;
    let settings = settings(own).map_err(syntax)?;
    Ok(SettingsFile {
        settings,
        tables: others,
    })
}

/// A key and its value, both with their place.
type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// One setting on its own, so that an error is this key's.
fn check(key: &Key<'_>, value: &Value<'_>) -> Result<(), String> {
    let one = DeTable::from_iter([(key.clone(), value.clone())]);
    match settings(one) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message().to_owned()),
    }
}

fn settings(table: DeTable<'_>) -> Result<Settings, toml::de::Error> {
    let table = Spanned::new(0..0, table);
    Settings::deserialize(toml::Deserializer::from(table))
}

/// A table, or several of one name.
fn table(name: &str, value: Value<'_>) -> Result<toml::Value, String> {
    let value = toml::Value::deserialize(toml::de::ValueDeserializer::from(value));
    match value.map_err(|error| error.message().to_owned())? {
        table @ toml::Value::Table(_) => Ok(table),
        toml::Value::Array(several) if several.iter().all(toml::Value::is_table) => {
            Ok(several.into())
        }
        other => Err(format!("expected a table, [{name}], got '{other}'")),
    }
}

/// Refuses two keys that exclude each other.
fn exclude(
    text: &str,
    path: &Path,
    table: &DeTable<'_>,
    first: &'static str,
    second: &'static str,
) -> Result<(), ConfigError> {
    let start = |name: &str| {
        let found = table.keys().find(|key| key.get_ref() == name);
        found.map(|key| key.span().start)
    };
    match (start(first), start(second)) {
        (Some(a), Some(b)) => Err(ConfigError::Exclusive {
            path: path.to_owned(),
            line: place(text, Some(a.max(b)..text.len())).0,
            first,
            second,
        }),
        _ => Ok(()),
    }
}

/// Line and column of a span, from 1.
fn place(text: &str, span: Option<Range<usize>>) -> (usize, usize) {
    let start = span.map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SettingsFile, ConfigError> {
        super::parse(text, Path::new("vovcam.toml"), &["mqtt", "track"])
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let text = "fps = 5\n\n# a comment\ntreshold = 0.4\nzzz = 1";
        assert!(
            error(text).starts_with(
                "'vovcam.toml', line 4: unknown key 'treshold': did you mean 'threshold'? (known: "
            ),
            "{}",
            error(text)
        );
        let dashed = error("rotate-size = \"1M\"");
        assert!(dashed.contains("did you mean 'rotate_size'?"), "{dashed}");
        let table = error("[mqqt]\nhost = \"a\"");
        assert!(table.contains("line 1: unknown key 'mqqt'"), "{table}");
        assert!(table.contains("did you mean 'mqtt'?"), "{table}");
    }

    #[test]
    fn wrong_values_are_reported_with_line_key_expected_and_got() {
        for (text, expected) in [
            (
                "fps = 30\nthreshold = 1.5",
                "line 2: threshold: expected a score from 0 to 1, got '1.5'",
            ),
            (
                "[threshold]\nperson = 2",
                "line 1: threshold: expected a score from 0 to 1, got 'person = 2'",
            ),
            (
                "size = \"12\"",
                "line 1: size: expected WIDTHxHEIGHT of at most 16384 pixels a side such as '1280x720', got '12'",
            ),
            (
                "size = \"70000x100\"",
                "line 1: size: expected WIDTHxHEIGHT of at most 16384 pixels a side such as '1280x720', got '70000x100'",
            ),
            (
                "input = 100",
                "line 1: input: expected multiples of 32 up to 4096, such as '320' or '640x384', got '100'",
            ),
            (
                "input = [1]",
                "line 1: input: expected multiples of 32 up to 4096, such as '320' or '640x384', got '[1]'",
            ),
            (
                "tiles = \"1x1\"",
                "line 1: tiles: expected 'off' or COLUMNSxROWS such as '3x2', 2 tiles to 8x8, got '1x1'",
            ),
            (
                "tile_overlap = 0",
                "line 1: tile_overlap: expected a number from 0.05 to 0.5, got '0'",
            ),
            (
                "engine = \"gpu\"",
                "line 1: engine: expected one of auto, cpu, cuda, reference, got 'gpu'",
            ),
            (
                "format = \"h264\"",
                "line 1: format: expected one of rgb8, gray8, yuyv, uyvy, nv12, i420, mjpeg, got 'h264'",
            ),
            (
                "device = []",
                "line 1: device: expected a text or a number, got '[]'",
            ),
            (
                "device = true",
                "line 1: device: expected a text or a number, got 'true'",
            ),
            (
                "device = \"rtsp://me:s3cret@camera/t0ken\"",
                "line 1: device: expected a path such as '/dev/video0', or a number, got 'rtsp://camera/…': \
                 an address is a 'source'",
            ),
            (
                "name = \"rtsp://me:s3cret@camera/t0ken\"",
                "line 1: name: expected 1 to 64 letters, digits, '-', '_' or '.', got 'rtsp://camera/…'",
            ),
            (
                "threshold = [1]",
                "line 1: threshold: expected a score such as 0.4, a text such as \"person=0.6,car=0.3\" \
                 or a table such as { person = 0.6 }",
            ),
            (
                "rotate_size = -1",
                "line 1: rotate_size: expected bytes, at least 64K, such as '64M' or '1G', got '-1'",
            ),
            (
                "rotate_size = \"1K\"",
                "line 1: rotate_size: expected bytes, at least 64K, such as '64M' or '1G', got '1K'",
            ),
            (
                "min_free = true",
                "line 1: min_free: expected bytes such as '65536', '64M' or '1G', got 'true'",
            ),
            (
                "fps = 0",
                "line 1: fps: expected a number from 0.001 to 1000, got '0'",
            ),
            (
                "threads = 300",
                "line 1: threads: expected a whole number from 0 to 256, got '300'",
            ),
            (
                "rotate_keep = 0",
                "line 1: rotate_keep: expected a whole number from 1 to 1000, got '0'",
            ),
            (
                "camera_timeout = 1e6",
                "line 1: camera_timeout: expected a time from 1ms to 24h such as '10s' or '500ms', got '1000000'",
            ),
            (
                "fsync_interval = -1",
                "line 1: fsync_interval: expected a time from 0 to 24h such as '10s' or '500ms', got '-1'",
            ),
            (
                "name = \"front door\"",
                "line 1: name: expected 1 to 64 letters, digits, '-', '_' or '.', got 'front door'",
            ),
            (
                "classes = []",
                "line 1: classes: expected a list of names such as [\"person\", \"car\"] or \
                 \"person, car\", or no such key for all classes, got '[]'",
            ),
            (
                "device = 0\nfps = 1\nsource = \"a.avi\"",
                "line 3: 'device' and 'source' exclude each other: keep one",
            ),
            (
                "mqtt = 1",
                "line 1: mqtt: expected a table, [mqtt], got '1'",
            ),
        ] {
            assert_eq!(error(text), format!("'vovcam.toml', {expected}"));
        }
        let kind = error("headless = 1");
        assert!(
            kind.starts_with("'vovcam.toml', line 1: headless: "),
            "{kind}"
        );
        assert!(kind.contains("expected a boolean"), "{kind}");
    }

    #[test]
    fn the_first_mistake_of_the_file_is_the_one_reported() {
        let text = "threads = 300\nfps = 0";
        assert!(error(text).contains("line 1: threads"), "{}", error(text));
    }

    #[test]
    fn what_is_not_toml_is_reported_with_its_place() {
        for (text, place) in [
            ("fps = 1\nsize = 12x", "line 2, column"),
            ("fps = 1\nfps = 2", "line 2, column 1: duplicate key"),
            ("[mqtt", "line 1, column"),
        ] {
            let error = error(text);
            assert!(error.contains(place), "{text}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn tables_of_outputs_and_analyzers_are_handed_over_untouched() {
        let text =
            "fps = 5\n[mqtt]\nhost = \"broker\"\nport = 1883\n[mqtt.tls]\nca = \"x\"\n[track]";
        let file = parse(text).unwrap();
        assert_eq!(file.settings.source.fps, "5".parse().ok());
        let tables: toml::Table = toml::from_str(&text["fps = 5\n".len()..]).unwrap();
        assert_eq!(file.tables, tables);
    }

    /// Every form that files of earlier versions have.
    #[test]
    fn old_settings_files_keep_working() {
        let text = r#"
            device = 0
            size = "1280x720"
            fps = 15
            format = "MJPG"
            model = "models/a.json"
            engine = "cpu"
            precision = "int8"
            isa = "avx2"
            threads = 2
            input = 640
            threshold = { person = 0.6 }
            classes = ["person"]
            headless = true
            jsonl = "-"
            rotate_size = 1000000
            rotate_keep = 3
            min_free = "64M"
            fsync_interval = 0
            save = "frames"
            max_frames = 10
            stats_interval = 2.5
            camera_timeout = 7
            no_retry = false
        "#;
        let settings = parse(text).unwrap().settings;
        let (source, detector) = (&settings.source, &settings.detector);
        assert_eq!(source.device.as_ref().map(|d| d.as_str()), Some("0"));
        assert_eq!(source.fps.map(|fps| fps.get()), Some(15.0));
        assert_eq!(source.format, Some(crate::frame::PixelFormat::Mjpeg));
        assert_eq!(source.camera_timeout().as_secs_f64(), 7.0);
        assert!(source.retry());
        assert_eq!(detector.engine.options().threads, 2);
        assert_eq!(detector.threshold.as_ref().unwrap().by_class["person"], 0.6);
        assert_eq!(settings.log.stats_interval().as_secs_f64(), 2.5);
        assert_eq!(settings.log.options().rotate_size, Some(1_000_000));
        assert_eq!(settings.max_frames(), Some(10));
    }
}

//! The command line over the file, key by key.

use super::{ConfigError, Settings, file};
use serde::Deserialize;
use std::fmt;
use std::path::Path;
use toml::Table;

/// Settings of a run: the command line over the file.
#[derive(Clone, Default, PartialEq)]
pub struct Resolved {
    /// The settings that the command line knows as well.
    pub settings: Settings,
    /// The same as a table, together with the file's tables of outputs and analyzers.
    pub table: Table,
}

/// Without the tables, in which an address stands as it is.
impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Resolved");
        shown
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Lays the command line over the settings file, if there is one. `tables` are the names of tables
/// of outputs and analyzers that the file may have; they are handed over untouched in
/// [`Resolved::table`].
///
/// # Errors
/// When the file cannot be read, is not TOML, or has an unknown key or a wrong value.
pub fn resolve(
    line: &Settings,
    file: Option<&Path>,
    tables: &[&str],
) -> Result<Resolved, ConfigError> {
    let over = line.to_table()?;
    let Some(path) = file else {
        return Ok(Resolved {
            settings: line.clone(),
            table: over,
        });
    };
    let file = file::read(path, tables)?;
    let mut table = merge(over, file.settings.to_table()?);
    let settings = Settings::deserialize(table.clone())
        .map_err(|error| ConfigError::NotText(error.message().to_owned()))?;
    table.extend(file.tables);
    Ok(Resolved { settings, table })
}

impl Settings {
    /// The settings that are given, by key.
    pub(super) fn to_table(&self) -> Result<Table, ConfigError> {
        Table::try_from(self).map_err(|error| ConfigError::NotText(error.to_string()))
    }
}

fn merge(line: Table, file: Table) -> Table {
    let mut merged = file;
    // a source named on the line must not be joined by a camera of the file, nor the reverse
    if line.contains_key("device") || line.contains_key("source") {
        merged.remove("device");
        merged.remove("source");
    }
    merged.extend(line);
    merged
}

/// The keys whose values differ, in alphabetical order.
pub(super) fn differing(a: &Table, b: &Table) -> Vec<String> {
    let in_b_alone = b.keys().filter(|key| !a.contains_key(*key));
    let mut keys: Vec<String> = a.keys().chain(in_b_alone).cloned().collect();
    keys.retain(|key| a.get(key) != b.get(key));
    keys.sort_unstable();
    keys
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn line(args: &[&str]) -> Settings {
        Line::try_parse_from(["vovcam"].iter().chain(args))
            .unwrap()
            .settings
    }

    fn over_file(args: &[&str], file: &str) -> Resolved {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vovcam.toml");
        std::fs::write(&path, file).unwrap();
        resolve(&line(args), Some(&path), &["mqtt"]).unwrap()
    }

    /// A value of every setting, on the command line and in the file.
    const SAMPLES: [(&str, &str, &str); 31] = [
        ("name", "front", "\"front\""),
        ("device", "0", "0"),
        ("source", "clip.avi", "\"clip.avi\""),
        ("size", "640x480", "\"640x480\""),
        ("fps", "12.5", "12.5"),
        ("format", "YUYV", "\"yuyv\""),
        ("camera_timeout", "1.5s", "1.5"),
        ("no_retry", "", "true"),
        ("model", "a.json", "\"a.json\""),
        ("engine", "cpu", "\"cpu\""),
        ("precision", "int8", "\"int8\""),
        ("isa", "scalar", "\"scalar\""),
        ("threads", "2", "2"),
        ("input", "640x384", "\"640x384\""),
        ("tiles", "3x2", "\"3x2\""),
        ("tile_overlap", "0.3", "0.3"),
        ("threshold", "0.4,car=0.3", "\"0.4, car=0.3\""),
        ("classes", "person,car", "[\"person\", \"car\"]"),
        ("headless", "", "true"),
        ("save", "out.avi", "\"out.avi\""),
        ("jsonl", "-", "\"-\""),
        ("rotate_size", "64M", "67108864"),
        ("rotate_keep", "3", "3"),
        ("min_free", "1024", "\"1K\""),
        ("fsync_interval", "0", "\"0s\""),
        ("stats_interval", "2m", "120"),
        ("http", "127.0.0.1:8990", "\"127.0.0.1:8990\""),
        ("http_token_file", "token", "\"token\""),
        ("http_names", "a.local,b", "\"A.local, b\""),
        ("track", "", "true"),
        ("max_frames", "10", "10"),
    ];

    #[test]
    fn every_setting_is_the_same_on_the_command_line_and_in_the_file() {
        for key in keys() {
            let sample = SAMPLES.iter().find(|sample| sample.0 == key);
            let Some((_, on_line, in_file)) = sample else {
                panic!("'{key}' needs a sample here");
            };
            let option = format!("--{}", key.replace('_', "-"));
            let args = [option.as_str(), on_line];
            let from_line = line(if on_line.is_empty() {
                &args[..1]
            } else {
                &args
            });
            assert_ne!(from_line, Settings::default(), "'{key}' is lost");
            let from_file = over_file(&[], &format!("{key} = {in_file}"));
            assert_eq!(from_line, from_file.settings, "'{key}'");
            let table = from_line.to_table().unwrap();
            assert_eq!(table, from_file.table);
            assert_eq!(table.keys().collect::<Vec<_>>(), [&key]);
            assert_eq!(
                Settings::deserialize(table).unwrap(),
                from_line,
                "'{key}' survives being written"
            );
        }
    }

    #[test]
    fn the_command_line_wins_and_a_source_replaces_a_camera() {
        let file =
            "device = \"/dev/video0\"\nthreshold = { person = 0.6 }\nfps = 15\n[mqtt]\nport = 1";
        let merged = over_file(&["--source", "pattern", "--fps", "30"], file);
        let source = &merged.settings.source;
        assert_eq!(
            (&source.device, source.source.as_deref(), source.fps),
            (&None, Some("pattern".as_ref()), "30".parse().ok())
        );
        let threshold = merged.settings.detector.threshold.as_ref();
        assert_eq!(threshold.unwrap().by_class["person"], 0.6);
        assert_eq!(merged.table["mqtt"]["port"].as_integer(), Some(1));
        let merged = over_file(&["--device", "1"], "source = \"pattern\"");
        let source = &merged.settings.source;
        assert_eq!(source.source, None);
        assert_eq!(source.device.as_ref().unwrap().as_str(), "1");
    }

    #[test]
    fn a_threshold_on_the_line_replaces_the_one_of_the_file_whole() {
        let merged = over_file(&["--threshold", "person=0.9"], "threshold = { car = 0.3 }");
        let threshold = merged.settings.detector.threshold.unwrap();
        assert_eq!(threshold.to_string(), "person=0.9");
    }

    #[test]
    fn only_values_that_differ_are_named_however_they_are_written() {
        let table = |text: &str| over_file(&[], text).table;
        let before =
            table("rotate_size = \"64M\"\nstats_interval = 120\nfps = 5\n[mqtt]\nport = 1");
        let same =
            table("rotate_size = 67108864\nstats_interval = \"2m\"\nfps = 5.0\n[mqtt]\nport = 1");
        assert_eq!(differing(&before, &same), [""; 0]);
        let after = table("rotate_size = \"64M\"\nfps = 6\njsonl = \"-\"\n[mqtt]\nport = 2");
        assert_eq!(
            differing(&before, &after),
            ["fps", "jsonl", "mqtt", "stats_interval"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn paths_of_any_bytes_survive_the_merge() {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::ffi::OsString::from_vec(b"fr\xffmes".to_vec());
        for option in ["--source", "--save", "--jsonl", "--model"] {
            let args = ["vovcam".into(), option.into(), odd.clone()];
            let line = Line::try_parse_from(args).unwrap().settings;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("vovcam.toml");
            std::fs::write(&path, "fps = 5").unwrap();
            let merged = resolve(&line, Some(&path), &[]).unwrap();
            let given = [
                merged.settings.source.source.as_deref(),
                merged.settings.output.save.as_deref().map(Path::as_os_str),
                merged.settings.log.jsonl.as_deref().map(Path::as_os_str),
                (merged.settings.detector.engine.model.as_deref()).map(Path::as_os_str),
            ];
            let given: Vec<_> = given.into_iter().flatten().collect();
            assert_eq!(given, [odd.as_os_str()], "{option}");
            // the file can name it as well
            let text = toml::to_string(&merged.table).unwrap();
            assert_eq!(over_file(&[], &text).settings, merged.settings, "{text}");
            assert!(Line::try_parse_from(["vovcam", option, ""]).is_err());
        }
    }
}

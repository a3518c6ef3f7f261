//! Reading `vovcam.toml` again while the program runs.

use super::merge::differing;
use super::{ConfigError, Resolved, Settings, resolve};
use crate::detection::Thresholds;
use crate::geometry::Tiling;
use crate::model::Manifest;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// Keys that take effect while running; all others need a restart.
const WHILE_RUNNING: [&str; 4] = ["threshold", "classes", "tiles", "tile_overlap"];

/// Reads the settings file again and finds out what has changed.
pub struct Reloader {
    path: PathBuf,
    /// The command line, which wins over the file every time.
    line: Settings,
    /// The settings that are in effect.
    running: toml::Table,
    manifest: Manifest,
    tables: Vec<&'static str>,
}

/// A new settings file's meaning for the run; as text, the changes.
#[derive(Debug, PartialEq)]
pub struct Reloaded {
    /// To be used from the next frame on.
    pub thresholds: Thresholds,
    /// The same.
    pub tiling: Tiling,
    /// Changed keys that take effect now.
    pub applied: Vec<String>,
    /// Changed keys that take effect at the next start.
    pub restart: Vec<String>,
}

impl Reloader {
    /// For a program that runs with `running`, which is `line` over the file at `path` with
    /// `tables` as given to [`resolve`].
    pub fn new(
        path: PathBuf,
        line: Settings,
        running: Resolved,
        manifest: Manifest,
        tables: &[&'static str],
    ) -> Reloader {
        Reloader {
            path,
            line,
            running: running.table,
            manifest,
            tables: tables.to_vec(),
        }
    }

    /// Reads the file. On an error nothing has changed.
    ///
    /// # Errors
    /// As at the start of the program.
    pub fn reload(&mut self) -> Result<Reloaded, ConfigError> {
        self.check_is_there_to_stay()?;
        let read = resolve(&self.line, Some(&self.path), &self.tables)?;
        let thresholds = read.settings.detector.thresholds(&self.manifest)?;
        let (applied, restart) = differing(&self.running, &read.table)
            .into_iter()
            .partition(|key| WHILE_RUNNING.contains(&key.as_str()));
        let tiling = read.settings.detector.tiles.tiling();
        self.apply(read.table);
        Ok(Reloaded {
            thresholds,
            tiling,
            applied,
            restart,
        })
    }

    /// A pipe (`--config <(…)`) is read once: another try would wait for a writer, and the run with it.
    fn check_is_there_to_stay(&self) -> Result<(), ConfigError> {
        let is_pipe = |metadata: Metadata| metadata.file_type().is_fifo();
        match std::fs::metadata(&self.path).is_ok_and(is_pipe) {
            false => Ok(()),
            true => Err(ConfigError::Read {
                path: self.path.clone(),
                source: io::Error::other("a pipe cannot be read a second time"),
            }),
        }
    }

    /// Takes over the keys that apply while running; other changes are named until a restart.
    fn apply(&mut self, mut read: toml::Table) {
        for key in WHILE_RUNNING {
            match read.remove(key) {
                Some(value) => self.running.insert(key.to_owned(), value),
                None => self.running.remove(key),
            };
        }
    }
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.applied.is_empty() {
            true => f.write_str("nothing that applies while running has changed")?,
            false => write!(f, "changed: {}", self.applied.join(", "))?,
        }
        if !self.restart.is_empty() {
            write!(f, "; restart to apply: {}", self.restart.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model with the classes class0, class1 and class2, and a file with `text`.
    fn reloader(dir: &tempfile::TempDir, text: &str, line: Settings) -> Reloader {
        let tables = ["mqtt"];
        let model =
            crate::model::Model::random(crate::network::Network::vovnet27_slim(), 3, 1).unwrap();
        let path = dir.path().join("vovcam.toml");
        std::fs::write(&path, text).unwrap();
        let running = resolve(&line, Some(&path), &tables).unwrap();
        Reloader::new(path, line, running, model.manifest, &tables)
    }

    #[test]
    fn thresholds_apply_now_and_other_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloader = reloader(&dir, "threshold = 0.5\nfps = 15", Settings::default());
        let text = "threshold = 0.7\nclasses = [\"class1\"]\nfps = 30\n[mqtt]\nport = 1";
        std::fs::write(dir.path().join("vovcam.toml"), text).unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!(
            reloaded.thresholds.score,
            [f32::INFINITY, 0.7, f32::INFINITY]
        );
        assert_eq!(
            reloaded.to_string(),
            "changed: classes, threshold; restart to apply: fps, mqtt"
        );
        assert_eq!(
            reloader.reload().unwrap().to_string(),
            "nothing that applies while running has changed; restart to apply: fps, mqtt",
            "what waits for a restart is named until then"
        );
        std::fs::write(dir.path().join("vovcam.toml"), "fps = 15").unwrap();
        assert_eq!(
            reloader.reload().unwrap().to_string(),
            "changed: classes, threshold"
        );
    }

    #[test]
    fn tiles_apply_now() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloader = reloader(&dir, "", Settings::default());
        std::fs::write(dir.path().join("vovcam.toml"), "tiles = \"3x2\"").unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!(reloaded.to_string(), "changed: tiles");
        assert_eq!(reloaded.tiling.tiles.to_string(), "3x2");
        assert_eq!(reloaded.tiling.overlap.get(), 0.2);
    }

    #[test]
    fn a_bad_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloader = reloader(&dir, "threshold = 0.5", Settings::default());
        for (bad, part) in [
            ("threshold = 7", "from 0 to 1"),
            ("clases = []", "did you mean 'classes'?"),
            ("classes = [\"clas1\"]", "did you mean 'class1'?"),
            ("fps = -1", "0.001 to 1000"),
            ("[mqqt]", "did you mean 'mqtt'?"),
        ] {
            std::fs::write(dir.path().join("vovcam.toml"), bad).unwrap();
            let error = reloader.reload().unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
        std::fs::write(dir.path().join("vovcam.toml"), "threshold = 0.5").unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!((reloaded.applied, reloaded.restart), (vec![], vec![]));
    }

    #[test]
    fn the_command_line_still_wins() {
        let dir = tempfile::tempdir().unwrap();
        let mut line = Settings::default();
        line.detector.threshold = Some("0.9".parse().unwrap());
        let mut reloader = reloader(&dir, "", line);
        std::fs::write(dir.path().join("vovcam.toml"), "threshold = 0.1").unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!(
            (reloaded.thresholds.score, reloaded.applied),
            (vec![0.9; 3], vec![])
        );
    }
}

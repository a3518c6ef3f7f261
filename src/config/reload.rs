//! Reading `vovcam.toml` again while the program runs.

use super::{ConfigError, Settings};
use crate::detection::Thresholds;
use crate::model::Manifest;
use std::path::PathBuf;

/// Keys that take effect while running; all others need a restart.
const WHILE_RUNNING: [&str; 2] = ["threshold", "classes"];

/// Reads the settings file again and finds out what has changed.
pub struct Reloader {
    path: PathBuf,
    /// The command line, which wins over the file every time.
    line: Settings,
    /// What the program runs with.
    running: Settings,
    manifest: Manifest,
}

/// What a new settings file means for the run.
#[derive(Debug, PartialEq)]
pub struct Reloaded {
    /// To be used from the next frame on.
    pub thresholds: Thresholds,
    /// Changed keys that take effect now.
    pub applied: Vec<&'static str>,
    /// Changed keys that take effect at the next start.
    pub restart: Vec<&'static str>,
}

impl Reloader {
    /// For a program that runs with `line` over the file at `path`.
    pub fn new(path: PathBuf, line: Settings, running: Settings, manifest: Manifest) -> Reloader {
        Reloader {
            path,
            line,
            running,
            manifest,
        }
    }

    /// Reads the file. On an error nothing has changed.
    ///
    /// # Errors
    /// As at the start of the program.
    pub fn reload(&mut self) -> Result<Reloaded, ConfigError> {
        let settings = self.line.clone().or(Settings::load(&self.path)?);
        settings.validate()?;
        let thresholds = settings.thresholds(&self.manifest)?;
        let (applied, restart) = self
            .running
            .differing(&settings)
            .into_iter()
            .partition(|key| WHILE_RUNNING.contains(key));
        self.running.threshold = settings.threshold;
        self.running.classes = settings.classes;
        Ok(Reloaded {
            thresholds,
            applied,
            restart,
        })
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
        let model =
            crate::model::Model::random(crate::network::Network::vovnet27_slim(), 3, 1).unwrap();
        let path = dir.path().join("vovcam.toml");
        std::fs::write(&path, text).unwrap();
        let running = line.clone().or(Settings::load(&path).unwrap());
        Reloader::new(path, line, running, model.manifest)
    }

    #[test]
    fn thresholds_apply_now_and_other_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut reloader = reloader(&dir, "threshold = 0.5\nfps = 15", Settings::default());
        let text = "threshold = 0.7\nclasses = [\"class1\"]\nfps = 30\njsonl = \"-\"";
        std::fs::write(dir.path().join("vovcam.toml"), text).unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!(
            reloaded.thresholds.score,
            [f32::INFINITY, 0.7, f32::INFINITY]
        );
        assert_eq!(
            reloaded.to_string(),
            "changed: threshold, classes; restart to apply: fps, jsonl"
        );
        assert_eq!(
            reloader.reload().unwrap().to_string(),
            "nothing that applies while running has changed; restart to apply: fps, jsonl",
            "what waits for a restart is named until then"
        );
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
        ] {
            std::fs::write(dir.path().join("vovcam.toml"), bad).unwrap();
            let error = reloader.reload().unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
        std::fs::write(dir.path().join("vovcam.toml"), "threshold = 0.5").unwrap();
        assert_eq!(reloader.reload().unwrap().applied, [""; 0]);
    }

    #[test]
    fn the_command_line_still_wins() {
        let dir = tempfile::tempdir().unwrap();
        let line = Settings {
            threshold: Some("0.9".parse().unwrap()),
            ..Settings::default()
        };
        let mut reloader = reloader(&dir, "", line);
        std::fs::write(dir.path().join("vovcam.toml"), "threshold = 0.1").unwrap();
        let reloaded = reloader.reload().unwrap();
        assert_eq!(
            (reloaded.thresholds.score, reloaded.applied),
            (vec![0.9; 3], vec![])
        );
    }
}

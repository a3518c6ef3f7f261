//! Tuning cache: the fastest way of running each convolution here, kept on disk between runs.

use super::cudnn::ALGORITHMS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The calls that make up a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Call {
    /// cuDNN, with bias and activation.
    Fused,
    /// cuDNN, then bias and activation by an own kernel.
    Plain,
    /// The own, slow kernel.
    Direct,
}

/// One way of running a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    pub(super) call: Call,
    /// cuDNN's number of the algorithm.
    pub(super) algorithm: u32,
    /// The input is first copied out of its concatenation.
    pub(super) copy_in: bool,
    /// The output is copied into its concatenation afterwards.
    pub(super) copy_out: bool,
    /// Bytes of scratch memory.
    pub(super) workspace: usize,
    /// Milliseconds when it was chosen.
    pub(super) ms: f32,
}

impl Choice {
    /// Runs any convolution.
    pub(super) const DIRECT: Choice = Choice {
        call: Call::Direct,
        algorithm: 0,
        copy_in: false,
        copy_out: false,
        workspace: 0,
        ms: 0.0,
    };

    pub(super) fn with_copies(self, (copy_in, copy_out): (bool, bool)) -> Choice {
        Choice {
            copy_in,
            copy_out,
            ..self
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// GPU, driver and cuDNN: choices of another machine are worth nothing.
    machine: String,
    /// By the convolution's shape.
    choices: BTreeMap<String, Choice>,
}

/// The choices of one machine, by the shape of the convolution.
pub(super) struct TuningCache {
    path: Option<PathBuf>,
    file: File,
    changed: bool,
}

impl TuningCache {
    /// Reads the choices for `machine` below `folder`; none when there is no folder, no file, or
    /// one of another version or machine.
    pub(super) fn open(folder: Option<&Path>, machine: &str) -> TuningCache {
        let path = folder.map(|folder| folder.join(format!("cuda-{}.json", file_name(machine))));
        let read = |path: &PathBuf| {
            let text = std::fs::read(path).ok()?;
            serde_json::from_slice(&text).ok()
        };
        let known: Option<File> = path.as_ref().and_then(read);
        let file = known.filter(|file| file.machine == machine);
        TuningCache {
            path,
            file: file.unwrap_or_else(|| File {
                machine: machine.to_owned(),
                ..File::default()
            }),
            changed: false,
        }
    }

    /// The choice for a shape; none where the file names an algorithm that there is not.
    pub(super) fn get(&self, shape: &str) -> Option<Choice> {
        let known = |choice: &Choice| (choice.algorithm as usize) < ALGORITHMS.len();
        self.file.choices.get(shape).copied().filter(known)
    }

    pub(super) fn insert(&mut self, shape: String, choice: Choice) {
        self.file.choices.insert(shape, choice);
        self.changed = true;
    }

    /// Writes new choices to disk; a folder that cannot be written costs the measurement again
    /// at the next start, and nothing else.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else {
            return;
        };
        self.changed = false;
        if let Err(error) = write(path, &self.file) {
            tracing::debug!(
                "cannot keep cuDNN's algorithms in '{}': {error}",
                path.display()
            );
        }
    }
}

/// A file that is never half written: another process may read it at any time.
fn write(path: &Path, file: &File) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let half = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&half, serde_json::to_vec_pretty(file)?)?;
    std::fs::rename(&half, path)
}

fn file_name(machine: &str) -> String {
    machine
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect()
}

/// Where this user's or this service's caches belong. `variable` reads the environment.
pub(super) fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    // systemd names a service's CacheDirectory= there
    set("CACHE_DIRECTORY")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("vovcam")))
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/vovcam")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSED: Choice = Choice {
        call: Call::Fused,
        algorithm: 1,
        copy_in: false,
        copy_out: true,
        workspace: 4096,
        ms: 0.25,
    };

    #[test]
    fn choices_are_found_again_on_the_same_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut choices = TuningCache::open(Some(folder.path()), "GPU A, cuDNN 9");
        assert_eq!(choices.get("a"), None);
        choices.insert("a".to_owned(), FUSED);
        choices.save();
        let again = TuningCache::open(Some(folder.path()), "GPU A, cuDNN 9");
        assert_eq!(again.get("a"), Some(FUSED));
        assert_eq!(
            TuningCache::open(Some(folder.path()), "GPU B, cuDNN 9").get("a"),
            None
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let algorithm = ALGORITHMS.len() as u32; // of a later cuDNN, or of nobody
        choices.insert("b".to_owned(), Choice { algorithm, ..FUSED });
        assert_eq!(choices.get("b"), None);
    }

    #[test]
    fn a_file_of_another_machine_under_the_same_name_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let mut choices = TuningCache::open(Some(folder.path()), "GPU+A");
        choices.insert("a".to_owned(), FUSED);
        choices.save();
        assert_eq!(
            TuningCache::open(Some(folder.path()), "GPU-A").get("a"),
            None
        );
    }

    #[test]
    fn a_damaged_file_or_no_folder_is_no_choice() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cuda-gpu.json"), "{").unwrap();
        assert_eq!(TuningCache::open(Some(folder.path()), "gpu").get("a"), None);
        let mut nowhere = TuningCache::open(None, "gpu");
        nowhere.insert("a".to_owned(), FUSED);
        nowhere.save();
        assert_eq!(nowhere.get("a"), Some(FUSED));
    }

    #[test]
    fn the_cache_folder_is_the_services_or_the_users() {
        let folder = |pairs: &'static [(&str, &str)]| {
            cache_folder(move |name| {
                let pair = pairs.iter().find(|(key, _)| *key == name)?;
                Some(OsString::from(pair.1))
            })
        };
        assert_eq!(folder(&[("HOME", "/u")]), Some("/u/.cache/vovcam".into()));
        let both = folder(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/cache")]);
        assert_eq!(both, Some("/cache/vovcam".into()));
        let service = folder(&[("HOME", "/root"), ("CACHE_DIRECTORY", "/var/cache/vovcam")]);
        assert_eq!(service, Some("/var/cache/vovcam".into()));
        assert_eq!(folder(&[("HOME", "")]), None);
    }
}

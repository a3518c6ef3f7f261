//! Refusals to write an output over the input that it is made from.

use super::{Failure, USAGE};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Refuses to save annotated images over the images that are read.
pub(super) fn keep_apart<'a>(
    save: Option<&Path>,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> Result<(), Failure> {
    let Some(save) = save else { return Ok(()) };
    // a folder that does not exist yet holds no inputs
    let Some(target) = identity(save) else {
        return Ok(());
    };
    let folder = |input: &Path| {
        let path = input.canonicalize().ok()?;
        if path.is_dir() {
            identity(&path)
        } else {
            identity(path.parent()?)
        }
    };
    match inputs.any(|input| folder(input).is_some_and(|folder| folder == target)) {
        false => Ok(()),
        true => Err(Failure::new(
            USAGE,
            format!(
                "'{}' holds the images that are read and annotated ones would overwrite them: \
                 give --save another folder",
                save.display()
            ),
        )),
    }
}

/// Refuses to write the output of `option` over the clip that is read.
pub(super) fn keep_clip(option: &str, output: Option<&Path>, clip: &Path) -> Result<(), Failure> {
    let is_clip = |output: &&Path| identity(output).is_some_and(|id| identity(clip) == Some(id));
    match output.filter(is_clip) {
        None => Ok(()),
        Some(output) => Err(Failure::new(
            USAGE,
            format!(
                "'{}' is the clip that is read and {option} would overwrite it: give {option} \
                 another name",
                output.display()
            ),
        )),
    }
}

/// What tells one file or folder from another, whatever names lead to it: links of both kinds, and
/// mounts.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

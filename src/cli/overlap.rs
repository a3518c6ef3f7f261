//! Refusals to write an output over the input that it is made from.

use super::{Failure, USAGE};
use std::path::Path;

/// Refuses to save annotated images over the images that are read.
pub(super) fn keep_apart<'a>(
    save: Option<&Path>,
    mut inputs: impl Iterator<Item = &'a Path>,
) -> Result<(), Failure> {
    let Some(save) = save else { return Ok(()) };
    // a folder that does not exist yet holds no inputs
    let Ok(target) = save.canonicalize() else {
        return Ok(());
    };
    let folder = |input: &Path| {
        let path = input.canonicalize().ok()?;
        if path.is_dir() {
            Some(path)
        } else {
            path.parent().map(Path::to_owned)
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

/// Refuses to save an annotated clip over the clip that is read.
pub(super) fn keep_clip(save: Option<&Path>, clip: &Path) -> Result<(), Failure> {
    let same = |save: &Path| matches!((save.canonicalize(), clip.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match save.filter(|save| same(save)) {
        None => Ok(()),
        Some(save) => Err(Failure::new(
            USAGE,
            format!(
                "'{}' is the clip that is read and the annotated one would overwrite it: \
                 give --save another name",
                save.display()
            ),
        )),
    }
}

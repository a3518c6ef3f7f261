//! A folder of pictures, each a frame, in natural name order; or one picture.

use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::load_image;
use crate::frame::{PixelFormat, PooledBuf};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// Extensions that count as pictures, lower case.
pub const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// Reads pictures one after the other; a bad one is reported and skipped.
pub struct PictureSource {
    path: PathBuf,
    pictures: std::vec::IntoIter<PathBuf>,
    framer: Framer,
    fps: Option<f64>,
    /// Pictures tried, and whether any was good.
    tried: usize,
    any: bool,
}

impl PictureSource {
    /// Lists the pictures of a folder, or takes a single one.
    ///
    /// # Errors
    /// When the path cannot be read, or the folder has no pictures.
    pub fn open(path: &Path, options: &CaptureOptions) -> Result<PictureSource, CaptureError> {
        let read = |source| CaptureError::Read {
            path: path.to_owned(),
            source,
        };
        let pictures = if std::fs::metadata(path).map_err(read)?.is_dir() {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(path).map_err(read)? {
                let entry = entry.map_err(read)?.path();
                if is_picture(&entry) {
                    found.push(entry);
                }
            }
            if found.is_empty() {
                return Err(CaptureError::EmptyFolder {
                    path: path.to_owned(),
                });
            }
            found.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
            found
        } else {
            vec![path.to_owned()]
        };
        Ok(PictureSource {
            path: path.to_owned(),
            pictures: pictures.into_iter(),
            framer: Framer::new(options),
            fps: options.fps,
            tried: 0,
            any: false,
        })
    }
}

impl Source for PictureSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let Some(path) = self.pictures.next() else {
            return match self.any {
                true => Ok(Next::End),
                false => Err(CaptureError::NothingReadable {
                    path: self.path.clone(),
                    pictures: self.tried,
                }),
            };
        };
        self.tried += 1;
        let mut frame = self.framer.frame(PixelFormat::Rgb8, |_| {
            load_image(&path).map(|(size, rgb)| (size, PooledBuf::from(rgb)))
        })?;
        self.any = true;
        frame.meta.name = path.file_name().map(|name| name.to_string_lossy().into());
        Ok(Next::Frame(frame))
    }

    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        format!("{} ({} pictures)", self.path.display(), self.pictures.len())
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

fn is_picture(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// `frame2` before `frame10`: runs of digits compare as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (leading_digits(a), leading_digits(b));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (x, y) = (
                digits_a.trim_start_matches('0'),
                digits_b.trim_start_matches('0'),
            );
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[digits_a.len()..], &b[digits_b.len()..]);
            continue;
        }
        let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
        match (chars_a.next(), chars_b.next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (chars_a.as_str(), chars_b.as_str()),
            (x, y) => return x.cmp(&y),
        }
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;

    #[test]
    fn pictures_come_in_natural_order_and_a_bad_one_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["f10.png", "f2.png", "f1.png"] {
            image::RgbImage::new(4, 4)
                .save(dir.path().join(name))
                .unwrap();
        }
        std::fs::write(dir.path().join("f3.png"), b"not a picture").unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"ignored").unwrap();
        let mut source = PictureSource::open(dir.path(), &test_options()).unwrap();
        let mut names = Vec::new();
        loop {
            match source.next() {
                Ok(Next::Frame(frame)) => names.push(frame.meta.name.unwrap().to_string()),
                Ok(Next::End) => break,
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(
                        error.is_damaged_frame() && error.to_string().contains("f3.png"),
                        "{error}"
                    );
                    names.push("bad".to_owned());
                }
            }
        }
        assert_eq!(names, ["f1.png", "f2.png", "bad", "f10.png"]);
    }

    #[test]
    fn a_source_without_one_good_picture_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png"] {
            std::fs::write(dir.path().join(name), b"not a picture").unwrap();
        }
        let mut source = PictureSource::open(dir.path(), &test_options()).unwrap();
        for _ in 0..2 {
            assert!(source.next().unwrap_err().is_damaged_frame());
        }
        let error = source.next().unwrap_err();
        assert!(!error.is_damaged_frame(), "{error}");
        assert!(
            error.to_string().starts_with("none of the 2 pictures of '"),
            "{error}"
        );
    }

    #[test]
    fn missing_and_empty_folders_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            PictureSource::open(dir.path(), &test_options()),
            Err(CaptureError::EmptyFolder { .. })
        ));
        let missing = PictureSource::open(&dir.path().join("none"), &test_options());
        assert!(matches!(missing, Err(CaptureError::Read { .. })));
    }
}

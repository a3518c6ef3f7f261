//! A folder of images, each a frame, in natural name order; or one image.

use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{ImageError, load_image};
use crate::frame::{PixelFormat, PooledBuf};
use crate::geometry::Size;
use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

/// Extensions of image files, lower case.
pub const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// Reads images one after the other; one that cannot be read is reported and skipped.
pub struct ImageSource {
    path: PathBuf,
    images: std::vec::IntoIter<PathBuf>,
    /// Whether `path` is a folder.
    folder: bool,
    framer: Framer,
    fps: Option<f64>,
    /// Images tried so far.
    tried: usize,
    /// Whether any of them could be read.
    any_read: bool,
}

impl ImageSource {
    /// Lists the images of a folder, or takes `path` as a single image.
    ///
    /// # Errors
    /// If the path cannot be read, or the folder has no images.
    pub fn open(path: &Path, options: &CaptureOptions) -> Result<ImageSource, CaptureError> {
        let read = |source| CaptureError::Read {
            path: path.to_owned(),
            source,
        };
        let folder = std::fs::metadata(path).map_err(read)?.is_dir();
        let images = if folder {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(path).map_err(read)? {
                let entry = entry.map_err(read)?.path();
                if is_image(&entry) {
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
        Ok(ImageSource {
            path: path.to_owned(),
            images: images.into_iter(),
            folder,
            framer: Framer::new(options),
            fps: options.fps,
            tried: 0,
            any_read: false,
        })
    }
}

impl Source for ImageSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let Some(path) = self.images.next() else {
            return match self.any_read {
                true => Ok(Next::End),
                false => Err(CaptureError::NothingReadable {
                    path: self.path.clone(),
                    images: self.tried,
                }),
            };
        };
        self.tried += 1;
        let load = if self.folder { load_file } else { load_image };
        let mut frame = self.framer.frame(PixelFormat::Rgb8, |_| {
            load(&path).map(|(size, rgb)| (size, PooledBuf::from(rgb)))
        })?;
        self.any_read = true;
        frame.meta.name = path.file_name().map(|name| name.to_string_lossy().into());
        Ok(Next::Frame(frame))
    }

    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        format!("{} ({} images)", self.path.display(), self.images.len())
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

/// Loads an image of a folder. A named pipe among them would wait for a writer, whatever the stop.
fn load_file(path: &Path) -> Result<(Size, Vec<u8>), ImageError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(ImageError::Read {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it is no file"),
        }),
        _ => load_image(path),
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Orders `frame2` before `frame10`: runs of digits compare as numbers.
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
        std::fs::write(dir.path().join("f3.png"), b"not an image").unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"ignored").unwrap();
        let mut source = ImageSource::open(dir.path(), &test_options()).unwrap();
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
    fn a_pipe_among_the_pictures_is_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("a.jpg");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut source = ImageSource::open(dir.path(), &test_options()).unwrap();
        let error = source.next().unwrap_err();
        assert!(error.is_damaged_frame(), "{error}");
    }

    #[test]
    fn a_source_without_one_good_picture_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png"] {
            std::fs::write(dir.path().join(name), b"not an image").unwrap();
        }
        let mut source = ImageSource::open(dir.path(), &test_options()).unwrap();
        for _ in 0..2 {
            assert!(source.next().unwrap_err().is_damaged_frame());
        }
        let error = source.next().unwrap_err();
        assert!(!error.is_damaged_frame(), "{error}");
        assert!(
            error.to_string().starts_with("none of the 2 images of '"),
            "{error}"
        );
    }

    #[test]
    fn missing_and_empty_folders_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ImageSource::open(dir.path(), &test_options()),
            Err(CaptureError::EmptyFolder { .. })
        ));
        let missing = ImageSource::open(&dir.path().join("none"), &test_options());
        assert!(matches!(missing, Err(CaptureError::Read { .. })));
    }
}

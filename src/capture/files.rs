//! A folder of images, each a frame, in natural name order; or one image. Hidden files are passed
//! over, and what is not read is said.

use super::place::Place;
use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{ImageError, load_image};
use crate::escape;
use crate::frame::{PixelFormat, PooledBuf};
use crate::geometry::Size;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Extensions of image files, lower case.
const EXTENSIONS: [&str; 11] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "pjpeg", "pjp", "png", "webp", "bmp", "dib",
];

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
        let images = match folder {
            false => vec![path.to_owned()],
            true => {
                let listing = Listing::of(path).map_err(read)?;
                let others = listing.others();
                if listing.images.is_empty() {
                    return Err(CaptureError::EmptyFolder {
                        path: path.to_owned(),
                        others: others.map_or_else(String::new, |others| format!(": {others}")),
                    });
                }
                if let Some(others) = others {
                    tracing::info!("of '{}' {others}", escape::name(path.as_os_str()));
                }
                listing.images
            }
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

/// The entries of a folder.
#[derive(Default)]
struct Listing {
    /// In natural order.
    images: Vec<PathBuf>,
    folders: usize,
    /// Files that are no images, by the ends of their names.
    files: BTreeMap<String, usize>,
}

impl Listing {
    fn of(folder: &Path) -> std::io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in std::fs::read_dir(folder)? {
            listing.add(entry?.path());
        }
        let bytes = |path: &Path| {
            path.file_name()
                .map(|name| name.as_encoded_bytes().to_vec())
        };
        let mut named: Vec<_> = listing.images.drain(..).map(|p| (bytes(&p), p)).collect();
        named.sort_by(|(a, _), (b, _)| {
            natural_order(a.as_deref().unwrap_or(&[]), b.as_deref().unwrap_or(&[]))
        });
        listing.images = named.into_iter().map(|(_, path)| path).collect();
        Ok(listing)
    }

    fn add(&mut self, path: PathBuf) {
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".") {
            // macOS keeps a file's attributes in `._a.jpg`, editors their copies in others
            tracing::debug!("left out, hidden: '{}'", escape::name(name));
            return;
        }
        match Place::of(&path) {
            // a link to nothing is an image that cannot be read, and is reported as one
            Some(Place::File) | None if is_image(&path) => self.images.push(path),
            Some(Place::Folder) => self.folders += 1,
            Some(Place::File) => {
                let end = super::extension(&path).unwrap_or_default();
                *self.files.entry(end).or_default() += 1;
            }
            place => {
                let what = place.map_or("a link to nothing", Place::what);
                tracing::info!("left out, {what}: '{}'", escape::name(name));
            }
        }
    }

    /// What is not read, in words.
    fn others(&self) -> Option<String> {
        let mut parts = Vec::new();
        let files: usize = self.files.values().sum();
        if files > 0 {
            let ends = self.files.keys().map(|end| match end.as_str() {
                "" => "no extension".to_owned(),
                end => format!(".{end}"),
            });
            let ends = ends.take(MOST_ENDS).collect::<Vec<_>>().join(", ");
            let more = if self.files.len() > MOST_ENDS {
                ", …"
            } else {
                ""
            };
            parts.push(format!("{files} files of other kinds ({ends}{more})"));
        }
        if self.folders > 0 {
            parts.push(format!("{} folders", self.folders));
        }
        (!parts.is_empty()).then(|| format!("{} are left out", parts.join(" and ")))
    }
}

/// Kinds of files that a message names.
const MOST_ENDS: usize = 8;

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
        frame.meta.name = path.file_name().map(|name| escape::name(name).into());
        Ok(Next::Frame(frame))
    }

    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        let name = escape::name(self.path.as_os_str());
        format!("{name} ({} images)", self.images.len())
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

/// Loads an image of a folder. A named pipe that has taken its place would wait for a writer,
/// whatever the stop.
fn load_file(path: &Path) -> Result<(Size, Vec<u8>), ImageError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(ImageError::Read {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it is no file"),
        }),
        _ => load_image(path),
    }
}

/// Whether a file is one of the images that are read, by its extension.
pub(super) fn is_image(path: &Path) -> bool {
    super::extension(path).is_some_and(|end| EXTENSIONS.contains(&end.as_str()))
}

/// Orders `frame2` before `frame10`: runs of digits compare as numbers. Names that are equal then,
/// such as `f1`, `f01` and `f001`, come in the order of their lengths and bytes, so that the order
/// does not depend on the file system's.
fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let tie = a.len().cmp(&b.len()).then_with(|| a.cmp(b));
    let (mut a, mut b) = (a, b);
    loop {
        let ((digits_a, rest_a), (digits_b, rest_b)) = (split_digits(a), split_digits(b));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let (x, y) = (without_zeros(digits_a), without_zeros(digits_b));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (None, None) => return tie,
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            (x, y) => return x.map(|(x, _)| x).cmp(&y.map(|(y, _)| y)),
        }
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|&digit| digit != b'0');
    &digits[start.unwrap_or(digits.len())..]
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
    fn the_order_is_the_same_however_the_folder_is_listed() {
        let sorted = [
            "B", "a", "f1", "f01", "f001", "f1a", "f2", "f02b", "f10", "g", "é",
        ];
        for seed in 0..50 {
            let mut names = sorted.map(str::to_owned);
            fastrand::Rng::with_seed(seed).shuffle(&mut names);
            names.sort_by(|a, b| natural_order(a.as_bytes(), b.as_bytes()));
            assert_eq!(names, sorted);
        }
        // names that differ only in bytes that are no text are no equals either
        assert_eq!(natural_order(b"n\xe8", b"n\xe9"), Ordering::Less);
        assert_eq!(natural_order(b"7", b"07"), Ordering::Less);
    }

    #[test]
    fn hidden_files_and_what_is_no_file_are_no_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "a.jpg",
            "b.JFIF",
            "c.jpe",
            "._a.jpg",
            ".DS_Store",
            "x.heic",
            "y",
            "z.heic",
        ] {
            std::fs::write(at(name), b"bytes").unwrap();
        }
        std::fs::create_dir(at("folder.jpg")).unwrap();
        nix::unistd::mkfifo(&at("pipe.jpg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link.jpg")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        let listing = Listing::of(dir.path()).unwrap();
        let names = listing.images.iter().map(|path| path.file_name().unwrap());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["a.jpg", "b.JFIF", "c.jpe", "link.jpg"]
        );
        let others = "3 files of other kinds (no extension, .heic) and 1 folders are left out";
        assert_eq!(listing.others().unwrap(), others);
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

//! The images of a data set: in a folder, or in a tar that is read without unpacking.

use super::dataset::DatasetError;
use super::tar_index::{TarEntry, TarIndex, plain_path};
use crate::capture::decode::decode_image;
use crate::geometry::Size;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The annotation file's name in a folder and in a tar.
const ANNOTATIONS: &str = "annotations.json";
/// The images' folder beside it.
const IMAGES: &str = "images";

/// Reads images by their name in the annotations.
#[derive(Debug)]
pub(super) enum Images {
    /// `DIR/images/*`, by DIR.
    Folder(PathBuf),
    /// `NAME/images/*` in an uncompressed tar.
    Tar(TarImages),
}

/// An open tar and its files.
#[derive(Debug)]
pub(super) struct TarImages {
    path: PathBuf,
    file: File,
    entries: TarIndex,
    /// Folder of the annotation file, empty or ending in `/`.
    root: String,
}

/// The annotation file: its path, for messages, and its bytes.
pub(super) struct AnnotationFile {
    pub(super) origin: String,
    pub(super) bytes: Vec<u8>,
}

/// Opens a folder or a tar and reads its annotation file.
pub(super) fn open(path: &Path) -> Result<(Images, AnnotationFile), DatasetError> {
    let metadata = std::fs::metadata(path).map_err(read_error(path))?;
    if metadata.is_dir() {
        open_folder(path)
    } else {
        open_tar(path)
    }
}

fn open_folder(path: &Path) -> Result<(Images, AnnotationFile), DatasetError> {
    let annotations = path.join(ANNOTATIONS);
    let bytes = std::fs::read(&annotations).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DatasetError::NoAnnotations {
            path: path.to_owned(),
        },
        _ => read_error(&annotations)(source),
    })?;
    let file = AnnotationFile {
        origin: annotations.display().to_string(),
        bytes,
    };
    Ok((Images::Folder(path.to_owned()), file))
}

fn open_tar(path: &Path) -> Result<(Images, AnnotationFile), DatasetError> {
    let file = File::open(path).map_err(read_error(path))?;
    let (file, entries) = TarIndex::read(file).map_err(|source| DatasetError::Tar {
        path: path.to_owned(),
        source,
    })?;
    let mut found: Vec<&str> = entries
        .names()
        .filter(|name| {
            name.matches('/').count() <= 1 && name.rsplit('/').next() == Some(ANNOTATIONS)
        })
        .collect();
    found.sort_unstable();
    let name = match found[..] {
        [name] => name.to_owned(),
        [] => {
            return Err(DatasetError::NoAnnotations {
                path: path.to_owned(),
            });
        }
        [..] => {
            return Err(DatasetError::SeveralSets {
                path: path.to_owned(),
                found: found.join("', '"),
            });
        }
    };
    let mut tar = TarImages {
        path: path.to_owned(),
        file,
        entries,
        root: name[..name.len() - ANNOTATIONS.len()].to_owned(),
    };
    let bytes = tar.read(&name).map_err(read_error(path))?;
    let origin = format!("{}:{name}", path.display());
    Ok((
        Images::Tar(tar),
        AnnotationFile {
            origin,
            bytes: bytes.unwrap_or_default(),
        },
    ))
}

impl TarImages {
    /// The bytes of one file; `None` if the tar has no file of that name.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(TarEntry { start, len }) = self.entries.find(name) else {
            return Ok(None);
        };
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        let got = (&mut self.file).take(len).read_to_end(&mut bytes)?;
        if got as u64 == len {
            return Ok(Some(bytes));
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("'{name}' has {len} bytes by its tar header, got {got}: the tar is cut short"),
        ))
    }
}

impl Images {
    /// Path of an image, for messages.
    fn describe(&self, name: &str) -> String {
        match self {
            Images::Folder(folder) => folder.join(IMAGES).join(name).display().to_string(),
            Images::Tar(tar) => format!("{}:{}{IMAGES}/{name}", tar.path.display(), tar.root),
        }
    }

    /// Path of an image below the annotation file, as far as it exists. Annotations are written by
    /// many tools: `./a.jpg` and `b//a.jpg` are `a.jpg` and `b/a.jpg`, `images/a.jpg` may be meant
    /// from the annotation file's folder, and `b\a.jpg` is from Windows.
    fn locate(&self, name: &str) -> Result<String, DatasetError> {
        let names = [name.to_owned(), name.replace('\\', "/")];
        let mut inside = false;
        for plain in names.iter().filter_map(|name| plain_path(name)) {
            inside = true;
            let below = format!("{IMAGES}/{plain}");
            let from_root = plain.starts_with("images/").then_some(plain);
            let found = [Some(below), from_root].into_iter().flatten();
            if let Some(path) = { found }.find(|path| self.has(path)) {
                return Ok(path);
            }
        }
        match inside {
            true => Err(self.missing(name)),
            false => Err(DatasetError::Outside {
                image: name.to_owned(),
            }),
        }
    }

    fn has(&self, path: &str) -> bool {
        match self {
            Images::Folder(folder) => folder.join(path).is_file(),
            Images::Tar(tar) => tar.entries.find(&format!("{}{path}", tar.root)).is_some(),
        }
    }

    /// Checks that the image exists, without reading it.
    pub(super) fn check(&self, name: &str) -> Result<(), DatasetError> {
        self.locate(name).map(drop)
    }

    /// Reads and decodes one image to packed RGB (`[height, width, 3]`). The EXIF orientation is not
    /// applied: annotated boxes are in stored pixels. An image whose size differs from the
    /// annotated one is an error, because its boxes would be misplaced.
    pub(super) fn read(
        &mut self,
        name: &str,
        expected: Option<Size>,
    ) -> Result<(Size, Vec<u8>), DatasetError> {
        let path = self.locate(name)?;
        let bytes = match self {
            Images::Folder(folder) => std::fs::read(folder.join(path)).map(Some),
            Images::Tar(tar) => {
                let entry = format!("{}{path}", tar.root);
                tar.read(&entry)
            }
        };
        let bytes = bytes.map_err(|source| DatasetError::Read {
            path: PathBuf::from(self.describe(name)),
            source,
        })?;
        let bytes = bytes.ok_or_else(|| self.missing(name))?;
        decode(&bytes, expected).map_err(|reason| DatasetError::Image {
            image: self.describe(name),
            reason,
        })
    }

    fn missing(&self, name: &str) -> DatasetError {
        DatasetError::MissingImage {
            image: self.describe(name),
        }
    }
}

fn decode(bytes: &[u8], expected: Option<Size>) -> Result<(Size, Vec<u8>), String> {
    let image = decode_image(bytes).map_err(|e| e.to_string())?;
    match expected.filter(|&expected| expected != image.size) {
        Some(expected) => Err(format!(
            "the annotations say {expected}, got {}",
            image.size
        )),
        None => Ok((image.size, image.rgb)),
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> DatasetError {
    move |source| DatasetError::Read {
        path: path.to_owned(),
        source,
    }
}

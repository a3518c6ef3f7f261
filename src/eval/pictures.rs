//! Where a data set's pictures lie: a folder, or a tar that is read in place.

use super::dataset::DatasetError;
use crate::capture::decode::jpeg_is_complete;
use crate::geometry::Size;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The annotation file's name in a folder and in a tar.
const ANNOTATIONS: &str = "annotations.json";

/// Reads pictures by the name that the annotations give them.
#[derive(Debug)]
pub(super) enum Pictures {
    /// `DIR/images/*`.
    Folder(PathBuf),
    /// `NAME/images/*` in an uncompressed tar.
    Tar(TarPictures),
}

/// An open tar and where its files begin.
#[derive(Debug)]
pub(super) struct TarPictures {
    path: PathBuf,
    file: File,
    /// Path inside the tar → first byte and length.
    entries: HashMap<String, (u64, u64)>,
    /// Folder of the annotation file, empty or ending in `/`.
    root: String,
}

/// The annotation file: where it is from, for messages, and its bytes.
pub(super) struct AnnotationFile {
    pub(super) origin: String,
    pub(super) bytes: Vec<u8>,
}

/// Opens a folder or a tar and reads its annotation file.
pub(super) fn open(path: &Path) -> Result<(Pictures, AnnotationFile), DatasetError> {
    let metadata = std::fs::metadata(path).map_err(read_error(path))?;
    if metadata.is_dir() {
        open_folder(path)
    } else {
        open_tar(path)
    }
}

fn open_folder(path: &Path) -> Result<(Pictures, AnnotationFile), DatasetError> {
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
    Ok((Pictures::Folder(path.join("images")), file))
}

fn open_tar(path: &Path) -> Result<(Pictures, AnnotationFile), DatasetError> {
    let file = File::open(path).map_err(read_error(path))?;
    let (file, entries) = index(file).map_err(|source| DatasetError::Tar {
        path: path.to_owned(),
        source,
    })?;
    let mut found: Vec<&str> = entries
        .keys()
        .filter(|name| {
            name.matches('/').count() <= 1 && name.rsplit('/').next() == Some(ANNOTATIONS)
        })
        .map(String::as_str)
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
    let mut tar = TarPictures {
        path: path.to_owned(),
        file,
        entries,
        root: name[..name.len() - ANNOTATIONS.len()].to_owned(),
    };
    let bytes = tar.read(&name).map_err(read_error(path))?;
    let origin = format!("{}:{name}", path.display());
    Ok((
        Pictures::Tar(tar),
        AnnotationFile {
            origin,
            bytes: bytes.unwrap_or_default(),
        },
    ))
}

/// Offset and length of each file of a tar, by name.
type Index = HashMap<String, (u64, u64)>;

/// Notes where each file of the tar begins, reading headers only.
fn index(file: File) -> io::Result<(File, Index)> {
    let mut archive = tar::Archive::new(file);
    let mut entries = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.to_string_lossy().into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            entries.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok((archive.into_inner(), entries))
}

impl TarPictures {
    /// The bytes of one file; `None` when the tar has none of that name.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(&(start, len)) = self.entries.get(name) else {
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
            format!("'{name}' has {len} bytes in the tar's index, got {got}: the tar is cut short"),
        ))
    }
}

impl Pictures {
    /// For messages: the path a person would look at.
    fn describe(&self, name: &str) -> String {
        match self {
            Pictures::Folder(folder) => folder.join(name).display().to_string(),
            Pictures::Tar(tar) => format!("{}:{}images/{name}", tar.path.display(), tar.root),
        }
    }

    /// Whether the picture is there, without reading it.
    pub(super) fn check(&self, name: &str) -> Result<(), DatasetError> {
        let there = is_inside(name)
            && match self {
                Pictures::Folder(folder) => folder.join(name).is_file(),
                Pictures::Tar(tar) => tar
                    .entries
                    .contains_key(&format!("{}images/{name}", tar.root)),
            };
        match there {
            true => Ok(()),
            false => Err(self.missing(name)),
        }
    }

    /// Reads and decodes one picture as it is stored, its EXIF orientation left alone: boxes are
    /// in stored pixels. A picture of another size than the annotations say is refused, because
    /// its boxes would be in the wrong places.
    pub(super) fn read(
        &mut self,
        name: &str,
        expected: Option<Size>,
    ) -> Result<(Size, Vec<u8>), DatasetError> {
        self.check(name)?;
        let bytes = match self {
            Pictures::Folder(folder) => std::fs::read(folder.join(name)).map(Some),
            Pictures::Tar(tar) => {
                let entry = format!("{}images/{name}", tar.root);
                tar.read(&entry)
            }
        };
        let bytes = bytes.map_err(|source| DatasetError::Read {
            path: PathBuf::from(self.describe(name)),
            source,
        })?;
        let bytes = bytes.ok_or_else(|| self.missing(name))?;
        decode(&bytes, expected).map_err(|reason| DatasetError::Picture {
            picture: self.describe(name),
            reason,
        })
    }

    fn missing(&self, name: &str) -> DatasetError {
        DatasetError::MissingPicture {
            picture: self.describe(name),
        }
    }
}

/// A name that stays in the images folder.
fn is_inside(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

fn decode(bytes: &[u8], expected: Option<Size>) -> Result<(Size, Vec<u8>), String> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| e.to_string())?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_complete(bytes) {
        return Err("the JPEG has no end: the file was cut short".to_owned());
    }
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let size = Size::new(width, height);
    if let Some(expected) = expected.filter(|&expected| expected != size) {
        return Err(format!("the annotations say {expected}, got {size}"));
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    Ok((size, picture.into_rgb8().into_raw()))
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> DatasetError {
    move |source| DatasetError::Read {
        path: path.to_owned(),
        source,
    }
}

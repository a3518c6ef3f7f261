//! A labelled data set in COCO format: `images/*` and `annotations.json`, in a folder or a tar.
//!
//! The optional field `labelled` of an image lists the classes whose labels are complete. For other
//! classes a missing box means "unknown", so boxes and detections of them are not evaluated there.

use super::images::{self, AnnotationFile, Images};
use crate::frame::Frame;
use crate::geometry::Size;
use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// A data set that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file could not be read.
    #[error("cannot read '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Neither a folder nor a tar.
    #[error("'{}' is neither a folder nor a plain tar (a compressed tar must be decompressed first)",
        path.display())]
    Tar {
        /// The file.
        path: PathBuf,
        /// The tar reader's error.
        source: io::Error,
    },
    /// No annotation file.
    #[error("no annotations in '{}': expected 'annotations.json' beside 'images/' in a folder, \
        or 'NAME/annotations.json' and 'NAME/images/' in a tar", path.display())]
    NoAnnotations {
        /// The folder or tar.
        path: PathBuf,
    },
    /// More than one annotation file.
    #[error("'{}' has several data sets: '{found}'; one tar holds one", path.display())]
    SeveralSets {
        /// The tar.
        path: PathBuf,
        /// The annotation files.
        found: String,
    },
    /// The annotation file is not valid.
    #[error("the annotations '{origin}' are not valid: {reason}")]
    Annotations {
        /// The annotation file.
        origin: String,
        /// Expected and got.
        reason: String,
    },
    /// An annotated image does not exist.
    #[error("the image '{image}' is missing, but the annotations name it")]
    MissingImage {
        /// Its expected path.
        image: String,
    },
    /// The name of an image that is not below the data set.
    #[error(
        "the annotations name the image '{image}', which leaves the data set: expected a path below 'images/'"
    )]
    Outside {
        /// The name.
        image: String,
    },
    /// An image that cannot be decoded, or has another size than the annotated one.
    #[error("cannot use the image '{image}': {reason}")]
    Image {
        /// Its path.
        image: String,
        /// The decoder's error, or expected and actual size.
        reason: String,
    },
    /// Class names that are not in the data set.
    #[error("{reason}; the data set '{}' has: {known}", path.display())]
    Classes {
        /// The data set.
        path: PathBuf,
        /// The names that are not in it.
        reason: String,
        /// The set's class names.
        known: String,
    },
}

/// A class of the data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// Its id in the annotation file.
    pub id: i64,
    /// Its name, which is compared with the names of the model's classes.
    pub name: String,
}

/// An annotated box.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Index into [`Dataset::categories`].
    pub category: usize,
    /// `[x, y, width, height]` in pixels of the stored image.
    pub bbox: [f64; 4],
    /// Area in square pixels: the annotation's `area` if it has one, else that of the box.
    pub area: f64,
    /// `iscrowd`: neither a match nor a miss counts.
    pub ignore: bool,
}

/// One image and its boxes.
#[derive(Clone, Debug)]
pub struct ImageRecord {
    /// Its id in the annotation file.
    pub id: i64,
    /// Path below `images/`.
    pub file_name: String,
    /// Size in pixels, if the file has it.
    pub size: Option<Size>,
    /// By category index: whether every object of that class is labelled.
    pub labelled: Vec<bool>,
    /// Boxes of the labelled classes, in the file's order.
    pub truths: Vec<Truth>,
}

/// A data set, open for reading.
#[derive(Debug)]
pub struct Dataset {
    /// Folder or tar.
    pub path: PathBuf,
    /// Classes by ascending id.
    pub categories: Vec<Category>,
    /// Images by ascending id. Equal scores are ordered by image.
    pub images: Vec<ImageRecord>,
    /// Exclusions and their reasons, for the report.
    pub notes: Vec<String>,
    /// Ids of classes that are in the file but excluded from the evaluation.
    removed: Vec<i64>,
    store: Images,
}

/// For each class of a model, the matching category index, if the data set has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap(Vec<Option<usize>>);

impl ClassMap {
    /// The category of a model's class.
    pub(crate) fn category(&self, class_id: usize) -> Option<usize> {
        self.0.get(class_id).copied().flatten()
    }
}

impl Dataset {
    /// Opens a folder or a tar. A tar is indexed in one pass and not unpacked. Images are not read
    /// yet.
    ///
    /// # Errors
    /// If it cannot be read, or its annotations are not valid.
    pub fn open(path: &Path) -> Result<Dataset, DatasetError> {
        let (store, file) = images::open(path)?;
        let AnnotationFile { origin, bytes } = file;
        let parsed = serde_json::from_slice(&bytes)
            .map_err(|e| e.to_string())
            .and_then(Parsed::from_raw)
            .map_err(|reason| DatasetError::Annotations { origin, reason })?;
        let mut notes = Vec::new();
        if parsed.unlabelled > 0 {
            notes.push(format!(
                "{} boxes of classes that their image does not list in 'labelled' were left out",
                parsed.unlabelled
            ));
        }
        Ok(Dataset {
            path: path.to_owned(),
            categories: parsed.categories,
            images: parsed.images,
            notes,
            removed: Vec::new(),
            store,
        })
    }

    /// File name without its extension.
    pub fn name(&self) -> String {
        let name = match self.path.is_dir() {
            true => self.path.file_name(),
            false => self.path.file_stem(),
        };
        name.map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Reads and decodes one image; the frame's id is `index`.
    ///
    /// # Errors
    /// If it is missing, damaged, or not of the annotated size.
    pub fn read(&mut self, index: usize) -> Result<Frame, DatasetError> {
        let record = &self.images[index];
        let (size, rgb) = self.store.read(&record.file_name, record.size)?;
        let mut frame = Frame::from_rgb(index as u64, size, rgb);
        frame.meta.name = Some(record.file_name.as_str().into());
        Ok(frame)
    }

    /// Checks that every image exists, so that a long evaluation does not fail late.
    ///
    /// # Errors
    /// [`DatasetError::MissingImage`] with the first that is missing.
    pub fn check_images(&self) -> Result<(), DatasetError> {
        self.images
            .iter()
            .try_for_each(|image| self.store.check(&image.file_name))
    }

    /// Keeps only these classes.
    ///
    /// # Errors
    /// If the data set lacks one of them.
    pub fn select(&mut self, names: &[String]) -> Result<(), DatasetError> {
        if let Some(unknown) = names.iter().find(|name| self.index_of(name).is_none()) {
            return Err(self.class_error(format!("no class is named '{unknown}'")));
        }
        let keep: Vec<bool> = self
            .categories
            .iter()
            .map(|category| names.contains(&category.name))
            .collect();
        self.retain(&keep);
        Ok(())
    }

    /// Matches a model's classes with the data set's by name. Classes that the model does not have
    /// are excluded from the evaluation, with a note, so that the metrics are those of the model's
    /// own classes.
    ///
    /// # Errors
    /// If they have no class in common.
    pub fn match_model(&mut self, classes: &[String]) -> Result<ClassMap, DatasetError> {
        let keep: Vec<bool> = self
            .categories
            .iter()
            .map(|category| classes.contains(&category.name))
            .collect();
        if !keep.contains(&true) {
            let classes = classes.join(", ");
            return Err(self.class_error(format!(
                "none of the model's classes ({classes}) is in the data set; names must be equal"
            )));
        }
        let unknown: Vec<&str> = self
            .categories
            .iter()
            .zip(&keep)
            .filter_map(|(category, &keep)| (!keep).then_some(category.name.as_str()))
            .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            self.notes.push(format!(
                "not among the model's classes, left out: {unknown}"
            ));
        }
        self.retain(&keep);
        Ok(ClassMap(
            classes.iter().map(|name| self.index_of(name)).collect(),
        ))
    }

    /// Whether a class of this id is in the file but excluded from the evaluation.
    pub(super) fn is_removed(&self, category_id: i64) -> bool {
        self.removed.contains(&category_id)
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.categories
            .iter()
            .position(|category| category.name == name)
    }

    fn retain(&mut self, keep: &[bool]) {
        let mut next = 0..;
        let renumbered: Vec<Option<usize>> = keep
            .iter()
            .map(|&keep| keep.then(|| next.next()).flatten())
            .collect();
        let gone = self.categories.iter().zip(keep).filter(|&(_, &keep)| !keep);
        self.removed.extend(gone.map(|(category, _)| category.id));
        retain_by(&mut self.categories, keep);
        for image in &mut self.images {
            retain_by(&mut image.labelled, keep);
            image.truths.retain_mut(|truth| {
                let category = renumbered[truth.category];
                truth.category = category.unwrap_or_default();
                category.is_some()
            });
        }
    }

    fn class_error(&self, reason: String) -> DatasetError {
        let names: Vec<&str> = self.categories.iter().map(|c| c.name.as_str()).collect();
        DatasetError::Classes {
            path: self.path.clone(),
            reason,
            known: names.join(", "),
        }
    }
}

fn retain_by<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut flags = keep.iter();
    items.retain(|_| flags.next() == Some(&true));
}

/// The fields of a COCO annotation file that are used.
#[derive(Deserialize)]
struct RawFile {
    images: Vec<RawImage>,
    annotations: Vec<RawAnnotation>,
    categories: Vec<RawCategory>,
}

#[derive(Deserialize)]
struct RawImage {
    id: i64,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
    labelled: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawAnnotation {
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct RawCategory {
    id: i64,
    name: String,
}

/// Checked annotations, sorted by id.
struct Parsed {
    categories: Vec<Category>,
    images: Vec<ImageRecord>,
    /// Boxes dropped because their image does not label their class.
    unlabelled: usize,
}

impl Parsed {
    fn from_raw(raw: RawFile) -> Result<Parsed, String> {
        let categories = categories(raw.categories)?;
        let mut images = raw
            .images
            .into_iter()
            .map(|image| image_record(image, &categories))
            .collect::<Result<Vec<_>, _>>()?;
        images.sort_by_key(|image| image.id);
        if let Some(pair) = images.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(format!("two images have the id {}", pair[0].id));
        }
        let unlabelled = add_truths(&mut images, &categories, raw.annotations)?;
        Ok(Parsed {
            categories,
            images,
            unlabelled,
        })
    }
}

fn categories(raw: Vec<RawCategory>) -> Result<Vec<Category>, String> {
    let mut categories: Vec<Category> = raw
        .into_iter()
        .map(|RawCategory { id, name }| Category { id, name })
        .collect();
    categories.sort_by_key(|category| category.id);
    for (i, category) in categories.iter().enumerate() {
        let mut before = categories[..i].iter();
        if before.any(|other| other.id == category.id || other.name == category.name) {
            return Err(format!(
                "category {} '{}' shares its id or name with another",
                category.id, category.name
            ));
        }
    }
    match categories.is_empty() {
        true => Err("'categories' is empty".to_owned()),
        false => Ok(categories),
    }
}

fn image_record(raw: RawImage, categories: &[Category]) -> Result<ImageRecord, String> {
    let labelled = match &raw.labelled {
        None => vec![true; categories.len()],
        Some(names) => {
            let known = |name: &String| categories.iter().any(|c| c.name == *name);
            if let Some(name) = names.iter().find(|name| !known(name)) {
                return Err(format!(
                    "image {}: 'labelled' names '{name}', which is no category",
                    raw.id
                ));
            }
            categories.iter().map(|c| names.contains(&c.name)).collect()
        }
    };
    Ok(ImageRecord {
        id: raw.id,
        file_name: raw.file_name,
        size: raw.width.zip(raw.height).map(|(w, h)| Size::new(w, h)),
        labelled,
        truths: Vec::new(),
    })
}

/// Adds the boxes to their images; returns the number of boxes excluded because their image does
/// not label their class.
fn add_truths(
    images: &mut [ImageRecord],
    categories: &[Category],
    annotations: Vec<RawAnnotation>,
) -> Result<usize, String> {
    let by_id: HashMap<i64, usize> = categories
        .iter()
        .enumerate()
        .map(|(index, category)| (category.id, index))
        .collect();
    let mut unlabelled = 0;
    for (number, raw) in annotations.into_iter().enumerate() {
        let bad = |reason: String| format!("annotations[{number}]: {reason}");
        let &category = by_id
            .get(&raw.category_id)
            .ok_or_else(|| bad(format!("no category has the id {}", raw.category_id)))?;
        let image = images
            .binary_search_by_key(&raw.image_id, |image| image.id)
            .map_err(|_| bad(format!("no image has the id {}", raw.image_id)))?;
        let [_, _, width, height] = raw.bbox;
        if width < 0.0 || height < 0.0 {
            return Err(bad(format!("bbox {:?} has a negative side", raw.bbox)));
        }
        let image = &mut images[image];
        if image.labelled[category] {
            image.truths.push(Truth {
                category,
                bbox: raw.bbox,
                area: raw.area.unwrap_or(width * height),
                ignore: raw.iscrowd != 0,
            });
        } else {
            unlabelled += 1;
        }
    }
    Ok(unlabelled)
}

//! A labelled data set in COCO format: `images/*` and `annotations.json`, in a folder or a tar.
//!
//! The optional field `labelled` of an image lists the classes whose labels are complete. For other
//! classes a missing box means "unknown", so boxes and detections of them are not evaluated there.

use super::annotations::{self, Parsed};
use super::id::Id;
use super::images::{self, AnnotationFile, Images};
use crate::frame::Frame;
use crate::geometry::Size;
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
    pub id: Id,
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
    pub id: Id,
    /// Path below `images/`; empty if the file has none, see [`Dataset::check_images`].
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
    /// The annotation file, for messages.
    origin: String,
    /// Why no detector can be run on the images, if so.
    unreadable: Option<String>,
    /// Ids of classes that are in the file but excluded from the evaluation.
    removed: Vec<Id>,
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
        let parsed = annotations::parse(&bytes);
        let Parsed {
            categories,
            images,
            notes,
            unreadable,
        } = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => return Err(DatasetError::Annotations { origin, reason }),
        };
        Ok(Dataset {
            path: path.to_owned(),
            origin,
            categories,
            images,
            notes,
            unreadable,
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

    /// Checks that every image has a name of its own and exists, so that a long evaluation does not
    /// fail late.
    ///
    /// # Errors
    /// [`DatasetError::Annotations`] with the first image that has no name, or shares its id with
    /// another; [`DatasetError::MissingImage`] with the first that is missing.
    pub fn check_images(&self) -> Result<(), DatasetError> {
        if let Some(reason) = &self.unreadable {
            return Err(DatasetError::Annotations {
                origin: self.origin.clone(),
                reason: reason.clone(),
            });
        }
        self.images
            .iter()
            .try_for_each(|image| self.store.check(&image.file_name))
    }

    /// Keeps only these classes.
    ///
    /// # Errors
    /// If the data set lacks one of them.
    pub fn select(&mut self, names: &[String]) -> Result<(), DatasetError> {
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        let known = |name: &str| self.categories.iter().any(|category| category.name == name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            return Err(self.class_error(format!("no class is named '{unknown}'")));
        }
        let keep: Vec<bool> = self
            .categories
            .iter()
            .map(|category| names.contains(&category.name.as_str()))
            .collect();
        self.retain(&keep);
        Ok(())
    }

    /// Matches a model's classes with the data set's by name. Classes that the model does not have
    /// are excluded from the evaluation, with a note, so that the metrics are those of the model's
    /// own classes. Of several classes of one name, the one that has boxes is meant.
    ///
    /// # Errors
    /// If they have no class in common, or several classes of one name have boxes.
    pub fn match_model(&mut self, classes: &[String]) -> Result<ClassMap, DatasetError> {
        let meant = self.meant_by(classes)?;
        let keep: Vec<bool> = (0..self.categories.len())
            .map(|category| meant.contains(&Some(category)))
            .collect();
        if !keep.contains(&true) {
            let classes = classes.join(", ");
            return Err(self.class_error(format!(
                "none of the model's classes ({classes}) is in the data set; names must be equal"
            )));
        }
        let unknown = self
            .categories
            .iter()
            .map(|category| category.name.as_str());
        let unknown: Vec<&str> = unknown
            .filter(|name| !classes.iter().any(|class| class == name))
            .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            self.notes.push(format!(
                "not among the model's classes, left out: {unknown}"
            ));
        }
        let kept = self.retain(&keep);
        let place = |category: Option<usize>| category.and_then(|category| kept[category]);
        Ok(ClassMap(meant.into_iter().map(place).collect()))
    }

    /// The category that each class of a model means, if the data set has one.
    fn meant_by(&self, classes: &[String]) -> Result<Vec<Option<usize>>, DatasetError> {
        let mut boxes = vec![0usize; self.categories.len()];
        let truths = self.images.iter().flat_map(|image| &image.truths);
        truths.for_each(|truth| boxes[truth.category] += 1);
        let meant = |class: &String| {
            let named = (0..boxes.len()).filter(|&at| self.categories[at].name == *class);
            let mut with_boxes = named.clone().filter(|&at| boxes[at] > 0);
            match (with_boxes.next(), with_boxes.next()) {
                (Some(one), Some(other)) => Err(self.class_error(format!(
                    "the classes with the ids {} and {} are both named '{class}' and both have \
                     boxes, so a detection could be of either: rename or merge them",
                    self.categories[one].id, self.categories[other].id
                ))),
                (Some(only), None) => Ok(Some(only)),
                (None, _) => Ok(named.clone().next()),
            }
        };
        classes.iter().map(meant).collect()
    }

    /// Whether a class of this id is in the file but excluded from the evaluation.
    pub(super) fn is_removed(&self, category_id: Option<&Id>) -> bool {
        category_id.is_some_and(|id| self.removed.contains(id))
    }

    /// Removes all other categories; returns the new index of each old one that is kept.
    fn retain(&mut self, keep: &[bool]) -> Vec<Option<usize>> {
        let mut next = 0..;
        let renumbered: Vec<Option<usize>> = keep
            .iter()
            .map(|&keep| keep.then(|| next.next()).flatten())
            .collect();
        let gone = self.categories.iter().zip(keep).filter(|&(_, &keep)| !keep);
        self.removed
            .extend(gone.map(|(category, _)| category.id.clone()));
        retain_by(&mut self.categories, keep);
        for image in &mut self.images {
            retain_by(&mut image.labelled, keep);
            image.truths.retain_mut(|truth| {
                let category = renumbered[truth.category];
                truth.category = category.unwrap_or_default();
                category.is_some()
            });
        }
        renumbered
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

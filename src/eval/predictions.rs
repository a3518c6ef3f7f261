//! A detector's predictions on a data set, and their COCO results file.

use super::annotations::{corners, required};
use super::dataset::Dataset;
use super::id::Id;
use super::json::{Reader, number, shown};
use crate::detection::Detection;
use jiter::JsonValue;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A detection with the data set's category, in f64 like results files.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Index into [`Dataset::categories`].
    pub category: usize,
    /// `[x, y, width, height]` in pixels.
    pub bbox: [f64; 4],
    /// Confidence; higher is more certain.
    pub score: f64,
}

impl Prediction {
    /// A detector's box as `category` of the data set.
    pub(super) fn new(category: usize, detection: &Detection) -> Prediction {
        Prediction {
            category,
            bbox: detection.bbox.xywh().map(f64::from),
            score: f64::from(detection.score),
        }
    }
}

/// Predictions by image, only of classes that the image labels completely.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    by_image: Vec<Vec<Prediction>>,
    dropped: usize,
    /// What was left out or looks wrong in a results file, for the report.
    notes: Vec<String>,
}

/// The order of scores: the highest first, what is not a number last, as numpy sorts.
pub(super) fn best_first(a: f64, b: f64) -> Ordering {
    let by_value = b.partial_cmp(&a);
    by_value.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// A results file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It could not be read.
    #[error("cannot read the detections '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It could not be written.
    #[error("cannot write the detections '{}'", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not COCO results, or not of this data set.
    #[error("the detections '{}' are not COCO results of this data set: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Expected and got.
        reason: String,
    },
}

/// One row of a results file.
struct Row {
    image: usize,
    /// `None` refers to nothing.
    category_id: Option<Id>,
    /// `None` for a category that the data set does not list.
    prediction: Option<Prediction>,
}

impl Predictions {
    /// No predictions yet, for a data set of `images` images.
    pub(super) fn with_images(images: usize) -> Predictions {
        Predictions {
            by_image: vec![Vec::new(); images],
            dropped: 0,
            notes: Vec::new(),
        }
    }

    /// Adds a prediction, unless the image does not label its class.
    pub(super) fn push(&mut self, dataset: &Dataset, image: usize, prediction: Prediction) {
        if dataset.images[image].labelled[prediction.category] {
            self.by_image[image].push(prediction);
        } else {
            self.dropped += 1;
        }
    }

    /// Counts a detection of a class that the data set does not have.
    pub(super) fn drop_one(&mut self) {
        self.dropped += 1;
    }

    /// Keeps the `max` highest scores of an image.
    pub(super) fn truncate(&mut self, image: usize, max: usize) {
        let found = &mut self.by_image[image];
        found.sort_by(|a, b| best_first(a.score, b.score));
        found.truncate(max);
    }

    /// Predictions of one image.
    pub fn of_image(&self, image: usize) -> &[Prediction] {
        &self.by_image[image]
    }

    /// Number of predictions of all images.
    pub fn len(&self) -> usize {
        self.by_image.iter().map(Vec::len).sum()
    }

    /// Whether there are no predictions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of predictions dropped because their image or the data set does not label their class.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Notes on what was left out or looks wrong in a results file.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reads COCO results: `[{"image_id", "category_id", "bbox", "score"}, …]`, ids as in the
    /// data set's annotation file. Rows of classes that [`Dataset::select`] or
    /// [`Dataset::match_model`] excluded are dropped, and so are those of classes that the file does
    /// not list, with a note.
    ///
    /// # Errors
    /// If it cannot be read, is not such a list, names an image that the data set lacks, or has no
    /// row of a class that the data set has.
    pub fn read(path: &Path, dataset: &Dataset) -> Result<Predictions, ResultsError> {
        let bytes = std::fs::read(path).map_err(|source| ResultsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Predictions::parse(&bytes, dataset).map_err(|reason| ResultsError::Format {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(bytes: &[u8], dataset: &Dataset) -> Result<Predictions, String> {
        let categories: HashMap<&Id, usize> =
            dataset.categories.iter().map(|c| &c.id).zip(0..).collect();
        let mut predictions = Predictions::with_images(dataset.images.len());
        let (mut rows, mut unlisted, mut unordered) = (0, 0, 0);
        let mut first_unlisted = None;
        let mut reader = Reader::new(bytes)?;
        reader.list(|reader, index| {
            let row = row(reader, index, dataset, &categories)?;
            rows += 1;
            match row.prediction {
                Some(prediction) => {
                    unordered += usize::from(prediction.score.is_nan());
                    predictions.push(dataset, row.image, prediction);
                }
                None if dataset.is_removed(row.category_id.as_ref()) => predictions.drop_one(),
                None => {
                    unlisted += 1;
                    first_unlisted.get_or_insert((index, row.category_id));
                }
            }
            Ok(())
        })?;
        reader.end()?;
        if let Some((index, id)) = first_unlisted.filter(|_| unlisted == rows) {
            let known: Vec<String> = dataset
                .categories
                .iter()
                .map(|c| c.id.to_string())
                .collect();
            return Err(format!(
                "not one of the {rows} rows is of a category of the set: row [{index}]: category_id: \
                 no category has the id {}, the set has {}",
                id.map_or_else(|| "null".to_owned(), |id| id.to_string()),
                known.join(", ")
            ));
        }
        let notes = [
            (
                unlisted,
                "detections of categories that the data set does not list were left out",
            ),
            (
                unordered,
                "detections have a score that is not a number: they come after all others",
            ),
        ];
        let notes = notes.into_iter().filter(|(count, _)| *count > 0);
        predictions.notes = notes
            .map(|(count, text)| format!("{count} {text}"))
            .collect();
        Ok(predictions)
    }

    /// Writes COCO results, one row per line, with all digits, so that other evaluators compute the
    /// same metrics. A file that cannot be written whole is removed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, dataset: &Dataset) -> Result<(), ResultsError> {
        let failed = |source| ResultsError::Write {
            path: path.to_owned(),
            source,
        };
        let file = File::create(path).map_err(failed)?;
        self.write_rows(file, dataset).map_err(|source| {
            // a pipe or a device stays
            if path.is_file() {
                let _ = std::fs::remove_file(path);
            }
            failed(source)
        })
    }

    fn write_rows(&self, file: File, dataset: &Dataset) -> io::Result<()> {
        let mut out = BufWriter::new(file);
        let mut separator = "[\n";
        for (image, found) in dataset.images.iter().zip(&self.by_image) {
            for prediction in found {
                let id = serde_json::to_string(&image.id)?;
                let category = &dataset.categories[prediction.category].id;
                let category = serde_json::to_string(category)?;
                let bbox = serde_json::to_string(&prediction.bbox)?;
                let score = score_text(prediction.score);
                write!(
                    out,
                    "{separator}{{\"image_id\":{id},\"category_id\":{category},\"bbox\":{bbox},\"score\":{score}}}"
                )?;
                separator = ",\n";
            }
        }
        if self.is_empty() {
            out.write_all(b"[")?;
        }
        out.write_all(b"\n]\n")?;
        out.flush()
    }
}

/// A score as Python's `json` module writes it.
fn score_text(score: f64) -> String {
    match score {
        score if score.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        score => format!("{score:?}"),
    }
}

/// Reads one row. As with pycocotools the image must be listed and the box must be one whatever the
/// category; the score is looked at only for a category that the data set lists.
fn row(
    reader: &mut Reader,
    index: usize,
    dataset: &Dataset,
    categories: &HashMap<&Id, usize>,
) -> Result<Row, String> {
    let of = |reason: String| format!("row [{index}]: {reason}");
    let fields = reader.fields(&["image_id", "category_id", "bbox", "score"]);
    let [image_id, category_id, bbox, score] = fields.map_err(of)?;
    let image_id = required("image_id", image_id.as_ref(), Id::read).map_err(of)?;
    let category_id = required("category_id", category_id.as_ref(), Id::reference).map_err(of)?;
    let image = dataset
        .images
        .binary_search_by(|image| image.id.cmp(&image_id))
        .map_err(|_| of(format!("image_id: no image has the id {image_id}")))?;
    let bbox = required("bbox", bbox.as_ref(), |bbox| corners(bbox, number)).map_err(of)?;
    let category = category_id.as_ref().and_then(|id| categories.get(id));
    let prediction = match category {
        None => None,
        Some(&category) => Some(Prediction {
            category,
            bbox,
            score: required("score", score.as_ref(), score_of).map_err(of)?,
        }),
    };
    Ok(Row {
        image,
        category_id,
        prediction,
    })
}

fn score_of(value: &JsonValue) -> Result<f64, String> {
    number(value).ok_or_else(|| format!("expected a number, got {}", shown(value)))
}

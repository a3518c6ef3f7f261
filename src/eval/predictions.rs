//! A detector's predictions on a data set, and their COCO results file.

use super::dataset::Dataset;
use crate::detection::Detection;
use serde::{Deserialize, Serialize};
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
#[derive(Serialize, Deserialize)]
struct Row {
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    score: f64,
}

impl Predictions {
    /// No predictions yet, for a data set of `images` images.
    pub(super) fn with_images(images: usize) -> Predictions {
        Predictions {
            by_image: vec![Vec::new(); images],
            dropped: 0,
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
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
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

    /// Reads COCO results: `[{"image_id", "category_id", "bbox", "score"}, …]`, ids as in the
    /// data set's annotation file. Rows of classes that [`Dataset::select`] or
    /// [`Dataset::match_model`] excluded are dropped.
    ///
    /// # Errors
    /// If it cannot be read, is not such a list, or names an image or class that the data set lacks.
    pub fn read(path: &Path, dataset: &Dataset) -> Result<Predictions, ResultsError> {
        let bytes = std::fs::read(path).map_err(|source| ResultsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let bad = |reason: String| ResultsError::Format {
            path: path.to_owned(),
            reason,
        };
        let rows: Vec<Row> = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let categories: HashMap<i64, usize> = dataset
            .categories
            .iter()
            .enumerate()
            .map(|(index, category)| (category.id, index))
            .collect();
        let mut predictions = Predictions::with_images(dataset.images.len());
        for (number, row) in rows.into_iter().enumerate() {
            let bad = |reason: String| bad(format!("row [{number}]: {reason}"));
            let image = dataset
                .images
                .binary_search_by_key(&row.image_id, |image| image.id)
                .map_err(|_| bad(format!("no image has the id {}", row.image_id)))?;
            if row.bbox[2] < 0.0 || row.bbox[3] < 0.0 {
                return Err(bad(format!("bbox {:?} has a negative side", row.bbox)));
            }
            match categories.get(&row.category_id) {
                Some(&category) => {
                    let (bbox, score) = (row.bbox, row.score);
                    let prediction = Prediction {
                        category,
                        bbox,
                        score,
                    };
                    predictions.push(dataset, image, prediction);
                }
                None if dataset.is_removed(row.category_id) => predictions.dropped += 1,
                None => {
                    let id = row.category_id;
                    return Err(bad(format!("no category has the id {id}")));
                }
            }
        }
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
                out.write_all(separator.as_bytes())?;
                let row = Row {
                    image_id: image.id,
                    category_id: dataset.categories[prediction.category].id,
                    bbox: prediction.bbox,
                    score: prediction.score,
                };
                serde_json::to_writer(&mut out, &row)?;
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

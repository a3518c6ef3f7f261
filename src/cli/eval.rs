//! `vovcam eval`: average precision on a labelled set.

use super::{Failure, NO_INPUT, RUN_FAILED, USAGE, load_model, print_failure};
use crate::config::values::listed_name;
use crate::config::{EngineSettings, ThresholdSpec, TileSettings};
use crate::detect::{Detector, DetectorOptions, default_thresholds};
use crate::detection::Thresholds;
use crate::escape;
use crate::eval::dataset::Dataset;
use crate::eval::predictions::Predictions;
use crate::eval::{DetectorInfo, EvalError, EvalOptions, MIN_SCORE, detect, evaluate};
use crate::geometry::InputSize;
use crate::geometry::Size;
use crate::model::{Manifest, Model};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    /// Labelled set in COCO form: a folder or tar with images/ and annotations.json
    #[arg(long, value_name = "DIR|TAR")]
    data: PathBuf,
    /// Figures as JSON on standard output
    #[arg(long)]
    json: bool,
    /// Judge these detections (COCO results) instead of running the model
    #[arg(long, value_name = "FILE")]
    detections: Option<PathBuf>,
    /// Write the detections as COCO results
    #[arg(long, value_name = "FILE")]
    detections_out: Option<PathBuf>,
    /// Only these classes of the set, by name
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = listed_name)]
    classes: Option<Vec<String>>,
    /// Leave classes with fewer boxes out of the means
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_boxes: usize,
    /// Precision and recall are shown at these scores: one for all classes, or by class
    /// [default: the model's thresholds]
    #[arg(long, value_name = "SCORE|CLASS=SCORE,…")]
    threshold: Option<ThresholdSpec>,
    /// Also show by class the score threshold with the highest recall at this precision, 0 to 1
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    at_precision: Option<f64>,
    #[command(flatten)]
    engine: EngineSettings,
    /// Input size of the network; one number is a square [default: the model's]
    #[arg(long, value_name = "SIDE|WxH")]
    input: Option<InputSize>,
    #[command(flatten)]
    tiles: TileSettings,
}

pub(super) fn run(args: EvalArgs) -> Result<(), Failure> {
    let mut dataset = Dataset::open(&args.data).map_err(|e| Failure::new(NO_INPUT, e))?;
    if dataset.images.is_empty() {
        let place = args.data.display();
        let reason = format!("the data set '{place}' has no image: 'images' is empty");
        return Err(Failure::new(NO_INPUT, reason));
    }
    if let Some(names) = &args.classes {
        dataset.select(names).map_err(|e| Failure::new(USAGE, e))?;
    }
    let mut options = EvalOptions {
        min_boxes: args.min_boxes,
        precision: args.at_precision,
        ..EvalOptions::default()
    };
    let (predictions, detector) = match &args.detections {
        Some(path) => {
            let read = Predictions::read(path, &dataset);
            (read.map_err(|e| Failure::new(NO_INPUT, e))?, None)
        }
        None => {
            let model = load_model(args.engine.model.as_deref())?;
            options.thresholds = model_thresholds(&model.manifest);
            let (predictions, detector) = run_model(&args, &model, &mut dataset, &options)?;
            (predictions, Some(detector))
        }
    };
    if let Some(spec) = &args.threshold {
        set_thresholds(spec, &dataset, &mut options.thresholds)
            .map_err(|e| Failure::new(USAGE, e))?;
    }
    if let Some(path) = &args.detections_out {
        let written = predictions.write(path, &dataset);
        written.map_err(|e| Failure::new(RUN_FAILED, e))?;
    }
    let mut evaluation = evaluate(&dataset, &predictions, &options);
    evaluation.detector = detector;
    // names of classes come from the set
    let mut text = match args.json {
        true => {
            let json = evaluation.to_json();
            let mut json = json.map_err(|e| Failure::new(RUN_FAILED, e))?.into_bytes();
            escape::controls_in_json(&mut json);
            json
        }
        false => escape::lines(evaluation.to_string().trim_end()).into_bytes(),
    };
    text.push(b'\n');
    std::io::stdout().write_all(&text).map_err(print_failure)
}

/// Detections an image before those of classes that it does not label are dropped.
const MOST_DETECTIONS: usize = 1000;

fn model_thresholds(manifest: &Manifest) -> BTreeMap<String, f64> {
    let scores = default_thresholds(manifest).score;
    let names = manifest.classes.iter().cloned();
    names.zip(scores.into_iter().map(f64::from)).collect()
}

/// Thresholds of the command line over those of the model.
fn set_thresholds(
    spec: &ThresholdSpec,
    dataset: &Dataset,
    thresholds: &mut BTreeMap<String, f64>,
) -> Result<(), String> {
    let names = || dataset.categories.iter().map(|category| &category.name);
    if let Some(score) = spec.all {
        thresholds.extend(names().map(|name| (name.clone(), f64::from(score))));
    }
    for (name, &score) in &spec.by_class {
        if !names().any(|known| known == name) {
            let known: Vec<&str> = names().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(format!(
                "--threshold: expected classes of the data set ({known}), got '{name}'"
            ));
        }
        thresholds.insert(name.clone(), f64::from(score));
    }
    Ok(())
}

fn precision(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| format!("expected a precision from 0 to 1, got '{text}'"))
}

/// Detects on every image at a score near zero, as average precision wants it.
fn run_model(
    args: &EvalArgs,
    model: &Model,
    dataset: &mut Dataset,
    options: &EvalOptions,
) -> Result<(Predictions, DetectorInfo), Failure> {
    let manifest = &model.manifest;
    let classes = dataset
        .match_model(&manifest.classes)
        .map_err(|e| Failure::new(NO_INPUT, e))?;
    // figures are quoted at square inputs, so a single number is a square here
    let input = match args
        .input
        .unwrap_or(InputSize::LongSide(manifest.input_size as u32))
    {
        InputSize::LongSide(side) => Size::new(side, side),
        InputSize::Exact(size) => size,
    };
    let nms_iou = manifest.thresholds.nms_iou;
    let mut thresholds = Thresholds::uniform(manifest.classes.len(), MIN_SCORE, nms_iou);
    // what the set does not know must not take the places of what it does
    for (class, score) in thresholds.score.iter_mut().enumerate() {
        if classes.category(class).is_none() {
            *score = f32::INFINITY;
        }
    }
    thresholds.max_detections = MOST_DETECTIONS;
    let setup = DetectorOptions {
        engine: args.engine.options(),
        input: Some(InputSize::Exact(input)),
        thresholds: Some(thresholds),
        tiling: args.tiles.tiling(),
    };
    let mut detector = Detector::new(model, &setup)?;
    let predictions = detect(dataset, &classes, options, |frame| {
        detector.detect_one(frame).map(|found| found.detections)
    })
    .map_err(|e| match e {
        EvalError::Detect { .. } => Failure::new(RUN_FAILED, e),
        _ => Failure::new(NO_INPUT, e),
    })?;
    let info = DetectorInfo {
        model: manifest.name.clone(),
        sha256: manifest.sha256.clone(),
        engine: detector.describe(),
        input: input.to_string(),
        tiles: args.tiles.tiling().to_string(),
        min_score: MIN_SCORE,
        nms_iou,
    };
    Ok((predictions, info))
}

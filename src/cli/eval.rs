//! `vovcam eval`: average precision on a labelled set.

use super::{Failure, NO_INPUT, RUN_FAILED, USAGE, load_model, print_failure};
use crate::config::values::listed_name;
use crate::config::{EngineSettings, TileSettings};
use crate::detect::{Detector, DetectorOptions};
use crate::detection::Thresholds;
use crate::escape;
use crate::eval::dataset::Dataset;
use crate::eval::predictions::Predictions;
use crate::eval::{DetectorInfo, EvalError, EvalOptions, MIN_SCORE, detect, evaluate};
use crate::geometry::InputSize;
use crate::geometry::Size;
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
    let options = EvalOptions {
        min_boxes: args.min_boxes,
        ..EvalOptions::default()
    };
    let (predictions, detector) = match &args.detections {
        Some(path) => {
            let read = Predictions::read(path, &dataset);
            (read.map_err(|e| Failure::new(NO_INPUT, e))?, None)
        }
        None => run_model(&args, &mut dataset, &options)?,
    };
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

/// Detects on every image at a score near zero, as average precision wants it.
fn run_model(
    args: &EvalArgs,
    dataset: &mut Dataset,
    options: &EvalOptions,
) -> Result<(Predictions, Option<DetectorInfo>), Failure> {
    let model = load_model(args.engine.model.as_deref())?;
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
    let mut detector = Detector::new(&model, &setup)?;
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
    Ok((predictions, Some(info)))
}

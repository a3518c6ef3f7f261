//! `vovcam calibrate`: measures a model's int8 ranges and writes them into its manifest.

use super::{Failure, NO_INPUT, RUN_FAILED, USAGE};
use crate::capture::{self, CaptureOptions, Next, Source, SourceSpec};
use crate::clock::SystemClock;
use crate::detect::preprocess::Preprocessor;
use crate::eval::calibration::Calibration;
use crate::geometry::Size;
use crate::model::Model;
use crate::tensor::Batch;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct CalibrateArgs {
    /// The manifest that gets the ranges
    #[arg(long, value_name = "MODEL.json")]
    model: PathBuf,
    /// Images like those the model will see: a folder or a clip. Training images are right,
    /// evaluation images are not
    #[arg(long, value_name = "DIR|FILE")]
    source: OsString,
    /// Images to measure
    #[arg(long, alias = "pictures", value_name = "N", default_value_t = 200)]
    images: usize,
}

pub(super) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let mut model = Model::load(&args.model)?;
    let spec = SourceSpec::parse(&args.source).map_err(|e| Failure::new(USAGE, e))?;
    if matches!(spec, SourceSpec::Stdin | SourceSpec::Pipe(_)) {
        let reason = "--source: expected a folder of images or a clip, got raw frames";
        return Err(Failure::new(USAGE, reason));
    }
    let options = CaptureOptions {
        size: None,
        fps: None,
        format: None,
        timeout: Duration::from_secs(5),
        retry: false,
        clock: SystemClock::shared(),
        stop: crossbeam_channel::never(),
    };
    let mut source =
        capture::open(&spec, &options).map_err(|e| Failure::new(super::capture_code(&e), e))?;
    let mut calibration = Calibration::new(&model)?;
    measure(&mut calibration, &model, source.as_mut(), args.images)?;
    model.manifest.int8 = Some(calibration.finish());
    write_manifest(&args.model.with_extension("json"), &model)
}

fn measure(
    calibration: &mut Calibration,
    model: &Model,
    source: &mut dyn Source,
    images: usize,
) -> Result<(), Failure> {
    let side = model.manifest.input_size as u32;
    let mut preprocessor = Preprocessor::new(model.manifest.pad_value);
    let mut input = Batch::default();
    let mut measured = 0;
    while measured < images {
        let frame = match source.next() {
            Ok(Next::Frame(frame)) => frame,
            Ok(Next::Event(_)) => continue,
            Ok(Next::End) => break,
            Err(error) if error.is_damaged_frame() => {
                tracing::warn!("{error}");
                continue;
            }
            Err(error) => return Err(Failure::new(NO_INPUT, error)),
        };
        preprocessor
            .letterbox(&frame, Size::new(side, side), &mut input)
            .map_err(|e| Failure::new(RUN_FAILED, e))?;
        calibration.add(&input)?;
        measured += 1;
        if measured.is_multiple_of(50) {
            super::say(format_args!("{measured} of at most {images} images"));
        }
    }
    match measured {
        0 => Err(Failure::new(NO_INPUT, "the source has no image")),
        _ => Ok(()),
    }
}

/// Replaces the manifest, whole or not at all.
fn write_manifest(path: &Path, model: &Model) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        let place = path.display();
        Failure::new(
            RUN_FAILED,
            format!("cannot write the manifest '{place}': {e}"),
        )
    };
    let mut text =
        serde_json::to_string_pretty(&model.manifest).map_err(|e| Failure::new(RUN_FAILED, e))?;
    text.push('\n');
    let part = path.with_extension("json.part");
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part); // it may not even exist
    }
    written.map_err(failed)
}

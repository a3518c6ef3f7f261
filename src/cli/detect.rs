//! `vovcam detect`: single images.

use super::{Failure, NO_INPUT, RUN_FAILED, USAGE, load_detector, print_failure};
use crate::capture::decode::load_image;
use crate::clock::{Clock, SystemClock};
use crate::config::DetectorSettings;
use crate::detect::Detector;
use crate::detection::Labels;
use crate::escape::{self, Printable};
use crate::frame::{Frame, FrameMeta, PixelFormat};
use crate::message::{Report, RunInfo};
use crate::monitor::vitals::Vitals;
use crate::sink::SinkError;
use crate::sink::jsonl::JsonlWriter;
use crate::sink::picture::PictureMaker;
use crate::sink::save::Recorder;
use crate::sink::{FrameMessage, Message, Sink, SinkContext};
use crate::stats::Snapshot;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct DetectArgs {
    /// Images: JPEG, PNG, WebP or BMP
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// One JSON line an image on standard output
    #[arg(long)]
    json: bool,
    /// Save annotated images: a folder for JPEGs, or a file ending in .avi
    #[arg(long, value_name = "DIR|FILE.avi")]
    save: Option<PathBuf>,
    #[command(flatten)]
    detector: DetectorSettings,
}

pub(super) fn run(args: DetectArgs) -> Result<(), Failure> {
    super::keep_apart(
        args.save.as_deref(),
        args.images.iter().map(PathBuf::as_path),
    )?;
    let (model, mut detector) = load_detector(&args.detector, false)?;
    let labels = Labels::new(&model.manifest.classes);
    let clock = SystemClock::shared();
    let context = SinkContext {
        live: false,
        fps: None,
        clock: clock.clone(),
        camera: "detect".into(),
        interrupted: crossbeam_channel::never(), // a signal ends the program
        vitals: Vitals::default(),
    };
    let save = args
        .save
        .as_deref()
        .map(|path| Recorder::create(path, &context).map(Box::new))
        .transpose();
    let mut outputs = Outputs {
        json: args
            .json
            .then(|| JsonlWriter::to(Box::new(std::io::stdout()))),
        save: save.map_err(|e| match e {
            SinkError::NoClip { .. } => Failure::new(USAGE, e),
            _ => Failure::new(RUN_FAILED, e),
        })?,
        pictures: PictureMaker::new(labels.clone(), false),
        run: Arc::new(RunInfo::of_labels("detect", labels)),
        reader_left: false,
    };
    let mut bad = 0;
    for (number, path) in args.images.iter().enumerate() {
        match read(path, number as u64, clock.as_ref()) {
            Ok(frame) => {
                let report = detect(&mut detector, &frame, &outputs.run, clock.as_ref())?;
                outputs.write(path, frame, report)?;
                if !outputs.wanted() {
                    break;
                }
            }
            Err(error) => {
                bad += 1;
                super::say(format_args!("vovcam: {error}"));
            }
        }
    }
    outputs.finish().map_err(|e| Failure::new(RUN_FAILED, e))?;
    match bad {
        0 => Ok(()),
        _ => Err(Failure::new(
            NO_INPUT,
            format!("{bad} of {} images could not be read", args.images.len()),
        )),
    }
}

fn read(path: &Path, id: u64, clock: &dyn Clock) -> Result<Frame, Failure> {
    let (captured, wall, began) = (clock.now(), clock.wall(), Instant::now());
    let (size, rgb) = load_image(path).map_err(|e| Failure::new(NO_INPUT, e))?;
    let meta = FrameMeta {
        id,
        captured,
        wall,
        size,
        format: PixelFormat::Rgb8,
        decode: began.elapsed(),
        name: path.file_name().map(|name| escape::name(name).into()),
        position: None,
    };
    Ok(Frame {
        meta,
        pixels: Arc::new(rgb.into()),
    })
}

fn detect(
    detector: &mut Detector,
    frame: &Frame,
    run: &Arc<RunInfo>,
    clock: &dyn Clock,
) -> Result<Report, Failure> {
    let found = detector.detect_one(frame);
    let mut found = found.map_err(|e| Failure::new(RUN_FAILED, e))?;
    found.times.age = clock.now().since(frame.meta.captured);
    Ok(Report {
        run: Arc::clone(run),
        frame: frame.meta.clone(),
        detections: found.detections,
        times: found.times,
        dropped: 0,
        stats: Arc::new(Snapshot::default()),
        counts: None,
    })
}

struct Outputs {
    json: Option<JsonlWriter>,
    save: Option<Box<Recorder>>,
    pictures: Arc<PictureMaker>,
    run: Arc<RunInfo>,
    /// The reader of standard output has left.
    reader_left: bool,
}

impl Outputs {
    fn write(&mut self, path: &Path, frame: Frame, report: Report) -> Result<(), Failure> {
        match &mut self.json {
            Some(json) => json.frame(&report),
            None if self.reader_left => {}
            None => match print(path, &report) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.reader_left = true,
                printed => printed.map_err(print_failure)?,
            },
        }
        if let Some(save) = &mut self.save {
            let report = Arc::new(report);
            let picture = self.pictures.picture(Arc::clone(&report), frame.pixels);
            let message = Message::Frame(FrameMessage {
                report,
                picture: Some(Arc::new(picture)),
            });
            let written = save.accept(&message);
            written.map_err(|e| Failure::new(RUN_FAILED, e))?;
        }
        Ok(())
    }

    /// Whether anybody takes what is found: pictures are saved also after the reader of standard
    /// output has left.
    fn wanted(&self) -> bool {
        let left = match &self.json {
            Some(json) => json.reader_left(),
            None => self.reader_left,
        };
        self.save.is_some() || !left
    }

    fn finish(self) -> Result<(), SinkError> {
        self.save.map_or(Ok(()), Sink::finish)?;
        self.json.map_or(Ok(()), |json| json.finish(true))
    }
}

/// For people: one line an image, one a detection.
fn print(path: &Path, report: &Report) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let ms = 1e3 * report.times.total().as_secs_f64();
    writeln!(
        out,
        "{}: {}, {} objects, {ms:.0} ms",
        Printable(escape::name(path.as_os_str())),
        report.frame.size,
        report.detections.len()
    )?;
    for detection in &report.detections {
        let [x, y, width, height] = detection.bbox.xywh();
        let label = report.run.labels.name(detection.class_id);
        writeln!(
            out,
            "  {} {:.2} at {x:.0},{y:.0} size {width:.0}x{height:.0}",
            Printable(label),
            detection.score
        )?;
    }
    Ok(())
}

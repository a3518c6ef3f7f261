//! `vovcam run`: the main job.

use super::{
    Failure, NO_CAMERA, RUN_FAILED, RunArgs, capture_code, config_code, keep_apart, keep_clip,
    load_detector, say, signals, stages,
};
use crate::analyse::AnalyzerContext;
use crate::capture::{self, CaptureError, CaptureOptions, SourceSpec};
use crate::clock::SystemClock;
use crate::config::reload::Reloader;
use crate::config::values::{Fps, FrameSize};
use crate::config::{Resolved, Settings};
use crate::detect::{DetectPlan, Detector};
use crate::geometry::{Size, Tiles};
use crate::model::Model;
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::{Health, Notifier};
use crate::monitor::vitals::Vitals;
use crate::pipeline::control::{Control, Reload, Reloaded};
use crate::pipeline::{Pipeline, PipelineError, Stop, run_info, sampler};
use crate::sink::window::Window;
use crate::sink::{BoxedSink, SinkContext, SinkError};
use crate::stats::Totals;
use std::path::Path;
use std::time::Duration;

/// The camera that a run without a source tries.
const FIRST_CAMERA: &str = "/dev/video0";

pub(super) fn run(args: RunArgs) -> Result<(), Failure> {
    let in_file = args.config.is_some();
    let resolved = args.resolve(&stages::tables())?;
    let settings = &resolved.settings;
    let spec = source(settings, in_file)?;
    let save = settings.output.save.as_deref();
    match &spec {
        SourceSpec::Images(path) => keep_apart(save, std::iter::once(path.as_path()))?,
        SourceSpec::Clip(path) => {
            keep_clip("--save", save, path)?;
            keep_clip("--jsonl", settings.log.jsonl.as_deref(), path)?;
        }
        _ => {}
    }
    let (model, detector) = load_detector(&settings.detector, in_file)?;
    let stop = Stop::default();
    let handlers = signals::install(&stop, args.config.is_some())?;
    let reload = args.config.map(|path| {
        let manifest = model.manifest.clone();
        reload(Reloader::new(
            path,
            args.settings,
            resolved.clone(),
            manifest,
            &stages::tables(),
        ))
    });
    let mut pipeline = match build(&resolved, in_file, &spec, &model, detector, &stop) {
        // the wait for a source's first bytes ended with it
        Err(_) if stop.is_interrupted() => return Ok(()),
        built => built?,
    };
    handlers.run_begins();
    pipeline.control.reload = reload;
    pipeline.control.reload_requests = handlers.reloads;
    let totals = pipeline.run(&stop).map_err(failure)?;
    summarise(&totals);
    Ok(())
}

/// The settings file, read again on request.
fn reload(mut reloader: Reloader) -> Reload {
    Box::new(move || {
        let reloaded = reloader.reload()?;
        Ok(Reloaded {
            changes: reloaded.to_string(),
            plan: DetectPlan {
                thresholds: reloaded.thresholds,
                tiling: reloaded.tiling,
            },
        })
    })
}

/// The source that the settings name, or the first camera where there is one.
fn source(settings: &Settings, in_file: bool) -> Result<SourceSpec, Failure> {
    match (&settings.source.device, &settings.source.source) {
        (Some(device), _) => Ok(SourceSpec::camera(device.as_str())),
        (None, Some(source)) => {
            SourceSpec::parse(source).map_err(|e| Failure::new(config_code(in_file), e))
        }
        (None, None) if Path::new(FIRST_CAMERA).exists() => Ok(SourceSpec::camera(FIRST_CAMERA)),
        (None, None) => Err(Failure::new(
            NO_CAMERA,
            format!(
                "no source given and no camera at '{FIRST_CAMERA}': name a camera with '--device /dev/videoN', a clip \
                 or folder with '--source PATH', or try '--source pattern'; 'vovcam doctor' lists cameras"
            ),
        )),
    }
}

fn build(
    resolved: &Resolved,
    in_file: bool,
    spec: &SourceSpec,
    model: &Model,
    detector: Detector,
    stop: &Stop,
) -> Result<Pipeline, Failure> {
    let settings = &resolved.settings;
    let clock = SystemClock::shared();
    let options = CaptureOptions {
        size: settings.source.size.map(FrameSize::get),
        fps: settings.source.fps.map(Fps::get),
        format: settings.source.format,
        timeout: settings.source.camera_timeout(),
        retry: settings.source.retry(),
        clock: clock.clone(),
        stop: stop.signal().clone(),
    };
    let source = capture::open(spec, &options).map_err(|e| match e {
        CaptureError::Unusable(_) => Failure::new(config_code(in_file), e),
        _ => failure(e.into()),
    })?;
    let sampler = sampler(&detector, &clock);
    let name = match &settings.source.name {
        Some(name) => name.as_str().to_owned(),
        None => spec.name(),
    };
    let run = run_info(&name, source.describe(), model, &detector, &sampler);
    tracing::info!("source: {}", run.source);
    tracing::info!(
        "model: {} ({}); engine: {}",
        run.model.name,
        model.origin,
        detector.start_line()
    );
    if run.tiling.tiles != Tiles::Off {
        let inputs = run.tiling.inputs();
        tracing::info!("tiles: {}: {inputs} network inputs a frame", run.tiling);
    }
    let metrics = Metrics::new(clock.clone());
    let (health, news) = Health::new();
    let context = SinkContext {
        live: source.is_live(),
        fps: source.fps(),
        clock: clock.clone(),
        camera: run.camera.clone(),
        interrupted: stop.interrupted().clone(),
        vitals: Vitals::new(&clock, &metrics, &health),
    };
    let mut sinks = stages::open_outputs(settings, &resolved.table, &context)
        .map_err(|e| sink_failure(e, in_file))?;
    sinks.extend(window(settings).map(|window| Box::new(window) as BoxedSink));
    let analyzers = stages::make_analyzers(&AnalyzerContext {
        settings: &resolved.table,
        labels: &run.labels,
    })?;
    let notifier = Notifier::from_env(&clock, &metrics, &health);
    warn_of_short_watchdog(notifier.as_ref(), options.timeout);
    Ok(Pipeline {
        run,
        source,
        plan: detector.plan(),
        detector: Box::new(detector),
        analyzers,
        sinks,
        sampler,
        metrics,
        clock,
        health,
        control: Control {
            notifier,
            news,
            ..Control::default()
        },
        max_frames: settings.max_frames(),
        stats_interval: settings.log.stats_interval(),
    })
}

/// A camera that stalls must be known to be lost before the watchdog takes it for a hang.
fn warn_of_short_watchdog(notifier: Option<&Notifier>, camera_timeout: Duration) {
    let limit = notifier.and_then(Notifier::watchdog);
    if let Some(limit) = limit.filter(|&limit| limit <= camera_timeout) {
        tracing::warn!(
            "the service's WatchdogSec of {} s is not longer than the camera timeout of {} s: a stalled camera \
             will restart the service; raise WatchdogSec or lower --camera-timeout",
            limit.as_secs_f64(),
            camera_timeout.as_secs_f64()
        );
    }
}

/// A window unless headless; without a display the run goes on without one.
fn window(settings: &Settings) -> Option<Window> {
    if settings.output.headless() {
        return None;
    }
    let size = settings
        .source
        .size
        .map_or(Size::new(960, 720), FrameSize::get);
    Window::open(super::window::command, size)
        .map_err(|reason| tracing::info!("running headless: {reason}"))
        .ok()
}

fn sink_failure(error: SinkError, in_file: bool) -> Failure {
    let code = match error {
        SinkError::NoClip { .. } | SinkError::Setting { .. } => config_code(in_file),
        SinkError::Options { .. } => super::CONFIG,
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

fn failure(error: PipelineError) -> Failure {
    let code = match &error {
        PipelineError::Capture(error) => capture_code(error),
        _ => RUN_FAILED,
    };
    Failure::new(code, error)
}

/// The summary of a run, on stderr: standard output may be the log.
fn summarise(totals: &Totals) {
    let ms = |spent: Duration| 1e3 * totals.mean(spent).as_secs_f64();
    let spent = &totals.spent;
    say(format_args!(
        "{} frames in {:.1} s, {}, {} objects",
        totals.frames,
        totals.elapsed.as_secs_f64(),
        totals
            .fps()
            .map_or_else(|| "no speed".to_owned(), |fps| format!("{fps:.1} frames/s")),
        totals.detections
    ));
    say(format_args!(
        "mean ms a frame: decode {:.1}, preprocess {:.1}, network {:.1}, postprocess {:.1}",
        ms(spent.decode),
        ms(spent.preprocess),
        ms(spent.inference),
        ms(spent.postprocess)
    ));
    let drops = totals.drops;
    if drops != crate::stats::Drops::default() {
        say(format_args!(
            "lost: {} frames in the driver, {} replaced by newer ones, {} damaged; {} log lines, {} in other outputs",
            drops.driver, drops.replaced, drops.damaged, drops.log, drops.outputs
        ));
    }
    match (totals.energy, &totals.last.energy) {
        (Some(joules), Some(energy)) if totals.frames > 0 => say(format_args!(
            "energy: {joules} in all, {:.3} J a frame, {} in the last {:.0} s ({} by {})",
            joules.0 / totals.frames as f64,
            energy.average,
            energy.window.as_secs_f64(),
            energy.scope,
            energy.source
        )),
        (Some(_), _) => say("energy: the run was too short to tell"),
        (None, _) => say("energy: no power meter"),
    }
}

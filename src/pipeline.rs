//! The wiring: every thread is spawned here, and joined here in flow order.
//!
//! ```text
//!  vc-capture ──Frame──▶ vc-detect ──Report──▶ vc-log     JSONL
//!                                  ├─Report──▶ vc-save    annotated frames
//!                                  └─Report──▶ the caller's thread, where the window lives
//!  vc-power ──▶ Metrics ◀── everyone
//!  vc-control: SIGHUP ──Thresholds──▶ vc-detect;  Metrics ──▶ service manager
//! ```
//!
//! Live sources keep the newest frame and count what it replaced; clips and folders lose
//! nothing, so every hand-off waits. Stop travels with the data: capture sees it and returns,
//! its hand-off closes, the detector drains it and returns, the sinks flush and return.

pub mod control;
pub mod latest;

use crate::capture::{CaptureError, Next, Source};
use crate::clock::Clock;
use crate::detect::{DetectError, Detector};
use crate::detection::Labels;
use crate::detection::Thresholds;
use crate::event::Event;
use crate::frame::Frame;
use crate::message::Report;
use crate::monitor::metrics::Metrics;
use crate::monitor::notify::Health;
use crate::monitor::power::Sampler;
use crate::sink::SinkError;
use crate::sink::jsonl::JsonlWriter;
use crate::sink::render::Overlay;
use crate::sink::save::Saver;
use crate::sink::window::Window;
use crate::stats::{Snapshot, Totals};
use control::Control;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use latest::{Giver, Policy, Taker, handoff};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Log lines that may wait for the disk: 8 s of them at 30 frames per second.
const LOG_QUEUE: usize = 256;
/// How long an event waits for room among them.
const EVENT_PATIENCE: Duration = Duration::from_secs(5);
/// How often the log may see to its file while no lines come.
const LOG_UPKEEP: Duration = Duration::from_secs(1);
/// Annotated frames that may wait for the JPEG encoder.
const SAVE_QUEUE: usize = 4;
/// How often the figures shown and logged are worked out anew.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(250);
/// How long the window waits for a frame before it looks at its own events again.
const WINDOW_POLL: Duration = Duration::from_millis(30);

/// Everything a run needs, ready to start.
pub struct Pipeline {
    /// Where frames come from.
    pub source: Box<dyn Source>,
    /// What searches them.
    pub detector: Detector,
    /// Class names.
    pub labels: Labels,
    /// The JSONL log.
    pub log: Option<JsonlWriter>,
    /// Annotated frames.
    pub save: Option<Saver>,
    /// The live window.
    pub window: Option<Window>,
    /// Power and heat.
    pub sampler: Sampler,
    /// Shared figures.
    pub metrics: Arc<Metrics>,
    /// Shared time.
    pub clock: Arc<dyn Clock>,
    /// What the source and the detector say about themselves to `control`.
    pub health: Health,
    /// Requests from outside, and who is told.
    pub control: Control,
    /// End after this many frames.
    pub max_frames: Option<u64>,
    /// Time between `stats` lines in the log.
    pub stats_every: Duration,
}

/// Why a run ended badly.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The source gave up.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The detector failed.
    #[error("detection failed at frame {frame}")]
    Detect {
        /// Frame id.
        frame: u64,
        /// What failed.
        source: DetectError,
    },
    /// A sink gave up.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A thread could not be started.
    #[error("cannot start the thread '{stage}'")]
    Spawn {
        /// Thread name.
        stage: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A defect in this program.
    #[error("stage '{stage}' panicked: please report this with the lines above")]
    Panicked {
        /// Thread name.
        stage: &'static str,
    },
}

/// The way to stop a run from anywhere; stopping twice is the same as once.
#[derive(Clone, Debug)]
pub struct Stop {
    trigger: Arc<Mutex<Option<Sender<()>>>>,
    stopped: Receiver<()>,
}

impl Default for Stop {
    fn default() -> Stop {
        let (trigger, stopped) = bounded(0);
        Stop {
            trigger: Arc::new(Mutex::new(Some(trigger))),
            stopped,
        }
    }
}

impl Stop {
    /// Asks the run to end; `false` when it was asked before.
    pub fn stop(&self) -> bool {
        self.trigger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }

    /// Whether the run was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)
    }

    /// A channel that never carries a value and disconnects at the stop, to wait on.
    pub fn signal(&self) -> &Receiver<()> {
        &self.stopped
    }
}

/// What goes to the log's thread.
enum LogItem {
    /// Without pixels: a disk that is slow must not cost memory by the picture.
    Frame(Report),
    Event(Event),
}

impl Pipeline {
    /// Runs until the source ends, `max_frames` are done, the window is closed or `stop` is asked
    /// for. Everything already handed to a sink is written before this returns.
    ///
    /// # Errors
    /// The first failure in flow order; sinks are flushed all the same.
    pub fn run(self, stop: &Stop) -> Result<Totals, PipelineError> {
        let live = self.source.is_live();
        let metrics = self.metrics;
        let (frames, frames_in) = handoff(if live {
            Policy::Newest
        } else {
            Policy::Lossless(2)
        });
        let log = self.log.map(|log| {
            spawn_log(
                log,
                self.labels.clone(),
                Arc::clone(&metrics),
                stop.clone(),
                self.stats_every,
                !live,
            )
        });
        let save = self
            .save
            .map(|saver| spawn_save(saver, Overlay::new(self.labels.clone())));
        let (log, log_thread) = transpose(log)?;
        let (save, save_thread) = transpose(save)?;
        let (to_window, window_in) = handoff(Policy::Newest);
        let outlets = Outlets {
            log,
            save,
            window: self.window.is_some().then_some(to_window),
            lossless: !live,
            metrics: Arc::clone(&metrics),
        };
        let power_stop = Stop::default();
        let power_thread = spawn_power(self.sampler, &power_stop, &metrics)?;
        let (new_thresholds, thresholds) = handoff(Policy::Newest);
        let control_thread = spawn_control(self.control, stop, new_thresholds, &outlets)?;
        let capture_thread = Capture {
            source: self.source,
            frames,
            events: outlets.log.clone(),
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
        }
        .spawn()?;
        let detect_thread = Detect {
            detector: self.detector,
            frames: frames_in,
            thresholds,
            outlets,
            metrics: Arc::clone(&metrics),
            clock: self.clock,
            health: self.health,
            left: self.max_frames,
            stop: stop.clone(),
        }
        .spawn()?;
        if let Some(window) = self.window {
            show(window, Overlay::new(self.labels), &window_in, stop);
        }
        drop(window_in);

        let mut outcome = Ok(());
        let mut join = |stage, thread: JoinHandle<Result<(), PipelineError>>| {
            let ended = thread
                .join()
                .unwrap_or(Err(PipelineError::Panicked { stage }));
            tracing::debug!("{stage} ended");
            if outcome.is_ok() {
                outcome = ended;
            }
        };
        join("vc-capture", capture_thread);
        join("vc-detect", detect_thread);
        stop.stop(); // a detector that panicked did not
        control_thread
            .into_iter()
            .for_each(|thread| join("vc-control", thread));
        log_thread
            .into_iter()
            .for_each(|thread| join("vc-log", thread));
        save_thread
            .into_iter()
            .for_each(|thread| join("vc-save", thread));
        power_stop.stop();
        join("vc-power", power_thread);
        outcome.map(|()| metrics.totals())
    }
}

/// Takes frames from the source and hands them on.
struct Capture {
    source: Box<dyn Source>,
    frames: Giver<Frame>,
    events: Option<Sender<LogItem>>,
    metrics: Arc<Metrics>,
    stop: Stop,
}

impl Capture {
    fn spawn(mut self) -> Result<JoinHandle<Result<(), PipelineError>>, PipelineError> {
        spawn("vc-capture", move || self.run())
    }

    fn run(&mut self) -> Result<(), PipelineError> {
        let mut expected_id = None;
        while !self.stop.is_stopped() {
            let frame = match self.source.next() {
                Ok(Next::Frame(frame)) => frame,
                Ok(Next::Event(event)) => {
                    self.event(event.into());
                    continue;
                }
                Ok(Next::End) => break,
                Err(error) if error.is_damaged_frame() => {
                    tracing::warn!("skipped a frame: {}", chain(&error));
                    self.metrics.add_damaged(1);
                    // it had a number, and is not to be counted as dropped as well
                    expected_id = expected_id.map(|id| id + 1);
                    self.event(Event::damaged_frame(&chain(&error)));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let gap = expected_id.map_or(0, |id| frame.id.saturating_sub(id));
            self.metrics.add_driver_drops(gap);
            expected_id = Some(frame.id + 1);
            match self.frames.give(frame) {
                Ok(replaced) => self.metrics.add_replaced(u64::from(replaced.is_some())),
                Err(latest::Closed) => break,
            }
        }
        Ok(())
    }

    fn event(&self, event: Event) {
        if let Some(log) = &self.events {
            log_event(log, event, &self.metrics);
        }
    }
}

/// Searches frames and hands reports on.
struct Detect {
    detector: Detector,
    frames: Taker<Frame>,
    thresholds: Taker<Thresholds>,
    outlets: Outlets,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    health: Health,
    left: Option<u64>,
    stop: Stop,
}

impl Detect {
    fn spawn(mut self) -> Result<JoinHandle<Result<(), PipelineError>>, PipelineError> {
        spawn("vc-detect", move || {
            let result = self.run();
            // capture may be waiting for a camera that sends nothing
            self.stop.stop();
            result
        })
    }

    fn run(&mut self) -> Result<(), PipelineError> {
        let mut stats = Arc::new(Snapshot::default());
        let mut stats_at = None;
        let mut dropped_before = 0;
        while self.left != Some(0) {
            let Ok(frame) = self.frames.take() else { break };
            if let Ok(Some(thresholds)) = self.thresholds.try_take() {
                self.detector.set_thresholds(thresholds);
            }
            let mut detections = Vec::new();
            let mut times = self
                .detector
                .detect(&frame, &mut detections)
                .map_err(|source| PipelineError::Detect {
                    frame: frame.id,
                    source,
                })?;
            let now = self.clock.now();
            times.age = now.since(frame.captured);
            self.metrics.record(now, &times, detections.len());
            if stats_at.is_none_or(|at| now.since(at) >= SNAPSHOT_EVERY) {
                stats = Arc::new(self.metrics.snapshot());
                if stats_at.replace(now).is_none() {
                    self.health.announce(); // the first detection
                }
            }
            let dropped = self.metrics.dropped_frames();
            self.outlets.give(Report {
                frame: Arc::new(frame),
                detections,
                times,
                dropped: dropped - dropped_before,
                stats: Arc::clone(&stats),
            });
            dropped_before = dropped;
            self.left = self.left.map(|left| left - 1);
        }
        Ok(())
    }
}

/// The hand-offs behind the detector.
struct Outlets {
    log: Option<Sender<LogItem>>,
    save: Option<Sender<Arc<Report>>>,
    window: Option<Giver<Arc<Report>>>,
    lossless: bool,
    metrics: Arc<Metrics>,
}

impl Outlets {
    /// A sink that has ended has reported its own failure; the others go on.
    fn give(&mut self, report: Report) {
        if let Some(log) = &self.log
            && !offer(log, LogItem::Frame(report.without_pixels()), self.lossless)
        {
            self.metrics.add_log_losses(1);
        }
        let report = Arc::new(report);
        if let Some(save) = &self.save {
            // a live picture that the encoder has no time for is not worth a late detection
            offer(save, Arc::clone(&report), self.lossless);
        }
        if let Some(window) = &self.window {
            let _ = window.give(report);
        }
    }
}

/// Events are few and worth a wait, but a disk that hangs must not hold up the camera.
fn log_event(log: &Sender<LogItem>, event: Event, metrics: &Metrics) {
    // a closed log has reported its own failure
    if let Err(SendTimeoutError::Timeout(_)) =
        log.send_timeout(LogItem::Event(event), EVENT_PATIENCE)
    {
        metrics.add_log_losses(1);
    }
}

/// Hands an item over, waiting only when nothing may be lost; `false` when it was lost.
fn offer<T>(to: &Sender<T>, item: T, lossless: bool) -> bool {
    if lossless {
        return to.send(item).is_ok();
    }
    !matches!(
        to.try_send(item),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
    )
}

type StageThread = JoinHandle<Result<(), PipelineError>>;

fn spawn_log(
    mut log: JsonlWriter,
    labels: Labels,
    metrics: Arc<Metrics>,
    stop: Stop,
    stats_every: Duration,
    complete: bool,
) -> Result<(Sender<LogItem>, StageThread), PipelineError> {
    let (sender, items) = bounded(LOG_QUEUE);
    let thread = spawn("vc-log", move || {
        let stats = crossbeam_channel::tick(stats_every);
        let upkeep = crossbeam_channel::tick(LOG_UPKEEP);
        let mut lost = 0;
        loop {
            crossbeam_channel::select! {
                recv(items) -> item => match item {
                    Ok(LogItem::Frame(report)) => log.frame(&report, &labels),
                    Ok(LogItem::Event(event)) => log.event(&event),
                    Err(_) => break,
                },
                recv(stats) -> _ => log.stats(&metrics.snapshot()),
                recv(upkeep) -> _ => log.tick(),
            }
            metrics.add_log_losses(log.lost() - lost);
            lost = log.lost();
            if log.reader_left() && stop.stop() {
                tracing::info!("the log's reader has closed it: stopping");
            }
        }
        log.stats(&metrics.snapshot());
        metrics.add_log_losses(log.lost() - lost);
        Ok(log.finish(complete)?)
    })?;
    Ok((sender, thread))
}

/// `None` when nobody asks for anything.
fn spawn_control(
    control: Control,
    stop: &Stop,
    thresholds: Giver<Thresholds>,
    outlets: &Outlets,
) -> Result<Option<StageThread>, PipelineError> {
    if !control.is_needed() {
        return Ok(None);
    }
    let (stop, log) = (stop.clone(), outlets.log.clone());
    let metrics = Arc::clone(&outlets.metrics);
    let run = move || {
        control.run(&stop, &thresholds, |event| {
            if let Some(log) = &log {
                log_event(log, event, &metrics);
            }
        });
        Ok(())
    };
    spawn("vc-control", run).map(Some)
}

fn spawn_save(
    mut saver: Saver,
    mut overlay: Overlay,
) -> Result<(Sender<Arc<Report>>, StageThread), PipelineError> {
    let (sender, reports) = bounded::<Arc<Report>>(SAVE_QUEUE);
    let thread = spawn("vc-save", move || {
        let (mut picture, mut failed, mut failing) = (Vec::new(), None, false);
        for report in reports {
            annotate(&mut overlay, &report, &mut picture);
            let written = saver.write(&report.frame, &picture);
            match &written {
                Ok(()) if failing => tracing::info!("annotated frames are written again"),
                // a live run may go on for weeks before it returns this
                Err(error) if !failing => tracing::error!("{}", chain(error)),
                _ => {}
            }
            failing = written.is_err();
            // a picture more or less in a folder; a clip cannot go on after half a frame
            let over = matches!(written, Err(SinkError::Clip(_)));
            failed = failed.or(written.err());
            if over {
                break;
            }
        }
        let finished = saver.finish();
        failed.map_or(finished, Err)?;
        Ok(())
    })?;
    Ok((sender, thread))
}

fn spawn_power(
    mut sampler: Sampler,
    stop: &Stop,
    metrics: &Arc<Metrics>,
) -> Result<StageThread, PipelineError> {
    let (stop, metrics) = (stop.clone(), Arc::clone(metrics));
    spawn("vc-power", move || {
        sampler.run(stop.signal(), &metrics);
        Ok(())
    })
}

/// The window's loop: the newest report, until it is closed or the detector ends.
fn show(mut window: Window, mut overlay: Overlay, reports: &Taker<Arc<Report>>, stop: &Stop) {
    let mut picture = Vec::new();
    loop {
        let open = match reports.take_within(WINDOW_POLL) {
            Ok(Some(report)) => {
                annotate(&mut overlay, &report, &mut picture);
                window.show(&picture, report.frame.size)
            }
            Ok(None) => window.poll(),
            Err(latest::Closed) => return,
        };
        if !open {
            tracing::info!("window closed: stopping");
            stop.stop();
            return;
        }
    }
}

/// A copy of the frame with boxes and figures drawn in; the frame itself may have other readers.
fn annotate(overlay: &mut Overlay, report: &Report, picture: &mut Vec<u8>) {
    picture.clear();
    picture.extend_from_slice(&report.frame.data);
    overlay.draw(
        picture,
        report.frame.size,
        &report.detections,
        &report.stats,
    );
}

fn spawn(
    name: &'static str,
    body: impl FnOnce() -> Result<(), PipelineError> + Send + 'static,
) -> Result<StageThread, PipelineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| PipelineError::Spawn {
            stage: name,
            source,
        })
}

/// Splits an optional stage into its sender and its thread.
fn transpose<T>(
    stage: Option<Result<(T, StageThread), PipelineError>>,
) -> Result<(Option<T>, Option<StageThread>), PipelineError> {
    Ok(stage.transpose()?.unzip())
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

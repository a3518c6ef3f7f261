//! Whole runs in-process: scripted sources, a detector that waits for permits, sinks that are
//! slow, stuck or panic, on a simulated clock. No test sleeps: a wait is for an
//! event, or yields until one was seen. Long because all tests drive the same simulated parts.

mod hangs;

use super::*;
use crate::capture::{CaptureError, Next, SourceEvent};
use crate::clock::{MonoTime, SimClock};
use crate::detect::Found;
use crate::detection::{Labels, Thresholds};
use crate::event::{Event, EventKind};
use crate::frame::Frame;
use crate::geometry::{Size, Tiling};
use crate::message::Report;
use crate::monitor::power::{PowerError, PowerMeter, Reading};
use crate::sink::picture::PictureMaker;
use crate::sink::testing::message_of;
use crate::sink::{Flow, Message, OTHER_MESSAGES, PictureDemand, Queue, Sink};
use crate::stats::{Counts, MeterInfo};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn frame(id: u64) -> Frame {
    Frame::from_rgb(id, Size::new(8, 8), vec![0; 3 * 64])
}

/// The next action of a scripted source. It ends when the script does, or at the stop.
enum Step {
    Frame(u64),
    Lost,
    Found,
    Fail,
    Panic,
}

struct Script {
    steps: Receiver<Step>,
    /// One value for every call after a frame: the frame was handed over.
    handed_over: Sender<()>,
    stop: Receiver<()>,
    live: bool,
    gave_frame: bool,
}

impl Source for Script {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if std::mem::take(&mut self.gave_frame) {
            let _ = self.handed_over.send(());
        }
        let step = select! {
            recv(self.steps) -> step => step,
            recv(self.stop) -> _ => return Ok(Next::End),
        };
        Ok(match step {
            Ok(Step::Frame(id)) => {
                self.gave_frame = true;
                Next::Frame(frame(id))
            }
            Ok(Step::Lost) => Next::Event(SourceEvent::Lost {
                reason: "unplugged".to_owned(),
                retry_by: MonoTime::default(),
            }),
            Ok(Step::Found) => Next::Event(SourceEvent::Found),
            Ok(Step::Fail) => {
                return Err(CaptureError::Camera {
                    device: "test".to_owned(),
                    reason: "gone".to_owned(),
                });
            }
            Ok(Step::Panic) => panic!("injected"),
            Err(_) => Next::End,
        })
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn describe(&self) -> String {
        "script".to_owned()
    }
}

/// A detector that finds nothing. It announces each frame, then waits for a permit.
struct Gate {
    started: Sender<u64>,
    permits: Receiver<()>,
    panics_at: Option<u64>,
}

impl Detect for Gate {
    fn detect(
        &mut self,
        frames: &[Frame],
        _: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError> {
        for (frame, found) in frames.iter().zip(found) {
            let _ = self.started.send(frame.meta.id);
            let _ = self.permits.recv(); // all further frames pass once the sender is gone
            assert_ne!(Some(frame.meta.id), self.panics_at, "injected");
            *found = Found::default();
        }
        Ok(())
    }
}

/// How a test sink behaves when a frame comes.
#[derive(Clone)]
enum Behaviour {
    Collect,
    /// Announces the frame, then waits until the channel disconnects.
    Stuck(Sender<u64>, Receiver<()>),
    Panic,
    Fail,
}

struct TestSink {
    name: &'static str,
    queue: Queue,
    behaviour: Behaviour,
    seen: Seen,
}

/// The messages that a sink received, as text.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn frames(&self) -> Vec<u64> {
        let all = self.all();
        all.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

impl Sink for TestSink {
    fn name(&self) -> &'static str {
        self.name
    }

    fn queue(&self) -> Queue {
        self.queue
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        let text = match message {
            Message::Run(_) => "run".to_owned(),
            Message::Frame(frame) => frame.report.frame.id.to_string(),
            Message::Stats { .. } => "stats".to_owned(),
            Message::Event { event, .. } => event.kind.name().to_owned(),
        };
        if let Message::Frame(frame) = message {
            match &self.behaviour {
                Behaviour::Collect => {}
                Behaviour::Stuck(entered, release) => {
                    let _ = entered.send(frame.report.frame.id);
                    let _ = release.recv();
                }
                Behaviour::Panic => panic!("injected"),
                Behaviour::Fail => return Err(SinkError::Other("refused".to_owned())),
            }
        }
        self.seen.0.lock().unwrap().push(text);
        Ok(Flow::Continue)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.seen.0.lock().unwrap().push("finished".to_owned());
        Ok(())
    }
}

/// A run with all its remote controls.
struct Rig {
    steps: Sender<Step>,
    handed_over: Receiver<()>,
    started: Receiver<u64>,
    permits: Option<Sender<()>>,
    clock: Arc<SimClock>,
    metrics: Arc<Metrics>,
    stop: Stop,
    pipeline: Pipeline,
}

impl Rig {
    fn new(live: bool) -> Rig {
        let (steps, script) = unbounded();
        let (handed, handed_over) = unbounded();
        let (started, detector_started) = unbounded();
        let (permits, permitted) = unbounded();
        let stop = Stop::default();
        let clock = Arc::new(SimClock::default());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let metrics = Metrics::new(Arc::clone(&shared));
        let pipeline = Pipeline {
            run: RunInfo::of_labels("test", Labels::new(&[])),
            source: Box::new(Script {
                steps: script,
                handed_over: handed,
                stop: stop.signal().clone(),
                live,
                gave_frame: false,
            }),
            detector: Box::new(Gate {
                started,
                permits: permitted,
                panics_at: None,
            }),
            plan: DetectPlan {
                thresholds: Thresholds::uniform(1, 0.5, 0.5),
                tiling: Tiling::default(),
            },
            analyzers: Vec::new(),
            sinks: Vec::new(),
            sampler: Sampler::new(None, Path::new("/nonexistent"), Arc::clone(&shared)),
            metrics: Arc::clone(&metrics),
            clock: shared,
            health: Health::default(),
            control: Control::default(),
            max_frames: None,
            stats_interval: Duration::from_secs(10),
        };
        Rig {
            steps,
            handed_over,
            started: detector_started,
            permits: Some(permits),
            clock,
            metrics,
            stop,
            pipeline,
        }
    }

    fn sink(&mut self, name: &'static str, queue: Queue, behaviour: Behaviour) -> Seen {
        let seen = Seen::default();
        self.pipeline.sinks.push(Box::new(TestSink {
            name,
            queue,
            behaviour,
            seen: seen.clone(),
        }));
        seen
    }

    fn collector(&mut self) -> Seen {
        self.sink("collector", Queue::Lossless(4), Behaviour::Collect)
    }

    /// Runs while `script` drives it from another thread; then the source ends and every permit
    /// is given.
    fn drive(self, script: impl FnOnce(&mut Driver) + Send) -> Result<Totals, PipelineError> {
        let mut driver = Driver {
            steps: self.steps,
            handed_over: self.handed_over,
            started: self.started,
            permits: self.permits,
            clock: self.clock,
            stop: self.stop.clone(),
            ended: Arc::default(),
        };
        let (pipeline, stop, ended) = (self.pipeline, self.stop, Arc::clone(&driver.ended));
        std::thread::scope(|scope| {
            let script = scope.spawn(move || script(&mut driver));
            let result = pipeline.run(&stop);
            ended.store(true, Relaxed);
            script.join().unwrap();
            result
        })
    }
}

struct Driver {
    steps: Sender<Step>,
    handed_over: Receiver<()>,
    started: Receiver<u64>,
    permits: Option<Sender<()>>,
    clock: Arc<SimClock>,
    stop: Stop,
    /// Whether the run has ended.
    ended: Arc<AtomicBool>,
}

impl Driver {
    /// Gives a frame to the run and waits until the capture stage has handed it over.
    fn frame(&self, id: u64) {
        self.steps.send(Step::Frame(id)).unwrap();
        self.handed_over.recv().unwrap();
    }

    /// The detector's next frame, once it has begun.
    fn detecting(&self) -> u64 {
        self.started.recv().unwrap()
    }

    fn permit_all(&mut self) {
        self.permits = None;
    }
}

#[test]
fn from_a_live_source_the_newest_frame_wins_and_losses_add_up() {
    let mut rig = Rig::new(true);
    let (seen, metrics) = (rig.collector(), Arc::clone(&rig.metrics));
    let totals = rig
        .drive(|run| {
            run.frame(0);
            assert_eq!(run.detecting(), 0);
            (1..=4).for_each(|id| run.frame(id));
        })
        .unwrap();
    assert_eq!(seen.frames(), [0, 4]);
    assert_eq!((totals.frames, totals.drops.replaced), (2, 3));
    assert_eq!(metrics.dropped_frames(), 3);
}

#[test]
fn from_a_clip_every_frame_is_reported_in_order_however_slow_a_sink_is() {
    let mut rig = Rig::new(false);
    let (entered, entries) = unbounded();
    let (release, released) = bounded::<()>(0);
    let slow = Behaviour::Stuck(entered, released);
    let slow = rig.sink("slow", Queue::Lossless(1), slow);
    let fast = rig.collector();
    let totals = rig
        .drive(|run| {
            run.permit_all();
            for id in 0..50 {
                run.steps.send(Step::Frame(id)).unwrap();
            }
            assert_eq!(entries.recv(), Ok(0));
            drop(release);
        })
        .unwrap();
    let all: Vec<u64> = (0..50).collect();
    assert_eq!((slow.frames(), fast.frames()), (all.clone(), all));
    assert_eq!(totals.drops, crate::stats::Drops::default());
}

#[test]
fn a_stuck_sink_delays_neither_detection_nor_the_other_sinks_and_its_losses_are_counted() {
    let mut rig = Rig::new(true);
    let (entered, entries) = unbounded();
    let (release, released) = bounded::<()>(0);
    let stuck = Behaviour::Stuck(entered, released);
    let stuck = rig.sink("stuck", Queue::Bounded(2), stuck);
    let others = rig.collector();
    let totals = rig
        .drive(|run| {
            run.permit_all();
            for id in 0..10 {
                run.frame(id);
                assert_eq!(run.detecting(), id, "detection goes on");
                if id == 0 {
                    assert_eq!(entries.recv(), Ok(0), "stuck from here on");
                }
            }
            run.steps.send(Step::Lost).unwrap();
            while others.all().last().is_none_or(|last| last != "camera_lost") {
                std::thread::yield_now();
            }
            drop(release);
        })
        .unwrap();
    assert_eq!(others.frames(), (0..10).collect::<Vec<u64>>());
    assert_eq!(stuck.frames(), [0, 1, 2]);
    assert_eq!(totals.drops.outputs, 7);
    assert!(
        stuck.all().contains(&"camera_lost".to_owned()),
        "events have room of their own"
    );
}

#[test]
fn every_sink_receives_the_run_first_then_events_figures_and_its_completion() {
    let mut rig = Rig::new(true);
    let sinks = [
        rig.sink("newest", Queue::Newest, Behaviour::Collect),
        rig.sink("bounded", Queue::Bounded(8), Behaviour::Collect),
        rig.sink("lossless", Queue::Lossless(8), Behaviour::Collect),
    ];
    rig.drive(|run| {
        run.permit_all();
        run.steps.send(Step::Lost).unwrap();
        run.steps.send(Step::Found).unwrap();
        run.frame(0);
        assert_eq!(run.detecting(), 0);
    })
    .unwrap();
    for seen in sinks {
        let expected = [
            "run",
            "camera_lost",
            "camera_found",
            "0",
            "stats",
            "finished",
        ];
        assert_eq!(seen.all(), expected);
    }
}

#[test]
fn figures_come_at_their_interval_of_the_clock() {
    let mut rig = Rig::new(true);
    let seen = rig.collector();
    rig.drive(|run| {
        let count = |seen: &Seen| seen.all().iter().filter(|text| *text == "stats").count();
        // the control stage may not have asked for its ticks yet: move the clock until it has
        for expected in 1..=3 {
            while count(&seen) < expected {
                run.clock.advance(Duration::from_secs(10));
                std::thread::yield_now();
            }
        }
    })
    .unwrap();
}

#[test]
fn a_stop_drains_what_was_handed_over() {
    let mut rig = Rig::new(false);
    let seen = rig.collector();
    let totals = rig
        .drive(|run| {
            run.frame(0);
            assert_eq!(run.detecting(), 0);
            run.frame(1);
            run.frame(2);
            assert!(run.stop.stop());
            run.permit_all();
        })
        .unwrap();
    assert_eq!(seen.frames(), [0, 1, 2]);
    assert_eq!(totals.frames, 3);
    assert_eq!(seen.all().last().unwrap(), "finished");
}

#[test]
fn a_limit_of_frames_ends_a_run_whose_camera_sends_nothing_more() {
    let mut rig = Rig::new(true);
    rig.pipeline.max_frames = Some(1);
    let seen = rig.collector();
    rig.drive(|run| {
        run.permit_all();
        run.frame(0);
        run.stop.signal().recv().unwrap_err(); // the run stops by itself
    })
    .unwrap();
    assert_eq!(seen.frames(), [0]);
}

#[test]
fn a_picture_is_drawn_and_encoded_once_for_all_sinks() {
    let pictures = PictureMaker::new(Labels::new(&[]), true);
    let message = message_of(frame(0), &pictures);
    let picture = message.picture.unwrap();
    assert_eq!(pictures.counts(), (0, 0), "nobody asked for it yet");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (picture.annotated().len(), picture.jpeg().unwrap().len()));
        }
    });
    assert_eq!(pictures.counts(), (1, 1));
    assert_eq!(picture.rgb(), [0; 192], "the frame itself is untouched");
}

struct CountFrames(u64);

impl Analyzer for CountFrames {
    fn name(&self) -> &'static str {
        "count"
    }

    fn step(&mut self, report: &mut Report, emit: &mut dyn FnMut(Event)) {
        self.0 += 1;
        report.dropped = 40 + self.0;
        if report.frame.id == 1 {
            let count = Event::new(EventKind::Custom("count")).field("frames", self.0);
            emit(count);
        }
    }
}

#[test]
fn analyzers_change_reports_and_their_events_reach_the_sinks_before_the_report() {
    let mut rig = Rig::new(false);
    rig.pipeline.analyzers.push(Box::new(CountFrames(0)));
    let seen = rig.collector();
    rig.drive(|run| {
        run.permit_all();
        (0..2).for_each(|id| run.frame(id));
    })
    .unwrap();
    assert_eq!(seen.all()[..4], ["run", "0", "count", "1"]);
}

/// The stages that can be made to panic or fail, and the stage that the error must name.
#[derive(Clone, Copy, Debug)]
enum Fault {
    CapturePanics,
    CaptureFails,
    DetectorPanics,
    AnalyzerPanics,
    SinkPanics,
    SinkFails,
    ControlPanics,
}

struct PanicAnalyzer;

impl Analyzer for PanicAnalyzer {
    fn name(&self) -> &'static str {
        "panic"
    }

    fn step(&mut self, report: &mut Report, _: &mut dyn FnMut(Event)) {
        assert_ne!(report.frame.id, 1, "injected");
    }
}

/// Injects a fault while the camera sends or after it was lost; the run must end with an error.
fn ends_with(fault: Fault, lost: bool) -> (PipelineError, Seen) {
    let mut rig = Rig::new(true);
    let seen = rig.collector();
    let (requests, reload_requests) = bounded(1);
    match fault {
        Fault::DetectorPanics => {
            let (started, detector_started) = unbounded();
            rig.started = detector_started;
            rig.pipeline.detector = Box::new(Gate {
                started,
                permits: never_waits(),
                panics_at: Some(1),
            });
        }
        Fault::AnalyzerPanics => rig.pipeline.analyzers.push(Box::new(PanicAnalyzer)),
        Fault::SinkPanics => {
            rig.sink("faulty", Queue::Bounded(4), Behaviour::Panic);
        }
        Fault::SinkFails => {
            rig.sink("faulty", Queue::Bounded(4), Behaviour::Fail);
        }
        Fault::ControlPanics => {
            rig.pipeline.control.reload = Some(Box::new(|| panic!("injected")));
            rig.pipeline.control.reload_requests = reload_requests;
        }
        Fault::CapturePanics | Fault::CaptureFails => {}
    }
    let error = rig
        .drive(|run| {
            run.permit_all();
            // A sink can end the run at its first frame, before the source is asked again: do not
            // wait for the hand-over, and do not care whether later steps are taken.
            run.steps.send(Step::Frame(0)).unwrap();
            assert_eq!(run.detecting(), 0);
            if lost {
                let _ = run.steps.send(Step::Lost);
            }
            let _ = match fault {
                Fault::CapturePanics => run.steps.send(Step::Panic),
                Fault::CaptureFails => run.steps.send(Step::Fail),
                Fault::DetectorPanics | Fault::AnalyzerPanics => run.steps.send(Step::Frame(1)),
                _ => Ok(()),
            };
            if matches!(fault, Fault::ControlPanics) {
                let _ = requests.send(());
            }
            run.stop.signal().recv().unwrap_err(); // the fault alone must stop the run
        })
        .unwrap_err();
    (error, seen)
}

/// A channel whose every `recv` returns at once.
fn never_waits() -> Receiver<()> {
    bounded(0).1
}

#[test]
fn a_panic_or_failure_of_any_stage_ends_the_run_names_the_stage_and_drains_the_others() {
    for lost in [false, true] {
        for (fault, stage) in [
            (Fault::CapturePanics, "stage 'capture' panicked (injected"),
            (Fault::CaptureFails, "camera 'test': gone"),
            (Fault::DetectorPanics, "stage 'detect' panicked"),
            (Fault::AnalyzerPanics, "stage 'detect' panicked"),
            (Fault::SinkPanics, "stage 'faulty' panicked (injected"),
            (Fault::SinkFails, "output 'faulty' failed: refused"),
            (Fault::ControlPanics, "stage 'control' panicked (injected"),
        ] {
            let (error, seen) = ends_with(fault, lost);
            let text = chain(&error);
            assert!(text.starts_with(stage), "{fault:?}, lost {lost}: {text}");
            let seen = seen.all();
            assert!(seen.contains(&"0".to_owned()), "{fault:?}: {seen:?}");
            assert_eq!(seen.last().unwrap(), "finished", "{fault:?}, lost {lost}");
        }
    }
}

/// A meter whose second reading panics.
struct PanicMeter(u32);

impl PowerMeter for PanicMeter {
    fn info(&self) -> MeterInfo {
        MeterInfo {
            source: "test",
            scope: "board".to_owned(),
        }
    }

    fn read(&mut self) -> Result<Reading, PowerError> {
        self.0 += 1;
        assert_ne!(self.0, 2, "injected");
        Ok(Reading::Power(crate::units::Watts(5.0)))
    }
}

#[test]
fn a_power_meter_that_panics_does_not_end_the_run_and_is_tried_again() {
    for lost in [false, true] {
        let mut rig = Rig::new(true);
        let seen = rig.collector();
        let clock = Arc::clone(&rig.clock) as Arc<dyn Clock>;
        let meter = Box::new(PanicMeter(0));
        rig.pipeline.sampler = Sampler::new(Some(meter), Path::new("/nonexistent"), clock);
        rig.drive(|run| {
            run.permit_all();
            if lost {
                run.steps.send(Step::Lost).unwrap();
            }
            while !seen.all().contains(&"meter_found".to_owned()) {
                run.clock.advance(Duration::from_millis(500));
                std::thread::yield_now();
            }
            run.frame(7);
            assert_eq!(run.detecting(), 7, "detection goes on");
        })
        .unwrap();
        assert!(seen.all().contains(&"meter_lost".to_owned()));
        assert_eq!(seen.frames(), [7]);
    }
}

/// One action of a random run.
#[derive(Clone, Copy, Debug)]
enum Action {
    Frame,
    Event,
    Permit,
    Yield,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Frame),
        1 => Just(Action::Event),
        3 => Just(Action::Permit),
        2 => Just(Action::Yield),
    ]
}

fn policy() -> impl Strategy<Value = Queue> {
    prop_oneof![
        Just(Queue::Newest),
        (1..4usize).prop_map(Queue::Bounded),
        (1..4usize).prop_map(Queue::Lossless),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames in = frames reported + frames counted as lost; and for every sink that counts:
    /// reported = received + counted as lost, in order.
    #[test]
    fn whatever_the_interleaving_every_frame_is_reported_or_counted(
        live in any::<bool>(),
        gaps in prop::collection::vec(0..3u64, 1..40),
        actions in prop::collection::vec(action(), 1..80),
        policies in prop::collection::vec(policy(), 1..4),
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut rig = Rig::new(live);
        let metrics = Arc::clone(&rig.metrics);
        let sinks: Vec<(Queue, &str, Seen)> = policies
            .iter()
            .zip(NAMES)
            .map(|(&queue, name)| (queue, name, rig.sink(name, queue, Behaviour::Collect)))
            .collect();
        let (mut given, mut id, mut events) = (0u64, 0u64, 0usize);
        let totals = rig.drive(|run| {
            let mut gaps = gaps.iter().cycle();
            for action in &actions {
                match action {
                    Action::Frame => {
                        run.steps.send(Step::Frame(id)).unwrap();
                        given += 1;
                        id += 1 + gaps.next().unwrap();
                    }
                    Action::Event => {
                        run.steps.send(Step::Found).unwrap();
                        events += 1;
                    }
                    Action::Permit => drop(run.permits.as_ref().unwrap().send(())),
                    Action::Yield => std::thread::yield_now(),
                }
            }
        }).unwrap();
        let drops = totals.drops;
        prop_assert_eq!(given, totals.frames + drops.replaced);
        if !live {
            prop_assert_eq!(drops.replaced, 0);
        }
        for (queue, name, seen) in sinks {
            let (frames, lost) = (seen.frames(), metrics.losses_of(name).get());
            prop_assert!(frames.is_sorted(), "{frames:?}");
            prop_assert_eq!(seen.all().iter().filter(|text| *text == "camera_found").count(), events);
            match queue {
                Queue::Newest => prop_assert_eq!(lost, 0),
                Queue::Bounded(_) => prop_assert_eq!(frames.len() as u64 + lost, totals.frames),
                Queue::Lossless(_) => prop_assert_eq!((frames.len() as u64, lost), (totals.frames, 0)),
            }
        }
        prop_assert!(events < OTHER_MESSAGES);
    }
}

#[test]
fn a_sink_that_receives_nothing_but_ticks_is_kept_up() {
    struct Upkeep(Sender<()>);
    impl Sink for Upkeep {
        fn name(&self) -> &'static str {
            "upkeep"
        }
        fn queue(&self) -> Queue {
            Queue::Newest
        }
        fn accept(&mut self, _: &Message) -> Result<Flow, SinkError> {
            Ok(Flow::Continue)
        }
        fn upkeep(&mut self) -> Result<Flow, SinkError> {
            let _ = self.0.send(());
            Ok(Flow::Stop("enough"))
        }
    }
    let mut rig = Rig::new(true);
    let (kept_up, calls) = unbounded();
    rig.pipeline.sinks.push(Box::new(Upkeep(kept_up)));
    rig.drive(|run| {
        while calls.try_recv().is_err() {
            run.clock.advance(Duration::from_secs(1));
            std::thread::yield_now();
        }
        run.stop.signal().recv().unwrap_err(); // by the sink's own wish
    })
    .unwrap();
}

#[test]
fn frames_carry_pixels_only_while_a_sink_demands_them() {
    struct Viewer(PictureDemand, Sender<bool>);
    impl Sink for Viewer {
        fn name(&self) -> &'static str {
            "viewer"
        }
        fn queue(&self) -> Queue {
            Queue::Lossless(4)
        }
        fn needs_pictures(&self) -> bool {
            true
        }
        fn picture_demand(&self) -> Option<PictureDemand> {
            Some(self.0.clone())
        }
        fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
            if let Message::Frame(frame) = message {
                let _ = self.1.send(frame.picture.is_some());
            }
            Ok(Flow::Continue)
        }
    }
    let mut rig = Rig::new(false);
    let (had_picture, frames) = unbounded();
    let demand = PictureDemand::default();
    let viewer = Viewer(demand.clone(), had_picture);
    rig.pipeline.sinks.push(Box::new(viewer));
    rig.drive(|run| {
        run.permit_all();
        for (id, wanted) in [false, true, true, false].into_iter().enumerate() {
            demand.set(wanted);
            run.frame(id as u64);
            assert_eq!(frames.recv(), Ok(wanted), "frame {id}");
        }
    })
    .unwrap();
}

/// Lowers the score thresholds, and counts frames as entries of a zone.
struct Lowering(Counts);

impl Analyzer for Lowering {
    fn name(&self) -> &'static str {
        "lowering"
    }

    fn adapt(&mut self, plan: &mut DetectPlan) {
        plan.thresholds
            .score
            .iter_mut()
            .for_each(|score| *score /= 2.0);
    }

    fn step(&mut self, report: &mut Report, _: &mut dyn FnMut(Event)) {
        let zone = self.0.zones.entry("zone".to_owned()).or_default();
        *zone.entered.entry("person".to_owned()).or_default() += 1;
        report.counts = Some(Arc::new(self.0.clone()));
    }
}

/// A detector that tells the score threshold it is given.
struct Thresholded(Sender<f32>);

impl Detect for Thresholded {
    fn detect(
        &mut self,
        _: &[Frame],
        plan: &DetectPlan,
        _: &mut [Found],
    ) -> Result<(), DetectError> {
        let _ = self.0.send(plan.thresholds.score[0]);
        Ok(())
    }
}

#[test]
fn analyzers_change_every_plan_once_and_their_counts_reach_the_figures() {
    let mut rig = Rig::new(false);
    let (seen, thresholds) = unbounded();
    let (requests, reload_requests) = unbounded();
    rig.pipeline.detector = Box::new(Thresholded(seen));
    rig.pipeline
        .analyzers
        .push(Box::new(Lowering(Counts::default())));
    rig.pipeline.control.reload_requests = reload_requests;
    rig.pipeline.control.reload = Some(Box::new(|| {
        Ok(control::Reloaded {
            plan: DetectPlan {
                thresholds: Thresholds::uniform(1, 0.8, 0.5),
                tiling: Tiling::default(),
            },
            changes: "threshold".to_owned(),
        })
    }));
    let metrics = Arc::clone(&rig.metrics);
    let seen = rig.collector();
    let totals = rig.drive(|run| {
        run.frame(0);
        run.frame(1);
        assert_eq!(thresholds.recv(), Ok(0.25));
        assert_eq!(thresholds.recv(), Ok(0.25));
        requests.send(()).unwrap();
        while !seen.all().contains(&"config_reloaded".to_owned()) {
            std::thread::yield_now();
        }
        run.frame(2);
        assert_eq!(thresholds.recv(), Ok(0.4));
    });
    assert_eq!(totals.unwrap().frames, 3);
    let counts = metrics.snapshot().counts.unwrap();
    assert_eq!(counts.zones["zone"].entered["person"], 3);
}

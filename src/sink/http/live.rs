//! What the sink and its server share: the newest of everything, and what the clients wait for.
//!
//! The sink's thread writes, the server's thread reads. The lock is held for copies of pointers and
//! small counts alone, never while a picture is drawn or a socket is written. Nothing is encoded
//! that no client waits for.

use super::tally::Tally;
use crate::clock::{Clock, MonoTime};
use crate::event::Event;
use crate::message::{Report, RunInfo};
use crate::monitor::vitals::{Signs, Vitals};
use crate::sink::jsonl::record::LogLine;
use crate::sink::picture::Picture;
use crate::sink::{FrameMessage, PictureDemand};
use jiff::Timestamp;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Events that a client gets that comes later.
const EVENTS_KEPT: usize = 32;
/// Lines that may wait for the server; further ones are lost and counted.
const LINES_WAITING: usize = 256;
/// Time without a sign of life after which the run counts as hung: `WatchdogSec` of the unit.
const HUNG_AFTER: Duration = Duration::from_secs(30);

/// A line for the clients of `/api/v1/events`, as it goes out.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Whether it is a `frame` line, which clients get on request only.
    pub(super) is_frame: bool,
    /// The event-stream form of the line.
    pub(super) text: Arc<[u8]>,
}

/// News for the server.
#[derive(Default)]
pub(super) struct News {
    /// The newest picture.
    pub(super) picture: Option<Arc<Picture>>,
    /// Lines in order.
    pub(super) lines: Vec<Line>,
}

/// Shared by the sink and the server.
pub(super) struct Live {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// Set while a client waits for a picture.
    pub(super) pictures: PictureDemand,
    /// Set while there is a client of `/api/v1/events`.
    lines_wanted: AtomicBool,
    /// Set while such a client waits for a `frame` line.
    frames_wanted: AtomicBool,
    lost: AtomicU64,
    ended: AtomicBool,
    waker: UnixStream,
}

struct State {
    run: Option<Arc<RunInfo>>,
    tally: Tally,
    newest: Option<Arc<Report>>,
    news: News,
    /// The last events as log lines.
    events: VecDeque<Box<RawValue>>,
    vitals: Vitals,
    signs: Signs,
    ready: bool,
    /// The last sign of life.
    alive_at: MonoTime,
}

/// The server's end of the wake-ups.
pub(super) struct Wakes(pub(super) UnixStream);

impl Wakes {
    /// Takes all wake-ups that are pending.
    pub(super) fn clear(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.0.read(&mut bytes), Ok(read) if read > 0) {}
    }
}

impl Live {
    /// For a run with these signs of life.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub(super) fn new(mut vitals: Vitals, clock: Arc<dyn Clock>) -> io::Result<(Arc<Live>, Wakes)> {
        let (waker, wakes) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let live = Live {
            state: Mutex::new(State {
                run: None,
                tally: Tally::new(0),
                newest: None,
                news: News::default(),
                events: VecDeque::with_capacity(EVENTS_KEPT),
                signs: vitals.look(),
                vitals,
                ready: false,
                alive_at: clock.now(),
            }),
            clock,
            pictures: PictureDemand::default(),
            lines_wanted: AtomicBool::new(false),
            frames_wanted: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            waker,
        };
        Ok((Arc::new(live), Wakes(wakes)))
    }

    /// The run has begun.
    pub(super) fn run(&self, run: &Arc<RunInfo>) {
        let mut state = self.lock();
        state.tally = Tally::new(run.labels.names().len());
        state.run = Some(Arc::clone(run));
    }

    /// A frame has its detections.
    pub(super) fn frame(&self, frame: &FrameMessage) {
        let report = &frame.report;
        let line = self.frames_wanted.load(Relaxed).then(|| Line {
            is_frame: true,
            text: event_stream("frame", &LogLine::frame(report)),
        });
        let news = line.is_some() || frame.picture.is_some();
        let mut state = self.lock();
        state.tally.frame(report);
        state.newest = Some(Arc::clone(report));
        if frame.picture.is_some() {
            state.news.picture.clone_from(&frame.picture);
        }
        self.push(&mut state, line);
        drop(state);
        if news {
            self.wake();
        }
    }

    /// Something happened.
    pub(super) fn event(&self, ts: Timestamp, event: &Event) {
        let mut state = self.lock();
        state.tally.event(event.kind);
        let Some(run) = state.run.clone() else { return };
        let line = LogLine::event(ts, &run.camera, event);
        if state.events.len() == EVENTS_KEPT {
            state.events.pop_front();
        }
        state.events.extend(raw(&line));
        let line = self.lines_wanted.load(Relaxed).then(|| Line {
            is_frame: false,
            text: event_stream("event", &line),
        });
        let news = line.is_some();
        self.push(&mut state, line);
        drop(state);
        if news {
            self.wake();
        }
    }

    /// Looks for signs of life, and tells the clients the figures. To be called every second.
    pub(super) fn tick(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        let signs = state.vitals.look();
        if signs.alive {
            state.alive_at = now;
            state.ready = true;
        }
        let mut line = None;
        if let (true, Some(run)) = (self.lines_wanted.load(Relaxed), &state.run) {
            let stats = LogLine::stats(self.clock.wall(), &run.camera, &signs.stats);
            line = Some(Line {
                is_frame: false,
                text: event_stream("stats", &stats),
            });
        }
        state.signs = signs;
        let news = line.is_some();
        self.push(&mut state, line);
        drop(state);
        if news {
            self.wake();
        }
    }

    /// Lines that the server was too slow for.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Tells the server to end.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
        self.wake();
    }

    fn push(&self, state: &mut State, line: Option<Line>) {
        let Some(line) = line else { return };
        match state.news.lines.len() < LINES_WAITING {
            true => state.news.lines.push(line),
            false => {
                self.lost.fetch_add(1, Relaxed);
            }
        }
    }

    fn wake(&self) {
        // a full socket has wake-ups enough
        let _ = (&self.waker).write(&[0]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the server.
impl Live {
    /// Whether the run is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// What clients wait for.
    pub(super) fn want(&self, pictures: bool, lines: bool, frames: bool) {
        self.pictures.set(pictures);
        self.lines_wanted.store(lines, Relaxed);
        self.frames_wanted.store(frames, Relaxed);
    }

    /// Takes the news.
    pub(super) fn news(&self) -> News {
        std::mem::take(&mut self.lock().news)
    }

    /// Whether the run is ready (READY=1 of a service), and whether it makes progress, by the rule
    /// that feeds a service's watchdog.
    pub(super) fn health(&self) -> (bool, bool) {
        let now = self.clock.now();
        let state = self.lock();
        (state.ready, now.since(state.alive_at) <= HUNG_AFTER)
    }

    /// The metrics; `None` before the run has begun.
    pub(super) fn metrics(&self) -> Option<String> {
        let (run, tally, newest, signs, ready) = {
            let state = self.lock();
            let run = state.run.clone()?;
            let (tally, newest) = (state.tally.clone(), state.newest.clone());
            (run, tally, newest, state.signs.clone(), state.ready)
        };
        Some(tally.exposition(&run, newest.as_deref(), &signs, ready))
    }

    /// The run, the newest figures, objects and events as JSON; `None` before the run has begun.
    pub(super) fn state(&self) -> Option<Vec<u8>> {
        let (ready, alive) = self.health();
        let (run, newest, signs, events) = {
            let state = self.lock();
            let run = state.run.clone()?;
            let events: Vec<_> = state.events.iter().cloned().collect();
            (run, state.newest.clone(), state.signs.clone(), events)
        };
        let mut objects = BTreeMap::new();
        for detection in newest.iter().flat_map(|report| &report.detections) {
            *objects
                .entry(run.labels.name(detection.class_id))
                .or_default() += 1;
        }
        let stats = LogLine::stats(self.clock.wall(), &run.camera, &signs.stats);
        let state = StateRecord {
            ready,
            alive,
            camera_up: signs.camera == crate::monitor::notify::CameraState::Sending,
            run: raw(&LogLine::run(&run))?,
            stats: raw(&stats)?,
            frame: newest.and_then(|report| raw(&LogLine::frame(&report))),
            objects,
            events,
        };
        serde_json::to_vec(&state).ok()
    }
}

/// The answer of `/api/v1/state`.
#[derive(serde::Serialize)]
struct StateRecord<'a> {
    ready: bool,
    alive: bool,
    camera_up: bool,
    run: Box<RawValue>,
    stats: Box<RawValue>,
    frame: Option<Box<RawValue>>,
    objects: BTreeMap<&'a str, u64>,
    events: Vec<Box<RawValue>>,
}

/// A log line as JSON; `None` by a defect of this program alone.
fn raw(line: &LogLine<'_>) -> Option<Box<RawValue>> {
    let mut bytes = Vec::with_capacity(512);
    line.write_to(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    RawValue::from_string(text.trim_end().to_owned()).ok()
}

/// A log line as an event of an event stream. It has no newline but its last.
fn event_stream(name: &str, line: &LogLine<'_>) -> Arc<[u8]> {
    let mut bytes = format!("event: {name}\ndata: ").into_bytes();
    match line.write_to(&mut bytes) {
        Ok(()) => bytes.push(b'\n'),
        Err(_) => bytes.clear(), // by a defect of this program alone
    }
    bytes.into()
}

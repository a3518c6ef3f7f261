//! From the detector to the sinks: one queue and one loop a sink.

use super::queue::{QueueReceiver, QueueSender, Sent, queue};
use super::stop::Latch;
use super::{PipelineError, Stop};
use crate::clock::Clock;
use crate::event::Event;
use crate::frame::PooledBuf;
use crate::message::{Report, RunInfo};
use crate::monitor::metrics::{LossCounter, Metrics};
use crate::sink::picture::PictureMaker;
use crate::sink::{BoxedSink, Flow, FrameMessage, Message, PictureDemand, Sink, SinkError};
use crossbeam_channel::select;
use std::sync::Arc;

/// Hands messages to all sinks, until it is closed. Clones share the queues.
#[derive(Clone)]
pub(super) struct Outputs(Arc<Shared>);

struct Shared {
    outlets: Vec<Outlet>,
    pictures: Arc<PictureMaker>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    closed: Latch,
}

struct Outlet {
    sink: &'static str,
    queue: QueueSender,
    needs_pictures: bool,
    demand: Option<PictureDemand>,
    losses: LossCounter,
}

/// A sink's end of its queue, ready to run.
pub(super) struct Inlet {
    queue: QueueReceiver,
    losses: LossCounter,
    /// Position among the outlets: a sink's own events do not come back to it.
    index: usize,
    outputs: Outputs,
    clock: Arc<dyn Clock>,
    stop: Stop,
}

impl Outputs {
    /// One queue for each of `sinks`, in their order, with the run's first message in it.
    pub(super) fn new(
        sinks: &[BoxedSink],
        run: &Arc<RunInfo>,
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
        stop: &Stop,
    ) -> (Outputs, Vec<Inlet>) {
        let (mut outlets, mut receivers) = (Vec::new(), Vec::new());
        for sink in sinks {
            let (sender, receiver) = queue(sink.queue());
            let losses = metrics.losses_of(sink.name());
            receivers.push((receiver, losses.clone()));
            outlets.push(Outlet {
                sink: sink.name(),
                queue: sender,
                needs_pictures: sink.needs_pictures(),
                demand: sink.picture_demand(),
                losses,
            });
        }
        let outputs = Outputs(Arc::new(Shared {
            outlets,
            pictures: PictureMaker::of_run(run),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(clock),
            closed: Latch::default(),
        }));
        outputs.0.other(&Message::Run(Arc::clone(run)), None);
        let inlet = |(index, (queue, losses))| Inlet {
            queue,
            losses,
            index,
            outputs: outputs.clone(),
            clock: Arc::clone(clock),
            stop: stop.clone(),
        };
        let inlets = receivers.into_iter().enumerate().map(inlet).collect();
        (outputs, inlets)
    }

    /// Hands a report to every sink, with its pixels to those that need them.
    pub(super) fn frame(&self, report: Report, pixels: &Arc<PooledBuf>) {
        let shared = &*self.0;
        let report = Arc::new(report);
        let plain = FrameMessage {
            report: Arc::clone(&report),
            picture: None,
        };
        let mut with_picture = None;
        for outlet in &shared.outlets {
            let message = match outlet.wants_picture() {
                false => plain.clone(),
                true => with_picture
                    .get_or_insert_with(|| FrameMessage {
                        picture: Some(Arc::new(
                            shared
                                .pictures
                                .picture(Arc::clone(&report), Arc::clone(pixels)),
                        )),
                        ..plain.clone()
                    })
                    .clone(),
            };
            if outlet.queue.frame(message) == Sent::Lost {
                outlet.losses.add(1);
            }
        }
    }

    /// Hands an event to every sink.
    pub(super) fn event(&self, event: Event) {
        self.0.event(event, None);
    }

    /// Hands the figures of this moment to every sink.
    pub(super) fn stats(&self) {
        let message = Message::Stats {
            ts: self.0.clock.wall(),
            stats: Arc::new(self.0.metrics.snapshot()),
        };
        self.0.other(&message, None);
    }
}

impl Outputs {
    /// Tells the sinks that nothing more comes: they drain their queues and end.
    pub(super) fn close(&self) {
        self.0.closed.release();
    }

    /// Counts the messages that still wait for a sink as lost, and returns their number.
    pub(super) fn give_up(&self, sink: &str) -> u64 {
        let outlet = self.0.outlets.iter().find(|outlet| outlet.sink == sink);
        outlet.map_or(0, |outlet| {
            let waiting = outlet.queue.waiting() as u64;
            outlet.losses.add(waiting);
            waiting
        })
    }
}

impl Outlet {
    fn wants_picture(&self) -> bool {
        self.needs_pictures && self.demand.as_ref().is_none_or(PictureDemand::is_set)
    }
}

impl Shared {
    fn event(&self, event: Event, origin: Option<usize>) {
        let message = Message::Event {
            ts: self.clock.wall(),
            event: Arc::new(event),
        };
        self.other(&message, origin);
    }

    fn other(&self, message: &Message, except: Option<usize>) {
        for (index, outlet) in self.outlets.iter().enumerate() {
            if Some(index) != except && outlet.queue.other(message.clone()) == Sent::Lost {
                outlet.losses.add(1);
            }
        }
    }
}

impl Inlet {
    /// Serves a sink until the [`Outputs`] are closed and its queue is empty, then completes it.
    ///
    /// # Errors
    /// When the sink fails. It is completed all the same.
    pub(super) fn serve(self, mut sink: Box<impl Sink + ?Sized>) -> Result<(), PipelineError> {
        let name = sink.name();
        let served = self.messages(sink.as_mut());
        let finished = sink.finish();
        served
            .and(finished)
            .map_err(|source| PipelineError::Sink { name, source })
    }

    fn messages(&self, sink: &mut (impl Sink + ?Sized)) -> Result<(), SinkError> {
        let upkeep = self.clock.ticks(sink.upkeep_interval());
        let mut lost = 0;
        let mut closed = false;
        loop {
            let item = match closed {
                true => match self.queue.items().try_recv() {
                    Ok(item) => Some(item),
                    Err(_) => return Ok(()),
                },
                false => select! {
                    recv(self.queue.items()) -> item => item.ok(),
                    recv(self.outputs.0.closed.signal()) -> _ => {
                        closed = true;
                        continue;
                    }
                    recv(upkeep) -> _ => None,
                },
            };
            let flow = match item {
                Some(item) => match self.queue.open(item) {
                    Some(message) => sink.accept(&message),
                    None => continue,
                },
                None => sink.upkeep(),
            };
            let (total, before) = (sink.lost(), lost);
            self.losses.add(total.saturating_sub(before));
            lost = total;
            for event in sink.take_events() {
                self.outputs.0.event(event, Some(self.index));
            }
            if let Flow::Stop(reason) = flow?
                && self.stop.stop()
            {
                tracing::info!("{reason}: stopping");
            }
        }
    }
}

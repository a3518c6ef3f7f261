//! From the detector to the sinks: one queue and one loop a sink.

use super::queue::{QueueReceiver, QueueSender, Sent, queue};
use super::{PipelineError, Stop};
use crate::clock::Clock;
use crate::event::Event;
use crate::frame::PooledBuf;
use crate::message::{Report, RunInfo};
use crate::monitor::metrics::{LossCounter, Metrics};
use crate::sink::picture::PictureMaker;
use crate::sink::{Flow, FrameMessage, Message, Sink, SinkError};
use crossbeam_channel::select;
use std::sync::{Arc, Weak};

/// Hands messages to all sinks. Clones share the queues; the sinks end when the last is gone.
#[derive(Clone)]
pub(super) struct Outputs(Arc<Shared>);

struct Shared {
    outlets: Vec<Outlet>,
    pictures: Arc<PictureMaker>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

struct Outlet {
    queue: QueueSender,
    needs_pictures: bool,
    losses: LossCounter,
}

/// A sink's end of its queue, ready to run.
pub(super) struct Inlet {
    queue: QueueReceiver,
    losses: LossCounter,
    /// Position among the outlets: a sink's own events do not come back to it.
    index: usize,
    /// Weak, or the sinks would keep each other from ending.
    outputs: Weak<Shared>,
    clock: Arc<dyn Clock>,
    stop: Stop,
}

impl Outputs {
    /// One queue for each of `sinks`, in their order, with the run's first message in it.
    pub(super) fn new(
        sinks: &[&dyn Sink],
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
                queue: sender,
                needs_pictures: sink.needs_pictures(),
                losses,
            });
        }
        let outputs = Outputs(Arc::new(Shared {
            outlets,
            pictures: PictureMaker::new(run.labels.clone(), true),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(clock),
        }));
        outputs.0.other(&Message::Run(Arc::clone(run)), None);
        let inlet = |(index, (queue, losses))| Inlet {
            queue,
            losses,
            index,
            outputs: Arc::downgrade(&outputs.0),
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
            let message = match outlet.needs_pictures {
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
    /// Serves a sink until all [`Outputs`] are gone and its queue is empty, then completes it.
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
        loop {
            let flow = select! {
                recv(self.queue.items()) -> item => match item {
                    Ok(item) => match self.queue.open(item) {
                        Some(message) => sink.accept(&message),
                        None => continue,
                    },
                    Err(_) => return Ok(()),
                },
                recv(upkeep) -> _ => sink.upkeep(),
            };
            let (total, before) = (sink.lost(), lost);
            self.losses.add(total.saturating_sub(before));
            lost = total;
            for event in sink.take_events() {
                if let Some(outputs) = self.outputs.upgrade() {
                    outputs.event(event, Some(self.index));
                }
            }
            if let Flow::Stop(reason) = flow?
                && self.stop.stop()
            {
                tracing::info!("{reason}: stopping");
            }
        }
    }
}

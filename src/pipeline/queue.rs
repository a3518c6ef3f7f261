//! The queue before a sink, on crossbeam channels.
//!
//! Frames are limited by the sink's [`Queue`] policy, other messages by [`OTHER_MESSAGES`]. Order
//! is kept, except that a frame which replaces an older one takes its place.

use crate::sink::{FrameMessage, Message, OTHER_MESSAGES, Queue};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::{Arc, Mutex, PoisonError};

/// An entry of the queue.
pub(super) enum Item {
    Message(Message),
    /// The frame in the slot: it may have been replaced since this entry was made.
    Newest,
}

/// How a frame finds its place.
enum Frames {
    /// In the slot, where a newer frame replaces it.
    Newest(Slot),
    /// One token a frame; the channel's capacity is the limit.
    Counted { tokens: Sender<()>, lossless: bool },
}

type Slot = Arc<Mutex<Option<FrameMessage>>>;

/// The sending end.
pub(super) struct QueueSender {
    items: Sender<Item>,
    frames: Frames,
}

/// The receiving end.
pub(super) struct QueueReceiver {
    items: Receiver<Item>,
    slot: Slot,
    tokens: Option<Receiver<()>>,
}

/// Whether a message was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was, or replaced an older frame.
    Queued,
    /// There was no room.
    Lost,
    /// The sink has ended.
    Closed,
}

/// Makes both ends.
pub(super) fn queue(policy: Queue) -> (QueueSender, QueueReceiver) {
    let slot = Slot::default();
    let (frames, tokens, room) = match policy {
        Queue::Newest => (Frames::Newest(Arc::clone(&slot)), None, 1),
        Queue::Bounded(room) | Queue::Lossless(room) => {
            let room = room.max(1);
            let lossless = matches!(policy, Queue::Lossless(_));
            let (tokens, taken) = bounded(room);
            (Frames::Counted { tokens, lossless }, Some(taken), room)
        }
    };
    let (sender, items) = bounded(room + OTHER_MESSAGES);
    let sender = QueueSender {
        items: sender,
        frames,
    };
    let receiver = QueueReceiver {
        items,
        slot,
        tokens,
    };
    (sender, receiver)
}

impl QueueSender {
    /// Queues a frame as the policy says; waits only with [`Queue::Lossless`].
    pub(super) fn frame(&self, frame: FrameMessage) -> Sent {
        match &self.frames {
            Frames::Newest(slot) => {
                let waiting = lock(slot).replace(frame).is_some();
                if waiting {
                    return Sent::Queued;
                }
                let sent = self.offer(Item::Newest);
                if sent != Sent::Queued {
                    lock(slot).take(); // without an entry it would never be received
                }
                sent
            }
            Frames::Counted { tokens, lossless } => {
                if *lossless {
                    return match tokens.send(()) {
                        Ok(()) => self.wait(Item::Message(Message::Frame(frame))),
                        Err(_) => Sent::Closed,
                    };
                }
                match tokens.try_send(()) {
                    Ok(()) => self.offer(Item::Message(Message::Frame(frame))),
                    Err(TrySendError::Full(())) => Sent::Lost,
                    Err(TrySendError::Disconnected(())) => Sent::Closed,
                }
            }
        }
    }

    /// Queues a message that is not a frame; never waits.
    pub(super) fn other(&self, message: Message) -> Sent {
        self.offer(Item::Message(message))
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.items.len()
    }

    fn offer(&self, item: Item) -> Sent {
        match self.items.try_send(item) {
            Ok(()) => Sent::Queued,
            Err(TrySendError::Full(_)) => Sent::Lost,
            Err(TrySendError::Disconnected(_)) => Sent::Closed,
        }
    }

    fn wait(&self, item: Item) -> Sent {
        self.items
            .send(item)
            .map_or(Sent::Closed, |()| Sent::Queued)
    }
}

impl QueueReceiver {
    /// The channel to wait on; what comes out of it goes to [`QueueReceiver::open`].
    pub(super) fn items(&self) -> &Receiver<Item> {
        &self.items
    }

    /// The message behind an entry.
    pub(super) fn open(&self, item: Item) -> Option<Message> {
        match item {
            Item::Newest => lock(&self.slot).take().map(Message::Frame),
            Item::Message(message) => {
                if let (Message::Frame(_), Some(tokens)) = (&message, &self.tokens) {
                    // the token was sent before the frame
                    let _ = tokens.try_recv();
                }
                Some(message)
            }
        }
    }
}

fn lock(slot: &Slot) -> std::sync::MutexGuard<'_, Option<FrameMessage>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind};
    use crate::sink::testing::frame_message;
    use jiff::Timestamp;

    fn event(number: u64) -> Message {
        Message::Event {
            ts: Timestamp::UNIX_EPOCH,
            event: Arc::new(Event::new(EventKind::Custom("test")).field("number", number)),
        }
    }

    /// Frame ids and event numbers (negative) in the order in which they are received.
    fn received(receiver: &QueueReceiver) -> Vec<i64> {
        let items = receiver.items().try_iter();
        let messages = items.filter_map(|item| receiver.open(item));
        messages
            .map(|message| match message {
                Message::Frame(frame) => frame.report.frame.id as i64,
                Message::Event { event, .. } => -event.fields["number"].as_i64().unwrap(),
                _ => unreachable!(),
            })
            .collect()
    }

    #[test]
    fn the_newest_frame_replaces_the_one_that_waits_and_events_stay() {
        let (sender, receiver) = queue(Queue::Newest);
        for id in [1, 2] {
            assert_eq!(sender.frame(frame_message(id)), Sent::Queued);
            assert_eq!(sender.other(event(id)), Sent::Queued);
        }
        assert_eq!(received(&receiver), [2, -1, -2]);
        assert_eq!(sender.frame(frame_message(3)), Sent::Queued);
        assert_eq!(received(&receiver), [3]);
    }

    #[test]
    fn a_bounded_queue_loses_what_has_no_room_and_keeps_order() {
        let (sender, receiver) = queue(Queue::Bounded(2));
        let sent: Vec<Sent> = (1..=3).map(|id| sender.frame(frame_message(id))).collect();
        assert_eq!(sent, [Sent::Queued, Sent::Queued, Sent::Lost]);
        assert_eq!(
            sender.other(event(1)),
            Sent::Queued,
            "events have room of their own"
        );
        assert_eq!(received(&receiver), [1, 2, -1]);
        assert_eq!(sender.frame(frame_message(4)), Sent::Queued, "room again");
    }

    #[test]
    fn other_messages_are_lost_beyond_their_limit_and_the_slot_recovers() {
        let (sender, receiver) = queue(Queue::Newest);
        let lost = (0..2000)
            .filter(|&n| sender.other(event(n)) == Sent::Lost)
            .count();
        assert_eq!(lost, 2000 - OTHER_MESSAGES - 1);
        assert_eq!(sender.frame(frame_message(1)), Sent::Lost);
        assert_eq!(received(&receiver).len(), OTHER_MESSAGES + 1);
        assert_eq!(sender.frame(frame_message(2)), Sent::Queued);
        assert_eq!(received(&receiver), [2]);
    }

    #[test]
    fn every_policy_notices_that_the_sink_has_ended() {
        for policy in [Queue::Newest, Queue::Bounded(1), Queue::Lossless(1)] {
            let (sender, receiver) = queue(policy);
            drop(receiver);
            assert_eq!(sender.frame(frame_message(1)), Sent::Closed, "{policy:?}");
            assert_eq!(sender.other(event(1)), Sent::Closed, "{policy:?}");
        }
    }
}

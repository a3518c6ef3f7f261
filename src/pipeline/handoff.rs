//! The hand-off between two stages, on a crossbeam channel.
//!
//! The hand-off's [`Policy`] applies while the receiving stage is slower: live sources keep the
//! newest value and count the values it replaced; for files the sender waits.

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, select};
use std::sync::Arc;
use std::sync::Weak;

/// The action when no slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// One slot; a new value replaces the one that waits there.
    Newest,
    /// This many slots; the sender waits.
    Lossless(usize),
}

/// The other side is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disconnected;

/// The sending end.
#[derive(Debug)]
pub(super) struct HandoffSender<T> {
    sender: Sender<T>,
    /// Lets the newest value push out the oldest; `None` when lossless.
    evict: Option<Receiver<T>>,
    /// Dead once the receiver is dropped: `evict` keeps the channel itself open.
    receiver: Weak<()>,
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct HandoffReceiver<T> {
    receiver: Receiver<T>,
    given_up: Receiver<()>,
    _alive: Arc<()>,
}

/// Makes both ends. `given_up` disconnects when nothing more is to be expected from the sender, even
/// if it still exists: it may hang.
pub(super) fn handoff<T>(
    policy: Policy,
    given_up: Receiver<()>,
) -> (HandoffSender<T>, HandoffReceiver<T>) {
    let (capacity, newest) = match policy {
        Policy::Newest => (1, true),
        Policy::Lossless(slots) => (slots.max(1), false),
    };
    let (sender, receiver) = bounded(capacity);
    let alive = Arc::new(());
    let sender = HandoffSender {
        sender,
        evict: newest.then(|| receiver.clone()),
        receiver: Arc::downgrade(&alive),
    };
    let receiver = HandoffReceiver {
        receiver,
        given_up,
        _alive: alive,
    };
    (sender, receiver)
}

impl<T> HandoffSender<T> {
    /// Hands a value over; returns the value that it replaced, if any.
    ///
    /// # Errors
    /// [`Disconnected`] when the receiving stage has ended.
    pub(super) fn send(&self, value: T) -> Result<Option<T>, Disconnected> {
        let Some(evict) = &self.evict else {
            return self
                .sender
                .send(value)
                .map(|()| None)
                .map_err(|_| Disconnected);
        };
        let mut value = value;
        let mut replaced = None;
        while self.receiver.strong_count() > 0 {
            match self.sender.try_send(value) {
                Ok(()) => return Ok(replaced),
                Err(TrySendError::Full(back)) => {
                    // the receiver may have been faster: then the slot is free on the next turn
                    replaced = evict.try_recv().ok().or(replaced);
                    value = back;
                }
                Err(TrySendError::Disconnected(_)) => return Err(Disconnected),
            }
        }
        Err(Disconnected)
    }
}

impl<T> HandoffReceiver<T> {
    /// Waits for the next value.
    ///
    /// # Errors
    /// [`Disconnected`] when the sending stage has ended or was given up, and nothing is left.
    pub(super) fn recv(&self) -> Result<T, Disconnected> {
        select! {
            recv(self.receiver) -> value => value.map_err(|_| Disconnected),
            recv(self.given_up) -> _ => self.receiver.try_recv().map_err(|_| Disconnected),
        }
    }

    /// The next value if there is one now.
    ///
    /// # Errors
    /// [`Disconnected`] when the sending stage has ended and nothing is left.
    pub(super) fn try_recv(&self) -> Result<Option<T>, Disconnected> {
        match self.receiver.try_recv() {
            Ok(value) => Ok(Some(value)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Disconnected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::never;

    fn handoff<T>(policy: Policy) -> (HandoffSender<T>, HandoffReceiver<T>) {
        super::handoff(policy, never())
    }

    #[test]
    fn a_sender_that_was_given_up_is_waited_for_no_more_and_what_it_sent_is_received() {
        let (hold, given_up) = bounded::<()>(0);
        let (sender, receiver) = super::handoff(Policy::Lossless(2), given_up);
        sender.send(7).unwrap();
        drop(hold);
        assert_eq!(receiver.recv(), Ok(7));
        assert_eq!(receiver.recv(), Err(Disconnected));
    }

    #[test]
    fn the_newest_value_replaces_the_one_that_waits() {
        let (sender, receiver) = handoff(Policy::Newest);
        assert_eq!(sender.send(1), Ok(None));
        assert_eq!(sender.send(2), Ok(Some(1)));
        assert_eq!(sender.send(3), Ok(Some(2)));
        assert_eq!(receiver.recv(), Ok(3));
        assert_eq!(receiver.try_recv(), Ok(None));
    }

    #[test]
    fn lossless_keeps_everything_in_order() {
        let (sender, receiver) = handoff(Policy::Lossless(2));
        let sender = std::thread::spawn(move || (0..100).all(|i| sender.send(i) == Ok(None)));
        for expected in 0..100 {
            assert_eq!(receiver.recv(), Ok(expected));
        }
        assert_eq!(receiver.recv(), Err(Disconnected));
        assert!(sender.join().unwrap());
    }

    #[test]
    fn both_policies_notice_that_the_taker_is_gone() {
        for policy in [Policy::Newest, Policy::Lossless(1)] {
            let (sender, receiver) = handoff(policy);
            drop(receiver);
            assert_eq!(sender.send(1), Err(Disconnected), "{policy:?}");
        }
    }

    #[test]
    fn the_last_value_outlives_the_giver() {
        let (sender, receiver) = handoff(Policy::Newest);
        sender.send(7).unwrap();
        drop(sender);
        assert_eq!(receiver.recv(), Ok(7));
        assert_eq!(receiver.recv(), Err(Disconnected));
    }
}

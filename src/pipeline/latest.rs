//! The hand-off between two stages, on a crossbeam channel.
//!
//! What happens when the receiving stage is slower is the hand-off's [`Policy`]: live sources
//! keep the newest value and count what it replaced, files wait so that nothing is lost.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// What to do when the slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One slot; a new value replaces the one that waits there.
    Newest,
    /// This many slots; the giving stage waits.
    Lossless(usize),
}

/// The other side is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// The giving end.
#[derive(Debug)]
pub struct Giver<T> {
    sender: Sender<T>,
    /// Lets the newest value push out the oldest; `None` when lossless.
    evict: Option<Receiver<T>>,
    /// Dead once the taker is dropped: `evict` keeps the channel itself open.
    taker: Weak<()>,
}

/// The taking end.
#[derive(Debug)]
pub struct Taker<T> {
    receiver: Receiver<T>,
    _alive: Arc<()>,
}

/// Makes both ends.
pub fn handoff<T>(policy: Policy) -> (Giver<T>, Taker<T>) {
    let (capacity, newest) = match policy {
        Policy::Newest => (1, true),
        Policy::Lossless(slots) => (slots.max(1), false),
    };
    let (sender, receiver) = bounded(capacity);
    let alive = Arc::new(());
    let giver = Giver {
        sender,
        evict: newest.then(|| receiver.clone()),
        taker: Arc::downgrade(&alive),
    };
    let taker = Taker {
        receiver,
        _alive: alive,
    };
    (giver, taker)
}

impl<T> Giver<T> {
    /// Hands a value over; returns the value that it replaced, if any.
    ///
    /// # Errors
    /// [`Closed`] when the taking stage has ended.
    pub fn give(&self, value: T) -> Result<Option<T>, Closed> {
        let Some(evict) = &self.evict else {
            return self.sender.send(value).map(|()| None).map_err(|_| Closed);
        };
        let mut value = value;
        let mut replaced = None;
        while self.taker.strong_count() > 0 {
            match self.sender.try_send(value) {
                Ok(()) => return Ok(replaced),
                Err(TrySendError::Full(back)) => {
                    // the taker may have been faster: then the slot is free on the next turn
                    replaced = evict.try_recv().ok().or(replaced);
                    value = back;
                }
                Err(TrySendError::Disconnected(_)) => return Err(Closed),
            }
        }
        Err(Closed)
    }
}

impl<T> Taker<T> {
    /// Waits for the next value.
    ///
    /// # Errors
    /// [`Closed`] when the giving stage has ended and nothing is left.
    pub fn take(&self) -> Result<T, Closed> {
        self.receiver.recv().map_err(|_| Closed)
    }

    /// Waits at most `timeout`; `None` when nothing came.
    ///
    /// # Errors
    /// [`Closed`] when the giving stage has ended and nothing is left.
    pub fn take_within(&self, timeout: Duration) -> Result<Option<T>, Closed> {
        match self.receiver.recv_timeout(timeout) {
            Ok(value) => Ok(Some(value)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Closed),
        }
    }

    /// The next value if there is one now.
    ///
    /// # Errors
    /// [`Closed`] when the giving stage has ended and nothing is left.
    pub fn try_take(&self) -> Result<Option<T>, Closed> {
        match self.receiver.try_recv() {
            Ok(value) => Ok(Some(value)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_replaces_the_one_that_waits() {
        let (giver, taker) = handoff(Policy::Newest);
        assert_eq!(giver.give(1), Ok(None));
        assert_eq!(giver.give(2), Ok(Some(1)));
        assert_eq!(giver.give(3), Ok(Some(2)));
        assert_eq!(taker.take(), Ok(3));
        assert_eq!(taker.try_take(), Ok(None));
    }

    #[test]
    fn lossless_keeps_everything_in_order() {
        let (giver, taker) = handoff(Policy::Lossless(2));
        let sender = std::thread::spawn(move || (0..100).all(|i| giver.give(i) == Ok(None)));
        for expected in 0..100 {
            assert_eq!(taker.take(), Ok(expected));
        }
        assert_eq!(taker.take(), Err(Closed));
        assert!(sender.join().unwrap());
    }

    #[test]
    fn both_policies_notice_that_the_taker_is_gone() {
        for policy in [Policy::Newest, Policy::Lossless(1)] {
            let (giver, taker) = handoff(policy);
            drop(taker);
            assert_eq!(giver.give(1), Err(Closed), "{policy:?}");
        }
    }

    #[test]
    fn the_last_value_outlives_the_giver() {
        let (giver, taker) = handoff(Policy::Newest);
        giver.give(7).unwrap();
        drop(giver);
        assert_eq!(taker.take(), Ok(7));
        assert_eq!(taker.take(), Err(Closed));
    }
}

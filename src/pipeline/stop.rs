//! The signals that end a run.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::sync::{Arc, Mutex, PoisonError};

/// Stops a run from anywhere; stopping twice is the same as once. Clones share the signal.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    stopped: Latch,
    interrupted: Latch,
}

impl Stop {
    /// Asks the run to end: stages drain what they were handed, however long that takes. `false` if
    /// it was asked before.
    pub fn stop(&self) -> bool {
        self.stopped.release()
    }

    /// Asks the run to end soon, for somebody who waits for it: a stage that hangs is left behind
    /// after a moment (docs/architecture.md, "How a run ends"). `false` if it was interrupted before.
    pub fn interrupt(&self) -> bool {
        self.stopped.release();
        self.interrupted.release()
    }

    /// Whether the run was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_released()
    }

    /// Whether the run was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.is_released()
    }

    /// A channel that never carries a value and disconnects at the stop, to wait on.
    pub fn signal(&self) -> &Receiver<()> {
        self.stopped.signal()
    }

    /// A channel that never carries a value and disconnects at the interrupt, to wait on.
    pub fn interrupted(&self) -> &Receiver<()> {
        self.interrupted.signal()
    }
}

/// Something that happens once. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Latch {
    held: Arc<Mutex<Option<Sender<()>>>>,
    released: Receiver<()>,
}

impl Default for Latch {
    fn default() -> Latch {
        let (held, released) = bounded(0);
        Latch {
            held: Arc::new(Mutex::new(Some(held))),
            released,
        }
    }
}

impl Latch {
    /// `false` if it was released before.
    pub(super) fn release(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.take().is_some()
    }

    pub(super) fn is_released(&self) -> bool {
        self.released.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// A channel that never carries a value and disconnects at the release, to wait on.
    pub(super) fn signal(&self) -> &Receiver<()> {
        &self.released
    }
}

//! The signal that ends a run.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::sync::{Arc, Mutex, PoisonError};

/// Stops a run from anywhere; stopping twice is the same as once. Clones share the signal.
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
    /// Asks the run to end; `false` if it was asked before.
    pub fn stop(&self) -> bool {
        self.trigger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }

    /// Whether the run was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// A channel that never carries a value and disconnects at the stop, to wait on.
    pub fn signal(&self) -> &Receiver<()> {
        &self.stopped
    }
}

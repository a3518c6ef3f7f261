//! A limit to every wait: a test that waits in vain fails instead of hanging.

use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Far more than anything in a test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Kills a program that still runs after [`PATIENCE`], so that whatever reads it comes to an end.
pub(crate) struct Limit {
    _running: Sender<()>,
}

impl Limit {
    /// Over when it is dropped.
    pub(crate) fn of(child: &Child) -> Limit {
        let (running, over) = channel();
        let pid = child.id().to_string();
        std::thread::spawn(move || {
            if over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        });
        Limit { _running: running }
    }
}

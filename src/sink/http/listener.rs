//! The socket that clients connect to: bound here, or passed by the service manager (sd_listen_fds(3)),
//! so that a service without a network of its own can serve one.

use crate::sink::SinkError;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The setting that names the address.
pub(super) const SETTING: &str = "http";
/// Name of the socket in the socket unit (`FileDescriptorName=`).
const NAME: &str = "http";

/// Whether the passed socket has been taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The socket that the service manager has passed, else one bound to `address`; `None` without both.
///
/// # Errors
/// When the address cannot be bound, or what was passed is no such socket.
pub(super) fn listener(address: Option<SocketAddr>) -> Result<Option<TcpListener>, SinkError> {
    let listener = match (passed()?, address) {
        (Some(passed), _) => passed,
        (None, Some(address)) => {
            TcpListener::bind(address).map_err(|source| SinkError::Listen { address, source })?
        }
        (None, None) => return Ok(None),
    };
    match listener.set_nonblocking(true) {
        Ok(()) => Ok(Some(listener)),
        Err(error) => Err(wrong(error)),
    }
}

fn passed() -> Result<Option<TcpListener>, SinkError> {
    let fds: Vec<_> = sd_notify::listen_fds_with_names().map_err(wrong)?.collect();
    let named = fds.iter().find(|(_, name)| name == NAME);
    let fd = match (named, fds.as_slice()) {
        (Some((fd, _)), _) | (None, [(fd, _)]) => *fd,
        (None, []) => return Ok(None),
        (None, several) => {
            return Err(wrong(format!(
                "expected one socket, or one named '{NAME}' (FileDescriptorName={NAME}), got {} others",
                several.len()
            )));
        }
    };
    if TAKEN.swap(true, Relaxed) {
        return Ok(None);
    }
    let listener = take(fd);
    match listener.local_addr() {
        Ok(_) => Ok(Some(listener)),
        // such as a Unix socket
        Err(error) => Err(wrong(format!(
            "expected a TCP socket that listens: {error}"
        ))),
    }
}

fn wrong(reason: impl std::fmt::Display) -> SinkError {
    SinkError::Setting {
        setting: SETTING,
        reason: format!("the socket that the service manager passed: {reason}"),
    }
}

#[allow(
    unsafe_code,
    reason = "the standard library has no safe way to take a passed descriptor"
)]
fn take(fd: RawFd) -> TcpListener {
    // SAFETY: LISTEN_PID is this process, so the service manager has opened the descriptor for it,
    // and `TAKEN` makes this the only owner.
    unsafe { TcpListener::from_raw_fd(fd) }
}

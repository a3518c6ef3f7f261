//! Signals: stop on Ctrl-C and SIGTERM, read the settings again on SIGHUP.

use super::{Failure, RUN_FAILED};
use crate::pipeline::Stop;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Exit codes of a process that was interrupted or terminated, by the shells' convention.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// Installs the handlers and returns the requests to read the settings again. Without a settings
/// file (not `reloadable`), and when its terminal closes, SIGHUP stops the run.
pub(super) fn install(stop: &Stop, reloadable: bool) -> Result<Receiver<()>, Failure> {
    let failed = |e: std::io::Error| Failure::new(RUN_FAILED, e);
    // a handler that waited for a reader of standard error would be deaf to the second signal
    super::messages::never_wait();
    let by_ctrl_c = stop.clone();
    ctrlc::set_handler(move || stop_or_leave(&by_ctrl_c, INTERRUPTED))
        .map_err(|e| Failure::new(RUN_FAILED, e))?;
    // a file-size limit must not kill the detector: with a handler the write fails instead
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;

    let mut wanted = vec![SIGTERM];
    // under nohup a run outlives its terminal
    if reloadable || !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).map_err(failed)?;
    // one request waits while another is served: more would read the same file
    let (request, reloads) = bounded(1);
    let stop = stop.clone();
    // this thread, like the one of ctrlc, ends with the process: signals come until then
    let on_terminal = std::io::stdin().is_terminal();
    std::thread::Builder::new()
        .name("vc-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let terminal_closed = on_terminal && !std::io::stdin().is_terminal();
                match signal {
                    SIGHUP if reloadable && !terminal_closed => drop(request.try_send(())),
                    SIGHUP => drop(stop.stop()),
                    _ => stop_or_leave(&stop, TERMINATED),
                }
            }
        })
        .map_err(failed)?;
    Ok(reloads)
}

/// Whether whoever started this process had it ignore a signal.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// First signal: stop and drain. Second: leave at once.
fn stop_or_leave(stop: &Stop, code: i32) {
    if !stop.stop() {
        std::process::exit(code);
    }
    tracing::info!("stopping; again to leave at once");
}

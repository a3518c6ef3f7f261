//! Signals: stop on Ctrl-C and SIGTERM, read the settings again on SIGHUP.

use super::{Failure, RUN_FAILED};
use crate::pipeline::Stop;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Exit codes of a process that was interrupted or terminated, by the shells' convention.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;
/// From the first signal to the end of the process, whatever hangs: a little more than a run needs to
/// leave behind the stages that hang, less than 3 s.
const LIMIT: Duration = Duration::from_millis(2700);

/// Whether [`end_first_process`] still applies.
static ENDS_AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// Has Ctrl-C and SIGTERM end this process, as they do where no handler is installed. The system
/// exempts the first process of a container (PID 1) from that.
pub(super) fn end_first_process() {
    if std::process::id() != 1 {
        return;
    }
    for (signal, code) in [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED)] {
        let condition = Arc::clone(&ENDS_AT_ONCE);
        let registered = flag::register_conditional_shutdown(signal, code, condition);
        if let Err(error) = registered {
            tracing::warn!("signal {signal} will not end this process: {error}");
        }
    }
}

/// What the handlers share with the program.
pub(super) struct Handlers {
    /// Requests to read the settings again.
    pub(super) reloads: Receiver<()>,
    /// The exit code where the program has to be ended after [`LIMIT`].
    at_limit: Arc<AtomicI32>,
}

impl Handlers {
    /// From here on there is a run, which fails if it has to be ended. Before, nothing was lost.
    pub(super) fn run_begins(&self) {
        self.at_limit.store(i32::from(RUN_FAILED), Relaxed);
    }
}

/// Installs the handlers. Without a settings file (not `reloadable`), and when its terminal closes,
/// SIGHUP stops the run.
pub(super) fn install(stop: &Stop, reloadable: bool) -> Result<Handlers, Failure> {
    let failed = |e: std::io::Error| Failure::new(RUN_FAILED, e);
    // a handler that waited for a reader of standard error would be deaf to the second signal
    super::messages::never_wait();
    ENDS_AT_ONCE.store(false, Relaxed);
    let at_limit = Arc::new(AtomicI32::new(0));
    let leave = Leave {
        stop: stop.clone(),
        at_limit: Arc::clone(&at_limit),
    };
    let by_ctrl_c = leave.clone();
    ctrlc::set_handler(move || by_ctrl_c.asked(INTERRUPTED))
        .map_err(|e| Failure::new(RUN_FAILED, e))?;
    // a file-size limit must not kill the detector: with a handler the write fails instead
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;

    let mut wanted = vec![SIGTERM];
    // under nohup a run outlives its terminal
    if reloadable || !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).map_err(failed)?;
    // one request waits while another is served: more would read the same file
    let (request, reloads) = bounded(1);
    // this thread, like the one of ctrlc, ends with the process: signals come until then
    let on_terminal = std::io::stdin().is_terminal();
    std::thread::Builder::new()
        .name("vc-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let terminal_closed = on_terminal && !std::io::stdin().is_terminal();
                match signal {
                    SIGHUP if reloadable && !terminal_closed => drop(request.try_send(())),
                    SIGHUP => drop(leave.interrupt()),
                    _ => leave.asked(TERMINATED),
                }
            }
        })
        .map_err(failed)?;
    Ok(Handlers { reloads, at_limit })
}

/// The end of the program that a signal asks for.
#[derive(Clone)]
struct Leave {
    stop: Stop,
    at_limit: Arc<AtomicI32>,
}

impl Leave {
    /// First signal: stop and drain. Second: leave at once.
    fn asked(&self, code: i32) {
        if !self.interrupt() {
            // not the exit of the C library: it waits for whoever else is in it
            signal_hook::low_level::exit(code);
        }
    }

    /// Interrupts the run, and ends the process if it does not end by itself; `false` if it was
    /// interrupted before.
    fn interrupt(&self) -> bool {
        if !self.stop.interrupt() {
            return false;
        }
        let at_limit = Arc::clone(&self.at_limit);
        let limit = std::thread::Builder::new().name("vc-limit".to_owned());
        let limited = limit.spawn(move || {
            std::thread::sleep(LIMIT);
            super::say("vovcam: a system call hangs: left it behind");
            signal_hook::low_level::exit(at_limit.load(Relaxed));
        });
        if let Err(error) = limited {
            tracing::warn!("a stage that hangs will not be left behind: {error}");
        }
        true
    }
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

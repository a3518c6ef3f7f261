//! The window's process is this program under another name.

use crate::geometry::Size;
use crate::sink::window;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The program's name in the window's process.
const NAME: &str = "vovcam-window";

/// Starts the window's process, with a size for the window.
pub(super) fn command(size: Size) -> Command {
    // by this path also after an update has replaced the program's file
    let program = match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => std::env::current_exe(),
    };
    let mut command = Command::new(program.unwrap_or_else(|_| "vovcam".into()));
    command.arg0(NAME).arg(size.to_string());
    command
}

/// Whether this is the window's process; then the window has been shown and its work is done.
pub fn was_window() -> bool {
    let mut args = std::env::args_os();
    if args.next().is_none_or(|name| name != NAME) {
        return false;
    }
    let size = args.next().and_then(|size| size.to_str()?.parse().ok());
    if let Some(size) = size {
        window::show(size);
    }
    true
}

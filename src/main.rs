//! The program `vovcam`: parses the command line, starts the log, runs the command, prints its error
//! chain and returns the exit code.

use clap::Parser;
use std::process::ExitCode;
use vovcam::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(vovcam::cli::explain(&error)),
    };
    start_log(cli.verbose);
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            vovcam::cli::say(format_args!("vovcam: {failure}"));
            ExitCode::from(failure.code)
        }
    }
}

/// Starts logging to stderr. `VOVCAM_LOG`, in the syntax of `EnvFilter`, overrides `-v`.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("VOVCAM_LOG")
        .try_from_env()
        .unwrap_or_else(|_| format!("warn,vovcam={level}").into());
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        // else a line that cannot be written is reported with `eprintln!`, which panics in that case
        .log_internal_errors(false)
        .init();
}

//! The program `vovcam`: parses the command line, starts the log, runs the command, prints its error
//! chain and returns the exit code.

use clap::Parser;
use std::process::ExitCode;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;
use vovcam::cli::{Cli, Messages};
use vovcam::escape::Printable;

fn main() -> ExitCode {
    if vovcam::cli::was_window() {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(vovcam::cli::explain(&error)),
    };
    start_log(cli.verbose);
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
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
    // clap's own rule: NO_COLOR, CLICOLOR, TERM=dumb, and whether this is a terminal
    let colours = anstream::AutoStream::choice(&std::io::stderr());
    // messages quote names and other programs' lines
    let fields = debug_fn(|out, field, value| {
        let value = Printable(format_args!("{value:?}"));
        match field.name() {
            "message" => write!(out, "{value}"),
            name => write!(out, "{name}={value}"),
        }
    });
    tracing_subscriber::fmt()
        .fmt_fields(fields.delimited(" "))
        .with_env_filter(filter)
        .with_writer(Messages::default)
        .with_ansi(colours != anstream::ColorChoice::Never)
        .with_target(false)
        // else a line that cannot be written is reported with `eprintln!`, which panics in that case
        .log_internal_errors(false)
        .init();
}

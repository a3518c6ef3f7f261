//! `vovcam doctor`: what works here, what does not, and how to fix it.

use super::{Failure, RUN_FAILED, load_model};
use crate::board::Board;
use crate::engine::{self, EngineOptions};
use crate::power;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Model manifest or weights [default: the model built in]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut report = |text: String| writeln!(out, "{text}");
    report_all(args, &mut report).map_err(|e| Failure::new(RUN_FAILED, e))
}

type Report<'a> = &'a mut dyn FnMut(String) -> io::Result<()>;

fn report_all(args: &DoctorArgs, report: Report<'_>) -> io::Result<()> {
    report(format!("vovcam {}", env!("CARGO_PKG_VERSION")))?;
    board(report)?;
    model(args.model.as_deref(), report)?;
    cameras(report)?;
    meter(report)?;
    display(report)
}

fn board(report: Report<'_>) -> io::Result<()> {
    match Board::read(Path::new("/")) {
        Some(board) => {
            let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
            report(format!(
                "✓ board: {} (L4T {}, power mode {})",
                board.model,
                or_unknown(board.l4t),
                or_unknown(board.power_mode)
            ))
        }
        None => report("- board: not a board with a device tree (a PC?)".to_owned()),
    }
}

fn model(path: Option<&Path>, report: Report<'_>) -> io::Result<()> {
    let model = match load_model(path) {
        Ok(model) => model,
        Err(error) => return report(format!("✗ model: {}", Failure::from(error))),
    };
    let manifest = &model.manifest;
    report(format!(
        "✓ model: {} ({}), sha256 {}",
        manifest.name, model.origin, manifest.sha256
    ))?;
    match engine::load(&model, &EngineOptions::default()) {
        Ok(engine) => report(format!("✓ engine: {}", engine.describe())),
        Err(error) => report(format!("✗ engine: {}", Failure::from(error))),
    }
}

#[cfg(target_os = "linux")]
fn cameras(report: Report<'_>) -> io::Result<()> {
    let cameras = crate::capture::camera::list();
    if cameras.is_empty() {
        return report(
            "✗ camera: none found; plug one in, or check 'ls /dev/video*' and 'dmesg'; \
             '--source' reads clips and folders without one"
                .to_owned(),
        );
    }
    for camera in cameras {
        match camera.modes {
            Ok(modes) if modes.is_empty() => {
                report(format!(
                    "- camera {}: '{}', no usable format",
                    camera.path.display(),
                    camera.name
                ))?;
            }
            Ok(modes) => {
                report(format!(
                    "✓ camera {}: '{}'",
                    camera.path.display(),
                    camera.name
                ))?;
                modes
                    .iter()
                    .try_for_each(|mode| report(format!("    {mode}")))?;
            }
            Err(reason) => report(format!(
                "✗ camera {}: '{}', {reason}",
                camera.path.display(),
                camera.name
            ))?,
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn cameras(report: Report<'_>) -> io::Result<()> {
    report("✗ camera: cameras are read through V4L2, which only Linux has".to_owned())
}

fn meter(report: Report<'_>) -> io::Result<()> {
    let mut reasons = Vec::new();
    match power::find(Path::new("/"), &mut reasons) {
        Some(meter) => {
            let info = meter.info();
            report(format!("✓ power meter: {} by {}", info.scope, info.source))?;
        }
        None if reasons.is_empty() => {
            report("- power meter: none; energy will be null in the log".to_owned())?;
        }
        None => {}
    }
    reasons
        .into_iter()
        .try_for_each(|reason| report(format!("✗ power meter: {reason}")))
}

fn display(report: Report<'_>) -> io::Result<()> {
    let set = ["WAYLAND_DISPLAY", "DISPLAY"]
        .iter()
        .find_map(|name| Some((name, std::env::var_os(name)?)));
    match set {
        Some((name, value)) => report(format!("✓ display: {name}={}", value.display())),
        None => report(
            "- display: none; vovcam runs headless, --save and --jsonl work all the same"
                .to_owned(),
        ),
    }
}

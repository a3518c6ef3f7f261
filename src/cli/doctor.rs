//! `vovcam doctor`: checks the machine and says how to fix what does not work.

use super::{Failure, load_model, print_failure};
use crate::board::GpuPlace;
use crate::board::{Board, Cuda};
use crate::config::EngineSettings;
use crate::engine;
use crate::escape::Printable;
use crate::monitor::power;
use crate::sink::window;
use std::io::{self, Write};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    engine: EngineSettings,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    // a camera's and a board's names are whatever their makers wrote into them
    let mut report = |text: String| writeln!(out, "{}", Printable(text));
    report_all(args, &mut report).map_err(print_failure)
}

type Report<'a> = &'a mut dyn FnMut(String) -> io::Result<()>;

fn report_all(args: &DoctorArgs, report: Report<'_>) -> io::Result<()> {
    report(format!("vovcam {}", env!("CARGO_PKG_VERSION")))?;
    board(Path::new("/"), report)?;
    report(cuda(Path::new("/")))?;
    let gpu = model(&args.engine, report)?;
    cameras(report)?;
    meter(gpu.as_ref(), report)?;
    display(report)
}

fn board(root: &Path, report: Report<'_>) -> io::Result<()> {
    match Board::read(root) {
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

/// The installed parts of CUDA; whether they work, the engine's line says.
fn cuda(root: &Path) -> String {
    let Cuda {
        toolkit,
        cudnn,
        capability,
    } = Cuda::read(root);
    let known = |name: &str, value: Option<&str>| match value {
        Some(value) => format!("{name} {value}"),
        None => format!("no {name}"),
    };
    let mut parts = vec![
        known("toolkit", toolkit.as_deref()),
        known("cuDNN", cudnn.as_deref()),
    ];
    parts.extend(capability.map(|value| format!("compute capability {value}")));
    if cfg!(not(feature = "cuda")) {
        parts.push("this program was built without it".to_owned());
    }
    // the chips that JetPack 6 does not know, and the last that does
    let last = match capability {
        Some("5.3" | "6.2") => Some(4),
        Some("7.2") => Some(5),
        _ => None,
    };
    let major = |version: &str| version.split('.').next()?.parse::<u32>().ok();
    let advice = match (last, capability.is_some(), cudnn.as_deref().map(major)) {
        (Some(last), ..) => {
            format!("; this chip ends with JetPack {last}, the CUDA engine needs JetPack 6.1")
        }
        (_, true, None) => "; install it with 'apt install nvidia-cudnn'".to_owned(),
        (_, true, Some(major)) if major < Some(9) => {
            "; the CUDA engine needs JetPack 6.1".to_owned()
        }
        _ => String::new(),
    };
    let sign = if advice.is_empty() { '-' } else { '✗' };
    format!("{sign} CUDA: {}{advice}", parts.join(", "))
}

/// The model and the engine that runs it; on which GPU.
fn model(settings: &EngineSettings, report: Report<'_>) -> io::Result<Option<GpuPlace>> {
    let model = match load_model(settings.model.as_deref()) {
        Ok(model) => model,
        Err(error) => {
            report(format!("✗ model: {}", Failure::from(error)))?;
            return Ok(None);
        }
    };
    let manifest = &model.manifest;
    report(format!(
        "✓ model: {} ({}), sha256 {}",
        manifest.name, model.origin, manifest.sha256
    ))?;
    match engine::load(&model, &settings.options()) {
        Ok(engine) => {
            report(format!("✓ engine: {}", engine.describe()))?;
            Ok(engine.gpu())
        }
        Err(error) => {
            report(format!("✗ engine: {}", Failure::from(error)))?;
            Ok(None)
        }
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

fn meter(gpu: Option<&GpuPlace>, report: Report<'_>) -> io::Result<()> {
    let mut reasons = Vec::new();
    match power::find(Path::new("/"), gpu, &mut reasons) {
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
    let Some(name) = std::env::var_os("DISPLAY") else {
        return report(
            "- display: none; vovcam runs headless, --save and --jsonl work all the same"
                .to_owned(),
        );
    };
    let name = name.display();
    match window::describe_display() {
        Ok(display) => report(format!("✓ display: DISPLAY={name} ({display})")),
        Err(reason) => report(format!("✗ display: DISPLAY={name}: no window, {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(files: &[(&str, &str)]) -> String {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let line = cuda(root.path());
        line.replace(", this program was built without it", "")
    }

    const ORIN: (&str, &str) = (
        "sys/firmware/devicetree/base/compatible",
        "nvidia,p3768\0nvidia,tegra234\0",
    );

    #[test]
    fn what_is_installed_and_what_is_missing_are_named() {
        let library = "usr/lib/aarch64-linux-gnu/libcudnn.so.9.3.0";
        let toolkit = (
            "usr/local/cuda/version.json",
            r#"{"cuda":{"version":"12.6.68"}}"#,
        );
        assert_eq!(
            line(&[ORIN, (library, ""), toolkit]),
            "- CUDA: toolkit 12.6.68, cuDNN 9.3.0, compute capability 8.7"
        );
        assert_eq!(line(&[]), "- CUDA: no toolkit, no cuDNN");
        assert_eq!(
            line(&[ORIN]),
            "✗ CUDA: no toolkit, no cuDNN, compute capability 8.7; \
             install it with 'apt install nvidia-cudnn'"
        );
    }

    #[test]
    fn boards_and_releases_that_cannot_work_are_told() {
        let old_cudnn = "usr/lib/aarch64-linux-gnu/libcudnn.so.8.6.0";
        let jetpack_5 = line(&[ORIN, (old_cudnn, "")]);
        assert!(jetpack_5.starts_with('✗') && jetpack_5.ends_with("needs JetPack 6.1"));
        let nano = (
            "sys/firmware/devicetree/base/compatible",
            "nvidia,tegra210\0",
        );
        let nano = line(&[nano]);
        assert!(
            nano.contains("compute capability 5.3; this chip ends with JetPack 4"),
            "{nano}"
        );
    }
}

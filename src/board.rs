//! Information on the board: model, L4T release, power mode, and installed CUDA components. It is
//! only read, never changed.

use serde::Serialize;
use std::path::Path;

/// A recognised board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Board {
    /// From the device tree, such as `NVIDIA Jetson Orin Nano Developer Kit`.
    pub model: String,
    /// NVIDIA's Linux release, such as `R36.4.0`.
    pub l4t: Option<String>,
    /// The nvpmodel power mode, such as `15W`.
    pub power_mode: Option<String>,
}

impl Board {
    /// Reads the board below the file-system root `root`; `None` without a model name in the device
    /// tree.
    pub fn read(root: &Path) -> Option<Board> {
        let file = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let model = file("sys/firmware/devicetree/base/model")?;
        Some(Board {
            model: model.trim_end_matches(['\0', '\n']).to_owned(),
            l4t: file("etc/nv_tegra_release").and_then(|text| parse_l4t(&text)),
            power_mode: file("var/lib/nvpmodel/status").and_then(|status| {
                power_mode(&status, &file("etc/nvpmodel.conf").unwrap_or_default())
            }),
        })
    }
}

/// Installed CUDA components, read from files, so that no driver is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuda {
    /// Version of the CUDA toolkit, such as `12.6.68`; needed only to build.
    pub toolkit: Option<String>,
    /// Version of the cuDNN library, such as `9.3.0`.
    pub cudnn: Option<String>,
    /// Compute capability of a Jetson's GPU, such as `8.7`; for cards, the driver reports it.
    pub capability: Option<&'static str>,
}

/// Library folders of distributions and of NVIDIA's packages.
const LIBRARY_FOLDERS: [&str; 5] = [
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/local/cuda/lib64",
    "usr/local/lib",
];

/// Compute capabilities by the chip's name in the device tree, from NVIDIA's list of GPUs.
const TEGRA_CHIPS: [(&str, &str); 5] = [
    ("nvidia,tegra210", "5.3"),  // Nano, TX1
    ("nvidia,tegra186", "6.2"),  // TX2
    ("nvidia,tegra194", "7.2"),  // Xavier
    ("nvidia,tegra234", "8.7"),  // Orin
    ("nvidia,tegra264", "11.0"), // Thor
];

impl Cuda {
    /// Reads the components below the file-system root `root`.
    pub fn read(root: &Path) -> Cuda {
        let file = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let chips = file("sys/firmware/devicetree/base/compatible").unwrap_or_default();
        let is = |name: &str| chips.split('\0').any(|chip| chip == name);
        Cuda {
            toolkit: file("usr/local/cuda/version.json").and_then(|text| toolkit(&text)),
            cudnn: LIBRARY_FOLDERS
                .iter()
                .find_map(|folder| cudnn(&root.join(folder))),
            capability: TEGRA_CHIPS
                .iter()
                .find_map(|&(name, capability)| is(name).then_some(capability)),
        }
    }
}

/// Parses `{"cuda": {"version": "12.6.68"}}`.
fn toolkit(text: &str) -> Option<String> {
    let versions: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(versions["cuda"]["version"].as_str()?.to_owned())
}

/// Version of the newest library such as `libcudnn.so.9.3.0` in a folder. Links such as
/// `libcudnn.so.9` have only a part of the version and sort before it.
fn cudnn(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.flatten();
    names
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix("libcudnn.so.")?.to_owned();
            let parts: Option<Vec<u32>> =
                version.split('.').map(|part| part.parse().ok()).collect();
            Some((parts?, version))
        })
        .max()
        .map(|(_, version)| version)
}

/// Parses `# R36 (release), REVISION: 4.0, GCID: …` → `R36.4.0`.
fn parse_l4t(text: &str) -> Option<String> {
    let major = text.trim_start_matches('#').split_whitespace().next()?;
    let revision = text.split("REVISION:").nth(1)?.split(',').next()?.trim();
    Some(format!("{major}.{revision}"))
}

/// Looks up `pmode:0002` in the configuration's `< POWER_MODEL ID=2 NAME=25W >` → `25W`.
fn power_mode(status: &str, configuration: &str) -> Option<String> {
    let id: u32 = status
        .split_whitespace()
        .next()?
        .strip_prefix("pmode:")?
        .parse()
        .ok()?;
    let named = configuration
        .lines()
        .filter(|line| line.contains("POWER_MODEL"))
        .find_map(|line| {
            let field =
                |key: &str| Some(line.split(key).nth(1)?.split([' ', '>']).next()?.to_owned());
            (field("ID=")?.parse() == Ok(id)).then(|| field("NAME="))?
        });
    Some(named.unwrap_or_else(|| id.to_string()))
}

/// Identifies a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuPlace {
    /// Its PCI address such as `00000000:01:00.0`; `None` if unknown.
    pub pci: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn an_orin_with_jetpack_6_is_read_whole() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "sys/firmware/devicetree/base/model",
                "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            ),
            (
                "sys/firmware/devicetree/base/compatible",
                "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
            ),
            (
                "etc/nv_tegra_release",
                "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64",
            ),
            ("var/lib/nvpmodel/status", "pmode:0001"),
            (
                "etc/nvpmodel.conf",
                "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >",
            ),
            (
                "usr/local/cuda/version.json",
                r#"{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}"#,
            ),
            ("usr/lib/aarch64-linux-gnu/libcudnn.so.9", ""),
            ("usr/lib/aarch64-linux-gnu/libcudnn.so.9.3.0", ""),
            ("usr/lib/aarch64-linux-gnu/libcudnn_ops.so.9.3.0", ""),
        ] {
            write(root.path(), path, text);
        }
        let board = Board::read(root.path()).unwrap();
        assert_eq!(
            (board.l4t.as_deref(), board.power_mode.as_deref()),
            (Some("R36.4.3"), Some("25W"))
        );
        assert_eq!(
            Cuda::read(root.path()),
            Cuda {
                toolkit: Some("12.6.68".to_owned()),
                cudnn: Some("9.3.0".to_owned()),
                capability: Some("8.7"),
            }
        );
    }

    #[test]
    fn a_machine_without_cuda_or_with_damaged_files_has_none_of_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Cuda::read(root.path()), Cuda::default());
        write(root.path(), "usr/local/cuda/version.json", "{}");
        write(root.path(), "usr/lib/x86_64-linux-gnu/libcudnn.so.old", "");
        write(
            root.path(),
            "sys/firmware/devicetree/base/compatible",
            "raspberrypi,5\0",
        );
        assert_eq!(Cuda::read(root.path()), Cuda::default());
    }

    #[test]
    fn release_and_mode_are_read_from_nvidias_files() {
        let release =
            "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64";
        assert_eq!(parse_l4t(release), Some("R36.4.0".to_owned()));
        let configuration =
            "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=25W >";
        assert_eq!(
            power_mode("pmode:0002\n", configuration),
            Some("25W".to_owned())
        );
        assert_eq!(
            power_mode("pmode:0007", configuration),
            Some("7".to_owned())
        );
        assert_eq!(parse_l4t("unknown"), None);
    }
}

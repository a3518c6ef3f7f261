//! What board this is: model, L4T release and power mode. Read only; nothing is ever set.

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
    /// Reads the board below the file-system root `root`; `None` where no device tree names one.
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

/// `# R36 (release), REVISION: 4.0, GCID: …` → `R36.4.0`.
fn parse_l4t(text: &str) -> Option<String> {
    let major = text.trim_start_matches('#').split_whitespace().next()?;
    let revision = text.split("REVISION:").nth(1)?.split(',').next()?.trim();
    Some(format!("{major}.{revision}"))
}

/// `pmode:0002` and the configuration's `< POWER_MODEL ID=2 NAME=25W >` → `25W`.
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

#[cfg(test)]
mod tests {
    use super::*;

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

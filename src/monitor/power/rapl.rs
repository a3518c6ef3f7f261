//! A PC's processor package: Intel's and AMD's energy counters, through the kernel's powercap
//! files. Source: the kernel's Documentation/power/powercap/powercap.rst.

use super::{PowerError, PowerMeter, Reading, entries, number, text};
use crate::stats::MeterInfo;
use crate::units::Joules;
use std::path::{Path, PathBuf};

struct Rapl {
    /// Each package's counter file, its wrap-around and its last value, in µJ.
    packages: Vec<(PathBuf, f64, Option<f64>)>,
}

/// Looks for package counters below `root`.
///
/// # Errors
/// When there is one that cannot be read: since 2020 only root may.
pub fn find(root: &Path) -> Result<Option<Box<dyn PowerMeter>>, PowerError> {
    let mut packages = Vec::new();
    for zone in entries(&root.join("sys/class/powercap")) {
        // 'intel-rapl-mmio' shows the same counters a second time
        let file = zone
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !file.starts_with("intel-rapl:") {
            continue;
        }
        // the package is 'package-0'; 'core' and 'dram' are parts of it or beside it
        if text(&zone.join("name")).is_ok_and(|name| name.starts_with("package")) {
            let range = number(&zone.join("max_energy_range_uj"))?;
            packages.push((zone.join("energy_uj"), range, None));
        }
    }
    if packages.is_empty() {
        return Ok(None);
    }
    let mut meter = Rapl { packages };
    meter.read()?;
    Ok(Some(Box::new(meter)))
}

impl PowerMeter for Rapl {
    fn info(&self) -> MeterInfo {
        MeterInfo {
            source: "rapl",
            scope: "cpu-package".to_owned(),
        }
    }

    fn read(&mut self) -> Result<Reading, PowerError> {
        let mut microjoules = 0.0;
        for (counter, range, last) in &mut self.packages {
            let now = number(counter)?;
            let before = last.replace(now).unwrap_or(now);
            // a counter that went back has wrapped around once
            microjoules += if now >= before {
                now - before
            } else {
                now + *range - before
            };
        }
        Ok(Reading::Energy(Joules(1e-6 * microjoules)))
    }
}

//! RAPL: energy counters of Intel and AMD processor packages, through the kernel's powercap files. Source: the kernel's Documentation/power/powercap/powercap.rst.

use super::{PowerError, PowerMeter, Reading, entries, read_number, read_text};
use crate::stats::MeterInfo;
use crate::units::Joules;
use std::path::{Path, PathBuf};

struct Rapl {
    packages: Vec<Package>,
}

/// The counter of one processor package, in µJ.
struct Package {
    counter: PathBuf,
    /// Value at which it wraps around.
    range: f64,
    last: Option<f64>,
}

/// Finds package counters below `root`.
///
/// # Errors
/// If a counter exists but cannot be read: since Linux 5.10 only root may (CVE-2020-8694).
pub fn find(root: &Path) -> Result<Option<Box<dyn PowerMeter>>, PowerError> {
    let mut packages = Vec::new();
    for zone in entries(&root.join("sys/class/powercap")) {
        // 'intel-rapl-mmio' has the same counters a second time
        let file = zone
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !file.starts_with("intel-rapl:") {
            continue;
        }
        // 'package-0' is the package; 'core' and 'dram' are separate zones
        if read_text(&zone.join("name")).is_ok_and(|name| name.starts_with("package")) {
            let range = read_number(&zone.join("max_energy_range_uj"))?;
            packages.push(Package {
                counter: zone.join("energy_uj"),
                range,
                last: None,
            });
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
        for package in &mut self.packages {
            let now = read_number(&package.counter)?;
            let before = package.last.replace(now).unwrap_or(now);
            // a lower value means that the counter has wrapped around once
            microjoules += if now >= before {
                now - before
            } else {
                now + package.range - before
            };
        }
        Ok(Reading::Energy(Joules(1e-6 * microjoules)))
    }
}

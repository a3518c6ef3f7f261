//! Heat, and the board's own word that it throttled. Source: the kernel's
//! Documentation/driver-api/thermal/sysfs-api.rst; `soctherm_oc` is Tegra's over-current block.

use super::{entries, number, text};
use crate::stats::Heat;
use crate::units::Celsius;
use std::path::Path;

/// What an offline zone of a Jetson reads.
const OFFLINE: f64 = -256_000.0;

/// Reads every thermal zone and over-current counter below `root`; what does not answer is
/// left out.
pub fn read(root: &Path) -> Heat {
    let zones = entries(&root.join("sys/class/thermal"))
        .into_iter()
        .filter_map(|zone| {
            // the Nano's PMIC-Die always reads 100 °C
            if text(&zone.join("type")).is_ok_and(|kind| kind == "PMIC-Die") {
                return None;
            }
            let millis = number(&zone.join("temp")).ok()?;
            (millis > OFFLINE).then_some(millis / 1000.0)
        });
    let hottest = zones.max_by(f64::total_cmp).map(Celsius);
    let mut throttled = 0;
    for hwmon in entries(&root.join("sys/class/hwmon")) {
        if text(&hwmon.join("name")).is_ok_and(|name| name == "soctherm_oc") {
            let counters =
                (1..=3).filter_map(|n| number(&hwmon.join(format!("oc{n}_event_cnt"))).ok());
            throttled += counters.sum::<f64>() as u64;
        }
    }
    Heat { hottest, throttled }
}

//! Temperatures and throttling counters of the board. Source: the kernel's
//! Documentation/driver-api/thermal/sysfs-api.rst; `soctherm_oc` is Tegra's over-current block.

use super::{entries, read_number, read_text};
use crate::stats::Heat;
use crate::units::Celsius;
use std::path::Path;

/// Temperature that an offline zone of a Jetson reports, in m°C.
const OFFLINE: f64 = -256_000.0;

/// Reads every thermal zone and over-current counter below `root`; those that cannot be read are
/// omitted.
pub fn read(root: &Path) -> Heat {
    let zones = entries(&root.join("sys/class/thermal"))
        .into_iter()
        .filter_map(|zone| {
            // the Nano's PMIC-Die always reads 100 °C
            if read_text(&zone.join("type")).is_ok_and(|kind| kind == "PMIC-Die") {
                return None;
            }
            let millis = read_number(&zone.join("temp")).ok()?;
            (millis > OFFLINE).then_some(millis / 1000.0)
        });
    let hottest = zones.max_by(f64::total_cmp).map(Celsius);
    let mut throttled = 0;
    for hwmon in entries(&root.join("sys/class/hwmon")) {
        if read_text(&hwmon.join("name")).is_ok_and(|name| name == "soctherm_oc") {
            let counters =
                (1..=3).filter_map(|n| read_number(&hwmon.join(format!("oc{n}_event_cnt"))).ok());
            throttled += counters.sum::<f64>() as u64;
        }
    }
    Heat { hottest, throttled }
}

//! The current sensors of Jetson boards: INA3221 (JetPack 4 through iio, 5 and 6 through hwmon)
//! and INA238 (Thor). Source: the kernel's Documentation/hwmon/ina3221.rst, and NVIDIA's
//! "Jetson Linux Developer Guide", chapter on power.

use super::{PowerError, PowerMeter, Reading, entries, read_number, read_text};
use crate::stats::MeterInfo;
use crate::units::Watts;
use std::path::{Path, PathBuf};

/// Rails that supply the whole module; the other rails are parts of them.
const TOTAL_RAILS: [&str; 3] = ["VDD_IN", "POM_5V_IN", "VIN"];

/// The sysfs files of one rail.
#[derive(Debug)]
enum Rail {
    /// Files in mV and mA.
    VoltsAmps(PathBuf, PathBuf),
    /// A power file, and its unit in watts.
    Power(PathBuf, f64),
}

/// A rail with its label, such as `VDD_IN`.
struct NamedRail {
    label: String,
    rail: Rail,
}

struct Ina {
    info: MeterInfo,
    rails: Vec<Rail>,
}

/// Finds the sensors below `root`.
///
/// # Errors
/// If a sensor exists but cannot be read.
pub fn find(root: &Path) -> Result<Option<Box<dyn PowerMeter>>, PowerError> {
    let mut rails: Vec<NamedRail> = Vec::new();
    let mut source = "ina3221";
    for device in entries(&root.join("sys/bus/i2c/devices")) {
        let name = read_text(&device.join("name")).unwrap_or_default();
        if name.contains("ina3221") {
            for hwmon in entries(&device.join("hwmon")) {
                hwmon_rails(&hwmon, &mut rails)?;
            }
            for iio in entries(&device)
                .into_iter()
                .filter(|path| file_name(path).starts_with("iio:device"))
            {
                iio_rails(&iio, &mut rails)?;
            }
        } else if name.contains("ina238") {
            source = "ina238";
            for hwmon in entries(&device.join("hwmon")) {
                rails.push(NamedRail {
                    label: "VIN".to_owned(),
                    rail: Rail::Power(hwmon.join("power1_input"), 1e-6),
                });
            }
        }
    }
    if rails.is_empty() {
        return Ok(None);
    }
    // with a rail of the whole module, adding the others would count them twice
    let total = rails
        .iter()
        .position(|named| TOTAL_RAILS.contains(&named.label.as_str()));
    let (scope, rails) = match total {
        Some(index) => {
            let NamedRail { label, rail } = rails.swap_remove(index);
            (label, vec![rail])
        }
        None => (
            "rails-sum".to_owned(),
            rails.into_iter().map(|named| named.rail).collect(),
        ),
    };
    let mut meter = Ina {
        info: MeterInfo { source, scope },
        rails,
    };
    meter.read()?;
    Ok(Some(Box::new(meter)))
}

/// JetPack 5 and 6: `in{N}_label`, `in{N}_input`, `curr{N}_input`. Channel 7 is the sum of the
/// shunt voltages; the label `NC` means not connected.
fn hwmon_rails(hwmon: &Path, rails: &mut Vec<NamedRail>) -> Result<(), PowerError> {
    for channel in 1..=3 {
        let label = hwmon.join(format!("in{channel}_label"));
        if !label.exists() {
            continue;
        }
        let label = read_text(&label)?;
        if label != "NC" {
            let volts = hwmon.join(format!("in{channel}_input"));
            let amps = hwmon.join(format!("curr{channel}_input"));
            let rail = Rail::VoltsAmps(volts, amps);
            rails.push(NamedRail { label, rail });
        }
    }
    Ok(())
}

/// JetPack 4: `rail_name_{N}` and `in_power{N}_input` in mW.
fn iio_rails(iio: &Path, rails: &mut Vec<NamedRail>) -> Result<(), PowerError> {
    for channel in 0..=2 {
        let name = iio.join(format!("rail_name_{channel}"));
        if name.exists() {
            rails.push(NamedRail {
                label: read_text(&name)?,
                rail: Rail::Power(iio.join(format!("in_power{channel}_input")), 1e-3),
            });
        }
    }
    Ok(())
}

impl PowerMeter for Ina {
    fn info(&self) -> MeterInfo {
        self.info.clone()
    }

    fn read(&mut self) -> Result<Reading, PowerError> {
        let mut watts = 0.0;
        for rail in &self.rails {
            watts += match rail {
                Rail::VoltsAmps(volts, amps) => read_number(volts)? * read_number(amps)? * 1e-6,
                Rail::Power(power, unit) => read_number(power)? * unit,
            };
        }
        Ok(Reading::Power(Watts(watts)))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

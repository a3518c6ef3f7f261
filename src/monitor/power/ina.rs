//! The current sensors of Jetson boards: INA3221 (JetPack 4 through iio, 5 and 6 through hwmon)
//! and INA238 (Thor). Source: the kernel's Documentation/hwmon/ina3221.rst, and NVIDIA's
//! "Jetson Linux Developer Guide", chapter on power.

use super::{PowerError, PowerMeter, Reading, entries, number, text};
use crate::stats::MeterInfo;
use crate::units::Watts;
use std::path::{Path, PathBuf};

/// Rails that carry the whole module; the others are parts of them.
const TOTAL_RAILS: [&str; 3] = ["VDD_IN", "POM_5V_IN", "VIN"];

/// One rail's files.
#[derive(Debug)]
enum Rail {
    /// mV and mA.
    VoltsAmps(PathBuf, PathBuf),
    /// A power file, and watts per step of it.
    Power(PathBuf, f64),
}

struct Ina {
    info: MeterInfo,
    rails: Vec<Rail>,
}

/// Looks for the sensors below `root`.
///
/// # Errors
/// When there is one that cannot be read.
pub fn find(root: &Path) -> Result<Option<Box<dyn PowerMeter>>, PowerError> {
    let mut rails: Vec<(String, Rail)> = Vec::new();
    let mut source = "ina3221";
    for device in entries(&root.join("sys/bus/i2c/devices")) {
        let name = text(&device.join("name")).unwrap_or_default();
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
                rails.push((
                    "VIN".to_owned(),
                    Rail::Power(hwmon.join("power1_input"), 1e-6),
                ));
            }
        }
    }
    if rails.is_empty() {
        return Ok(None);
    }
    // with a total rail, adding its parts would count them twice
    let total = rails
        .iter()
        .position(|(label, _)| TOTAL_RAILS.contains(&label.as_str()));
    let (scope, rails) = match total {
        Some(index) => {
            let (label, rail) = rails.swap_remove(index);
            (label, vec![rail])
        }
        None => (
            "rails-sum".to_owned(),
            rails.into_iter().map(|(_, rail)| rail).collect(),
        ),
    };
    let mut meter = Ina {
        info: MeterInfo { source, scope },
        rails,
    };
    meter.read()?;
    Ok(Some(Box::new(meter)))
}

/// JetPack 5 and 6: `in{N}_label`, `in{N}_input`, `curr{N}_input`. Channel 7 is a sum of shunt
/// voltages, `NC` is not connected.
fn hwmon_rails(hwmon: &Path, rails: &mut Vec<(String, Rail)>) -> Result<(), PowerError> {
    for channel in 1..=3 {
        let label = hwmon.join(format!("in{channel}_label"));
        if !label.exists() {
            continue;
        }
        let label = text(&label)?;
        if label != "NC" {
            let volts = hwmon.join(format!("in{channel}_input"));
            let amps = hwmon.join(format!("curr{channel}_input"));
            rails.push((label, Rail::VoltsAmps(volts, amps)));
        }
    }
    Ok(())
}

/// JetPack 4: `rail_name_{N}` and `in_power{N}_input` in mW.
fn iio_rails(iio: &Path, rails: &mut Vec<(String, Rail)>) -> Result<(), PowerError> {
    for channel in 0..=2 {
        let name = iio.join(format!("rail_name_{channel}"));
        if name.exists() {
            rails.push((
                text(&name)?,
                Rail::Power(iio.join(format!("in_power{channel}_input")), 1e-3),
            ));
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
                Rail::VoltsAmps(volts, amps) => number(volts)? * number(amps)? * 1e-6,
                Rail::Power(power, step) => number(power)? * step,
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

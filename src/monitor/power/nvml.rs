//! The power of an NVIDIA card in a PC, through the driver's library NVML, which is loaded at run
//! time. On Jetson boards NVML does not report power; [`super::ina`] does.

use super::{PowerError, PowerMeter, Reading};
use crate::board::GpuPlace;
use crate::stats::MeterInfo;
use crate::units::{Joules, Watts};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// A card as a power meter.
struct Card {
    nvml: Nvml,
    place: GpuPlace,
    /// The last value of the energy counter in mJ; `None` if the card has no counter.
    counter: Option<u64>,
}

/// The card at `place`; `None` without an NVIDIA driver, or if the card does not report power.
///
/// # Errors
/// If the driver reports an error.
pub fn find(place: &GpuPlace) -> Result<Option<Box<dyn PowerMeter>>, PowerError> {
    // no library means no NVIDIA driver, which is not an error
    let Ok(nvml) = Nvml::init() else {
        return Ok(None);
    };
    let Ok(device) = card(&nvml, place) else {
        return Ok(None);
    };
    let counter = device.total_energy_consumption().ok();
    if counter.is_none() {
        match device.power_usage() {
            Ok(_) => {}
            // a card, or the GPU of a board, without a meter
            Err(NvmlError::NotSupported) => return Ok(None),
            Err(error) => return Err(PowerError::Driver(error.to_string())),
        }
    }
    Ok(Some(Box::new(Card {
        nvml,
        place: place.clone(),
        counter,
    })))
}

/// Finds the card by its PCI address: CUDA orders cards by speed and NVML by PCI bus id, so their
/// indices differ.
fn card<'nvml>(nvml: &'nvml Nvml, place: &GpuPlace) -> Result<Device<'nvml>, NvmlError> {
    match &place.pci {
        Some(address) => nvml.device_by_pci_bus_id(address.as_str()),
        None => nvml.device_by_index(0),
    }
}

impl PowerMeter for Card {
    fn info(&self) -> MeterInfo {
        MeterInfo {
            source: "nvml",
            scope: "gpu-board".to_owned(),
        }
    }

    fn read(&mut self) -> Result<Reading, PowerError> {
        let driver = |e: NvmlError| PowerError::Driver(e.to_string());
        let device = card(&self.nvml, &self.place).map_err(driver)?;
        Ok(match &mut self.counter {
            Some(last) => {
                let now = device.total_energy_consumption().map_err(driver)?;
                let spent = now.saturating_sub(std::mem::replace(last, now));
                Reading::Energy(Joules(1e-3 * spent as f64))
            }
            None => Reading::Power(Watts(
                1e-3 * f64::from(device.power_usage().map_err(driver)?),
            )),
        })
    }
}

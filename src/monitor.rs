//! Monitoring: metrics, power, temperature, and the service manager.

pub mod metrics;
pub mod notify;
pub mod power;
pub mod vitals;

//! Camera object detection with VoVNet-27-slim.
//!
//! ```text
//!  capture ──Frame──▶ preprocess ──▶ engine ──▶ postprocess ──Report──▶ sinks
//! ```

pub mod avi;
pub mod board;
pub mod calibration;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod detector;
pub mod engine;
pub mod eval;
pub mod frame;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod fuzz;
pub mod graph;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod pipeline;
pub mod postprocess;
pub mod power;
pub mod preprocess;
pub mod sink;
pub mod units;
pub mod weights;

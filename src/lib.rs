//! Camera object detection with VoVNet-27-slim.
//!
//! ```text
//!  capture ──Frame──▶ preprocess ──▶ engine ──▶ postprocess ──Report──▶ sinks
//! ```

pub mod analyse;
pub mod avi;
pub mod board;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod detect;
pub mod detection;
pub mod engine;
pub mod eval;
pub mod event;
pub mod frame;
pub mod geometry;
pub mod message;
pub mod model;
pub mod monitor;
pub mod network;
pub mod pipeline;
pub mod sink;
pub mod stats;
pub mod tensor;
pub mod units;

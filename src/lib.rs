//! Camera object detection with VoVNet-27-slim.
//!
//! ```text
//!  Source ──Frame──▶ Detect ──Report──▶ Analyzer … ──Message──▶ Sink
//!                                                             ├▶ Sink
//!                                                             └▶ Sink
//! ```
//!
//! Detect on single images:
//!
//! ```
//! use vovcam::{Detector, DetectorOptions, Frame, Model, Size};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::bundled()?;
//! let labels = model.labels();
//! let mut detector = Detector::new(&model, &DetectorOptions::default())?;
//! let grey = vec![114; 3 * 320 * 240]; // RGB bytes, rows without padding
//! let frame = Frame::from_rgb(0, Size::new(320, 240), grey);
//! for detection in detector.detect_one(&frame)?.detections {
//!     let [x, y, width, height] = detection.bbox.xywh(); // frame pixels
//!     println!("{} {:.2} {x},{y} {width}x{height}", labels.name(detection.class_id), detection.score);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`PipelineBuilder`] runs a detector on a camera with sinks and analyzers of one's own:
//! `examples/custom_stage.rs`. docs/architecture.md has the layers and the rules between them.

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
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod fuzz;
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

pub use analyse::Analyzer;
pub use capture::{CaptureError, Next, Source, SourceEvent};
pub use detect::{Detect, DetectError, DetectPlan, Detector, DetectorOptions, Found};
pub use detection::{Detection, Labels, StageTimes, Thresholds};
pub use engine::{EngineChoice, EngineError, EngineOptions, Precision};
pub use event::{Event, EventKind};
pub use frame::{Frame, FrameMeta};
pub use geometry::{BBox, InputSize, Size};
pub use message::{Report, RunInfo};
pub use model::{Model, ModelError};
pub use pipeline::{Pipeline, PipelineBuilder, PipelineError, Stop};
pub use sink::{Flow, Message, Queue, Sink, SinkError};

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

// The interface of the library is the re-exports below. The modules are reachable for the program's
// own tests, benchmarks and fuzzers, and may change at any time.
#[doc(hidden)]
pub mod analyse;
#[doc(hidden)]
pub mod avi;
#[doc(hidden)]
pub mod board;
#[doc(hidden)]
pub mod capture;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod detect;
#[doc(hidden)]
pub mod detection;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod escape;
#[doc(hidden)]
pub mod eval;
#[doc(hidden)]
pub mod event;
#[doc(hidden)]
pub mod frame;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod fuzz;
#[doc(hidden)]
pub mod geometry;
#[doc(hidden)]
pub mod message;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod monitor;
#[doc(hidden)]
pub mod network;
#[doc(hidden)]
pub mod pipeline;
#[doc(hidden)]
pub mod sink;
#[doc(hidden)]
pub mod stats;
#[doc(hidden)]
pub mod tensor;
#[doc(hidden)]
pub mod units;

pub use analyse::Analyzer;
pub use capture::{CaptureError, Next, Source, SourceEvent};
pub use detect::{Detect, DetectError, DetectPlan, Detector, DetectorOptions, Found};
pub use detection::{Detection, Labels, StageTimes, Thresholds};
pub use engine::{EngineChoice, EngineError, EngineOptions, Precision};
pub use event::{Event, EventKind};
pub use frame::{Frame, FrameMeta};
pub use geometry::{BBox, InputSize, Size, TileOverlap, Tiles, Tiling};
pub use message::{Report, RunInfo};
pub use model::{Model, ModelError};
pub use pipeline::{Pipeline, PipelineBuilder, PipelineError, Stop};
pub use sink::{Flow, Message, Queue, Sink, SinkError};

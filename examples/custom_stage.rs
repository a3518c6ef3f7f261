//! A sink and an analyzer of one's own, on the moving test pattern.
//!
//!     cargo run --release --example custom_stage -- 5
//!
//! prints one line a frame and one line a `crowd` event. In the program itself the same two
//! types would be a file each, and a name each in the lists of `src/sink.rs` and `src/analyse.rs`.

use std::error::Error;
use std::io::{self, Write};
use vovcam::{
    Analyzer, Detector, DetectorOptions, Event, EventKind, Flow, Message, Model, PipelineBuilder,
    Queue, Report, Sink, SinkError, Stop,
};

/// Emits a `crowd` event when the number of detections passes a limit.
struct Crowd {
    limit: usize,
    crowded: bool,
}

impl Analyzer for Crowd {
    fn name(&self) -> &'static str {
        "crowd"
    }

    fn step(&mut self, report: &mut Report, emit: &mut dyn FnMut(Event)) {
        let count = report.detections.len();
        let crowded = count >= self.limit;
        if crowded && !self.crowded {
            emit(Event::new(EventKind::Custom("crowd")).field("count", count));
        }
        self.crowded = crowded;
    }
}

/// Prints frames and events.
struct Print<W>(W);

impl<W: Write> Sink for Print<W> {
    fn name(&self) -> &'static str {
        "print"
    }

    fn queue(&self) -> Queue {
        Queue::Lossless(8)
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        let written = match message {
            Message::Frame(frame) => writeln!(
                self.0,
                "frame {}: {} objects",
                frame.report.frame.id,
                frame.report.detections.len()
            ),
            Message::Event { event, .. } => writeln!(self.0, "event {}", event.kind.name()),
            Message::Run(_) | Message::Stats { .. } => Ok(()),
        };
        written.map_err(|e| SinkError::Other(e.to_string()))?;
        Ok(Flow::Continue)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let frames = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let model = Model::bundled()?;
    let detector = Detector::new(&model, &DetectorOptions::default())?;
    let stop = Stop::default();
    let totals = PipelineBuilder::new(&format!("pattern:{frames}"), &model, detector, &stop)?
        .analyzer(Crowd {
            limit: 0,
            crowded: false,
        })
        .sink(Print(io::stdout()))
        .build()
        .run(&stop)?;
    writeln!(io::stdout(), "{} frames", totals.frames)?;
    Ok(())
}

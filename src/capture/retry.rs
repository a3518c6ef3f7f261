//! Waiting for a camera that is gone, without burning the CPU and without ending the run.

use super::{CaptureError, Next, Source, SourceEvent};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// First and longest wait before another try.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A source that is opened again whenever it fails.
pub struct Retrying<S, F> {
    open: F,
    source: Option<S>,
    stop: Receiver<()>,
    wait: Duration,
    /// `Lost` was reported and `Found` not yet.
    lost: bool,
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Retrying<S, F> {
    /// Opens on the first call of [`Source::next`]; `stop` disconnects to end the waiting.
    pub fn new(open: F, stop: Receiver<()>) -> Retrying<S, F> {
        Retrying {
            open,
            source: None,
            stop,
            wait: BACK_OFF.0,
            lost: false,
        }
    }

    fn on_failure(&mut self, error: &CaptureError) -> Option<Next> {
        self.source = None;
        if !self.lost {
            self.lost = true;
            self.wait = BACK_OFF.0;
            tracing::warn!("camera lost: {error}; trying again until it is back");
            return Some(Next::Event(SourceEvent::Lost(error.to_string())));
        }
        tracing::debug!(
            "camera still lost: {error}; next try in {} s",
            self.wait.as_secs()
        );
        let waited = self.stop.recv_timeout(self.wait);
        self.wait = (2 * self.wait).min(BACK_OFF.1);
        (waited != Err(RecvTimeoutError::Timeout)).then_some(Next::End)
    }
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Source for Retrying<S, F> {
    fn next(&mut self) -> Result<Next, CaptureError> {
        loop {
            let result = match &mut self.source {
                Some(source) => source.next(),
                None => match (self.open)() {
                    Ok(source) => {
                        tracing::info!("camera: {}", source.describe());
                        self.source = Some(source);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Next::Frame(frame)) => {
                    if std::mem::take(&mut self.lost) {
                        // the frame that proves it is given up for the event
                        tracing::info!("camera found again");
                        return Ok(Next::Event(SourceEvent::Found));
                    }
                    return Ok(Next::Frame(frame));
                }
                Err(error) if !error.is_damaged_frame() => {
                    if let Some(next) = self.on_failure(&error) {
                        return Ok(next);
                    }
                }
                other => return other,
            }
        }
    }

    fn is_live(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.source
            .as_ref()
            .map_or_else(|| "camera not open yet".to_owned(), Source::describe)
    }

    fn fps(&self) -> Option<f64> {
        self.source.as_ref().and_then(Source::fps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Size};

    /// Gives one frame and then fails.
    struct OneFrame(bool);

    impl Source for OneFrame {
        fn next(&mut self) -> Result<Next, CaptureError> {
            if std::mem::replace(&mut self.0, true) {
                return Err(unplugged());
            }
            Ok(Next::Frame(Frame::from_rgb(0, Size::new(1, 1), vec![0; 3])))
        }

        fn is_live(&self) -> bool {
            true
        }

        fn describe(&self) -> String {
            "one frame".to_owned()
        }
    }

    fn unplugged() -> CaptureError {
        CaptureError::Camera {
            device: "test".to_owned(),
            reason: "unplugged".to_owned(),
        }
    }

    #[test]
    fn a_lost_camera_is_reported_once_found_once_and_frames_go_on() {
        let mut source = Retrying::new(|| Ok(OneFrame(false)), crossbeam_channel::never());
        assert!(matches!(source.next(), Ok(Next::Frame(_))));
        assert!(matches!(
            source.next(),
            Ok(Next::Event(SourceEvent::Lost(_)))
        ));
        assert!(matches!(source.next(), Ok(Next::Event(SourceEvent::Found))));
    }

    #[test]
    fn a_stop_ends_the_waiting_at_once() {
        let (trigger, stop) = crossbeam_channel::bounded(0);
        drop(trigger);
        let mut source = Retrying::new(|| Err::<OneFrame, _>(unplugged()), stop);
        assert!(matches!(
            source.next(),
            Ok(Next::Event(SourceEvent::Lost(_)))
        ));
        assert!(matches!(source.next(), Ok(Next::End)));
    }
}

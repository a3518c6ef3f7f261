//! A source that must give a frame: one that ends without any has failed, whatever it is made of.

use super::{CaptureError, Next, Source};
use crossbeam_channel::{Receiver, TryRecvError};
use std::error::Error as _;

/// A clip or a pipe whose end without one readable frame is an error with the reason.
pub(super) struct NotEmpty<S> {
    source: S,
    /// Disconnects when the run is to stop: then the end is none of the source's.
    stop: Receiver<()>,
    any_frame: bool,
    damaged: u64,
    /// Why the last damaged frame could not be read.
    last: String,
}

impl<S: Source> NotEmpty<S> {
    pub(super) fn new(source: S, stop: &Receiver<()>) -> NotEmpty<S> {
        NotEmpty {
            source,
            stop: stop.clone(),
            any_frame: false,
            damaged: 0,
            last: String::new(),
        }
    }

    fn nothing_read(&self) -> CaptureError {
        CaptureError::NothingRead {
            name: self.source.describe(),
            reason: match self.damaged {
                0 => "it ended before the first".to_owned(),
                frames => format!("{frames} are damaged, the last: {}", self.last),
            },
        }
    }
}

impl<S: Source> Source for NotEmpty<S> {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let next = self.source.next();
        if self.any_frame {
            return next;
        }
        match &next {
            Ok(Next::Frame(_)) => self.any_frame = true,
            Ok(Next::End) if self.stop.try_recv() != Err(TryRecvError::Disconnected) => {
                return Err(self.nothing_read());
            }
            Err(error) if error.is_damaged_frame() => {
                self.damaged += 1;
                self.last = match error.source() {
                    Some(cause) => cause.to_string(),
                    None => error.to_string(),
                };
            }
            _ => {}
        }
        next
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn fps(&self) -> Option<f64> {
        self.source.fps()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::raw::RawSource;
    use crate::capture::{CaptureOptions, test_options};
    use crate::frame::PixelFormat;
    use crate::geometry::Size;

    fn source(bytes: &'static [u8], stop: &Receiver<()>) -> NotEmpty<RawSource> {
        let options = CaptureOptions {
            format: Some(PixelFormat::Gray8),
            size: Some(Size::new(2, 1)),
            ..test_options()
        };
        let source = RawSource::open(Box::new(bytes), &options).unwrap();
        NotEmpty::new(source, stop)
    }

    #[test]
    fn an_end_without_a_frame_is_an_error_that_says_what_was_there() {
        let mut none = source(b"", &crossbeam_channel::never());
        let error = none.next().unwrap_err().to_string();
        assert!(
            error.contains("gave not one readable frame: it ended"),
            "{error}"
        );
        let mut damaged = source(b"1", &crossbeam_channel::never());
        assert!(damaged.next().unwrap_err().is_damaged_frame());
        let error = damaged.next().unwrap_err();
        assert!(!error.is_damaged_frame(), "{error}");
        assert!(
            error
                .to_string()
                .contains("1 are damaged, the last: a GRAY8 frame"),
            "{error}"
        );
    }

    #[test]
    fn an_end_after_a_frame_or_at_a_stop_is_none() {
        let mut whole = source(b"123", &crossbeam_channel::never());
        assert!(matches!(whole.next(), Ok(Next::Frame(_))));
        assert!(whole.next().unwrap_err().is_damaged_frame());
        assert!(matches!(whole.next(), Ok(Next::End)));
        let (trigger, stop) = crossbeam_channel::bounded(0);
        drop(trigger);
        assert!(matches!(source(b"", &stop).next(), Ok(Next::End)));
    }
}

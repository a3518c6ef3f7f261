//! Reopening a lost camera: retries with exponential back-off while the run continues.

use super::{CaptureError, CaptureOptions, Next, Source, SourceEvent};
use crate::clock::{Clock, MonoTime};
use crate::frame::Frame;
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::time::Duration;

/// Wait before the first retry; it doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait before a retry.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Maximum time to open a camera, without the wait for its first frame; after that it hangs.
const OPEN_TIME: Duration = Duration::from_secs(15);

/// A source that is opened again whenever it fails. The loss and the return are reported as
/// [`SourceEvent`]s.
pub struct Retrying<S, F> {
    /// Name for logs while the source is not open.
    name: String,
    open: F,
    source: Option<S>,
    /// Error of the opening in [`Retrying::opened`], until the next call reports it.
    failed: Option<CaptureError>,
    clock: Arc<dyn Clock>,
    stop: Receiver<()>,
    timeout: Duration,
    /// Wait before the next retry.
    wait: Duration,
    /// `Lost` was reported, `Found` not yet.
    lost: bool,
    /// The `retry_by` of the next retry was reported.
    announced: bool,
    /// Time of the first frame since the camera was opened.
    streaming_since: Option<MonoTime>,
    /// First frame after a loss; returned after the `Found` event.
    pending_frame: Option<Frame>,
    ids: IdOffset,
}

/// Keeps frame ids rising when a camera is opened again and its own ids restart at 0.
#[derive(Default)]
struct IdOffset {
    /// Added to the camera's own ids.
    offset: u64,
    next: u64,
}

impl IdOffset {
    fn assign(&mut self, frame: &mut Frame) {
        frame.meta.id += self.offset;
        self.next = frame.meta.id + 1;
    }

    fn restart(&mut self) {
        self.offset = self.next;
    }
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Retrying<S, F> {
    /// Opens the source at the first call of [`Source::next`], and again after every failure.
    pub fn new(name: String, open: F, options: &CaptureOptions) -> Retrying<S, F> {
        Retrying {
            name,
            open,
            source: None,
            failed: None,
            clock: Arc::clone(&options.clock),
            stop: options.stop.clone(),
            timeout: options.timeout,
            wait: FIRST_WAIT,
            lost: false,
            announced: false,
            streaming_since: None,
            pending_frame: None,
            ids: IdOffset::default(),
        }
    }

    /// Opens the source now, so that [`Source::describe`] has its mode. An error is reported by the
    /// first call of [`Source::next`].
    #[must_use]
    pub fn opened(mut self) -> Retrying<S, F> {
        match (self.open)() {
            Ok(source) => self.source = Some(source),
            Err(error) => self.failed = Some(error), // `next` reports it
        }
        self
    }

    /// Closes the source; returns the `Lost` event if the loss was not reported yet.
    fn on_failure(&mut self, error: &CaptureError) -> Option<Next> {
        self.source = None;
        self.ids.restart();
        let now = self.clock.now();
        let streamed_for = self.streaming_since.take().map(|since| now.since(since));
        // the event `Lost` has the time of the next retry
        self.announced = !self.lost;
        if std::mem::replace(&mut self.lost, true) {
            tracing::debug!("camera still lost: {error}");
            return None;
        }
        // a camera that keeps failing after a few frames must not be reopened in a tight loop
        if streamed_for.is_none_or(|time| time >= LONGEST_WAIT) {
            self.wait = FIRST_WAIT;
        }
        tracing::warn!("camera lost: {error}; trying again until it is back");
        Some(Next::Event(SourceEvent::Lost {
            reason: error.to_string(),
            retry_by: self.retry_by(),
        }))
    }

    /// Waits until the next retry is due; `true` if the run stopped meanwhile.
    fn wait_before_retry(&mut self) -> bool {
        self.announced = false;
        tracing::debug!("next retry in {} s", self.wait.as_secs());
        let stopped = self.clock.wait(&self.stop, self.wait);
        self.wait = (2 * self.wait).min(LONGEST_WAIT);
        stopped
    }

    /// When the next retry ends at the latest, unless it hangs.
    fn retry_by(&self) -> MonoTime {
        self.clock.now() + self.wait + OPEN_TIME + self.timeout
    }

    /// Numbers a frame and returns it; after a loss, returns the `Found` event first.
    fn on_frame(&mut self, mut frame: Frame) -> Next {
        self.ids.assign(&mut frame);
        let now = self.clock.now();
        self.streaming_since.get_or_insert(now);
        if !std::mem::take(&mut self.lost) {
            return Next::Frame(frame);
        }
        tracing::info!("camera found again");
        self.pending_frame = Some(frame);
        Next::Event(SourceEvent::Found)
    }
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Source for Retrying<S, F> {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if let Some(frame) = self.pending_frame.take() {
            return Ok(Next::Frame(frame));
        }
        loop {
            if self.source.is_none() && self.lost {
                if !std::mem::replace(&mut self.announced, true) {
                    let retry_by = self.retry_by();
                    return Ok(Next::Event(SourceEvent::Retrying { retry_by }));
                }
                if self.wait_before_retry() {
                    return Ok(Next::End);
                }
            }
            let result = match &mut self.source {
                Some(source) => source.next(),
                None => match self.failed.take().map_or_else(&mut self.open, Err) {
                    Ok(source) => {
                        tracing::info!("camera: {}", source.describe());
                        self.source = Some(source);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Next::Frame(frame)) => return Ok(self.on_frame(frame)),
                Err(error) if error.can_pass() => {
                    if let Some(lost) = self.on_failure(&error) {
                        return Ok(lost);
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
            .map_or_else(|| self.name.clone(), Source::describe)
    }

    fn fps(&self) -> Option<f64> {
        self.source.as_ref().and_then(Source::fps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;
    use crate::clock::SimClock;
    use crate::geometry::Size;

    /// Returns two frames, with the camera's own ids, and then fails.
    struct TwoFrames(u64);

    impl Source for TwoFrames {
        fn next(&mut self) -> Result<Next, CaptureError> {
            let id = self.0;
            self.0 += 1;
            match id {
                0 | 1 => Ok(Next::Frame(Frame::from_rgb(
                    id,
                    Size::new(1, 1),
                    vec![0; 3],
                ))),
                _ => Err(unplugged()),
            }
        }

        fn is_live(&self) -> bool {
            true
        }

        fn describe(&self) -> String {
            "two frames".to_owned()
        }
    }

    fn unplugged() -> CaptureError {
        CaptureError::Camera {
            device: "test".to_owned(),
            reason: "unplugged".to_owned(),
        }
    }

    /// `lost`, `found`, `end` or the frame's id.
    fn outcome(source: &mut impl Source) -> String {
        match source.next().unwrap() {
            Next::Frame(frame) => frame.meta.id.to_string(),
            Next::Event(SourceEvent::Retrying { .. }) => outcome(source),
            Next::Event(SourceEvent::Lost { .. }) => "lost".to_owned(),
            Next::Event(SourceEvent::Found) => "found".to_owned(),
            Next::End => "end".to_owned(),
        }
    }

    #[test]
    fn a_lost_camera_is_reported_once_found_once_and_frame_numbers_go_on_rising() {
        let open = || Ok(TwoFrames(0));
        let mut source = Retrying::new("test".to_owned(), open, &test_options());
        let outcomes: Vec<String> = (0..7).map(|_| outcome(&mut source)).collect();
        assert_eq!(outcomes, ["0", "1", "lost", "found", "2", "3", "lost"]);
    }

    #[test]
    fn a_stop_ends_the_waiting_at_once() {
        let (trigger, stop) = crossbeam_channel::bounded(0);
        drop(trigger);
        let options = CaptureOptions {
            stop,
            ..test_options()
        };
        let open = || Err::<TwoFrames, _>(unplugged());
        let mut source = Retrying::new("test".to_owned(), open, &options);
        assert_eq!(outcome(&mut source), "lost");
        assert_eq!(outcome(&mut source), "end");
    }

    #[test]
    fn the_waits_double_up_to_half_a_minute() {
        let clock = Arc::new(SimClock::default());
        let options = CaptureOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..test_options()
        };
        let tries = std::sync::Mutex::new(Vec::new());
        let open = || {
            let mut tries = tries.lock().unwrap();
            tries.push(clock.now().ns / 1_000_000_000);
            match tries.len() {
                8 => Ok(TwoFrames(0)),
                _ => Err(unplugged()),
            }
        };
        let mut source = Retrying::new("test".to_owned(), open, &options);
        assert_eq!(
            [outcome(&mut source), outcome(&mut source)],
            ["lost", "found"]
        );
        assert_eq!(
            *tries.lock().unwrap(),
            [0, 1, 3, 7, 15, 31, 61, 91],
            "seconds of each try"
        );
    }

    #[test]
    fn the_waits_also_double_for_a_camera_that_fails_after_a_few_frames() {
        let clock = Arc::new(SimClock::default());
        let options = CaptureOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..test_options()
        };
        let open = || Ok(TwoFrames(0));
        let mut source = Retrying::new("test".to_owned(), open, &options);
        let mut found = Vec::new();
        while found.len() < 4 {
            if outcome(&mut source) == "found" {
                found.push(clock.now().ns / 1_000_000_000);
            }
        }
        assert_eq!(found, [1, 3, 7, 15], "seconds");
        assert_eq!([outcome(&mut source), outcome(&mut source)], ["8", "9"]);
        clock.advance(LONGEST_WAIT);
        assert_eq!(
            [outcome(&mut source), outcome(&mut source)],
            ["lost", "found"]
        );
        assert_eq!(
            clock.now().ns / 1_000_000_000,
            46,
            "the back-off starts again"
        );
    }

    #[test]
    fn a_failure_at_the_start_is_reported_even_if_the_next_try_succeeds() {
        let mut tries = [Err(unplugged()), Ok(TwoFrames(0))].into_iter();
        let clock = Arc::new(SimClock::default());
        let options = CaptureOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..test_options()
        };
        let open = move || tries.next().unwrap();
        let mut source = Retrying::new("test".to_owned(), open, &options).opened();
        let outcomes = [
            outcome(&mut source),
            outcome(&mut source),
            outcome(&mut source),
        ];
        assert_eq!(outcomes, ["lost", "found", "0"]);
    }

    #[test]
    fn a_camera_is_described_by_its_name_until_it_is_open() {
        let open = || Err::<TwoFrames, _>(unplugged());
        let source = Retrying::new("/dev/video9".to_owned(), open, &test_options()).opened();
        assert_eq!(source.describe(), "/dev/video9");
        let open = || Ok(TwoFrames(0));
        let source = Retrying::new("/dev/video9".to_owned(), open, &test_options()).opened();
        assert_eq!(source.describe(), "two frames");
    }
}

//! Waiting for a camera that is gone, without burning the CPU and without ending the run.

use super::{CaptureError, CaptureOptions, Next, Source, SourceEvent};
use crate::clock::{Clock, MonoTime};
use crate::frame::Frame;
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::time::Duration;

/// First and longest wait before another try.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Opening a camera may take this long, besides the wait for its first frame, before it counts as
/// hanging.
const OPENING: Duration = Duration::from_secs(15);

/// A source that is opened again whenever it fails.
pub struct Retrying<S, F> {
    /// What the user named.
    name: String,
    open: F,
    source: Option<S>,
    /// Why it could not be opened at the start, until that is reported.
    failed: Option<CaptureError>,
    clock: Arc<dyn Clock>,
    stop: Receiver<()>,
    timeout: Duration,
    /// Before the next try.
    wait: Duration,
    /// `Lost` was reported and `Found` not yet.
    lost: bool,
    /// The next try's `retry_by` was reported.
    announced: bool,
    /// When the camera began to send.
    sends_since: Option<MonoTime>,
    /// The frame that proved that the camera is back; it follows the event.
    proof: Option<Frame>,
    ids: Ids,
}

/// Frame numbers that go on rising when a camera is opened again and starts to count anew.
#[derive(Default)]
struct Ids {
    /// What is added to the camera's own numbers.
    offset: u64,
    next: u64,
}

impl Ids {
    fn number(&mut self, frame: &mut Frame) {
        frame.meta.id += self.offset;
        self.next = frame.meta.id + 1;
    }

    fn start_anew(&mut self) {
        self.offset = self.next;
    }
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Retrying<S, F> {
    /// Opens on the first call of [`Source::next`], and again as often as needed.
    pub fn new(name: String, open: F, options: &CaptureOptions) -> Retrying<S, F> {
        Retrying {
            name,
            open,
            source: None,
            failed: None,
            clock: Arc::clone(&options.clock),
            stop: options.stop.clone(),
            timeout: options.timeout,
            wait: BACK_OFF.0,
            lost: false,
            announced: false,
            sends_since: None,
            proof: None,
            ids: Ids::default(),
        }
    }

    /// A camera that is there is opened at once, so that [`Source::describe`] knows its mode.
    #[must_use]
    pub fn opened(mut self) -> Retrying<S, F> {
        match (self.open)() {
            Ok(source) => self.source = Some(source),
            Err(error) => self.failed = Some(error), // reported by the first call of `next`
        }
        self
    }

    /// The event when the camera was not known to be lost.
    fn on_failure(&mut self, error: &CaptureError) -> Option<Next> {
        self.source = None;
        self.ids.start_anew();
        let now = self.clock.now();
        let sent_for = self.sends_since.take().map(|since| now.since(since));
        // the loss itself says when the next try is due
        self.announced = !self.lost;
        if std::mem::replace(&mut self.lost, true) {
            tracing::debug!("camera still lost: {error}");
            return None;
        }
        // one that fails again and again after few frames is not to be opened in a tight loop
        if sent_for.is_none_or(|time| time >= BACK_OFF.1) {
            self.wait = BACK_OFF.0;
        }
        tracing::warn!("camera lost: {error}; trying again until it is back");
        Some(Next::Event(SourceEvent::Lost {
            reason: error.to_string(),
            retry_by: self.retry_by(),
        }))
    }

    /// Waits for the time of the next try; whether the run stopped meanwhile.
    fn wait_for_try(&mut self) -> bool {
        self.announced = false;
        tracing::debug!("next try in {} s", self.wait.as_secs());
        let stopped = self.clock.wait(&self.stop, self.wait);
        self.wait = (2 * self.wait).min(BACK_OFF.1);
        stopped
    }

    /// When the next try will have ended, unless it hangs.
    fn retry_by(&self) -> MonoTime {
        self.clock.now() + self.wait + OPENING + self.timeout
    }

    /// Numbers a frame; the event when it proves that a lost camera is back.
    fn on_frame(&mut self, mut frame: Frame) -> Next {
        self.ids.number(&mut frame);
        let now = self.clock.now();
        self.sends_since.get_or_insert(now);
        if !std::mem::take(&mut self.lost) {
            return Next::Frame(frame);
        }
        tracing::info!("camera found again");
        self.proof = Some(frame);
        Next::Event(SourceEvent::Found)
    }
}

impl<S: Source, F: FnMut() -> Result<S, CaptureError> + Send> Source for Retrying<S, F> {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if let Some(frame) = self.proof.take() {
            return Ok(Next::Frame(frame));
        }
        loop {
            if self.source.is_none() && self.lost {
                if !std::mem::replace(&mut self.announced, true) {
                    let retry_by = self.retry_by();
                    return Ok(Next::Event(SourceEvent::Retrying { retry_by }));
                }
                if self.wait_for_try() {
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

    /// Gives two frames, with the camera's own numbers, and then fails.
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

    /// `lost`, `found`, `end` or the frame's number.
    fn said(source: &mut impl Source) -> String {
        match source.next().unwrap() {
            Next::Frame(frame) => frame.meta.id.to_string(),
            Next::Event(SourceEvent::Retrying { .. }) => said(source),
            Next::Event(SourceEvent::Lost { .. }) => "lost".to_owned(),
            Next::Event(SourceEvent::Found) => "found".to_owned(),
            Next::End => "end".to_owned(),
        }
    }

    #[test]
    fn a_lost_camera_is_reported_once_found_once_and_frame_numbers_go_on_rising() {
        let open = || Ok(TwoFrames(0));
        let mut source = Retrying::new("test".to_owned(), open, &test_options());
        let said: Vec<String> = (0..7).map(|_| said(&mut source)).collect();
        assert_eq!(said, ["0", "1", "lost", "found", "2", "3", "lost"]);
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
        assert_eq!(said(&mut source), "lost");
        assert_eq!(said(&mut source), "end");
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
        assert_eq!([said(&mut source), said(&mut source)], ["lost", "found"]);
        assert_eq!(
            *tries.lock().unwrap(),
            [0, 1, 3, 7, 15, 31, 61, 91],
            "seconds of each try"
        );
    }

    #[test]
    fn a_camera_that_fails_after_every_few_frames_is_opened_ever_more_seldom() {
        let clock = Arc::new(SimClock::default());
        let options = CaptureOptions {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..test_options()
        };
        let open = || Ok(TwoFrames(0));
        let mut source = Retrying::new("test".to_owned(), open, &options);
        let mut found = Vec::new();
        while found.len() < 4 {
            if said(&mut source) == "found" {
                found.push(clock.now().ns / 1_000_000_000);
            }
        }
        assert_eq!(found, [1, 3, 7, 15], "seconds");
        assert_eq!([said(&mut source), said(&mut source)], ["8", "9"]);
        clock.advance(BACK_OFF.1);
        assert_eq!([said(&mut source), said(&mut source)], ["lost", "found"]);
        assert_eq!(clock.now().ns / 1_000_000_000, 46, "it had been well");
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
        let said = [said(&mut source), said(&mut source), said(&mut source)];
        assert_eq!(said, ["lost", "found", "0"]);
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

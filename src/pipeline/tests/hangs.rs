//! Stages that hang, as in a system call that never returns, and the end of the run around them.

use super::*;
use std::time::Instant;

/// Where a source hangs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Next,
    Close,
}

/// Gives one frame and then hangs until `release` disconnects.
struct HangingSource {
    place: Place,
    gave_frame: bool,
    stop: Receiver<()>,
    entered: Sender<()>,
    release: Receiver<()>,
}

impl HangingSource {
    fn hang(&self) {
        let _ = self.entered.send(());
        let _ = self.release.recv();
    }
}

impl Source for HangingSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if !std::mem::replace(&mut self.gave_frame, true) {
            return Ok(Next::Frame(frame(0)));
        }
        match self.place {
            Place::Next => self.hang(),
            Place::Close => drop(self.stop.recv()),
        }
        Ok(Next::End)
    }

    fn is_live(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "hangs".to_owned()
    }
}

impl Drop for HangingSource {
    fn drop(&mut self) {
        if self.place == Place::Close {
            self.hang();
        }
    }
}

impl Driver {
    /// Moves the clock in steps until the run has ended, and tells how far.
    fn until_ended(&self) -> Duration {
        let (step, mut passed) = (Duration::from_millis(100), Duration::ZERO);
        while !self.ended.load(Relaxed) {
            self.clock.advance(step);
            passed += step;
            // real time for the run to see it: with too little, on a busy machine, stages that do
            // not hang would be left behind too
            let until = Instant::now() + Duration::from_millis(10);
            while !self.ended.load(Relaxed) && Instant::now() < until {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        passed
    }
}

#[test]
fn a_source_that_hangs_is_left_behind_after_an_interrupt_and_after_a_while_at_any_stop() {
    for place in [Place::Next, Place::Close] {
        for interrupts in [true, false] {
            let mut rig = Rig::new(true);
            let seen = rig.collector();
            let (entered, entries) = unbounded();
            let (hold, release) = bounded::<()>(0);
            rig.pipeline.source = Box::new(HangingSource {
                place,
                gave_frame: false,
                stop: rig.stop.signal().clone(),
                entered,
                release,
            });
            rig.drive(|run| {
                run.permit_all();
                assert_eq!(run.detecting(), 0);
                match interrupts {
                    true => assert!(run.stop.interrupt()),
                    false => assert!(run.stop.stop()),
                }
                assert_eq!(entries.recv(), Ok(()));
                let passed = run.until_ended();
                let least = if interrupts { 1 } else { 10 };
                assert!(passed >= Duration::from_secs(least), "{passed:?}");
            })
            .unwrap();
            assert_eq!(seen.all(), ["run", "0", "stats", "finished"], "{place:?}");
            drop(hold);
        }
    }
}

#[test]
fn an_output_that_hangs_is_left_behind_after_an_interrupt_alone_and_the_others_are_complete() {
    for policy in [Queue::Bounded(4), Queue::Lossless(1)] {
        let mut rig = Rig::new(false);
        let (entered, entries) = unbounded();
        let (release, released) = bounded::<()>(0);
        let stuck = Behaviour::Stuck(entered, released);
        let stuck = rig.sink("stuck", policy, stuck);
        let others = rig.collector();
        let metrics = Arc::clone(&rig.metrics);
        let error = rig
            .drive(|run| {
                run.permit_all();
                for id in 0..3 {
                    run.steps.send(Step::Frame(id)).unwrap();
                }
                assert_eq!(entries.recv(), Ok(0), "stuck from here on");
                run.stop.stop();
                // an ordinary stop waits: the reader may only be slow
                run.clock.advance(Duration::from_secs(3600));
                assert!(!run.ended.load(Relaxed));
                assert!(run.stop.interrupt());
                run.until_ended();
            })
            .unwrap_err();
        let PipelineError::LeftBehind { output, messages } = error else {
            panic!("{error}");
        };
        assert_eq!(output, "stuck");
        assert_eq!(metrics.losses_of("stuck").get(), messages);
        assert!(messages >= 1, "the last figures at least");
        assert_eq!(stuck.all(), ["run"]);
        let others = others.all();
        assert_eq!(others.first().unwrap(), "run");
        assert_eq!(others[others.len() - 2..], ["stats", "finished"]);
        drop(release);
    }
}

#[test]
fn a_detector_that_hangs_is_left_behind_and_begins_no_frame_after_an_interrupt() {
    let mut rig = Rig::new(false);
    let seen = rig.collector();
    rig.drive(|run| {
        run.frame(0);
        assert_eq!(run.detecting(), 0); // and it waits for its permit
        run.steps.send(Step::Frame(1)).unwrap();
        assert!(run.stop.interrupt());
        let passed = run.until_ended();
        assert!(passed >= Duration::from_secs(2), "{passed:?}");
        run.permit_all();
        assert!(run.started.recv().is_err(), "no other frame is begun");
    })
    .unwrap();
    assert_eq!(seen.all(), ["run", "stats", "finished"]);
}

#[test]
fn a_stage_that_hangs_does_not_hide_the_failure_of_another() {
    let mut rig = Rig::new(true);
    let (entered, entries) = unbounded();
    let (_release, released) = bounded::<()>(0);
    rig.sink(
        "stuck",
        Queue::Bounded(1),
        Behaviour::Stuck(entered, released),
    );
    let error = rig
        .drive(|run| {
            run.permit_all();
            run.frame(0);
            assert_eq!(entries.recv(), Ok(0));
            run.steps.send(Step::Fail).unwrap();
            run.stop.signal().recv().unwrap_err();
            assert!(run.stop.interrupt());
            run.until_ended();
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "camera 'test': gone");
}

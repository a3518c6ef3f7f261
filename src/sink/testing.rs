//! Messages for tests of sinks and queues.

use super::FrameMessage;
use super::picture::PictureMaker;
use crate::detection::{Labels, StageTimes};
use crate::frame::Frame;
use crate::geometry::Size;
use crate::message::{Report, RunInfo};
use crate::stats::Snapshot;
use std::sync::Arc;

/// The message of a frame without detections, with its picture.
pub(crate) fn message_of(frame: Frame, pictures: &Arc<PictureMaker>) -> FrameMessage {
    let report = Arc::new(Report {
        run: Arc::new(RunInfo::of_labels("test", Labels::new(&[]))),
        frame: frame.meta,
        detections: Vec::new(),
        times: StageTimes::default(),
        dropped: 0,
        stats: Arc::new(Snapshot::default()),
        counts: None,
    });
    FrameMessage {
        picture: Some(Arc::new(
            pictures.picture(Arc::clone(&report), frame.pixels),
        )),
        report,
    }
}

/// The message of a tiny frame.
pub(crate) fn frame_message(id: u64) -> FrameMessage {
    let pictures = PictureMaker::new(Labels::new(&[]), false);
    message_of(
        Frame::from_rgb(id, Size::new(8, 8), vec![0; 3 * 64]),
        &pictures,
    )
}

//! A test pattern: colour bars and a moving square. Needs no file and no camera.

use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::convert::Infallible;
use std::time::Duration;

/// Generates the test pattern; its pixels are the same on every machine.
pub struct PatternSource {
    size: Size,
    /// Frames left; `None` = endless.
    left: Option<u64>,
    fps: Option<f64>,
    framer: Framer,
    stop: crossbeam_channel::Receiver<()>,
}

/// RGB of the bars, from the left.
const BARS: [[u8; 3]; 8] = [
    [235, 235, 235],
    [235, 235, 16],
    [16, 235, 235],
    [16, 235, 16],
    [235, 16, 235],
    [235, 16, 16],
    [16, 16, 235],
    [16, 16, 16],
];

impl PatternSource {
    /// `frames` frames, or endless. With `options.fps` one frame per interval, else as fast as they
    /// are read.
    pub fn new(frames: Option<u64>, options: &CaptureOptions) -> PatternSource {
        PatternSource {
            size: options.size.unwrap_or(Size::new(640, 480)),
            left: frames,
            fps: options.fps,
            framer: Framer::new(options),
            stop: options.stop.clone(),
        }
    }
}

impl Source for PatternSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        if self.left == Some(0) {
            return Ok(Next::End);
        }
        self.left = self.left.map(|left| left - 1);
        if let Some(fps) = self.fps {
            // the wait ends early when the run stops
            let _ = self.stop.recv_timeout(Duration::from_secs_f64(1.0 / fps));
        }
        let (size, number) = (self.size, self.framer.next_id);
        let Ok(frame) = self.framer.frame(PixelFormat::Rgb8, |pool| {
            let mut rgb = pool.take(3 * size.area());
            draw(size, number, &mut rgb);
            Ok::<_, Infallible>((size, rgb))
        });
        Ok(Next::Frame(frame))
    }

    /// A pattern with a frame rate behaves like a camera.
    fn is_live(&self) -> bool {
        self.fps.is_some()
    }

    fn describe(&self) -> String {
        format!("pattern ({})", self.size)
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

/// Draws the bars and a white square that moves along the middle, 4 px per frame.
fn draw(size: Size, number: u64, rgb: &mut [u8]) {
    let (width, height) = (size.width as usize, size.height as usize);
    let side = (height / 8).max(1);
    let left = (4 * number as usize) % width;
    let rows = height / 2 - side / 2..height / 2 - side / 2 + side;
    for (y, row) in rgb.chunks_exact_mut(3 * width).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let inside = rows.contains(&y) && (left..left + side).contains(&x);
            pixel.copy_from_slice(if inside {
                &[255; 3]
            } else {
                &BARS[x * BARS.len() / width]
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::test_options;

    #[test]
    fn the_square_walks_and_the_source_ends() {
        let mut source = PatternSource::new(Some(2), &test_options());
        let mut frame = || match source.next().unwrap() {
            Next::Frame(frame) => Some((frame.meta.id, frame.pixels.to_vec())),
            _ => None,
        };
        let (first, second) = (frame().unwrap(), frame().unwrap());
        assert_eq!((first.0, second.0), (0, 1));
        assert_ne!(first.1, second.1);
        assert!(frame().is_none());
    }
}

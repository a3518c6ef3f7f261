//! From a frame to the network's input: letterbox, keeping the way back for the boxes.

use crate::frame::{Frame, Size};
use crate::postprocess::BBox;
use fast_image_resize as fir;
use fir::images::{CroppedImageMut, Image, ImageRef};

/// How a frame was placed in the network's input, and the way back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Frame size in pixels.
    pub frame: Size,
    /// Input size in pixels.
    pub input: Size,
    /// The resized picture inside the input, in whole input pixels.
    pub inner: Size,
    /// Columns of border on the left.
    pub pad_x: u32,
    /// Rows of border on top.
    pub pad_y: u32,
}

impl Letterbox {
    /// The largest centred copy of `frame` inside `input` that keeps its aspect.
    pub fn fit(frame: Size, input: Size) -> Letterbox {
        let scale = f64::min(
            f64::from(input.width) / f64::from(frame.width),
            f64::from(input.height) / f64::from(frame.height),
        );
        let side = |px: u32, limit: u32| ((f64::from(px) * scale).round() as u32).clamp(1, limit);
        let inner = Size::new(
            side(frame.width, input.width),
            side(frame.height, input.height),
        );
        Letterbox {
            frame,
            input,
            inner,
            pad_x: (input.width - inner.width) / 2,
            pad_y: (input.height - inner.height) / 2,
        }
    }

    /// A box in input pixels, in frame pixels and clamped to the frame.
    pub fn to_frame(&self, x0: f32, y0: f32, x1: f32, y1: f32) -> BBox {
        let scale_x = self.frame.width as f32 / self.inner.width as f32;
        let scale_y = self.frame.height as f32 / self.inner.height as f32;
        let (pad_x, pad_y) = (self.pad_x as f32, self.pad_y as f32);
        BBox::clamped(
            (x0 - pad_x) * scale_x,
            (y0 - pad_y) * scale_y,
            (x1 - pad_x) * scale_x,
            (y1 - pad_y) * scale_y,
            self.frame,
        )
    }
}

/// The input size for a frame: the long side becomes `long_side`, the short side is rounded up
/// to a multiple of `multiple`, so that little is spent on borders.
pub fn input_size_for(frame: Size, long_side: u32, multiple: u32) -> Size {
    let longest = frame.width.max(frame.height).max(1);
    let side = |px: u32| {
        let scaled = (f64::from(px) * f64::from(long_side) / f64::from(longest)).round() as u32;
        scaled.clamp(1, long_side).next_multiple_of(multiple)
    };
    Size::new(side(frame.width), side(frame.height))
}

/// A batch of letterboxed pictures, 8-bit RGB; engines normalise.
#[derive(Clone, Debug, Default)]
pub struct ModelInput {
    /// Pictures.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[batch, height, width, 3]`, values 0..=255.
    pub data: Vec<u8>,
    /// Where each picture came from.
    pub letterboxes: Vec<Letterbox>,
}

/// Why a frame cannot be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot resize a {frame} frame to {input}: {reason}")]
pub struct PreprocessError {
    frame: Size,
    input: Size,
    reason: String,
}

/// Letterboxes frames into a reused buffer.
pub struct Preprocessor {
    resizer: fir::Resizer,
    options: fir::ResizeOptions,
    pad_value: u8,
}

impl Preprocessor {
    /// `pad_value` is the grey level of the border, 0..=255.
    pub fn new(pad_value: u8) -> Preprocessor {
        Preprocessor {
            resizer: fir::Resizer::new(),
            // Convolution averages when it shrinks, as the training's area resize does; plain
            // bilinear sampling would alias small people away.
            options: fir::ResizeOptions::new()
                .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear)),
            pad_value,
        }
    }

    /// Places `frame` in a batch of one of `size` pixels.
    ///
    /// # Errors
    /// When the frame's bytes do not match its size.
    pub fn letterbox(
        &mut self,
        frame: &Frame,
        size: Size,
        input: &mut ModelInput,
    ) -> Result<(), PreprocessError> {
        let letterbox = Letterbox::fit(frame.size, size);
        let fail = |reason: String| PreprocessError {
            frame: frame.size,
            input: size,
            reason,
        };
        let (width, height) = (size.width as usize, size.height as usize);
        if input.letterboxes.as_slice() != [letterbox] {
            // the border is written only when the geometry changes
            input.data.clear();
            input.data.resize(3 * width * height, self.pad_value);
            input.letterboxes.clear();
            input.letterboxes.push(letterbox);
            (input.batch, input.height, input.width) = (1, height, width);
        }
        let source = ImageRef::new(
            frame.size.width,
            frame.size.height,
            &frame.data,
            fir::PixelType::U8x3,
        )
        .map_err(|e| fail(e.to_string()))?;
        let mut canvas = Image::from_slice_u8(
            size.width,
            size.height,
            &mut input.data,
            fir::PixelType::U8x3,
        )
        .map_err(|e| fail(e.to_string()))?;
        let mut inner = CroppedImageMut::new(
            &mut canvas,
            letterbox.pad_x,
            letterbox.pad_y,
            letterbox.inner.width,
            letterbox.inner.height,
        )
        .map_err(|e| fail(e.to_string()))?;
        self.resizer
            .resize(&source, &mut inner, &self.options)
            .map_err(|e| fail(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_side_is_rounded_up_to_the_stride() {
        assert_eq!(
            input_size_for(Size::new(768, 576), 320, 32),
            Size::new(320, 256)
        );
        assert_eq!(
            input_size_for(Size::new(1280, 720), 640, 32),
            Size::new(640, 384)
        );
        assert_eq!(
            input_size_for(Size::new(1, 4000), 320, 32),
            Size::new(32, 320)
        );
    }

    #[test]
    fn a_box_comes_back_where_it_was() {
        let letterbox = Letterbox::fit(Size::new(768, 576), Size::new(320, 256));
        assert_eq!(
            (letterbox.inner, letterbox.pad_x, letterbox.pad_y),
            (Size::new(320, 240), 0, 8)
        );
        let bbox = letterbox.to_frame(10.0, 18.0, 20.0, 28.0);
        assert_eq!(
            (bbox.x0(), bbox.y0(), bbox.x1(), bbox.y1()),
            (24.0, 24.0, 48.0, 48.0)
        );
    }

    #[test]
    fn the_border_is_grey_and_the_picture_is_inside() {
        let frame = Frame::from_rgb(0, Size::new(64, 32), vec![200; 3 * 64 * 32]);
        let mut input = ModelInput::default();
        Preprocessor::new(114)
            .letterbox(&frame, Size::new(64, 64), &mut input)
            .unwrap();
        let row = |y: usize| &input.data[3 * 64 * y..3 * 64 * (y + 1)];
        assert!(row(0).iter().all(|&v| v == 114) && row(15).iter().all(|&v| v == 114));
        assert!(row(16).iter().all(|&v| v == 200) && row(47).iter().all(|&v| v == 200));
        assert!(row(48).iter().all(|&v| v == 114));
    }
}

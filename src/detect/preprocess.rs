//! Preprocessing: letterboxes a frame into the network's input and returns the geometry, with which
//! boxes are mapped back to the frame.

use crate::frame::Frame;
use crate::geometry::Letterbox;
use crate::geometry::Size;
use crate::tensor::Batch;
use fast_image_resize as fir;
use fir::images::{CroppedImageMut, Image, ImageRef};

/// A frame that cannot be letterboxed.
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
    /// Geometry for which the border in the caller's buffer was written.
    bordered: Option<Letterbox>,
}

impl Preprocessor {
    /// `pad_value` is the grey level of the border, 0..=255.
    pub fn new(pad_value: u8) -> Preprocessor {
        Preprocessor {
            resizer: fir::Resizer::new(),
            // Convolution averages when it scales down, like the area resize in training; plain
            // bilinear sampling would alias, so that small objects vanish.
            options: fir::ResizeOptions::new()
                .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear)),
            pad_value,
            bordered: None,
        }
    }

    /// Scales `frame` into `input`, which becomes a batch of one (`[1, height, width, 3]`) of `size`,
    /// and returns the geometry. Pass the same buffer in every call: its border is rewritten only if
    /// the geometry changes.
    ///
    /// # Errors
    /// If the frame's bytes do not match its size.
    pub fn letterbox(
        &mut self,
        frame: &Frame,
        size: Size,
        input: &mut Batch,
    ) -> Result<Letterbox, PreprocessError> {
        let letterbox = Letterbox::fit(frame.meta.size, size);
        let fail = |reason: String| PreprocessError {
            frame: frame.meta.size,
            input: size,
            reason,
        };
        let (width, height) = (size.width as usize, size.height as usize);
        if self.bordered != Some(letterbox) || input.data.len() != 3 * width * height {
            // the border is written only when the geometry changes
            input.data.clear();
            input.data.resize(3 * width * height, self.pad_value);
            self.bordered = Some(letterbox);
            (input.batch, input.height, input.width) = (1, height, width);
        }
        let source = ImageRef::new(
            frame.meta.size.width,
            frame.meta.size.height,
            &frame.pixels,
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
            .map_err(|e| fail(e.to_string()))?;
        Ok(letterbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_grey_and_the_picture_is_inside() {
        let frame = Frame::from_rgb(0, Size::new(64, 32), vec![200; 3 * 64 * 32]);
        let mut input = Batch::default();
        Preprocessor::new(114)
            .letterbox(&frame, Size::new(64, 64), &mut input)
            .unwrap();
        let row = |y: usize| &input.data[3 * 64 * y..3 * 64 * (y + 1)];
        assert!(row(0).iter().all(|&v| v == 114) && row(15).iter().all(|&v| v == 114));
        assert!(row(16).iter().all(|&v| v == 200) && row(47).iter().all(|&v| v == 200));
        assert!(row(48).iter().all(|&v| v == 114));
    }
}

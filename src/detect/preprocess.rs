//! Preprocessing: letterboxes frames, or rectangles of them, into the network's input.

use crate::frame::Frame;
use crate::geometry::{Region, Size};
use crate::tensor::Batch;
use fast_image_resize as fir;
use fir::images::{TypedCroppedImage, TypedCroppedImageMut, TypedImage, TypedImageRef};
use fir::pixels::U8x3;

/// A frame that cannot be letterboxed.
#[derive(Debug, thiserror::Error)]
#[error("cannot resize a {frame} frame to {input}: {reason}")]
pub struct PreprocessError {
    frame: Size,
    input: Size,
    reason: String,
}

/// Letterboxes regions of frames into a reused buffer.
pub struct Preprocessor {
    resizer: fir::Resizer,
    options: fir::ResizeOptions,
    pad_value: u8,
    /// Geometry of each picture for which the border in the caller's buffer was written.
    bordered: Vec<Region>,
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
            bordered: Vec::new(),
        }
    }

    /// Scales a whole frame into `input`, which becomes a batch of one, and returns the geometry.
    ///
    /// # Errors
    /// If the frame's bytes do not match its size.
    pub fn letterbox(
        &mut self,
        frame: &Frame,
        size: Size,
        input: &mut Batch,
    ) -> Result<Region, PreprocessError> {
        let region = Region::whole(frame.meta.size, size);
        self.begin(&[region], 1, input);
        self.scale(frame, &region, 0, input)?;
        Ok(region)
    }

    /// Makes `input` a batch for `regions` of each of `frames` frames (`[frames × regions, height,
    /// width, 3]`); all regions have the same input size. Pass the same buffer in every call: it
    /// grows only when the geometry changes, and only then is its border written.
    pub fn begin(&mut self, regions: &[Region], frames: usize, input: &mut Batch) {
        let size = regions.first().map_or(Size::default(), |first| first.input);
        let (width, height) = (size.width as usize, size.height as usize);
        let batch = frames * regions.len();
        if self.bordered == regions
            && input.batch == batch
            && input.data.len() == batch * 3 * width * height
        {
            return;
        }
        input.data.clear();
        input
            .data
            .resize(batch * 3 * width * height, self.pad_value);
        (input.batch, input.height, input.width) = (batch, height, width);
        self.bordered.clear();
        self.bordered.extend_from_slice(regions);
    }

    /// Scales `region` of `frame` into picture `item` of the batch that [`Preprocessor::begin`] made,
    /// without copying the rectangle first.
    ///
    /// # Errors
    /// If the frame's bytes do not match its size.
    pub fn scale(
        &mut self,
        frame: &Frame,
        region: &Region,
        item: usize,
        input: &mut Batch,
    ) -> Result<(), PreprocessError> {
        let Region {
            size, input: to, ..
        } = *region;
        let fail = |reason: String| PreprocessError {
            frame: frame.meta.size,
            input: to,
            reason,
        };
        let bytes = 3 * to.area();
        let picture = input
            .data
            .get_mut(item * bytes..(item + 1) * bytes)
            .ok_or_else(|| fail(format!("the batch has no picture {item}")))?;
        let frame_size = frame.meta.size;
        // one pixel type and one view type: each further one adds 2 MB of kernels to the program
        let source =
            TypedImageRef::<U8x3>::from_buffer(frame_size.width, frame_size.height, &frame.pixels)
                .map_err(|e| fail(e.to_string()))?;
        let part =
            TypedCroppedImage::from_ref(&source, region.x, region.y, size.width, size.height)
                .map_err(|e| fail(e.to_string()))?;
        let mut canvas = TypedImage::<U8x3>::from_buffer(to.width, to.height, picture)
            .map_err(|e| fail(e.to_string()))?;
        let mut inner = TypedCroppedImageMut::from_ref(
            &mut canvas,
            region.pad_x,
            region.pad_y,
            region.inner.width,
            region.inner.height,
        )
        .map_err(|e| fail(e.to_string()))?;
        self.resizer
            .resize_typed(&part, &mut inner, &self.options)
            .map_err(|e| fail(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Tiling;

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

    /// Noise, the same in every run.
    fn noise(id: u64, size: Size) -> Frame {
        let mut random = fastrand::Rng::with_seed(id);
        let bytes = std::iter::repeat_with(|| random.u8(..));
        Frame::from_rgb(id, size, bytes.take(3 * size.area()).collect())
    }

    /// The rectangle of a region as a frame of its own.
    fn cut_out(frame: &Frame, region: &Region) -> Frame {
        let (x, width) = (3 * region.x as usize, 3 * region.size.width as usize);
        let rows = frame
            .pixels
            .chunks_exact(3 * frame.meta.size.width as usize);
        let rows = rows
            .skip(region.y as usize)
            .take(region.size.height as usize);
        let bytes = rows.flat_map(|row| &row[x..x + width]).copied().collect();
        Frame::from_rgb(0, region.size, bytes)
    }

    #[test]
    fn a_tile_is_scaled_as_if_it_were_a_frame() {
        let frames = [noise(1, Size::new(203, 117)), noise(2, Size::new(203, 117))];
        let tiling = Tiling {
            tiles: "3x2".parse().unwrap(),
            ..Tiling::default()
        };
        let mut regions = Vec::new();
        tiling.regions(frames[0].meta.size, Size::new(64, 96), &mut regions);
        let mut preprocessor = Preprocessor::new(114);
        let mut input = Batch::default();
        preprocessor.begin(&regions, frames.len(), &mut input);
        for (item, (frame, region)) in frames
            .iter()
            .flat_map(|frame| regions.iter().map(move |region| (frame, region)))
            .enumerate()
        {
            preprocessor.scale(frame, region, item, &mut input).unwrap();
        }
        assert_eq!((input.batch, input.height, input.width), (14, 96, 64));
        let mut alone = Batch::default();
        let pictures = input.data.chunks_exact(3 * 64 * 96);
        let parts = frames
            .iter()
            .flat_map(|frame| regions.iter().map(|region| cut_out(frame, region)));
        for (picture, part) in pictures.zip(parts) {
            Preprocessor::new(114)
                .letterbox(&part, Size::new(64, 96), &mut alone)
                .unwrap();
            assert!(picture == alone.data, "{}", part.meta.size);
        }
    }

    #[test]
    fn another_geometry_writes_the_border_anew() {
        let mut preprocessor = Preprocessor::new(114);
        let (mut input, mut fresh) = (Batch::default(), Batch::default());
        for size in [Size::new(64, 32), Size::new(32, 64), Size::new(64, 32)] {
            let frame = noise(3, size);
            preprocessor
                .letterbox(&frame, Size::new(64, 64), &mut input)
                .unwrap();
            Preprocessor::new(114)
                .letterbox(&frame, Size::new(64, 64), &mut fresh)
                .unwrap();
            assert!(input.data == fresh.data, "{size}");
        }
    }
}

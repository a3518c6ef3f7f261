//! Decoding of frames and image files to packed RGB.
//!
//! YUYV, UYVY, NV12 and I420 are BT.601 with limited range (16..=235) unless a camera's driver
//! reports another coding; other programs are configured to send that one. JPEG (JFIF) is BT.601
//! with full range, which its decoder applies.

use super::jpeg::{self, JpegError, Origin};
use crate::frame::{FramePool, PixelFormat, PooledBuf};
use crate::geometry::Size;
use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageFormatHint;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageResult, Limits, RgbImage};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use yuv::{
    YuvBiPlanarImage, YuvConversionMode, YuvPackedImage, YuvPlanarImage, YuvRange,
    YuvStandardMatrix,
};

/// Maximum side of an image or frame, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Maximum pixels of an image or frame: 64 Mpx are 192 MB of RGB.
pub(super) const MAX_PIXELS: u64 = 64 << 20;

/// A frame that cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Fewer or more bytes than the format has at this size.
    #[error("a {format} frame of {size} has {expected} bytes, got {got}")]
    Length {
        /// Pixel format.
        format: PixelFormat,
        /// Frame size.
        size: Size,
        /// Bytes of a complete frame.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// The driver flagged the frame as corrupt (`V4L2_BUF_FLAG_ERROR`).
    #[error("the driver marked it as damaged")]
    Flagged,
    /// A JPEG that cannot be read.
    #[error(transparent)]
    Jpeg(#[from] JpegError),
    /// The colour conversion failed.
    #[error("cannot convert a {format} frame of {size}: {reason}")]
    Convert {
        /// Pixel format.
        format: PixelFormat,
        /// Frame size.
        size: Size,
        /// The library's error.
        reason: String,
    },
}

/// An image file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot read the image '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("the image '{}' is empty (0 bytes)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Damaged, truncated, or not an image.
    #[error("'{}' is not a readable image (JPEG, PNG, WebP or BMP): {reason}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        reason: String,
    },
    /// Larger than [`MAX_SIDE`] or 64 megapixels.
    #[error("the image '{}' is {size}: expected at most {MAX_SIDE} pixels per side and {} megapixels; scale it down",
        path.display(), MAX_PIXELS >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: Size,
    },
}

/// Colour coding of YUV formats: matrix and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YuvCoding {
    /// Weights of red, green and blue in luma.
    pub matrix: YuvStandardMatrix,
    /// Limited (black is 16) or full (black is 0).
    pub range: YuvRange,
}

impl Default for YuvCoding {
    fn default() -> Self {
        YuvCoding {
            matrix: YuvStandardMatrix::Bt601,
            range: YuvRange::Limited,
        }
    }
}

/// Converts one frame to packed RGB (`[height, width, 3]`), in a buffer from `pool`. Returns the
/// size with it: a JPEG has its own, and `size` is its container's; every other format uses `size`.
/// `coding` is for YUV formats.
///
/// # Errors
/// If the bytes are too few, too many or damaged.
pub fn to_rgb(
    format: PixelFormat,
    size: Size,
    coding: YuvCoding,
    bytes: &[u8],
    pool: &FramePool,
) -> Result<(Size, PooledBuf), DecodeError> {
    if format == PixelFormat::Mjpeg {
        let origin = Origin {
            frame: size,
            surplus: 0,
        };
        return Ok(jpeg::decode(bytes, origin, |len| pool.take(len))?);
    }
    let expected = frame_len(format, size);
    if bytes.len() != expected {
        return Err(DecodeError::Length {
            format,
            size,
            expected,
            got: bytes.len(),
        });
    }
    let mut rgb = pool.take(3 * size.area());
    match format {
        PixelFormat::Rgb8 | PixelFormat::Mjpeg => rgb.copy_from_slice(bytes),
        PixelFormat::Gray8 => {
            for (pixel, &grey) in rgb.chunks_exact_mut(3).zip(bytes) {
                pixel.fill(grey);
            }
        }
        PixelFormat::Yuyv | PixelFormat::Uyvy | PixelFormat::Nv12 | PixelFormat::I420 => {
            yuv_to_rgb(format, size, coding, bytes, &mut rgb).map_err(|reason| {
                DecodeError::Convert {
                    format,
                    size,
                    reason,
                }
            })?;
        }
    }
    Ok((size, rgb))
}

/// Bytes of a frame without row padding; 0 for JPEG, which has no fixed length.
pub fn frame_len(format: PixelFormat, size: Size) -> usize {
    let chroma_rows = (size.height as usize).div_ceil(2);
    match format {
        PixelFormat::Rgb8 => 3 * size.area(),
        PixelFormat::Gray8 => size.area(),
        // two pixels share their colour: a row of odd width ends with half a pair, as ffmpeg has it
        PixelFormat::Yuyv | PixelFormat::Uyvy => {
            2 * (size.width as usize).next_multiple_of(2) * size.height as usize
        }
        PixelFormat::Nv12 | PixelFormat::I420 => {
            size.area() + chroma_rows * (size.width as usize).next_multiple_of(2)
        }
        PixelFormat::Mjpeg => 0,
    }
}

fn yuv_to_rgb(
    format: PixelFormat,
    size: Size,
    YuvCoding { matrix, range }: YuvCoding,
    bytes: &[u8],
    rgb: &mut [u8],
) -> Result<(), String> {
    let (width, height) = (size.width, size.height);
    let stride = 3 * width;
    let packed = YuvPackedImage {
        yuy: bytes,
        yuy_stride: 2 * width.next_multiple_of(2),
        width,
        height,
    };
    match format {
        PixelFormat::Yuyv => yuv::yuyv422_to_rgb(&packed, rgb, stride, range, matrix),
        PixelFormat::Uyvy => yuv::uyvy422_to_rgb(&packed, rgb, stride, range, matrix),
        PixelFormat::I420 => {
            let (y_plane, chroma) = bytes.split_at(size.area());
            let (u_plane, v_plane) = chroma.split_at(chroma.len() / 2);
            let planes = YuvPlanarImage {
                y_plane,
                y_stride: width,
                u_plane,
                u_stride: width.div_ceil(2),
                v_plane,
                v_stride: width.div_ceil(2),
                width,
                height,
            };
            yuv::yuv420_to_rgb(&planes, rgb, stride, range, matrix)
        }
        _ => {
            let (y_plane, uv_plane) = bytes.split_at(size.area());
            let planes = YuvBiPlanarImage {
                y_plane,
                y_stride: width,
                uv_plane,
                uv_stride: width.next_multiple_of(2),
                width,
                height,
            };
            yuv::yuv_nv12_to_rgb(
                &planes,
                rgb,
                stride,
                range,
                matrix,
                YuvConversionMode::Balanced,
            )
        }
    }
    .map_err(|e| e.to_string())
}

/// Reads an image file as packed RGB (`[height, width, 3]`), rotated by its EXIF orientation.
///
/// # Errors
/// If the file cannot be read, is damaged, or is too large.
pub fn load_image(path: &Path) -> Result<(Size, Vec<u8>), ImageError> {
    let bytes = std::fs::read(path).map_err(|source| ImageError::Read {
        path: path.to_owned(),
        source,
    })?;
    if bytes.is_empty() {
        return Err(ImageError::Empty {
            path: path.to_owned(),
        });
    }
    let image = decode_image(&bytes).map_err(|error| match error {
        PictureError::TooLarge { size } => ImageError::TooLarge {
            path: path.to_owned(),
            size,
        },
        PictureError::Decode(reason) => ImageError::Decode {
            path: path.to_owned(),
            reason,
        },
    })?;
    Ok(image.upright())
}

/// Why the bytes of an image file cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    /// More than [`MAX_SIDE`] or [`MAX_PIXELS`].
    #[error(
        "{size}: expected at most {MAX_SIDE} pixels per side and {} megapixels",
        MAX_PIXELS >> 20
    )]
    TooLarge { size: Size },
    #[error("{0}")]
    Decode(String),
}

/// A decoded image file.
pub(crate) struct DecodedImage {
    pub(crate) size: Size,
    /// Packed RGB (`[height, width, 3]`), as stored.
    pub(crate) rgb: Vec<u8>,
    /// How it is to be turned, by its EXIF data.
    orientation: Orientation,
}

impl DecodedImage {
    /// Size and pixels after turning.
    fn upright(self) -> (Size, Vec<u8>) {
        if self.orientation == Orientation::NoTransforms {
            return (self.size, self.rgb);
        }
        let Size { width, height } = self.size;
        let rgb = RgbImage::from_raw(width, height, self.rgb).unwrap_or_default();
        let mut image = DynamicImage::from(rgb);
        image.apply_orientation(self.orientation);
        let rgb = image.into_rgb8();
        (Size::new(rgb.width(), rgb.height()), rgb.into_raw())
    }
}

/// Decodes the bytes of an image file.
pub(crate) fn decode_image(bytes: &[u8]) -> Result<DecodedImage, PictureError> {
    let failed = |error: image::ImageError| PictureError::Decode(error.to_string());
    let format = image::guess_format(bytes).map_err(failed)?;
    if format == ImageFormat::Jpeg {
        return decode_jpeg(bytes);
    }
    let mut decoder = other_decoder(format, bytes).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let size = Size::new(width, height);
    if width.max(height) > MAX_SIDE || size.area() as u64 > MAX_PIXELS {
        return Err(PictureError::TooLarge { size });
    }
    let orientation = decoder.orientation().map_err(failed)?;
    let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok(DecodedImage {
        size,
        rgb: image.into_rgb8().into_raw(),
        orientation,
    })
}

/// Not [`image::ImageReader`], which brings another decoder of JPEGs into the program.
fn other_decoder(format: ImageFormat, bytes: &[u8]) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    let input = Cursor::new(bytes);
    let mut limits = Limits::default();
    limits.max_alloc = Some(8 * MAX_PIXELS);
    let mut decoder: Box<dyn ImageDecoder> = match format {
        ImageFormat::Png => Box::new(PngDecoder::with_limits(input, limits.clone())?),
        ImageFormat::WebP => Box::new(WebPDecoder::new(input)?),
        ImageFormat::Bmp => Box::new(BmpDecoder::new(input)?),
        other => {
            return Err(image::ImageError::Unsupported(
                ImageFormatHint::Exact(other).into(),
            ));
        }
    };
    decoder.set_limits(limits)?;
    Ok(decoder)
}

fn decode_jpeg(bytes: &[u8]) -> Result<DecodedImage, PictureError> {
    let decoded = jpeg::decode(bytes, Origin::default(), |len| vec![0; len]);
    let (size, rgb) = decoded.map_err(|error| match error {
        JpegError::TooLarge { size } => PictureError::TooLarge { size },
        error => PictureError::Decode(error.to_string()),
    })?;
    let orientation = jpeg::exif(bytes).and_then(Orientation::from_exif_chunk);
    Ok(DecodedImage {
        size,
        rgb,
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(4, 2);

    fn rgb(format: PixelFormat, bytes: &[u8]) -> Vec<u8> {
        coded_rgb(format, YuvCoding::default(), bytes)
    }

    fn coded_rgb(format: PixelFormat, coding: YuvCoding, bytes: &[u8]) -> Vec<u8> {
        let (_, rgb) = to_rgb(format, SIZE, coding, bytes, &FramePool::new(1)).unwrap();
        rgb.to_vec()
    }

    fn decode(format: PixelFormat, bytes: &[u8]) -> Result<(Size, PooledBuf), DecodeError> {
        to_rgb(
            format,
            SIZE,
            YuvCoding::default(),
            bytes,
            &FramePool::new(1),
        )
    }

    fn jpeg(size: Size, grey: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pixels = vec![grey; 3 * size.area()];
        image::codecs::jpeg::JpegEncoder::new(&mut bytes)
            .encode(
                &pixels,
                size.width,
                size.height,
                image::ExtendedColorType::Rgb8,
            )
            .unwrap();
        bytes
    }

    #[test]
    fn limited_range_white_and_black_are_white_and_black() {
        assert!(
            rgb(PixelFormat::Yuyv, &[235, 128, 235, 128].repeat(4))
                .iter()
                .all(|&v| v == 255)
        );
        assert!(
            rgb(PixelFormat::Uyvy, &[128, 16, 128, 16].repeat(4))
                .iter()
                .all(|&v| v == 0)
        );
        let nv12 = [vec![235; 8], vec![128; 4]].concat();
        assert!(rgb(PixelFormat::Nv12, &nv12).iter().all(|&v| v == 255));
    }

    #[test]
    fn red_stays_red_in_every_yuv_format() {
        // BT.601 limited: pure red is Y 81, Cb 90, Cr 240
        let near = |pixels: Vec<u8>| pixels.chunks(3).all(|p| p[0] > 250 && p[1] < 5 && p[2] < 5);
        assert!(near(rgb(PixelFormat::Yuyv, &[81, 90, 81, 240].repeat(4))));
        assert!(near(rgb(PixelFormat::Uyvy, &[90, 81, 240, 81].repeat(4))));
        assert!(near(rgb(
            PixelFormat::Nv12,
            &[vec![81; 8], [90, 240].repeat(2)].concat()
        )));
        assert!(near(rgb(
            PixelFormat::I420,
            &[vec![81; 8], vec![90; 2], vec![240; 2]].concat()
        )));
    }

    #[test]
    fn colours_are_read_as_they_are_coded() {
        // 200, 40, 40 in BT.709: Y 74, Cb 110, Cr 208 with full range, Y 80, Cb 112, Cr 198 limited
        let matrix = YuvStandardMatrix::Bt709;
        for (range, yuv) in [
            (YuvRange::Full, [74, 110, 208]),
            (YuvRange::Limited, [80, 112, 198]),
        ] {
            let [y, u, v] = yuv;
            let coding = YuvCoding { matrix, range };
            for pixel in [
                coded_rgb(PixelFormat::Yuyv, coding, &[y, u, y, v].repeat(4)),
                coded_rgb(
                    PixelFormat::Nv12,
                    coding,
                    &[vec![y; 8], [u, v].repeat(2)].concat(),
                ),
            ] {
                let off = |value: u8, wanted: u8| value.abs_diff(wanted);
                assert!(
                    off(pixel[0], 200)
                        .max(off(pixel[1], 40))
                        .max(off(pixel[2], 40))
                        <= 3,
                    "{coding:?}: {:?}",
                    &pixel[..3]
                );
            }
        }
    }

    #[test]
    fn a_short_frame_says_what_was_expected() {
        let error = decode(PixelFormat::Yuyv, &[0; 15]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a YUYV frame of 4x2 has 16 bytes, got 15"
        );
    }

    #[test]
    fn a_cut_jpeg_is_an_error_not_a_grey_picture() {
        let whole = jpeg(Size::new(64, 64), 90);
        let (size, pixels) = decode(PixelFormat::Mjpeg, &whole).unwrap();
        assert_eq!(size, Size::new(64, 64));
        assert!(pixels.iter().all(|&v| v.abs_diff(90) <= 2));
        for len in [0, 2, 20, whole.len() / 2, whole.len() - 3] {
            assert!(
                decode(PixelFormat::Mjpeg, &whole[..len]).is_err(),
                "cut at {len}"
            );
        }
    }

    #[test]
    fn bad_picture_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            load_image(&path)
        };
        assert!(matches!(
            file("empty.jpg", b""),
            Err(ImageError::Empty { .. })
        ));
        assert!(matches!(
            file("text.png", b"hello there"),
            Err(ImageError::Decode { .. })
        ));
        let whole = jpeg(Size::new(64, 64), 90);
        for len in [whole.len() / 4, whole.len() / 2, whole.len() - 3] {
            let cut = file("cut.jpg", &whole[..len]);
            assert!(
                matches!(cut, Err(ImageError::Decode { .. })),
                "cut at {len}"
            );
        }
        assert_eq!(
            file("tiny.jpg", &jpeg(Size::new(1, 1), 90)).unwrap().0,
            Size::new(1, 1)
        );
        assert!(matches!(
            load_image(&dir.path().join("none.jpg")),
            Err(ImageError::Read { .. })
        ));
        // a BMP header that claims 20,000 × 20,000 pixels
        let mut bomb = vec![0u8; 64];
        bomb[..2].copy_from_slice(b"BM");
        bomb[10] = 54;
        bomb[14] = 40;
        bomb[18..22].copy_from_slice(&20_000u32.to_le_bytes());
        bomb[22..26].copy_from_slice(&20_000u32.to_le_bytes());
        (bomb[26], bomb[28]) = (1, 24);
        assert!(matches!(
            file("bomb.bmp", &bomb),
            Err(ImageError::TooLarge { .. })
        ));
    }
}

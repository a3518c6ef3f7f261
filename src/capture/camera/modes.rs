//! V4L2 mode enumeration and selection.

use crate::capture::decode::YuvCoding;
use crate::frame::PixelFormat;
use crate::geometry::Size;
use std::io;
use v4l::format::{Colorspace, Quantization};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC};
use yuv::{YuvRange, YuvStandardMatrix};

/// Mode if none is requested.
pub(super) const DEFAULT_SIZE: Size = Size::new(1280, 720);
pub(super) const DEFAULT_FPS: f64 = 30.0;

/// Formats that can be decoded, cheapest first.
const FORMATS: [(&[u8; 4], PixelFormat); 7] = [
    (b"RGB3", PixelFormat::Rgb8),
    (b"NV12", PixelFormat::Nv12),
    (b"YUYV", PixelFormat::Yuyv),
    (b"UYVY", PixelFormat::Uyvy),
    (b"GREY", PixelFormat::Gray8),
    (b"MJPG", PixelFormat::Mjpeg),
    (b"JPEG", PixelFormat::Mjpeg),
];

/// A format, frame size and rate that a camera offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mode {
    /// The driver's four-character code.
    pub fourcc: [u8; 4],
    /// The format for the decoder.
    pub format: PixelFormat,
    /// Frame size.
    pub size: Size,
    /// Highest frame rate.
    pub fps: f64,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} at {:.0} fps",
            self.fourcc.escape_ascii(),
            self.size,
            self.fps
        )
    }
}

/// Every mode that can be decoded. A camera with stepwise sizes is queried at the size nearest to
/// `requested`.
pub(super) fn modes(device: &Device, requested: Size) -> io::Result<Vec<Mode>> {
    let mut all = Vec::new();
    for description in device.enum_formats()? {
        let fourcc = description.fourcc.repr;
        let Some(&(_, format)) = FORMATS.iter().find(|(code, _)| **code == fourcc) else {
            continue;
        };
        for frame_size in device
            .enum_framesizes(description.fourcc)
            .unwrap_or_default()
        {
            let size = match frame_size.size {
                FrameSizeEnum::Discrete(d) => Size::new(d.width, d.height),
                FrameSizeEnum::Stepwise(s) => Size::new(
                    requested.width.clamp(s.min_width, s.max_width),
                    requested.height.clamp(s.min_height, s.max_height),
                ),
            };
            let fps = max_fps(device, description.fourcc, size);
            all.push(Mode {
                fourcc,
                format,
                size,
                fps,
            });
        }
    }
    Ok(all)
}

/// Highest rate at this size; [`DEFAULT_FPS`] if the driver does not report one.
fn max_fps(device: &Device, fourcc: FourCC, size: Size) -> f64 {
    let intervals = device
        .enum_frameintervals(fourcc, size.width, size.height)
        .unwrap_or_default();
    let rate = |interval: FrameIntervalEnum| match interval {
        FrameIntervalEnum::Discrete(f) => f64::from(f.denominator) / f64::from(f.numerator.max(1)),
        FrameIntervalEnum::Stepwise(s) => {
            f64::from(s.min.denominator) / f64::from(s.min.numerator.max(1))
        }
    };
    let max = intervals
        .into_iter()
        .map(|i| rate(i.interval))
        .fold(0.0, f64::max);
    if max > 0.0 { max } else { DEFAULT_FPS }
}

/// The modes of one format, or all modes.
pub(super) fn with_format(modes: &[Mode], format: Option<PixelFormat>) -> Vec<Mode> {
    let wanted = |mode: &&Mode| format.is_none_or(|format| mode.format == format);
    modes.iter().filter(wanted).cloned().collect()
}

/// The error if no mode can be used.
pub(super) fn no_usable_mode(modes: &[Mode], format: Option<PixelFormat>) -> String {
    match format {
        Some(format) if !modes.is_empty() => format!(
            "does not send {format}, only {}: omit --format or set it to one of these",
            summary(modes)
        ),
        _ => "offers no format that can be decoded (RGB3, NV12, YUYV, UYVY, GREY, MJPG): \
              it may be another node of the same camera, try the next number"
            .to_owned(),
    }
}

/// The mode nearest to the requested size and rate; among equals the cheapest to decode.
pub(super) fn choose(modes: &[Mode], requested: Size, fps: f64) -> Option<&Mode> {
    let cost = |mode: &Mode| {
        let off = |a: u32, b: u32| (f64::from(a) / f64::from(b)).ln().abs();
        let size = off(mode.size.width, requested.width) + off(mode.size.height, requested.height);
        let too_slow = (fps / mode.fps).max(1.0).ln();
        let decode = FORMATS
            .iter()
            .position(|(code, _)| **code == mode.fourcc)
            .unwrap_or(FORMATS.len());
        (size + too_slow, decode)
    };
    modes.iter().min_by(|a, b| {
        let ((a_off, a_cost), (b_off, b_cost)) = (cost(a), cost(b));
        // differences under 2 % count as equal: 30 against 29.97 fps must not decide
        if (a_off - b_off).abs() < 0.02 {
            a_cost.cmp(&b_cost)
        } else {
            a_off.total_cmp(&b_off)
        }
    })
}

/// The format that the driver set.
pub(super) struct Negotiated {
    pub mode: Mode,
    /// Bytes per row, padding included.
    pub stride: usize,
    pub coding: YuvCoding,
}

/// Sets format and rate. The driver may adjust them (VIDIOC_S_FMT, VIDIOC_S_PARM); its answer is
/// returned.
pub(super) fn apply(device: &Device, chosen: &Mode, fps: f64) -> io::Result<Negotiated> {
    let wanted = Format::new(
        chosen.size.width,
        chosen.size.height,
        FourCC::new(&chosen.fourcc),
    );
    let got = device.set_format(&wanted)?;
    if got.fourcc != wanted.fourcc {
        return Err(io::Error::other(format!(
            "requested format {}, got {} from the driver",
            wanted.fourcc, got.fourcc
        )));
    }
    let mut mode = chosen.clone();
    mode.size = Size::new(got.width, got.height);
    let rate = fps.min(chosen.fps).round().max(1.0) as u32;
    match device.set_params(&Parameters::with_fps(rate)) {
        Ok(params) if params.interval.numerator > 0 => {
            mode.fps =
                f64::from(params.interval.denominator) / f64::from(params.interval.numerator);
        }
        // a camera whose rate cannot be set still streams
        Ok(_) | Err(_) => {}
    }
    Ok(Negotiated {
        mode,
        stride: got.stride as usize,
        coding: coding(&got),
    })
}

/// The driver's colour coding. Fields that it leaves at their default follow the kernel's rules
/// (`V4L2_MAP_YCBCR_ENC_DEFAULT` and `V4L2_MAP_QUANTIZATION_DEFAULT` of videodev2.h).
fn coding(format: &Format) -> YuvCoding {
    let matrix = match format.colorspace {
        Colorspace::Rec709 | Colorspace::DCIP3 => YuvStandardMatrix::Bt709,
        Colorspace::Rec2020 => YuvStandardMatrix::Bt2020,
        Colorspace::SMPTE240M => YuvStandardMatrix::Smpte240,
        _ => YuvStandardMatrix::Bt601,
    };
    let range = match (format.quantization, format.colorspace) {
        (Quantization::FullRange, _) | (Quantization::Default, Colorspace::JPEG) => YuvRange::Full,
        _ => YuvRange::Limited,
    };
    YuvCoding { matrix, range }
}

/// Formats and number of modes, such as `YUYV, MJPG (12 modes)`.
pub(super) fn summary(modes: &[Mode]) -> String {
    let mut codes: Vec<String> = modes
        .iter()
        .map(|mode| mode.fourcc.escape_ascii().to_string())
        .collect();
    codes.dedup();
    format!("{} ({} modes)", codes.join(", "), modes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(fourcc: &[u8; 4], width: u32, height: u32, fps: f64) -> Mode {
        let format = FORMATS.iter().find(|(code, _)| *code == fourcc).unwrap().1;
        Mode {
            fourcc: *fourcc,
            format,
            size: Size::new(width, height),
            fps,
        }
    }

    #[test]
    fn the_cheapest_format_that_meets_size_and_rate_wins() {
        let webcam = [
            mode(b"MJPG", 1280, 720, 30.0),
            mode(b"MJPG", 640, 480, 30.0),
            mode(b"YUYV", 640, 480, 29.97),
            mode(b"YUYV", 1280, 720, 10.0),
        ];
        let pick = |w, h, fps| choose(&webcam, Size::new(w, h), fps).unwrap();
        assert_eq!(pick(640, 480, 30.0), &webcam[2]);
        assert_eq!(pick(1280, 720, 30.0), &webcam[0]);
        assert_eq!(pick(1280, 720, 10.0), &webcam[3]);
        assert_eq!(choose(&[], Size::new(1, 1), 1.0), None);
    }

    #[test]
    fn the_drivers_word_on_colours_counts() {
        let coded = |colorspace, quantization| {
            let mut format = Format::new(640, 480, FourCC::new(b"YUYV"));
            (format.colorspace, format.quantization) = (colorspace, quantization);
            let YuvCoding { matrix, range } = coding(&format);
            (matrix, range)
        };
        let webcam = coded(Colorspace::SRGB, Quantization::Default);
        assert_eq!(webcam, (YuvStandardMatrix::Bt601, YuvRange::Limited));
        let webcam = coded(Colorspace::JPEG, Quantization::Default);
        assert_eq!(webcam, (YuvStandardMatrix::Bt601, YuvRange::Full));
        let hdmi = coded(Colorspace::Rec709, Quantization::Default);
        assert_eq!(hdmi, (YuvStandardMatrix::Bt709, YuvRange::Limited));
        let hdmi = coded(Colorspace::Rec709, Quantization::FullRange);
        assert_eq!(hdmi, (YuvStandardMatrix::Bt709, YuvRange::Full));
    }

    #[test]
    fn a_format_that_was_asked_for_is_the_only_one_considered() {
        let modes = [mode(b"MJPG", 640, 480, 30.0), mode(b"YUYV", 640, 480, 30.0)];
        assert_eq!(with_format(&modes, None).len(), 2);
        assert_eq!(
            with_format(&modes, Some(PixelFormat::Mjpeg)),
            vec![modes[0].clone()]
        );
        let reason = no_usable_mode(&modes, Some(PixelFormat::Nv12));
        assert!(
            reason.contains("does not send NV12, only MJPG, YUYV"),
            "{reason}"
        );
    }
}

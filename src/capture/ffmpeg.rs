//! Whatever ffmpeg can read (mp4, RTSP, …), through a child process that writes raw frames.

use super::raw::RawSource;
use super::{CaptureError, CaptureOptions, Next, Source};
use crate::frame::{PixelFormat, Size};
use std::process::{Child, Command, Stdio};

/// A running ffmpeg and the frames that it writes.
pub struct FfmpegSource {
    input: String,
    frames: RawSource,
    child: Child,
    size: Size,
    fps: Option<f64>,
    any: bool,
}

/// Whether ffmpeg and ffprobe can be started.
pub fn is_installed() -> bool {
    ["ffmpeg", "ffprobe"].iter().all(|program| {
        let started = Command::new(program)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        started.is_ok_and(|status| status.success())
    })
}

impl FfmpegSource {
    /// Asks ffprobe for the size and starts ffmpeg.
    ///
    /// # Errors
    /// When a program is missing or cannot read `input`.
    pub fn open(input: &str, options: &CaptureOptions) -> Result<FfmpegSource, CaptureError> {
        let (size, fps) = probe(input)?;
        let mut child = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-i", input])
            .args([
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "-s",
                &size.to_string(),
                "-",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| missing("ffmpeg", input, &e))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| missing("ffmpeg", input, &std::io::ErrorKind::BrokenPipe.into()))?;
        let raw = CaptureOptions {
            size: Some(size),
            format: Some(PixelFormat::Rgb8),
            ..options.clone()
        };
        Ok(FfmpegSource {
            input: input.to_owned(),
            frames: RawSource::open(Box::new(output), &raw)?,
            child,
            size,
            fps,
            any: false,
        })
    }
}

impl Source for FfmpegSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let next = self.frames.next()?;
        match next {
            Next::Frame(_) => self.any = true,
            // ffmpeg has already said why on stderr
            Next::End if !self.any => {
                return Err(CaptureError::Unusable(format!(
                    "ffmpeg read no frame from '{}'",
                    self.input
                )));
            }
            _ => {}
        }
        Ok(next)
    }

    fn is_live(&self) -> bool {
        self.input.contains("://")
    }

    fn describe(&self) -> String {
        format!("{} ({}, through ffmpeg)", self.input, self.size)
    }

    fn fps(&self) -> Option<f64> {
        self.fps
    }
}

impl Drop for FfmpegSource {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Width, height and rate of the first video stream.
fn probe(input: &str) -> Result<(Size, Option<f64>), CaptureError> {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "stream=width,height,r_frame_rate",
        ])
        .args(["-of", "csv=p=0:s=,", input])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| missing("ffprobe", input, &e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_probe(&text).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        CaptureError::Unusable(format!(
            "ffprobe finds no video in '{input}': {}",
            said.trim()
        ))
    })
}

/// `768,576,10/1` as ffprobe prints it.
fn parse_probe(text: &str) -> Option<(Size, Option<f64>)> {
    let mut fields = text.lines().next()?.trim().split(',');
    let size = Size::new(fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let fps = fields.next().and_then(|rate| {
        let (frames, seconds) = rate.split_once('/')?;
        let fps = frames.parse::<f64>().ok()? / seconds.parse::<f64>().ok()?;
        fps.is_normal().then_some(fps)
    });
    (size.area() > 0).then_some((size, fps))
}

fn missing(program: &str, input: &str, error: &std::io::Error) -> CaptureError {
    CaptureError::Unusable(format!(
        "'{input}' needs the program '{program}', which could not be started ({error}): \
         install ffmpeg ('apt-get install ffmpeg'), or convert to Motion-JPEG AVI elsewhere"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ffprobe_prints_is_understood() {
        assert_eq!(
            parse_probe("768,576,10/1\n"),
            Some((Size::new(768, 576), Some(10.0)))
        );
        assert_eq!(
            parse_probe("1920,1080,0/0\n"),
            Some((Size::new(1920, 1080), None))
        );
        assert_eq!(parse_probe(""), None);
        assert_eq!(parse_probe("N/A"), None);
    }
}

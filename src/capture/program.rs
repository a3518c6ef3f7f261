//! Frames from another program: ffmpeg for clips and network cameras, GStreamer for CSI cameras
//! and pipelines of one's own. Both write YUV4MPEG2, which says itself how large its frames are.

use super::child::{Child, Launch, without_passwords};
use super::pipe::is_stop;
use super::y4m::{self, Frames, Header};
use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{YuvCoding, to_rgb};
use crate::geometry::Size;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// A network camera may take this long, besides the usual time-out, until its first frame: ffmpeg
/// alone looks at a stream for 5 s.
const STARTING: Duration = Duration::from_secs(15);
/// What a CSI camera is asked for without a wish.
const CSI_SIZE: Size = Size::new(1280, 720);
const CSI_FPS: f64 = 30.0;

const FFMPEG: &str = "ffmpeg";
const GSTREAMER: &str = "gst-launch-1.0";
const INSTALL_FFMPEG: &str =
    "install it with 'apt-get install ffmpeg' (or convert a clip to Motion-JPEG AVI elsewhere)";
const INSTALL_GSTREAMER: &str = "install it with 'apt-get install gstreamer1.0-tools \
     gstreamer1.0-plugins-base gstreamer1.0-plugins-good'";

/// A program and the frames that it writes. A camera's program is started with the first frame
/// that is asked for.
pub struct ProgramSource {
    /// As the user named it, without a password.
    name: String,
    launch: Launch,
    live: bool,
    running: Option<Running>,
    bytes: Vec<u8>,
    framer: Framer,
    options: CaptureOptions,
    any: bool,
}

struct Running {
    child: Child,
    /// `None` until the header has come.
    frames: Option<Frames>,
}

/// What became of reading a frame.
enum Read {
    /// It is there.
    Frame(Header),
    /// The stream is over.
    End,
    /// The run stops.
    Stopped,
}

/// Whether a program can be started.
pub fn is_installed(program: &str) -> bool {
    let version = Command::new(program).arg("-version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Whether an address is a camera rather than a clip: it sends by itself, for ever.
pub fn is_stream(input: &str) -> bool {
    let Some((scheme, rest)) = input.split_once("://") else {
        return false;
    };
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let extension = path.rsplit_once('.').map(|(_, ending)| ending);
    let is_clip = extension.is_some_and(|extension| {
        let extension = extension.to_ascii_lowercase();
        // cameras send Motion-JPEG without end under these names
        super::CLIP_EXTENSIONS.contains(&extension.as_str())
            && !matches!(extension.as_str(), "mjpeg" | "mjpg")
    });
    match scheme {
        "file" => false,
        "http" | "https" => !is_clip,
        _ => true,
    }
}

impl ProgramSource {
    /// A clip or an address through ffmpeg. A clip is opened at once.
    ///
    /// # Errors
    /// When ffmpeg is missing, or cannot read a clip.
    pub fn ffmpeg(input: &str, options: &CaptureOptions) -> Result<ProgramSource, CaptureError> {
        let mut args = strings(&["-nostdin", "-v", "error"]);
        if input.starts_with("rtsp") {
            // cameras lose packets over UDP, and frames with them
            args.extend(strings(&["-rtsp_transport", "tcp"]));
        }
        args.extend(strings(&["-i", input, "-map", "0:v:0"]));
        // every frame once, however irregular: the default repeats and drops for an even rate
        args.extend(strings(&[every_frame(), "passthrough"]));
        // a stream says how its colours are coded, Y4M does not: one coding for all
        args.extend(strings(&[
            "-vf",
            "scale=out_color_matrix=bt601:out_range=tv",
        ]));
        args.extend(strings(&["-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"]));
        args.extend(strings(&["-flush_packets", "1", "pipe:0"]));
        let launch = launch(FFMPEG, args, INSTALL_FFMPEG, input);
        let mut source = ProgramSource::new(launch, is_stream(input), options);
        if !source.live {
            source.start()?;
        }
        Ok(source)
    }

    /// A Jetson's CSI camera by number, through NVIDIA's GStreamer elements.
    pub fn csi(sensor: u32, options: &CaptureOptions) -> ProgramSource {
        let size = options.size.unwrap_or(CSI_SIZE);
        let fps = options.fps.unwrap_or(CSI_FPS).round().max(1.0);
        let mut args = strings(&["-q", "nvarguscamerasrc"]);
        args.push(format!("sensor-id={sensor}"));
        args.push("!".to_owned());
        args.push(format!(
            "video/x-raw(memory:NVMM),width={},height={},framerate={fps}/1",
            size.width, size.height
        ));
        args.extend(strings(&["!", "nvvidconv"]));
        args.extend(y4m_out("video/x-raw,format=I420"));
        let launch = launch(
            GSTREAMER,
            args,
            INSTALL_GSTREAMER,
            &format!("csi://{sensor}"),
        );
        ProgramSource::new(launch, true, options)
    }

    /// A GStreamer pipeline that ends in raw video; `words` as a shell would split it.
    pub fn gst(words: &[String], options: &CaptureOptions) -> ProgramSource {
        let mut args = strings(&["-q"]);
        args.extend_from_slice(words);
        args.extend(strings(&["!", "videoconvert"]));
        args.extend(y4m_out("video/x-raw,format=I420,colorimetry=bt601"));
        let input = format!("gst:{}", words.join(" "));
        let launch = launch(GSTREAMER, args, INSTALL_GSTREAMER, &input);
        ProgramSource::new(launch, true, options)
    }

    fn new(launch: Launch, live: bool, options: &CaptureOptions) -> ProgramSource {
        ProgramSource {
            name: launch.input.clone(),
            launch,
            live,
            running: None,
            bytes: Vec::new(),
            framer: Framer::new(options),
            options: options.clone(),
            any: false,
        }
    }

    /// Starts the program; for a clip, its size and rate are known afterwards.
    fn start(&mut self) -> Result<(), CaptureError> {
        let child = Child::spawn(&self.launch, &self.options).map_err(|error| match error {
            // a camera is tried again: what the system lacks now it may have later
            CaptureError::Program { reason, .. } if self.live => self.error(reason),
            error => error,
        })?;
        let running = self.running.insert(Running {
            child,
            frames: None,
        });
        if !self.live {
            match running.read_header() {
                Ok(true) => {}
                Ok(false) => return Err(self.ended_badly()),
                // the first frame will find that the run stops
                Err(error) if is_stop(&error) => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// Reads the next frame's bytes.
    fn read(&mut self) -> Result<Read, CaptureError> {
        if self.running.is_none() {
            self.start()?;
        }
        let Some(running) = &mut self.running else {
            return Ok(Read::Stopped);
        };
        let patience = match running.frames {
            Some(_) => self.options.timeout,
            None => self.options.timeout + STARTING,
        };
        let deadline = self.options.clock.now() + patience;
        running.child.set_deadline(self.live.then_some(deadline));
        match running.read_frame(&mut self.bytes) {
            Ok(Some(header)) => Ok(Read::Frame(header)),
            Ok(None) => Ok(Read::End),
            Err(error) if is_stop(&error) => Ok(Read::Stopped),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The stream is over: as it should be, or because the program failed.
    fn end(&mut self) -> Result<Next, CaptureError> {
        let Some(running) = &mut self.running else {
            return Ok(Next::End);
        };
        let (status, said) = running.child.end();
        let well = self.any && status.is_some_and(|status| status.success());
        // a pipeline may have an end; a network camera has none, though ffmpeg calls a lost one well
        let may_end = !self.live || (self.launch.program == GSTREAMER && !self.options.retry);
        if well && may_end {
            return Ok(Next::End);
        }
        Err(self.error(ending(status, said)))
    }

    fn ended_badly(&mut self) -> CaptureError {
        let ended = self.running.as_mut().map(|running| running.child.end());
        let (status, said) = ended.unwrap_or_default();
        self.error(ending(status, said))
    }

    fn failed(&self, error: &io::Error) -> CaptureError {
        self.error(match error.kind() {
            io::ErrorKind::TimedOut => "sent no frame in time (--camera-timeout)".to_owned(),
            _ => error.to_string(),
        })
    }

    fn error(&self, reason: String) -> CaptureError {
        let program = self.launch.program.clone();
        match self.live {
            true => CaptureError::Camera {
                device: self.name.clone(),
                reason: format!("{program}: {reason}"),
            },
            false => CaptureError::Program {
                program,
                input: self.name.clone(),
                reason,
            },
        }
    }
}

impl Running {
    /// Whether there is one.
    fn read_header(&mut self) -> io::Result<bool> {
        if self.frames.is_none() {
            self.frames = y4m::read_header(self.child.data()?)?.map(Frames::new);
        }
        Ok(self.frames.is_some())
    }

    fn read_frame(&mut self, bytes: &mut Vec<u8>) -> io::Result<Option<Header>> {
        self.read_header()?;
        let Some(frames) = &mut self.frames else {
            return Ok(None);
        };
        let whole = frames.next(self.child.data()?, bytes)?;
        Ok(whole.then_some(frames.header))
    }

    fn header(&self) -> Option<Header> {
        self.frames.as_ref().map(|frames| frames.header)
    }
}

impl Source for ProgramSource {
    fn next(&mut self) -> Result<Next, CaptureError> {
        let header = match self.read()? {
            Read::Frame(header) => header,
            Read::End => return self.end(),
            Read::Stopped => return Ok(Next::End),
        };
        if !std::mem::replace(&mut self.any, true) && self.live {
            // what its size is was not known when it was opened
            tracing::info!("{}", self.describe());
        }
        let (bytes, number) = (&self.bytes, self.framer.next_id);
        self.framer
            .frame(header.format, |pool| {
                to_rgb(
                    header.format,
                    header.size,
                    YuvCoding::default(),
                    bytes,
                    pool,
                )
            })
            .map(Next::Frame)
            .map_err(|source| CaptureError::Damaged {
                frame: number,
                name: self.name.clone(),
                source,
            })
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn describe(&self) -> String {
        let header = self.running.as_ref().and_then(Running::header);
        let size = header.map_or_else(String::new, |header| format!("{}, ", header.size));
        format!("{} ({size}through {})", self.name, self.launch.program)
    }

    fn fps(&self) -> Option<f64> {
        self.running.as_ref()?.header()?.fps
    }
}

fn launch(program: &str, args: Vec<String>, install: &'static str, input: &str) -> Launch {
    Launch {
        program: program.to_owned(),
        args,
        install,
        input: without_passwords(input),
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// The end of every pipeline: frames that say what they are, on descriptor 0.
fn y4m_out(format: &str) -> Vec<String> {
    strings(&["!", format, "!", "y4menc", "!", "fdsink", "fd=0"])
}

/// ffmpeg's name for the option: `-vsync` until 5.0, `-fps_mode` since 5.1.
fn every_frame() -> &'static str {
    let version = Command::new(FFMPEG).arg("-version").output();
    let text = version.map(|output| output.stdout).unwrap_or_default();
    match ffmpeg_version(&String::from_utf8_lossy(&text)) {
        Some(version) if version < (5, 1) => "-vsync",
        // one that was built from its repository has no number, and is rather new
        _ => "-fps_mode",
    }
}

/// `ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright …`.
fn ffmpeg_version(text: &str) -> Option<(u32, u32)> {
    let version = text.strip_prefix("ffmpeg version ")?;
    let mut numbers = version
        .trim_start_matches('n')
        .split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().unwrap_or(0)))
}

/// `exit status: 1: Connection refused`.
fn ending(status: Option<ExitStatus>, said: Option<String>) -> String {
    let status = status.map_or_else(|| "ended".to_owned(), |status| status.to_string());
    match said {
        Some(said) => format!("{status}: {said}"),
        None => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_are_told_from_clips_by_their_address() {
        for camera in [
            "rtsp://10.0.0.9/stream",
            "http://camera/video.mjpg?fps=5",
            "udp://@:5000",
        ] {
            assert!(is_stream(camera), "{camera}");
        }
        for clip in [
            "a.mp4",
            "file:///a.mp4",
            "http://host/clip.avi",
            "https://host/a/clip.MP4?key=x",
        ] {
            assert!(!is_stream(clip), "{clip}");
        }
    }

    #[test]
    fn versions_of_ffmpeg_are_understood() {
        let version = |text: &str| ffmpeg_version(&format!("ffmpeg version {text} Copyright"));
        assert_eq!(version("4.4.2-0ubuntu0.22.04.1"), Some((4, 4)));
        assert_eq!(version("n7.1"), Some((7, 1)));
        assert_eq!(version("N-109-gabc"), None);
    }

    /// Pixels of the first frame of a program that shows nothing but red 200, green 40, blue 40.
    fn first_pixel(mut source: ProgramSource) -> [u8; 3] {
        match source.next().unwrap() {
            Next::Frame(frame) => frame.pixels[..3].try_into().unwrap(),
            _ => panic!("no frame"),
        }
    }

    fn is_red([red, green, blue]: [u8; 3]) -> bool {
        red.abs_diff(200)
            .max(green.abs_diff(40))
            .max(blue.abs_diff(40))
            <= 3
    }

    #[test]
    fn the_real_ffmpeg_brings_every_coding_of_colours_to_one() {
        let dir = tempfile::tempdir().unwrap();
        for (matrix, range) in [("bt601", "tv"), ("bt709", "tv"), ("bt709", "pc")] {
            let clip = dir.path().join(format!("{matrix}-{range}.mkv"));
            let clip = clip.to_str().unwrap();
            let colorspace = if matrix == "bt601" {
                "smpte170m"
            } else {
                matrix
            };
            let made = Command::new(FFMPEG)
                .args(["-v", "error", "-f", "lavfi", "-i"])
                .arg("color=c=0xC82828:s=64x64:r=5:d=1,format=rgb24")
                .arg("-vf")
                .arg(format!(
                    "scale=out_color_matrix={matrix}:out_range={range},format=yuv420p"
                ))
                .args([
                    "-c:v",
                    "ffv1",
                    "-colorspace",
                    colorspace,
                    "-color_range",
                    range,
                    clip,
                ])
                .status();
            let Ok(made) = made else {
                eprintln!("skipped: ffmpeg is not installed");
                return;
            };
            assert!(made.success());
            let pixel =
                first_pixel(ProgramSource::ffmpeg(clip, &super::super::test_options()).unwrap());
            assert!(is_red(pixel), "{matrix} {range}: {pixel:?}");
        }
    }

    #[test]
    fn the_real_gstreamer_brings_every_coding_of_colours_to_one() {
        let inspected = Command::new("gst-inspect-1.0").arg("y4menc").output();
        if !inspected.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: GStreamer and its good plugins are not installed");
            return;
        }
        for colorimetry in ["bt601", "bt709"] {
            let caps =
                format!("video/x-raw,format=NV12,width=64,height=64,colorimetry={colorimetry}");
            let red = [
                "videotestsrc",
                "pattern=solid-color",
                "foreground-color=0xffc82828",
            ];
            let words = strings(&[&red[..], &["!", &caps]].concat());
            let pixel = first_pixel(ProgramSource::gst(&words, &super::super::test_options()));
            assert!(is_red(pixel), "{colorimetry}: {pixel:?}");
        }
    }

    #[test]
    fn a_csi_camera_is_asked_for_the_wishes() {
        let options = CaptureOptions {
            size: Some(Size::new(1920, 1080)),
            fps: Some(29.97),
            ..super::super::test_options()
        };
        let source = ProgramSource::csi(1, &options);
        let pipeline = source.launch.args.join(" ");
        assert_eq!(
            pipeline,
            "-q nvarguscamerasrc sensor-id=1 ! \
             video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 ! nvvidconv ! \
             video/x-raw,format=I420 ! y4menc ! fdsink fd=0"
        );
        assert_eq!(source.describe(), "csi://1 (through gst-launch-1.0)");
    }
}

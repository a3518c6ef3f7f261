//! Frames from another program: ffmpeg for clips and network cameras, GStreamer for CSI cameras
//! and user pipelines. Both write YUV4MPEG2, whose header has the frame size.

use super::address::{Address, Pipeline, Secrets};
use super::child::{Child, Launch, Script, version};
use super::pipe::is_stop;
use super::program_log::{NO_STREAM, lacks_times};
use super::y4m::{self, FrameReader, Header};
use super::{CaptureError, CaptureOptions, Framer, Next, Source};
use crate::capture::decode::{YuvCoding, to_rgb};
use crate::escape;
use crate::geometry::Size;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// Extra time for the first frame of a network camera, on top of the usual timeout: ffmpeg analyses
/// a stream for up to 5 s (`-analyzeduration`) before it outputs frames.
const START_TIME: Duration = Duration::from_secs(15);
/// Mode of a CSI camera if none is requested.
const CSI_SIZE: Size = Size::new(1280, 720);
const CSI_FPS: f64 = 30.0;

/// Filters that print the time of each frame, in microseconds, on descriptor 1: Y4M has no times.
/// `print` passes over frames without metadata, so each gets a value first; `direct` prints a line
/// with its frame and not in blocks. Where ffmpeg lacks that, times stay unknown.
const FRAME_TIMES: &str =
    "settb=AVTB,metadata=add:key=vovcam:value=0,metadata=print:file=-:direct=1";

const FFMPEG: &str = "ffmpeg";
const GSTREAMER: &str = "gst-launch-1.0";
const INSTALL_FFMPEG: &str =
    "install it with 'apt-get install ffmpeg' (or convert a clip to Motion-JPEG AVI elsewhere)";
const INSTALL_GSTREAMER: &str = "install it with 'apt-get install gstreamer1.0-tools \
     gstreamer1.0-plugins-base gstreamer1.0-plugins-good'";

/// A program and the frames that it writes. A live source's program starts with the first call of
/// [`Source::next`].
pub struct ProgramSource {
    /// The source as the user named it, without secrets.
    name: String,
    launch: Launch,
    live: bool,
    running: Option<Running>,
    bytes: Vec<u8>,
    framer: Framer,
    options: CaptureOptions,
    /// Whether a frame has arrived.
    any_frame: bool,
    /// Time of the clip's first frame in µs, by the clip's own clock.
    began: Option<i64>,
}

struct Running {
    child: Child,
    /// `None` until the header was read.
    frames: Option<FrameReader>,
}

/// Outcome of one read.
enum ReadOutcome {
    /// A frame was read.
    Frame(Header),
    /// The stream has ended.
    End,
    /// The run is stopping.
    Stopped,
}

/// Whether an address is a live stream (a camera) rather than a clip.
pub fn is_stream(input: &str) -> bool {
    let Some((scheme, rest)) = input.split_once("://") else {
        return false;
    };
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let extension = path.rsplit_once('.').map(|(_, ending)| ending);
    let is_clip = extension.is_some_and(|extension| {
        let extension = extension.to_ascii_lowercase();
        // cameras send endless Motion-JPEG under these names
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
    /// A clip in a file, read by ffmpeg.
    ///
    /// # Errors
    /// If ffmpeg is missing, or cannot read the clip.
    pub fn clip(path: &Path, options: &CaptureOptions) -> Result<ProgramSource, CaptureError> {
        let version = ffmpeg_version(options);
        ProgramSource::opened(
            &Input::file(path),
            Secrets::default(),
            version,
            false,
            options,
        )
    }

    /// An address, read by ffmpeg. A clip is opened at once, a stream with its first frame.
    ///
    /// # Errors
    /// If ffmpeg is missing, or cannot read the clip.
    pub fn address(
        address: &Address,
        options: &CaptureOptions,
    ) -> Result<ProgramSource, CaptureError> {
        if address.reveal().contains(char::is_control) {
            let reason = format!("the address '{address}' has a control character in it");
            return Err(CaptureError::Unusable(reason));
        }
        let version = ffmpeg_version(options);
        let (input, live) = (Input::of(address, version), is_stream(address.reveal()));
        ProgramSource::opened(&input, address.secrets(), version, live, options)
    }

    fn opened(
        input: &Input,
        secrets: Secrets,
        version: Option<(u32, u32)>,
        live: bool,
        options: &CaptureOptions,
    ) -> Result<ProgramSource, CaptureError> {
        let source = |times| {
            let mut launch = ffmpeg(input, version, times);
            launch.secrets = secrets.clone();
            ProgramSource::new(launch, live, options)
        };
        if live {
            return Ok(source(false));
        }
        let mut timed = source(true);
        match timed.start() {
            Ok(()) => Ok(timed),
            Err(CaptureError::Program { reason, .. }) if lacks_times(&reason) => {
                let mut untimed = source(false);
                untimed.start()?;
                Ok(untimed)
            }
            Err(error) => Err(error),
        }
    }

    /// A Jetson's CSI camera by number, through NVIDIA's GStreamer elements.
    pub fn csi(sensor: u32, options: &CaptureOptions) -> ProgramSource {
        let size = options.size.unwrap_or(CSI_SIZE);
        let fps = options.fps.unwrap_or(CSI_FPS).round().max(1.0);
        let mut args = strings(&["-q", "nvarguscamerasrc"]);
        args.push(format!("sensor-id={sensor}").into());
        args.push("!".into());
        args.push(
            format!(
                "video/x-raw(memory:NVMM),width={},height={},framerate={fps}/1",
                size.width, size.height
            )
            .into(),
        );
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

    /// A GStreamer pipeline that ends in raw video. gst-launch-1.0 takes it as arguments alone, which
    /// every user of the machine can see.
    pub fn gst(pipeline: &Pipeline, options: &CaptureOptions) -> ProgramSource {
        let mut args = strings(&["-q"]);
        args.extend(pipeline.reveal().iter().map(OsString::from));
        args.extend(strings(&["!", "videoconvert"]));
        args.extend(y4m_out("video/x-raw,format=I420,colorimetry=bt601"));
        let input = pipeline.to_string();
        let mut launch = launch(GSTREAMER, args, INSTALL_GSTREAMER, &input);
        launch.secrets = pipeline.secrets();
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
            any_frame: false,
            began: None,
        }
    }

    /// Starts the program. For a clip, also reads the header: size and rate are known afterwards.
    fn start(&mut self) -> Result<(), CaptureError> {
        let child = Child::spawn(&self.launch, &self.options).map_err(|error| match error {
            // for a live source it may be temporary, such as a lack of memory: retry later
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
                Ok(false) => return Err(self.no_header()),
                // the read of the first frame reports the stop
                Err(error) if is_stop(&error) => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// Reads the next frame's bytes.
    fn read(&mut self) -> Result<ReadOutcome, CaptureError> {
        if self.running.is_none() {
            self.start()?;
        }
        let Some(running) = &mut self.running else {
            return Ok(ReadOutcome::Stopped);
        };
        let timeout = match running.frames {
            Some(_) => self.options.timeout,
            None => self.options.timeout + START_TIME,
        };
        let deadline = self.options.clock.now() + timeout;
        running.child.set_deadline(self.live.then_some(deadline));
        match running.read_frame(&mut self.bytes) {
            Ok(Some(header)) => Ok(ReadOutcome::Frame(header)),
            Ok(None) => Ok(ReadOutcome::End),
            Err(error) if is_stop(&error) => Ok(ReadOutcome::Stopped),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Time of a clip's frame since the clip's first, where the program tells it.
    fn position(&mut self, frame: u64) -> Option<Duration> {
        if self.live {
            return None;
        }
        let time = self.running.as_mut()?.child.frame_time(frame)?;
        let began = *self.began.get_or_insert(time);
        let since = time.saturating_sub(began);
        Some(Duration::from_micros(u64::try_from(since).unwrap_or(0)))
    }

    /// The stream has ended: regularly, or because the program failed.
    fn end(&mut self) -> Result<Next, CaptureError> {
        let Some(running) = &mut self.running else {
            return Ok(Next::End);
        };
        let (status, last_line) = running.child.end();
        let success = self.any_frame && status.is_some_and(|status| status.success());
        // a pipeline may end; a network camera does not, but ffmpeg exits with 0 when it is lost
        let may_end = !self.live || (self.launch.program == GSTREAMER && !self.options.retry);
        if success && may_end {
            return Ok(Next::End);
        }
        if !self.any_frame && status.is_some_and(|status| status.success()) && !self.live {
            return Err(self.error("it holds no frame".to_owned()));
        }
        Err(self.error(ending(status, last_line)))
    }

    fn no_header(&mut self) -> CaptureError {
        let ended = self.running.as_mut().map(|running| running.child.end());
        let (status, last_line) = ended.unwrap_or_default();
        self.error(match (status, last_line) {
            (_, Some(line)) if line.contains(NO_STREAM) => "it holds no video".to_owned(),
            (Some(status), None) if status.success() => "it holds no frame".to_owned(),
            (status, last_line) => ending(status, last_line),
        })
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
    /// Reads the header if it was not read yet; `false` if the stream ended before it.
    fn read_header(&mut self) -> io::Result<bool> {
        if self.frames.is_none() {
            self.frames = y4m::read_header(self.child.data()?)?.map(FrameReader::new);
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
            ReadOutcome::Frame(header) => header,
            ReadOutcome::End => return self.end(),
            ReadOutcome::Stopped => return Ok(Next::End),
        };
        if !std::mem::replace(&mut self.any_frame, true) && self.live {
            // the size was not known when the source was opened
            tracing::info!("{}", self.describe());
        }
        let number = self.framer.next_id;
        let position = self.position(number);
        let bytes = &self.bytes;
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
            .map(|mut frame| {
                frame.meta.position = position;
                Next::Frame(frame)
            })
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

fn launch(program: &str, args: Vec<OsString>, install: &'static str, input: &str) -> Launch {
    Launch {
        program: program.to_owned(),
        args,
        script: None,
        install,
        input: input.to_owned(),
        secrets: Secrets::default(),
    }
}

/// What ffmpeg reads.
struct Input {
    /// Options up to and with `-i` and what follows it.
    args: Vec<OsString>,
    /// A list of one file, of which the last option is the name.
    script: Option<String>,
    /// For messages.
    name: String,
}

impl Input {
    fn file(path: &Path) -> Input {
        // without `file:` ffmpeg takes what stands before a colon for a protocol
        let mut input = OsString::from("file:");
        input.push(path);
        Input {
            args: vec!["-i".into(), input],
            script: None,
            name: escape::name(path.as_os_str()),
        }
    }

    /// An address. One with secrets in it reaches ffmpeg in a list for its demuxer `concat`, through
    /// a pipe.
    fn of(address: &Address, version: Option<(u32, u32)>) -> Input {
        // over UDP (ffmpeg's default) lost packets damage frames
        let transport = match address.reveal().starts_with("rtsp") {
            true => Some("tcp"),
            false => None,
        };
        let name = address.to_string();
        if !address.has_secrets() || !reads_lists(version) {
            if address.has_secrets() {
                tracing::warn!(
                    "this ffmpeg is older than 5.0: it gets '{name}' whole on its command line, which \
                     every user of this machine can see"
                );
            }
            let mut args =
                transport.map_or(vec![], |transport| strings(&["-rtsp_transport", transport]));
            args.extend(strings(&["-i", address.reveal()]));
            return Input {
                args,
                script: None,
                name,
            };
        }
        let quoted = address.reveal().replace('\'', r"'\''");
        let mut script = format!("ffconcat version 1.0\nfile '{quoted}'\n");
        if let Some(transport) = transport {
            script.push_str(&format!("option rtsp_transport {transport}\n"));
        }
        let protocols = protocols(address);
        Input {
            args: strings(&[
                "-f",
                "concat",
                "-safe",
                "0",
                "-protocol_whitelist",
                &protocols,
                "-i",
                "pipe:",
            ]),
            script: Some(script),
            name,
        }
    }
}

/// Whether this ffmpeg takes options of an input from a list, and keeps how a clip is turned: both
/// since 5.0.
fn reads_lists(version: Option<(u32, u32)>) -> bool {
    version.is_none_or(|version| version >= (5, 0))
}

/// The protocols that an address may lead to, of which ffmpeg wants a list where it reads one: those
/// of its own name, and what ffmpeg allows a playlist from the network to name. Files are not among
/// them.
fn protocols(address: &Address) -> String {
    let scheme = address
        .reveal()
        .split_once("://")
        .map_or("", |(scheme, _)| scheme);
    let own = scheme.split(|c: char| !c.is_ascii_alphanumeric());
    let further = match scheme.starts_with("rtmp") {
        true => "rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,ffrtmpcrypt,ffrtmphttp",
        false => "rtp,srtp",
    };
    let known = [
        "pipe",
        "http",
        "https",
        "httpproxy",
        "tls",
        "tcp",
        "udp",
        "crypto",
        "data",
    ];
    let all: Vec<&str> = known
        .into_iter()
        .chain(further.split(','))
        .chain(own)
        .collect();
    all.join(",")
}

/// ffmpeg writes the frames of `input` on descriptor 0, and their `times` on descriptor 1.
fn ffmpeg(input: &Input, version: Option<(u32, u32)>, times: bool) -> Launch {
    let mut args = strings(&["-nostdin", "-v", "error"]);
    args.extend_from_slice(&input.args);
    let named = args.len() - 1;
    // V: a video and not the cover picture of a song
    args.extend(strings(&["-map", "0:V:0"]));
    // passthrough: by default ffmpeg repeats and drops frames to get a constant rate
    args.extend(strings(&[frame_rate_option(version), "passthrough"]));
    // Y4M does not carry matrix and range: convert every input to BT.601 limited range
    let mut filters = "scale=out_color_matrix=bt601:out_range=tv".to_owned();
    if times {
        filters.push(',');
        filters.push_str(FRAME_TIMES);
    }
    args.extend(strings(&["-vf", &filters]));
    args.extend(strings(&["-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"]));
    args.extend(strings(&["-flush_packets", "1", "pipe:0"]));
    let mut launch = launch(FFMPEG, args, INSTALL_FFMPEG, &input.name);
    launch.script = input.script.clone().map(|text| Script {
        text,
        argument: named,
    });
    launch
}

fn strings(texts: &[&str]) -> Vec<OsString> {
    texts.iter().map(OsString::from).collect()
}

/// The end of every pipeline: YUV4MPEG2 on descriptor 0.
fn y4m_out(format: &str) -> Vec<OsString> {
    strings(&["!", format, "!", "y4menc", "!", "fdsink", "fd=0"])
}

/// Major and minor version of ffmpeg; `None` for a build from the repository, which is most likely
/// newer than any with a number.
fn ffmpeg_version(options: &CaptureOptions) -> Option<(u32, u32)> {
    parse_version(&version(FFMPEG, &options.stop).unwrap_or_default())
}

/// ffmpeg's name of the frame rate option: `-vsync` until 5.0, `-fps_mode` since 5.1.
fn frame_rate_option(version: Option<(u32, u32)>) -> &'static str {
    match version {
        Some(version) if version < (5, 1) => "-vsync",
        _ => "-fps_mode",
    }
}

/// From `ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright …`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.strip_prefix("ffmpeg version ")?;
    let mut numbers = version
        .trim_start_matches('n')
        .split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().unwrap_or(0)))
}

/// How a program ended, such as `exit status: 1: Connection refused`.
fn ending(status: Option<ExitStatus>, last_line: Option<String>) -> String {
    let status = status.map_or_else(|| "ended".to_owned(), |status| status.to_string());
    match last_line {
        Some(line) => format!("{status}: {line}"),
        None => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::process::Command;

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
        let version = |text: &str| parse_version(&format!("ffmpeg version {text} Copyright"));
        assert_eq!(version("4.4.2-0ubuntu0.22.04.1"), Some((4, 4)));
        assert_eq!(version("n7.1"), Some((7, 1)));
        assert_eq!(version("N-109-gabc"), None);
    }

    #[test]
    fn an_address_with_secrets_is_no_argument() {
        let launch = |address: &str, version| {
            let address = Address::new(address);
            ffmpeg(&Input::of(&address, version), version, false)
        };
        let joined = |launch: &Launch| launch.args.join(OsStr::new(" ")).into_string().unwrap();
        let plain = launch("rtsp://camera/live", Some((5, 1)));
        assert!(plain.script.is_none());
        assert!(joined(&plain).contains("-rtsp_transport tcp -i rtsp://camera/live -map"));

        let secret = launch("rtsp://u:it's@camera/live", Some((5, 0)));
        let args = joined(&secret);
        let script = secret.script.unwrap();
        let list = "ffconcat version 1.0\nfile 'rtsp://u:it'\\''s@camera/live'\noption rtsp_transport tcp\n";
        assert_eq!(script.text, list);
        assert_eq!(secret.args[script.argument], "pipe:");
        assert_eq!(secret.args[script.argument - 1], "-i");
        assert!(!args.contains("camera") && !args.contains("it's"), "{args}");
        assert!(!args.contains("file,") && args.contains(",rtsp "), "{args}");

        let tunnel = launch("hls+https://camera/t0ken/live", None);
        assert!(joined(&tunnel).contains(",hls,https "));
        assert!(!tunnel.script.unwrap().text.contains("option"));

        let old = launch("rtsp://u:it's@camera/live", Some((4, 4)));
        assert!(old.script.is_none() && old.args.contains(&"rtsp://u:it's@camera/live".into()));
    }

    /// RGB of the first pixel of the first frame.
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
                return skipped("ffmpeg is not installed");
            };
            assert!(made.success());
            let pixel = first_pixel(
                ProgramSource::clip(clip.as_ref(), &super::super::test_options()).unwrap(),
            );
            assert!(is_red(pixel), "{matrix} {range}: {pixel:?}");
        }
    }

    /// Reports a skipped test; under `VOVCAM_REQUIRE_TOOLS=1`, as in CI, it fails instead.
    fn skipped(reason: &str) {
        let required = std::env::var_os("VOVCAM_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "VOVCAM_REQUIRE_TOOLS=1, but {reason}");
        eprintln!("skipped: {reason}");
    }

    #[test]
    fn the_real_gstreamer_brings_every_coding_of_colours_to_one() {
        let inspected = Command::new("gst-inspect-1.0").arg("y4menc").output();
        if !inspected.is_ok_and(|output| output.status.success()) {
            return skipped("GStreamer and its good plugins are not installed");
        }
        for colorimetry in ["bt601", "bt709"] {
            let caps =
                format!("video/x-raw,format=NV12,width=64,height=64,colorimetry={colorimetry}");
            let red = [
                "videotestsrc",
                "pattern=solid-color",
                "foreground-color=0xffc82828",
            ];
            let words = [&red[..], &["!", &caps]].concat();
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            let pipeline = Pipeline::new(words);
            let pixel = first_pixel(ProgramSource::gst(&pipeline, &super::super::test_options()));
            assert!(is_red(pixel), "{colorimetry}: {pixel:?}");
        }
    }

    #[test]
    fn a_csi_pipeline_has_the_requested_mode() {
        let options = CaptureOptions {
            size: Some(Size::new(1920, 1080)),
            fps: Some(29.97),
            ..super::super::test_options()
        };
        let source = ProgramSource::csi(1, &options);
        let pipeline = source.launch.args.join(OsStr::new(" "));
        assert_eq!(
            pipeline,
            "-q nvarguscamerasrc sensor-id=1 ! \
             video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 ! nvvidconv ! \
             video/x-raw,format=I420 ! y4menc ! fdsink fd=0"
        );
        assert_eq!(source.describe(), "csi://1 (through gst-launch-1.0)");
    }
}

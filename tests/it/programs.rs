//! Sources behind another program, with stand-ins for ffmpeg and gst-launch-1.0 that die, hang,
//! and talk too much.

use crate::support::{self, CLIP, Ended, Lifeline, Running, finish, logging, tool};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder that comes first in PATH, with one program in it.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// `script` runs at each start with the number of the start in `$n`, and has `frames COUNT`
    /// to write that many grey frames of 64x64 pixels. It and what it starts hold a lifeline.
    pub(crate) fn with(program: &str, script: &str) -> Stage {
        let stage = Stage::empty();
        let dir = stage.dir.path().display();
        let text = format!(
            r#"#!/bin/sh
[ "$1" = -version ] && exit 0
exec 3>&0 </dev/null
dir={dir}
echo "$*" > $dir/args
n=$(($(cat $dir/starts 2>/dev/null || echo 0) + 1))
echo $n > $dir/starts
mkfifo $dir/alive.$n
exec 4<>$dir/alive.$n
header() {{ printf 'YUV4MPEG2 W64 H64 F25:1 C420mpeg2\n' >&3; }}
frames() {{
    i=0
    while [ $i -lt "$1" ]; do
        printf 'FRAME\n' >&3; head -c 6144 /dev/zero | tr '\0' '\200' >&3
        i=$((i + 1))
    done
}}
{script}
"#
        );
        let path = stage.dir.path().join("bin").join(program);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        stage
    }

    pub(crate) fn empty() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        Stage { dir }
    }

    /// The program, which finds programs here and then in `path`.
    pub(crate) fn vovcam(&self, path: &str, args: &[&str]) -> Command {
        let mut command = logging(args);
        let bin = self.dir.path().join("bin");
        command.env("PATH", format!("{}{path}", bin.display()));
        command
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.vovcam(":/usr/bin:/bin", args);
        Running::start(command.stdin(Stdio::null()))
    }

    pub(crate) fn finish(&self, args: &[&str]) -> Ended {
        finish(&mut self.vovcam(":/usr/bin:/bin", args))
    }

    /// The lifeline of one start.
    fn lifeline(&self, start: u32) -> Lifeline {
        Lifeline::open(&self.file(&format!("alive.{start}")))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.file(name)).unwrap();
        text.trim().to_owned()
    }
}

/// Lines until the camera was lost and found again, and why it was lost.
fn until_found(run: &mut Running) -> (Vec<Value>, String) {
    let lines = run.until(|line| line["event"] == "camera_found");
    let lost = lines.iter().find(|line| line["event"] == "camera_lost");
    let reason = lost.unwrap()["message"].as_str().unwrap().to_owned();
    (lines, reason)
}

fn frames(log: &str) -> usize {
    log.matches("\"type\":\"frame\"").count()
}

#[test]
fn a_camera_whose_program_dies_is_lost_found_and_numbered_on() {
    let stage = Stage::with(
        "ffmpeg",
        "header; frames 3; [ $n = 1 ] && { echo Connection reset >&2; exit 1; }; exec sleep 1000",
    );
    let mut run = stage.start(&["--source", "rtsp://camera/s"]);
    let (lines, reason) = until_found(&mut run);
    assert_eq!(lines[0]["source"], "rtsp://camera/s (through ffmpeg)");
    assert_eq!(
        reason,
        "camera 'rtsp://camera/s': ffmpeg: exit status: 1: Connection reset"
    );
    let next = run.frame();
    assert!(next["frame_id"].as_u64() >= Some(3), "numbers go on rising");
    let args = stage.read("args");
    assert!(
        args.contains("-rtsp_transport tcp -i rtsp://camera/s"),
        "{args}"
    );
    let mut second = stage.lifeline(2);
    assert!(second.is_held());
    run.stop();
    second.until_free();
}

#[test]
fn a_program_that_hangs_is_lost_and_started_again() {
    let stage = Stage::with(
        "gst-launch-1.0",
        "header; frames 2; [ $n = 1 ] && exec sleep 1000; while frames 1; do :; done",
    );
    let args = ["--source", "csi://0", "--camera-timeout", "0.5"];
    let mut run = stage.start(&args);
    let (_, reason) = until_found(&mut run);
    assert_eq!(
        reason,
        "camera 'csi://0': gst-launch-1.0: sent no frame in time (--camera-timeout)"
    );
    stage.lifeline(1).until_free();
    assert!(stage.read("args").contains("nvarguscamerasrc sensor-id=0"));
    run.stop();
}

#[test]
fn a_program_that_talks_without_end_holds_no_frame_up() {
    let stage = Stage::with(
        "gst-launch-1.0",
        "header; (while :; do echo 'GST_ARGUS: noise'; done) & while frames 1; do :; done",
    );
    let source = "gst:videotestsrc ! 'video/x-raw, width=64'";
    let Ended {
        code,
        stdout,
        stderr,
    } = stage.finish(&["--source", source, "--max-frames", "20"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(frames(&stdout), 20);
    let shown = stderr.matches("GST_ARGUS").count();
    assert!((1..200).contains(&shown), "{shown} lines were shown");
    let args = stage.read("args");
    let expected = "-q videotestsrc ! video/x-raw, width=64 ! videoconvert ! ";
    assert!(args.starts_with(expected), "{args}");
}

#[test]
fn a_program_dies_with_a_killed_vovcam() {
    let stage = Stage::with("ffmpeg", "header; frames 2; exec sleep 1000");
    let mut run = stage.start(&["--source", "rtsp://camera/s"]);
    run.frame();
    let mut lifeline = stage.lifeline(1);
    assert!(lifeline.is_held());
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    lifeline.until_free();
}

#[test]
fn a_missing_program_is_named_with_the_way_to_install_it() {
    let stage = Stage::empty();
    for (source, program, install) in [
        ("rtsp://camera/s", "ffmpeg", "apt-get install ffmpeg"),
        ("clip.mp4", "ffmpeg", "apt-get install ffmpeg"),
        ("csi://0", "gst-launch-1.0", "gstreamer1.0-tools"),
        ("gst:videotestsrc", "gst-launch-1.0", "gstreamer1.0-tools"),
    ] {
        let Ended { code, stderr, .. } = finish(&mut stage.vovcam("", &["--source", source]));
        assert_eq!(code, Some(69), "{stderr}");
        for part in [&format!("needs the program '{program}'"), install] {
            assert!(stderr.contains(part), "{source}: {stderr}");
        }
    }
}

#[test]
fn a_clip_is_read_to_its_end_and_a_bad_one_says_why() {
    let stage = Stage::with("ffmpeg", "header; frames 7");
    let Ended {
        code,
        stdout,
        stderr,
    } = stage.finish(&["--source", "clip.mp4"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(frames(&stdout), 7, "no frame is replaced");
    assert_eq!(stage.read("starts"), "1");

    let stage = Stage::with("ffmpeg", "echo clip.mp4: No such file >&2; exit 1");
    let Ended { code, stderr, .. } = stage.finish(&["--source", "clip.mp4"]);
    assert_eq!(code, Some(66), "{stderr}");
    let reason = "ffmpeg cannot read 'clip.mp4': exit status: 1: clip.mp4: No such file";
    assert!(stderr.contains(reason), "{stderr}");

    let stage = Stage::with("ffmpeg", "header; frames 2; exit 1");
    let Ended { code, stdout, .. } = stage.finish(&["--source", "clip.mp4"]);
    assert_eq!(code, Some(66), "a clip that breaks off is no success");
    assert_eq!(frames(&stdout), 2);
}

#[test]
fn without_retry_a_lost_camera_ends_the_run() {
    let args = ["--source", "rtsp://camera/s", "--no-retry"];
    // ffmpeg itself is content when the connection ends
    for status in [0, 1] {
        let stage = Stage::with("ffmpeg", &format!("header; frames 2; exit {status}"));
        let Ended { code, stderr, .. } = stage.finish(&args);
        assert_eq!(code, Some(69), "{stderr}");
        let reason = format!("camera 'rtsp://camera/s': ffmpeg: exit status: {status}");
        assert!(stderr.contains(&reason), "{stderr}");
    }
    // what the system refuses now it may grant later: a camera that is lost, not a bad clip
    let stage = Stage::with("ffmpeg", "");
    let refused = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(stage.file("bin/ffmpeg"), refused).unwrap();
    let Ended { code, stderr, .. } = finish(&mut stage.vovcam("", &args));
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains("ffmpeg: cannot be started"), "{stderr}");
}

#[test]
fn the_real_ffmpeg_gives_every_frame_of_the_clip() {
    if tool("ffmpeg").is_none() {
        return;
    }
    let stage = Stage::empty();
    // under another name the clip is ffmpeg's to read, not the built-in reader's
    let clip = stage.file("street.mkv");
    std::fs::copy(CLIP, &clip).unwrap();
    let frames_of = |source: &str| {
        let Ended {
            code,
            stdout,
            stderr,
        } = stage.finish(&["--source", source]);
        assert_eq!(code, Some(0), "{stderr}");
        frames(&stdout)
    };
    let frames = frames_of(CLIP);
    assert!(frames > 0);
    assert_eq!(frames_of(clip.to_str().unwrap()), frames);
}

/// Whether GStreamer and these elements of it are installed.
pub(crate) fn gstreamer(elements: &[&str]) -> bool {
    let Some(inspect) = tool("gst-launch-1.0").and_then(|_| tool("gst-inspect-1.0")) else {
        return false;
    };
    let missing = |element: &&&str| finish(Command::new(&inspect).arg(element)).code != Some(0);
    match elements.iter().find(missing) {
        Some(element) => support::skip(&format!("GStreamer has no element '{element}'")),
        None => return true,
    }
    false
}

#[test]
fn the_real_gstreamer_gives_frames_of_any_size() {
    if !gstreamer(&["videotestsrc", "videoconvert", "y4menc"]) {
        return;
    }
    let stage = Stage::empty();
    for (width, height) in [(640, 480), (322, 242), (320, 241)] {
        let source = format!(
            "gst:videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate=30/1"
        );
        let Ended {
            code,
            stdout,
            stderr,
        } = stage.finish(&["--source", &source, "--max-frames", "5"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!stdout.contains("camera_lost"), "{stdout}");
        let size = format!("\"width\":{width},\"height\":{height}");
        assert_eq!(stdout.matches(&size).count(), 5, "{stdout}");
    }
}

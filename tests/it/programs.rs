//! Sources behind another program, with stand-ins for ffmpeg and gst-launch-1.0 that die, hang,
//! and talk too much.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::limit::{Limit, PATIENCE};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder that comes first in PATH, with one program in it.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// `script` runs at each start with the number of the start in `$n`, and has `frames COUNT`
    /// to write that many grey frames of 64x64 pixels.
    fn with(program: &str, script: &str) -> Stage {
        let stage = Stage::empty();
        let dir = stage.dir.path().display();
        let text = format!(
            r#"#!/bin/sh
[ "$1" = -version ] && exit 0
exec 3>&0 </dev/null
dir={dir}
echo "$$" > $dir/pid
echo "$*" > $dir/args
n=$(($(cat $dir/starts 2>/dev/null || echo 0) + 1))
echo $n > $dir/starts
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

    fn empty() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        Stage { dir }
    }

    fn vovcam(&self, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vovcam"));
        let bin = self.dir.path().join("bin");
        command
            .args(["--headless", "--jsonl", "-", "--input", "64"])
            .args(args)
            .env_remove("VOVCAM_LOG")
            .env("PATH", format!("{}{path}", bin.display()));
        command
    }

    fn start(&self, args: &[&str]) -> Run {
        let mut child = self
            .vovcam(":/usr/bin:/bin", args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Run {
            _limit: Limit::of(&child),
            child,
            lines,
        }
    }

    fn output(&self, args: &[&str]) -> (i32, String, String) {
        text(self.vovcam(":/usr/bin:/bin", args).output().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.file(name)).unwrap();
        text.trim().to_owned()
    }
}

fn text(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

struct Run {
    child: Child,
    _limit: Limit,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Run {
    /// Lines up to and including the first that is wanted.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut all = Vec::new();
        while !all.last().is_some_and(&wanted) {
            let line = self.lines.next().expect("the log ended too early");
            all.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        all
    }

    /// Lines until the camera was lost and found again, and why it was lost.
    fn until_found(&mut self) -> (Vec<Value>, String) {
        let lines = self.until(|line| line["event"] == "camera_found");
        let lost = lines.iter().find(|line| line["event"] == "camera_lost");
        let reason = lost.unwrap()["message"].as_str().unwrap().to_owned();
        (lines, reason)
    }

    fn until_frame(&mut self) -> u64 {
        let lines = self.until(|line| line["type"] == "frame");
        lines.last().unwrap()["frame_id"].as_u64().unwrap()
    }

    fn stop(mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        self.lines.by_ref().for_each(drop);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there, and not only waiting to be forgotten by its parent.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn until_gone(pid: &str) {
    let began = Instant::now();
    while lives(pid) {
        assert!(began.elapsed() < PATIENCE, "{pid} still lives");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_camera_whose_program_dies_is_lost_found_and_numbered_on() {
    let stage = Stage::with(
        "ffmpeg",
        "header; frames 3; [ $n = 1 ] && { echo Connection reset >&2; exit 1; }; exec sleep 1000",
    );
    let mut run = stage.start(&["--source", "rtsp://user:secret@camera/s"]);
    let (lines, reason) = run.until_found();
    assert_eq!(
        lines[0]["source"],
        "rtsp://user:***@camera/s (through ffmpeg)"
    );
    assert_eq!(
        reason,
        "camera 'rtsp://user:***@camera/s': ffmpeg: exit status: 1: Connection reset"
    );
    assert!(run.until_frame() >= 3, "numbers go on rising");
    assert!(
        stage
            .read("args")
            .contains("-i rtsp://user:secret@camera/s")
    );
    assert!(stage.read("args").contains("-rtsp_transport tcp"));
    let pid = stage.read("pid");
    run.stop();
    until_gone(&pid);
}

#[test]
fn a_program_that_hangs_is_lost_and_started_again() {
    let stage = Stage::with(
        "gst-launch-1.0",
        "header; frames 2; [ $n = 1 ] && { cp $dir/pid $dir/first; exec sleep 1000; }; while frames 1; do sleep 0.05; done",
    );
    let args = ["--source", "csi://0", "--camera-timeout", "0.5"];
    let mut run = stage.start(&args);
    let (_, reason) = run.until_found();
    assert_eq!(
        reason,
        "camera 'csi://0': gst-launch-1.0: sent no frame in time (--camera-timeout)"
    );
    let first = stage.read("first");
    until_gone(&first);
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
    let (code, stdout, stderr) = stage.output(&["--source", source, "--max-frames", "20"]);
    assert_eq!(code, 0, "{stderr}");
    let frames = stdout.lines().filter(|line| line.contains("\"frame\""));
    assert_eq!(frames.count(), 20);
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
    run.until_frame();
    let pid = stage.read("pid");
    assert!(lives(&pid));
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    until_gone(&pid);
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
        let output = stage.vovcam("", &["--source", source]).output().unwrap();
        let (code, _, stderr) = text(output);
        assert_eq!(code, 69, "{stderr}");
        for part in [&format!("needs the program '{program}'"), install] {
            assert!(stderr.contains(part), "{source}: {stderr}");
        }
    }
}

#[test]
fn a_clip_is_read_to_its_end_and_a_bad_one_says_why() {
    let stage = Stage::with("ffmpeg", "header; frames 7");
    let (code, stdout, stderr) = stage.output(&["--source", "clip.mp4"]);
    assert_eq!(code, 0, "{stderr}");
    let frames = stdout.lines().filter(|line| line.contains("\"frame\""));
    assert_eq!(frames.count(), 7, "no frame is replaced");
    assert_eq!(stage.read("starts"), "1");

    let stage = Stage::with("ffmpeg", "echo clip.mp4: No such file >&2; exit 1");
    let (code, _, stderr) = stage.output(&["--source", "clip.mp4"]);
    assert_eq!(code, 66, "{stderr}");
    let reason = "ffmpeg cannot read 'clip.mp4': exit status: 1: clip.mp4: No such file";
    assert!(stderr.contains(reason), "{stderr}");

    let stage = Stage::with("ffmpeg", "header; frames 2; exit 1");
    let (code, stdout, _) = stage.output(&["--source", "clip.mp4"]);
    assert_eq!(code, 66, "a clip that breaks off is no success");
    assert_eq!(stdout.matches("\"type\":\"frame\"").count(), 2);
}

#[test]
fn without_retry_a_lost_camera_ends_the_run() {
    let args = ["--source", "rtsp://camera/s", "--no-retry"];
    // ffmpeg itself is content when the connection ends
    for status in [0, 1] {
        let stage = Stage::with("ffmpeg", &format!("header; frames 2; exit {status}"));
        let (code, _, stderr) = stage.output(&args);
        assert_eq!(code, 69, "{stderr}");
        let reason = format!("camera 'rtsp://camera/s': ffmpeg: exit status: {status}");
        assert!(stderr.contains(&reason), "{stderr}");
    }
    // what the system refuses now it may grant later: a camera that is lost, not a bad clip
    let stage = Stage::with("ffmpeg", "");
    let refused = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(stage.file("bin/ffmpeg"), refused).unwrap();
    let (code, _, stderr) = text(stage.vovcam("", &args).output().unwrap());
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("ffmpeg: cannot be started"), "{stderr}");
}

#[test]
fn the_real_ffmpeg_gives_every_frame_of_the_clip() {
    let stage = Stage::empty();
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        eprintln!("skipped: ffmpeg is not installed");
        return;
    }
    // under another name the clip is ffmpeg's to read, not the built-in reader's
    let clip = stage.file("street.mkv");
    std::fs::copy("assets/street.avi", &clip).unwrap();
    let clip = clip.to_str().unwrap();
    let frames = |source: &str| {
        let (code, stdout, stderr) = stage.output(&["--source", source]);
        assert_eq!(code, 0, "{stderr}");
        stdout.matches("\"type\":\"frame\"").count()
    };
    assert_eq!(frames(clip), frames("assets/street.avi"));
}

#[test]
fn the_real_gstreamer_gives_frames_of_any_size() {
    let stage = Stage::empty();
    let has = |element: &str| {
        let inspected = Command::new("gst-inspect-1.0").arg(element).output();
        inspected.is_ok_and(|output| output.status.success())
    };
    if !has("videotestsrc") || !has("y4menc") {
        eprintln!("skipped: GStreamer and its good plugins are not installed");
        return;
    }
    for (width, height) in [(640, 480), (322, 242), (320, 241)] {
        let source = format!(
            "gst:videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate=30/1"
        );
        let (code, stdout, stderr) = stage.output(&["--source", &source, "--max-frames", "5"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(!stdout.contains("camera_lost"), "{stdout}");
        let size = format!("\"width\":{width},\"height\":{height}");
        assert_eq!(stdout.matches(&size).count(), 5, "{stdout}");
    }
}

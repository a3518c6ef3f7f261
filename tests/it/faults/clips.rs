//! Clips that are not as the standard has them, clips without a frame, and times of saved clips.

use crate::support::{Ended, Running, count, ended, finish, lines, logging, skip, tool, vovcam};
use image::RgbImage;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vovcam::avi::{AviReader, AviWriter};
use vovcam::geometry::Size;

const SIZE: Size = Size::new(64, 48);

fn jpeg(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(SIZE.width, SIZE.height, image::Rgb([shade; 3]));
    picture
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    bytes.into_inner()
}

/// A clip of these frames at 10 a second.
fn clip(path: &Path, frames: &[&[u8]]) {
    let mut writer = AviWriter::create(path, SIZE, 10.0).unwrap();
    for frame in frames {
        writer.write_jpeg(frame).unwrap();
    }
    writer.finish(None).unwrap();
}

/// Runs on a source; returns how it ended and the number of frames in its log.
fn run(source: &Path, args: &[&str]) -> (Ended, usize) {
    let ended = finish(logging(&["--source"]).arg(source).args(args));
    let frames = count(&lines(&ended.stdout), "frame");
    (ended, frames)
}

/// Runs ffmpeg with its test picture, 64x48 pixels, as the input; `false` where the test is to be
/// skipped.
fn make(seconds: &str, args: &[&str], out: &Path) -> bool {
    let Some(ffmpeg) = tool("ffmpeg") else {
        return false;
    };
    let picture = format!("testsrc=s=64x48:r=10:d={seconds}");
    let made = Command::new(ffmpeg)
        .args(["-v", "error", "-f", "lavfi", "-i", &picture])
        .args(args)
        .arg(out)
        .stdin(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "{args:?}");
    true
}

#[test]
fn clips_that_ffmpeg_reads_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let two_streams = [
        "-map", "0:v", "-map", "0:v", "-c:v", "mjpeg", "-s:v:1", "32x32",
    ];
    let cases: [(&str, &[&str]); 7] = [
        ("plain.avi", &["-c:v", "mjpeg"]),
        ("two streams.avi", &two_streams),
        ("uncompressed.avi", &["-c:v", "rawvideo"]),
        ("other codec.avi", &["-c:v", "mpeg4"]),
        ("12:30:00.mp4", &["-c:v", "mpeg4"]),
        ("an mp4.avi", &["-c:v", "mpeg4", "-f", "mp4"]),
        ("an avi", &["-c:v", "mjpeg", "-f", "avi"]),
    ];
    for (name, args) in cases {
        let path = dir.path().join(name);
        if !make("0.4", args, &path) {
            return;
        }
        let (
            Ended {
                code,
                stdout,
                stderr,
            },
            frames,
        ) = run(&path, &[]);
        assert_eq!((code, frames), (Some(0), 4), "{name}: {stderr}");
        assert_eq!(
            stdout.matches(r#""width":64,"height":48"#).count(),
            4,
            "{name}"
        );
    }
}

#[test]
fn an_avi_that_went_through_a_pipe_is_whole() {
    let Some(ffmpeg) = tool("ffmpeg") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("piped.avi");
    // to a real pipe, in which ffmpeg cannot go back to fill in lengths
    let script =
        "\"$1\" -v error -f lavfi -i testsrc=s=64x48:r=10:d=2 -c:v mjpeg -f avi - | cat >\"$2\"";
    let mut shell = Command::new("sh");
    let made = shell.args(["-c", script, "sh"]).arg(ffmpeg).arg(&path);
    assert!(made.stdin(Stdio::null()).status().unwrap().success());
    assert_eq!(std::fs::read(&path).unwrap()[4..8], [0xff; 4]);
    let (Ended { code, stderr, .. }, frames) = run(&path, &["--max-frames", "1000"]);
    assert_eq!((code, frames), (Some(0), 20), "{stderr}");
}

#[test]
fn what_only_ffmpeg_reads_says_so_where_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    clip(&path, &[&jpeg(9)]);
    let whole = std::fs::read(&path).unwrap();
    let mut other = whole.clone();
    let at = whole.windows(4).rposition(|tag| tag == b"MJPG").unwrap();
    other[at..at + 4].copy_from_slice(b"H264");
    for (bytes, what) in [
        (other.as_slice(), "'H264' video"),
        (b"\0\0\0\x20ftypisom", "expected 'RIFF"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let mut command = logging(&["--source"]);
        let Ended { code, stderr, .. } = finish(command.arg(&path).env("PATH", dir.path()));
        assert_eq!(code, Some(66), "{stderr}");
        for part in [
            what,
            "'ffmpeg', which reads other formats, is not installed",
            "apt-get",
        ] {
            assert!(stderr.contains(part), "no '{part}': {stderr}");
        }
    }
}

#[test]
fn a_source_that_gives_no_frame_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    for (frames, reason) in [
        (&[][..], "it ended before the first"),
        (
            &[&b"no"[..], b"picture"][..],
            "2 are damaged, the last: damaged JPEG",
        ),
    ] {
        clip(&path, frames);
        let (
            Ended {
                code,
                stdout,
                stderr,
            },
            _,
        ) = run(&path, &[]);
        assert_eq!(code, Some(66), "{stderr}");
        let part = format!("gave not one readable frame: {reason}");
        assert!(stderr.contains(&part), "{stderr}");
        assert_eq!(stdout.matches("damaged_frame").count(), frames.len());
    }
    // standard input, which `finish` closes
    for format in ["mjpeg", "nv12"] {
        let args = ["--source", "-", "--size", "8x8", "--format", format];
        let Ended { code, stderr, .. } = finish(&mut logging(&args));
        assert_eq!(code, Some(66), "{stderr}");
        assert!(stderr.contains("gave not one readable frame"), "{stderr}");
    }
}

#[test]
fn sound_without_video_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let sound = ["-f", "lavfi", "-i", "sine=d=0.2", "-map", "1:a"];
    let cover = [
        "-f",
        "lavfi",
        "-i",
        "sine=d=0.2",
        "-map",
        "1:a",
        "-map",
        "0:v",
        "-frames:v",
        "1",
    ];
    let cover = [
        &cover[..],
        &["-c:v", "png", "-disposition:v", "attached_pic"],
    ]
    .concat();
    for (name, args) in [
        ("sound.mp4", &sound[..]),
        ("song.mp3", &cover),
        ("sound.avi", &sound),
    ] {
        let path = dir.path().join(name);
        if !make("0.2", args, &path) {
            return;
        }
        let (Ended { code, stderr, .. }, _) = run(&path, &[]);
        assert_eq!(code, Some(66), "{name}: {stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains("holds no video") && !last.contains("-map"),
            "{name}: {stderr}"
        );
    }
}

/// Runs on a clip with a shell script in the place of ffmpeg.
fn run_with_ffmpeg(script: &str) -> (Ended, usize) {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg = dir.path().join("ffmpeg");
    std::fs::write(&ffmpeg, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&ffmpeg, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = logging(&["--source", "clip.mp4"]);
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let ended = finish(command.env("PATH", path));
    let frames = count(&lines(&ended.stdout), "frame");
    (ended, frames)
}

#[test]
fn every_version_of_ffmpeg_tells_that_there_is_no_video() {
    // 7.1, whose last line says nothing; 5.1's is tried above
    let (Ended { code, stderr, .. }, _) = run_with_ffmpeg(
        "[ $1 = -version ] && exit
        echo \"Stream map '' matches no streams.\" >&2
        echo \"To ignore this, add a trailing '?' to the map.\" >&2
        echo \"Failed to set value '0:V:0' for option 'map': Invalid argument\" >&2
        echo 'Error opening output files: Invalid argument' >&2
        exit 234",
    );
    assert_eq!(code, Some(66), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "vovcam: ffmpeg cannot read 'clip.mp4': it holds no video"
    );
    assert!(!stderr.contains("To ignore this"), "{stderr}");
}

#[test]
fn an_ffmpeg_that_cannot_print_times_still_gives_the_frames() {
    let (Ended { code, stderr, .. }, frames) = run_with_ffmpeg(
        "case $* in
        -version) echo 'ffmpeg version 4.2.7-0ubuntu0.1 Copyright'; exit;;
        *direct=1*)
            echo \"[Parsed_metadata_3 @ 0x1] Option 'direct' not found\" >&2
            echo 'Conversion failed!' >&2
            exit 1;;
        *-vsync*)
            printf 'YUV4MPEG2 W16 H16 F10:1 C420jpeg\\nFRAME\\n' >&0
            head -c 384 /dev/zero >&0
        esac",
    );
    assert_eq!((code, frames), (Some(0), 1), "{stderr}");
}

/// Milliseconds at which a clip shows its frames.
fn times(path: &Path) -> Vec<u128> {
    let mut reader = AviReader::open(path).unwrap();
    let (mut jpeg, mut times) = (Vec::new(), Vec::new());
    while reader.next_jpeg(&mut jpeg).unwrap() {
        times.push(reader.position().unwrap().as_millis());
    }
    times
}

#[test]
fn a_saved_clip_keeps_the_times_of_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let (source, saved) = (dir.path().join("varying.mkv"), dir.path().join("saved.avi"));
    // five frames 0.1 s apart, then five 0.7 s apart
    let expected = [0, 100, 200, 300, 400, 1100, 1800, 2500, 3200, 3900];
    let varied = "setpts='if(lt(N,5),N,7*N-24)/10/TB'";
    if !make(
        "1",
        &["-vf", varied, "-vsync", "passthrough", "-c:v", "ffv1"],
        &source,
    ) {
        return;
    }
    let save = ["--save", saved.to_str().unwrap()];
    let (Ended { code, stderr, .. }, frames) = run(&source, &save);
    assert_eq!((code, frames), (Some(0), 10), "{stderr}");
    assert_eq!(times(&saved), expected);
    // and again from the saved clip, whose empty chunks are times and no frames
    let again = dir.path().join("again.avi");
    let (Ended { code, stderr, .. }, frames) = run(&saved, &["--save", again.to_str().unwrap()]);
    assert_eq!((code, frames), (Some(0), 10), "{stderr}");
    assert_eq!(times(&again), expected);
}

#[test]
fn a_damaged_frame_does_not_move_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, saved) = (dir.path().join("clip.avi"), dir.path().join("saved.avi"));
    let good = jpeg(90);
    clip(&source, &[&good, b"damaged", &good, b"", &good]);
    let (Ended { code, stderr, .. }, frames) = run(&source, &["--save", saved.to_str().unwrap()]);
    assert_eq!((code, frames), (Some(0), 3), "{stderr}");
    assert_eq!(times(&saved), [0, 200, 400]);
}

/// Runs with at most this many bytes in each file, as on a disk that fills up within one.
fn limited(kib: u32, save: &Path) -> Ended {
    let size = [
        "--source",
        "pattern:6",
        "--size",
        "640x480",
        "--headless",
        "--input",
        "64",
    ];
    let program = vovcam();
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("ulimit -f {kib}; exec \"$@\""), "bash"])
        .arg(program.get_program())
        .args(size)
        .arg("--save")
        .arg(save);
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn a_full_disk_leaves_neither_empty_nor_half_frames() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("frames");
    let Ended { code, stderr, .. } = limited(4, &folder);
    assert_eq!(code, Some(1), "{stderr}");
    let left: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?} {stderr}");

    // a clip ends with its last whole frame, and has its lengths
    let clip = dir.path().join("clip.avi");
    let Ended { code, stderr, .. } = limited(60, &clip);
    assert_eq!(code, Some(1), "{stderr}");
    let (Ended { code, stderr, .. }, frames) = run(&clip, &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!((1..6).contains(&frames), "{frames} frames");
    assert!(!stderr.contains("damaged"), "{stderr}");

    let empty = dir.path().join("empty.avi");
    let Ended { code, .. } = limited(1, &empty);
    assert_eq!((code, empty.exists()), (Some(1), false));
}

#[test]
fn raw_frames_come_through_a_named_pipe_too() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("frames");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let name = pipe.to_str().unwrap();
    // rows of odd width end with half a pair of pixels
    let args = ["--source", name, "--size", "65x49", "--format", "yuyv"];
    let mut program = Running::start(&mut logging(&args));
    program.line(|line| line["type"] == "run");
    std::fs::write(&pipe, vec![128; 2 * 66 * 49 * 2]).unwrap();
    let (rest, status) = program.rest();
    assert_eq!((status.code(), count(&rest, "frame")), (Some(0), 2));

    // without a writer it waits, and ends when it is told to
    let mut program = Running::start(&mut logging(&args));
    program.line(|line| line["type"] == "run");
    program.stop();
}

#[test]
fn a_clip_comes_through_a_named_pipe_too() {
    if tool("ffmpeg").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (whole, pipe) = (dir.path().join("whole.avi"), dir.path().join("pipe.avi"));
    let frame = jpeg(90);
    clip(&whole, &[&frame, &frame]);
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut program = logging(&["--source"]);
    let mut program = Running::start(program.arg(&pipe).stdin(Stdio::null()));
    std::fs::write(&pipe, std::fs::read(&whole).unwrap()).unwrap();
    program.line(|line| line["type"] == "run");
    let (rest, status) = program.rest();
    assert_eq!((status.code(), count(&rest, "frame")), (Some(0), 2));
}

#[test]
fn what_is_no_camera_is_not_waited_for() {
    for place in ["/dev/null", "/dev/shm", "Cargo.toml"] {
        if !Path::new(place).exists() {
            skip(&format!("there is no '{place}'"));
            continue;
        }
        let Ended { code, stderr, .. } = finish(&mut logging(&["--device", place]));
        assert_eq!(code, Some(69), "{stderr}");
        assert!(stderr.contains("not a camera but"), "{stderr}");
    }
}

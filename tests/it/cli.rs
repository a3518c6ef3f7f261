//! The program as a person runs it: good runs, and every kind of bad input.

use crate::support::{self, CLIP, Ended, Running, count, ended, finish, lines, logging, vovcam};
use std::path::Path;
use std::process::Stdio;

/// Runs, expects an exit code, returns (stdout, stderr).
fn run(args: &[&str], expected: i32) -> (String, String) {
    let Ended {
        code,
        stdout,
        stderr,
    } = finish(vovcam().args(args));
    assert_eq!(code, Some(expected), "{args:?}\n{stderr}");
    (stdout, stderr)
}

/// Runs into an error, whose message must hold each part.
fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let (stdout, stderr) = run(args, code);
    assert!(stdout.is_empty(), "{args:?} wrote to stdout: {stdout}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?}: no '{part}' in: {stderr}");
    }
}

fn path(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_clip_gives_a_line_and_a_picture_a_frame_and_people_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (log, saved) = (dir.path().join("log.jsonl"), dir.path().join("frames"));
    let (log, saved) = (log.to_str().unwrap(), saved.to_str().unwrap());
    let (stdout, stderr) = run(
        &[
            "--source",
            CLIP,
            "--max-frames",
            "3",
            "--input",
            "640",
            "--jsonl",
            log,
            "--save",
            saved,
        ],
        0,
    );
    assert!(stdout.is_empty());
    assert!(
        stderr.contains("running headless") && stderr.contains("3 frames in"),
        "{stderr}"
    );
    let lines = lines(&std::fs::read_to_string(log).unwrap());
    let frames = || lines.iter().filter(|line| line["type"] == "frame");
    assert_eq!(
        (lines[0]["type"].as_str(), frames().count()),
        (Some("run"), 3)
    );
    for frame in frames() {
        let people = frame["detections"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["label"] == "person");
        assert!(people.count() >= 3, "{frame}");
    }
    assert_eq!(std::fs::read_dir(saved).unwrap().count(), 3);
}

#[test]
fn a_log_on_stdout_has_nothing_beside_it() {
    let (stdout, _) = run(
        &["--source", "pattern:2", "--size", "320x240", "--jsonl", "-"],
        0,
    );
    let types: Vec<_> = lines(&stdout)
        .iter()
        .map(|line| line["type"].clone())
        .collect();
    assert_eq!(types, ["run", "frame", "frame", "stats"]);
}

#[test]
fn a_damaged_picture_in_a_folder_is_counted_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["1.png", "3.png"] {
        image::RgbImage::new(64, 48)
            .save(dir.path().join(name))
            .unwrap();
    }
    path(dir.path(), "2.png", b"damaged");
    let (stdout, stderr) = run(
        &["--source", dir.path().to_str().unwrap(), "--jsonl", "-"],
        0,
    );
    assert!(
        stderr.contains("1 damaged") && stderr.contains("2.png"),
        "{stderr}"
    );
    assert!(
        stderr.contains("0 frames in the driver"),
        "a damaged frame is not counted twice: {stderr}"
    );
    let lines = lines(&stdout);
    assert!(lines.iter().any(|line| line["event"] == "damaged_frame"));
    let names: Vec<_> = lines
        .iter()
        .filter(|l| l["type"] == "frame")
        .map(|l| l["name"].clone())
        .collect();
    assert_eq!(names, ["1.png", "3.png"]);
}

#[test]
fn detect_answers_in_argument_order_and_goes_on_after_a_bad_picture() {
    let dir = tempfile::tempdir().unwrap();
    let picture = |name: &str| {
        let path = dir.path().join(name);
        image::RgbImage::new(40, 30).save(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (b, a) = (picture("b.bmp"), picture("a.png"));
    let empty = path(dir.path(), "empty.jpg", b"");
    let (stdout, stderr) = run(&["detect", &b, &empty, &a, "--json"], 66);
    assert!(
        stderr.contains("is empty (0 bytes)") && stderr.contains("1 of 3"),
        "{stderr}"
    );
    let names: Vec<_> = lines(&stdout)
        .iter()
        .map(|line| line["name"].clone())
        .collect();
    assert_eq!(names, ["b.bmp", "a.png"]);
}

#[test]
fn bad_pictures_and_clips_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let text = path(dir.path(), "text.jpg", b"no picture");
    fails(
        &["detect", &text],
        66,
        &["text.jpg", "not a readable image"],
    );
    fails(&["detect", "none.jpg"], 66, &["none.jpg", "No such file"]);
    fails(&["--source", "none.avi"], 66, &["none.avi", "No such file"]);
    fails(
        &["--source", "no-such-folder"],
        66,
        &["no-such-folder", "No such file"],
    );
    fails(
        &["--source", dir.path().join("empty").to_str().unwrap()],
        66,
        &["empty"],
    );
    let (_, stderr) = run(&["--source", &text], 66);
    assert!(stderr.contains("none of the 1 images"), "{stderr}");
    let clip = std::fs::read(CLIP).unwrap();
    let not_avi = path(dir.path(), "text.avi", b"this is not a clip at all");
    fails(&["--source", &not_avi], 66, &["byte 0", "RIFF"]);
    let cut = path(dir.path(), "cut.avi", &clip[..100_000]);
    let (stdout, stderr) = run(&["--source", &cut, "--jsonl", "-"], 66);
    assert!(stderr.contains("cut short"), "{stderr}");
    assert!(
        lines(&stdout).iter().any(|line| line["type"] == "frame"),
        "frames before the cut are logged"
    );
}

#[test]
fn a_bad_model_names_the_file_the_tensor_or_the_hash() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = std::fs::read_to_string("models/vovnet27_slim.json").unwrap();
    let weights = std::fs::read("models/vovnet27_slim.safetensors").unwrap();
    path(dir.path(), "vovnet27_slim.safetensors", &weights);
    let model = |name: &str, text: &str| path(dir.path(), name, text.as_bytes());
    let detect = |model: &str, parts: &[&str]| {
        fails(&["--source", "pattern:1", "--model", model], 66, parts)
    };
    detect("nowhere/model.json", &["nowhere/model.json"]);
    detect(&model("empty.json", ""), &["empty.json", "not valid"]);
    let widened = manifest.replace("\"neck_width\": 96", "\"neck_width\": 80");
    assert_ne!(widened, manifest);
    detect(
        &model("shape.json", &widened),
        &[
            "neck.lateral.s32.conv.weight",
            "expected shape [80, 512, 1, 1]",
            "got [96, 512, 1, 1]",
        ],
    );
    let sha = manifest.split("\"sha256\": \"").nth(1).unwrap()[..64].to_owned();
    detect(
        &model("hash.json", &manifest.replace(&sha, &"0".repeat(64))),
        &["SHA-256", &sha],
    );
}

#[test]
fn wrong_settings_name_the_nearest_right_one() {
    let dir = tempfile::tempdir().unwrap();
    fails(
        &["--source", "pattern:1", "--classes", "persn"],
        2,
        &["unknown class 'persn'", "did you mean 'person'?"],
    );
    fails(
        &["--source", "pattern:1", "--threshold", "person=2"],
        2,
        &["from 0 to 1"],
    );
    fails(
        &["--source", "pattern:1", "--input", "100"],
        2,
        &["multiples of 32"],
    );
    fails(&["--source", "-"], 2, &["--size WIDTHxHEIGHT"]);
    #[cfg(not(feature = "cuda"))]
    fails(
        &["--source", "pattern:1", "--engine", "cuda"],
        2,
        &["cuda", "--engine"],
    );
    let config = path(dir.path(), "vovcam.toml", b"clases = [\"person\"]");
    fails(
        &["--config", &config],
        78,
        &["unknown key 'clases'", "did you mean 'classes'?"],
    );
    fails(&["--config", "none.toml"], 78, &["none.toml"]);
    let config = |text: &str| path(dir.path(), "vovcam.toml", text.as_bytes());
    fails(
        &["--config", &config("fps = 0")],
        78,
        &["vovcam.toml', line 1: fps", "got '0'"],
    );
    // no use for a service to be started again
    #[cfg(not(feature = "cuda"))]
    fails(
        &[
            "--config",
            &config("engine = \"cuda\""),
            "--source",
            "pattern:1",
        ],
        78,
        &["cuda", "--engine"],
    );
    fails(
        &["--config", &config("source = \"csi://front\"")],
        78,
        &["csi://NUMBER"],
    );
    fails(
        &["--config", &config("source = \"-\"")],
        78,
        &["--size WIDTHxHEIGHT"],
    );
    // the mistake is on the command line, whatever the file says
    fails(
        &["--config", &config("threads = 1"), "--fps", "0"],
        2,
        &["fps", "got '0'"],
    );
    let log = dir.path().join("no/such/folder.jsonl");
    fails(
        &["--source", "pattern:1", "--jsonl", log.to_str().unwrap()],
        1,
        &["cannot write the JSONL log", "folder.jsonl"],
    );
}

#[test]
fn without_source_and_camera_the_error_names_what_to_try() {
    fails(
        &["--device", "/dev/video77", "--no-retry"],
        69,
        &["/dev/video77", "plugged in"],
    );
    match Path::new("/dev/video0").exists() {
        true => support::skip("the first camera must be missing, and this machine has one"),
        false => fails(&[], 69, &["--device", "--source pattern", "vovcam doctor"]),
    }
}

#[test]
fn annotated_pictures_never_overwrite_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let photo = dir.path().join("photo.jpg");
    image::RgbImage::new(40, 30).save(&photo).unwrap();
    let (folder, photo) = (dir.path().to_str().unwrap(), photo.to_str().unwrap());
    fails(
        &["detect", photo, "--save", folder],
        2,
        &["overwrite", "another folder"],
    );
    fails(
        &["--source", folder, "--save", folder],
        2,
        &["overwrite", "another folder"],
    );
}

#[test]
fn an_annotated_clip_never_overwrites_the_one_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.avi");
    std::fs::copy(CLIP, &clip).unwrap();
    let name = clip.to_str().unwrap();
    fails(
        &["--source", name, "--save", name],
        2,
        &["overwrite", "another name"],
    );
    assert_eq!(std::fs::read(&clip).unwrap(), std::fs::read(CLIP).unwrap());
}

#[test]
fn detect_saves_a_clip_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("a.png");
    image::RgbImage::new(64, 48).save(&picture).unwrap();
    let clip = dir.path().join("out.avi");
    let (picture, clip) = (picture.to_str().unwrap(), clip.to_str().unwrap());
    run(&["detect", picture, picture, "--save", clip], 0);
    let (_, stderr) = run(&["--source", clip, "--input", "64"], 0);
    assert!(stderr.contains("2 frames in"), "{stderr}");
}

/// A place that takes no byte, as a full disk.
fn full() -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).open("/dev/full").unwrap()
}

const THREE_FRAMES: [&str; 7] = [
    "--source",
    "pattern:3",
    "--size",
    "64x64",
    "--input",
    "64",
    "--jsonl",
];

#[cfg(target_os = "linux")]
#[test]
fn messages_that_nobody_can_read_end_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let Ended { code, .. } = ended(
        vovcam()
            .args(THREE_FRAMES)
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(full()),
    );
    assert_eq!(code, Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(count(&lines(&log), "frame"), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn lines_that_standard_output_refuses_are_an_error() {
    let Ended { code, stderr, .. } = ended(
        vovcam()
            .args(THREE_FRAMES)
            .arg("-")
            .stdout(full())
            .stderr(Stdio::piped()),
    );
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is missing 5 lines"), "{stderr}");
}

#[test]
fn doctor_always_answers() {
    let (stdout, _) = run(&["doctor"], 0);
    for part in [
        "model: vovnet27_slim (built in)",
        "engine:",
        "camera",
        "power meter",
        "display",
    ] {
        assert!(stdout.contains(part), "no '{part}' in: {stdout}");
    }
}

#[test]
fn an_interrupt_drains_and_ends_well() {
    use std::os::unix::process::ExitStatusExt;
    let args = ["--source", "pattern", "--fps", "30", "--size", "64x64"];
    let mut program = Running::start(&mut logging(&args));
    for _ in 0..3 {
        program.frame();
    }
    program.signal("-INT");
    let (rest, status) = program.rest();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!(rest.last().unwrap()["type"], "stats");
}

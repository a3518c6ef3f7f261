//! Names of any bytes, names that look like something else, and names that a terminal would carry
//! out.

use crate::support::{Ended, count, finish, lines, logging, skip, tool, vovcam};
use image::RgbImage;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn picture(path: &Path) {
    let picture = RgbImage::new(16, 12);
    let format = image::ImageFormat::Jpeg;
    picture.save_with_format(path, format).unwrap();
}

fn run(args: &[&OsStr]) -> Ended {
    finish(logging(&[]).args(args))
}

/// Names of the frames in a log.
fn frame_names(log: &str) -> Vec<String> {
    let lines = lines(log);
    let names = lines.iter().filter_map(|line| line["name"].as_str());
    names.map(str::to_owned).collect()
}

/// A folder whose name is no text.
fn odd_folder(dir: &Path) -> PathBuf {
    let folder = dir.join(OsStr::from_bytes(b"n\xe9"));
    std::fs::create_dir(&folder).unwrap();
    folder
}

#[test]
fn paths_of_any_bytes_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let odd = odd_folder(dir.path());
    let at = |name: &[u8]| odd.join(OsStr::from_bytes(name));
    std::fs::create_dir(at(b"in")).unwrap();
    picture(&at(b"in/a.jpg"));
    picture(&at(b"in/\xff1.jpg"));
    picture(&at(b"in/\xff2.jpg"));
    for file in ["vovnet27_slim.json", "vovnet27_slim.safetensors"] {
        std::fs::copy(Path::new("models").join(file), at(file.as_bytes())).unwrap();
    }
    std::fs::write(at(b"vovcam.toml"), "threads = 1").unwrap();
    let args = [
        ("--config", at(b"vovcam.toml")),
        ("--source", at(b"in")),
        ("--save", at(b"out")),
        ("--jsonl", at(b"log.jsonl")),
        ("--model", at(b"vovnet27_slim.json")),
    ];
    let mut command = vovcam();
    command.args(["--headless", "--input", "64"]);
    for (option, path) in &args {
        command.arg(option).arg(path);
    }
    let Ended { code, stderr, .. } = finish(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    let log = std::fs::read_to_string(at(b"log.jsonl")).unwrap();
    assert_eq!(frame_names(&log), ["a.jpg", "\\xff1.jpg", "\\xff2.jpg"]);
    assert_eq!(lines(&log)[0]["camera"], "in");
    let saved = std::fs::read_dir(at(b"out")).unwrap().count();
    assert_eq!(saved, 3, "no picture took another's place");

    let clip = at(b"\xfe.AVI");
    std::fs::copy("assets/street.avi", &clip).unwrap();
    let args = [
        "--source".as_ref(),
        clip.as_os_str(),
        "--max-frames".as_ref(),
        "1".as_ref(),
    ];
    let Ended {
        code,
        stdout,
        stderr,
    } = run(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(lines(&stdout)[0]["camera"], "\\xfe.AVI");

    let mut detect = vovcam();
    detect.args(["detect", "--input", "64"]);
    let Ended {
        code,
        stdout,
        stderr,
    } = finish(detect.arg(at(b"in/\xff1.jpg")));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("\\xff1.jpg: 16x12"), "{stdout}");
}

#[test]
fn a_clip_of_any_bytes_is_read_by_ffmpeg() {
    let Some(ffmpeg) = tool("ffmpeg") else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in [
        &b"n\xe9.mkv"[..],
        b"2026-01-02T12:30:00.mkv",
        b"-i.mkv",
        b"rtsp:a%d.mkv",
    ] {
        let clip = odd_name(dir.path(), name);
        let made = Command::new(&ffmpeg)
            .args([
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc=s=16x16:r=10:d=0.2",
            ])
            .args(["-c:v", "ffv1", "-f", "matroska", "pipe:1"])
            .stdout(std::fs::File::create(&clip).unwrap())
            .stdin(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        // by a relative name, too
        for source in [clip.as_os_str(), OsStr::from_bytes(name)] {
            let mut option = OsString::from("--source=");
            option.push(source);
            let Ended {
                code,
                stdout,
                stderr,
            } = finish(logging(&[]).arg(option).current_dir(dir.path()));
            assert_eq!(code, Some(0), "{clip:?}: {stderr}");
            assert_eq!(count(&lines(&stdout), "frame"), 2, "{clip:?}");
        }
    }
}

fn odd_name(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsString::from_vec(name.to_vec()))
}

#[test]
fn a_folder_in_shared_memory_is_no_camera() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return skip("/dev/shm cannot be written to");
    };
    picture(&dir.path().join("a.jpg"));
    let Ended {
        code,
        stdout,
        stderr,
    } = run(&["--source".as_ref(), dir.path().as_os_str()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(frame_names(&stdout), ["a.jpg"]);
}

#[test]
fn hidden_files_are_no_pictures_and_what_is_left_out_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["f1.jpg", "f01.jpg", "f001.jpg", "f10.jpe", "f2.JFIF"] {
        picture(&at(name));
    }
    std::fs::write(at("._f1.jpg"), b"Mac OS X").unwrap();
    std::fs::write(at("clip.mp4"), b"bytes").unwrap();
    std::fs::create_dir(at("more.jpg")).unwrap();
    let source = ["--source".as_ref(), dir.path().as_os_str()];
    let Ended {
        code,
        stdout,
        stderr,
    } = run(&[&source[..], &["-v".as_ref()]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let names = ["f1.jpg", "f01.jpg", "f001.jpg", "f2.JFIF", "f10.jpe"];
    assert_eq!(frame_names(&stdout), names);
    assert!(!stdout.contains("damaged_frame"), "{stdout}");
    let others = "1 files of other kinds (.mp4) and 1 folders are left out";
    for part in [others, "hidden: '._f1.jpg'"] {
        assert!(stderr.contains(part), "no '{part}': {stderr}");
    }
    let Ended { stderr, .. } = run(&source);
    assert!(
        stderr.contains(others) && !stderr.contains("hidden"),
        "{stderr}"
    );
}

/// No control character but the ends of lines.
fn assert_harmless(text: &str) {
    let active = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(active), "{text:?}");
}

#[test]
fn escape_codes_in_names_reach_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let name = "esc\x1b[31m\u{9b}2J\n\x07.jpg";
    let (good, bad) = (dir.path().join(name), dir.path().join("bad\x1b[0m.jpg"));
    picture(&good);
    std::fs::write(&bad, b"no picture").unwrap();
    let shown = "esc\\x1b[31m\\u{9b}2J\\n\\x07.jpg";

    let mut detect = vovcam();
    detect.args(["detect", "--input", "64"]);
    let Ended { stdout, stderr, .. } = finish(detect.args([&good, &bad]));
    assert!(stdout.contains(shown), "{stdout}");
    assert!(stderr.contains("bad\\x1b[0m.jpg"), "{stderr}");
    [&stdout, &stderr]
        .into_iter()
        .for_each(|text| assert_harmless(text));

    // the log has the name itself, and yet no control character
    let Ended {
        code,
        stdout,
        stderr,
    } = run(&["--source".as_ref(), dir.path().as_os_str()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(frame_names(&stdout), [name]);
    assert!(
        stderr.contains("skipped a frame") && stderr.contains("bad\\x1b"),
        "{stderr}"
    );
    [&stdout, &stderr]
        .into_iter()
        .for_each(|text| assert_harmless(text));

    // messages about arguments, and the last message of a run
    let missing = dir.path().join("none\x1b[2J.avi");
    for args in [
        ["--fps", "1\x1b[31m"],
        ["--source", missing.to_str().unwrap()],
        ["--no-such\x1b[31moption", "\r"],
    ] {
        let Ended { code, stderr, .. } = finish(vovcam().args(args));
        assert_ne!(code, Some(0));
        assert!(stderr.contains("\\x1b["), "{stderr}");
        assert_harmless(&stderr);
    }
}

#[test]
fn an_output_never_goes_over_its_source_by_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let (clip, link) = (dir.path().join("clip.avi"), dir.path().join("link.avi"));
    std::fs::copy("assets/street.avi", &clip).unwrap();
    std::fs::hard_link(&clip, &link).unwrap();
    for option in ["--save", "--jsonl"] {
        let mut command = vovcam();
        command.args(["--headless", "--source"]).arg(&clip);
        let Ended { code, stderr, .. } = finish(command.arg(option).arg(&link));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("overwrite"), "{stderr}");
    }
    let same = std::fs::read(&clip).unwrap() == std::fs::read("assets/street.avi").unwrap();
    assert!(same);
}

#[test]
fn where_pictures_are_saved_is_told_by_what_is_there_and_not_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("frames.avi")).unwrap();
    let save = |place: &Path| {
        let mut command = logging(&["--source", "pattern:1", "--size", "64x64", "--save"]);
        finish(command.arg(place))
    };
    let Ended { code, stderr, .. } = save(&at("frames.avi"));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(at("frames.avi/000000.jpg").exists());
    // a folder of this name is not what is meant
    let Ended { code, stderr, .. } = save(&at("clip.mp4"));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("a file ending in '.avi'"), "{stderr}");
    assert!(!at("clip.mp4").exists());
}

/// A data set of two pictures under these names in the annotations.
fn data_set(root: &Path, names: [&str; 2]) {
    std::fs::create_dir_all(root.join("images/sub")).unwrap();
    picture(&root.join("images/f1.jpg"));
    picture(&root.join("images/sub/f2.jpg"));
    let annotations = json!({
        "images": [{"id": 1, "file_name": names[0]}, {"id": 2, "file_name": names[1]}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "person"}],
    });
    std::fs::write(root.join("annotations.json"), annotations.to_string()).unwrap();
}

fn evaluate(data: &Path) -> Ended {
    let mut eval = vovcam();
    eval.args(["eval", "--input", "64", "--data"]);
    finish(eval.arg(data))
}

#[test]
fn harmless_forms_of_an_image_name_find_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let odd = odd_folder(dir.path());
    for names in [
        ["./f1.jpg", "sub//f2.jpg"],
        ["sub/../f1.jpg", "./sub/./f2.jpg"],
        ["images/f1.jpg", "images/./sub/f2.jpg"],
        ["f1.jpg", "sub\\f2.jpg"],
    ] {
        data_set(&odd, names);
        let Ended { code, stderr, .. } = evaluate(&odd);
        assert_eq!(code, Some(0), "{names:?}: {stderr}");
    }
    for outside in ["../../secret.jpg", "sub/../../annotations.json"] {
        data_set(&odd, ["f1.jpg", outside]);
        let Ended { code, stderr, .. } = evaluate(&odd);
        assert_eq!(code, Some(66), "{stderr}");
        let part = format!("'{outside}', which leaves the data set");
        assert!(stderr.contains(&part), "{stderr}");
    }
    data_set(&odd, ["f1.jpg", "sub/f3.jpg"]);
    let Ended { code, stderr, .. } = evaluate(&odd);
    assert_eq!(code, Some(66), "{stderr}");
    assert!(stderr.contains("sub/f3.jpg' is missing"), "{stderr}");
}

#[test]
fn links_in_a_tar_lead_to_their_images() {
    let Some(tar) = tool("tar") else { return };
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    data_set(&set, ["hard.jpg", "folder/f2.jpg"]);
    let images = set.join("images");
    std::fs::hard_link(images.join("f1.jpg"), images.join("hard.jpg")).unwrap();
    std::os::unix::fs::symlink("sub", images.join("folder")).unwrap();
    std::fs::rename(&images, set.join("photos")).unwrap();
    std::os::unix::fs::symlink("photos", &images).unwrap();
    let packed = dir.path().join("set.tar");
    let mut pack = Command::new(tar);
    pack.arg("-cf").arg(&packed).arg("-C").arg(dir.path());
    assert!(pack.arg("./set").status().unwrap().success());
    let Ended { code, stderr, .. } = evaluate(&packed);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_set_without_an_image_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        json!({"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]});
    std::fs::write(dir.path().join("annotations.json"), text.to_string()).unwrap();
    let Ended { code, stderr, .. } = evaluate(dir.path());
    assert_eq!(code, Some(66), "{stderr}");
    assert!(stderr.contains("has no image"), "{stderr}");
}

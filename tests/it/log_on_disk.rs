//! The log on real files and devices, as a run writes it.

use crate::support::{self, Ended, Follow, finish, lines};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn vovcam(args: &[&str]) -> Command {
    let mut command = support::vovcam();
    command
        .args(["--size", "64x64", "--input", "64", "--headless"])
        .args(args);
    command
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap()
}

#[test]
fn rotation_holds_its_cap_and_every_file_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let Ended { code, stderr, .. } = finish(
        vovcam(&["--source", "pattern:900", "--rotate-size", "64K"])
            .args(["--rotate-keep", "2", "--jsonl"])
            .arg(&log),
    );
    assert_eq!(code, Some(0), "{stderr}");
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]);
    let mut ids = Vec::new();
    let mut runs = Vec::new();
    for name in names.iter().rev() {
        let path = dir.path().join(name);
        assert!(path.metadata().unwrap().len() <= 64 << 10, "{name}");
        let lines = lines(&read(&path));
        assert_eq!(lines[1]["event"], "rotated", "{name}");
        runs.push(lines[0]["run_id"].clone());
        ids.extend(lines.iter().filter_map(|line| line["frame_id"].as_u64()));
    }
    assert!(runs.iter().all(|run| run.is_string() && *run == runs[0]));
    assert!(ids.iter().copied().eq(ids[0]..900), "no line is missing");
}

#[test]
fn a_full_device_costs_lines_not_the_detection() {
    let live = vovcam(&["--source", "pattern:20", "--fps", "100", "--jsonl"]);
    let Ended {
        code, stderr: said, ..
    } = finish({ live }.arg("/dev/full"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    // every frame's line and the last figures
    let before = |word: &str| {
        let number = said.split(word).next().unwrap().split_whitespace().last();
        number.unwrap().parse::<u64>().unwrap()
    };
    assert!(before(" frames in ") > 0, "{said}");
    assert_eq!(before(" log lines"), before(" frames in ") + 1, "{said}");

    let file = vovcam(&["--source", "pattern:20", "--jsonl", "/dev/full"]);
    let Ended {
        code, stderr: said, ..
    } = finish(&mut { file });
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the log '/dev/full' is missing 21 lines"),
        "{said}"
    );
}

#[test]
fn a_limit_on_file_sizes_does_not_kill_the_detector() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let program = env!("CARGO_BIN_EXE_vovcam");
    // 8 blocks of 512 bytes
    let script = format!(
        "ulimit -f 8; exec {program} --source pattern:40 --size 64x64 --input 64 --headless --jsonl {}",
        log.display()
    );
    let Ended {
        code, stderr: said, ..
    } = finish(Command::new("sh").args(["-c", &script]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert!(said.contains("lines that could not be written"), "{said}");
    let lines = lines(&read(&log));
    assert_eq!(lines[0]["type"], "run");
    assert!(log.metadata().unwrap().len() <= 8 * 512);
}

#[test]
fn a_kill_costs_at_most_the_last_line_and_the_next_start_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut follow = Follow::file(&log);
    let mut killed = vovcam(&["--source", "pattern", "--jsonl"])
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..20 {
        follow.line();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = read(&log);
    let whole = before.rfind('\n').unwrap() + 1;
    // what a kill may leave behind, whether or not this one did
    std::fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .unwrap()
        .write_all(b"{\"type\":\"frame\",\"ts\":\"2026-")
        .unwrap();

    let Ended { code, stderr, .. } =
        finish(vovcam(&["--source", "pattern:3", "--jsonl"]).arg(&log));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        read(&log)[..whole],
        before[..whole],
        "nothing else is touched"
    );
    let lines = lines(&read(&log));
    let second = lines
        .iter()
        .rposition(|line| line["type"] == "run")
        .unwrap();
    assert_eq!(lines[second + 1]["event"], "log_repaired");
    assert_eq!(lines.last().unwrap()["type"], "stats");
}

#[test]
fn two_runs_cannot_share_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let held = std::fs::File::create(&log).unwrap();
    held.lock().unwrap();
    let Ended {
        code, stderr: said, ..
    } = finish(vovcam(&["--source", "pattern:1", "--jsonl"]).arg(&log));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process is writing to it"), "{said}");
}

#[test]
fn a_log_to_nowhere_is_no_error() {
    let Ended { code, stderr, .. } = finish(&mut vovcam(&[
        "--source",
        "pattern:2",
        "--jsonl",
        "/dev/null",
    ]));
    assert_eq!(code, Some(0), "{stderr}");
}

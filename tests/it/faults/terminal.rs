//! Terminals and readers: colours where they are wanted, readers that leave, lists as people write
//! them, service managers of every kind.

use crate::support::{Ended, PATIENCE, finish, logging, tool, vovcam};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};

const ESCAPE: char = '\u{1b}';
const QUICK: [&str; 4] = ["--input", "64", "--engine", "reference"];

/// What a command shows on a terminal with this environment.
fn on_a_terminal(command: &str, env: &[(&str, &str)]) -> Option<String> {
    let script = tool("script")?;
    let program = env!("CARGO_BIN_EXE_vovcam");
    let mut command_line = Command::new(script);
    command_line.args(["-qec", &format!("{program} {command}"), "/dev/null"]);
    for name in [
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "DISPLAY",
        "VOVCAM_LOG",
        "CI", // which makes every terminal one with colours
    ] {
        command_line.env_remove(name);
    }
    command_line.env("TERM", "xterm").envs(env.iter().copied());
    Some(finish(&mut command_line).stdout)
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    // a log line, and an error of the command line
    let commands = [
        "--source pattern:1 --size 64x64 --input 64 --engine reference --headless",
        "--no-such-option",
    ];
    for command in commands {
        let Some(shown) = on_a_terminal(command, &[]) else {
            return;
        };
        assert!(shown.contains(ESCAPE), "{command}: {shown}");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb"), ("CLICOLOR", "0")] {
            let shown = on_a_terminal(command, &[variable]).unwrap();
            assert!(shown.len() > 20, "{command}: {shown}");
            assert!(!shown.contains(ESCAPE), "{variable:?} {command}: {shown}");
        }
    }
    let Ended { stderr, .. } = finish(vovcam().args(["-v", "detect", "none.jpg"]).args(QUICK));
    assert!(!stderr.contains(ESCAPE), "no terminal: {stderr}");
}

#[test]
fn a_reader_that_has_left_ends_every_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("a.png");
    image::RgbImage::new(64, 48).save(&picture).unwrap();
    let picture = picture.to_str().unwrap();
    let saved = dir.path().join("saved");
    let fixture = "tests/fixtures/eval";
    let detections = format!("{fixture}/detections.json");
    let eval = ["eval", "--data", fixture, "--detections", &detections];
    let detect = [
        "detect",
        picture,
        picture,
        "--input",
        "64",
        "--engine",
        "reference",
    ];
    let commands: [Vec<&str>; 9] = [
        vec!["doctor", "--engine", "reference"],
        vec!["--help"],
        vec!["--version"],
        eval.to_vec(),
        [&eval[..], &["--json"]].concat(),
        detect.to_vec(),
        [&detect[..], &["--json"]].concat(),
        [&detect[..], &["--save", saved.to_str().unwrap()]].concat(),
        [
            &["--source", "pattern:9", "--headless", "--jsonl", "-"][..],
            &QUICK,
        ]
        .concat(),
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = vovcam();
        let command = command.args(&args).stdin(Stdio::null()).stdout(writer);
        let output = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        assert!(
            !said.contains("vovcam:") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
    assert!(
        saved.join("a.jpg").is_file(),
        "pictures are saved all the same"
    );
}

#[test]
fn names_in_a_list_may_have_blanks_between_them() {
    let args = ["--source", "pattern:1", "--size", "64x64", "--headless"];
    let classes = |list: &str| {
        let mut command = vovcam();
        finish(command.args(args).args(QUICK).args(["--classes", list]))
    };
    let Ended { code, stderr, .. } = classes(" person , car");
    assert_eq!(code, Some(0), "{stderr}");
    for (list, part) in [
        ("person,,car", "expected names such as"),
        ("persn, car", "'persn'"),
    ] {
        let Ended { code, stderr, .. } = classes(list);
        assert_eq!(code, Some(2), "{list}: {stderr}");
        assert!(stderr.contains(part), "{list}: {stderr}");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vovcam.toml");
    std::fs::write(&config, "classes = \"person, car\"\n").unwrap();
    let mut command = vovcam();
    let Ended { code, stderr, .. } =
        finish(command.args(args).args(QUICK).arg("--config").arg(config));
    assert_eq!(code, Some(0), "{stderr}");

    let fixture = "tests/fixtures/eval";
    let annotations = std::fs::read_to_string(format!("{fixture}/annotations.json")).unwrap();
    let set: serde_json::Value = serde_json::from_str(&annotations).unwrap();
    let name = |n: usize| set["categories"][n]["name"].as_str().unwrap();
    let detections = format!("{fixture}/detections.json");
    let list = format!("{} , {}", name(0), name(1));
    let mut command = vovcam();
    command.args([
        "eval",
        "--data",
        fixture,
        "--detections",
        &detections,
        "--json",
    ]);
    let Ended {
        code,
        stdout,
        stderr,
    } = finish(command.args(["--classes", &list]));
    assert_eq!(code, Some(0), "{stderr}");
    let figures: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(figures["classes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_service_manager_with_an_abstract_socket_is_told_and_others_are_no_trouble() {
    let name = format!("vovcam-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let args = [
        "--source",
        "pattern:5",
        "--size",
        "64x64",
        "--engine",
        "reference",
    ];
    let run = |socket: &str| finish(logging(&args).env("NOTIFY_SOCKET", socket));
    let Ended { code, stderr, .. } = run(&format!("@{name}"));
    assert_eq!(code, Some(0), "{stderr}");
    let mut told = String::new();
    while !told.contains("STOPPING=1") {
        let mut bytes = [0; 4096];
        let len = manager.recv(&mut bytes).unwrap();
        told.push_str(std::str::from_utf8(&bytes[..len]).unwrap());
    }
    assert!(told.contains("READY=1\n"), "{told}");
    for socket in ["vsock:2:9999", "vsock-stream:2:9999", "nonsense"] {
        let Ended { code, stderr, .. } = run(socket);
        assert_eq!(code, Some(0), "{stderr}");
        let line = stderr.lines().filter(|line| line.contains(socket)).count();
        assert_eq!(line, 1, "{stderr}");
    }
}

//! The program as a service: what the service manager hears, and settings that change meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::limit::{Limit, PATIENCE};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running program whose log lines are read as they come.
struct Service {
    child: Child,
    _limit: Limit,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Service {
    fn start(args: &[&str], env: &[(&str, &Path)]) -> Service {
        let child = Command::new(env!("CARGO_BIN_EXE_vovcam"))
            .args(["--headless", "--jsonl", "-", "--input", "64"])
            .args(args)
            .env_remove("NOTIFY_SOCKET")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Service::of(child)
    }

    fn of(mut child: Child) -> Service {
        Service {
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            _limit: Limit::of(&child),
            child,
        }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid()]).status();
        assert!(sent.unwrap().success());
    }

    /// The next line that is wanted; those before it are thrown away.
    fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let lines = self.lines.by_ref().map(|line| line.unwrap());
        let mut values = lines.map(|line| serde_json::from_str(&line).unwrap());
        values.find(wanted).expect("the log ended too early")
    }

    fn event(&mut self, name: &str) -> String {
        let event = self.line(|line| line["event"] == name);
        event["message"].as_str().unwrap_or_default().to_owned()
    }

    fn stop(mut self) -> Vec<Value> {
        self.signal("-TERM");
        let lines = self.lines.by_ref().map(|line| line.unwrap());
        let rest = lines
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        rest
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    /// Messages up to and including the first with this state.
    fn until(&self, state: &str) -> Vec<String> {
        let mut all = Vec::new();
        while !all.iter().any(|line| line == state) {
            let mut bytes = [0; 4096];
            let len = self.0.recv(&mut bytes).expect(state);
            let text = std::str::from_utf8(&bytes[..len]).unwrap();
            all.extend(text.lines().map(str::to_owned));
        }
        all
    }
}

#[test]
fn a_service_is_ready_with_the_first_detection_and_says_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = Manager::listen(&socket);
    let mut service = Service::start(
        &["--source", "pattern", "--fps", "30", "--size", "64x64"],
        &[
            ("NOTIFY_SOCKET", &socket),
            ("WATCHDOG_USEC", Path::new("4000000")),
        ],
    );
    service.line(|line| line["type"] == "frame");
    let states = manager.until("READY=1");
    assert!(
        states.iter().all(|state| !state.starts_with("STOPPING")),
        "{states:?}"
    );
    manager.until("WATCHDOG=1");
    let states = manager.until("WATCHDOG=1");
    let status = states.iter().find(|state| state.starts_with("STATUS="));
    assert!(status.unwrap().contains(" fps, p95 "), "{status:?}");
    service.stop();
    let states = manager.until("STOPPING=1");
    assert!(!states.contains(&"READY=1".to_owned()), "ready once");
}

#[test]
fn a_service_without_its_camera_is_ready_and_alive_while_it_waits() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = Manager::listen(&socket);
    let camera = dir.path().join("no-camera");
    let mut service = Service::start(
        &["--device", camera.to_str().unwrap()],
        &[
            ("NOTIFY_SOCKET", &socket),
            ("WATCHDOG_USEC", Path::new("8000000")),
        ],
    );
    let run = service.line(|line| line["type"] == "run");
    assert_eq!(run["source"], camera.to_str().unwrap());
    assert!(service.event("camera_lost").contains("plugged in"));
    manager.until("READY=1");
    let states = manager.until("WATCHDOG=1");
    let status = states.iter().find(|state| state.starts_with("STATUS="));
    assert!(
        status.is_none_or(|status| status.contains("camera lost")),
        "{status:?}"
    );
    service.stop();
    manager.until("STOPPING=1");
}

#[test]
fn a_hang_up_reads_the_settings_again_and_loses_no_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, config) = (dir.path().join("notify"), dir.path().join("vovcam.toml"));
    let manager = Manager::listen(&socket);
    // a clip's frames are never replaced by newer ones: a gap would be a loss
    let text = "source = \"pattern:100000\"\nsize = \"64x64\"\nthreshold = 1.0\n";
    std::fs::write(&config, text).unwrap();
    let mut service = Service::start(
        &["--config", config.to_str().unwrap()],
        &[("NOTIFY_SOCKET", &socket)],
    );
    let first = service.line(|line| line["type"] == "frame");
    assert_eq!(first["detections"].as_array().unwrap().len(), 0);
    manager.until("READY=1");

    let all = "source = \"pattern:100000\"\nsize = \"32x32\"\nthreshold = 0.0\n";
    std::fs::write(&config, all).unwrap();
    service.signal("-HUP");
    assert_eq!(
        service.event("config_reloaded"),
        "changed: threshold; restart to apply: size"
    );
    let states = manager.until("RELOADING=1");
    assert!(!states.contains(&"READY=1".to_owned()));
    assert!(states.last().unwrap().starts_with("MONOTONIC_USEC="));
    manager.until("READY=1");
    let found = service.line(|line| {
        let detections = line["detections"].as_array();
        detections.is_some_and(|detections| !detections.is_empty())
    });
    assert_eq!(found["width"], 64, "what needs a restart has not changed");

    std::fs::write(&config, "treshold = 0.5").unwrap();
    service.signal("-HUP");
    let reason = service.event("config_rejected");
    assert!(reason.contains("did you mean 'threshold'?"), "{reason}");
    let after = service.line(|line| line["type"] == "frame");
    assert!(!after["detections"].as_array().unwrap().is_empty());

    let rest = service.stop();
    let ids = rest.iter().filter_map(|line| line["frame_id"].as_u64());
    let ids: Vec<u64> = std::iter::once(after["frame_id"].as_u64().unwrap())
        .chain(ids)
        .collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let dropped = rest.iter().filter_map(|line| line["dropped"].as_u64());
    assert_eq!(dropped.sum::<u64>(), 0);
}

#[test]
fn without_a_settings_file_a_hang_up_stops_the_run() {
    if hang_ups_are_ignored("self") {
        eprintln!("skipped: the tests run under nohup");
        return;
    }
    let mut service = Service::start(&["--source", "pattern", "--size", "64x64"], &[]);
    service.line(|line| line["type"] == "frame");
    service.signal("-HUP");
    service.lines.by_ref().for_each(drop); // a full pipe would hold it up
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

/// SIGHUP is bit 0.
fn hang_ups_are_ignored(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & 1 == 1
}

#[test]
fn under_nohup_a_hang_up_changes_nothing() {
    let child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_vovcam"), "--headless", "--jsonl", "-"])
        .args(["--source", "pattern", "--size", "64x64", "--input", "64"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut service = Service::of(child);
    service.line(|line| line["type"] == "frame");
    assert!(hang_ups_are_ignored(&service.pid()));
    service.signal("-HUP");
    service.stop(); // an orderly end by SIGTERM: it lived until then
}

#[test]
fn one_interrupt_is_enough_while_standard_input_sends_nothing() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vovcam"))
        .args(["--source", "-", "--size", "64x64", "--headless"])
        .args(["--input", "64", "--jsonl", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = Limit::of(&child);
    let silent = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let run = lines.next().unwrap().unwrap();
    assert!(run.contains("standard input"), "{run}");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let last = lines.last().unwrap().unwrap();
    assert!(last.contains("\"stats\""), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(silent);
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vovcam"))
        .args(["--source", "pattern", "--size", "64x64", "--headless"])
        .args(["--input", "64", "--jsonl", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = Limit::of(&child);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

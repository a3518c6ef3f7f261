//! The program as a service: what the service manager hears, and settings that change meanwhile.

use crate::support::{PATIENCE, Running, logging};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

fn start(args: &[&str], env: &[(&str, &Path)]) -> Running {
    Running::start(logging(args).envs(env.iter().copied()).stdin(Stdio::null()))
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
    let mut service = start(
        &["--source", "pattern", "--fps", "30", "--size", "64x64"],
        &[
            ("NOTIFY_SOCKET", &socket),
            ("WATCHDOG_USEC", Path::new("4000000")),
        ],
    );
    service.frame();
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
    let mut service = start(
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
    let mut service = start(
        &["--config", config.to_str().unwrap()],
        &[("NOTIFY_SOCKET", &socket)],
    );
    let first = service.frame();
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
    let after = service.frame();
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
    // also where the tests themselves run under nohup
    let program = logging(&["--source", "pattern", "--size", "64x64"]);
    let mut service = Running::start(&mut under(&["env", "--default-signal=HUP"], &program));
    service.frame();
    service.signal("-HUP");
    let (_, status) = service.rest();
    assert_eq!(status.code(), Some(0));
}

/// The same command behind another program, which becomes it.
fn under(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// SIGHUP is bit 0.
fn hang_ups_are_ignored(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & 1 == 1
}

#[test]
fn under_nohup_a_hang_up_changes_nothing() {
    let program = logging(&["--source", "pattern", "--size", "64x64"]);
    let mut service = Running::start(&mut under(&["env", "--ignore-signal=HUP"], &program));
    service.frame();
    assert!(hang_ups_are_ignored(&service.pid()));
    service.signal("-HUP");
    service.stop(); // an orderly end by SIGTERM: it lived until then
}

#[test]
fn one_interrupt_is_enough_while_standard_input_sends_nothing() {
    let mut program = logging(&["--source", "-", "--size", "64x64"]);
    let mut service = Running::start(program.stdin(Stdio::piped()));
    let silent = service.child.stdin.take();
    let run = service.line(|line| line["type"] == "run");
    assert!(run["source"].as_str().unwrap().contains("standard input"));
    service.signal("-INT");
    let (rest, status) = service.rest();
    assert_eq!(rest.last().unwrap()["type"], "stats");
    assert_eq!(status.code(), Some(0));
    drop(silent);
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let mut service = start(&["--source", "pattern", "--size", "64x64"], &[]);
    service.line(|line| line["type"] == "run");
    assert_eq!(service.leave().code(), Some(0));
}

//! The files in systemd/ are what they say: settings that the program accepts, units that systemd
//! accepts.

use crate::support::{finish, tool};
use std::path::Path;
use std::process::Command;
use vovcam::config::Settings;

fn unit(name: &str) -> String {
    std::fs::read_to_string(Path::new("systemd").join(name)).unwrap()
}

#[test]
fn the_shipped_settings_are_valid_and_so_is_every_line_that_is_commented_out() {
    let shipped = Settings::load(Path::new("systemd/vovcam.toml")).unwrap();
    assert_eq!(shipped.output.headless, Some(true));
    assert!(shipped.log.rotate_size.is_some() && shipped.log.min_free.is_some());

    let dir = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for line in unit("vovcam.toml").lines() {
        let Some(setting) = line.strip_prefix('#').filter(|s| !s.starts_with(' ')) else {
            continue;
        };
        let path = dir.path().join("one.toml");
        std::fs::write(&path, setting).unwrap();
        let one = Settings::load(&path).unwrap();
        assert_ne!(one, Settings::default(), "{setting}");
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
}

#[test]
fn both_units_are_the_same_but_for_names() {
    let one = unit("vovcam.service");
    let each = unit("vovcam@.service");
    let renamed = each
        .replace(" (%i)", "")
        .replace("/etc/vovcam/%i.toml", "/etc/vovcam/vovcam.toml")
        .replace("vovcam-%i", "vovcam")
        .replace("edit vovcam@", "edit vovcam");
    assert_eq!(one, renamed);
}

#[test]
fn both_sockets_listen_on_this_machine_alone_under_the_name_that_the_program_looks_for() {
    for name in ["vovcam.socket", "vovcam@.socket"] {
        let text = unit(name);
        assert!(
            text.lines()
                .any(|line| line == "ListenStream=127.0.0.1:8990"),
            "{name}"
        );
        assert!(
            text.lines().any(|line| line == "FileDescriptorName=http"),
            "{name}"
        );
    }
}

#[test]
fn the_watchdog_is_more_patient_than_the_camera() {
    let number = |line: &str| line.split('=').nth(1).unwrap().parse::<f64>().unwrap();
    let text = unit("vovcam.service");
    let watchdog = text.lines().find(|line| line.starts_with("WatchdogSec="));
    let shipped = Settings::load(Path::new("systemd/vovcam.toml")).unwrap();
    let camera = shipped.source.camera_timeout().as_secs_f64();
    assert!(number(watchdog.unwrap()) > 2.0 * camera);
}

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = tool("systemd-analyze") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for (name, instance) in [
        ("vovcam.service", "vovcam.service"),
        ("vovcam@.service", "vovcam@front.service"),
        ("vovcam.socket", "vovcam.socket"),
        ("vovcam@.socket", "vovcam@front.socket"),
    ] {
        // the program and its man page need not be installed to look at the rest
        let text = unit(name)
            .replace("/usr/bin/vovcam", env!("CARGO_BIN_EXE_vovcam"))
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .fold(String::new(), |text, line| text + line + "\n");
        let path = dir.path().join(instance);
        std::fs::write(&path, text).unwrap();
        let checked = finish(
            Command::new(&analyze)
                .args(["verify", "--man=no"])
                .arg(&path),
        );
        let said = checked.stderr;
        // other units of the machine are not this test's business
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("vovcam"))
            .collect();
        assert!(checked.code == Some(0) && ours.is_empty(), "{name}: {said}");
    }
}

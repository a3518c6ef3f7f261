//! The live window on a virtual display: a screenshot must show the picture and the overlay.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skipped"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the process when the test does, however it does.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("-help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// A display of its own; the server picks a free number and tells it.
fn display() -> (Ended, String) {
    let mut server = Command::new("Xvfb")
        .args(["-displayfd", "1", "-screen", "0", "1024x768x24"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut number = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut number)
        .unwrap();
    (Ended(server), format!(":{}", number.trim()))
}

fn screenshot(display: &str) -> image::RgbImage {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("screen.png");
    let taken = Command::new("import")
        .args(["-display", display, "-window", "root"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(taken.success());
    image::open(path).unwrap().into_rgb8()
}

#[test]
fn the_window_shows_the_picture_and_the_status_line() {
    if !installed("Xvfb") || !installed("import") {
        println!("skipped: Xvfb or ImageMagick is not installed");
        return;
    }
    let (_server, display) = display();
    let program = Command::new(env!("CARGO_BIN_EXE_vovcam"))
        .args([
            "--source", "pattern", "--fps", "20", "--size", "640x480", "--input", "64",
        ])
        .env("DISPLAY", &display)
        .env_remove("WAYLAND_DISPLAY")
        .spawn()
        .unwrap();
    let mut program = Ended(program);
    let started = Instant::now();
    loop {
        let screen = screenshot(&display);
        let count = |colour: [u8; 3]| screen.pixels().filter(|pixel| pixel.0 == colour).count();
        // the pattern's cyan bar, and the white letters on its dark first bar
        let (bar, letters, dark) = (
            count([16, 235, 235]),
            count([255, 255, 255]),
            count([58, 58, 58]),
        );
        if bar > 10_000 && letters > 500 && dark > 200 {
            if let Ok(path) = std::env::var("VOVCAM_TEST_SCREENSHOT") {
                screen.save(path).unwrap();
            }
            return;
        }
        assert_eq!(program.0.try_wait().unwrap(), None, "the program ended");
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "never seen: bar {bar}, letters {letters}, dark {dark} pixels"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

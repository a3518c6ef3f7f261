//! The live window on a virtual display: a screenshot must show the picture and the overlay.

use crate::support::{Running, tool, vovcam};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ends the process when the test does, however it does.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    if tool("Xvfb").is_none() || tool("import").is_none() {
        return;
    }
    let (_server, display) = display();
    let mut program = vovcam();
    program
        .args(["--source", "pattern", "--fps", "20", "--size", "640x480"])
        .args(["--input", "64", "--jsonl", "-"])
        .env("DISPLAY", &display);
    let mut program = Running::start(&mut program);
    let mut seen = String::new();
    for _ in 0..200 {
        program.frame();
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
        seen = format!("bar {bar}, letters {letters}, dark {dark} pixels");
    }
    panic!("never seen: {seen}");
}

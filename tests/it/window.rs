//! The live window on a virtual display: a screenshot must show the picture and the overlay.

use crate::support::display::{Display, keep};
use crate::support::{Running, vovcam};

#[test]
fn the_window_shows_the_picture_and_the_status_line() {
    let Some(display) = Display::start("1024x768x24") else {
        return;
    };
    let mut program = vovcam();
    program
        .args(["--source", "pattern", "--fps", "20", "--size", "640x480"])
        .args(["--input", "64", "--jsonl", "-"])
        .env("DISPLAY", &display.name);
    let mut program = Running::start(&mut program);
    let mut seen = String::new();
    for _ in 0..200 {
        program.frame();
        let screen = display.screenshot();
        let count = |colour: [u8; 3]| screen.pixels().filter(|pixel| pixel.0 == colour).count();
        // the pattern's cyan bar, and the white letters on its dark first bar
        let (bar, letters, dark) = (
            count([16, 235, 235]),
            count([255, 255, 255]),
            count([58, 58, 58]),
        );
        if bar > 10_000 && letters > 500 && dark > 200 {
            return keep(&screen, "window");
        }
        seen = format!("bar {bar}, letters {letters}, dark {dark} pixels");
    }
    panic!("never seen: {seen}");
}

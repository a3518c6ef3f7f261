//! Plays the first frames of a Motion-JPEG clip into a V4L2 loopback device, over and over, one
//! JPEG a write: `feed CLIP DEVICE FRAMES MILLISECONDS`.

#![allow(clippy::print_stdout, reason = "a tool for tests")]

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use vovcam::avi::AviReader;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [clip, device, count, pause] = arguments.as_slice() else {
        return Err("usage: feed CLIP DEVICE FRAMES MILLISECONDS".into());
    };
    let mut reader = AviReader::open(Path::new(clip))?;
    let mut frames = Vec::new();
    let mut jpeg = Vec::new();
    while frames.len() < count.parse()? && reader.next_jpeg(&mut jpeg)? {
        frames.push(jpeg.clone());
    }
    println!("{} frames of {}", frames.len(), reader.size());
    let mut device = OpenOptions::new().write(true).open(device)?;
    let pause = Duration::from_millis(pause.parse()?);
    for jpeg in frames.iter().cycle() {
        device.write_all(jpeg)?;
        std::thread::sleep(pause);
    }
    Err("the clip has no frames".into())
}

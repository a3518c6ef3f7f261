//! Decoding of JPEGs: libjpeg-turbo, which the program uses, and zune-jpeg, which is behind the
//! crate `image`, in turn. `cargo bench --bench jpeg [-- ROUNDS]`; needs cjpeg
//! (libjpeg-turbo-progs).

#![allow(clippy::print_stdout, reason = "prints a table")]

use image::ImageDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::imageops::FilterType;
use std::error::Error;
use std::hint::black_box;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vovcam::avi::AviReader;
use vovcam::capture::jpeg::{Origin, decode};
use vovcam::frame::FramePool;

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/street.avi");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let rounds: usize = arguments.next().map_or(Ok(60), |a| a.parse())?;
    let mut jpeg = Vec::new();
    AviReader::open(Path::new(CLIP))?.next_jpeg(&mut jpeg)?;
    let street = image::load_from_memory(&jpeg)?;
    println!("size       sampling   bytes   libjpeg-turbo ms   zune-jpeg ms   ratio");
    for (width, height) in [(640, 480), (1280, 720), (1920, 1080)] {
        let scaled = street.resize_exact(width, height, FilterType::CatmullRom);
        for (name, sampling) in [("4:2:0", "2x2"), ("4:2:2", "2x1"), ("4:4:4", "1x1")] {
            let jpeg = encode(&scaled.to_rgb8(), sampling)?;
            let (ours, theirs) = in_turn(&jpeg, rounds)?;
            println!(
                "{width:>4}x{height:<5} {name:>6} {:>10} {:>15.2} {:>15.2} {:>10.2}",
                jpeg.len(),
                1e3 * ours.as_secs_f64(),
                1e3 * theirs.as_secs_f64(),
                theirs.as_secs_f64() / ours.as_secs_f64()
            );
        }
    }
    Ok(())
}

fn encode(picture: &image::RgbImage, sampling: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut ppm = format!("P6 {} {} 255\n", picture.width(), picture.height()).into_bytes();
    ppm.extend_from_slice(picture);
    let mut cjpeg = Command::new("cjpeg")
        .args(["-quality", "85", "-sample", sampling])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = cjpeg.stdin.take().ok_or("no pipe")?;
    let writer = std::thread::spawn(move || stdin.write_all(&ppm));
    let jpeg = cjpeg.wait_with_output()?.stdout;
    writer.join().map_err(|_| "a panic")??;
    Ok(jpeg)
}

/// Median times of both, which take turns.
fn in_turn(jpeg: &[u8], rounds: usize) -> Result<(Duration, Duration), Box<dyn Error>> {
    let pool = FramePool::new(1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        let (_, rgb) = decode(jpeg, Origin::default(), |len| pool.take(len))?;
        ours.push(began.elapsed());
        drop(black_box(rgb));
        let began = Instant::now();
        let decoder = JpegDecoder::new(Cursor::new(jpeg))?;
        let mut rgb = pool.take(decoder.total_bytes() as usize);
        decoder.read_image(&mut rgb)?;
        theirs.push(began.elapsed());
        drop(black_box(rgb));
    }
    Ok((median(ours), median(theirs)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

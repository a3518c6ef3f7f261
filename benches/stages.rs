//! The whole program on the bundled clip: what each stage of a frame takes, how near the
//! program comes to its engine's own speed, start-up and memory.
//! `cargo bench --bench stages [-- INPUT THREADS PRECISION ROUNDS]`

#![allow(clippy::print_stdout, reason = "prints a table")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vovcam::engine::{self, EngineOptions, Precision};
use vovcam::geometry::Size;
use vovcam::geometry::input_size_for;
use vovcam::model::Model;
use vovcam::tensor::Batch;
use vovcam::tensor::RawOutput;

/// Size of the clip's frames in pixels.
const CLIP: (u32, u32) = (768, 576);
const CLIP_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/street.avi");
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let input: u32 = arguments.next().map_or(Ok(320), |a| a.parse())?;
    let threads: usize = arguments.next().map_or(Ok(1), |a| a.parse())?;
    let precision = arguments.next().unwrap_or_else(|| "f32".to_owned());
    // times that each figure is taken; the program and the engine alone take turns
    let rounds: usize = arguments.next().map_or(Ok(5), |a| a.parse())?;
    let settings = [
        "--input".to_owned(),
        input.to_string(),
        "--threads".to_owned(),
        threads.to_string(),
        "--precision".to_owned(),
        precision.clone(),
    ];
    let mut engine = EngineAlone::new(input, threads, &precision)?;
    let (mut program_fps, mut engine_fps) = (Vec::new(), Vec::new());
    let mut summary = String::new();
    for _ in 0..rounds {
        engine_fps.push(engine.fps()?);
        summary = run(&settings)?;
        program_fps.push(fps_of(&summary)?);
    }
    println!("{summary}");
    let (program, engine) = (median(program_fps), median(engine_fps));
    println!(
        "program {program:.1} frames/s, engine alone {engine:.1}, ratio {:.3}",
        program / engine
    );
    let starts = (0..rounds).map(|_| first_detection(&settings));
    let starts = starts.collect::<Result<Vec<_>, _>>()?;
    println!(
        "start to first detection: median {:.0} ms of {rounds}",
        1e3 * median(starts.iter().map(Duration::as_secs_f64).collect())
    );
    println!(
        "peak resident memory: {:.0} MB",
        peak_memory(&settings)? / 1e6
    );
    Ok(())
}

/// The engine on one picture of the clip's letterboxed size.
struct EngineAlone {
    engine: Box<dyn engine::Engine>,
    input: Batch,
    output: RawOutput,
}

impl EngineAlone {
    fn new(input: u32, threads: usize, precision: &str) -> Result<EngineAlone, Box<dyn Error>> {
        let model = Model::bundled()?;
        let options = EngineOptions {
            precision: match precision {
                "int8" => Some(Precision::Int8),
                _ => Some(Precision::F32),
            },
            threads,
            ..EngineOptions::default()
        };
        let size = input_size_for(Size::new(CLIP.0, CLIP.1), input, 32);
        let (width, height) = (size.width as usize, size.height as usize);
        Ok(EngineAlone {
            engine: engine::load(&model, &options)?,
            input: Batch {
                batch: 1,
                height,
                width,
                data: (0..width * height * 3)
                    .map(|i| (i * 31 % 251) as u8)
                    .collect(),
            },
            output: RawOutput::default(),
        })
    }

    fn fps(&mut self) -> Result<f64, Box<dyn Error>> {
        let frames = 80;
        self.engine.infer(&self.input, &mut self.output)?;
        let began = Instant::now();
        for _ in 0..frames {
            self.engine.infer(&self.input, &mut self.output)?;
        }
        Ok(f64::from(frames) / began.elapsed().as_secs_f64())
    }
}

fn vovcam(settings: &[String], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vovcam"));
    command.args(["run", "--headless", "--source", CLIP_PATH]);
    command.args(settings).args(more).stdin(Stdio::null());
    command
}

/// The summary that a run over the whole clip ends with.
fn run(settings: &[String]) -> Result<String, Box<dyn Error>> {
    let log = std::env::temp_dir().join(format!("vovcam-stages-{}.jsonl", std::process::id()));
    let log = log
        .to_str()
        .ok_or("the temporary folder's name is not UTF-8")?;
    let output = vovcam(settings, &["--jsonl", log]).output()?;
    std::fs::remove_file(log)?;
    let text = String::from_utf8(output.stderr)?;
    match output.status.success() {
        true => Ok(text),
        false => Err(text.into()),
    }
}

/// `80 frames in 3.1 s, 26.1 frames/s, …`
fn fps_of(summary: &str) -> Result<f64, Box<dyn Error>> {
    let word = summary
        .split(" frames/s")
        .next()
        .and_then(|text| text.rsplit(' ').next());
    Ok(word.ok_or("the summary names no speed")?.parse()?)
}

/// From the start of the process to the first frame's line on its standard output.
fn first_detection(settings: &[String]) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let mut child = vovcam(settings, &["--jsonl", "-", "--max-frames", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let mut first = None;
    for line in out.lines() {
        if line?.starts_with(r#"{"type":"frame""#) {
            first.get_or_insert_with(|| began.elapsed());
        }
    }
    child.wait()?;
    Ok(first.ok_or("no frame was logged")?)
}

/// The largest resident set of a run in bytes, as the kernel has it when the run has seen
/// half of the clip.
fn peak_memory(settings: &[String]) -> Result<f64, Box<dyn Error>> {
    let mut child = vovcam(settings, &["--jsonl", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let mut status = String::new();
    for (line, text) in out.lines().enumerate() {
        text?;
        if line == 40 {
            status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        }
    }
    child.wait()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|text| text.trim().strip_suffix(" kB"));
    Ok(1024.0
        * kilobytes
            .ok_or("no VmHWM in /proc")?
            .trim()
            .parse::<f64>()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

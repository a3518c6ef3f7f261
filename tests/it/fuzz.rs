//! Readers of foreign bytes against mutated files, on a stable compiler. The checks are in
//! `vovcam::fuzz`; docs/fuzzing.md has commands and figures.
//!
//! The engine mutates seeds; an input with an outcome that was not seen before becomes a seed too.
//! All that it does follows from a target's name, a seed number and the number of the input.

#![allow(clippy::print_stdout, reason = "a long run tells how far it is")]

mod mutate;
mod seeds;

use crate::support::allocations;
use mutate::Mutator;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use vovcam::fuzz;

/// One reader.
struct Target {
    name: &'static str,
    run: fn(&[u8]) -> String,
    seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to the reader.
    words: &'static [&'static [u8]],
    /// Longest input in bytes.
    longest: usize,
    /// The largest allocation in bytes that an input may lead to, beyond 16 times its own length.
    room: usize,
    /// Inputs of the short run.
    short: u64,
}

/// Inputs between two savings of a long run's state. Each batch has random numbers of its own.
const BATCH: u64 = 10_000;
/// No reader needs this long for an input of some kilobytes, whatever else the machine does.
const STUCK: Duration = Duration::from_secs(120);
/// Inputs that are kept as seeds.
const MOST_SEEDS: usize = 2_000;
/// Outcomes that are told apart: messages that quote a damaged file can differ without end.
const MOST_OUTCOMES: usize = 5_000;

const COUNT: usize = 9;

static TARGETS: [Target; COUNT] = [
    Target {
        name: "avi",
        run: fuzz::avi,
        seeds: seeds::avi,
        words: seeds::AVI,
        longest: 4096,
        room: 64 << 10,
        short: 20_000,
    },
    Target {
        name: "y4m",
        run: fuzz::y4m,
        seeds: seeds::y4m,
        words: seeds::Y4M,
        longest: 4096,
        room: 64 << 10,
        short: 20_000,
    },
    Target {
        name: "mjpeg",
        run: fuzz::mjpeg,
        seeds: seeds::mjpeg,
        words: seeds::JPEG,
        longest: 4096,
        room: 8 << 20,
        short: 5_000,
    },
    Target {
        name: "model",
        run: fuzz::model,
        seeds: seeds::model,
        words: seeds::MODEL,
        longest: 8192,
        room: 1 << 20,
        short: 5_000,
    },
    Target {
        name: "weights",
        run: fuzz::weights,
        seeds: seeds::weights,
        words: &[],
        longest: 100,
        room: 64 << 20,
        short: 10,
    },
    Target {
        name: "settings",
        run: fuzz::settings,
        seeds: seeds::settings,
        words: seeds::SETTINGS,
        longest: 2048,
        room: 64 << 10,
        short: 10_000,
    },
    Target {
        name: "coco",
        run: fuzz::coco,
        seeds: seeds::coco,
        words: seeds::COCO,
        longest: 4096,
        room: 256 << 10,
        short: 10_000,
    },
    Target {
        name: "tar",
        run: fuzz::tar,
        seeds: seeds::tar,
        words: seeds::TAR,
        longest: 16 << 10,
        room: 1 << 20,
        short: 10_000,
    },
    Target {
        name: "http",
        run: fuzz::http,
        seeds: seeds::http,
        words: seeds::HTTP,
        longest: 512,
        room: 64 << 10,
        short: 5_000,
    },
];

/// The state of a run, from which a long run is resumed.
#[derive(Default, Serialize, Deserialize)]
struct State {
    inputs: u64,
    seconds: f64,
    outcomes: BTreeMap<String, u64>,
    /// Largest allocation, and longest time of one input on a busy machine.
    largest: usize,
    slowest_seconds: f64,
}

struct Fuzzer {
    target: &'static Target,
    seed: u64,
    state: State,
    seeds: Vec<Vec<u8>>,
    /// Where seeds and state are kept; a short run keeps nothing.
    folder: Option<PathBuf>,
    /// Counts inputs, for [`watched`].
    tried: &'static AtomicU64,
}

impl Fuzzer {
    fn new(target: &'static Target, seed: u64, tried: &'static AtomicU64) -> Fuzzer {
        let mut fuzzer = Fuzzer {
            target,
            seed,
            state: State::default(),
            seeds: Vec::new(),
            folder: None,
            tried,
        };
        for input in (target.seeds)() {
            fuzzer.try_input(&input);
            fuzzer.seeds.push(input);
        }
        fuzzer
    }

    /// Goes on where a run with this folder ended.
    fn resumed(mut self, folder: PathBuf) -> Fuzzer {
        std::fs::create_dir_all(folder.join("seeds")).unwrap();
        if let Ok(state) = std::fs::read(folder.join("state.json")) {
            self.state = serde_json::from_slice(&state).unwrap();
            for number in self.seeds.len().. {
                match std::fs::read(folder.join(format!("seeds/{number:05}"))) {
                    Ok(input) => self.seeds.push(input),
                    Err(_) => break,
                }
            }
        }
        self.folder = Some(folder);
        self
    }

    /// Runs the next batch, of `count` inputs.
    fn batch(&mut self, count: u64) {
        let began = Instant::now();
        let number = self.state.inputs / BATCH;
        let mut mutator = Mutator::new(self.target, self.seed, number);
        let mut input = Vec::new();
        for _ in 0..count {
            mutator.next(&self.seeds, &mut input);
            let known = self.state.outcomes.len();
            self.try_input(&input);
            if self.state.outcomes.len() > known && self.seeds.len() < MOST_SEEDS {
                self.keep(&input);
            }
        }
        self.state.inputs += count;
        self.state.seconds += began.elapsed().as_secs_f64();
        if let Some(folder) = &self.folder {
            // in place at once, whenever the run is cut off
            let text = serde_json::to_vec_pretty(&self.state).unwrap();
            std::fs::write(folder.join("state.new"), text).unwrap();
            std::fs::rename(folder.join("state.new"), folder.join("state.json")).unwrap();
        }
    }

    fn keep(&mut self, input: &[u8]) {
        if let Some(folder) = &self.folder {
            let path = folder.join(format!("seeds/{:05}", self.seeds.len()));
            std::fs::write(path, input).unwrap();
        }
        self.seeds.push(input.to_vec());
    }

    fn try_input(&mut self, input: &[u8]) {
        let Target {
            name, run, room, ..
        } = self.target;
        self.tried.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let (largest, outcome) = allocations::largest(|| run(input));
            let most = room + 16 * input.len();
            assert!(
                largest <= most,
                "{name}: {} bytes of input led to an allocation of {largest} bytes, at most {most} \
                 are right",
                input.len()
            );
            (largest, outcome)
        }));
        let (largest, outcome) = match tried {
            Ok(tried) => tried,
            Err(panic) => {
                let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
                std::fs::create_dir_all(&folder).unwrap();
                let path = folder.join(format!("{name}-failed"));
                std::fs::write(&path, input).unwrap();
                println!("{name}: the input that failed is {}", path.display());
                resume_unwind(panic);
            }
        };
        let state = &mut self.state;
        state.largest = state.largest.max(largest);
        state.slowest_seconds = state.slowest_seconds.max(began.elapsed().as_secs_f64());
        let told = state.outcomes.len() < MOST_OUTCOMES || state.outcomes.contains_key(&outcome);
        let outcome = if told { outcome } else { "others".to_owned() };
        *state.outcomes.entry(outcome).or_default() += 1;
    }

    fn progress(&self) -> String {
        let State {
            inputs,
            seconds,
            outcomes,
            largest,
            slowest_seconds,
        } = &self.state;
        let mut line = format!("{}: {inputs} inputs in {seconds:.0} s", self.target.name);
        write!(
            line,
            ", {:.0} a second, {} outcomes, {} seeds, largest allocation {largest} bytes, \
             slowest input {:.1} ms",
            *inputs as f64 / seconds.max(1e-9),
            outcomes.len(),
            self.seeds.len(),
            1e3 * slowest_seconds
        )
        .unwrap();
        line
    }
}

/// Ends the process when an input takes for ever: nothing can end the thread that reads it.
fn watched(target: &'static Target, work: impl FnOnce(&'static AtomicU64)) {
    static TRIED: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];
    let place = TARGETS.iter().position(|other| other.name == target.name);
    let tried = &TRIED[place.unwrap()];
    let (done, over) = channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut before = tried.load(Ordering::Relaxed);
        while over.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout) {
            let now = tried.load(Ordering::Relaxed);
            if now == before {
                println!("{}: stuck in input {now} since the start", target.name);
                std::process::exit(101);
            }
            before = now;
        }
    });
    work(tried);
    drop(done);
    watch.join().unwrap();
}

/// Some inputs, the same every time.
fn short(name: &str) {
    let target = target(name);
    watched(target, |tried| {
        let mut fuzzer = Fuzzer::new(target, 1, tried);
        for input in regressions(name) {
            fuzzer.try_input(&input);
        }
        let seeds = fuzzer.seeds.len();
        while fuzzer.state.inputs < target.short {
            let left = target.short - fuzzer.state.inputs;
            fuzzer.batch(left.min(BATCH));
        }
        println!("{}", fuzzer.progress());
        let state = &fuzzer.state;
        assert!(
            state.outcomes.len() > 1 && (fuzzer.seeds.len() > seeds || target.short < 100),
            "mutations lead nowhere: {:?}",
            state.outcomes
        );
    });
}

/// Inputs that once failed.
fn regressions(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new("tests/fixtures/fuzz").join(name);
    let files = std::fs::read_dir(folder).into_iter().flatten();
    files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect()
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}='{text}'")),
        Err(_) => default,
    }
}

/// Up to `VOVCAM_FUZZ_INPUTS` inputs or `VOVCAM_FUZZ_SECONDS`, from where the last run ended.
fn long(name: &str) {
    let target = target(name);
    let inputs = number("VOVCAM_FUZZ_INPUTS", 10_000_000);
    let seconds = number("VOVCAM_FUZZ_SECONDS", u64::MAX);
    let seed = number("VOVCAM_FUZZ_SEED", 1);
    let folder = Path::new("target/fuzz").join(format!("{name}-{seed}"));
    watched(target, |tried| {
        let mut fuzzer = Fuzzer::new(target, seed, tried).resumed(folder);
        let began = Instant::now();
        let mut told = began;
        while fuzzer.state.inputs < inputs && began.elapsed().as_secs() < seconds {
            fuzzer.batch(BATCH);
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                println!("{}", fuzzer.progress());
            }
        }
        println!("{} (of {inputs})", fuzzer.progress());
    });
}

/// Runs the input in the file `VOVCAM_FUZZ_REPLAY` of the target that begins its name.
#[test]
#[ignore = "for an input that failed"]
fn replay() {
    let path = PathBuf::from(std::env::var_os("VOVCAM_FUZZ_REPLAY").unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    let name = name.split('-').next().unwrap();
    let outcome = (target(name).run)(&std::fs::read(&path).unwrap());
    println!("{name}: {outcome}");
}

/// Writes the seeds of every target below the folder `VOVCAM_FUZZ_CORPUS`, for cargo-fuzz.
#[test]
#[ignore = "for cargo-fuzz"]
fn write_seeds() {
    let folder = PathBuf::from(std::env::var_os("VOVCAM_FUZZ_CORPUS").unwrap());
    for target in &TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed).unwrap();
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        mod short {
            $(#[test] fn $name() { super::short(stringify!($name)); })*
        }
        mod long {
            $(#[test] #[ignore = "for `make fuzz`"] fn $name() { super::long(stringify!($name)); })*
        }
        #[test]
        fn every_target_is_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! { avi y4m mjpeg model weights settings coco tar http }

//! All integration tests in one binary, which links the program once.

mod cli;
mod eval;
mod golden;
mod gpu_floor;
mod jsonl;
mod limit;
mod log_on_disk;
mod power;
mod programs;
mod service;
mod street;
mod units;
mod window;

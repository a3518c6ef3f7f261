//! All integration tests in one binary, which links the program once. `support` holds the parts
//! that they share.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cli;
mod cpu_engine_alloc;
mod custom_stage;
mod eval;
mod faults;
mod fuzz;
mod golden;
mod gpu_floor;
mod http;
mod jsonl;
mod layers;
mod log_on_disk;
mod power;
mod programs;
mod service;
mod street;
mod support;
mod tracking;
mod units;
mod window;

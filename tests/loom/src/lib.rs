//! Compiles the pool by itself; its tests under loom are at the end of its file.
#![cfg(all(test, loom))]

#[allow(dead_code, reason = "the engine calls what the tests do not")]
#[path = "../../../src/engine/cpu/pool.rs"]
mod pool;

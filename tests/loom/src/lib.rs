//! Compiles the pool by itself; its tests under loom are at the end of its file.
#![cfg(all(test, loom))]

#[path = "../../../src/engine/cpu/pool.rs"]
mod pool;

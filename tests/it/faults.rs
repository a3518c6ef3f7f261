//! Faults of input and surroundings that users met, one module for each kind.

mod annotations;
mod secrets;

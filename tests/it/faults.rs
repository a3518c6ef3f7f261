//! Faults that users have met, each with its siblings: what the program reads, writes and shows, when
//! that is not as it should be.

mod display;
mod stopping;
mod terminal;

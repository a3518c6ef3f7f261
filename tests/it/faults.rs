//! What goes wrong in the field: odd files, names, places, displays and readers. One file a subject.

mod annotations;
mod clips;
mod display;
mod jpeg;
mod names;
mod secrets;
mod stopping;
mod terminal;

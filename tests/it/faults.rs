//! What goes wrong in the field: odd files, names, places and environments. One file a subject.

mod clips;
mod names;

//! From what a source delivers to RGB.

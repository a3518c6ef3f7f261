//! Inputs as other people's programs and devices make them.

mod jpeg;

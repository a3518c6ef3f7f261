//! Power meters.

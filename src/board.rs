//! What board this is: model, L4T, power mode, throttling.

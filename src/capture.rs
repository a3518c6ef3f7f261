//! Frames come from a [`Source`]: a camera, a clip, a folder, standard input, or a test pattern.

//! Motion-JPEG in an AVI container: the one video format read and written without help.

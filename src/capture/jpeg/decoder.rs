//! libjpeg-turbo, called through `decoder.c`, which says why a part of this is C.
#![allow(unsafe_code, reason = "calls C")]

use super::JpegError;
use crate::geometry::Size;
use mozjpeg_sys as _; // brings the library
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// More scans than any encoder writes, and few enough that a small file cannot keep the decoder
/// busy: each scan is a pass over all pixels. The limit of libjpeg-turbo's own fuzzers.
const MOST_SCANS: c_int = 500;

/// `struct vovcam_jpeg`.
#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

// the values of `enum outcome`
const WHOLE: c_int = 0;
const DAMAGED: c_int = 1;
const UNSUPPORTED: c_int = 2;

unsafe extern "C" {
    fn vovcam_jpeg_open(
        bytes: *const u8,
        len: usize,
        most_scans: c_int,
        most_surplus: c_int,
    ) -> *mut Handle;
    fn vovcam_jpeg_header(jpeg: *mut Handle, width: *mut c_uint, height: *mut c_uint) -> c_int;
    fn vovcam_jpeg_decode(jpeg: *mut Handle, rgb: *mut u8, stride: usize) -> c_int;
    fn vovcam_jpeg_message(jpeg: *const Handle) -> *const c_char;
    fn vovcam_jpeg_close(jpeg: *mut Handle);
}

/// A JPEG whose header was read.
pub(super) struct Decoder<'a> {
    handle: OwnedHandle,
    size: Size,
    bytes: PhantomData<&'a [u8]>,
}

struct OwnedHandle(NonNull<Handle>);

impl Drop for OwnedHandle {
    fn drop(&mut self) {
        // SAFETY: `open` returned it, and nothing uses it after this.
        unsafe { vovcam_jpeg_close(self.0.as_ptr()) }
    }
}

impl OwnedHandle {
    fn check(&self, outcome: c_int) -> Result<(), JpegError> {
        if outcome == WHOLE {
            return Ok(());
        }
        // SAFETY: the handle is open; the message is a terminated string inside it, and is not
        // written to while it is borrowed.
        let message = unsafe { CStr::from_ptr(vovcam_jpeg_message(self.0.as_ptr())) };
        let reason = message.to_string_lossy();
        Err(match outcome {
            DAMAGED => JpegError::Damaged(plain(&reason)),
            UNSUPPORTED => JpegError::Unsupported(plain(&reason)),
            _ => JpegError::NoMemory,
        })
    }
}

/// libjpeg's message as a part of a sentence.
fn plain(message: &str) -> String {
    let message = message.trim_start_matches("Corrupt JPEG data: ");
    let message = message.trim_start_matches("Warning: ");
    let mut letters = message.chars();
    match letters.next() {
        // a name such as 'JPEG' stays as it is
        Some(first) if !letters.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => message.to_owned(),
    }
}

impl<'a> Decoder<'a> {
    /// Reads the header. `most_surplus`: so many bytes that belong to nothing, before a restart or
    /// end marker, are no damage.
    pub(super) fn open(bytes: &'a [u8], most_surplus: u8) -> Result<Decoder<'a>, JpegError> {
        // SAFETY: pointer and length are those of a slice that outlives the handle, by the
        // lifetime of `Decoder`.
        let handle = unsafe {
            vovcam_jpeg_open(
                bytes.as_ptr(),
                bytes.len(),
                MOST_SCANS,
                c_int::from(most_surplus),
            )
        };
        let handle = OwnedHandle(NonNull::new(handle).ok_or(JpegError::NoMemory)?);
        let (mut width, mut height) = (0, 0);
        // SAFETY: the handle is open; both numbers are there to be written to.
        let outcome = unsafe { vovcam_jpeg_header(handle.0.as_ptr(), &mut width, &mut height) };
        handle.check(outcome)?;
        Ok(Decoder {
            handle,
            size: Size::new(width, height),
            bytes: PhantomData,
        })
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Decodes to rows of RGB that begin `stride` bytes apart in `rgb`.
    ///
    /// # Panics
    /// If the rows do not fit into `rgb`.
    pub(super) fn decode(self, rgb: &mut [u8], stride: usize) -> Result<(), JpegError> {
        let row = 3 * self.size.width as usize;
        let rows = self.size.height as usize;
        assert!(
            row <= stride && rows > 0 && (rows - 1) * stride + row <= rgb.len(),
            "{} in {} bytes, {stride} a row",
            self.size,
            rgb.len()
        );
        // SAFETY: the handle is open and its header was read, which set the size; that many rows
        // are inside `rgb`, as the assertion above checks.
        let outcome =
            unsafe { vovcam_jpeg_decode(self.handle.0.as_ptr(), rgb.as_mut_ptr(), stride) };
        self.handle.check(outcome)
    }
}

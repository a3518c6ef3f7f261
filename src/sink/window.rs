//! The live window, on minifb. It lives in the thread that called [`crate::pipeline`].

use crate::geometry::Size;
use minifb::{Key, ScaleMode, WindowOptions};

/// A window that shows RGB pictures, scaled to fit.
pub struct Window {
    inner: minifb::Window,
    /// `0x00RRGGBB`, as minifb takes them.
    pixels: Vec<u32>,
}

impl Window {
    /// Opens a window; the reason as text where there is no display to open it on.
    ///
    /// # Errors
    /// Why there is no window.
    pub fn open(title: &str, size: Size) -> Result<Window, String> {
        if std::env::var_os("DISPLAY").is_none() && std::env::var_os("WAYLAND_DISPLAY").is_none() {
            return Err("no display (neither DISPLAY nor WAYLAND_DISPLAY is set)".to_owned());
        }
        let options = WindowOptions {
            resize: true,
            scale_mode: ScaleMode::AspectRatioStretch,
            ..WindowOptions::default()
        };
        let (width, height) = (size.width as usize, size.height as usize);
        let inner =
            minifb::Window::new(title, width, height, options).map_err(|e| e.to_string())?;
        Ok(Window {
            inner,
            pixels: Vec::new(),
        })
    }

    /// Shows a picture; `false` once the user has closed the window or pressed Esc or Q.
    pub fn show(&mut self, rgb: &[u8], size: Size) -> bool {
        self.pixels.clear();
        let packed = rgb
            .chunks_exact(3)
            .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]));
        self.pixels.extend(packed);
        let (width, height) = (size.width as usize, size.height as usize);
        if let Err(error) = self.inner.update_with_buffer(&self.pixels, width, height) {
            tracing::debug!("the window refused a picture: {error}");
        }
        self.is_open()
    }

    /// Lets the window react while there is no new picture; `false` once it is closed.
    pub fn poll(&mut self) -> bool {
        self.inner.update();
        self.is_open()
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
            && !self.inner.is_key_down(Key::Escape)
            && !self.inner.is_key_down(Key::Q)
    }
}

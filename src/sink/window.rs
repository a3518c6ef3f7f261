//! The live window (minifb). On some systems it must be used from the main thread only.

use super::{Flow, Message, Queue, Sink, SinkError};
use crate::geometry::Size;
use minifb::{Key, ScaleMode, WindowOptions};
use std::time::Duration;

/// A window that shows RGB frames, scaled to fit.
pub struct Window {
    inner: minifb::Window,
    /// `0x00RRGGBB`, the format of minifb.
    pixels: Vec<u32>,
}

impl Window {
    /// Opens a window of this size in pixels.
    ///
    /// # Errors
    /// The reason as text, such as a missing display.
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

    /// Shows a frame, packed RGB of `size`; `false` once the user has closed the window or pressed Esc
    /// or Q.
    pub fn show(&mut self, rgb: &[u8], size: Size) -> bool {
        self.pixels.clear();
        let packed = rgb
            .chunks_exact(3)
            .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]));
        self.pixels.extend(packed);
        let (width, height) = (size.width as usize, size.height as usize);
        if let Err(error) = self.inner.update_with_buffer(&self.pixels, width, height) {
            tracing::debug!("the window cannot show a frame: {error}");
        }
        self.is_open()
    }

    /// Handles the window's events while there is no new frame; `false` once it is closed.
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

/// Interval at which the window's events are handled; at 30 ms a key press seems immediate.
const POLL_INTERVAL: Duration = Duration::from_millis(30);

impl Sink for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn queue(&self) -> Queue {
        Queue::Newest
    }

    fn needs_pictures(&self) -> bool {
        true
    }

    fn accept(&mut self, message: &Message) -> Result<Flow, SinkError> {
        let open = match message {
            Message::Frame(frame) => match &frame.picture {
                Some(picture) => self.show(picture.annotated(), picture.size()),
                None => self.poll(),
            },
            _ => self.is_open(),
        };
        Ok(flow(open))
    }

    fn upkeep_interval(&self) -> Duration {
        POLL_INTERVAL
    }

    fn upkeep(&mut self) -> Result<Flow, SinkError> {
        Ok(flow(self.poll()))
    }
}

fn flow(open: bool) -> Flow {
    match open {
        true => Flow::Continue,
        false => Flow::Stop("the window was closed"),
    }
}

//! The window's process: shows the pictures that it is given (minifb) until its socket ends.

use super::process::{CLOSED, FAILED, READY};
use super::visual::{self, Visual};
use crate::geometry::Size;
use minifb::{Key, ScaleMode, WindowOptions};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Time between two looks at the window's events, in ms; a key press seems immediate.
const POLL_MS: u16 = 30;

/// Shows a window of at most `size` until the user closes it or the run ends. Standard input,
/// standard output and standard error are what `window/process.rs` makes them.
pub fn show(size: Size) {
    let Ok(mut run) = Run::connect() else { return };
    let told = match Screen::open(size) {
        Ok(mut screen) => match run.serve(&mut screen) {
            Ok(()) => run.tell(CLOSED),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => run.tell(&format!("{FAILED}{error}")),
        },
        Err(reason) => run.tell(&format!("{FAILED}{}", reason.replace('\n', " "))),
    };
    drop(told); // who could be told has ended
}

/// The run's end of the socket, and its pixels.
struct Run {
    socket: UnixStream,
    pixels: File,
    rgb: Vec<u8>,
}

impl Run {
    fn connect() -> io::Result<Run> {
        // a signal to the whole service is the run's to answer: it ends this process
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        #[cfg(target_os = "linux")]
        {
            use nix::sys::prctl;
            let _ = prctl::set_name(c"vovcam-window");
            // a display that hangs would keep this process from seeing the end of its socket
            prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(Run {
            socket: UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?),
            pixels: File::from(io::stdin().as_fd().try_clone_to_owned()?),
            rgb: Vec::new(),
        })
    }

    /// Shows pictures until the window is closed.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] when the run has ended, or another failure.
    fn serve(&mut self, screen: &mut Screen) -> io::Result<()> {
        self.tell(READY)?;
        loop {
            if self.has_news()? {
                let size = self.next_picture()?;
                screen.show(&self.rgb, size)?;
                self.tell(READY)?;
            } else {
                screen.window.update();
            }
            if !screen.is_open() {
                return Ok(());
            }
        }
    }

    /// Whether there is a picture, or the end, within [`POLL_MS`].
    fn has_news(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(POLL_MS)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn next_picture(&mut self) -> io::Result<Size> {
        let mut side = || {
            let mut bytes = [0; 4];
            let read = self.socket.read_exact(&mut bytes);
            read.map(|()| u32::from_le_bytes(bytes))
        };
        let size = Size::new(side()?, side()?);
        self.rgb.resize(3 * size.area(), 0);
        self.pixels.read_exact_at(&mut self.rgb, 0)?;
        Ok(size)
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        self.socket.write_all(format!("{line}\n").as_bytes())
    }
}

/// An open window.
struct Screen {
    window: minifb::Window,
    visual: Visual,
    /// In the form of the window's visual.
    pixels: Vec<u32>,
}

impl Screen {
    /// # Errors
    /// The reason as text, such as a display that cannot be reached.
    fn open(size: Size) -> Result<Screen, String> {
        let (visual, _connection) = visual::find()?;
        let options = WindowOptions {
            resize: true,
            scale_mode: ScaleMode::AspectRatioStretch,
            // minifb's name for a visual with alpha; it has one without borders only
            transparency: visual.has_alpha,
            borderless: visual.has_alpha,
            ..WindowOptions::default()
        };
        let size = visual.fit(size);
        let (width, height) = (size.width as usize, size.height as usize);
        let window = minifb::Window::new("vovcam", width, height, options);
        Ok(Screen {
            window: window.map_err(|e| e.to_string())?,
            visual,
            pixels: Vec::new(),
        })
    }

    fn show(&mut self, rgb: &[u8], size: Size) -> io::Result<()> {
        self.visual.pack(rgb, &mut self.pixels);
        let (width, height) = (size.width as usize, size.height as usize);
        self.window
            .update_with_buffer(&self.pixels, width, height)
            .map_err(io::Error::other)
    }

    fn is_open(&self) -> bool {
        self.window.is_open()
            && !self.window.is_key_down(Key::Escape)
            && !self.window.is_key_down(Key::Q)
    }
}

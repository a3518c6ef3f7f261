//! An X display of its own for a test.

use super::{Limit, PATIENCE, tool};
use image::RgbImage;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConnectionExt, MapState, Window};
use x11rb::rust_connection::RustConnection;

/// A virtual X server, which ends with this.
pub(crate) struct Display {
    pub(crate) server: Child,
    /// As in `DISPLAY`.
    pub(crate) name: String,
    _limit: Limit,
}

impl Display {
    /// A display with one screen, such as `1024x768x24`; `None` where the test is to be skipped.
    pub(crate) fn start(screen: &str) -> Option<Display> {
        tool("Xvfb")?;
        tool("import")?;
        let mut server = Command::new("Xvfb")
            // without a reset, which a test would have to wait for, when its last client leaves
            .args(["-noreset", "-displayfd", "1", "-screen", "0", screen])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let limit = Limit::of(&server);
        let mut number = String::new(); // the server picks a free one and tells it
        let told = server.stdout.take().unwrap();
        BufReader::new(told).read_line(&mut number).unwrap();
        Some(Display {
            server,
            name: format!(":{}", number.trim()),
            _limit: limit,
        })
    }

    /// What the screen shows.
    pub(crate) fn screenshot(&self) -> RgbImage {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("screen.png");
        let taken = Command::new("import")
            .args(["-display", &self.name, "-window", "root"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(taken.success());
        image::open(path).unwrap().into_rgb8()
    }

    /// A client's connection.
    pub(crate) fn connect(&self) -> Client {
        let (connection, screen) = x11rb::connect(Some(&self.name)).unwrap();
        let root = connection.setup().roots[screen].root;
        Client { connection, root }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.server.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A client that looks for the program's window.
pub(crate) struct Client {
    pub(crate) connection: RustConnection,
    pub(crate) root: Window,
}

impl Client {
    /// The only window on the screen, once there is one.
    pub(crate) fn window(&self) -> Window {
        let began = Instant::now();
        loop {
            let tree = self.connection.query_tree(self.root).unwrap();
            let mut windows = tree.reply().unwrap().children.into_iter();
            if let Some(window) = windows.find(|&window| self.is_shown(window)) {
                return window;
            }
            assert!(began.elapsed() < PATIENCE, "there is no window");
            std::thread::yield_now();
        }
    }

    fn is_shown(&self, window: Window) -> bool {
        let attributes = self
            .connection
            .get_window_attributes(window)
            .unwrap()
            .reply();
        attributes.is_ok_and(|attributes| attributes.map_state == MapState::VIEWABLE)
    }
}

/// Number of pixels whose colour differs from this one by no more than a screen's few bits do.
pub(crate) fn near(screen: &RgbImage, colour: [u8; 3]) -> usize {
    let is_near = |pixel: &[u8; 3]| (0..3).all(|c| pixel[c].abs_diff(colour[c]) <= 8);
    screen.pixels().filter(|pixel| is_near(&pixel.0)).count()
}

/// Keeps a picture of the screen in the folder that `VOVCAM_TEST_SCREENSHOTS` names, for people to
/// look at.
pub(crate) fn keep(screen: &RgbImage, name: &str) {
    if let Some(folder) = std::env::var_os("VOVCAM_TEST_SCREENSHOTS") {
        let path = Path::new(&folder).join(format!("{name}.png"));
        screen.save(path).unwrap();
    }
}

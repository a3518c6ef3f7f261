//! Displays that are unusual, and displays and windows that go away: detection and the log go on.

use crate::support::display::{Client, Display, keep, near};
use crate::support::{Ended, Limit, PATIENCE, Running, finish, vovcam};
use image::RgbImage;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    ClientMessageEvent, ConfigureWindowAux, ConnectionExt, EventMask, KEY_PRESS_EVENT,
    KeyPressEvent, Window,
};

/// The program promises 3 s; a machine that does much else takes longer.
const LIMIT: Duration = Duration::from_secs(6);
const YELLOW: [u8; 3] = [235, 235, 16];
const CYAN: [u8; 3] = [16, 235, 235];
const BLUE: [u8; 3] = [16, 16, 235];

/// A run on the test pattern with a window.
fn with_window(display: &str) -> Command {
    let mut command = vovcam();
    command
        .args(["--source", "pattern", "--fps", "20", "--size", "640x480"])
        .args(["--input", "64", "--engine", "reference", "--jsonl", "-"])
        .env("DISPLAY", display);
    command
}

fn start(display: &Display) -> Running {
    Running::start(&mut with_window(&display.name))
}

/// The screen, once it shows the pattern from the second bar to the last but one, each with at least
/// this many pixels.
fn shown(run: &mut Running, display: &Display, pixels: usize) -> RgbImage {
    let mut seen = Vec::new();
    for _ in 0..400 {
        run.frame();
        let screen = display.screenshot();
        seen = [YELLOW, CYAN, BLUE].map(|bar| near(&screen, bar)).to_vec();
        if seen.iter().all(|&count| count >= pixels) {
            return screen;
        }
    }
    panic!("never shown: yellow, cyan and blue are {seen:?} pixels");
}

#[test]
fn displays_of_every_depth_show_the_picture_in_its_colours() {
    for depth in [15, 16, 24, 30] {
        let Some(display) = Display::start(&format!("800x600x{depth}")) else {
            return;
        };
        let mut run = start(&display);
        let screen = shown(&mut run, &display, 10_000);
        keep(&screen, &format!("depth-{depth}"));
        run.stop();
    }
}

#[test]
fn a_display_of_8_bits_is_named_and_the_run_goes_on() {
    let Some(display) = Display::start("800x600x8") else {
        return;
    };
    let mut run = start(&display);
    let reason = run.event("window_lost");
    assert!(
        reason.contains("the display has 8 bits a pixel"),
        "{reason}"
    );
    (0..3).for_each(|_| drop(run.frame()));
    run.stop();
    let Ended { code, stdout, .. } = finish(vovcam().arg("doctor").env("DISPLAY", &display.name));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("✗ display: DISPLAY=:"), "{stdout}");
    assert!(stdout.contains("8 bits a pixel"), "{stdout}");
}

#[test]
fn a_display_that_is_not_there_is_no_reason_to_end() {
    let mut run = Running::start(&mut with_window(":987"));
    let reason = run.event("window_lost");
    assert!(
        reason.contains("the display ':987' cannot be used"),
        "{reason}"
    );
    run.frame();
    run.stop();
}

#[test]
fn a_server_that_dies_takes_the_window_alone() {
    let Some(mut display) = Display::start("800x600x24") else {
        return;
    };
    let mut run = start(&display);
    shown(&mut run, &display, 10_000);
    display.kill();
    let reason = run.event("window_lost");
    assert!(reason.contains("cannot be used"), "{reason}");
    (0..3).for_each(|_| drop(run.frame()));
    run.stop();
}

#[test]
fn a_server_that_hangs_holds_neither_the_detection_nor_the_end_up() {
    let Some(display) = Display::start("800x600x24") else {
        return;
    };
    let mut run = start(&display);
    shown(&mut run, &display, 10_000);
    display.signal("-STOP");
    (0..20).for_each(|_| drop(run.frame()));
    let asked = Instant::now();
    run.stop();
    assert!(asked.elapsed() < LIMIT, "it took {:?}", asked.elapsed());

    // before the window opens
    let mut run = start(&display);
    (0..3).for_each(|_| drop(run.frame()));
    let asked = Instant::now();
    run.stop();
    assert!(asked.elapsed() < LIMIT, "it took {:?}", asked.elapsed());

    let mut doctor = vovcam();
    doctor.arg("doctor").env("DISPLAY", &display.name);
    let mut doctor = doctor.stdout(Stdio::null()).spawn().unwrap();
    let _limit = Limit::of(&doctor);
    let asked = Instant::now();
    let pid = doctor.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.unwrap().success());
    doctor.wait().unwrap();
    assert!(asked.elapsed() < LIMIT, "it took {:?}", asked.elapsed());
}

/// What a window manager does when the user closes a window.
fn close(client: &Client, window: Window) {
    let atom = |name: &[u8]| {
        let atom = client.connection.intern_atom(false, name).unwrap();
        atom.reply().unwrap().atom
    };
    let data = [atom(b"WM_DELETE_WINDOW"), 0, 0, 0, 0];
    let event = ClientMessageEvent::new(32, window, atom(b"WM_PROTOCOLS"), data);
    let sent = client
        .connection
        .send_event(false, window, EventMask::NO_EVENT, event);
    sent.unwrap().check().unwrap();
}

/// Presses a key of this symbol in the window.
fn press(client: &Client, window: Window, symbol: u32) {
    let setup = client.connection.setup();
    let (first, last) = (setup.min_keycode, setup.max_keycode);
    let mapping = client
        .connection
        .get_keyboard_mapping(first, last - first + 1);
    let mapping = mapping.unwrap().reply().unwrap();
    let mut keys = mapping
        .keysyms
        .chunks(usize::from(mapping.keysyms_per_keycode));
    let key = keys.position(|symbols| symbols[0] == symbol).unwrap();
    let event = KeyPressEvent {
        response_type: KEY_PRESS_EVENT,
        detail: first + key as u8,
        root: client.root,
        event: window,
        same_screen: true,
        ..KeyPressEvent::default()
    };
    let sent = client
        .connection
        .send_event(false, window, EventMask::KEY_PRESS, event);
    sent.unwrap().check().unwrap();
}

const ESCAPE: u32 = 0xff1b;
const Q: u32 = 0x71;

#[test]
fn the_user_ends_the_run_by_the_windows_button_and_its_keys() {
    let Some(display) = Display::start("800x600x24") else {
        return;
    };
    let client = display.connect();
    let ways: [fn(&Client, Window); 3] = [
        close,
        |client, window| press(client, window, ESCAPE),
        |client, window| press(client, window, Q),
    ];
    for end in ways {
        let mut run = Running::start(with_window(&display.name).stderr(Stdio::piped()));
        let mut messages = run.child.stderr.take().unwrap();
        run.frame();
        end(&client, client.window());
        let (rest, status) = run.rest();
        let mut said = String::new();
        messages.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("the window was closed: stopping"), "{said}");
        assert!(!said.contains("WARN"), "{said}");
        assert_eq!(rest.last().unwrap()["type"], "stats");
    }
}

#[test]
fn a_window_that_is_killed_is_opened_again_once() {
    let Some(display) = Display::start("800x600x24") else {
        return;
    };
    let client = display.connect();
    let mut run = Running::start(with_window(&display.name).stderr(Stdio::piped()));
    let messages = BufReader::new(run.child.stderr.take().unwrap());
    let mut messages = messages.lines().map(Result::unwrap);
    let kill = || {
        let killed = client.connection.kill_client(client.window());
        killed.unwrap().check().unwrap();
    };
    shown(&mut run, &display, 10_000);
    kill();
    assert!(messages.any(|line| line.contains("it is opened again")));
    shown(&mut run, &display, 10_000);
    kill();
    let reason = run.event("window_lost");
    assert!(reason.starts_with("its process ended"), "{reason}");
    run.frame();
    run.stop();
}

#[test]
fn a_window_fits_on_a_small_screen_and_into_another_size() {
    let Some(display) = Display::start("320x240x16") else {
        return;
    };
    let client = display.connect();
    let mut run = start(&display);
    let window = client.window();
    // all bars: the picture is not cut off
    keep(&shown(&mut run, &display, 5_000), "small-screen");
    for (width, height) in [(160, 200), (1, 1), (320, 100)] {
        let size = ConfigureWindowAux::new().width(width).height(height);
        let set = client.connection.configure_window(window, &size);
        set.unwrap().check().unwrap();
        run.frame();
    }
    keep(&shown(&mut run, &display, 1_000), "another-size");
    run.stop();
}

#[test]
fn the_window_goes_with_a_run_that_is_killed() {
    let Some(display) = Display::start("800x600x24") else {
        return;
    };
    let client = display.connect();
    let mut run = start(&display);
    run.frame();
    let window = client.window();
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    let began = Instant::now();
    let tree = || client.connection.query_tree(client.root).unwrap().reply();
    while tree().unwrap().children.contains(&window) {
        assert!(began.elapsed() < PATIENCE, "it is still there");
        std::thread::yield_now();
    }
}

//! A USB webcam in user space, for tests of the kernel's own webcam driver: plays the first frames
//! of a Motion-JPEG clip, over and over, and offers YUYV colour bars as a second format.
//!
//!     webcam CLIP FRAMES MILLISECONDS [CUT]     every CUTth frame ends half-way
//!
//! It speaks USB Video Class 1.0 with a bulk endpoint, and USB/IP to the kernel's virtual
//! controller, vhci_hcd (kernel documentation, "USB/IP protocol"). Ending the program pulls the
//! plug.

#![allow(clippy::print_stdout, reason = "a tool for tests")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vovcam::avi::AviReader;

const ATTACH: &str = "/sys/devices/platform/vhci_hcd.0/attach";
const HIGH_SPEED: u32 = 3;
const HIGH_SPEED_PORTS: u32 = 8;
const ENDPOINT: u8 = 0x81;
/// Bytes of a payload, header included; one transfer of the host's driver.
const PAYLOAD: usize = 16 * 1024;
const STRINGS: [&str; 3] = ["vovcam", "Test Webcam", "0001"];
const MJPEG: u8 = 1;
const YUYV: u8 = 2;
const YUYV_SIZE: (u16, u16) = (320, 240);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (clip, count, pause, cut) = match arguments.as_slice() {
        [clip, count, pause] => (clip, count, pause, 0),
        [clip, count, pause, cut] => (clip, count, pause, cut.parse()?),
        _ => return Err("usage: webcam CLIP FRAMES MILLISECONDS [CUT]".into()),
    };
    let (size, frames) = read_clip(Path::new(clip), count.parse()?)?;
    let pause = Duration::from_millis(pause.parse()?);
    let interval = u32::try_from(pause.as_nanos() / 100)?;

    let mut commands = plug_in()?;
    let link = Link::new(commands.try_clone()?);
    let mut camera = Camera {
        probe: probe(MJPEG, size, interval),
        size,
        interval,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = play(&link, &frames, pause, cut) {
                println!("the stream ended: {error}");
            }
        });
        let Err(gone) = serve(&mut commands, &link, &mut camera);
        println!("the host is gone: {gone}");
        std::process::exit(0);
    })
}

type Frames = Vec<Vec<u8>>;

fn read_clip(path: &Path, count: usize) -> Result<((u16, u16), Frames), Box<dyn Error>> {
    let mut reader = AviReader::open(path)?;
    let (mut frames, mut jpeg) = (Vec::new(), Vec::new());
    while frames.len() < count && reader.next_jpeg(&mut jpeg)? {
        frames.push(jpeg.clone());
    }
    let size = reader.size();
    Ok(((size.width.try_into()?, size.height.try_into()?), frames))
}

/// Hands the kernel one end of a socket as a device, at the first free port; the other end.
fn plug_in() -> Result<UnixStream, Box<dyn Error>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut refused = None;
    for port in 0..HIGH_SPEED_PORTS {
        let device = format!("{port} {} {} {HIGH_SPEED}", theirs.as_raw_fd(), 0x1_0002);
        match fs::write(ATTACH, device) {
            Ok(()) => return Ok(ours),
            Err(error) => refused = Some(error),
        }
    }
    Err(format!("no port at '{ATTACH}': {refused:?}").into())
}

// --- USB/IP: every message begins with 48 bytes, big-endian

const SUBMIT: u32 = 1;
const UNLINK: u32 = 2;
const SUBMITTED: u32 = 3;
const UNLINKED: u32 = 4;
const DONE: i32 = 0;
const STALL: i32 = -32;
const TAKEN_BACK: i32 = -104;

/// Requests of the host that have not been answered.
#[derive(Clone, Copy)]
struct Request {
    number: u32,
    packets: u32,
}

struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    replies: UnixStream,
    /// Transfers from the bulk endpoint that wait for a payload.
    waiting: VecDeque<Request>,
    /// The committed mode, and the number of commits.
    format: Option<u8>,
    commits: usize,
}

impl Link {
    fn new(replies: UnixStream) -> Link {
        Link {
            state: Mutex::new(State {
                replies,
                waiting: VecDeque::new(),
                format: None,
                commits: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reply(&mut self, to: Request, status: i32, length: usize, data: &[u8]) -> io::Result<()> {
        let mut message = [SUBMITTED, to.number, 0, 0, 0]
            .map(u32::to_be_bytes)
            .concat();
        message.extend(status.to_be_bytes());
        message.extend(
            [length as u32, 0, to.packets, 0, 0, 0]
                .map(u32::to_be_bytes)
                .concat(),
        );
        message.extend(data);
        self.replies.write_all(&message)
    }

    fn take_back(&mut self, number: u32, victim: u32) -> io::Result<()> {
        let before = self.waiting.len();
        self.waiting.retain(|request| request.number != victim);
        let status = if self.waiting.len() < before {
            TAKEN_BACK
        } else {
            DONE
        };
        let mut message = [UNLINKED, number, 0, 0, 0].map(u32::to_be_bytes).concat();
        message.extend(status.to_be_bytes());
        message.resize(48, 0);
        self.replies.write_all(&message)
    }
}

/// Answers the host until it is gone.
fn serve(commands: &mut UnixStream, link: &Link, camera: &mut Camera) -> io::Result<Infallible> {
    loop {
        let mut header = [0; 48];
        commands.read_exact(&mut header)?;
        let word = |index: usize| {
            let at = 4 * index;
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (command, number, inward, endpoint) = (word(0), word(1), word(3) == 1, word(4));
        let mut state = link.lock();
        match command {
            SUBMIT => {
                let request = Request {
                    number,
                    packets: word(8),
                };
                let mut sent = vec![0; if inward { 0 } else { word(6) as usize }];
                commands.read_exact(&mut sent)?;
                if endpoint != 0 {
                    state.waiting.push_back(request);
                    link.changed.notify_all();
                    continue;
                }
                let setup = Setup::from(&header[40..]);
                match camera.answer(setup) {
                    Answer::Data(data) => {
                        let length = data.len().min(setup.length.into());
                        state.reply(request, DONE, length, &data[..length])?;
                    }
                    Answer::Take => {
                        if let Some(format) = camera.take(setup, &sent) {
                            println!("streaming format {format}");
                            state.format = Some(format);
                            state.commits += 1;
                            link.changed.notify_all();
                        }
                        state.reply(request, DONE, sent.len(), &[])?;
                    }
                    Answer::Done => state.reply(request, DONE, sent.len(), &[])?,
                    Answer::Refuse => state.reply(request, STALL, 0, &[])?,
                }
            }
            UNLINK => state.take_back(number, word(5))?,
            _ => return Err(io::Error::other(format!("unknown command {command}"))),
        }
    }
}

/// Sends frames from the first commit on; each further commit begins a new frame.
fn play(link: &Link, frames: &[Vec<u8>], pause: Duration, cut: usize) -> io::Result<()> {
    let bars = bars();
    let mut id = 0;
    for (number, jpeg) in frames.iter().cycle().enumerate() {
        let mut state = link.lock();
        let format = loop {
            match state.format {
                Some(format) => break format,
                None => state = link.wait(state),
            }
        };
        let commits = state.commits;
        drop(state);
        let bytes: &[u8] = if format == YUYV { &bars } else { jpeg };
        let is_cut = cut > 0 && number % cut == cut - 1;
        let mut bytes = &bytes[..if is_cut { bytes.len() / 2 } else { bytes.len() }];
        id ^= 1;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PAYLOAD - 2));
            let end = if later.is_empty() { 2 } else { 0 };
            let payload = [&[2, 0x80 | end | id], now].concat();
            // one lock for taking a transfer and answering it, or it could be taken back between
            let mut state = link.lock();
            let request = loop {
                if state.commits != commits {
                    break None;
                }
                match state.waiting.pop_front() {
                    Some(request) => break Some(request),
                    None => state = link.wait(state),
                }
            };
            let Some(request) = request else { break };
            state.reply(request, DONE, payload.len(), &payload)?;
            bytes = later;
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

// --- USB and its video class

/// A control request.
#[derive(Clone, Copy)]
struct Setup {
    kind: u8,
    request: u8,
    value: u16,
    index: u16,
    length: u16,
}

impl From<&[u8]> for Setup {
    fn from(e: &[u8]) -> Setup {
        let word = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
        Setup {
            kind: e[0],
            request: e[1],
            value: word(2),
            index: word(4),
            length: word(6),
        }
    }
}

enum Answer {
    Data(Vec<u8>),
    /// Data from the host to the camera.
    Take,
    Done,
    Refuse,
}

struct Camera {
    probe: [u8; 26],
    size: (u16, u16),
    interval: u32,
}

impl Camera {
    fn answer(&self, setup: Setup) -> Answer {
        match (setup.kind, setup.request, setup.value >> 8) {
            (0x80, 0, _) => Answer::Data(vec![0, 0]), // GET_STATUS
            (0x80, 6, 1) => Answer::Data(DEVICE.to_vec()),
            (0x80, 6, 2) => Answer::Data(configuration(self.size, self.interval)),
            (0x80, 6, 3) => string(setup.value as u8).map_or(Answer::Refuse, Answer::Data),
            (0x00, 9, _) => Answer::Done,           // SET_CONFIGURATION
            (0x01, 11, _) => Answer::Done,          // SET_INTERFACE
            (0x02, 1, _) => Answer::Done,           // CLEAR_FEATURE(HALT)
            (0x81, 10, _) => Answer::Data(vec![0]), // GET_INTERFACE
            (0x21, 0x01, 1 | 2) if setup.index & 0xff == 1 => Answer::Take, // SET_CUR
            (0xa1, 0x85, 1 | 2) => Answer::Data(vec![26, 0]), // GET_LEN
            (0xa1, 0x86, 1 | 2) => Answer::Data(vec![3]), // GET_INFO: get and set
            (0xa1, 0x81..=0x87, 1 | 2) => Answer::Data(self.probe.to_vec()),
            _ => Answer::Refuse,
        }
    }

    /// The format, when it is not only probed but committed.
    fn take(&mut self, setup: Setup, data: &[u8]) -> Option<u8> {
        let format = match data.get(2) {
            Some(&YUYV) => YUYV,
            _ => MJPEG,
        };
        self.probe = match format {
            YUYV => probe(YUYV, YUYV_SIZE, self.interval),
            _ => probe(MJPEG, self.size, self.interval),
        };
        (setup.value >> 8 == 2).then_some(format)
    }
}

/// The negotiated mode: the video probe and commit controls.
fn probe(format: u8, (width, height): (u16, u16), interval: u32) -> [u8; 26] {
    let mut probe = [0; 26];
    (probe[0], probe[2], probe[3]) = (1, format, 1);
    probe[4..8].copy_from_slice(&interval.to_le_bytes());
    let bytes = 2 * u32::from(width) * u32::from(height);
    probe[18..22].copy_from_slice(&bytes.to_le_bytes());
    probe[22..26].copy_from_slice(&(PAYLOAD as u32).to_le_bytes());
    probe
}

fn string(index: u8) -> Option<Vec<u8>> {
    let units: Vec<u8> = match index {
        0 => vec![0x09, 0x04], // English
        _ => STRINGS
            .get(usize::from(index) - 1)?
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect(),
    };
    Some([&[units.len() as u8 + 2, 3], units.as_slice()].concat())
}

const DEVICE: [u8; 18] = [
    18, 1, 0x00, 0x02, 0xef, 2, 1, 64, 0x6b, 0x1d, 0x02, 0x01, 0x00, 0x01, 1, 2, 3, 1,
];

fn configuration(size: (u16, u16), interval: u32) -> Vec<u8> {
    // camera terminal 1 → output terminal 2
    let camera = [
        18, 0x24, 2, 1, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
    ];
    let output = [9, 0x24, 3, 2, 0x01, 0x01, 0, 1, 0];
    let units = [camera.as_slice(), &output].concat();
    let [low, high] = (13 + units.len() as u16).to_le_bytes();
    let mut control = vec![
        13, 0x24, 1, 0x00, 0x01, low, high, 0x00, 0x6c, 0xdc, 0x02, 1, 1,
    ];
    control.extend(units);

    let mut formats = vec![11, 0x24, 6, MJPEG, 1, 0, 1, 0, 0, 0, 0];
    formats.extend(frame(7, size, interval));
    let yuy2 = [
        b'Y', b'U', b'Y', b'2', 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71,
    ];
    formats.extend([27, 0x24, 4, YUYV, 1]);
    formats.extend(yuy2);
    formats.extend([16, 1, 0, 0, 0, 0]);
    formats.extend(frame(5, YUYV_SIZE, interval));
    formats.extend([6, 0x24, 13, 1, 1, 4]);
    let [low, high] = (15 + formats.len() as u16).to_le_bytes();
    let mut streaming = vec![15, 0x24, 1, 2, low, high, ENDPOINT, 0, 2, 0, 0, 0, 1, 0, 0];
    streaming.extend(formats);

    let mut body = vec![8, 11, 0, 2, 0x0e, 3, 0, 0];
    body.extend([9, 4, 0, 0, 0, 0x0e, 1, 0, 0]);
    body.extend(control);
    body.extend([9, 4, 1, 0, 1, 0x0e, 2, 0, 0]);
    body.extend(streaming);
    body.extend([7, 5, ENDPOINT, 2, 0x00, 0x02, 0]); // bulk, packets of 512 bytes
    let [low, high] = (9 + body.len() as u16).to_le_bytes();
    [&[9, 2, low, high, 2, 1, 0, 0x80, 250], body.as_slice()].concat()
}

fn frame(kind: u8, (width, height): (u16, u16), interval: u32) -> Vec<u8> {
    let bytes = 2 * u32::from(width) * u32::from(height);
    let bits = (u64::from(bytes) * 8 * 10_000_000 / u64::from(interval.max(1))).min(u32::MAX.into())
        as u32;
    let mut frame = vec![30, 0x24, kind, 1, 0];
    frame.extend(width.to_le_bytes());
    frame.extend(height.to_le_bytes());
    for word in [bits, bits, bytes, interval] {
        frame.extend(word.to_le_bytes());
    }
    frame.push(1);
    frame.extend(interval.to_le_bytes());
    frame
}

/// 75 % colour bars, BT.601, limited range.
fn bars() -> Vec<u8> {
    let (width, height) = (usize::from(YUYV_SIZE.0), usize::from(YUYV_SIZE.1));
    let mut row = Vec::new();
    for pair in 0..width / 2 {
        let bar = 2 * pair * 8 / width; // white yellow cyan green magenta red blue black
        let on = |bit: usize| if bar & bit == 0 { 191.0 } else { 0.0 };
        let (red, green, blue) = (on(2), on(4), on(1));
        let luma = 0.299 * red + 0.587 * green + 0.114 * blue;
        let y = (16.0 + luma * 219.0 / 255.0) as u8;
        let u = (128.0 + (blue - luma) / 1.772 * 224.0 / 255.0) as u8;
        let v = (128.0 + (red - luma) / 1.402 * 224.0 / 255.0) as u8;
        row.extend([y, u, y, v]);
    }
    row.repeat(height)
}

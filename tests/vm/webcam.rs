//! A USB webcam in user space, for tests of the kernel's own webcam driver: plays the first frames
//! of a Motion-JPEG clip, over and over, and offers YUYV colour bars as a second format.
//!
//!     webcam CLIP FRAMES MILLISECONDS [CUT]     every CUTth frame ends half-way
//!
//! It speaks USB Video Class 1.0 with a bulk endpoint through gadgetfs, which must be mounted on
//! /dev/gadget over the kernel's virtual controller, dummy_hcd. Ending the program pulls the plug.

#![allow(clippy::print_stdout, reason = "a tool for tests")]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;
use vovcam::avi::AviReader;

const CONTROL: &str = "/dev/gadget/dummy_udc";
const BULK_IN: &str = "/dev/gadget/ep1in-bulk";
const ENDPOINT: u8 = 0x81;
/// The control request was taken back, or another one of the other direction came meanwhile.
const TAKEN_BACK: [i32; 2] = [43, 51]; // EIDRM, EL2HLT
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

    let mut control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    control.write_all(&gadget(size, interval))?;
    let (commits, committed) = channel();
    let mut committed = Some(committed);
    let mut camera = Camera {
        probe: probe(MJPEG, size, interval),
        size,
        interval,
        commits,
    };
    loop {
        let mut event = [0; 12];
        if is_taken_back(control.read_exact(&mut event))? {
            continue;
        }
        let setup = Setup::from(&event);
        match u32::from_ne_bytes([event[8], event[9], event[10], event[11]]) {
            3 => {
                if matches!(camera.answer(setup), Answer::Configure)
                    && let Some(committed) = committed.take()
                {
                    let (endpoint, frames) = (open_endpoint()?, frames.clone());
                    std::thread::spawn(move || {
                        if let Err(error) = stream(endpoint, &committed, &frames, pause, cut) {
                            println!("the stream ended: {error}");
                        }
                    });
                }
                is_taken_back(camera.reply(&mut control, setup))?;
            }
            2 => println!("disconnected"),
            _ => {}
        }
    }
}

/// Whether the host gave up waiting; it asks again.
fn is_taken_back(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Err(e) if e.raw_os_error().is_some_and(|e| TAKEN_BACK.contains(&e)) => Ok(true),
        done => done.map(|()| false),
    }
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

/// A control request.
#[derive(Clone, Copy)]
struct Setup {
    kind: u8,
    request: u8,
    value: u16,
    index: u16,
    length: u16,
}

impl From<&[u8; 12]> for Setup {
    fn from(e: &[u8; 12]) -> Setup {
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
    /// Read what the host sends.
    Take,
    Configure,
    Done,
    Refuse,
}

struct Camera {
    probe: [u8; 26],
    size: (u16, u16),
    interval: u32,
    /// The format of each commit.
    commits: Sender<u8>,
}

impl Camera {
    fn answer(&self, setup: Setup) -> Answer {
        match (setup.kind, setup.request, setup.value >> 8) {
            (0x80, 6, 3) => string(setup.value as u8).map_or(Answer::Refuse, Answer::Data),
            (0x00, 9, _) => Answer::Configure,
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

    fn reply(&mut self, control: &mut File, setup: Setup) -> io::Result<()> {
        match self.answer(setup) {
            Answer::Data(data) => {
                let length = data.len().min(setup.length.into());
                control.write_all(&data[..length])
            }
            Answer::Take => {
                let mut data = vec![0; setup.length.into()];
                control.read_exact(&mut data)?;
                self.take(setup, &data);
                Ok(())
            }
            Answer::Configure | Answer::Done => control.read(&mut []).map(drop),
            // the wrong direction refuses the request, and reports that as a failure
            Answer::Refuse if setup.kind & 0x80 != 0 => {
                let _ = control.read(&mut []);
                Ok(())
            }
            Answer::Refuse => {
                let _ = control.write(&[]);
                Ok(())
            }
        }
    }

    fn take(&mut self, setup: Setup, data: &[u8]) {
        let format = match data.get(2) {
            Some(&YUYV) => YUYV,
            _ => MJPEG,
        };
        self.probe = match format {
            YUYV => probe(YUYV, YUYV_SIZE, self.interval),
            _ => probe(MJPEG, self.size, self.interval),
        };
        if setup.value >> 8 == 2 {
            println!("streaming format {format}");
            // a stream that has ended has said why
            let _ = self.commits.send(format);
        }
    }
}

/// What the host may choose, as it is negotiated: video probe and commit control.
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

/// What gadgetfs wants: configurations for full and high speed, and the device.
fn gadget(size: (u16, u16), interval: u32) -> Vec<u8> {
    let device = [
        18, 1, 0x00, 0x02, 0xef, 2, 1, 64, 0x6b, 0x1d, 0x02, 0x01, 0x00, 0x01, 1, 2, 3, 1,
    ];
    let mut all = 0u32.to_ne_bytes().to_vec();
    all.extend(configuration(size, interval, 64));
    all.extend(configuration(size, interval, 512));
    all.extend(device);
    all
}

fn configuration(size: (u16, u16), interval: u32, packet: u16) -> Vec<u8> {
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
    body.extend(endpoint(packet));
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

fn endpoint(packet: u16) -> [u8; 7] {
    let [low, high] = packet.to_le_bytes();
    [7, 5, ENDPOINT, 2, low, high, 0]
}

fn open_endpoint() -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(BULK_IN)?;
    let mut setup = 1u32.to_ne_bytes().to_vec();
    setup.extend(endpoint(64));
    setup.extend(endpoint(512));
    file.write_all(&setup)?;
    Ok(file)
}

/// Sends frames from the first commit on; a host that does not listen blocks it.
fn stream(
    mut endpoint: File,
    commits: &Receiver<u8>,
    frames: &[Vec<u8>],
    pause: Duration,
    cut: usize,
) -> io::Result<()> {
    let Ok(mut format) = commits.recv() else {
        return Ok(());
    };
    let bars = bars();
    let mut id = 0;
    for (number, jpeg) in frames.iter().cycle().enumerate() {
        loop {
            match commits.try_recv() {
                Ok(next) => format = next,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let bytes: &[u8] = if format == YUYV { &bars } else { jpeg };
        let is_cut = cut > 0 && number % cut == cut - 1;
        let bytes = &bytes[..if is_cut { bytes.len() / 2 } else { bytes.len() }];
        id ^= 1;
        send(&mut endpoint, bytes, id)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// One frame in payloads. A transfer that is neither full nor ends with a short packet would not
/// end for the host, so none has a multiple of the packet's length except full ones.
fn send(endpoint: &mut File, mut bytes: &[u8], id: u8) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut length = bytes.len().min(PAYLOAD - 2);
        if length + 2 < PAYLOAD && (length + 2).is_multiple_of(512) {
            length -= 1;
        }
        let (now, later) = bytes.split_at(length);
        let end = if later.is_empty() { 2 } else { 0 };
        endpoint.write_all(&[&[2, 0x80 | end | id], now].concat())?;
        bytes = later;
    }
    Ok(())
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

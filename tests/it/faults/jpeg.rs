//! JPEGs of all kinds, whole and damaged, against libjpeg-turbo's own programs: cjpeg makes them,
//! djpeg says what they are. The library that is built in is another build of it.

use crate::support::{Limit, count, finish, lines, logging, tool};
use fastrand::Rng;
use serde_json::Value;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vovcam::avi::AviWriter;
use vovcam::capture::jpeg::{JpegError, Origin, decode};
use vovcam::geometry::Size;

/// A JPEG and how it was made.
struct Sample {
    jpeg: Vec<u8>,
    made: String,
}

/// Pictures that have no chroma to be sampled.
const OTHER_COLOURS: [&str; 5] = [
    "-rgb",
    "-rgb -progressive",
    "-grayscale",
    "-grayscale -restart 2B",
    "-grayscale -progressive",
];

/// `cjpeg` and `djpeg`.
struct Tools {
    encoder: PathBuf,
    decoder: PathBuf,
}

impl Tools {
    fn find() -> Option<Tools> {
        Some(Tools {
            encoder: tool("cjpeg")?,
            decoder: tool("djpeg")?,
        })
    }

    /// Pixels by `djpeg`; its complaint where there is any, even if it goes on.
    fn decoded(&self, jpeg: &[u8]) -> Result<Vec<u8>, String> {
        let (pixels, complaint) = pipe(Command::new(&self.decoder).args(["-strict", "-pnm"]), jpeg);
        match complaint.is_empty() {
            true => Ok(rgb_of_pnm(&pixels)),
            false => Err(complaint),
        }
    }

    /// Pixels by `djpeg`, whatever it complains of.
    fn decoded_anyway(&self, jpeg: &[u8]) -> Vec<u8> {
        rgb_of_pnm(&pipe(Command::new(&self.decoder).arg("-pnm"), jpeg).0)
    }

    /// Two hundred small pictures: every sampling, every way of coding, sizes that fill blocks and
    /// such that do not, and what cameras and phones put in.
    fn corpus(&self, folder: &Path) -> Vec<Sample> {
        let scans = |name: &str, script: &str| {
            let path = folder.join(name);
            std::fs::write(&path, script).unwrap();
            format!("-scans {}", path.display())
        };
        let codings = [
            String::new(),
            "-optimize".to_owned(),
            "-restart 1".to_owned(),
            "-restart 2B -optimize".to_owned(),
            "-progressive".to_owned(),
            "-progressive -restart 1".to_owned(),
            scans("each", "0; 1; 2;"),
            scans("last", "1; 2; 0;"),
            scans("pair", "0; 1 2;"),
        ];
        let colours = ["1x1", "2x1", "2x2", "1x2", "4x1"].map(|s| format!("-sample {s}"));
        let mut all = Vec::new();
        for size in [(1, 1), (8, 8), (35, 19), (64, 48)].map(|(w, h)| Size::new(w, h)) {
            let picture = picture(size);
            for coding in &codings {
                for colour in &colours {
                    all.push(self.sample(&picture, &format!("{coding} {colour}"), all.len()));
                }
            }
            for other in OTHER_COLOURS {
                all.push(self.sample(&picture, other, all.len()));
            }
        }
        assert_eq!(all.len(), 200);
        all
    }

    fn sample(&self, picture: &[u8], options: &str, number: usize) -> Sample {
        let quality = [30, 75, 95][number % 3].to_string();
        let mut command = Command::new(&self.encoder);
        command
            .args(["-quality", &quality])
            .args(options.split_whitespace());
        let (mut jpeg, complaint) = pipe(&mut command, picture);
        assert!(complaint.is_empty(), "cjpeg {options}: {complaint}");
        let (name, extra) = &extras()[number % 4];
        jpeg.splice(2..2, extra.iter().copied());
        Sample {
            jpeg,
            made: format!("{options} -quality {quality}, {name}"),
        }
    }
}

/// Segments behind the first marker.
fn extras() -> [(&'static str, Vec<u8>); 4] {
    let segment = |marker: u8, content: &[u8]| {
        let len = (content.len() as u16 + 2).to_be_bytes();
        [&[0xff, marker], &len[..], content].concat()
    };
    let thumbnail = include_bytes!("../../fixtures/jpeg/interleaved.jpg");
    [
        ("plain", Vec::new()),
        ("a comment", segment(0xfe, b"\xff\xd8\xff and \xff\xd9")),
        (
            "Exif",
            segment(0xe1, &[b"Exif\0\0MM\0*", thumbnail.as_slice()].concat()),
        ),
        ("AVI1", segment(0xe0, b"AVI1\0\0\0\0\0\0\0\0\0\0")),
    ]
}

/// What a program makes of some bytes: its output and its complaint.
fn pipe(command: &mut Command, input: &[u8]) -> (Vec<u8>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = Limit::of(&child);
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input); // it may have seen enough
        });
        child.wait_with_output().unwrap()
    });
    let mut complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && complaint.is_empty() {
        complaint = output.status.to_string();
    }
    (output.stdout, complaint)
}

/// A picture as binary PPM: slopes, edges and some noise.
fn picture(Size { width, height }: Size) -> Vec<u8> {
    let mut rng = Rng::with_seed(u64::from(width));
    let mut ppm = format!("P6 {width} {height} 255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            let edge = if (x / 11 + y / 7) % 2 == 0 { 60 } else { 0 };
            ppm.extend(
                [4 * x + edge, 5 * y, 2 * (x + y) + edge].map(|v| v as u8 & !7 | rng.u8(..8)),
            );
        }
    }
    ppm
}

/// Pixels of a binary PPM or PGM that djpeg wrote; empty where there is none.
fn rgb_of_pnm(pnm: &[u8]) -> Vec<u8> {
    let mut parts = pnm.splitn(4, |&byte| byte == b'\n');
    let (Some(kind), Some(_), Some(b"255"), Some(pixels)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    match kind {
        b"P5" => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        _ => pixels.to_vec(),
    }
}

fn ours(jpeg: &[u8]) -> Result<Vec<u8>, JpegError> {
    decode(jpeg, Origin::default(), |len| vec![0; len]).map(|(_, rgb)| rgb)
}

/// One damage of any kind.
fn damage(jpeg: &[u8], kind: usize, rng: &mut Rng) -> (Vec<u8>, String) {
    let mut bytes = jpeg.to_vec();
    let at = rng.usize(2..jpeg.len());
    let most = 1 << rng.usize(..8);
    let len = rng.usize(1..=most);
    let what = match kind {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            bytes.drain(at..jpeg.len().min(at + len));
            format!("{len} bytes lost at {at}")
        }
        2 => {
            let bit = rng.u32(..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        3 => {
            let more: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            bytes.splice(at..at, more);
            format!("{len} bytes put in at {at}")
        }
        _ => {
            let end = jpeg.len().min(at + len);
            bytes[at..end].fill(0);
            format!("{len} bytes of zeros at {at}")
        }
    };
    (bytes, what)
}

/// Of `each` damages of every kind to every sample: each is decoded as djpeg does it without a
/// complaint, or refused. Whatever djpeg has no complaint of is decoded.
fn damaged_as_djpeg_has_it(each: usize, seed: u64) {
    let Some(tools) = Tools::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let corpus = tools.corpus(folder.path());
    let half = corpus.len().div_ceil(2);
    std::thread::scope(|scope| {
        for (part, samples) in corpus.chunks(half).enumerate() {
            let tools = &tools;
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed + part as u64);
                let mut passed = 0;
                for sample in samples {
                    for kind in (0..5).cycle().take(5 * each) {
                        let (bytes, what) = damage(&sample.jpeg, kind, &mut rng);
                        passed += usize::from(agrees(tools, &bytes, &sample.made, &what));
                    }
                }
                // a flipped bit of a table or of a comment, a colour, or the last bits of a value
                assert!(passed > samples.len() / 4, "only {passed} passed");
            });
        }
    });
}

/// Compares one; whether it passed.
fn agrees(tools: &Tools, bytes: &[u8], made: &str, what: &str) -> bool {
    let (got, expected) = (ours(bytes), tools.decoded(bytes));
    let passed = got.is_ok();
    let wrong = match (got, expected) {
        (Ok(got), Ok(expected)) => (got != expected).then(|| "other pixels".to_owned()),
        // it warns of a missing end marker also where nothing else is missing
        (Ok(got), Err(complaint)) if complaint.contains("Premature end of JPEG file") => {
            (got != tools.decoded_anyway(bytes)).then_some(complaint)
        }
        (Ok(_), Err(complaint)) => Some(complaint),
        // what libjpeg does not warn of
        (Err(JpegError::Damaged(reason)), Ok(_))
            if reason.contains("has no scan") || reason.contains("before its last") =>
        {
            None
        }
        (Err(JpegError::Unsupported(reason)), Ok(_)) if reason.contains("arithmetic") => None,
        (Err(error), Ok(_)) => Some(error.to_string()),
        (Err(_), Err(_)) => None,
    };
    if let Some(wrong) = wrong {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failed.jpg");
        std::fs::write(&path, bytes).unwrap();
        panic!("{made}, {what}: {wrong}: {}", path.display());
    }
    passed
}

#[test]
fn jpegs_of_all_kinds_are_decoded_as_libjpeg_turbo_does() {
    let Some(tools) = Tools::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    for Sample { jpeg, made } in tools.corpus(folder.path()) {
        let expected = tools.decoded(&jpeg).unwrap();
        let got = ours(&jpeg).unwrap_or_else(|error| panic!("{made}: {error}"));
        assert!(got == expected, "{made}: other pixels");
        // bytes behind the end, and no end marker
        for end in [
            [&jpeg, b"\0\0\xff\xdabehind".as_slice()].concat(),
            jpeg[..jpeg.len() - 2].to_vec(),
        ] {
            let got = ours(&end).unwrap_or_else(|error| panic!("{made}: {error}"));
            assert!(got == expected, "{made}: other pixels");
        }
    }
}

#[test]
fn every_damage_is_refused_or_harmless() {
    damaged_as_djpeg_has_it(3, 1);
}

#[test]
#[ignore = "takes minutes: 40,000 damages"]
fn every_damage_is_refused_or_harmless_at_length() {
    damaged_as_djpeg_has_it(40, 1000);
}

/// The first frames of the bundled clip, which are JPEGs with standard tables.
fn street(frames: usize) -> Vec<Vec<u8>> {
    let mut reader = vovcam::avi::AviReader::open(Path::new(crate::support::CLIP)).unwrap();
    let mut all = vec![Vec::new(); frames];
    assert!(all.iter_mut().all(|jpeg| reader.next_jpeg(jpeg).unwrap()));
    all
}

/// What the program logs of a source: size of each frame, and number of damaged ones.
fn seen(args: &[&str], input: &[u8]) -> (Vec<String>, usize) {
    let mut command = logging(args);
    let (output, complaint) = pipe(&mut command, input);
    let log = lines(std::str::from_utf8(&output).unwrap());
    let damaged = log.iter().filter(|line| line["event"] == "damaged_frame");
    let frames = log.iter().filter(|line| line["type"] == "frame");
    let size = |line: &Value| format!("{}x{}", line["width"], line["height"]);
    assert!(count(&log, "run") == 1, "{complaint}");
    (frames.map(size).collect(), damaged.count())
}

fn clip(folder: &Path, size: Size, frames: &[Vec<u8>]) -> String {
    let path = folder.join("clip.avi");
    let mut writer = AviWriter::create(&path, size, 10.0).unwrap();
    frames
        .iter()
        .for_each(|frame| writer.write_jpeg(frame).unwrap());
    writer.finish(None).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_clip_is_read_up_to_its_damaged_frames() {
    // a frame was judged by its last two bytes
    let mut frames = street(4);
    frames[0].drain(20_000..21_500); // its end marker stays
    frames[1].extend([0xff; 40]);
    let end = frames[2].len() - 2;
    frames[2].truncate(end);
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), Size::new(768, 576), &frames);
    let (sizes, damaged) = seen(&["--source", &path], &[]);
    assert_eq!((sizes.len(), damaged), (3, 1));
}

#[test]
fn an_interlaced_clip_has_whole_frames() {
    let Some(tools) = Tools::find() else { return };
    let field = |number: usize| {
        tools
            .sample(&picture(Size::new(64, 24)), "", 4 * number)
            .jpeg
    };
    let frame = [field(0), field(1)].concat();
    let lost = [field(0), field(1)[..300].to_vec()].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), Size::new(64, 48), &[frame.clone(), lost, frame]);
    let (sizes, damaged) = seen(&["--source", &path], &[]);
    assert_eq!((sizes, damaged), (vec!["64x48".to_owned(); 2], 1));
}

#[test]
fn a_stream_is_split_where_jpegs_begin() {
    let frames = street(4);
    let header = |jpeg: &[u8]| {
        let len = jpeg.len();
        format!("\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len}\r\n\r\n")
    };
    let mut stream = Vec::new();
    for (number, jpeg) in frames.iter().enumerate() {
        stream.extend(header(jpeg).into_bytes());
        let len = if number == 1 {
            jpeg.len() / 2
        } else {
            jpeg.len()
        };
        stream.extend(&jpeg[..len]);
        stream.extend([0; 3]);
    }
    let (sizes, damaged) = seen(&["--source", "-", "--format", "mjpeg"], &stream);
    assert_eq!((sizes.len(), damaged), (3, 1));
}

#[test]
fn picture_files_are_read_by_what_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let whole = street(1).remove(0);
    let video = b"MotionPhoto_Data\0\0\0\x18ftypmp42\xff\xda\0\x0c\x03\x01";
    let holed = [&whole[..20_000], &whole[21_500..]].concat();
    for (name, bytes) in [
        ("1_motion.jpg", [&whole, video.as_slice()].concat()),
        ("2_no_end.jpg", whole[..whole.len() - 2].to_vec()),
        ("3_holed.jpg", holed),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (sizes, damaged) = seen(&["--source", dir.path().to_str().unwrap()], &[]);
    assert_eq!((sizes.len(), damaged), (2, 1));
    let path = dir.path().join("3_holed.jpg");
    let ended = finish(crate::support::vovcam().args(["detect", path.to_str().unwrap()]));
    assert_eq!(ended.code, Some(66));
    assert!(ended.stderr.contains("damaged JPEG: "), "{}", ended.stderr);
}

#[test]
fn a_picture_is_turned_as_its_exif_data_say() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("turned.jpg");
    let mut jpeg = Vec::new();
    let wide = image::RgbImage::new(48, 24);
    wide.write_to(&mut Cursor::new(&mut jpeg), image::ImageFormat::Jpeg)
        .unwrap();
    // a TIFF with one entry: orientation, a short, is 6 (a quarter turn)
    let tiff = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let len = (tiff.len() as u16 + 2).to_be_bytes();
    jpeg.splice(2..2, [&[0xff, 0xe1], &len[..], tiff].concat());
    std::fs::write(&path, jpeg).unwrap();
    let (size, _) = vovcam::capture::decode::load_image(&path).unwrap();
    assert_eq!(size, Size::new(24, 48));
}

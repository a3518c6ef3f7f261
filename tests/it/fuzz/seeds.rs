//! Small files of each format, whole and of every kind that a reader treats in its own way, and
//! the words of the formats.

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::{Value, json};
use std::io::Cursor;
use vovcam::avi::AviWriter;
use vovcam::fuzz::SEPARATOR;
use vovcam::geometry::Size;

pub(super) const AVI: &[&[u8]] = &[
    b"RIFF", b"AVI ", b"AVIX", b"LIST", b"hdrl", b"strl", b"movi", b"rec ", b"avih", b"strh",
    b"strf", b"vids", b"auds", b"MJPG", b"XVID", b"00dc", b"00db", b"01wb", b"idx1", b"JUNK",
];

/// A finished clip, one that was cut off, one with all that players leave in, and a long one.
pub(super) fn avi() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    let clip = |frames: &[&[u8]], finished: bool| {
        let mut writer = AviWriter::create(&path, Size::new(64, 48), 12.5).unwrap();
        frames
            .iter()
            .for_each(|frame| writer.write_jpeg(frame).unwrap());
        match finished {
            true => writer.finish(None).unwrap(),
            false => drop(writer),
        }
        std::fs::read(&path).unwrap()
    };
    let frames: [&[u8]; 3] = [b"first frame", b"even", b"x"];
    let whole = clip(&frames, true);
    let unfinished = clip(&frames, false);
    let mut long = whole.clone();
    for frame in [b"more", b"last"] {
        long.extend_from_slice(b"RIFF\x1c\0\0\0AVIXLIST\x10\0\0\0movi00dc\x04\0\0\0");
        long.extend_from_slice(frame);
    }
    long.extend_from_slice(b"what some program left behind it");
    let mut other_chunks = unfinished.clone();
    other_chunks.extend_from_slice(b"01wb\x03\0\0\0abc\0LIST\x1c\0\0\0rec 00dc\0\0\0\0");
    other_chunks.extend_from_slice(b"00db\x02\0\0\0hiJUNK\x04\0\0\0junk");
    // as a pipe leaves it, with two streams of which the second comes first, and no padding
    let mut piped = whole.clone();
    for length in [4, 216] {
        piped[length..length + 4].fill(0xff);
    }
    let mut two_streams = unfinished[..212].to_vec();
    two_streams.extend_from_slice(&unfinished[88..224]);
    two_streams.extend_from_slice(b"01dc\x06\0\0\0second00dc\x03\0\0\0odd00dc\x04\0\0\0evenidx1");
    vec![
        whole,
        unfinished,
        long,
        other_chunks,
        clip(&[], true),
        piped,
        two_streams,
    ]
}

pub(super) const Y4M: &[&[u8]] = &[
    b"YUV4MPEG2 ",
    b"FRAME\n",
    b"FRAME Ip\n",
    b"F",
    b"W2 ",
    b"H2 ",
    b"W4 ",
    b"H3 ",
    b"F30:1 ",
    b"F-1:1 ",
    b"F1:0 ",
    b"C420 ",
    b"C420jpeg ",
    b"Cmono ",
    b"C444 ",
    b"Ip ",
    b"A1:1 ",
    b"\n",
    b" ",
];

/// Tight and padded rows, odd sides, grey pictures, and headers as ffmpeg and GStreamer write them.
pub(super) fn y4m() -> Vec<Vec<u8>> {
    let padded = "FRAME\n12..34..5...6...";
    let tight = "FRAME\n123456";
    [
        format!("YUV4MPEG2 W2 H2\n{padded}{padded}{padded}"),
        format!(
            "YUV4MPEG2 W2 H2 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2\n{tight}{tight}{tight}"
        ),
        "YUV4MPEG2 C420 W3 H3 I? F0:0\nFRAME Ip\n12345678912341234FRAME\n12345678912341234"
            .to_owned(),
        "YUV4MPEG2 W4 H2 Cmono\nFRAME\n12345678FRAME\n12345678FRAME\n123".to_owned(),
        format!(
            "YUV4MPEG2 W8 H2\nFRAME\n{0}FRAME\n{0}",
            "123456781234567812341234"
        ),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub(super) const JPEG: &[&[u8]] = &[
    &[0xff, 0xd8],
    &[0xff, 0xd9],
    &[0xff, 0xda],
    &[0xff, 0xc0],
    &[0xff, 0xc2],
    &[0xff, 0xc4],
    &[0xff, 0xdb],
    &[0xff, 0xdd],
    &[0xff, 0xd0],
    &[0xff, 0xe0],
    &[0xff, 0xfe],
    &[0xff, 0],
    &[0, 0],
    &[0xd9],
    &[0xff],
];

/// One picture, two, grey ones, padding behind the end, and a picture that is cut short.
pub(super) fn mjpeg() -> Vec<Vec<u8>> {
    let picture = |side: u32, grey: bool| {
        let pixels = RgbImage::from_fn(side, side, |x, y| {
            image::Rgb([(9 * x) as u8, (5 * y) as u8, 90])
        });
        let picture = DynamicImage::from(pixels);
        let picture = if grey {
            picture.into_luma8().into()
        } else {
            picture
        };
        let mut bytes = Vec::new();
        picture
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 60))
            .unwrap();
        bytes
    };
    let (small, grey) = (picture(8, false), picture(24, true));
    let cut = small[..small.len() / 2].to_vec();
    vec![
        small.clone(),
        grey.clone(),
        [&small[..], &grey].concat(),
        [&small[..], &[0; 9]].concat(),
        [&cut[..], &grey].concat(),
    ]
}

pub(super) const MODEL: &[&[u8]] = &[
    b"\"vovnet27_slim\"",
    b"\"vovnet39\"",
    b"\"vovnet57\"",
    b"\"neck_width\":",
    b"\"box_bins\":",
    b"\"strides\":",
    b"[8,16,32]",
    b"[4,8,16,32]",
    b"[32]",
    b"[]",
    b"\"classes\":",
    b"\"int8\":",
    b"\"ranges\":",
    b"\"dtype\":",
    b"\"F16\"",
    b"\"F32\"",
    b"\"BF16\"",
    b"\"I8\"",
    b"\"shape\":",
    b"\"data_offsets\":",
    b"\"__metadata__\":",
    b"null",
    b"4611686018427387904",
    b"1e39",
    b"{}",
    &[SEPARATOR],
];

/// The bundled model's description without its history, and the first of its tensors.
pub(super) fn model() -> Vec<Vec<u8>> {
    let text = std::fs::read("models/vovnet27_slim.json").unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    for history in ["training", "measured", "int8"] {
        manifest[history] = Value::Null;
    }
    let mut quantised = manifest.clone();
    quantised["int8"] = json!({"pictures": 1, "ranges": {"input": 1.0, "neck": 0.0}});
    let mut finer = manifest.clone();
    finer["network"]["strides"] = json!([4, 8, 16, 32]);
    let layer = "backbone.stem.stem_1";
    let tensor = |from: usize, shape: &[usize], dtype: &str, width: usize| {
        let len = width * shape.iter().product::<usize>();
        json!({"dtype": dtype, "shape": shape, "data_offsets": [from, from + len]})
    };
    let header = json!({
        format!("{layer}/conv.weight"): tensor(0, &[64, 3, 3, 3], "F16", 2),
        format!("{layer}/norm.weight"): tensor(3456, &[64], "F32", 4),
        format!("{layer}/norm.bias"): tensor(3712, &[64], "BF16", 2),
        format!("{layer}/norm.running_mean"): tensor(3840, &[64], "F16", 2),
        format!("{layer}/norm.running_var"): tensor(3968, &[64], "F16", 2),
    });
    let first = safetensors(&header, 4096);
    let none = safetensors(&json!({}), 0);
    let files = |manifest: &Value, weights: &[u8]| {
        [manifest.to_string().as_bytes(), &[SEPARATOR], weights].concat()
    };
    vec![
        files(&manifest, &first),
        files(&manifest, &none),
        files(&quantised, &none),
        files(&finer, &none),
        files(&manifest, b"no tensors"),
    ]
}

fn safetensors(header: &Value, len: usize) -> Vec<u8> {
    let header = header.to_string();
    let size = (header.len() as u64).to_le_bytes();
    // 1.0 in f16 and something small in f32 and bf16
    [&size, header.as_bytes(), &[0x00, 0x3c].repeat(len / 2)].concat()
}

/// Nothing changed; a letter of the first tensor's name; and, in the last tensor, infinity or not
/// a number.
pub(super) fn weights() -> Vec<Vec<u8>> {
    let len = std::fs::metadata("models/vovnet27_slim.safetensors")
        .unwrap()
        .len() as u32;
    let patch = |offset: u32, byte: u8| [&offset.to_le_bytes()[..], &[byte]].concat();
    let huge = [patch(len - 1, 0x7f), patch(len - 2, 0x80)].concat();
    vec![vec![], patch(20, b'X'), huge, patch(27_760 / 2, b'"')]
}

pub(super) const SETTINGS: &[&[u8]] = &[
    b"device",
    b"source",
    b"size",
    b"fps",
    b"format",
    b"model",
    b"engine",
    b"precision",
    b"isa",
    b"threads",
    b"input",
    b"threshold",
    b"classes",
    b"headless",
    b"jsonl",
    b"rotate_size",
    b"rotate_keep",
    b"min_free",
    b"fsync_interval",
    b"save",
    b"max_frames",
    b"stats_interval",
    b"camera_timeout",
    b"no_retry",
    b" = ",
    b"\n",
    b"true",
    b"\"",
    b"'''",
    b"[",
    b"]",
    b"{",
    b"}",
    b"#",
    b"nan",
    b"inf",
    b"\"64M\"",
    b"\"640x480\"",
    b"\"cpu\"",
    b"\"int8\"",
    b"1979-05-27",
    b"0xff",
    b"1_000",
    b".",
    b"\\u00e9",
];

/// The shipped file, each of its lines alone, and a file with every key.
pub(super) fn settings() -> Vec<Vec<u8>> {
    let shipped = std::fs::read_to_string("systemd/vovcam.toml").unwrap();
    let every = r#"source = "pattern:3"
size = "640x480"
fps = 29.97
format = "nv12"
model = "m.json"
engine = "cpu"
precision = "int8"
isa = "scalar"
threads = 2
input = "320x256"
threshold = { person = 0.4, "traffic light" = 0.3 }
classes = ["person"]
headless = true
jsonl = "-"
rotate_size = "64K"
rotate_keep = 3
min_free = 1000
fsync_interval = 0
save = "out.avi"
max_frames = 7
stats_interval = 0.5
camera_timeout = 1e1
no_retry = false
"#;
    let alone = shipped.lines().map(|line| line.trim_start_matches('#'));
    let mut seeds: Vec<Vec<u8>> = alone
        .filter(|line| line.contains(" = "))
        .map(|line| line.as_bytes().to_vec())
        .collect();
    seeds.push(b"threshold = \"0.3,person=0.6\"\ndevice = 1".to_vec());
    seeds.push(every.as_bytes().to_vec());
    seeds.push(shipped.into_bytes());
    seeds
}

pub(super) const COCO: &[&[u8]] = &[
    b"\"images\":",
    b"\"annotations\":",
    b"\"categories\":",
    b"\"id\":",
    b"\"image_id\":",
    b"\"category_id\":",
    b"\"bbox\":",
    b"\"area\":",
    b"\"iscrowd\":",
    b"\"labelled\":",
    b"\"score\":",
    b"\"width\":",
    b"\"file_name\":",
    b"null",
    b"true",
    b"\"5\"",
    b"10.0",
    b"NaN",
    b"-1",
    b"[]",
    b"1e308",
    b"-0.0",
    b"10",
    b"20",
    &[SEPARATOR],
    b",",
    b"}",
    b"]",
];

fn annotations() -> Value {
    json!({
        "images": [
            {"id": 30, "file_name": "3.png", "width": 43, "height": 30, "labelled": ["cat"]},
            {"id": 10, "file_name": "1.png", "width": 8, "height": 6},
            {"id": 20, "file_name": "2.png"},
        ],
        "annotations": [
            {"image_id": 10, "category_id": 5, "bbox": [4, 4, 16, 16], "iscrowd": 0},
            {"image_id": 10, "category_id": 5, "bbox": [5, 4, 16, 16], "area": 100.5},
            {"image_id": 20, "category_id": 2, "bbox": [8.25, 8, 120, 116]},
            {"image_id": 30, "category_id": 5, "bbox": [0, 0, 40, 40]},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "zebra"}],
    })
}

/// Ordinary boxes and a crowd, with good, bad and no detections.
pub(super) fn coco() -> Vec<Vec<u8>> {
    let ordinary = annotations();
    let mut crowd = annotations();
    crowd["annotations"][0]["iscrowd"] = json!(1);
    let found = json!([
        {"image_id": 10, "category_id": 5, "bbox": [4, 4, 15, 16], "score": 0.9},
        {"image_id": 10, "category_id": 5, "bbox": [4, 4, 15, 16], "score": 0.9},
        {"image_id": 20, "category_id": 2, "bbox": [8, 8, 120, 110], "score": 0.5},
        {"image_id": 30, "category_id": 2, "bbox": [0, 0, 1, 1], "score": -0.5},
    ]);
    let files =
        |annotations: &Value, results: &Value| format!("{annotations}\0{results}").into_bytes();
    vec![
        files(&ordinary, &found),
        files(&crowd, &found),
        files(&ordinary, &json!([])),
        files(&ordinary, &json!({})),
    ]
}

pub(super) const TAR: &[&[u8]] = &[
    b"ustar\0",
    b"ustar  \0",
    b"annotations.json\0",
    b"images/1.png\0",
    b"./",
    b"../",
    b"0",
    b"5",
    b"L",
    b"x",
    b"g",
    b"S",
    b"K",
    b"77777777777",
    b"00000000000",
    b"00000001000",
    b"\0",
    b"GNU.sparse.size=1",
    b"path=",
    b"size=",
    b"19 size=4294967296\n",
    &[0x80],
    &[0xff],
];

/// A set in a folder of the tar and at its top, with pictures, and with a long name.
pub(super) fn tar() -> Vec<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    RgbImage::new(8, 6)
        .write_to(&mut png, ImageFormat::Png)
        .unwrap();
    let png = png.into_inner();
    let text = annotations().to_string();
    let build = |root: &str, long: bool| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{root}{name}"), bytes)
                .unwrap();
        };
        add("annotations.json", text.as_bytes());
        for name in ["1.png", "2.png", "3.png"] {
            add(&format!("images/{name}"), &png);
        }
        if long {
            add(&format!("images/{}.png", "long".repeat(40)), b"");
        }
        tar.into_inner().unwrap()
    };
    vec![
        build("set/", false),
        build("", true),
        build("./set/", false),
    ]
}

pub(super) const HTTP: &[&[u8]] = &[
    b"GET ",
    b" HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"Host: ",
    b"[::1]:8990",
    b"Authorization: Basic ",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"Sec-Fetch-Site: cross-site",
    b"\r\n",
    b"\r\n\r\n",
];

pub(super) fn http() -> Vec<Vec<u8>> {
    let plain = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8990\r\n\r\n";
    let browser = "GET /stream.mjpg?fps=5 HTTP/1.1\r\nHost: [::1]:8990\r\nAccept: */*\r\n\
        Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\nAuthorization: Basic Zg==\r\n\r\n";
    let body = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nb";
    [plain, browser, body]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

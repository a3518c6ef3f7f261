//! Entry points for a fuzzer: one function for each reader of bytes that come from outside.
//!
//! Each panics where something that must hold for every input does not, and returns the outcome in
//! a few words, numbers and quoted text left out, so that a driver can tell kinds of input apart.
//! docs/fuzzing.md says what is checked and how to run it.

use crate::avi::{AviError, AviReader, AviWriter};
use crate::capture::decode::{MAX_SIDE, frame_len};
use crate::capture::jpeg::{self, CAMERA_SURPLUS, JpegError, JpegStream, Origin};
use crate::capture::y4m::{self, FrameReader};
use crate::config::{ConfigError, Settings, resolve};
use crate::eval::dataset::Dataset;
use crate::eval::id::Id;
use crate::eval::predictions::Predictions;
use crate::eval::{EvalOptions, Evaluation, evaluate};
use crate::geometry::Size;
use crate::model::{Manifest, Model};
use crate::network::graph::{Graph, Op};
use crate::sink::http::request::{Parsed, parse};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Separates the two files of an input that has two.
pub const SEPARATOR: u8 = 0;

/// The largest picture that is decoded here: the decoders are libraries with fuzzers of their own.
const MOST_PIXELS: usize = 1 << 16;

/// A Motion-JPEG clip.
///
/// # Panics
/// Unless every JPEG follows the header of a chunk of the file, has the length that the header says
/// or ends where that length cannot be right, and comes in the file's order; and unless a clip that
/// is written from them reads back the same.
pub fn avi(bytes: &[u8]) -> String {
    let file = Scratch::with(bytes);
    let mut reader = match AviReader::open(file.path()) {
        Ok(reader) => reader,
        Err(error) => return kind(&error),
    };
    assert!(reader.fps().is_none_or(|fps| fps.is_normal() && fps > 0.0));
    let (mut jpegs, mut jpeg) = (Vec::new(), Vec::new());
    let (mut behind, mut position) = (0, None);
    let end = loop {
        match reader.next_jpeg(&mut jpeg) {
            Ok(true) => {}
            Ok(false) => break "end".to_owned(),
            Err(error) => break kind(&error),
        }
        behind = payload_behind(bytes, behind, &jpeg).expect("a JPEG that is no chunk of the file");
        assert_eq!(reader.position().is_some(), reader.fps().is_some());
        assert!(reader.position() > position || reader.fps().is_none());
        position = reader.position();
        jpegs.push(jpeg.clone());
    };
    let written = Scratch::with(&[]);
    if !jpegs.is_empty() {
        let rewritten = rewrite(written.path(), &jpegs);
        assert_eq!(rewritten.expect("a small clip can be written"), jpegs);
    }
    format!("{} frames, {end}", few(jpegs.len()))
}

/// The head of an HTTP request.
///
/// # Panics
/// Unless the verdict is the same when the request arrives byte by byte, and a request that is taken
/// is for one host.
pub fn http(bytes: &[u8]) -> String {
    let whole = parse(bytes);
    let first = (0..=bytes.len()).map(|end| parse(&bytes[..end]));
    let first = first
        .into_iter()
        .find(|parsed| *parsed != Parsed::Incomplete);
    assert_eq!(first.as_ref().unwrap_or(&Parsed::Incomplete), &whole);
    match whole {
        Parsed::Incomplete => "incomplete".to_owned(),
        Parsed::Wrong(status, reason) => format!("{status:?}: {reason}"),
        Parsed::Complete(request) => {
            assert!(!request.host.is_empty() && request.path.starts_with('/'));
            "complete".to_owned()
        }
    }
}

/// The end of the first chunk at or behind `from` that holds these frame bytes.
fn payload_behind(bytes: &[u8], from: usize, jpeg: &[u8]) -> Option<usize> {
    (from + 8..=bytes.len().checked_sub(jpeg.len())?)
        .find(|&at| {
            let (name, len) = bytes[at - 8..at].split_at(4);
            let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
            let is_name = name[..2].iter().all(u8::is_ascii_digit)
                && name[2..].iter().all(u8::is_ascii_alphabetic);
            is_name
                && (len == jpeg.len() || len > bytes.len() - at)
                && bytes[at..].starts_with(jpeg)
        })
        .map(|at| at + jpeg.len())
}

fn rewrite(path: &Path, jpegs: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, AviError> {
    let mut writer = AviWriter::create(path, Size::new(16, 16), 25.0)?;
    for jpeg in jpegs {
        writer.write_jpeg(jpeg)?;
    }
    writer.finish(None)?;
    let mut reader = AviReader::open(path)?;
    let (mut read, mut jpeg) = (Vec::new(), Vec::new());
    while reader.next_jpeg(&mut jpeg)? {
        read.push(jpeg.clone());
    }
    Ok(read)
}

/// A YUV4MPEG2 stream.
///
/// # Panics
/// Unless every frame has the length of the header's size, the frames fit into the stream, and they
/// do not depend on the pieces in which the stream arrives.
pub fn y4m(bytes: &[u8]) -> String {
    let (frames, outcome) = y4m_frames(&mut Cursor::new(bytes));
    let in_pieces = y4m_frames(&mut BufReader::with_capacity(1, bytes));
    assert_eq!((&frames, &outcome), (&in_pieces.0, &in_pieces.1));
    let total: usize = frames.iter().map(|frame| frame.len() + 6).sum();
    assert!(total <= bytes.len(), "{total} bytes of {}", bytes.len());
    outcome
}

fn y4m_frames(input: &mut impl BufRead) -> (Vec<Vec<u8>>, String) {
    let header = match y4m::read_header(input) {
        Ok(Some(header)) => header,
        Ok(None) => return (Vec::new(), "no header".to_owned()),
        Err(error) => return (Vec::new(), kind(&error)),
    };
    let sides = 1..=MAX_SIDE;
    assert!(sides.contains(&header.size.width) && sides.contains(&header.size.height));
    assert!(header.fps.is_none_or(|fps| fps.is_normal() && fps > 0.0));
    let len = frame_len(header.format, header.size);
    let (mut reader, mut frames, mut bytes) = (FrameReader::new(header), Vec::new(), Vec::new());
    let end = loop {
        match reader.next(input, &mut bytes) {
            Ok(true) => {}
            Ok(false) => break "end".to_owned(),
            Err(error) => break kind(&error),
        }
        assert_eq!(bytes.len(), len);
        frames.push(bytes.clone());
    };
    let outcome = format!("{} {} frames, {end}", few(frames.len()), header.format);
    (frames, outcome)
}

/// JPEGs one after the other, as cameras and pipes send them.
///
/// # Panics
/// Unless the JPEGs are parts of the stream, in its order, whatever the pieces in which it arrives;
/// each decodes to the pixels of its size or not at all; and neither what stands behind its end, nor
/// a lost end marker, nor a camera's tolerance changes a pixel.
pub fn mjpeg(bytes: &[u8]) -> String {
    let jpegs = split(&mut Cursor::new(bytes));
    assert_eq!(jpegs, split(&mut BufReader::with_capacity(1, bytes)));
    let mut outcomes = Vec::new();
    let mut behind = 0;
    for jpeg in &jpegs {
        assert!(jpeg.starts_with(&[0xff, 0xd8]));
        let at = bytes[behind..]
            .windows(jpeg.len())
            .position(|part| part == jpeg);
        behind +=
            at.expect("a JPEG that is no part of the stream, or not in its order") + jpeg.len();
        if largest_size(jpeg) > MOST_PIXELS {
            outcomes.push("large".to_owned());
            continue;
        }
        outcomes.push(match decoded(jpeg, Origin::default()) {
            Ok((size, pixels)) => {
                check_end(jpeg, &pixels);
                check_fields(bytes, size);
                "good".to_owned()
            }
            Err(error) => kind(&error),
        });
    }
    outcomes.sort();
    outcomes.dedup();
    outcomes.truncate(2); // more would be as many outcomes as there are sets of them
    format!("{} frames, {}", few(jpegs.len()), outcomes.join(", "))
}

fn split(input: &mut impl BufRead) -> Vec<Vec<u8>> {
    let (mut jpegs, mut jpeg) = (Vec::new(), Vec::new());
    let mut stream = JpegStream::default();
    let expect = "memory can be read";
    while stream.next(input, &mut jpeg).expect(expect) {
        jpegs.push(jpeg.clone());
    }
    jpegs
}

fn decoded(jpeg: &[u8], origin: Origin) -> Result<(Size, Vec<u8>), JpegError> {
    let (size, rgb) = jpeg::decode(jpeg, origin, |len| vec![0; len])?;
    assert!(size.area() > 0 && rgb.len() == 3 * size.area());
    Ok((size, rgb))
}

/// What may change nothing but whether it is read.
fn check_end(jpeg: &[u8], pixels: &[u8]) {
    let other = |bytes: &[u8], origin| decoded(bytes, origin).ok();
    let same = |(_, rgb): (Size, Vec<u8>)| assert!(rgb == pixels);
    other(&[jpeg, b"behind"].concat(), Origin::default()).map(same);
    if let Some(without_end) = jpeg.strip_suffix(&[0xff, 0xd9]) {
        other(without_end, Origin::default()).map(same);
    }
    let camera = Origin {
        surplus: CAMERA_SURPLUS,
        ..Origin::default()
    };
    let from_camera = other(jpeg, camera);
    same(from_camera.expect("what is whole is so from a camera"));
}

/// All of them as the frame of a clip that is twice as high as a JPEG in it.
fn check_fields(bytes: &[u8], field: Size) {
    let frame = Size::new(field.width, 2 * field.height);
    let clip = Origin { frame, surplus: 0 };
    if largest_size(bytes) <= MOST_PIXELS
        && let Ok((size, _)) = decoded(bytes, clip)
        && size.width == field.width
    {
        assert!(size.height == field.height || size.height.is_multiple_of(2));
    }
}

/// The largest picture that any frame header in it, or what looks like one, claims.
fn largest_size(jpeg: &[u8]) -> usize {
    let headers = jpeg
        .windows(9)
        .filter(|w| w[0] == 0xff && w[1] & 0xf0 == 0xc0);
    let side = |high: u8, low: u8| (usize::from(high) << 8) | usize::from(low);
    let claims = headers.map(|w| side(w[5], w[6]) * side(w[7], w[8]));
    claims.max().unwrap_or(0)
}

/// A model: its manifest, a [`SEPARATOR`], and a safetensors file.
///
/// # Panics
/// Unless a manifest that is accepted describes a sound graph and survives being written and read,
/// and a model that loads has finite weights of the graph's shapes.
pub fn model(bytes: &[u8]) -> String {
    let (text, weights) = two_files(bytes);
    // without the right hash nothing else would be looked at
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(text) else {
        return match Model::from_bytes(text, weights, "fuzz") {
            Ok(_) => panic!("a manifest that is no JSON was accepted"),
            Err(error) => kind(&error),
        };
    };
    if let Some(hash) = value.get_mut("sha256") {
        let digest = Sha256::digest(weights);
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        *hash = text.into();
    }
    let text = value.to_string();
    match Model::from_bytes(text.as_bytes(), weights, "fuzz") {
        Ok(model) => {
            check_model(&model);
            "loaded".to_owned()
        }
        Err(error) => {
            if let Ok(manifest) = serde_json::from_str::<Manifest>(&text)
                && let Ok(graph) = manifest.network.graph(manifest.classes.len())
            {
                check_graph(&graph, &manifest);
            }
            kind(&error)
        }
    }
}

/// The bundled weights with bytes changed: `[offset: u32, byte]` after `[offset: u32, byte]`.
///
/// # Panics
/// As [`model`].
pub fn weights(bytes: &[u8]) -> String {
    static FILES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        ["json", "safetensors"].map(|extension| {
            let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/vovnet27_slim");
            std::fs::read(bundled.with_extension(extension)).expect("the bundled model")
        })
    });
    let [manifest, weights] = &*FILES;
    let mut weights = weights.clone();
    for patch in bytes.chunks_exact(5) {
        let offset = u32::from_le_bytes([patch[0], patch[1], patch[2], patch[3]]);
        let offset = offset as usize % weights.len();
        weights[offset] = patch[4];
    }
    model(&[manifest, [SEPARATOR].as_slice(), &weights].concat())
}

fn check_model(model: &Model) {
    let manifest = &model.manifest;
    check_graph(&model.graph, manifest);
    assert!(manifest.mean.iter().all(|mean| mean.is_finite()));
    assert!(manifest.std.iter().all(|std| std.is_finite() && *std > 0.0));
    let ranges = manifest.int8.iter().flat_map(|int8| int8.ranges.values());
    assert!({ ranges }.all(|range| range.is_finite() && *range >= 0.0));
    assert_eq!(model.weights.len(), model.graph.convs().count());
    for ((_, conv), weights) in model.graph.convs().zip(&model.weights) {
        assert_eq!(weights.weight.len(), conv.weight_len());
        assert_eq!(weights.bias.len(), conv.out_channels);
        let mut values = weights.weight.iter().chain(&weights.bias);
        assert!(values.all(|value| value.is_finite()), "{}", conv.weight);
    }
    let written = serde_json::to_vec(manifest).expect("a manifest can be written");
    let read: Manifest = serde_json::from_slice(&written).expect("and read again");
    let rewritten = serde_json::to_vec(&read).expect("and written again");
    assert_eq!(written, rewritten);
}

fn check_graph(graph: &Graph, manifest: &Manifest) {
    for (index, node) in graph.nodes.iter().enumerate() {
        assert!(
            node.inputs.iter().all(|input| input.0 < index),
            "{}",
            node.name
        );
        let channels: Vec<usize> = node.inputs.iter().map(|&id| graph.channels(id)).collect();
        let right = match &node.op {
            Op::Input => channels.is_empty() && node.channels == 3,
            Op::Conv(conv) => channels == [conv.in_channels] && node.channels == conv.out_channels,
            Op::MaxPool | Op::Upsample => channels == [node.channels],
            Op::Add => channels == [node.channels; 2],
            Op::Concat => channels.iter().sum::<usize>() == node.channels,
        };
        assert!(right && node.channels > 0, "{}: {channels:?}", node.name);
    }
    let network = &manifest.network;
    assert_eq!(graph.outputs.len(), network.strides.len());
    let shapes = graph.shapes(64, 96);
    for level in &graph.outputs {
        assert_eq!(graph.channels(level.class), manifest.classes.len());
        assert_eq!(
            Some(graph.channels(level.boxes)),
            network.box_bins.checked_mul(4)
        );
        for id in [level.class, level.boxes] {
            let shape = shapes[id.0];
            assert_eq!(
                (shape.height, shape.width),
                (64 / level.stride, 96 / level.stride)
            );
        }
    }
}

/// A settings file.
///
/// # Panics
/// Unless settings that are accepted are so again when they are written as TOML and read back, and
/// when they are laid over defaults; and unless an error names the key or the line.
pub fn settings(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let table = toml::from_str::<toml::Table>(&text).ok();
    let load = |text: &str| Settings::load(Scratch::with(text.as_bytes()).path());
    match (load(&text), table) {
        (Ok(settings), Some(table)) => {
            let written = toml::to_string(&table).expect("a table can be written");
            assert_eq!(load(&written).expect("and read again"), settings);
            let over = |line: &Settings, text: &str| {
                let file = Scratch::with(text.as_bytes());
                let resolved = resolve(line, Some(file.path()), &[]);
                resolved.expect("the file was read before").settings
            };
            assert_eq!(over(&settings, ""), settings);
            assert_eq!(over(&Settings::default(), &text), settings);
            let _ = (settings.log.options(), settings.detector.engine.options());
            format!("{} settings", table.len())
        }
        (Err(error), table) => {
            let message = error.to_string();
            let named = match (&error, &table) {
                (ConfigError::UnknownKey { key, .. }, Some(table)) => table.contains_key(key),
                (_, Some(table)) => table.keys().any(|key| message.contains(key)),
                (_, None) => message.contains("line"),
            };
            assert!(named, "neither a key nor a line: {message}");
            kind(&error)
        }
        (Ok(_), None) => panic!("settings that are no TOML were accepted"),
    }
}

/// Annotations of a data set in COCO form, a [`SEPARATOR`], and detections in COCO's results form.
///
/// # Panics
/// Unless figures are from 0 to 1, results survive being written and read, and the set's own boxes,
/// as detections, have an average precision of 1 wherever there is one.
pub fn coco(bytes: &[u8]) -> String {
    let (annotations, results) = two_files(bytes);
    let file = Scratch::with(&in_tar(annotations));
    let dataset = match Dataset::open(file.path()) {
        Ok(dataset) => dataset,
        Err(error) => return kind(&error),
    };
    check_dataset(&dataset);
    check_own_boxes(&dataset);
    let file = Scratch::with(results);
    let predictions = match Predictions::read(file.path(), &dataset) {
        Ok(predictions) => predictions,
        Err(error) => return kind(&error),
    };
    let evaluation = evaluate(&dataset, &predictions, &EvalOptions::default());
    check_figures(&evaluation);
    let written = Scratch::with(&[]);
    predictions
        .write(written.path(), &dataset)
        .expect("a file in memory can be written");
    let read = Predictions::read(written.path(), &dataset).expect("what was written is read");
    assert!((0..dataset.images.len()).all(|i| read.of_image(i) == predictions.of_image(i)));
    format!("{} of {}", few(predictions.len()), few(evaluation.boxes))
}

/// A data set in a tar.
///
/// # Panics
/// Unless the set is consistent in itself.
pub fn tar(bytes: &[u8]) -> String {
    let file = Scratch::with(bytes);
    let mut dataset = match Dataset::open(file.path()) {
        Ok(dataset) => dataset,
        Err(error) => return kind(&error),
    };
    check_dataset(&dataset);
    let small = |size: Size| size.area() <= MOST_PIXELS;
    let outcome = match dataset.check_images() {
        Err(error) => kind(&error),
        Ok(()) => match dataset
            .images
            .iter()
            .position(|i| i.size.is_some_and(small))
        {
            None => "nothing small".to_owned(),
            Some(index) => match dataset.read(index) {
                Err(error) => kind(&error),
                Ok(frame) => {
                    assert_eq!(Some(frame.meta.size), dataset.images[index].size);
                    assert_eq!(frame.pixels.len(), 3 * frame.meta.size.area());
                    "a picture".to_owned()
                }
            },
        },
    };
    format!("{} images, {outcome}", few(dataset.images.len()))
}

fn check_dataset(dataset: &Dataset) {
    assert!(dataset.categories.is_sorted_by(|a, b| a.id < b.id));
    assert!(dataset.images.is_sorted_by(|a, b| a.id < b.id));
    for image in &dataset.images {
        assert_eq!(image.labelled.len(), dataset.categories.len());
        for truth in &image.truths {
            assert!(image.labelled[truth.category]);
            assert!(truth.bbox.iter().all(|value| value.is_finite()));
        }
    }
}

/// The boxes that are to be found, as the detections of a perfect detector. Only where there is
/// nothing that the definition treats in its own way: no crowds, no more than 100 boxes, and sides
/// and places for which f64 has digits to spare.
fn check_own_boxes(dataset: &Dataset) {
    let plain = |value: f64| value.abs() <= 1e4;
    let mut rows = Vec::new();
    for image in &dataset.images {
        let ordinary = image.truths.iter().all(|truth| {
            let [x, y, width, height] = truth.bbox;
            let sides = [width, height]
                .into_iter()
                .all(|side| (1.0..=1e4).contains(&side));
            !truth.ignore && plain(x) && plain(y) && sides && (0.0..=1e9).contains(&truth.area)
        });
        if !ordinary || image.truths.len() > 100 {
            return;
        }
        rows.extend(image.truths.iter().map(|truth| {
            let text = |id: &Id| serde_json::to_string(id).expect("an id can be written");
            let (image, category) = (text(&image.id), text(&dataset.categories[truth.category].id));
            let bbox = truth.bbox;
            format!(
                r#"{{"image_id": {image}, "category_id": {category}, "bbox": {bbox:?}, "score": 1}}"#
            )
        }));
    }
    let file = Scratch::with(format!("[{}]", rows.join(",")).as_bytes());
    let own = Predictions::read(file.path(), dataset).expect("the set's own boxes are results");
    let evaluation = evaluate(dataset, &own, &EvalOptions::default());
    check_figures(&evaluation);
    for class in &evaluation.classes {
        let ap = class.coco.ap;
        assert_eq!(ap.is_some(), class.boxes > 0, "{}", class.name);
        assert!(
            ap.is_none_or(|ap| ap > 1.0 - 1e-9),
            "'{}': {ap:?}",
            class.name
        );
    }
}

fn check_figures(evaluation: &Evaluation) {
    for class in &evaluation.classes {
        let voc = [class.voc.ap_11_point, class.voc.ap_area];
        let mut figures = class.coco.values().into_iter().chain(voc).flatten();
        let right = figures.all(|figure| (0.0..=1.0 + 1e-9).contains(&figure));
        assert!(right, "{:?} {:?}", class.coco, class.voc);
    }
    assert!(!evaluation.to_string().is_empty());
    evaluation.to_json().expect("a report can be written");
}

/// A tar that holds an annotation file alone.
fn in_tar(annotations: &[u8]) -> Vec<u8> {
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_ustar();
    header.set_size(annotations.len() as u64);
    let name = "annotations.json";
    tar.append_data(&mut header, name, annotations)
        .and_then(|()| tar.into_inner())
        .expect("memory can be written")
}

fn two_files(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == SEPARATOR) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// A file in memory: readers take paths.
struct Scratch {
    _file: File,
    path: PathBuf,
}

impl Scratch {
    fn with(bytes: &[u8]) -> Scratch {
        let file = memfd_create("fuzz", MFdFlags::MFD_CLOEXEC).map(File::from);
        let mut file = file.expect("a file in memory can be made");
        file.write_all(bytes).expect("memory can be written");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Scratch { _file: file, path }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// 0, 1, 2, or many.
fn few(count: usize) -> &'static str {
    ["0", "1", "2", "many"][count.min(3)]
}

/// Prefixes of messages after which unquoted text of the input follows.
const BEFORE_INPUT: [&str; 7] = [
    "got ",
    "found ",
    "begins with",
    "is not ",
    "0x",
    "not a number",
    "utf-8 text",
];

/// An error's message and its causes, without what differs from input to input: numbers, and text
/// of the input.
fn kind(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    let line = text.lines().last().unwrap_or_default();
    let ends = BEFORE_INPUT.iter().filter_map(|words| line.find(words));
    let line = &line[..ends.min().unwrap_or(line.len())];
    let mut kind = String::new();
    for (index, part) in line.split(['\'', '"', '`']).enumerate() {
        match index % 2 {
            0 => kind.extend(part.chars().filter(|c| !c.is_ascii_digit())),
            _ => kind.push('…'),
        }
    }
    kind
}

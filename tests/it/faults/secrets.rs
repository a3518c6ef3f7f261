//! Passwords and tokens of addresses: in no message, in no line of the log, and not in the list of
//! processes, with a stand-in for ffmpeg and with the real one.

use crate::programs::{Stage, gstreamer};
use crate::support::{Ended, Running, finish, tool, vovcam};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

/// Stands in every place of an address that may hold a secret.
const SECRET: &str = "S3CR3T";

/// Fails where the secret is shown.
fn assert_hidden(what: &str, text: &str) {
    assert!(!text.contains(SECRET), "{what}: {text}");
}

/// Command lines of a process and of all that it started.
fn command_lines(pid: &str) -> String {
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut all = vec![pid.to_owned()];
    let parents: Vec<(String, String)> = pids
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            Some((pid, rest.split(' ').nth(1)?.to_owned()))
        })
        .collect();
    let mut next = 0;
    while next < all.len() {
        let children = parents.iter().filter(|(_, parent)| *parent == all[next]);
        let children: Vec<String> = children.map(|(pid, _)| pid.clone()).collect();
        all.extend(children);
        next += 1;
    }
    assert!(all.len() > 1, "no child of {pid}");
    let lines = all
        .iter()
        .map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " ") + "\n")
        .collect()
}

/// A settings file with this source: what stands in it is on no command line.
fn settings(stage: &Stage, source: &str) -> String {
    let path = stage.file("vovcam.toml");
    std::fs::write(&path, format!("source = {}\n", toml::Value::from(source))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_address_reaches_ffmpeg_whole_and_nothing_else_shows_its_secrets() {
    let source = "rtsp://admin:S3CR3Tpw@camera:554/S3CR3Tpath/live?key=S3CR3Tkey&n=1#S3CR3Tpart";
    // what it repeats of the address goes to the log
    let script = r#"
for a in "$@"; do case $a in pipe:0) ;; pipe:*) cat /dev/fd/${a#pipe:} > $dir/list;; esac; done
header; frames 2
echo "Impossible to open 'rtsp://admin:S3CR3Tpw@camera:554/S3CR3Tpath/live?key=S3CR3Tkey&n=1#S3CR3Tpart'" >&2
echo "DESCRIBE rtsp://camera:554/S3CR3Tpath/live: no S3CR3Tkey, user admin has S3CR3Tpw" >&2
[ $n = 1 ] && exit 1
exec sleep 1000"#;
    let stage = Stage::with("ffmpeg", script);
    let mut run = stage.start(&["-vv", "--config", &settings(&stage, source)]);
    let lines = run.until(|line| line["event"] == "camera_found");
    let shown = command_lines(&run.pid());
    assert_hidden("processes", &shown);
    assert_hidden("arguments", &stage.read("args"));
    assert!(
        stage.read("list").contains(&format!("file '{source}'\n")),
        "{}",
        stage.read("list")
    );
    assert!(stage.read("list").ends_with("option rtsp_transport tcp"));
    let rest = run.stop();
    for line in lines.iter().chain(&rest) {
        assert_hidden("log", &line.to_string());
    }
    assert_eq!(
        lines[0]["source"],
        "rtsp://camera:554/…/live?…#… (through ffmpeg)"
    );
    assert_eq!(lines[0]["camera"], "camera:554");
    let lost = lines
        .iter()
        .find(|line| line["event"] == "camera_lost")
        .unwrap();
    assert_eq!(
        lost["message"],
        "camera 'rtsp://camera:554/…/live?…#…': ffmpeg: exit status: 1: \
         DESCRIBE rtsp://camera:554/…/live: no …, user … has …"
    );
}

/// Places of a secret in an address that nothing answers.
const UNANSWERED: [&str; 9] = [
    "http://127.0.0.1:1/flv?port=1935&user=admin&password=S3CR3T",
    "http://127.0.0.1:1/cgi?usr=admin&pwd=S3CR3T",
    "http://u:S3CR3T@127.0.0.1:1/video.mjpg",
    "http://S3CR3T@127.0.0.1:1/video.mjpg",
    "http://127.0.0.1:1/S3CR3T/clip.mp4",
    "rtsp://127.0.0.1:1/live/S3CR3T",
    "rtsp://u:a/S3CR3T@127.0.0.1:1/live",
    "rtsp://127.0.0.1:1/user=admin_password=S3CR3T_channel=1.sdp",
    "http://127.0.0.1:1/video#S3CR3T",
];

#[test]
fn the_real_ffmpeg_shows_no_secret_of_an_address_that_it_cannot_read() {
    if tool("ffmpeg").is_none() {
        return;
    }
    let stage = Stage::empty();
    for source in UNANSWERED {
        let config = settings(&stage, source);
        for args in [&["--source", source][..], &["--config", &config]] {
            let Ended {
                code,
                stdout,
                stderr,
            } = stage.finish(&[args, &["--no-retry", "-vv"]].concat());
            assert!(matches!(code, Some(66 | 69)), "{source}: {code:?} {stderr}");
            assert_hidden("log", &stdout);
            assert_hidden("messages", &stderr);
            assert!(
                stderr.contains("://"),
                "the address is shown in part: {stderr}"
            );
        }
    }
}

#[test]
fn the_real_gstreamer_shows_no_secret_of_a_pipeline_that_fails() {
    if !gstreamer(&["rtspsrc", "videoconvert", "y4menc"]) {
        return;
    }
    let stage = Stage::empty();
    let source = "gst:rtspsrc location=rtsp://u:S3CR3T@127.0.0.1:1/S3CR3T user-id=u user-pw=S3CR3T ! decodebin";
    let Ended {
        code,
        stdout,
        stderr,
    } = stage.finish(&["--source", source, "--no-retry", "-vv"]);
    assert_eq!(code, Some(69), "{stderr}");
    assert_hidden("log", &stdout);
    assert_hidden("messages", &stderr);
    let shown = "gst:rtspsrc location=rtsp://127.0.0.1:1/… user-id=… user-pw=… ! decodebin";
    assert!(stderr.contains(shown), "{stderr}");
}

#[test]
fn an_address_in_the_wrong_place_is_not_repeated_either() {
    let address = "rtsp://u:S3CR3T@camera/S3CR3T?S3CR3T";
    let pipeline = "gst:rtspsrc user-pw=S3CR3T";
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("vovcam.toml");
    let config_arg = config.to_str().unwrap();
    let lines: [&[&str]; 9] = [
        &[address],
        &[pipeline],
        &["--device", address],
        &["--name", address],
        &["--size", address],
        &["--threshold", address],
        &["--source", address, "--device", "0"],
        &["--source", "gst:rtspsrc user-pw='S3CR3T"],
        &["--config", config_arg],
    ];
    for key in ["device", "name", "fps", "threads", "format", address] {
        std::fs::write(&config, format!("\"{key}\" = \"{address}\"")).unwrap();
        for args in lines {
            let Ended {
                code,
                stdout,
                stderr,
            } = finish(vovcam().args(args));
            assert!(matches!(code, Some(2 | 78)), "{args:?}: {code:?} {stderr}");
            assert_hidden("output", &stdout);
            assert_hidden("messages", &stderr);
        }
    }
}

/// A camera that answers one connection with `serve`.
fn camera(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // it ends when its reader leaves
            let _ = serve(stream.unwrap());
        }
    });
    address
}

/// The lines of a request's head; empty at the end of the connection.
fn request(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(lines);
        }
        lines.push(line.trim().to_owned());
    }
}

/// Base64 of `admin:S3CR3T`.
const CREDENTIALS: &str = "Basic YWRtaW46UzNDUjNU";

fn is_authorised(request: &[String]) -> bool {
    request.iter().any(|line| line.ends_with(CREDENTIALS))
}

/// Starts on a camera of the real ffmpeg's and takes some frames.
fn takes_frames(stage: &Stage, source: &str) -> (Running, Vec<Value>) {
    let mut run = stage.start(&["-vv", "--config", &settings(stage, source)]);
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.extend(run.until(|line| line["type"] == "frame"));
    }
    (run, lines)
}

fn is_clean(run: Running, lines: &[Value], shown: &str) {
    assert_hidden("processes", &command_lines(&run.pid()));
    assert_eq!(lines[0]["source"], format!("{shown} (through ffmpeg)"));
    for line in lines.iter().chain(&run.stop()) {
        assert_hidden("log", &line.to_string());
    }
}

#[test]
fn the_real_ffmpeg_reads_an_http_camera_that_wants_a_password_and_a_token() {
    if tool("ffmpeg").is_none() {
        return;
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new(&mut jpeg)
        .encode_image(&RgbImage::new(64, 48))
        .unwrap();
    let camera = camera(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let request = request(&mut reader)?;
        if !is_authorised(&request) || !request[0].contains("/S3CR3T/video?token=S3CR3T") {
            return stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"camera\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n",
        )?;
        loop {
            let head = format!(
                "--b\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
                jpeg.len()
            );
            stream.write_all(&[head.as_bytes(), &jpeg, b"\r\n"].concat())?;
        }
    });
    let stage = Stage::empty();
    let source = format!("http://admin:S3CR3T@{camera}/S3CR3T/video?token=S3CR3T");
    let (run, lines) = takes_frames(&stage, &source);
    is_clean(run, &lines, &format!("http://{camera}/…/video?…"));
}

/// Half a minute of MPEG-TS.
fn transport_stream() -> Vec<u8> {
    let args = "-v error -f lavfi -i testsrc=s=64x48:r=25:d=30 -c:v mpeg2video -g 5 -f mpegts -";
    let output = Command::new("ffmpeg")
        .args(args.split(' '))
        .output()
        .unwrap();
    assert!(
        output.stdout.len() > 188 * 100,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Answers one request of RTSP (RFC 2326), and tells whether frames are wanted.
fn answer(request: &[String], transports: &Sender<String>) -> (bool, String) {
    let value = |name: &str| {
        let line = request.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let method = request[0].split(' ').next().unwrap_or_default();
    let (status, head, body) = match method {
        "OPTIONS" => (
            "200 OK",
            "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
            "",
        ),
        _ if !is_authorised(request) => (
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"camera\"\r\n",
            "",
        ),
        "DESCRIBE" => (
            "200 OK",
            "Content-Type: application/sdp\r\n",
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n\
             a=rtpmap:33 MP2T/90000\r\na=control:track1\r\n",
        ),
        "SETUP" => {
            transports.send(value("Transport:")).unwrap();
            (
                "200 OK",
                "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
                "",
            )
        }
        _ => ("200 OK", "Session: 1\r\n", ""),
    };
    let text = format!(
        "RTSP/1.0 {status}\r\nCSeq: {}\r\n{head}Content-Length: {}\r\n\r\n{body}",
        value("CSeq:"),
        body.len()
    );
    (method == "PLAY", text)
}

#[test]
fn the_real_ffmpeg_reads_an_rtsp_camera_that_wants_a_password_over_tcp() {
    if tool("ffmpeg").is_none() {
        return;
    }
    let stream = transport_stream();
    let (transports, asked) = channel();
    let camera = camera(move |mut connection| {
        let mut reader = BufReader::new(connection.try_clone()?);
        loop {
            let request = request(&mut reader)?;
            if request.is_empty() {
                return Ok(());
            }
            let (plays, text) = answer(&request, &transports);
            connection.write_all(text.as_bytes())?;
            if !plays {
                continue;
            }
            // seven packets of MPEG-TS in one of RTP (RFC 2250), in the stream of RTSP
            for (number, packets) in stream.chunks(7 * 188).enumerate() {
                let number = number as u32;
                let mut rtp = vec![0x80, 33];
                rtp.extend((number as u16).to_be_bytes());
                rtp.extend((number * 300).to_be_bytes());
                rtp.extend(1u32.to_be_bytes());
                rtp.extend(packets);
                let length = (rtp.len() as u16).to_be_bytes();
                connection.write_all(&[&[b'$', 0][..], &length, &rtp].concat())?;
            }
            // what it asks then is of no account, until it leaves
            std::io::copy(&mut reader.by_ref(), &mut std::io::sink())?;
        }
    });
    let stage = Stage::empty();
    let source = format!("rtsp://admin:S3CR3T@{camera}/S3CR3T/live");
    let (run, lines) = takes_frames(&stage, &source);
    is_clean(run, &lines, &format!("rtsp://{camera}/…/live"));
    let transport = asked.recv().unwrap();
    assert!(transport.starts_with("RTP/AVP/TCP"), "{transport}");
}

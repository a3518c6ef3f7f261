//! The page, pictures, events and metrics, asked for over the network as browsers and others do.

mod client;

use crate::support::{Limit, PATIENCE, count, finish, installed, lines, schema, vovcam};
use client::{Response, Served, check_jpeg, line, part, pattern, until};
use serde_json::Value;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn every_path_has_its_kind_and_all_say_what_browsers_may_do() {
    let run = Served::start(&mut pattern(&[]));
    run.until_ready();
    for (path, kind, is_made) in [
        ("/", "text/html; charset=utf-8", false),
        ("/app.css", "text/css; charset=utf-8", false),
        ("/app.js", "text/javascript; charset=utf-8", false),
        ("/icon.svg", "image/svg+xml", false),
        ("/schema.json", "application/json", false),
        ("/healthz", "text/plain; charset=utf-8", false),
        ("/readyz", "text/plain; charset=utf-8", false),
        ("/api/v1/state", "application/json", true),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", true),
        ("/snapshot.jpg", "image/jpeg", true),
        ("/snapshot.jpg?t=1", "image/jpeg", true),
    ] {
        let response = run.get(path);
        assert_eq!(response.status, 200, "{path}");
        let fields = &response.fields;
        assert_eq!(fields["content-type"], kind, "{path}");
        assert_eq!(fields["content-length"], response.body.len().to_string());
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("connection", "close"),
        ] {
            assert_eq!(fields[name], value, "{path}");
        }
        assert!(fields["content-security-policy"].starts_with("default-src 'self';"));
        assert!(!fields.contains_key("access-control-allow-origin"));
        let head = run.ask("HEAD", path, "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.fields["content-type"], kind);
        if !is_made {
            assert_eq!(head.fields["content-length"], fields["content-length"]);
        }
    }
    for path in ["/stream.mjpg", "/api/v1/events"] {
        let head = run.ask("HEAD", path, "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    check_jpeg(&run.get("/snapshot.jpg").body);
    run.stop();
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_has_no_code_inside() {
    let run = Served::start(&mut pattern(&[]));
    let page = run.get("/");
    let (page, style, script) = (page.text(), run.get("/app.css"), run.get("/app.js"));
    for text in [page, style.text(), script.text()] {
        assert!(!text.contains("http://") && !text.contains("https://"));
    }
    for inline in ["<style", " style=", " onclick", "javascript:", "<script>"] {
        assert!(!page.contains(inline), "{inline}");
    }
    // every address of the page is one of this server
    for attribute in page.split(['"', ' ']).filter(|text| text.starts_with('/')) {
        let status = run.ask("HEAD", attribute, "").status;
        assert!(status == 200 || status == 503, "{attribute}: {status}");
    }
    run.stop();
}

#[test]
fn what_is_not_there_not_allowed_or_no_request_is_refused_with_a_reason() {
    let run = Served::start(&mut pattern(&[]));
    for path in [
        "/nothing",
        "//",
        "/api/v1/state/",
        "/../etc/passwd",
        "/%2e%2e/",
    ] {
        assert_eq!(run.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let response = run.ask(method, "/api/v1/state", "");
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.fields["allow"], "GET, HEAD");
    }
    for path in [
        "/stream.mjpg?fps=0",
        "/stream.mjpg?fps=x",
        "/api/v1/events?frames=2",
    ] {
        assert_eq!(run.get(path).status, 400, "{path}");
    }
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    let port = run.address.port();
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            400,
        ),
        ("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n".to_owned(), 505),
        ("\u{16}\u{3}\u{1}\u{0}\u{a5}\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            403,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n"),
            403,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
            200,
        ),
        (format!("GET / HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n"), 200),
        (long, 431),
    ] {
        let response = run.exchange(text.as_bytes());
        assert_eq!(response.status, status, "{text:.60}");
        assert!(!response.body.is_empty(), "{text:.60}");
    }
    let embedded = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
    assert_eq!(run.ask("GET", "/snapshot.jpg", embedded).status, 403);
    run.stop();
}

#[test]
fn names_of_the_settings_are_hosts_too() {
    let run = Served::start(&mut pattern(&["--http-names", "Cam.example"]));
    for (host, status) in [("cam.example:80", 200), ("other.example", 403)] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(run.exchange(text.as_bytes()).status, status, "{host}");
    }
    run.stop();
}

#[test]
fn the_state_is_the_run_and_its_newest_lines() {
    let run = Served::start(&mut pattern(&["--name", "front"]));
    run.until_ready();
    let mut state = Value::Null;
    until(|| {
        state = run.get("/api/v1/state").json();
        state["stats"]["frames"].as_u64().unwrap() > 0 && !state["frame"].is_null()
    });
    let schema = schema();
    for (part, kind) in [("run", "run"), ("stats", "stats"), ("frame", "frame")] {
        let errors: Vec<String> = schema
            .iter_errors(&state[part])
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{part}: {errors:?}");
        assert_eq!(state[part]["type"], kind);
    }
    assert_eq!(state["run"]["camera"], "front");
    for flag in ["ready", "alive", "camera_up"] {
        assert_eq!(state[flag], true, "{flag}");
    }
    assert!(state["objects"].is_object() && state["events"].is_array());
    run.stop();
}

#[test]
fn events_are_the_lines_of_the_log_and_frames_come_on_request_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vovcam.toml");
    std::fs::write(&config, "threshold = 0.9\n").unwrap();
    let run = Served::start(&mut pattern(&["--config", config.to_str().unwrap()]));
    run.until_ready();
    let mut without = run.open("/api/v1/events");
    let mut with = run.open("/api/v1/events?frames=1");
    assert_eq!(line(&mut with), "retry: 3000");
    std::fs::write(&config, "threshold = 0.8\n").unwrap();
    let mut log = String::new();
    let mut seen = [0; 3];
    let (mut asked, mut at) = (false, None);
    while seen.contains(&0) {
        if !asked && seen[0] > 0 {
            let pid = run.child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-HUP", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
            asked = true;
        }
        let text = line(&mut with);
        if let Some(kind) = text.strip_prefix("event: ") {
            let kinds = ["frame", "stats", "event"];
            at = kinds.iter().position(|known| *known == kind);
        } else if let Some(data) = text.strip_prefix("data: ") {
            log.push_str(data);
            log.push('\n');
            seen[at.unwrap()] += 1;
        }
    }
    let lines = lines(&log);
    assert!(
        lines.iter().any(|line| line["event"] == "config_reloaded"),
        "{lines:?}"
    );
    assert_eq!(count(&lines, "frame"), seen[0]);
    let mut kinds = Vec::new();
    while !kinds.contains(&"event: event".to_owned()) {
        kinds.push(line(&mut without));
    }
    assert!(!kinds.contains(&"event: frame".to_owned()), "{kinds:?}");
    let state = run.get("/api/v1/state").json();
    assert_eq!(state["events"][0]["event"], "config_reloaded");
    run.stop();
}

#[test]
fn a_stream_has_whole_pictures_for_eight_viewers_and_no_ninth() {
    let run = Served::start(&mut pattern(&[]));
    let mut streams: Vec<_> = (0..8).map(|_| run.open("/stream.mjpg")).collect();
    for stream in &mut streams {
        for _ in 0..3 {
            check_jpeg(&part(stream));
        }
    }
    let ninth = run.get("/stream.mjpg");
    assert_eq!(
        (ninth.status, ninth.fields["retry-after"].as_str()),
        (503, "5")
    );
    streams.clear();
    until(|| {
        let mut stream = run.connect();
        let request = "GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        line(&mut BufReader::new(stream)) == "HTTP/1.1 200 OK"
    });
    run.stop();
}

#[test]
fn viewers_that_read_nothing_hold_no_run_up_and_no_other_viewer() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut command = vovcam();
    // a clip: whoever could hold the run up, would
    command
        .args([
            "--source",
            "pattern:200",
            "--size",
            "1280x720",
            "--fps",
            "50",
        ])
        .args([
            "--headless",
            "--input",
            "64",
            "--http",
            "127.0.0.1:0",
            "--jsonl",
        ])
        .arg(&log);
    let run = Served::start(&mut command);
    let stuck: Vec<_> = (0..7)
        .map(|_| {
            let mut stream = run.connect();
            write!(
                stream,
                "GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            .unwrap();
            stream
        })
        .collect();
    let mut viewer = run.open("/stream.mjpg");
    for _ in 0..5 {
        part(&mut viewer);
    }
    let (status, messages) = run.end();
    assert_eq!(status.code(), Some(0), "{messages}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(count(&lines(&text), "frame"), 200);
    drop(stuck);
}

#[test]
fn two_hundred_clients_at_once_are_all_answered() {
    let run = Served::start(&mut pattern(&[]));
    let mut clients: Vec<_> = (0..200).map(|_| run.connect()).collect();
    for client in &mut clients {
        client.write_all(b"GET /healthz HTTP/1.1\r\nHo").unwrap();
    }
    for client in &mut clients {
        client.write_all(b"st: localhost\r\n\r\n").unwrap();
    }
    for client in clients {
        assert_eq!(Response::read(client).status, 200);
    }
    run.stop();
}

#[test]
fn clients_that_send_nothing_make_room_for_others() {
    let run = Served::start(&mut pattern(&[]));
    let idle: Vec<_> = (0..300).map(|_| run.connect()).collect();
    assert_eq!(run.get("/healthz").status, 200);
    // the first one was closed without a response
    let mut first = &idle[0];
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    let mut slow = run.connect();
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(Response::read(slow).status, 408);
    run.stop();
}

#[test]
fn a_token_is_asked_for_at_every_path_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let mut command = pattern(&["--http-token-file", file.to_str().unwrap()]);
    let run = Served::start(command.env("VOVCAM_LOG", "vovcam=debug"));
    for path in ["/", "/healthz", "/snapshot.jpg", "/nothing"] {
        let response = run.get(path);
        assert_eq!(response.status, 401, "{path}");
        assert!(response.fields["www-authenticate"].starts_with("Basic realm="));
    }
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(run.ask("GET", "/", &bearer(TOKEN)).status, 200);
    assert_eq!(run.ask("GET", "/nothing", &bearer(TOKEN)).status, 404);
    assert_eq!(run.ask("GET", "/", &bearer(&TOKEN[1..])).status, 401);
    assert_eq!(run.get(&format!("/?token={TOKEN}")).status, 401);
    // printf 'me:TOKEN' | base64
    let basic = "Authorization: Basic bWU6MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\r\n";
    assert_eq!(run.ask("GET", "/api/v1/state", basic).status, 200);
    let messages = run.stop();
    assert!(!messages.contains(TOKEN), "{messages}");
}

#[test]
fn an_address_for_all_needs_a_token_and_a_port_must_be_free() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = vovcam();
        command.args(["--source", "pattern:1", "--headless", "--input", "64"]);
        finish(command.args(args))
    };
    let open = run(&["--http", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(2), "{}", open.stderr);
    assert!(open.stderr.contains("http_token_file"), "{}", open.stderr);
    let config = dir.path().join("vovcam.toml");
    std::fs::write(&config, "http = \"[::]:0\"\n").unwrap();
    let open = run(&["--config", config.to_str().unwrap()]);
    assert_eq!(open.code, Some(78), "{}", open.stderr);
    let file = dir.path().join("token");
    std::fs::write(&file, "short").unwrap();
    let args = [
        "--http",
        "0.0.0.0:0",
        "--http-token-file",
        file.to_str().unwrap(),
    ];
    let short = run(&args);
    assert_eq!(short.code, Some(2), "{}", short.stderr);
    assert!(short.stderr.contains("openssl rand"), "{}", short.stderr);
    std::fs::write(&file, TOKEN).unwrap();
    assert_eq!(run(&args).code, Some(0));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(&["--http", &address]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains(&address), "{}", refused.stderr);
}

/// Starts the program as a service manager does, with a socket as its descriptor 3.
fn activated(socket: OwnedFd, args: &[&str]) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec \"$@\"";
    let program = vovcam();
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(program.get_program());
    command.args(["--source", "pattern", "--size", "320x240", "--fps", "30"]);
    command.args(["--headless", "--input", "64"]).args(args);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::from(socket));
    command
}

#[test]
fn a_socket_of_the_service_manager_is_served_without_an_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // a client that has come before the program
    let mut early = TcpStream::connect(address).unwrap();
    early
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    // the socket wins over an address, which then is not bound
    let run = Served::start(&mut activated(listener.into(), &["--http", "127.0.0.1:1"]));
    assert_eq!(run.address, address);
    assert_eq!(Response::read(early).status, 200);
    run.until_ready();
    check_jpeg(&run.get("/snapshot.jpg").body);
    run.stop();
}

#[test]
fn what_the_service_manager_passes_must_be_a_socket_that_may_be_served() {
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for (socket, reason) in [
        (OwnedFd::from(open), "http_token_file"),
        (OwnedFd::from(pair), "expected a TCP socket"),
    ] {
        let output = activated(socket, &[])
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
    }
}

#[test]
fn metrics_are_as_prometheus_wants_them() {
    let run = Served::start(&mut pattern(&[]));
    run.until_ready();
    let mut text = String::new();
    until(|| {
        text = run.get("/metrics").text().to_owned();
        !text.contains("\nvovcam_frames_total 0\n")
    });
    for name in [
        "vovcam_build_info{version=",
        "vovcam_frames_dropped_total{stage=\"replaced\"}",
        "vovcam_frame_age_seconds_bucket{le=\"+Inf\"}",
        "vovcam_stage_duration_seconds_count{stage=\"inference\"}",
        "vovcam_objects{class=\"person\"}",
        "vovcam_camera_up 1",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name}:\n{text}");
    }
    run.stop();
    // the package that has it starts a server of its own when it is installed
    let Some(promtool) = installed("promtool") else {
        return;
    };
    let mut checker = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checker
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = checker.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}\n{text}",
        String::from_utf8_lossy(&said)
    );
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn prometheus_scrapes_with_the_token() {
    // as promtool
    let Some(prometheus) = installed("prometheus") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let run = Served::start(&mut pattern(&[
        "--http-token-file",
        token.to_str().unwrap(),
    ]));
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n  - job_name: vovcam\n    scrape_interval: 1s\n    static_configs:\n      \
         - targets: [\"{}\"]\n    authorization:\n      credentials_file: {}\n",
        run.address,
        token.display()
    );
    std::fs::write(&config, text).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut server = Command::new(prometheus)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _limit = Limit::of(&server);
    let mut answer = String::new();
    until(|| {
        let Ok(mut stream) = TcpStream::connect(address) else {
            return false;
        };
        let query = "GET /api/v1/query?query=vovcam_frames_total HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(query.as_bytes()).unwrap();
        answer.clear();
        let _ = stream.read_to_string(&mut answer);
        answer.contains("\"job\":\"vovcam\"")
    });
    assert!(
        answer.contains("\"__name__\":\"vovcam_frames_total\""),
        "{answer}"
    );
    server.kill().unwrap();
    server.wait().unwrap();
    run.stop();
}

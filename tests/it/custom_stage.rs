//! The example of a sink and an analyzer of one's own runs and prints what they do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

#[test]
fn the_example_of_a_custom_sink_and_analyzer_runs() {
    // cargo builds examples beside the folder of the test programs
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/custom_stage");
    let output = Command::new(program).arg("3").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0], "event crowd",
        "events come before the frame they belong to"
    );
    assert!(lines[1].starts_with("frame 0: "), "{said}");
    assert_eq!((lines.len(), *lines.last().unwrap()), (5, "3 frames"));
}

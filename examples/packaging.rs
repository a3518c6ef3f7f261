//! Writes man pages, shell completions and licence texts beside the program that cargo built:
//! `cargo run --release --example packaging` fills target/release/packaging for the Debian package.

#![allow(clippy::print_stdout, reason = "a tool for packagers")]

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::process::Command;

fn main() -> io::Result<()> {
    let example = std::env::current_exe()?;
    let profile = example
        .ancestors()
        .nth(2)
        .ok_or_else(|| io::Error::other(format!("'{}' has no target folder", example.display())))?;
    let out = profile.join("packaging");
    // pages and completions of earlier versions must not be packaged
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let (man, completions) = (out.join("man"), out.join("completions"));
    std::fs::create_dir_all(&man)?;
    std::fs::create_dir_all(&completions)?;
    let mut command = vovcam::cli::Cli::command();
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "vovcam", &completions)?;
    }
    std::fs::write(out.join("THIRD-PARTY.txt"), third_party()?)?;
    println!("{}", out.display());
    Ok(())
}

/// The licence texts of all crates in the program, each text once. MIT, BSD and others ask that
/// whoever passes a program on passes these on with it.
fn third_party() -> io::Result<String> {
    let features: &[&str] = match cfg!(feature = "cuda") {
        true => &["--features", "cuda"],
        false => &[],
    };
    let tree = cargo(
        &[
            &["tree", "--edges=normal", "--prefix=none", "--format={p}"],
            features,
        ]
        .concat(),
    )?;
    // `name v1.2.3 (proc-macro)`
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap_or(rest)))
        .collect();
    let metadata = cargo(&[&["metadata", "--format-version=1"], features].concat())?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let field = |key: &str| package[key].as_str().unwrap_or_default();
        let own = package["source"].is_null();
        if own || !linked.contains(&(field("name"), field("version"))) {
            continue;
        }
        let folder = Path::new(field("manifest_path")).parent();
        let folder = folder.ok_or_else(|| io::Error::other("a crate without a folder"))?;
        let name = format!(
            "{} {} ({})",
            field("name"),
            field("version"),
            field("license")
        );
        for text in licence_texts(folder, field("repository"))? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut all = "Licences of the Rust crates that vovcam contains.\n".to_owned();
    for (text, names) in texts {
        let rule = "=".repeat(80);
        // writing to a String cannot fail
        let _ = write!(all, "\n{rule}\n{}\n{rule}\n\n{text}\n", names.join("\n"));
    }
    Ok(all)
}

/// What a crate's licence files say; where a choice has MIT in it, that one alone.
fn licence_texts(folder: &Path, repository: &str) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        let kinds = [
            "LICENSE",
            "LICENCE",
            "COPYING",
            "COPYRIGHT",
            "NOTICE",
            "UNLICENSE",
        ];
        if path.is_file() && kinds.iter().any(|kind| name.starts_with(kind)) {
            files.push((name, path));
        }
    }
    if let Some(mit) = files.iter().position(|(name, _)| name.contains("MIT")) {
        files = vec![files.swap_remove(mit)];
    }
    files.sort();
    let texts: io::Result<Vec<String>> = files
        .iter()
        .map(|(_, path)| {
            let text = std::fs::read(path)?;
            Ok(String::from_utf8_lossy(&text)
                .replace("\r\n", "\n")
                .trim()
                .to_owned())
        })
        .collect();
    match texts?.as_slice() {
        [] => Ok(vec![format!(
            "No licence file in the crate; see {repository}"
        )]),
        texts => Ok(texts.to_vec()),
    }
}

fn cargo(arguments: &[&str]) -> io::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--locked")
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!(
            "cargo {}: {said}",
            arguments.join(" ")
        )));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

//! Writes the man pages and shell completions beside the program that cargo built:
//! `cargo run --release --example packaging` fills target/release/packaging for the Debian package.

#![allow(clippy::print_stdout, reason = "a tool for packagers")]

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use std::io;

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
    println!("{}", out.display());
    Ok(())
}

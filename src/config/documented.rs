//! The table of settings in docs/configuration.md is the one that the definitions give.
//! `UPDATE=1 cargo test config::documented` writes it anew.

use super::{Settings, keys};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args as _, Command};
use std::error::Error as _;
use std::fmt::Write as _;

const PAGE: &str = "docs/configuration.md";
const BEGIN: &str = "<!-- settings: written by the test in src/config/documented.rs -->\n";
const END: &str = "<!-- settings end -->\n";

fn options() -> Command {
    Settings::augment_args(Command::new("settings"))
}

/// The table, one row a setting in the order of `--help`.
fn table() -> String {
    let mut table =
        "| key | option | value | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for option in options().get_arguments() {
        let (meaning, default) = meaning_and_default(option);
        let row = [
            format!("`{}`", option.get_id()),
            format!("`{}`", usage(option)),
            values(option),
            default,
            meaning,
        ];
        let row = row.map(|cell| cell.replace('|', "\\|"));
        writeln!(table, "| {} |", row.join(" | ")).unwrap();
    }
    table
}

fn is_flag(option: &Arg) -> bool {
    option.get_num_args().is_some_and(|n| n.max_values() == 0)
}

fn usage(option: &Arg) -> String {
    let name = option.get_long().unwrap();
    match option.get_value_names() {
        Some([value]) if !is_flag(option) => format!("--{name} {value}"),
        _ => format!("--{name}"),
    }
}

/// The help without its default, and the default.
fn meaning_and_default(option: &Arg) -> (String, String) {
    let help = option.get_help().unwrap().to_string();
    match help.split_once(" [default: ") {
        Some((meaning, rest)) => {
            let (default, after) = rest.split_once(']').unwrap();
            assert_eq!(after, "", "'{help}': the default stands last");
            (meaning.to_owned(), default.to_owned())
        }
        None if is_flag(option) => (help, "false".to_owned()),
        None => panic!("'{help}' names no default"),
    }
}

/// The right values, in the words of the error about a wrong one.
fn values(option: &Arg) -> String {
    if is_flag(option) {
        return "`true` or `false`".to_owned();
    }
    let name = format!("--{}", option.get_long().unwrap());
    // a control character is wrong for everything but free text
    let Err(error) = options().try_get_matches_from(["settings", name.as_str(), "\u{1}"]) else {
        return "text".to_owned();
    };
    if let Some(ContextValue::Strings(names)) = error.get(ContextKind::ValidValue) {
        return format!("`{}`", names.join("` `"));
    }
    let reason = error.source().unwrap().to_string();
    let expected = reason.strip_prefix("expected ").unwrap();
    expected.strip_suffix(", got '\u{1}'").unwrap().to_owned()
}

#[test]
fn the_page_has_every_setting_and_nothing_else() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let table = table();
    assert_eq!(table.lines().count(), 2 + keys().len());
    if std::env::var_os("UPDATE").is_some() {
        let page = [before, BEGIN, &table, END, after].concat();
        return std::fs::write(PAGE, page).unwrap();
    }
    assert_eq!(
        written, table,
        "{PAGE}: 'UPDATE=1 cargo test config::documented' writes the table anew"
    );
}

/// Defaults that are values, as `--help` names them, against those in effect.
#[test]
fn the_defaults_in_the_help_are_those_in_effect() {
    let mut text = String::new();
    let mut given = Vec::new();
    for option in options().get_arguments() {
        let (key, default) = (option.get_id().as_str(), meaning_and_default(option).1);
        let is_value = [
            "engine",
            "threads",
            "camera_timeout",
            "no_retry",
            "headless",
            "tiles",
            "tile_overlap",
        ]
        .into_iter()
        .chain([
            "rotate_keep",
            "min_free",
            "fsync_interval",
            "stats_interval",
        ])
        .any(|name| name == key);
        if is_value {
            let quoted = match is_flag(option) {
                true => default,
                false => format!("\"{default}\""),
            };
            writeln!(text, "{key} = {quoted}").unwrap();
            given.push(key.to_owned());
        }
    }
    assert_eq!(given.len(), 11);
    let said: Settings = toml::from_str(&text).unwrap();
    let none = Settings::default();
    assert_ne!(said, none);
    let engine = |settings: &Settings| {
        let options = settings.detector.engine.options();
        (options.engine, options.threads)
    };
    assert_eq!(engine(&said), engine(&none));
    let tiling = |settings: &Settings| settings.detector.tiles.tiling();
    assert_eq!(tiling(&said), tiling(&none));
    assert_eq!(said.log.options(), none.log.options());
    assert_eq!(said.log.stats_interval(), none.log.stats_interval());
    assert_eq!(said.source.camera_timeout(), none.source.camera_timeout());
    assert_eq!(said.source.retry(), none.source.retry());
    assert_eq!(said.output.headless(), none.output.headless());
}

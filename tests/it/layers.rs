//! Imports run one way. The order of levels and the rules are docs/architecture.md's; this reads
//! every path of src/ that begins with `crate::`, or leaves its module through `super::`, outside
//! tests and documentation.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules, lowest level first: each may name modules of lower levels.
const LEVELS: [&[&str]; 9] = [
    &GROUND,
    &["capture", "monitor", "network"],
    &["model"],
    &["engine"],
    &["detect"],
    &["analyse", "eval", "sink"],
    &["pipeline"],
    &["config"],
    &["cli"],
];

/// The types that flow. These may also name one another.
const GROUND: [&str; 12] = [
    "avi",
    "board",
    "clock",
    "detection",
    "escape",
    "event",
    "frame",
    "geometry",
    "message",
    "stats",
    "tensor",
    "units",
];

/// Not part of the house: the crate's roots, and the entry points of the fuzzer.
const ROOTS: [&str; 3] = ["fuzz", "lib", "main"];

/// A forbidden import, whatever the levels allow.
struct Rule {
    of: &'static str,
    never: &'static [&'static str],
    because: &'static str,
}

const RULES: [Rule; 8] = [
    Rule {
        of: "capture",
        never: &["monitor", "sink", "pipeline", "detect"],
        because: "a source gives frames and events; who reads them is not its business",
    },
    Rule {
        of: "model",
        never: &["detect"],
        because: "a model file does not know what runs it",
    },
    Rule {
        of: "detect",
        never: &["sink"],
        because: "the detector does not know its outputs",
    },
    Rule {
        of: "monitor",
        never: &["sink", "engine"],
        because: "figures and meters are read by outputs and engines, not the other way",
    },
    Rule {
        of: "sink",
        never: &["capture"],
        because: "an output hears of a source through frames and events alone",
    },
    Rule {
        of: "engine",
        never: &["detect", "clap", "cli", "config"],
        because: "an engine knows tensors, neither letterboxes nor the command line",
    },
    Rule {
        of: "pipeline",
        never: &["config", "cli"],
        because: "the wiring is handed its parts and knows no settings file",
    },
    Rule {
        of: "network",
        never: &["model", "engine"],
        because: "a network is a description, whatever its weights and whatever runs it",
    },
];

/// Who names whom, and in which file for the first time.
type Arrows = BTreeMap<(String, String), PathBuf>;

#[test]
fn imports_run_from_the_top_down() {
    let (modules, arrows) = house();
    let mut wrong = Vec::new();
    for module in &modules {
        if level(module).is_none() {
            wrong.push(format!("'{module}' has no level: give it one in LEVELS"));
        }
    }
    for ((from, to), file) in &arrows {
        let names = format!("{} names '{to}'", file.display());
        if let Some(rule) = RULES
            .iter()
            .find(|rule| rule.of == from && rule.never.contains(&to.as_str()))
        {
            wrong.push(format!("{names}: {}", rule.because));
            continue;
        }
        let (Some(mine), Some(theirs)) = (level(from), level(to)) else {
            continue;
        };
        if theirs > mine || (theirs == mine && mine > 0) {
            wrong.push(format!(
                "{names}: '{from}' is on level {mine} and '{to}' on level {theirs}, \
                 a module may only name lower levels"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_module_needs_itself_through_others() {
    let (modules, arrows) = house();
    if let Some(circle) = circle(&modules, &arrows) {
        let steps = circle.windows(2).map(|pair| {
            let file = &arrows[&(pair[0].clone(), pair[1].clone())];
            format!("{} → {} ({})", pair[0], pair[1], file.display())
        });
        panic!(
            "a circle of modules:\n{}",
            steps.collect::<Vec<_>>().join("\n")
        );
    }
}

#[test]
fn every_form_of_import_is_seen() {
    let source = r#"
        //! Documentation may link to [`crate::docs`].
        use crate::alpha::One;
        pub(crate) use crate::{beta::Two, gamma, self as root, delta::{Three, four}};
        use super::epsilon::Five;
        use std::fmt;
        const TEXT: &str = "crate::text";
        fn one() -> crate::zeta::Six { format!("{}", crate::eta::seven()) }
        mod inner { use super::mine; use super::super::theta; }
        #[derive(clap::ValueEnum)]
        enum Choice { A }
        #[cfg(not(test))]
        use crate::iota;
        #[cfg(test)]
        use crate::testing::{a, b};
        #[cfg(test)]
        mod tests { use crate::more_testing; }
        #[cfg(all(test, unix))]
        fn helper() { crate::helper_testing::f() }
        macro_rules! call { () => { $crate::kappa::call() } }
    "#;
    let mut seen = Seen::default();
    seen.walk(source.parse().unwrap(), 1);
    let expected = [
        "alpha", "beta", "delta", "epsilon", "eta", "gamma", "iota", "kappa", "theta", "zeta",
    ];
    assert_eq!(seen.modules.iter().collect::<Vec<_>>(), expected);
    assert_eq!(seen.others.iter().collect::<Vec<_>>(), ["clap", "std"]);
    let mut deeper = Seen::default();
    deeper.walk(
        "use super::sibling; use super::super::top;"
            .parse()
            .unwrap(),
        2,
    );
    assert_eq!(deeper.modules.iter().collect::<Vec<_>>(), ["top"]);
    let mut files = Seen::default();
    files.walk("#[cfg(test)] mod tests; mod real;".parse().unwrap(), 1);
    assert_eq!(files.test_files, ["tests"]);
}

#[test]
fn circles_are_found() {
    let arrows = |pairs: &[(&str, &str)]| -> Arrows {
        let arrow =
            |&(from, to): &(&str, &str)| ((from.to_owned(), to.to_owned()), PathBuf::from("x.rs"));
        pairs.iter().map(arrow).collect()
    };
    let modules = BTreeSet::from(["a", "b", "c", "d"].map(str::to_owned));
    let straight = arrows(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]);
    assert_eq!(circle(&modules, &straight), None);
    let round = arrows(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]);
    let found = circle(&modules, &round).unwrap();
    assert_eq!(found, ["b", "c", "d", "b"]);
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// The modules of src/ and the arrows between them, and to other crates that a rule forbids.
fn house() -> (BTreeSet<String>, Arrows) {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    let mut read = BTreeMap::new();
    let mut tests = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut seen = Seen::default();
        let place = place(&file);
        seen.walk(text.parse().unwrap(), place.len());
        let folder = file.with_extension("");
        tests.extend(seen.test_files.iter().map(|name| folder.join(name)));
        read.insert(file, (place, seen.modules, seen.others));
    }
    read.retain(|file, (place, ..)| {
        let test = tests
            .iter()
            .any(|test| file.with_extension("").starts_with(test));
        !test && !ROOTS.contains(&place[0].as_str())
    });
    let modules: BTreeSet<String> = read.values().map(|(place, ..)| place[0].clone()).collect();
    assert!(
        modules.len() > 10,
        "the tests run in another folder: {modules:?}"
    );
    let mut arrows = Arrows::new();
    for (file, (place, inside, others)) in read {
        let from = &place[0];
        let inside = inside
            .into_iter()
            .filter(|to| to != from && modules.contains(to));
        let rules = || RULES.iter().filter(|rule| rule.of == from);
        let others = others.into_iter().filter(|to| {
            !modules.contains(to) && rules().any(|rule| rule.never.contains(&to.as_str()))
        });
        for to in inside.chain(others) {
            let arrow = arrows.entry((from.clone(), to));
            arrow.or_insert_with(|| file.clone());
        }
    }
    (modules, arrows)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A file's module path: `src/engine/cpu/pool.rs` is `[engine, cpu, pool]`.
fn place(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let parts = inside.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| part != "mod").collect()
}

/// The names that paths begin with.
#[derive(Default)]
struct Seen {
    /// Behind `crate::`, or behind as many `super::` as lead to the root.
    modules: BTreeSet<String>,
    /// Of other crates, and of types and modules nearby.
    others: BTreeSet<String>,
    /// Files that are modules of tests.
    test_files: Vec<String>,
}

impl Seen {
    /// `depth` is how many `super::` lead to the root.
    fn walk(&mut self, stream: TokenStream, depth: usize) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_test_attribute(&tokens[at..]) {
                at = self.skip_item(&tokens, at + 2);
                continue;
            }
            let in_path = at >= 2 && is_path(&tokens[at - 2..]);
            let step = match &tokens[at] {
                TokenTree::Group(group) => {
                    let inline = at >= 2 && is_word(&tokens[at - 2], "mod");
                    self.walk(group.stream(), depth + usize::from(inline));
                    1
                }
                TokenTree::Ident(_) if !in_path && is_path(&tokens[at + 1..]) => {
                    self.path(&tokens[at..], depth)
                }
                _ => 1,
            };
            at += step;
        }
    }

    /// Notes a path's first name below the root; returns how many tokens were read.
    fn path(&mut self, tokens: &[TokenTree], depth: usize) -> usize {
        let mut at = 0;
        while tokens.get(at).is_some_and(|token| is_word(token, "super"))
            && is_path(&tokens[at + 1..])
        {
            at += 3;
        }
        let ups = at / 3;
        if is_word(&tokens[0], "crate") {
            at = 3;
        }
        let from_root = at > 0 && (ups == 0 || ups == depth);
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) if at == 0 => drop(self.others.insert(name.to_string())),
            Some(name) if from_root => self.branches(name),
            _ => {}
        }
        // what follows a group of branches was read with it
        at + usize::from(at == 0 || from_root)
    }

    /// Notes a name, or the first name of each branch of `{…}`.
    fn branches(&mut self, token: &TokenTree) {
        match token {
            TokenTree::Ident(name) if name != "self" => drop(self.modules.insert(name.to_string())),
            TokenTree::Group(group) => {
                let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                let firsts = tokens.split(|token| is_punct(token, ','));
                firsts
                    .filter_map(<[TokenTree]>::first)
                    .for_each(|first| self.branches(first));
            }
            _ => {}
        }
    }

    /// Behind the item that begins at `at`.
    fn skip_item(&mut self, tokens: &[TokenTree], mut at: usize) -> usize {
        let is_use = tokens.get(at).is_some_and(|token| is_word(token, "use"));
        if let [first, TokenTree::Ident(name), end, ..] = &tokens[at..]
            && is_word(first, "mod")
            && is_punct(end, ';')
        {
            self.test_files.push(name.to_string());
        }
        while let Some(token) = tokens.get(at) {
            at += 1;
            let is_body =
                matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            if is_punct(token, ';') || (is_body && !is_use) {
                break;
            }
        }
        at
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Whether `::` comes next.
fn is_path(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [first, second, ..] if is_punct(first, ':') && is_punct(second, ':'))
}

/// Whether `#[cfg(test)]`, or another condition that needs a test build, comes next.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else {
        return false;
    };
    let text = attribute.stream().to_string();
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    is_punct(hash, '#')
        && words.first() == Some(&"cfg")
        && words.contains(&"test")
        && !words.contains(&"not")
}

/// A way from a module back to itself, if there is one.
fn circle(modules: &BTreeSet<String>, arrows: &Arrows) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    modules
        .iter()
        .find_map(|module| search(module, arrows, &mut Vec::new(), &mut done))
}

fn search(
    module: &str,
    arrows: &Arrows,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|before| before == module) {
        way.push(module.to_owned());
        return Some(way[start..].to_vec());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module.to_owned());
    let mut next = arrows.keys().filter(|(from, _)| from == module);
    let found = next.find_map(|(_, to)| search(to, arrows, way, done));
    if found.is_none() {
        way.pop();
        done.insert(module.to_owned());
    }
    found
}

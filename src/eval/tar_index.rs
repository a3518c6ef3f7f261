//! Where the files of a tar are, links among them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use tar::EntryType;

/// Position of a file in the tar, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TarEntry {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Links that are followed before a chain of them is given up (as Linux does).
const MOST_LINKS: usize = 40;

/// The files of a tar by their plain path, and what its links lead to.
#[derive(Debug, Default)]
pub(super) struct TarIndex {
    files: HashMap<String, TarEntry>,
    /// Hard links: a path from the tar's root.
    hard: HashMap<String, String>,
    /// Symbolic links to files and folders: a path from the link's folder.
    symbolic: HashMap<String, String>,
}

impl TarIndex {
    /// Reads the headers of a tar, and returns the file as well.
    pub(super) fn read(file: File) -> io::Result<(File, TarIndex)> {
        let mut archive = tar::Archive::new(file);
        let mut index = TarIndex::default();
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let text = |bytes: &[u8]| crate::escape::name(os_str(bytes));
            let Some(name) = plain_path(&text(&entry.path_bytes())) else {
                continue; // it would leave the folder that it is unpacked in
            };
            let link = entry.link_name_bytes().map(|target| text(&target));
            match (entry.header().entry_type(), link) {
                (EntryType::Link, Some(target)) => drop(index.hard.insert(name, target)),
                (EntryType::Symlink, Some(target)) => drop(index.symbolic.insert(name, target)),
                (kind, _) if kind.is_file() || kind == EntryType::Continuous => {
                    let (start, len) = (entry.raw_file_position(), entry.size());
                    index.files.insert(name, TarEntry { start, len });
                }
                _ => {}
            }
        }
        Ok((archive.into_inner(), index))
    }

    /// Paths of all files and links.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let links = self.hard.keys().chain(self.symbolic.keys());
        self.files.keys().chain(links).map(String::as_str)
    }

    /// The file at a plain path, through links as an unpacked tar would have them.
    pub(super) fn find(&self, path: &str) -> Option<TarEntry> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            if let Some(&entry) = self.files.get(&path) {
                return Some(entry);
            }
            path = match self.hard.get(&path) {
                Some(target) => plain_path(target)?,
                None => self.follow(&path)?,
            };
        }
        None
    }

    /// The path with the first symbolic link on it replaced by what it leads to.
    fn follow(&self, path: &str) -> Option<String> {
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        let link = |end: usize| Some((end, self.symbolic.get(&path[..end])?));
        let (end, target) = { ends }.find_map(link)?;
        let folder = path[..end]
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        match target.starts_with('/') {
            true => None, // out of the tar
            false => plain_path(&format!("{folder}/{target}/{}", &path[end..])),
        }
    }
}

/// A relative path without empty parts, `.` and `..`; `None` for one that leaves its folder.
pub(super) fn plain_path(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(unix)]
fn os_str(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_forms_of_a_path_are_the_same_path() {
        for form in [
            "a/b.jpg",
            "./a/b.jpg",
            "a//b.jpg",
            "a/./b.jpg",
            "a/x/../b.jpg",
        ] {
            assert_eq!(plain_path(form).as_deref(), Some("a/b.jpg"), "{form}");
        }
        for outside in ["..", "../b.jpg", "a/../../b.jpg", "", ".", "a/.."] {
            assert_eq!(plain_path(outside), None, "{outside}");
        }
    }

    #[test]
    fn links_lead_where_an_unpacked_tar_has_them() {
        let file = TarEntry { start: 512, len: 7 };
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            { pairs }
                .map(|&(from, to)| (from.to_owned(), to.to_owned()))
                .collect::<HashMap<_, _>>()
        };
        let index = TarIndex {
            files: HashMap::from([("s/photos/1.jpg".to_owned(), file)]),
            hard: pairs(&[("s/photos/2.jpg", "./s/photos/1.jpg")]),
            symbolic: pairs(&[
                ("s/images", "photos"),
                ("s/photos/3.jpg", "../images/2.jpg"),
                ("s/photos/4.jpg", "/etc/passwd"),
                ("s/photos/5.jpg", "../../../1.jpg"),
                ("s/photos/6.jpg", "6.jpg"),
            ]),
        };
        for name in [
            "photos/1.jpg",
            "photos/2.jpg",
            "photos/3.jpg",
            "images/3.jpg",
        ] {
            assert_eq!(index.find(&format!("s/{name}")), Some(file), "{name}");
        }
        for name in [
            "photos",
            "photos/4.jpg",
            "images/5.jpg",
            "images/6.jpg",
            "images/7.jpg",
        ] {
            assert_eq!(index.find(&format!("s/{name}")), None, "{name}");
        }
    }
}

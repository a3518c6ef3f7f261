//! What a path is: the system knows, its name does not.

use super::CaptureError;
use crate::escape;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// What exists at a path; links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Folder,
    File,
    /// A named pipe.
    Pipe,
    /// A video device.
    Camera,
    /// Another device or a socket, in words.
    Other(&'static str),
}

/// Links that are followed before a chain of them is given up.
const MOST_LINKS: usize = 16;

impl Place {
    /// `None` where nothing is, or nothing that this user may see.
    pub(super) fn of(path: &Path) -> Option<Place> {
        let metadata = std::fs::metadata(path).ok()?;
        let kind = metadata.file_type();
        Some(match () {
            () if kind.is_dir() => Place::Folder,
            () if kind.is_file() => Place::File,
            () if kind.is_fifo() => Place::Pipe,
            () if kind.is_char_device() && is_video_device(&metadata) => Place::Camera,
            () if kind.is_char_device() => Place::Other("another device"),
            () if kind.is_block_device() => Place::Other("a disk"),
            () => Place::Other("a socket"),
        })
    }

    /// In words, for messages.
    pub(super) fn what(self) -> &'static str {
        match self {
            Place::Folder => "a folder",
            Place::File => "a file",
            Place::Pipe => "a named pipe",
            Place::Camera => "a camera",
            Place::Other(what) => what,
        }
    }
}

/// Whether a device is Video4Linux's: the kernel gives all of its nodes the major number 81
/// (Documentation/admin-guide/devices.txt).
#[cfg(target_os = "linux")]
fn is_video_device(metadata: &std::fs::Metadata) -> bool {
    use std::os::linux::fs::MetadataExt;
    libc::major(metadata.st_rdev()) == 81
}

#[cfg(not(target_os = "linux"))]
fn is_video_device(_: &std::fs::Metadata) -> bool {
    false
}

/// Whether a path where nothing is may become a device: it, or what its links lead to, is below
/// /dev and not in one of the file systems there.
pub(super) fn is_device_path(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => {
                path = path
                    .parent()
                    .map_or(target.clone(), |dir| dir.join(&target))
            }
            Err(_) => break,
        }
    }
    let path: PathBuf = path.components().collect(); // without `//` and `/./`
    let below = |folder: &str| path.starts_with(folder);
    let file_systems = [
        "/dev/shm",
        "/dev/mqueue",
        "/dev/hugepages",
        "/dev/fd",
        "/dev/pts",
    ];
    below("/dev")
        && !path.components().any(|part| part == Component::ParentDir)
        && !file_systems.into_iter().any(below)
}

/// Whether a file begins as an AVI clip does.
pub(super) fn begins_as_avi(path: &Path) -> bool {
    let head = head(path);
    head.starts_with(b"RIFF") && head[8..].starts_with(b"AVI")
}

/// Whether a file begins as an image of a kind that is read here.
pub(super) fn begins_as_image(path: &Path) -> bool {
    image::guess_format(&head(path)).is_ok_and(|format| format.reading_enabled())
}

/// The first bytes of a regular file; zeros where it has none. No pipe is touched: its bytes could
/// not be read again, and its writer may keep the reader waiting.
fn head(path: &Path) -> [u8; 16] {
    let mut head = [0; 16];
    if Place::of(path) == Some(Place::File)
        && let Ok(mut file) = File::open(path)
    {
        let mut read = 0;
        while let Ok(len @ 1..) = file.read(&mut head[read..]) {
            read += len;
        }
    }
    head
}

/// Refuses what exists and is no camera: no waiting makes it one.
pub(super) fn refuse_what_is_no_camera(path: &Path) -> Result<(), CaptureError> {
    let what = match Place::of(path) {
        None | Some(Place::Camera) => return Ok(()),
        Some(place) => place.what(),
    };
    Err(CaptureError::Camera {
        device: escape::name(path.as_os_str()),
        reason: format!(
            "not a camera but {what}: '--source' reads files and folders, 'vovcam doctor' lists cameras"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{CaptureOptions, SourceSpec, open, test_options};
    use super::*;

    #[test]
    fn what_exists_is_told_by_the_system_and_not_by_its_name() {
        use SourceSpec as S;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(at(name), bytes).unwrap();
            at(name)
        };
        for name in ["frames.avi", "frames.jpg", "http:", "pattern:x"] {
            std::fs::create_dir(at(name)).unwrap();
            assert_eq!(S::parse(at(name)), Ok(S::Images(at(name))));
        }
        for name in [
            "2026-01-02T12:30:00.mp4",
            "x.AVI",
            "rtsp:x.mkv",
            "notes.txt",
        ] {
            let path = file(name, b"bytes");
            assert_eq!(S::parse(&path), Ok(S::Clip(path)));
        }
        let clip = file("no extension", b"RIFF\0\0\0\0AVI LIST");
        assert_eq!(S::parse(&clip), Ok(S::Clip(clip)));
        for (name, bytes) in [
            ("a.jfif", b"anything".as_slice()),
            ("photo", &[0xff, 0xd8, 0xff, 0xe0]),
            ("webp.download", b"RIFF\0\0\0\0WEBPVP8 "),
        ] {
            let path = file(name, bytes);
            assert_eq!(S::parse(&path), Ok(S::Images(path)));
        }
        let mjpeg = file("stream.mjpeg", &[0xff, 0xd8, 0xff, 0xe0]);
        assert_eq!(S::parse(&mjpeg), Ok(S::Clip(mjpeg)));
        for (name, spec) in [
            ("frames", S::Pipe as fn(PathBuf) -> S),
            ("clip.ts", S::Clip),
        ] {
            nix::unistd::mkfifo(&at(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert_eq!(S::parse(at(name)), Ok(spec(at(name))));
        }
        // below /dev, but no devices
        assert_eq!(S::parse("/dev/shm"), Ok(S::Images("/dev/shm".into())));
        let gone = "/dev/shm/no-such-folder";
        assert_eq!(S::parse(gone), Ok(S::Images(gone.into())));
        // a camera's link that leads nowhere while it is unplugged
        let link = at("front door");
        std::os::unix::fs::symlink("/dev/video77", &link).unwrap();
        assert_eq!(S::parse(&link), Ok(S::Camera(link)));
    }

    #[test]
    fn what_is_no_camera_is_refused_at_once_and_not_waited_for() {
        let options = CaptureOptions {
            retry: true,
            ..test_options()
        };
        for (path, what) in [
            ("/dev/null", "device"),
            ("/dev", "folder"),
            ("Cargo.toml", "file"),
        ] {
            let error = open(&SourceSpec::camera(path), &options).err().unwrap();
            let error = error.to_string();
            assert!(
                error.contains("not a camera but a") && error.contains(what),
                "{error}"
            );
        }
    }
}

//! File system operations of the log, as a trait, so that tests can simulate disks that fill up,
//! turn read-only or fail.

use super::patience::Patience;
use crossbeam_channel::Receiver;
use nix::fcntl::OFlag;
use nix::sys::statvfs::statvfs;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file system.
pub(super) trait Storage: Send {
    /// Opens a file for appending, creates it if missing, and locks it for this process (flock(2)).
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;
    /// Whether this path exists; a dangling link does.
    fn exists(&self, path: &Path) -> bool;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Syncs the folder of `path`, so that renames survive a power cut.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Free bytes on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file that is only appended to or truncated.
pub(super) trait StoredFile: Send {
    /// One write(2), which may write fewer bytes. A pipe is waited for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn len(&self) -> io::Result<u64>;
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Syncs the contents to the disk.
    fn sync(&self) -> io::Result<()>;
    /// Whether `path` still refers to this file.
    fn is_at(&self, path: &Path) -> bool;
    /// Whether this is a regular file; a pipe or device has no length, no end and no lock.
    fn is_regular(&self) -> bool;
}

/// The file system of the operating system.
pub(super) struct System {
    /// Disconnects when the run was interrupted: then a pipe without a reader is given up.
    pub(super) interrupted: Receiver<()>,
}

impl Storage for System {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        // a pipe or a serial line: neither opening nor writing may wait for ever. A pipe that is open
        // for reading as well keeps what it holds until a reader comes
        options.custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits());
        let file = options.open(path)?;
        let regular = file.metadata()?.is_file();
        if regular && let Err(TryLockError::WouldBlock) = file.try_lock() {
            // other errors: a file system without locks; the log works without one
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process is writing to it: use a separate file for each process",
            ));
        }
        let patience = (!regular).then(|| Patience::new(&self.interrupted));
        Ok(Box::new(SystemFile { file, patience }))
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(folder(path))?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stats = statvfs(&folder(path))?;
        // both are 32 bits wide on some boards
        #[allow(clippy::useless_conversion, reason = "see above")]
        Ok(u64::from(stats.blocks_available()) * u64::from(stats.fragment_size()))
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

struct SystemFile {
    file: File,
    /// For what is no regular file.
    patience: Option<Patience>,
}

impl StoredFile for SystemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.patience {
            Some(patience) => patience.write(&self.file, bytes),
            None => self.file.write(bytes),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_at(&self, path: &Path) -> bool {
        let same =
            |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (self.file.metadata(), path.metadata()) {
            (Ok(here), Ok(there)) => same(here, there),
            _ => false,
        }
    }

    fn is_regular(&self) -> bool {
        self.patience.is_none()
    }
}

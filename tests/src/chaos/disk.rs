//! A small disk of the run's own (tmpfs), to be filled.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::unistd::Uid;

use crate::process::apart;

/// A folder that may be a disk of its own.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    mount: Option<Mount>,
}

#[derive(Debug)]
struct Mount {
    // Closed first: that is what the shell waits for. Whatever is on the disk then stays, unless it was told otherwise.
    pipe: Option<ChildStdin>,
    shell: Child,
}

// However the test process ends, the mount goes with it.
const SHELL: &str = r#"
trap '' INT HUP TERM
mount -t tmpfs -o size="$2",mode=1777 fencepost-chaos "$1" 2>/dev/null && echo mounted || echo no
read -r word
if [ "$word" = forget ]; then umount -l "$1" 2>/dev/null; exit; fi
rm -f "$1/filler"
cp -a "$1" "$1-kept"
umount -l "$1" 2>/dev/null
rmdir "$1" && mv "$1-kept" "$1"
"#;

const FILLER: &str = "filler";

impl Disk {
    /// A disk of so many bytes in this folder, or just the folder where nothing may be mounted.
    pub fn new(folder: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(folder).expect("a folder can be made");
        Self { folder: folder.to_owned(), mount: Mount::new(folder, bytes) }
    }

    /// Whether it can be filled.
    pub fn can_be_full(&self) -> bool {
        self.mount.is_some()
    }

    /// A file on it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        // To the last byte, whatever others write meanwhile.
        let mut filler = Command::new("sh");
        filler.args(["-c", "cat /dev/zero >\"$1\"", "sh"]).arg(self.file(FILLER)).stderr(Stdio::null());
        let status = apart(&mut filler).status().expect("a shell starts");
        assert!(!status.success(), "the disk was not full in the end");
    }

    /// Makes room again.
    pub fn clear(&self) {
        match std::fs::remove_file(self.file(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("the disk cannot be cleared: {error}"),
            _ => {}
        }
    }

    /// What is on it goes with it. (Else it stays in the folder, however this process ends.)
    pub fn forget(mut self) {
        if let Some(pipe) = self.mount.as_mut().and_then(|mount| mount.pipe.as_mut()) {
            let _ = pipe.write_all(b"forget\n");
        }
    }
}

impl Mount {
    fn new(folder: &Path, bytes: u64) -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(folder).arg(bytes.to_string());
        let mut shell = apart(&mut shell).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let (pipe, said) = (shell.stdin.take(), shell.stdout.take().expect("a pipe"));
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).expect("the shell speaks");
        let mount = Self { pipe, shell };
        (line.trim_end() == "mounted").then_some(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing can be mounted this asks little: the folder just stays.
    #[test]
    fn what_is_on_the_disk_stays_unless_it_is_to_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let kept = |name: &str, end: fn(Disk)| {
            let disk = Disk::new(&folder.path().join(name), 1 << 20);
            std::fs::write(disk.file("ledger"), "a run").unwrap();
            if disk.can_be_full() {
                disk.fill();
            }
            end(disk);
            let there: Vec<_> = std::fs::read_dir(folder.path().join(name)).unwrap().flatten().collect();
            there.iter().map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept("dropped", drop), ["ledger"]);
        if Disk::new(&folder.path().join("probe"), 1 << 20).can_be_full() {
            assert!(kept("forgotten", Disk::forget).is_empty());
        }
    }
}

//! A small disk of the run's own (tmpfs), to be filled.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::unistd::Uid;

/// A folder that may be a disk of its own.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    mount: Option<Mount>,
}

#[derive(Debug)]
struct Mount {
    // Closed first: that is what the shell waits for.
    pipe: Option<ChildStdin>,
    shell: Child,
}

// However the test process ends, the mount goes with it.
const SHELL: &str = r#"
trap '' INT HUP TERM
mount -t tmpfs -o size="$2",mode=1777 fencepost-chaos "$1" 2>/dev/null && echo mounted || echo no
cat >/dev/null
umount -l "$1" 2>/dev/null
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
        let status = filler.status().expect("a shell starts");
        assert!(!status.success(), "the disk was not full in the end");
    }

    /// Makes room again.
    pub fn clear(&self) {
        match std::fs::remove_file(self.file(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("the disk cannot be cleared: {error}"),
            _ => {}
        }
    }

    /// Moves what is on it into another folder: it goes with the mount.
    pub fn keep_in(&self, folder: &Path) {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.folder.join(".")).arg(folder);
        assert!(copy.status().expect("cp starts").success(), "the disk's files cannot be kept");
    }
}

impl Mount {
    fn new(folder: &Path, bytes: u64) -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(folder).arg(bytes.to_string());
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
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

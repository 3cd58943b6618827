//! Where results go: standard output, or a file that appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::path::{Path, PathBuf};

use super::ResultError;

/// A buffered output. [`Output::commit`] makes it final; a file that is dropped before leaves nothing behind, and what
/// was at its path stays as it was.
#[derive(Debug)]
pub struct Output {
    name: String,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stdout(BufWriter<Stdout>),
    /// A device or a pipe: there is nothing to rename.
    Direct(BufWriter<File>),
    File(NewFile),
}

impl Output {
    /// Opens a file, or standard output for `-` (a file of that name is `./-`).
    ///
    /// A file is written beside its path and takes its place on [`Output::commit`]; a symbolic link is followed, and the
    /// permissions of a file that was there are kept. Devices and pipes, such as `/dev/stdout`, are written directly.
    /// A process that is killed can leave a file `.fencepost-*.tmp`, which may be deleted.
    ///
    /// # Errors
    ///
    /// Where the path is a directory, is in none, or may not be written.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ResultError> {
        let path = path.as_ref();
        if path == Path::new("-") {
            return Ok(Self { name: "standard output".into(), target: Target::Stdout(BufWriter::new(io::stdout())) });
        }
        let target = open_target(path).map_err(|error| open_error(path, error))?;
        Ok(Self { name: path.display().to_string(), target })
    }

    /// The output's name as messages show it: the path as given, or `standard output`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes out what is buffered; a file is synced to disk and put in its place.
    ///
    /// # Errors
    ///
    /// Where that fails; then the file's path is as it was before.
    pub fn commit(self) -> Result<(), ResultError> {
        let Self { name, target } = self;
        let done = match target {
            Target::Stdout(mut out) => out.flush(),
            Target::Direct(mut out) => out.flush(),
            Target::File(file) => file.commit(),
        };
        done.map_err(|error| ResultError::write(&name, error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            Target::Stdout(out) => out.write(bytes),
            Target::Direct(out) => out.write(bytes),
            Target::File(file) => file.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout(out) => out.flush(),
            Target::Direct(out) => out.flush(),
            Target::File(file) => file.out.flush(),
        }
    }
}

fn open_error(path: &Path, source: io::Error) -> ResultError {
    let path = path.to_path_buf();
    match source.kind() {
        ErrorKind::IsADirectory => ResultError::Directory { path },
        ErrorKind::NotFound | ErrorKind::NotADirectory => ResultError::NoDirectory { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ResultError::Denied { path, source },
        _ => ResultError::Write { output: path.display().to_string(), source },
    }
}

fn open_target(path: &Path) -> io::Result<Target> {
    let ends_as_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let (path, permissions) = match fs::metadata(path) {
        Ok(about) if about.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(about) => {
            // Renaming would get past a file's own write protection, so this asks for it.
            let file = OpenOptions::new().write(true).open(path)?;
            if !about.is_file() {
                return Ok(Target::Direct(BufWriter::new(file)));
            }
            (fs::canonicalize(path)?, Some(about.permissions()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound && ends_as_directory => {
            return Err(ErrorKind::IsADirectory.into());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (path.to_path_buf(), None),
        Err(error) => return Err(error),
    };
    let file = NewFile::create(path)?;
    if let Some(permissions) = permissions {
        fs::set_permissions(&file.temporary, permissions)?;
    }
    Ok(Target::File(file))
}

/// A file that is not yet at its path.
#[derive(Debug)]
struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    /// Nothing is at the temporary path any more, or something of others.
    in_place: bool,
}

impl NewFile {
    /// How many names are tried: others can only be left over from a killed process of the same id.
    const TRIES: u32 = 100;

    fn create(path: PathBuf) -> io::Result<Self> {
        let process = std::process::id();
        let mut number = 0;
        loop {
            // The name does not hold the file's own, which may be as long as names can be.
            let temporary = path.with_file_name(format!(".fencepost-{process}-{number}.tmp"));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { path, temporary, out: BufWriter::new(file), in_place: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < Self::TRIES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn commit(mut self) -> io::Result<()> {
        self.out.flush()?;
        // Before the rename: a power cut must not leave the name with half the content.
        self.out.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.in_place = true;
        // The rename itself; not every file system can sync a directory, and the file is in its place already.
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.in_place {
            // Nobody is left to be told of a failure.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

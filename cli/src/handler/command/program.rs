//! Finds the program before the first row.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::CommandError;

/// Where programs are looked for when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What stands in the way of running a file.
enum Obstacle {
    Missing,
    NotAFile,
    NotExecutable,
    Unreachable(io::Error),
}

/// Finds a program the way a shell would: a name in `path` (or the usual folders), anything with a slash as it is.
pub(in crate::handler) fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, CommandError> {
    let shown = program.to_string_lossy().into_owned();
    if program.is_empty() {
        return Err(CommandError::NoProgram);
    }
    if program.as_bytes().contains(&0) {
        return Err(CommandError::NulInCommand(shown));
    }
    if program.as_bytes().contains(&b'/') {
        // Absolute, so that a later change of directory does not matter.
        let file = std::path::absolute(program).unwrap_or_else(|_| PathBuf::from(program));
        return match check(&file) {
            Ok(()) => Ok(file),
            Err(Obstacle::Missing) => Err(CommandError::NoSuchFile { program: shown, file }),
            Err(Obstacle::NotAFile) => Err(CommandError::NotAFile { file }),
            Err(Obstacle::NotExecutable) => Err(CommandError::NotExecutable { file }),
            Err(Obstacle::Unreachable(error)) => Err(CommandError::Unreachable { file, error }),
        };
    }

    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut first_obstacle = None;
    for folder in env::split_paths(path) {
        // An empty entry means the current directory.
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let file = folder.join(program);
        let file = std::path::absolute(&file).unwrap_or(file);
        match check(&file) {
            Ok(()) => return Ok(file),
            // A folder of that name is nothing that was meant to be run.
            Err(Obstacle::Missing | Obstacle::NotAFile) => {}
            Err(Obstacle::NotExecutable) => {
                first_obstacle.get_or_insert(CommandError::NotExecutable { file });
            }
            Err(Obstacle::Unreachable(error)) => {
                first_obstacle.get_or_insert(CommandError::Unreachable { file, error });
            }
        }
    }
    Err(first_obstacle
        .unwrap_or_else(|| CommandError::NotInPath { program: shown, path: path.to_string_lossy().into_owned() }))
}

fn check(file: &Path) -> Result<(), Obstacle> {
    let about = fs::metadata(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Obstacle::Missing,
        _ => Obstacle::Unreachable(error),
    })?;
    if !about.is_file() {
        return Err(Obstacle::NotAFile);
    }
    access(file, AccessFlags::X_OK).map_err(|_| Obstacle::NotExecutable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder_with(name: &str, mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn the_first_executable_in_path_is_taken() {
        let plain = folder_with("tool", 0o644);
        let first = folder_with("tool", 0o755);
        let second = folder_with("tool", 0o755);
        let path = env::join_paths([plain.path(), first.path(), second.path()]).unwrap();
        assert_eq!(find(OsStr::new("tool"), Some(&path)).unwrap(), first.path().join("tool"));
    }

    #[test]
    fn what_cannot_run_is_named_with_its_place() {
        let plain = folder_with("tool", 0o644);
        let path = plain.path().as_os_str();
        let found = find(OsStr::new("tool"), Some(path)).unwrap_err();
        assert!(
            matches!(&found, CommandError::NotExecutable { file } if file == &plain.path().join("tool")),
            "{found}"
        );
        let found = find(OsStr::new("other"), Some(path)).unwrap_err();
        assert!(
            found.to_string().contains("`other`") && found.to_string().contains(&*path.to_string_lossy()),
            "{found}"
        );
        let found = find(path, None).unwrap_err();
        assert!(matches!(found, CommandError::NotAFile { .. }), "{found}");
        let found = find(plain.path().join("nope").as_os_str(), None).unwrap_err();
        assert!(matches!(found, CommandError::NoSuchFile { .. }), "{found}");
        assert!(matches!(find(OsStr::new(""), None), Err(CommandError::NoProgram)));
    }
}

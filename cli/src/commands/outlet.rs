//! Where results may go, found out before the first row and without making anything.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::failure::{Exit, Failure};

/// Refuses an output that is a file of the store or the input, or that cannot be written.
pub fn check(output: &Path, store_files: &[PathBuf], input: Option<&Path>) -> Result<(), Failure> {
    let stdout = output == Path::new("-");
    let target = if stdout { Path::new("/dev/stdout") } else { output };
    let refuse = |what: &str| {
        let output = if stdout { "standard output".to_owned() } else { output.display().to_string() };
        Err(Failure::new(Exit::Usage, format!("{output} is {what}: results would overwrite it"))
            .help("name another file with -o"))
    };
    if store_files.iter().any(|file| is_same(target, file)) {
        return refuse("a file of the store");
    }
    if input.is_some_and(|input| is_same(target, input)) {
        return refuse("the input");
    }
    if stdout {
        return Ok(());
    }
    if let Some(plain) = output.to_str().and_then(without_gz) {
        return Err(Failure::new(
            Exit::Usage,
            format!("results are not compressed, and {} says they are", output.display()),
        )
        .help(format!("name it {plain}, and run gzip on it afterwards, or pipe standard output into gzip")));
    }
    writable(output).map_err(|error| {
        Failure::new(Exit::Usage, format!("results cannot be written to {}", output.display()))
            .because(error)
            .help("name another file with -o")
    })
}

/// The name without its `.gz`, if it has one.
fn without_gz(name: &str) -> Option<&str> {
    let stem = name.len().checked_sub(3)?;
    let end = name.get(stem..)?;
    end.eq_ignore_ascii_case(".gz").then(|| &name[..stem])
}

/// Whether both paths lead to one file, be it there or not.
fn is_same(one: &Path, other: &Path) -> bool {
    let file =
        |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|about| (about.dev(), about.ino()));
    match (file(one), file(other)) {
        (Some(one), Some(other)) => one == other,
        _ => resolved(one) == resolved(other),
    }
}

/// The path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(real) = fs::canonicalize(&absolute) {
        return real;
    }
    match (absolute.parent().map(fs::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// A file takes its place by a rename, so its folder must be writable, and so must a file that is there.
fn writable(output: &Path) -> io::Result<()> {
    let ends_as_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    let real = match fs::metadata(output) {
        Ok(about) if about.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(about) => {
            access(output, AccessFlags::W_OK)?;
            if !about.is_file() {
                return Ok(());
            }
            fs::canonicalize(output)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && ends_as_folder => {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => output.to_owned(),
        Err(error) => return Err(error),
    };
    let folder = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

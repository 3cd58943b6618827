//! What a run says while it goes on, printed and kept in its folder: of a run that ends in the midst, whatever ended it, there
//! is a line that says so.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// The file's name in the run's folder.
const NAME: &str = "run.log";

/// The log of a run.
#[derive(Debug)]
pub struct RunLog {
    file: File,
    began: Instant,
    guard: Guard,
}

/// A shell beside the runner that outlives it, however that ends.
#[derive(Debug)]
struct Guard {
    // Closed first: that is what the shell waits for.
    pipe: Option<ChildStdin>,
    shell: Child,
}

// No signal to the runner's group gets here. The file comes first: nobody may read stderr any more.
const SHELL: &str = r#"
trap '' INT HUP TERM PIPE
read -r word
[ "$word" = over ] && exit
line="the runner (process $2) is gone and did not say why: killed, or it panicked. What it left is in $(dirname "$1")"
echo "$line" >>"$1"
echo "$line" >&2
"#;

impl RunLog {
    /// Begins it in this folder.
    pub fn begin(folder: &Path) -> Self {
        let path = folder.join(NAME);
        let file = OpenOptions::new().create(true).append(true).open(&path).expect("a log can be made");
        if let Ok(mut newest) = NEWEST.lock() {
            *newest = Some(path.clone());
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(&path).arg(std::process::id().to_string());
        let shell = shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = shell.spawn().expect("a shell starts");
        let guard = Guard { pipe: shell.stdin.take(), shell };
        Self { file, began: Instant::now(), guard }
    }

    /// Says something. Nobody may listen any more, and the disk may be full: neither ends the run.
    pub fn say(&self, what: &str) {
        let line = format!("{:>7.1} s  {what}", self.began.elapsed().as_secs_f64());
        let _ = writeln!(&self.file, "{line}");
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// The run is over, and has said all.
    pub fn over(mut self) {
        if let Some(pipe) = &mut self.guard.pipe {
            let _ = pipe.write_all(b"over\n");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

/// The newest log of this process.
static NEWEST: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on each panic of this process is told in the newest run's log as well.
pub fn heed_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Before stderr, which may be gone.
        let path = NEWEST.lock().ok().and_then(|newest| newest.clone());
        let file = path.and_then(|path| OpenOptions::new().append(true).open(path).ok());
        if let Some(mut file) = file {
            let thread = std::thread::current();
            let _ = writeln!(file, "thread {} of the runner: {panic}", thread.name().unwrap_or("without a name"));
        }
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(end: impl FnOnce(RunLog)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let log = RunLog::begin(folder.path());
        log.say("a step");
        end(log);
        std::fs::read_to_string(folder.path().join(NAME)).unwrap()
    }

    #[test]
    fn a_run_that_goes_without_a_word_leaves_a_line() {
        let gone = log_of(drop);
        assert!(gone.contains("a step") && gone.contains("is gone and did not say why"), "{gone}");
        let over = log_of(RunLog::over);
        assert!(over.contains("a step") && !over.contains("is gone"), "{over}");
    }
}

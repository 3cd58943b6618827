//! PgBouncer in transaction mode before a server of the tests' own, with fewer connections to it than clients.
//!
//! A small shell beside it waits for the end of a pipe, as in [`crate::postgres`]: however the test process ends, PgBouncer
//! does too.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::Uid;

use crate::ports::free_port;
use crate::postgres::Server;
use crate::process::until;

/// How long it may take to listen.
const STARTING: Duration = Duration::from_secs(30);

const PROGRAMS: [&str; 3] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];

const SHELL: &str = r#"
trap '' INT HUP TERM
"$@" </dev/null >/dev/null 2>&1 &
cat >/dev/null
kill -KILL $!
"#;

/// A pooler, stopped when it is dropped.
#[derive(Debug)]
pub struct Pooler {
    url: String,
    shell: Child,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// Starts one.
    pub fn start(server: &Server) -> Self {
        Self::start_with(server, "")
    }

    /// Starts one with further settings, as in its configuration file.
    pub fn start_with(server: &Server, settings: &str) -> Self {
        let program = PROGRAMS.into_iter().find(|program| Path::new(program).exists());
        let program = program.expect("this test needs PgBouncer: install it (Debian: apt-get install pgbouncer)");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let ini = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\n\
             listen_port={port}\nauth_type=any\npool_mode=transaction\ndefault_pool_size=2\nunix_socket_dir=\n{settings}",
            server.port()
        );
        std::fs::write(&ini, settings).expect("it can be written");
        // Root is refused; the folder is readable for whoever it becomes.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is our own");
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh", program]);
        if Uid::effective().is_root() {
            command.args(["-u", "nobody"]);
        }
        let shell = command.arg("-q").arg(&ini).stdin(Stdio::piped()).spawn().expect("a shell starts");
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?pooler=transaction");
        let pooler = Self { url, shell, _folder: folder };
        until("PgBouncer listens", STARTING, || TcpStream::connect(("127.0.0.1", port)).ok());
        pooler
    }

    /// The server's URL over it, as fencepost needs it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

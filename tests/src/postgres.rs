//! Postgres for tests: a server of the test's own from the machine's binaries, or the one that `FENCEPOST_TEST_POSTGRES_URL`
//! names, and a schema per test.
//!
//! A server lives in a temporary folder, on a free port, under a user that is not root. A small shell beside it waits for
//! the end of a pipe that the test process holds: however that ends, the shell stops the server and removes the folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Uid, User};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::network::Host;
use crate::ports::free_port;
use crate::process::apart;

/// Names a server to test on; each test makes a schema of its own there.
const SERVER: &str = "FENCEPOST_TEST_POSTGRES_URL";

/// Whether a server keeps what it has committed when the machine fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It does, as in earnest.
    Durable,
    /// It does not: quicker, for tests of logic.
    Loose,
}

impl Durability {
    fn settings(self) -> &'static str {
        match self {
            Self::Durable => "",
            Self::Loose => "-c fsync=off -c full_page_writes=off",
        }
    }
}

/// Where a server listens.
fn address(host: Option<&Host>) -> &str {
    host.map_or("127.0.0.1", Host::address)
}

/// A server of a test's own, stopped when it is dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    port: u16,
    host: Option<Host>,
    settings: &'static str,
    folder: PathBuf,
    bin: PathBuf,
    // Closed first: that is what the shell waits for.
    pipe: Option<ChildStdin>,
    shell: Child,
}

// Reports the folder, then "ready" or "failed"; at the end of its input it stops the server and removes the folder.
const SHELL: &str = r#"
folder=$(mktemp -d "${TMPDIR:-/tmp}/fencepost-postgres.XXXXXX") || exit 1
echo "$folder"
remove() { "$1/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1; rm -rf "$folder"; }
trap '' INT HUP TERM
if "$1/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$folder/log" 2>&1 &&
   { echo 'host all locked all scram-sha-256'; cat "$folder/data/pg_hba.conf"; echo 'host all all samenet trust'; } >"$folder/hba" &&
   cp "$folder/hba" "$folder/data/pg_hba.conf" &&
   "$1/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 60 -o "-p $2 -c listen_addresses=$4 -c unix_socket_directories=$folder -c max_connections=200 $3" start >/dev/null 2>&1
then echo ready
else tail -n 20 "$folder/log" | tr '\n' ' '; echo; fi
cat >/dev/null
remove "$1"
"#;

impl Server {
    /// Starts one.
    pub fn start(durability: Durability) -> Self {
        let (settings, bin) = (durability.settings(), binaries());
        // Another program may take the port in between: then the next one.
        let mut said = String::new();
        for _ in 0..5 {
            match Self::start_on(free_port(), None, &bin, settings) {
                Ok(server) => return server,
                Err(why) => said = why,
            }
        }
        panic!("Postgres from {} does not start: {said}", bin.display());
    }

    /// Starts one on a host. Its URL is for everybody else: it is that of its socket.
    pub fn start_in(host: &Host, durability: Durability) -> Self {
        let started = Self::start_on(5432, Some(host.clone()), &binaries(), durability.settings());
        let mut server = started.unwrap_or_else(|said| panic!("Postgres does not start on a host: {said}"));
        server.url = format!("postgres://postgres@localhost:5432/postgres?host={}", server.folder.display());
        server
    }

    /// Its URL for the hosts of its network.
    pub fn url_of_hosts(&self) -> String {
        format!("postgres://postgres@{}:{}/postgres", self.address(), self.port)
    }

    fn address(&self) -> &str {
        address(self.host.as_ref())
    }

    fn start_on(port: u16, host: Option<Host>, bin: &Path, settings: &'static str) -> Result<Self, String> {
        let mut command = as_postgres("sh");
        command.args(["-c", SHELL, "sh"]).arg(bin).arg(port.to_string()).arg(settings).arg(address(host.as_ref()));
        command.current_dir("/");
        if let Some(host) = &host {
            command = host.enter(&command);
        }
        let mut shell =
            apart(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let (pipe, said) = (shell.stdin.take(), shell.stdout.take().expect("a pipe"));
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let mut server = Self { url, port, host, settings, folder: PathBuf::new(), bin: bin.to_owned(), pipe, shell };
        let mut lines = BufReader::new(said).lines();
        server.folder = lines.next().and_then(Result::ok).ok_or("no temporary folder can be made")?.into();
        let said = lines.next().and_then(Result::ok).unwrap_or_default();
        if said == "ready" { Ok(server) } else { Err(said) }
    }

    /// Its URL, of a user who may do anything.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// A program that came with it.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Stops it and starts it again; `mode` is `fast` (sessions are ended) or `immediate` (a crash).
    pub fn restart(&self, mode: &str) {
        self.control(&["-m", mode, "restart"]);
    }

    /// Stops it, as [`Self::restart`] does.
    pub fn stop(&self, mode: &str) {
        self.control(&["-m", mode, "stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        let Self { port, folder, settings, .. } = self;
        let (folder, address) = (folder.display(), self.address());
        let options = format!(
            "-p {port} -c listen_addresses={address} -c unix_socket_directories={folder} -c max_connections=200 {settings}"
        );
        self.control(&["-t", "60", "-o", &options, "start"]);
    }

    /// `pg_ctl`. Panics where that says no.
    fn control(&self, arguments: &[&str]) {
        let mut control = as_postgres(self.bin.join("pg_ctl"));
        control.arg("-D").arg(self.folder.join("data")).args(["-w", "-l"]).arg(self.folder.join("log"));
        control.args(arguments).current_dir("/");
        if let Some(host) = &self.host {
            control = host.enter(&control);
        }
        let status = apart(&mut control).stdout(Stdio::null()).status();
        assert!(status.expect("pg_ctl starts").success(), "pg_ctl {arguments:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

/// A program as a user that Postgres agrees to run under.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(program);
    }
    let known = |name: &&str| User::from_name(name).is_ok_and(|user| user.is_some());
    let user = ["postgres", "nobody"].into_iter().find(known);
    let user = user.expect("Postgres does not run as root, and there is no user postgres or nobody to run it as");
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(program);
    command
}

/// The newest Postgres of this machine.
fn binaries() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| is_whole(bin))
        .collect();
    found.sort();
    if let Some((_, bin)) = found.pop() {
        return bin;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|bin| is_whole(bin));
    in_path.expect(
        "these tests need Postgres 14 or later, and none is installed: install it (Debian: apt-get install postgresql), or \
         name a server with FENCEPOST_TEST_POSTGRES_URL",
    )
}

fn is_whole(bin: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|program| bin.join(program).is_file())
}

/// The URL of the server that the tests of this program share: the one that was named, else this program's [`own`].
pub fn shared() -> &'static str {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    NAMED.get_or_init(|| std::env::var(SERVER).ok()).as_deref().unwrap_or_else(|| own().url())
}

/// This program's own server: started by the first test that needs it, stopped when the program ends.
pub fn own() -> &'static Server {
    static OWN: OnceLock<Server> = OnceLock::new();
    OWN.get_or_init(|| Server::start(*OWN_IS.get().unwrap_or(&Durability::Loose)))
}

/// Has this program's own server wait for the disk: for measurements.
pub fn own_is_durable() {
    OWN_IS.set(Durability::Durable).expect("it is said once, before the first use");
}

static OWN_IS: OnceLock<Durability> = OnceLock::new();

/// A schema of a test's own, dropped with it.
#[derive(Debug)]
pub struct Schema {
    server: String,
    name: String,
}

impl Schema {
    /// A new one on the shared server.
    pub fn new() -> Self {
        Self::on(shared())
    }

    /// A new one on this server.
    pub fn on(server: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { server: server.to_owned(), name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of a store in it.
    pub fn url(&self) -> String {
        self.url_at(&self.server)
    }

    /// The URL of a store in it over something else that leads to the same server.
    pub fn url_at(&self, server: &str) -> String {
        let sign = if server.contains('?') { '&' } else { '?' };
        format!("{server}{sign}schema={}", self.name)
    }

    /// A connection of the test's own that finds the store's tables by their names.
    pub async fn connect(&self) -> PgConnection {
        let mut conn = PgConnection::connect(&self.server).await.expect("the server answers");
        let path = format!("set search_path to \"{}\", pg_temp", self.name);
        sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut conn).await.expect("a search path");
        conn
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The test may be inside a runtime, so this needs a thread.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                // A test's server may be gone by now.
                let Ok(mut conn) = PgConnection::connect(&server).await else { return };
                let sql = format!("set lock_timeout = '5s'; set client_min_messages = warning; drop schema if exists \"{name}\" cascade");
                let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
            });
        });
        let _ = dropping.join();
    }
}

//! Redis for tests: servers of the test's own from the machine's binaries, to be emptied, killed, frozen and starved, or the
//! one that `FENCEPOST_TEST_REDIS_URL` names.
//!
//! A server lives in a temporary folder, on a free port. A small shell beside it starts and kills it on command, and waits
//! for the end of a pipe that the test process holds: however that ends, the shell kills the server and removes the folder.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::Host;
use crate::ports::free_port;
use crate::process::{apart, until};

pub mod certificates;
pub mod cluster;
pub mod sentinel;

/// Names a server to test on, where a test does it no harm: all keys have their store's id.
const SERVER: &str = "FENCEPOST_TEST_REDIS_URL";

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

const NEEDED: &str = "this test needs Redis: install it (Debian: apt-get install redis-server)";

/// What a server finds when it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// What it had when it was last stopped in order (RDB).
    Snapshot,
    /// Every write, whether killed or stopped (AOF, on the disk at each).
    EveryWrite,
}

impl Keeps {
    fn settings(self) -> &'static str {
        match self {
            Self::Nothing => "save \"\"\n",
            // A stop in order saves where there is a save point; this one is never reached by itself.
            Self::Snapshot => "save 86400 1000000000\n",
            Self::EveryWrite => "save \"\"\nappendonly yes\nappendfsync always\n",
        }
    }
}

/// A server of a test's own, gone when it is dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    tls: bool,
    host: Option<Host>,
    folder: PathBuf,
    pid: Option<Pid>,
    // Closed first: that is what the shell waits for.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    shell: Child,
}

// Reports the folder. Then `start` starts the server and tells its pid, `kill` kills it as `kill -9` does, and `wait` waits
// until it has ended by itself. Its child is not waited for before that, so no other process can get its pid.
const SHELL: &str = r#"
folder=$(mktemp -d "${TMPDIR:-/tmp}/fencepost-redis.XXXXXX") && cd "$folder" || exit 1
echo "$folder"
trap '' INT HUP TERM
pid=
while read -r order; do
  case $order in
    start) "$@" </dev/null >>log 2>&1 & pid=$!; echo "$pid" ;;
    kill) kill -KILL "$pid"; wait "$pid" 2>/dev/null; pid=; echo gone ;;
    wait) wait "$pid" 2>/dev/null; pid=; echo gone ;;
  esac
done
[ -z "$pid" ] || { kill -KILL "$pid"; wait "$pid"; } 2>/dev/null
cd / && rm -rf "$folder"
"#;

impl Server {
    /// Starts one.
    pub fn start(keeps: Keeps) -> Self {
        Self::start_with(keeps.settings(), &[], false)
    }

    /// Starts one on a host.
    pub fn start_in(host: &Host, keeps: Keeps) -> Self {
        let mut server = Self::prepare(keeps.settings(), &[], false, Some(host.clone()));
        server.launch();
        assert!(server.comes_up(), "redis-server does not start on a host: {}", server.log());
        server
    }

    /// Starts one that speaks TLS only, under a certificate of its own authority ([`Self::authority`]).
    pub fn start_tls() -> Self {
        Self::start_with(Keeps::Nothing.settings(), &[], true)
    }

    /// Starts one with these settings, as in `redis.conf`, and arguments after the name of that.
    fn start_with(settings: &str, arguments: &[&str], tls: bool) -> Self {
        // Another program may take the port in between: then the next one.
        for _ in 0..5 {
            let mut server = Self::prepare(settings, arguments, tls, None);
            server.launch();
            if server.comes_up() {
                return server;
            }
        }
        panic!("redis-server does not start; {NEEDED}");
    }

    fn prepare(settings: &str, arguments: &[&str], tls: bool, host: Option<Host>) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh", "redis-server", "./redis.conf"]).args(arguments);
        if let Some(host) = &host {
            command = host.enter(&command);
        }
        let mut shell =
            apart(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let (orders, said) = (shell.stdin.take(), BufReader::new(shell.stdout.take().expect("a pipe")));
        let port = free_port();
        let mut server = Self { port, tls, host, folder: PathBuf::new(), pid: None, orders, said, shell };
        server.folder = server.hear().into();
        let listen = if tls {
            certificates::make(&server.folder);
            format!(
                "port 0\ntls-port {port}\ntls-cert-file server.pem\ntls-key-file server.key\ntls-ca-cert-file ca.pem\n\
                 tls-auth-clients no\n"
            )
        } else {
            format!("port {port}\n")
        };
        let common = format!("bind {}\nprotected-mode no\ndaemonize no\n", server.address());
        std::fs::write(server.folder.join("redis.conf"), format!("{common}{listen}{settings}"))
            .expect("it can be written");
        server
    }

    /// The URL of this server.
    pub fn url(&self) -> String {
        // A certificate is of a name.
        if self.tls {
            format!("rediss://localhost:{}", self.port)
        } else {
            format!("redis://{}:{}", self.address(), self.port)
        }
    }

    fn address(&self) -> &str {
        self.host.as_ref().map_or("127.0.0.1", Host::address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with the certificate of the authority that signed this server's.
    pub fn authority(&self) -> PathBuf {
        assert!(self.tls, "this server has no certificate");
        self.folder.join(certificates::AUTHORITY)
    }

    /// Asks it something by `redis-cli`, and gives the answer as that prints it. Panics where there is none.
    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|said| panic!("redis-cli {command:?}: {said}"))
    }

    /// The same; an error is what was said instead.
    pub fn try_ask(&self, command: &[&str]) -> Result<String, String> {
        let mut cli = cli();
        cli.args(["-h", self.address(), "-p", &self.port.to_string()]);
        if self.tls {
            cli.arg("--tls").arg("--cacert").arg(self.authority());
        }
        // An error is an error's exit code.
        cli.arg("-e").args(command);
        if let Some(host) = &self.host {
            cli = host.enter(&cli);
        }
        let output = cli.stdin(Stdio::null()).output().expect(NEEDED);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
        }
    }

    /// A field of `INFO`.
    pub fn info(&self, field: &str) -> String {
        self.info_if_any(field).unwrap_or_else(|said| panic!("redis-cli INFO: {said}"))
    }

    /// The same of a server that may cut clients off at any time: sentinels have a new primary do so.
    pub fn info_if_any(&self, field: &str) -> Result<String, String> {
        let info = self.try_ask(&["INFO", "everything"])?;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.unwrap_or_else(|| panic!("INFO has no {field}")).trim().to_owned())
    }

    /// How many workers have a heartbeat in it.
    pub fn heartbeats(&self) -> usize {
        self.ask(&["KEYS", "fencepost:*:heartbeat:*"]).lines().filter(|key| !key.is_empty()).count()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.order("kill");
        assert_eq!(self.hear(), "gone");
        self.pid = None;
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        // The answer to this is the end of the connection.
        let _ = self.try_ask(&["SHUTDOWN"]);
        self.order("wait");
        assert_eq!(self.hear(), "gone");
        self.pid = None;
    }

    /// Has one that was killed or stopped find nothing when it starts again.
    pub fn forget(&self) {
        assert!(self.pid.is_none(), "it runs");
        for name in ["appendonlydir", "dump.rdb"] {
            let kept = self.folder.join(name);
            // Which of them is there depends on what it keeps.
            let _ = std::fs::remove_dir_all(&kept).or_else(|_| std::fs::remove_file(&kept));
        }
    }

    /// Starts it again on the same port, with what it kept, and waits until it answers.
    pub fn start_again(&mut self) {
        self.launch();
        assert!(self.comes_up(), "Redis does not start again: {}", self.log());
    }

    /// Stands still, with all connections open (SIGSTOP).
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Goes on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Answers nobody for so long, then everybody.
    pub fn lag(&self, by: Duration) {
        self.ask(&["CLIENT", "PAUSE", &by.as_millis().to_string(), "ALL"]);
    }

    /// Out of memory: refuses to write from now on.
    pub fn refuse_writes(&self) {
        self.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]);
    }

    /// Evicts keys when it is short of memory, which it is whenever somebody calls [`Self::crowd`].
    pub fn evict_when_full(&self) {
        let used: u64 = self.info("used_memory").parse().expect("a number");
        let limit = (used + (3 << 20)).to_string();
        self.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", &limit]);
    }

    /// Writes more than [`Self::evict_when_full`] leaves room for.
    pub fn crowd(&self) {
        const FILL: &str =
            "for n = 1, 4000 do redis.call('set', 'crowd:' .. ARGV[1] .. ':' .. n, string.rep('x', 1000)) end";
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
        // A crowd may itself find no room at first.
        let _ = self.try_ask(&["EVAL", FILL, "0", &nth]);
        // The next command pays for it.
        self.ask(&["PING"]);
    }

    fn order(&mut self, word: &str) {
        let orders = self.orders.as_mut().expect("it is open until the end");
        orders.write_all(format!("{word}\n").as_bytes()).expect("the shell listens");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the shell speaks");
        line.trim_end().to_owned()
    }

    fn launch(&mut self) {
        self.order("start");
        self.pid = Some(Pid::from_raw(self.hear().parse().expect("a pid")));
    }

    /// Waits until it answers; false if it ends instead.
    fn comes_up(&self) -> bool {
        until("Redis starts", PATIENCE, || {
            if self.has_ended() {
                return Some(false);
            }
            (self.try_ask(&["PING"]).as_deref() == Ok("PONG")).then_some(true)
        })
    }

    /// Whether the process is over, though the shell has not yet asked for its end.
    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    fn pid(&self) -> Pid {
        self.pid.expect("it was started")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}

/// `redis-cli`, which waits for a frozen server for ever by itself.
fn cli() -> Command {
    let mut cli = Command::new("timeout");
    apart(cli.args(["20", "redis-cli"]).env_remove("REDISCLI_AUTH"));
    cli
}

/// The URL of the server that the tests of this program share: the one that was named, else this program's own.
/// Nobody empties, stops or starves that.
pub fn shared() -> &'static str {
    static SHARED: OnceLock<(Option<Server>, String)> = OnceLock::new();
    let (_, url) = SHARED.get_or_init(|| match std::env::var(SERVER) {
        Ok(url) => (None, url),
        Err(_) => {
            let server = Server::start(Keeps::Nothing);
            let url = server.url();
            (Some(server), url)
        }
    });
    url
}

/// A file in a server's folder.
fn in_folder(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("UTF-8").to_owned()
}

//! The README's walk-through on Postgres and Redis: two workers, one of them killed in mid-row, `status` before and after, and
//! `psql` and `redis-cli` beside it. Printed as it goes along, as a person would see it in a terminal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::{Schema, shared};
use crate::process::{Process, fencepost, until};
use crate::redis::Server;
use views::{Views, agreed};

mod views;

/// The servers that it happens on.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Postgres, as `psql` takes it.
    pub database: String,
    /// The store's schema.
    pub schema: String,
    /// Redis, as `--redis` takes it.
    pub redis: String,
}

impl Servers {
    /// A schema of a test's own, and a Redis.
    pub fn with(schema: &Schema, redis: &Server) -> Self {
        Self { database: shared().to_owned(), schema: schema.name().to_owned(), redis: redis.url() }
    }

    fn store(&self) -> String {
        let sign = if self.database.contains('?') { '&' } else { '?' };
        format!("{}{sign}schema={}", self.database, self.schema)
    }

    /// `fencepost` with both servers in its environment, where passwords belong.
    fn fencepost(&self, arguments: &[&str]) -> Command {
        let mut command = fencepost();
        command.env("FENCEPOST_STORE", self.store()).env("FENCEPOST_REDIS", &self.redis);
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

/// How large it is, and how quick.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of the batch.
    pub rows: u64,
    /// Worker A is killed after so many.
    pub kill_after: u64,
    /// How long a row takes: longer than running rows may be unknown to Redis (about a second).
    pub row: Duration,
    /// `--ttl`.
    pub ttl: Duration,
    /// `--renew`.
    pub renew: Duration,
    /// `--scan`.
    pub scan: Duration,
}

/// When the dead worker was found out.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Since it was killed.
    pub after_death: Duration,
    /// Since its last sign of life, which is what the ttl counts from.
    pub after_last_sign: Duration,
}

/// What R4 grants beyond its bound, on a machine that does other things as well.
const SLACK: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(180);

struct WalkThrough<'s> {
    servers: &'s Servers,
    sizes: Sizes,
    folder: tempfile::TempDir,
    began: Instant,
}

/// Goes through it. Panics where something is not as the README tells it.
pub fn run(servers: &Servers, sizes: Sizes) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    WalkThrough { servers, sizes, folder, began: Instant::now() }.run()
}

impl WalkThrough<'_> {
    fn run(&self) -> Outcome {
        let Sizes { rows, kill_after, ttl, renew, scan, .. } = self.sizes;
        self.step("1. Submit");
        let rows_text = rows.to_string();
        self.show(&["submit", "--rows", &rows_text]);
        let batch = self.only_batch();

        self.step("2. Worker A, in a terminal of its own");
        let mut a = self.worker_elsewhere();
        let before = until("A is in mid-row, and all know it", LIMIT, || {
            let views = agreed(self.servers, &batch)?;
            (views.count("success") >= kill_after && views.held.len() == 1).then_some(views)
        });

        self.step("3. It is killed with kill -9 in mid-row");
        a.kill();
        let (killed, killed_at) = (Instant::now(), now_us());
        let (name_a, row) = before.held.first().cloned().expect("it held one");

        self.step("4. Status");
        let views = self.look(&batch, |views| views.held.contains(&(name_a.clone(), row)));
        assert_eq!(views.count("queued"), rows - before.count("success") - 1, "{}", views.shown);
        let expires_at = self.number(&format!(
            "select expires_at from {}.leases where worker = '{name_a}' and state = 'live'",
            self.servers.schema
        ));
        let last_sign = expires_at - i64::try_from(ttl.as_micros()).expect("a short time");
        assert!(last_sign <= killed_at, "the last sign of life came before the death");

        self.step("4. Status, when its time has run out");
        let views =
            self.look(&batch, |views| views.heartbeats.is_empty() && views.held.contains(&(name_a.clone(), row)));
        let says_dead = format!("{name_a} [DEAD (no heartbeat - rows will be recovered)]\n    Rows: [{row}]");
        assert!(views.shown.contains(&says_dead), "{}", views.shown);

        self.step("5. Worker B, in another terminal");
        print!("$ ");
        let mut b = self.worker(self.servers.fencepost(&[]), "B", &["--until-done"]);
        if renew >= 4 * self.sizes.row {
            // It does what nobody holds while it takes its second look (R2).
            self.look(&batch, |views| views.held.len() == 2);
        }
        let dead = format!("Worker {name_a} is dead");
        until("B recovers A's row", LIMIT, || self.log("B").contains(&dead).then_some(()));
        let (after_death, recovered_at) = (killed.elapsed(), now_us());
        assert!(
            self.log("B").contains(&format!("{dead} (silent past its ttl): 1 rows came back")),
            "{}",
            self.log("B")
        );
        self.step("B has found A dead");
        assert!(b.wait(LIMIT).success(), "{}", self.log("B"));

        self.step("6. Status");
        let after = self.look(&batch, |views| views.count("success") == rows);
        assert!(after.held.is_empty() && after.heartbeats.is_empty(), "{}", after.shown);
        assert!(after.shown.contains("nothing left to recover"), "{}", after.shown);

        for name in ["A", "B"] {
            println!("\n== What worker {name} printed\n{}", self.log(name).trim_end());
        }
        let recovered = format!("Row {row}: START processing");
        let log = self.log("B");
        let line = log.lines().find(|line| line.contains(&recovered)).expect("the row ran again");
        assert!(line.contains(&format!("<-- Recovered row (from {name_a})")), "{line}");

        let after_last_sign = u64::try_from(recovered_at - last_sign).map(Duration::from_micros).expect("later");
        // R4: Redis cannot vouch in the first ttl of its data, and then a renewal interval comes on top.
        assert!(after_last_sign >= ttl, "recovered {after_last_sign:?} after the last sign of life, before its ttl");
        let bound = ttl + scan + renew + SLACK;
        assert!(after_last_sign <= bound, "recovered {after_last_sign:?} after the last sign of life");
        Outcome { after_death, after_last_sign }
    }

    /// Worker A, in a process namespace of its own, as on another machine: of a process in its own, B would see at once that it is
    /// gone. (In a new one B might, too: the kernel gives a namespace the number of one that has ended.)
    fn worker_elsewhere(&self) -> Process {
        let worker = self.servers.fencepost(&[]);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg(worker.get_program()).args(worker.get_args());
        for (variable, value) in worker.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        print!("$ unshare --user --map-root-user --pid --fork --kill-child --mount-proc ");
        self.worker(command, "A", &[])
    }

    /// A worker that is started by this command.
    fn worker(&self, mut command: Command, name: &str, more: &[&str]) -> Process {
        let Sizes { row, ttl, renew, scan, .. } = self.sizes;
        let [row, ttl, renew, scan] = [row, ttl, renew, scan].map(|time| format!("{}ms", time.as_millis()));
        let mut arguments = vec!["worker", "--sleep", &row, "--ttl", &ttl, "--renew", &renew, "--scan", &scan];
        arguments.extend(more);
        println!("fencepost {}", arguments.join(" "));
        command.args(arguments).stdin(Stdio::null()).stderr(File::create(self.log_file(name)).expect("a log"));
        Process::start(command)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).expect("a log")
    }

    /// A step's heading, with the time since the beginning.
    fn step(&self, heading: &str) {
        println!("\n== {heading} (T+{:.1} s)", self.began.elapsed().as_secs_f64());
    }

    /// Runs a command to its end, and prints what it says.
    fn show(&self, arguments: &[&str]) {
        let output = self.servers.fencepost(arguments).output().expect("fencepost starts");
        println!("$ fencepost {}", arguments.join(" "));
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success());
    }

    /// The batch of a store that has one.
    fn only_batch(&self) -> String {
        let output = self.servers.fencepost(&["list", "--json"]).output().expect("fencepost starts");
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(list["batches"].as_array().map(Vec::len), Some(1), "{list}");
        list["batches"][0]["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until `status`, `psql` and `redis-cli` agree on something, and prints how each of them shows it.
    fn look(&self, batch: &str, is_it: impl Fn(&Views) -> bool) -> Views {
        let views = until("all views agree", LIMIT, || agreed(self.servers, batch).filter(|views| is_it(views)));
        println!("(T+{:.1} s)\n{}", self.began.elapsed().as_secs_f64(), views.shown.trim_end());
        views
    }

    fn number(&self, query: &str) -> i64 {
        let said = views::psql(self.servers, query);
        said.trim().parse().unwrap_or_else(|_| panic!("{query}: {said}"))
    }
}

/// The machine's clock, which is Postgres' as well.
fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).expect("some years to go")
}

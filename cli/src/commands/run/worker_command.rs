//! How a run's worker processes are started: their command line, and the names that go through a pipe.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::super::args::RunArgs;
use super::super::config::ONLY_FLAGS;
use super::super::failure::{Exit, Failure};
use super::super::handover::handover;
use crate::handler::guard;
use crate::liveness::redis::url::RedisUrl;
use crate::store::StoreUrl;

/// How to start a worker.
pub struct WorkerCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    names: Arc<[u8]>,
}

impl WorkerCommand {
    /// Workers on this store, with this Redis, for this operation.
    pub fn new(store: &StoreUrl, redis: Option<&RedisUrl>, args: &RunArgs, operation: &str) -> Result<Self, Failure> {
        let program = guard::own_program()
            .map_err(|error| Failure::new(Exit::Unexpected, "cannot find this program's own file").because(error))?;
        Ok(Self { program, arguments: arguments(args, operation), names: handover(store, redis) })
    }

    /// What each worker is to read from its stdin before anything else ([`super::super::handover`]).
    pub fn handover(&self) -> Arc<[u8]> {
        self.names.clone()
    }

    /// Starts one.
    pub fn spawn(&self) -> Result<Child, Failure> {
        Command::new(&self.program)
            .args(&self.arguments)
            // The worker leaves when this end is gone, whatever becomes of this process.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for this process, which tells the workers.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(Exit::Unexpected, "cannot start a worker process").because(error))
    }
}

fn arguments(args: &RunArgs, operation: &str) -> Vec<OsString> {
    let exactly = |duration: Duration| format!("{}s {}ns", duration.as_secs(), duration.subsec_nanos());
    let timing = args.timing.timing();
    // What this run was told it has said in full: its workers are told by nobody else.
    let mut arguments: Vec<OsString> =
        ["worker", ONLY_FLAGS, "--supervised", "--until-done", "--quiet"].map(OsString::from).into();
    let mut option = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    option("--op", operation.to_owned());
    option("--concurrency", args.work.concurrency(&args.handler).to_string());
    option("--horizon", exactly(args.work.horizon));
    option("--max-result-bytes", args.work.max_result_bytes.to_string());
    option("--ttl", exactly(timing.ttl));
    option("--renew", exactly(timing.renew));
    option("--scan", exactly(timing.scan));
    option("--grace", exactly(args.timing.grace));
    option("--patience", exactly(args.timing.patience));
    if args.handler.stream {
        option("--stream-children", args.handler.stream_children.to_string());
        option("--window", args.handler.window.to_string());
        option("--max-line-bytes", args.handler.max_line_bytes.to_string());
        arguments.push("--stream".into());
    }
    match args.handler.sleep {
        Some(each) => arguments.extend(["--sleep".into(), exactly(each).into()]),
        None => {
            arguments.push("--".into());
            arguments.extend(args.handler.command.iter().map(Into::into));
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::args::{Cli, Command};
    use super::*;

    #[test]
    fn a_worker_is_told_exactly_what_the_run_was() {
        let run = "fencepost run rows.csv --ttl 2s1ns --renew 1ms1ns --grace 3ns --horizon 1us500ns --sleep 1ns";
        let Command::Run(run) = Cli::try_parse_from(run.split(' ')).expect("it parses").command else { panic!("run") };
        let line = arguments(&run, "run:x");
        let line = [OsString::from("fencepost")].into_iter().chain(line);
        let Command::Worker(worker) = Cli::try_parse_from(line).expect("it parses").command else { panic!("worker") };
        assert_eq!(worker.timing.timing(), run.timing.timing());
        assert_eq!((worker.timing.grace, worker.timing.patience), (run.timing.grace, run.timing.patience));
        assert_eq!((worker.work.horizon, worker.handler.sleep), (run.work.horizon, run.handler.sleep));
        assert_eq!(worker.op, ["run:x"]);
    }
}

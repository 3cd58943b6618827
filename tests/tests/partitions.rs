//! Real partitions at a size that fits a test run. Where the machine has no network namespaces these tests are not run: they
//! count as ignored, and the reason is told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use fencepost_tests::network::{Host, Network};
use fencepost_tests::process::{Process, program, until};

use fencepost_tests::scenario::partitions::{Partition, Sizes, run};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::Signal;

/// How long a packet takes at most.
const LIMIT: Duration = Duration::from_secs(20);

fn holds(partitions: &[Partition]) -> Result<(), Failed> {
    let sizes = Sizes {
        ttl: Duration::from_millis(1_200),
        concurrency: 4,
        row: Duration::from_millis(150),
        slack: Duration::from_secs(1),
    };
    let outcomes = run(sizes, partitions).map_err(|why| format!("not run: {why}"))?;
    println!("{outcomes:?}");
    Ok(())
}

/// Whatever a partition test shows, it shows of links that were really cut.
fn links_are_cut_each_way_by_itself() -> Result<(), Failed> {
    let network = Network::new(2).map_err(|why| format!("not run: {why}"))?;
    network.cut(0, 1);
    let listener = Listener::on(network.host(1));
    send(network.host(0), network.host(1));
    until("a cut takes what goes this way", LIMIT, || (network.packets_lost() == 1).then_some(()));
    let other = Listener::on(network.host(0));
    send(network.host(1), network.host(0));
    other.hears();
    assert_eq!(network.packets_lost(), 1, "what goes the other way passes");
    network.heal();
    send(network.host(0), network.host(1));
    listener.hears();
    network.unplug(1);
    // It knows of no way there any more.
    until("nobody reaches a host whose cable is out", LIMIT, || (!arrives_at_all(&network)).then_some(()));
    network.heal();
    until("and again when it is in", LIMIT, || arrives_at_all(&network).then_some(()));
    Ok(())
}

/// Waits for one datagram.
struct Listener(std::process::Child);

impl Listener {
    fn on(host: &Host) -> Self {
        const LISTEN: &str = "import socket, sys\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.bind((sys.argv[1], 4000))\n\
            print('listens', flush=True)\n\
            s.recv(100)";
        let mut listener = Command::new("setpriv");
        listener.args(["--pdeathsig", "KILL", "python3", "-c", LISTEN, host.address()]);
        let mut child = host.enter(&listener).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it speaks");
        assert_eq!(line, "listens\n");
        Self(child)
    }

    fn hears(mut self) {
        let status = until("a datagram arrives", LIMIT, || self.0.try_wait().expect("it can be waited for"));
        assert!(status.success());
    }
}

fn send(from: &Host, to: &Host) {
    const SEND: &str =
        "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 4000))";
    let mut sender = Command::new("python3");
    sender.args(["-c", SEND, to.address()]);
    assert!(from.enter(&sender).status().expect("python3 starts").success());
}

/// Whether the second host can be connected to: nothing listens there, so that it says no, if it is reached.
fn arrives_at_all(network: &Network) -> bool {
    const CONNECT: &str = "import socket, sys\n\
        s = socket.socket()\n\
        s.settimeout(1)\n\
        sys.exit(0 if s.connect_ex((sys.argv[1], 4000)) == 111 else 1)";
    let mut connect = Command::new("python3");
    connect.args(["-c", CONNECT, network.host(1).address()]);
    network.host(0).enter(&connect).status().expect("python3 starts").success()
}

fn what_is_told_to_stop_leaves_nothing_behind() -> Result<(), Failed> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Postgres runs as somebody else.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let mut scenario = Command::new(program("scenario"));
    scenario.arg("partitions").env("TMPDIR", folder.path());
    let (mut scenario, output) = Process::start_heard(scenario);
    let (mut said, mut output) = (String::new(), BufReader::new(output));
    while !said.contains("Sizes") {
        assert_ne!(output.read_line(&mut said).expect("text"), 0, "it ended: {said}");
    }
    scenario.signal(Signal::SIGINT);
    output.read_to_string(&mut said).expect("text");
    assert_eq!(scenario.wait(LIMIT).code(), Some(3), "{said}");
    assert!(said.contains("partitions: []") && said.contains("stopped: Some"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let hosts = Command::new("ip").args(["netns", "list"]).output().expect("ip starts").stdout;
    let own = format!("fencepost-{}-", scenario.pid());
    assert!(!String::from_utf8_lossy(&hosts).contains(&own), "{own}");
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let not_here = Network::new(2).err();
    if let Some(why) = &not_here {
        eprintln!("partitions between hosts: not run: {why}");
    }
    let trial =
        |name: &str, test: fn() -> Result<(), Failed>| Trial::test(name, test).with_ignored_flag(not_here.is_some());
    let trials = vec![
        trial("what_is_told_to_stop_leaves_nothing_behind", what_is_told_to_stop_leaves_nothing_behind),
        trial("a_link_is_cut_one_way_or_both", links_are_cut_each_way_by_itself),
        trial("a_worker_cut_off_from_postgres_is_declared_dead_and_rejoins", || {
            holds(&[Partition::Store, Partition::StoreAnswers])
        }),
        trial("nobody_is_declared_dead_who_is_cut_off_from_redis_or_while_postgres_is_from_all", || {
            holds(&[Partition::Redis, Partition::Postgres])
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

//! Hosts for tests: network namespaces of their own, joined by a bridge, whose links can be cut, each way by itself.
//!
//! A small shell makes them, and waits for the end of a pipe that the test process holds: however that ends, the shell removes
//! them. Names have the process' id, so that several programs can have networks at once.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

use crate::process::apart;

/// Why there can be no network here.
#[derive(Debug, Clone)]
pub struct NotHere(String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host: what is started in it has this address and no other.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    address: String,
    /// Its end of the link at the switch.
    port: String,
}

impl Host {
    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same command on this host; it keeps its process id. What is to become of its input and output is said afterwards.
    pub fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("ip");
        entered.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            entered.current_dir(folder);
        }
        entered
    }
}

/// Some hosts and the switch between them. They are gone when it is dropped; what runs in them is to end before.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    switch: String,
    // Closed first: that is what the shell waits for.
    pipe: Option<ChildStdin>,
    shell: Child,
}

// "ready", or what is wrong; at the end of its input it removes what it made. A link goes with its ends.
const SHELL: &str = r#"
trap '' INT HUP TERM
switch=$1; shift
made=
make() { ip netns add "$1" && made="$made $1"; }
all() {
  make "$switch" && ip -n "$switch" link add switch type bridge && ip -n "$switch" link set switch up || return
  while [ $# != 0 ]; do
    namespace=$1 address=$2 port=$3
    shift 3
    make "$namespace" &&
      ip -n "$switch" link add "$port" type veth peer name eth0 netns "$namespace" &&
      ip -n "$switch" link set "$port" master switch up &&
      ip -n "$namespace" addr add "$address/24" dev eth0 &&
      ip -n "$namespace" link set eth0 up && ip -n "$namespace" link set lo up || return
  done
  ip netns exec "$namespace" iptables -w 5 -A INPUT -s 192.0.2.1 -j DROP &&
    ip netns exec "$namespace" iptables -w 5 -F INPUT
}
errors=$(mktemp) || exit 1
if all "$@" 2>"$errors"; then echo ready; else tr '\n' ' ' <"$errors"; echo; fi
rm -f "$errors"
cat >/dev/null
for namespace in $made; do ip netns del "$namespace"; done
"#;

impl Network {
    /// A network of so many hosts.
    pub fn new(hosts: u8) -> Result<Self, NotHere> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !Uid::effective().is_root() {
            return Err(NotHere("it takes root to make network namespaces".to_owned()));
        }
        for tool in ["ip", "iptables"] {
            let found = apart(Command::new(tool).arg("-V")).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                return Err(NotHere(format!("there is no {tool} (Debian: apt-get install iproute2 iptables)")));
            }
        }
        let name = format!("fencepost-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = |nth| Host {
            namespace: format!("{name}-{nth}"),
            address: format!("10.111.0.{nth}"),
            port: format!("port{nth}"),
        };
        let hosts: Vec<Host> = (1..=hosts).map(host).collect();
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh", &name]);
        shell.args(hosts.iter().flat_map(|host| [&host.namespace, &host.address, &host.port]));
        let mut shell = apart(&mut shell).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
        let (pipe, said) = (shell.stdin.take(), shell.stdout.take().expect("a pipe"));
        let network = Self { hosts, switch: name, pipe, shell };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).expect("the shell speaks");
        match line.trim_end() {
            "ready" => Ok(network),
            said => Err(NotHere(format!("no network namespaces can be joined here: {said}"))),
        }
    }

    /// The host of this number.
    pub fn host(&self, nth: usize) -> &Host {
        &self.hosts[nth]
    }

    /// From now on what one host sends to another is lost, without a word. What the other sends is not.
    pub fn cut(&self, from: usize, to: usize) {
        self.iptables(to, &["-A", "INPUT", "-s", &self.hosts[from].address, "-j", "DROP"]);
    }

    /// Pulls a host's cable out: it reaches nobody, and sees that.
    pub fn unplug(&self, host: usize) {
        self.link(host, "down");
    }

    /// How many packets the cuts have taken that there are.
    pub fn packets_lost(&self) -> u64 {
        let of_host = |host| {
            let told = self.iptables(host, &["-L", "INPUT", "-v", "-x", "-n"]);
            let counts = told.lines().skip(2).filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            counts.sum::<u64>()
        };
        (0..self.hosts.len()).map(of_host).sum()
    }

    /// All links are whole again.
    pub fn heal(&self) {
        for host in 0..self.hosts.len() {
            self.link(host, "up");
            self.iptables(host, &["-F", "INPUT"]);
        }
    }

    fn iptables(&self, host: usize, arguments: &[&str]) -> String {
        let mut iptables = Command::new("iptables");
        iptables.args(["-w", "5"]).args(arguments);
        done(self.hosts[host].enter(&iptables))
    }

    fn link(&self, host: usize, state: &str) {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.switch, "link", "set", &self.hosts[host].port, state]);
        done(ip);
    }
}

/// Runs a command that has to succeed, and gives what it said.
fn done(mut command: Command) -> String {
    let Output { status, stdout, stderr } = apart(&mut command).stdin(Stdio::null()).output().expect("it starts");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}

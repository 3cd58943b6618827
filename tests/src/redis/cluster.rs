//! A Redis Cluster of three primaries.

use super::{Keeps, PATIENCE, Server, cli};
use crate::process::until;

/// Its nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts it, and waits until every node has the whole of it.
    pub fn start() -> Self {
        let settings = format!("{}cluster-enabled yes\ncluster-config-file nodes.conf\n", Keeps::Nothing.settings());
        let nodes: Vec<Server> = (0..3).map(|_| Server::start_with(&settings, &[], false)).collect();
        let mut create = cli();
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())));
        let output = create.args(["--cluster-replicas", "0", "--cluster-yes"]).output().expect(super::NEEDED);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            until("the cluster is whole", PATIENCE, || {
                let info = node.ask(&["CLUSTER", "INFO"]);
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
            });
        }
        cluster
    }

    /// Its URL, as fencepost takes it.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}?cluster=true", hosts.join(","))
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The nodes that have keys of fencepost.
    pub fn with_keys(&self) -> usize {
        self.nodes.iter().filter(|node| !node.ask(&["--raw", "KEYS", "fencepost:*"]).is_empty()).count()
    }
}

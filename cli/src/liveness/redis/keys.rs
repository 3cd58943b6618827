//! The names of keys, and of running rows inside them.

use std::collections::BTreeMap;

use fencepost_core::{BatchId, LeaseId, LineRange, LineSet};

/// Names the keys of one store. They share a hash tag, so that Redis Cluster keeps them on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the store with this id.
    pub fn new(store_id: &str) -> Self {
        Self { prefix: format!("fencepost:{{{store_id}}}:") }
    }

    /// What all of them begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Since when these data are here.
    pub fn since(&self) -> String {
        format!("{}since", self.prefix)
    }

    /// A worker's heartbeat.
    pub fn heartbeat(&self, lease: LeaseId) -> String {
        format!("{}heartbeat:{lease}", self.prefix)
    }

    /// The rows that a worker runs.
    pub fn running(&self, lease: LeaseId) -> String {
        format!("{}running:{lease}", self.prefix)
    }
}

/// Running rows as members of a set: `BATCH:LINE` or `BATCH:FIRST-LAST`.
pub fn members(running: &[(BatchId, LineSet)]) -> impl Iterator<Item = String> {
    running.iter().flat_map(|(batch, lines)| {
        lines.ranges().iter().map(move |range| match range {
            LineRange { first, last } if first == last => format!("{batch}:{first}"),
            LineRange { first, last } => format!("{batch}:{first}-{last}"),
        })
    })
}

/// The rows that such members mean; what is none of ours is left out.
pub fn rows(members: &[String]) -> Vec<(BatchId, LineSet)> {
    let mut found: BTreeMap<BatchId, Vec<LineRange>> = BTreeMap::new();
    for (batch, range) in members.iter().filter_map(|member| row(member)) {
        found.entry(batch).or_default().push(range);
    }
    found.into_iter().map(|(batch, ranges)| (batch, LineSet::covering(ranges))).collect()
}

fn row(member: &str) -> Option<(BatchId, LineRange)> {
    let (batch, lines) = member.split_once(':')?;
    let (first, last) = lines.split_once('-').unwrap_or((lines, lines));
    let range = LineRange { first: first.parse().ok()?, last: last.parse().ok()? };
    (range.first <= range.last && range.last < u64::MAX).then_some((batch.parse().ok()?, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_store_share_a_hash_tag() {
        let keys = Keys::new("k3v9");
        let lease = LeaseId::from_random(7);
        assert_eq!(keys.since(), "fencepost:{k3v9}:since");
        assert_eq!(keys.heartbeat(lease), format!("fencepost:{{k3v9}}:heartbeat:{lease}"));
        assert_eq!(keys.running(lease), format!("fencepost:{{k3v9}}:running:{lease}"));
    }

    #[test]
    fn running_rows_are_read_as_they_were_written() {
        let [one, two] = [1, 2].map(BatchId::from_random);
        let lines = LineSet::from_ranges([(3, 3), (5, 9)]).expect("apart");
        let running = vec![(one, lines), (two, LineSet::single(1))];
        let mut members: Vec<String> = members(&running).collect();
        assert_eq!(members, [format!("{one}:3"), format!("{one}:5-9"), format!("{two}:1")]);
        // A set has no order, and others may have written into it.
        members.reverse();
        let last = u64::MAX;
        members.extend(
            ["x", "a:b", &format!("{one}:9-7"), &format!("{one}:-"), &format!("{one}:0-{last}")].map(str::to_owned),
        );
        assert_eq!(rows(&members), running);
        let overlapping = [format!("{one}:1-4"), format!("{one}:2"), format!("{one}:5")];
        assert_eq!(rows(&overlapping), [(one, LineSet::range(1, 5))]);
    }
}

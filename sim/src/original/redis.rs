//! The keys of the original in Redis (`rediskeys.go`): the registry, a heartbeat and a set of rows per instance.

use std::collections::{BTreeMap, BTreeSet};

use super::{ProcessAt, RowAt};

/// One command. All but the reads may be sent again after an unknown end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RedisOp {
    /// `registerWorker`: SADD.
    Register,
    /// `refreshHeartbeat`: SET with a TTL.
    Beat,
    /// EXPIRE of the own set, by `trackRowProcessing` and `runHeartbeat`.
    KeepSet,
    /// `trackRowProcessing`: SADD.
    Track(RowAt),
    /// `untrackRowProcessing`: SREM.
    Untrack(RowAt),
    /// `recoverAbandonedRows`: SMEMBERS of the registry.
    Registry,
    /// `recoverAbandonedRows`: EXISTS of a heartbeat.
    Beats(ProcessAt),
    /// `recoverRowsFromDeadInstance`: SMEMBERS of a set of rows.
    Set(ProcessAt),
    /// `recoverRowsFromDeadInstance`: DEL.
    DeleteSet(ProcessAt),
    /// `recoverAbandonedRows`: SREM from the registry.
    StrikeOff(ProcessAt),
    /// `Shutdown`: DEL.
    EndBeat,
    /// `deregisterWorker`: SREM.
    Deregister,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RedisReply {
    Done,
    Members(Vec<usize>),
    Exists(bool),
}

/// A set whose time ran out.
pub(super) struct Expired {
    pub(super) of: ProcessAt,
    pub(super) at_us: u64,
    pub(super) rows: BTreeSet<RowAt>,
}

#[derive(Debug, Default)]
pub(super) struct Redis {
    registry: BTreeSet<ProcessAt>,
    /// When each ends.
    heartbeats: BTreeMap<ProcessAt, u64>,
    /// With the time at which each ends: none until its first EXPIRE.
    sets: BTreeMap<ProcessAt, (BTreeSet<RowAt>, Option<u64>)>,
}

impl Redis {
    /// Removes what has run out, and tells which sets did.
    pub(super) fn expire(&mut self, now: u64) -> Vec<Expired> {
        self.heartbeats.retain(|_, ends| *ends > now);
        let over = |(_, (_, ends)): &(&ProcessAt, &(_, Option<u64>))| ends.is_some_and(|ends| ends <= now);
        let over: Vec<ProcessAt> = self.sets.iter().filter(over).map(|(of, _)| *of).collect();
        let take = |of: ProcessAt| {
            let (rows, ends) = self.sets.remove(&of)?;
            Some(Expired { of, at_us: ends?, rows })
        };
        over.into_iter().filter_map(take).collect()
    }

    /// `ttl_us` is that of a heartbeat; a set has three of it.
    pub(super) fn apply(&mut self, now: u64, by: ProcessAt, op: &RedisOp, ttl_us: u64) -> RedisReply {
        match op {
            RedisOp::Register => {
                self.registry.insert(by);
            }
            RedisOp::Beat => {
                self.heartbeats.insert(by, now + ttl_us);
            }
            RedisOp::KeepSet => {
                if let Some((_, ends)) = self.sets.get_mut(&by) {
                    *ends = Some(now + 3 * ttl_us);
                }
            }
            RedisOp::Track(row) => {
                self.sets.entry(by).or_default().0.insert(*row);
            }
            RedisOp::Untrack(row) => self.untrack(by, *row),
            RedisOp::Registry => return RedisReply::Members(self.registry.iter().copied().collect()),
            RedisOp::Beats(of) => return RedisReply::Exists(self.beats(*of)),
            RedisOp::Set(of) => return RedisReply::Members(self.rows_of(*of).collect()),
            RedisOp::DeleteSet(of) => {
                self.sets.remove(of);
            }
            RedisOp::StrikeOff(of) => {
                self.registry.remove(of);
            }
            RedisOp::EndBeat => {
                self.heartbeats.remove(&by);
            }
            RedisOp::Deregister => {
                self.registry.remove(&by);
            }
        }
        RedisReply::Done
    }

    /// An empty set is no key.
    fn untrack(&mut self, by: ProcessAt, row: RowAt) {
        if let Some((rows, _)) = self.sets.get_mut(&by) {
            rows.remove(&row);
            if rows.is_empty() {
                self.sets.remove(&by);
            }
        }
    }

    pub(super) fn flush(&mut self) {
        *self = Self::default();
    }

    pub(super) fn beats(&self, of: ProcessAt) -> bool {
        self.heartbeats.contains_key(&of)
    }

    pub(super) fn rows_of(&self, of: ProcessAt) -> impl Iterator<Item = RowAt> {
        self.sets.get(&of).into_iter().flat_map(|(rows, _)| rows.iter().copied())
    }

    /// Whose sets have a row.
    pub(super) fn trackers(&self, row: RowAt) -> impl Iterator<Item = ProcessAt> {
        self.sets.iter().filter(move |(_, (rows, _))| rows.contains(&row)).map(|(of, _)| *of)
    }

    pub(super) fn is_registered(&self, of: ProcessAt) -> bool {
        self.registry.contains(&of)
    }
}

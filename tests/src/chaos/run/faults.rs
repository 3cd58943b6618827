//! Faults: how each is begun, and how what was begun is ended.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::fleet::now_us;
use super::super::health::{begin_spell, end_spell};
use super::super::kind::Kind;
use super::super::link::{Link, Way};
use super::super::servers::Store;
use super::Run;

/// A fault as the plan has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    pub(super) kind: Kind,
    pub(super) worker: usize,
    pub(super) lasts: Duration,
    pub(super) pick: u64,
}

/// So much later a fault is tried again that found nothing to strike: soon enough for a command that runs for a moment.
const STRIKE_AGAIN: Duration = Duration::from_millis(50);

/// What is done later to end a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Resume(u32),
    TwinLeaves(usize),
    HealStore(usize),
    HealRedis(usize),
    HealOperators,
    RedisBack { empty: bool },
    Thaw,
    ClearDisk,
}

impl Run {
    pub(super) fn restarted(&mut self, restarting: JoinHandle<()>) {
        if restarting.join().is_err() {
            self.complaints.push("runner: Postgres does not restart".to_owned());
        }
    }

    pub(super) fn fault(&mut self, strike: Strike) {
        let Strike { kind, worker, lasts, pick } = strike;
        if self.begin(kind, worker, lasts, pick).is_some() {
            *self.counts.entry(kind).or_default() += 1;
        } else {
            self.again.push((Instant::now() + STRIKE_AGAIN, strike));
        }
    }

    /// Begins a fault; none where there is nothing to do it to.
    fn begin(&mut self, kind: Kind, worker: usize, lasts: Duration, pick: u64) -> Option<()> {
        let until = Instant::now() + lasts;
        match kind {
            Kind::Kill | Kind::KillAndSameName => {
                let at = self.fleet.fit(worker)?;
                self.fleet.kill(at, lasts, kind == Kind::KillAndSameName);
            }
            Kind::Term | Kind::TermAndSameName => {
                let at = self.fleet.fit(worker)?;
                self.fleet.term(at, lasts, kind == Kind::TermAndSameName);
            }
            Kind::Pause => {
                let at = self.fleet.fit(worker)?;
                let pid = self.fleet.pause(at)?;
                self.due.push((until, End::Resume(pid)));
            }
            Kind::Twin => {
                let at = self.fleet.fit_for_twin(worker)?;
                self.fleet.start_twin(at, &self.servers).then_some(())?;
                self.due.push((until, End::TwinLeaves(at)));
            }
            Kind::StoreDelay | Kind::StoreStall | Kind::StoreHalfOpen | Kind::StoreReset | Kind::StoreCut => {
                let link = struck(&self.fleet.places[worker].store, kind)?;
                begin_spell(&mut self.cut[worker], now_us());
                disturb(link, kind, pick);
                if kind == Kind::StoreReset {
                    self.fair(worker);
                } else {
                    self.due.push((until, End::HealStore(worker)));
                }
            }
            Kind::RedisDelay | Kind::RedisStall | Kind::RedisHalfOpen | Kind::RedisReset | Kind::RedisCut => {
                let link = struck(&self.fleet.places[worker].redis, kind)?;
                disturb(link, kind, pick);
                if kind != Kind::RedisReset {
                    self.due.push((until, End::HealRedis(worker)));
                }
            }
            Kind::OperatorsDelay
            | Kind::OperatorsStall
            | Kind::OperatorsHalfOpen
            | Kind::OperatorsReset
            | Kind::OperatorsCut => {
                disturb(struck(&self.way, kind)?, kind, pick);
                if kind != Kind::OperatorsReset {
                    self.due.push((until, End::HealOperators));
                }
            }
            Kind::PostgresFast | Kind::PostgresCrash => {
                let Store::Schema(_, server) = &self.servers.store else { return None };
                if self.restarting.is_some() {
                    return None;
                }
                let (server, mode) =
                    (Arc::clone(server), if kind == Kind::PostgresFast { "fast" } else { "immediate" });
                self.restarting = Some(std::thread::spawn(move || server.restart(mode)));
            }
            Kind::RedisFlush | Kind::RedisKill | Kind::RedisKillAndEmpty | Kind::RedisFreeze => {
                if self.redis_is_away || self.redis_is_frozen {
                    return None;
                }
                let redis = self.servers.redis.as_mut()?;
                match kind {
                    Kind::RedisFlush => drop(redis.try_ask(&["FLUSHALL"]).ok()?),
                    Kind::RedisFreeze => {
                        redis.freeze();
                        self.redis_is_frozen = true;
                        self.due.push((until, End::Thaw));
                    }
                    _ => {
                        redis.kill();
                        self.redis_is_away = true;
                        self.due.push((until, End::RedisBack { empty: kind == Kind::RedisKillAndEmpty }));
                    }
                }
            }
            Kind::DiskFull => {
                begin_spell(&mut self.full, now_us());
                self.disk.fill();
                self.due.push((until, End::ClearDisk));
            }
            Kind::ClockForward | Kind::ClockBack => {
                let by = i64::try_from(pick % 7_200).expect("few") + 2;
                self.fleet.step_clock(if kind == Kind::ClockForward { by } else { -by });
            }
            Kind::Hold | Kind::Append | Kind::Abort | Kind::RetryFailed | Kind::RetryLine | Kind::Purge => return None,
        }
        Some(())
    }

    pub(super) fn end(&mut self, end: End) {
        match end {
            End::Resume(pid) => self.fleet.resume(pid),
            End::TwinLeaves(at) => self.fleet.end_twin(at),
            End::HealStore(at) => {
                self.fleet.places[at].store.iter().for_each(Link::heal);
                self.fair(at);
            }
            End::HealOperators => self.way.iter().for_each(Link::heal),
            End::HealRedis(at) => self.fleet.places[at].redis.iter().for_each(Link::heal),
            End::RedisBack { empty } => {
                if let Some(redis) = &mut self.servers.redis {
                    if empty {
                        redis.forget();
                    }
                    redis.start_again();
                }
                self.redis_is_away = false;
            }
            End::Thaw => {
                self.servers.redis.iter().for_each(crate::redis::Server::thaw);
                self.redis_is_frozen = false;
            }
            End::ClearDisk => {
                self.disk.clear();
                end_spell(&mut self.full, now_us());
            }
        }
    }

    /// A place's way to the store is fair once its worker has noticed that the connections that it has are none any more.
    fn fair(&mut self, at: usize) {
        let notices = i64::try_from(self.drawn.ttl().as_micros()).expect("short");
        if !self.due.iter().any(|(_, end)| *end == End::HealStore(at)) {
            end_spell(&mut self.cut[at], now_us() + notices);
        }
    }

    /// Ends everything that was begun.
    pub(super) fn heal(&mut self) {
        for (_, end) in std::mem::take(&mut self.due) {
            self.end(end);
        }
        if let Some(restarting) = self.restarting.take() {
            self.restarted(restarting);
        }
        self.fleet.heal();
        for at in 0..self.cut.len() {
            self.fair(at);
        }
    }
}

/// The way that a fault strikes, if there is anything on it to strike: without a connection nothing is reset, nor cut. (Operators
/// connect anew with each command.)
fn struck(way: &Option<Link>, kind: Kind) -> Option<&Link> {
    let needs_connection =
        matches!(kind, Kind::StoreReset | Kind::StoreCut | Kind::RedisReset | Kind::RedisCut | Kind::OperatorsReset);
    way.as_ref().filter(|link| !needs_connection || link.connections() > 0)
}

fn disturb(link: &Link, kind: Kind, pick: u64) {
    match kind {
        Kind::StoreDelay | Kind::RedisDelay | Kind::OperatorsDelay => {
            link.change(|weather| weather.delay = Duration::from_millis(50 + pick % 750));
        }
        Kind::StoreStall | Kind::RedisStall | Kind::OperatorsStall => link.change(|weather| weather.stalled = true),
        Kind::StoreHalfOpen | Kind::RedisHalfOpen | Kind::OperatorsHalfOpen => {
            let way = if pick.is_multiple_of(2) { Way::There } else { Way::Back };
            link.change(|weather| weather.loses = Some(way));
        }
        Kind::StoreReset | Kind::RedisReset | Kind::OperatorsReset => link.reset(),
        _ => link.cut_after(1 + pick % 8),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::process::until;

    #[test]
    fn without_a_connection_nothing_is_reset_or_cut() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let way = Some(Link::start(runtime.handle(), server.local_addr().unwrap().port()));
        let needs = [Kind::StoreReset, Kind::StoreCut, Kind::RedisReset, Kind::RedisCut, Kind::OperatorsReset];
        let others = [Kind::StoreDelay, Kind::StoreStall, Kind::RedisHalfOpen, Kind::OperatorsCut];
        let strikes = |kinds: &[Kind]| kinds.iter().filter(|kind| struck(&way, **kind).is_some()).count();
        assert_eq!((strikes(&needs), strikes(&others)), (0, others.len()));
        let port = way.as_ref().unwrap().port();
        // Something went through: it is joined, for as long as both ends are open.
        let (mut client, served) = runtime.block_on(async {
            let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut served, _) = server.accept().await.unwrap();
            served.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            (client, served)
        });
        assert_eq!((strikes(&needs), strikes(&others)), (needs.len(), others.len()));
        runtime.block_on(client.shutdown()).unwrap();
        drop((client, served));
        let way = way.as_ref().unwrap();
        until("the connection is over", Duration::from_secs(20), || (way.connections() == 0).then_some(()));
        assert!(struck(&None, Kind::StoreDelay).is_none(), "a store in a file has no way to it");
    }
}

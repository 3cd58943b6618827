//! What is cut off from what.

use clap::ValueEnum;

use super::field::{Field, POSTGRES, REDIS, WORKERS};

/// A partition. The first worker is the one that it is about, where it is about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Partition {
    /// A worker and Postgres do not hear each other.
    Store,
    /// What a worker asks of Postgres is lost.
    StoreRequests,
    /// What Postgres answers a worker is lost.
    StoreAnswers,
    /// A worker and Redis do not hear each other.
    Redis,
    /// What a worker asks of Redis is lost.
    RedisRequests,
    /// What Redis answers a worker is lost.
    RedisAnswers,
    /// A worker's cable is out.
    Worker,
    /// A worker and Postgres do not hear each other for moments.
    Flicker,
    /// All workers but one are cut off from Postgres.
    AllButOne,
    /// A worker is cut off from Postgres, and another one dies.
    StoreAndDeath,
    /// Redis' cable is out, and a worker dies.
    NoRedisAndDeath,
    /// Postgres' cable is out.
    Postgres,
    /// Nothing that is sent to Postgres arrives.
    PostgresHears,
    /// Nothing that Postgres sends arrives.
    PostgresSpeaks,
    /// Redis' cable is out.
    RedisItself,
}

/// The worker that dies where one does.
const MORTAL: usize = 1;

impl Partition {
    /// Begins it.
    pub fn begin(self, field: &mut Field) {
        let both = |field: &Field, one, other| {
            field.network.cut(one, other);
            field.network.cut(other, one);
        };
        match self {
            Self::Store | Self::Flicker => both(field, 0, POSTGRES),
            Self::StoreRequests => field.network.cut(0, POSTGRES),
            Self::StoreAnswers => field.network.cut(POSTGRES, 0),
            Self::Redis => both(field, 0, REDIS),
            Self::RedisRequests => field.network.cut(0, REDIS),
            Self::RedisAnswers => field.network.cut(REDIS, 0),
            Self::Worker => field.network.unplug(0),
            Self::AllButOne => (1..WORKERS).for_each(|worker| both(field, worker, POSTGRES)),
            Self::StoreAndDeath => {
                both(field, 0, POSTGRES);
                field.kill(MORTAL);
            }
            Self::NoRedisAndDeath => {
                field.network.unplug(REDIS);
                field.kill(MORTAL);
            }
            Self::Postgres => field.network.unplug(POSTGRES),
            Self::PostgresHears => (0..WORKERS).for_each(|worker| field.network.cut(worker, POSTGRES)),
            Self::PostgresSpeaks => (0..WORKERS).for_each(|worker| field.network.cut(POSTGRES, worker)),
            Self::RedisItself => field.network.unplug(REDIS),
        }
    }

    /// Whether it is a cable that is out: what is not sent at all is not lost on its way.
    pub fn unplugs(self) -> bool {
        matches!(self, Self::Worker | Self::NoRedisAndDeath | Self::Postgres | Self::RedisItself)
    }

    /// Those whose leases are declared dead, and no others: who cannot reach the store while it answers others, and who is dead.
    pub fn ends_leases_of(self) -> &'static [usize] {
        match self {
            Self::Store | Self::StoreRequests | Self::StoreAnswers | Self::Worker => &[0],
            Self::AllButOne => &[1, 2],
            Self::StoreAndDeath => &[0, MORTAL],
            Self::NoRedisAndDeath => &[MORTAL],
            _ => &[],
        }
    }

    /// The worker that dies.
    pub fn kills(self) -> Option<usize> {
        matches!(self, Self::StoreAndDeath | Self::NoRedisAndDeath).then_some(MORTAL)
    }

    /// Whose outcomes are certain not to arrive meanwhile.
    pub fn silences(self) -> &'static [usize] {
        match self {
            Self::Store | Self::StoreRequests | Self::Worker | Self::StoreAndDeath => &[0],
            Self::AllButOne => &[1, 2],
            Self::Postgres | Self::PostgresHears => &[0, 1, 2],
            _ => &[],
        }
    }

    /// Who goes on meanwhile.
    pub fn leaves_at_work(self) -> &'static [usize] {
        match self {
            Self::Store | Self::StoreRequests | Self::StoreAnswers | Self::Worker => &[1, 2],
            Self::AllButOne => &[0],
            Self::StoreAndDeath => &[2],
            Self::NoRedisAndDeath => &[0, 2],
            Self::Postgres | Self::PostgresHears | Self::PostgresSpeaks => &[],
            Self::Redis | Self::RedisRequests | Self::RedisAnswers | Self::RedisItself | Self::Flicker => &[0, 1, 2],
        }
    }

    /// Whether no row runs again for it.
    pub fn repeats_nothing(self) -> bool {
        matches!(self, Self::Redis | Self::RedisRequests | Self::RedisAnswers | Self::RedisItself)
    }

    /// Whether Redis can say something about the dead.
    pub fn redis_vouches(self) -> bool {
        !matches!(self, Self::NoRedisAndDeath)
    }
}

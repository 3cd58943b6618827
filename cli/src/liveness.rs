//! The second witness on a real server: `docs/redis.md`.

pub mod redis;

pub use self::redis::RedisLiveness;

//! The benchmark: the product's own figures, and those of others on the same server.

pub mod peers;

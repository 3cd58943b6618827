//! Random numbers as values: a stream that is fully given by its seed.

/// SplitMix64 (Steele, Lea, Flood 2014). Not for secrets: it spreads backoffs, and ids where the seed is unique.
#[derive(Debug, Clone, Hash)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

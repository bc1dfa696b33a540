//! Dice that fall the same way for the same seed, whatever the order in which they are thrown.

/// What a throw decides; each kind has dice of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throw {
    /// Ids of events and conversations.
    Identity,
    /// How many events a conversation has.
    Length,
    /// How often a body is sent.
    Duplicate,
    /// How the receiver treats a request.
    Fault,
    /// How long it takes to answer.
    Latency,
}

/// The dice of one seed.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// The dice of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// 64 bits for throw number `n` of this kind.
    pub fn bits(self, throw: Throw, n: u64) -> u64 {
        mix(mix(mix(self.seed).wrapping_add(throw as u64)).wrapping_add(n))
    }

    /// A number below `sides`.
    pub fn throw(self, throw: Throw, n: u64, sides: u64) -> u64 {
        self.bits(throw, n) % sides.max(1)
    }

    /// An id in the form of a random UUID (version 4).
    pub fn uuid(self, n: u64) -> String {
        let bits =
            u128::from(self.bits(Throw::Identity, 2 * n)) << 64 | u128::from(self.bits(Throw::Identity, 2 * n + 1));
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }
}

/// One step of SplitMix64 (Steele et al., OOPSLA 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_values() {
        let (a, b) = (Dice::new(7), Dice::new(8));
        assert_eq!(a.uuid(3), Dice::new(7).uuid(3));
        assert_ne!(a.uuid(3), b.uuid(3));
        assert_ne!(a.uuid(3), a.uuid(4));
        assert_eq!(a.uuid(3).as_bytes()[14], b'4');
        let sixes = (0..6000).filter(|&n| a.throw(Throw::Fault, n, 6) == 5).count();
        assert!((850..1150).contains(&sixes), "{sixes}");
    }
}

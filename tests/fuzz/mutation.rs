//! Inputs near those we know: the same ones in the same order, always.

/// Where it begins. Any number will do.
const SEED: u64 = 4;

/// Bytes at the edge of something: of a length, a sign, a text, a varint.
const EDGES: [u8; 12] = [
    0, 1, 0x0a, 0x20, 0x2f, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff,
];

/// Endless mutations of some inputs.
pub(crate) struct Mutations {
    inputs: Vec<Vec<u8>>,
    random: fastrand::Rng,
}

impl Mutations {
    /// Of these, of which there is one at least.
    pub(crate) fn of(inputs: Vec<Vec<u8>>) -> Mutations {
        Mutations {
            inputs,
            random: fastrand::Rng::with_seed(SEED),
        }
    }

    fn some_input(&mut self) -> Vec<u8> {
        let n = self.random.usize(..self.inputs.len());
        self.inputs[n].clone()
    }

    /// Two places in it, in order.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let (one, other) = (
            self.random.usize(..=bytes.len()),
            self.random.usize(..=bytes.len()),
        );
        one.min(other)..one.max(other)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.random.usize(..=bytes.len());
        match self.random.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.random.u8(..8),
            1 if at < bytes.len() => bytes[at] = EDGES[self.random.usize(..EDGES.len())],
            2 => bytes.insert(at, EDGES[self.random.usize(..EDGES.len())]),
            3 => bytes.insert(at, self.random.u8(..)),
            4 => {
                let range = self.range(bytes);
                bytes.drain(range);
            }
            5 => {
                let range = self.range(bytes);
                let twice = bytes[range].to_vec();
                bytes.splice(at..at, twice);
            }
            _ => {
                let other = self.some_input();
                let range = self.range(&other);
                bytes.splice(at..at, other[range].iter().copied());
            }
        }
    }
}

impl Iterator for Mutations {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.some_input();
        for _ in 0..self.random.usize(1..=4) {
            self.mutate(&mut bytes);
        }
        Some(bytes)
    }
}

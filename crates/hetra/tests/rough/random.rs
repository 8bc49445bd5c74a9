//! Draws that a seed fixes.

/// A counter-based generator (splitmix64).
pub(crate) struct Random(hetra_device::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(hetra_device::Random::new(seed))
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.index(bound)
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn one<T: Clone>(&mut self, from: &[T]) -> T {
        self.pick(from).clone()
    }
}

//! Assigns values to memory slots: two values share a slot when their lives do not overlap.

/// When a value is alive and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Bytes.
    pub bytes: usize,
    /// The step that defines it.
    pub first: usize,
    /// The last step that reads it.
    pub last: usize,
}

/// Greedy by size: the largest values first, each into the slot that wastes least; a slot is as
/// large as the first (largest) value in it. Returns slot of each value and bytes of each slot.
///
/// This is the "greedy by size" of Pisarchyk and Lee, Efficient Memory Management for Deep Neural
/// Net Inference (2020), for shared objects; their measurements show it near the lower bound.
pub fn assign(lives: &[Lifetime]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lives[index].bytes), lives[index].first));
    let mut slots: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut of = vec![0; lives.len()];
    for index in order {
        let life = lives[index];
        let free = |held: &[usize]| {
            held.iter()
                .all(|&other| lives[other].last < life.first || life.last < lives[other].first)
        };
        // Slots come in falling size, so the last one that is free wastes least.
        let slot = slots.iter().rposition(|(_, held)| free(held)).unwrap_or_else(|| {
            slots.push((life.bytes, Vec::new()));
            slots.len() - 1
        });
        slots[slot].1.push(index);
        of[index] = slot;
    }
    (of, slots.into_iter().map(|(bytes, _)| bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let lives: Vec<_> = (0..10).map(|step| life(100, step, step + 1)).collect();
        let (_, slots) = assign(&lives);
        assert_eq!(slots, [100, 100]);
    }

    #[test]
    fn values_alive_together_never_share() {
        let lives = [life(8, 0, 4), life(64, 1, 2), life(32, 2, 3), life(16, 3, 5), life(64, 4, 5)];
        let (of, _) = assign(&lives);
        for (i, a) in lives.iter().enumerate() {
            for (j, b) in lives.iter().enumerate().skip(i + 1) {
                let apart = a.last < b.first || b.last < a.first;
                assert!(apart || of[i] != of[j], "{i} and {j} overlap");
            }
        }
    }
}

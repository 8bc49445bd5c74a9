//! Which points are measured next.

use std::collections::BTreeSet;

use hetra_device::{Random, Space};

use super::surrogate::Surrogate;
use super::{Known, Options, ranked};

/// Spaces of at most this size are ranked whole; of larger ones about as many points.
const POOL: usize = 1024;

/// How many of the fastest points have offspring.
const PARENTS: usize = 16;

/// How often the candidates that the model holds for the best have offspring of their own.
const GENERATIONS: usize = 3;

/// The first points: spread out; where other tasks have taught the model something, half of them
/// those that it holds for the fastest.
pub(super) fn first(
    space: &Space,
    surrogate: &Surrogate,
    known: &Known,
    batch: usize,
    random: &mut Random,
) -> Vec<u64> {
    let count = (2 * batch).min(usize::try_from(space.size()).unwrap_or(usize::MAX));
    let mut points = space.spread(count, random);
    if surrogate.knows() {
        let guessed = best(space, surrogate, known, count.div_ceil(2), random);
        points.splice(..guessed.len().min(points.len()), guessed);
    }
    points
}

/// The points of the next batch: distinct, not known, at least one unless all are known.
pub(super) fn next(
    space: &Space,
    surrogate: &Surrogate,
    known: &Known,
    options: &Options,
    random: &mut Random,
) -> Vec<u64> {
    let batch = options.batch.max(1);
    // Twice as many as are needed: some of them may be drawn by chance first.
    let guessed = best(space, surrogate, known, 2 * batch, random);
    let leader = ranked(known).first().map_or(space.default_point(), |&(point, _)| point);
    let mut near = space.neighbours(leader);
    random.shuffle(&mut near);
    let mut points: Vec<u64> = Vec::new();
    for guess in guessed {
        if points.len() == batch {
            break;
        }
        let fresh = |point: &u64| !known.contains_key(point) && !points.contains(point);
        let chance = random.chance(options.chance);
        let other = if !chance {
            None
        } else if random.chance(0.5) {
            near.iter().copied().find(fresh)
        } else {
            Some(space.random(random)).filter(fresh)
        };
        points.extend(other.or(Some(guess).filter(fresh)));
    }
    points
}

/// The `count` points that the model holds for the fastest of those that are not known; fewer only
/// where fewer were thought of, and none only where all are known.
fn best(
    space: &Space,
    surrogate: &Surrogate,
    known: &Known,
    count: usize,
    random: &mut Random,
) -> Vec<u64> {
    let mut scored = if space.size() <= POOL as u64 {
        let mut all = score(space, surrogate, 0..space.size());
        sort(&mut all, random);
        all
    } else {
        bred(space, surrogate, known, random)
    };
    scored.retain(|(point, _)| !known.contains_key(point));
    if scored.is_empty() {
        // Nearly everything is known, and chance did not find the rest: look for it.
        let start = space.random(random);
        let after = (start..space.size()).chain(0..start);
        return after.filter(|point| !known.contains_key(point)).take(count).collect();
    }
    scored.into_iter().take(count).map(|(point, _)| point).collect()
}

/// Points with what the model says of them.
fn score(
    space: &Space,
    surrogate: &Surrogate,
    points: impl Iterator<Item = u64>,
) -> Vec<(u64, f64)> {
    points.map(|point| (point, surrogate.predict(space, point))).collect()
}

/// Best first, equal ones in random order: trees say the same of many.
fn sort(scored: &mut [(u64, f64)], random: &mut Random) {
    random.shuffle(scored);
    scored.sort_by(|a, b| a.1.total_cmp(&b.1));
}

/// Candidates of a large space: random points and offspring of the fastest, then for a few
/// generations offspring of those that the model holds for the best.
fn bred(
    space: &Space,
    surrogate: &Surrogate,
    known: &Known,
    random: &mut Random,
) -> Vec<(u64, f64)> {
    let mut parents: Vec<u64> =
        ranked(known).into_iter().take(PARENTS).map(|(point, _)| point).collect();
    let share = POOL / (GENERATIONS + 1);
    let mut seen: BTreeSet<u64> = (0..share).map(|_| space.random(random)).collect();
    let mut scored = score(space, surrogate, seen.iter().copied());
    for _ in 0..GENERATIONS {
        sort(&mut scored, random);
        // The fastest measured stay parents beside the best guesses.
        parents.truncate(PARENTS);
        parents.extend(scored.iter().take(PARENTS).map(|(point, _)| *point));
        let mut children = Vec::new();
        for _ in 0..share {
            let parent = parents[random.index(parents.len())];
            let other = parents[random.index(parents.len())];
            let child = space.crossover(parent, other, random);
            let changed = child == parent || random.chance(0.5);
            let child = if changed { space.mutate(child, random) } else { child };
            children.extend(seen.insert(child).then_some(child));
        }
        scored.extend(score(space, surrogate, children.into_iter()));
    }
    sort(&mut scored, random);
    scored
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_device::{Knob, Task};

    fn space(counts: [i64; 4]) -> Space {
        let knob = |(index, count)| {
            let choices: Vec<i64> = (0..count).collect();
            Knob::new(format!("k{index}"), choices, 0).unwrap()
        };
        Space::new(counts.into_iter().enumerate().map(knob).collect()).unwrap()
    }

    #[test]
    fn the_last_points_of_a_large_space_are_found() {
        let space = space([11, 6, 5, 4]);
        assert!(space.size() > POOL as u64);
        let surrogate = Surrogate::new(&space, &Task::new("t", Vec::new()).unwrap(), &[], 1);
        let mut known: Known = (3..space.size()).map(|point| (point, Some(1.0))).collect();
        let mut random = Random::new(1);
        while (known.len() as u64) < space.size() {
            let points = next(&space, &surrogate, &known, &Options::default(), &mut random);
            assert!(!points.is_empty());
            for point in points {
                assert!(known.insert(point, None).is_none(), "{point} was known");
            }
        }
        assert!(next(&space, &surrogate, &known, &Options::default(), &mut random).is_empty());
    }

    #[test]
    fn a_batch_is_full_and_distinct() {
        for space in [space([3, 3, 2, 1]), space([9, 9, 9, 9])] {
            let surrogate = Surrogate::new(&space, &Task::new("t", Vec::new()).unwrap(), &[], 1);
            let known: Known = [(0, Some(1.0)), (1, None)].into();
            let options = Options { batch: 8, chance: 0.5, ..Options::default() };
            for seed in 0..50 {
                let points = next(&space, &surrogate, &known, &options, &mut Random::new(seed));
                let distinct: BTreeSet<u64> = points.iter().copied().collect();
                assert_eq!((points.len(), distinct.len()), (8, 8));
                assert!(points.iter().all(|point| !known.contains_key(point)));
            }
        }
    }
}

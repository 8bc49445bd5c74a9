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
    let guessed = best(space, surrogate, known, batch, random);
    let leader = ranked(known).first().map_or(space.default_point(), |&(point, _)| point);
    let mut near = space.neighbours(leader);
    random.shuffle(&mut near);
    let mut points: Vec<u64> = Vec::new();
    for guess in guessed {
        let fresh = |point: &u64| !known.contains_key(point) && !points.contains(point);
        let chance = random.chance(options.chance);
        let other = if !chance {
            None
        } else if random.chance(0.5) {
            near.iter().copied().find(fresh)
        } else {
            Some(space.random(random)).filter(fresh)
        };
        // A guess that was drawn by chance before is not lost: the next ones follow.
        points.extend(other.or(Some(guess).filter(fresh)));
    }
    points
}

/// The `count` points that the model holds for the fastest of those that are not known.
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

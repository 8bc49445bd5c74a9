//! How the axes of a reshaped tensor come from those before: `[n, c, h, w]` as `[n, 2, c/2, h, w]`
//! splits one axis and keeps the others. What is stored in another order of axes can then often be
//! reshaped as it lies.

use std::ops::Range;

use hetra_ir::Dim;

/// Axes before that become axes after, together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    before: Range<usize>,
    after: Range<usize>,
}

/// The axes of both shapes in groups of equal products, as small as they can be told.
fn groups(before: &[Dim], after: &[Dim]) -> Vec<Group> {
    let (mut i, mut j) = (0, 0);
    let mut groups = Vec::new();
    while i < before.len() || j < after.len() {
        let (i0, j0) = (i, j);
        match (before.get(i), after.get(j)) {
            (Some(a), Some(b)) if a == b && *a != Dim::Unknown => (i, j) = (i + 1, j + 1),
            (Some(Dim::Known(1)), None) => i += 1,
            (None, Some(Dim::Known(1))) => j += 1,
            _ => match products(&before[i..], &after[j..]) {
                Some((a, b)) => (i, j) = (i + a, j + b),
                // All that is left belongs together.
                None => (i, j) = (before.len(), after.len()),
            },
        }
        groups.push(Group { before: i0..i, after: j0..j });
    }
    groups
}

/// How many leading axes of both have the same product, if that is known.
fn products(before: &[Dim], after: &[Dim]) -> Option<(usize, usize)> {
    let extent = |dims: &[Dim], at: usize| dims.get(at)?.known();
    let (mut a, mut b) = (1, 1);
    let (mut x, mut y) = (extent(before, 0)?, extent(after, 0)?);
    while x != y {
        if x == 0 || y == 0 {
            return None;
        }
        if x < y {
            x = x.checked_mul(extent(before, a)?)?;
            a += 1;
        } else {
            y = y.checked_mul(extent(after, b)?)?;
            b += 1;
        }
    }
    Some((a, b))
}

/// What to do with a tensor whose axes are stored in the order `perm` and that is to be reshaped
/// from `before` to `after`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Regrouped {
    /// The order of axes in which it has to be stored: `perm` itself where nothing need move.
    pub(crate) from: Vec<usize>,
    /// The order in which the result is then stored.
    pub(crate) to: Vec<usize>,
}

/// Reshapes what is stored in the order `perm` with as little movement as possible.
pub(crate) fn regroup(before: &[Dim], after: &[Dim], perm: &[usize]) -> Regrouped {
    let groups = groups(before, after);
    let one = |axis: &usize| before[*axis] == Dim::Known(1);
    let of = |axis: usize| groups.iter().position(|group| group.before.contains(&axis));
    let thin = |group: &Group| group.before.clone().all(|axis| one(&axis));
    // Groups in the order in which their first axis is stored, of those that are longer than 1 if
    // there is one.
    let mut order: Vec<usize> = Vec::new();
    let first =
        perm.iter().filter_map(|&axis| of(axis).filter(|&g| !one(&axis) || thin(&groups[g])));
    for group in first.chain(0..groups.len()) {
        if !order.contains(&group) {
            order.push(group);
        }
    }
    let axes = |range: fn(&Group) -> &Range<usize>| -> Vec<usize> {
        order.iter().flat_map(|&group| range(&groups[group]).clone()).collect()
    };
    let (from, to) = (axes(|group| &group.before), axes(|group| &group.after));
    // Extents of 1 may stand anywhere: then it is stored well already.
    let same = perm.iter().filter(|axis| !one(axis)).eq(from.iter().filter(|axis| !one(axis)));
    Regrouped { from: if same { perm.to_vec() } else { from }, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(extents: &[usize]) -> Vec<Dim> {
        extents.iter().map(|&extent| Dim::Known(extent)).collect()
    }

    fn check(before: &[usize], after: &[usize], perm: &[usize], from: &[usize], to: &[usize]) {
        let got = regroup(&known(before), &known(after), perm);
        assert_eq!((&got.from[..], &got.to[..]), (from, to), "{before:?} {after:?} {perm:?}");
    }

    #[test]
    fn a_channel_shuffle_moves_once() {
        let last = [0, 2, 3, 1];
        check(&[1, 8, 5, 6], &[1, 2, 4, 5, 6], &last, &last, &[0, 3, 4, 1, 2]);
        // After the transpose: channels are stored after their groups.
        let turned = [0, 3, 4, 2, 1];
        check(&[1, 4, 2, 5, 6], &[1, 8, 5, 6], &turned, &[0, 3, 4, 1, 2], &[0, 2, 3, 1]);
    }

    #[test]
    fn planes_of_one_pixel_are_flat_already() {
        check(&[3, 8, 1, 1], &[3, 8], &[0, 2, 3, 1], &[0, 2, 3, 1], &[0, 1]);
        check(&[3, 8, 2, 2], &[3, 32], &[0, 2, 3, 1], &[0, 1, 2, 3], &[0, 1]);
        check(&[3, 8], &[3, 8, 1, 1], &[0, 1], &[0, 1], &[0, 1, 2, 3]);
        let turned = [0, 3, 4, 2, 1];
        check(&[1, 4, 2, 5, 6], &[1, 8, 5, 6], &turned, &[0, 3, 4, 1, 2], &[0, 2, 3, 1]);
    }

    #[test]
    fn unknown_extents_keep_together() {
        let n = Dim::Sym("n".into());
        let before = [n.clone(), Dim::Known(8), Dim::Unknown, Dim::Unknown];
        let after = [n, Dim::Known(8), Dim::Unknown];
        let got = regroup(&before, &after, &[0, 2, 3, 1]);
        assert_eq!((got.from, got.to), (vec![0, 2, 3, 1], vec![0, 2, 1]));
        let open = regroup(&before, &[Dim::Unknown, Dim::Known(8)], &[0, 2, 3, 1]);
        assert_eq!(open.from, [0, 1, 2, 3]);
    }
}

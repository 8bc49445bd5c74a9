//! Rotary positions: pairs of features turned by an angle that a table gives.

use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;

/// Numbers that a task turns.
const GRAIN: usize = 8 << 10;

/// Rows of features and the tables of their turns.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// Features of a row.
    pub width: usize,
    /// Pairs that are turned, and numbers in a line of the tables; what follows stays.
    pub half: usize,
    /// Whether a feature pairs with its neighbour, not with the one `half` further.
    pub neighbours: bool,
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

/// Turns `rows` rows of `x` into rows of `y` that lie side by side. `place` says of a row where it
/// starts in `x` and which line of the tables turns it, if any. Panics if a place is outside.
pub fn rotate(
    p: &Rotary<'_>,
    rows: usize,
    x: &[f32],
    place: impl Fn(usize) -> (usize, Option<usize>) + Sync + Send,
    y: &mut [f32],
) {
    let (n, half) = (p.width, p.half);
    assert!(y.len() >= count(&[rows, n]), "output too short");
    assert!(half.checked_mul(2).is_some_and(|turned| turned <= n), "more pairs than features");
    let y = Shared::new(y);
    for_ranges(rows, GRAIN / n.max(1), |start, len| {
        for row in start..start + len {
            let (from, line) = place(row);
            // SAFETY: the rows are disjoint.
            let (x, y) = (&x[from..][..n], unsafe { y.slice(row * n, n) });
            let Some(line) = line else {
                y.copy_from_slice(x);
                continue;
            };
            let (cos, sin) = (&p.cos[line * half..][..half], &p.sin[line * half..][..half]);
            y[2 * half..].copy_from_slice(&x[2 * half..]);
            if p.neighbours {
                let pairs = x.chunks_exact(2).zip(y.chunks_exact_mut(2));
                for ((x, y), (c, s)) in pairs.zip(cos.iter().zip(sin)) {
                    y[0] = c * x[0] - s * x[1];
                    y[1] = s * x[0] + c * x[1];
                }
                continue;
            }
            let (a, b) = x[..2 * half].split_at(half);
            let (to_a, to_b) = y[..2 * half].split_at_mut(half);
            for i in 0..half {
                to_a[i] = cos[i] * a[i] - sin[i] * b[i];
                to_b[i] = sin[i] * a[i] + cos[i] * b[i];
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn() {
        let x: Vec<f32> = (1..=10).map(|v| v as f32).collect();
        let (cos, sin) = ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]);
        let check = |neighbours: bool, wanted: &[f32]| {
            let p = Rotary { width: 5, half: 2, neighbours, cos: &cos, sin: &sin };
            let mut y = [f32::NAN; 15];
            // The second row, turned, then as it is, then the first one, turned by nothing.
            let places = [(5, Some(1)), (5, None), (0, Some(0))];
            rotate(&p, 3, &x, |row| places[row], &mut y);
            assert_eq!(y[..5], *wanted);
            assert_eq!(y[5..10], x[5..]);
            assert_eq!(y[10..], x[..5]);
        };
        check(false, &[-8.0, -9.0, 6.0, 7.0, 10.0]);
        check(true, &[-7.0, 6.0, -9.0, 8.0, 10.0]);
    }
}

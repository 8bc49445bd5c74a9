//! Sums of rows of tables.

use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;

/// Numbers that a task writes.
const GRAIN: usize = 8 << 10;

/// A table of rows, and which of its rows each row of the output takes.
pub type Table<'a> = (&'a [f32], &'a [usize]);

/// `y` is, row by row of `cols` numbers, the sum of the rows that the tables give, in their order.
/// Panics if there is no table, a row is outside its table, or a slice is too short.
pub fn sum_rows(tables: &[Table<'_>], cols: usize, y: &mut [f32]) {
    let rows = tables.iter().map(|(_, rows)| rows.len()).min().expect("a table");
    assert!(y.len() >= count(&[rows, cols]), "output too short");
    let y = Shared::new(y);
    for_ranges(rows, GRAIN / cols.max(1), |start, len| {
        for row in start..start + len {
            // SAFETY: the rows are disjoint.
            let y = unsafe { y.slice(row * cols, cols) };
            y.fill(0.0);
            for (table, rows) in tables {
                let from = &table[rows[row] * cols..][..cols];
                y.iter_mut().zip(from).for_each(|(y, x)| *y += x);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_summed() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        let mut y = [f32::NAN; 6];
        sum_rows(&[(&a, &[1, 0, 1]), (&b, &[0, 2, 1])], 2, &mut y);
        assert_eq!(y, [13.0, 24.0, 51.0, 62.0, 33.0, 44.0]);
    }
}

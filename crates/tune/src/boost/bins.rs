//! Columns in bins: a tree asks of a row only whether it lies at or below a cut.

/// Every value of a table as the bin it falls into.
pub(super) struct Bins {
    rows: usize,
    /// For each column its cuts, ascending. A value is in bin `b` when it lies above `b` of them;
    /// so `value <= cuts[b]` exactly when its bin is at most `b`.
    cuts: Vec<Vec<f64>>,
    /// Column by column, so that a histogram of a column reads memory in order.
    bins: Vec<u8>,
}

impl Bins {
    /// Bins rows of `columns` finite values; `bins_max` is in 2..=256.
    pub(super) fn new(values: &[f64], columns: usize, bins_max: usize) -> Bins {
        let rows = values.len() / columns;
        let mut cuts = Vec::with_capacity(columns);
        let mut bins = Vec::with_capacity(values.len());
        for column in 0..columns {
            let column: Vec<f64> = values.iter().skip(column).step_by(columns).copied().collect();
            let own = cuts_of(&column, bins_max);
            // At most 255 cuts: a bin is a byte.
            bins.extend(column.iter().map(|&value| own.partition_point(|&cut| cut < value) as u8));
            cuts.push(own);
        }
        Bins { rows, cuts, bins }
    }

    /// The bins of a column, by row.
    pub(super) fn column(&self, column: usize) -> &[u8] {
        &self.bins[column * self.rows..][..self.rows]
    }

    /// The cuts of a column, ascending: one fewer than its bins.
    pub(super) fn cuts(&self, column: usize) -> &[f64] {
        &self.cuts[column]
    }
}

/// The cuts between at most `bins_max` bins: between all distinct values where these are few, else
/// so that the bins hold about the same number of rows.
fn cuts_of(column: &[f64], bins_max: usize) -> Vec<f64> {
    let mut sorted = column.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // Positions at which a value is greater than the one before it.
    let steps: Vec<usize> = (1..sorted.len()).filter(|&at| sorted[at - 1] < sorted[at]).collect();
    let cut = |at: usize| between(sorted[at - 1], sorted[at]);
    if steps.len() < bins_max {
        return steps.into_iter().map(cut).collect();
    }
    let mut cuts: Vec<f64> = Vec::with_capacity(bins_max - 1);
    let mut next = 0;
    for quantile in 1..bins_max {
        let wanted = quantile * sorted.len() / bins_max;
        // The first step at or after the quantile that is not taken: a value that fills several
        // quantiles costs one cut.
        next += steps[next..].partition_point(|&at| at < wanted);
        let Some(&at) = steps.get(next) else { break };
        cuts.push(cut(at));
        next += 1;
    }
    cuts
}

/// A number from `low` on but below `high`, in the middle if there is one.
fn between(low: f64, high: f64) -> f64 {
    // Halved first: the sum of two large numbers would be infinite.
    let middle = low / 2.0 + high / 2.0;
    if low <= middle && middle < high { middle } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_have_a_bin_each() {
        let bins = Bins::new(&[3.0, 0.0, 1.0, 0.0, 8.0, 0.0, 3.0, 0.0], 2, 256);
        assert_eq!(bins.column(0), [1, 0, 2, 1]);
        assert_eq!(bins.cuts(0), [2.0, 5.5]);
        assert_eq!((bins.column(1), bins.cuts(1)), (&[0; 4][..], &[][..]));
    }

    #[test]
    fn many_values_fill_bins_evenly() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i * i)).collect();
        let bins = Bins::new(&values, 1, 16);
        assert_eq!(bins.cuts(0).len(), 15);
        for bin in 0..16 {
            let count = bins.column(0).iter().filter(|&&other| other == bin).count();
            assert!((62..=63).contains(&count), "{bin}: {count}");
        }
        for (value, &bin) in values.iter().zip(bins.column(0)) {
            for (at, cut) in bins.cuts(0).iter().enumerate() {
                assert_eq!(value <= cut, usize::from(bin) <= at);
            }
        }
    }

    #[test]
    fn one_value_that_fills_half_of_the_rows_is_one_bin() {
        let values: Vec<f64> = (0..200).map(|i| f64::from((i - 100).max(0))).collect();
        let cuts = cuts_of(&values, 8);
        assert_eq!(cuts[0], 0.5);
        assert!(cuts.len() > 3 && cuts.windows(2).all(|pair| pair[0] < pair[1]), "{cuts:?}");
    }

    #[test]
    fn cuts_lie_between_whatever_the_numbers_are() {
        for (low, high) in [
            (1.0, 1.0 + f64::EPSILON),
            (0.0, 5e-324),
            (-5e-324, 0.0),
            (f64::MIN, f64::MAX),
            (f64::MAX / 2.0, f64::MAX),
        ] {
            let cut = between(low, high);
            assert!(low <= cut && cut < high, "{low} {high} {cut}");
        }
    }
}

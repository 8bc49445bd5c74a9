//! One regression tree: how it is grown, and what it says of a row.

use super::Params;
use super::bins::Bins;

/// A gain below this part of what a tree could gain at most is rounding, not structure.
const GAIN_PART_MIN: f64 = 1e-10;

/// A tree, its root first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Leaf(f64),
    /// Rows whose value lies at or below the cut go to node `left`, the others to `left + 1`.
    Split {
        column: usize,
        bin: u8,
        cut: f64,
        left: usize,
    },
}

impl Tree {
    /// What it says of a row of numbers.
    pub(super) fn of_row(&self, row: &[f64]) -> f64 {
        self.walk(|column, _, cut| row[column] <= cut)
    }

    /// The same of a row that is binned.
    pub(super) fn of_bins(&self, bins: &Bins, row: usize) -> f64 {
        self.walk(|column, bin, _| bins.column(column)[row] <= bin)
    }

    fn walk(&self, goes_left: impl Fn(usize, u8, f64) -> bool) -> f64 {
        let mut at = 0;
        loop {
            match &self.0[at] {
                Node::Leaf(value) => return *value,
                Node::Split { column, bin, cut, left } => {
                    at = left + usize::from(!goes_left(*column, *bin, *cut));
                }
            }
        }
    }
}

/// How many rows there are and what their targets come to.
#[derive(Clone, Copy, Default)]
struct Sum {
    rows: usize,
    targets: f64,
}

impl Sum {
    fn minus(self, other: Sum) -> Sum {
        Sum { rows: self.rows - other.rows, targets: self.targets - other.targets }
    }

    /// Twice what the best value for these rows takes off the penalised squared error.
    fn score(self, lambda: f64) -> f64 {
        self.targets * self.targets / (self.rows as f64 + lambda)
    }
}

/// The best split of a leaf.
struct Split {
    gain: f64,
    column: usize,
    bin: u8,
}

/// A leaf that may be split yet.
struct Open {
    node: usize,
    /// Its rows in the list of all.
    rows: std::ops::Range<usize>,
    depth: usize,
    /// A sum for each bin of each chosen column.
    histogram: Vec<Sum>,
    split: Option<Split>,
}

/// What does not change while a tree grows.
struct Grower<'a> {
    bins: &'a Bins,
    targets: &'a [f64],
    /// The chosen columns, and where the bins of each begin in a histogram.
    columns: Vec<(usize, usize)>,
    /// Length of a histogram.
    width: usize,
    gain_min: f64,
    params: &'a Params,
}

/// Grows a tree on these rows (at least one) and columns. Its leaves have the learning rate in
/// them. The leaf with the largest gain is split next.
pub(super) fn grow(
    bins: &Bins,
    targets: &[f64],
    mut rows: Vec<usize>,
    columns: &[usize],
    params: &Params,
) -> Tree {
    let mut width = 0;
    let place = |&column: &usize| {
        let start = width;
        width += bins.cuts(column).len() + 1;
        (column, start)
    };
    let columns = columns.iter().map(place).collect();
    let all: f64 = rows.iter().map(|&row| targets[row] * targets[row]).sum();
    let gain_min = GAIN_PART_MIN * all;
    let grower = Grower { bins, targets, columns, width, gain_min, params };
    let mut tree = Tree(vec![Node::Leaf(grower.value(grower.sum(&rows)))]);
    let histogram = grower.histogram(&rows);
    let mut open = vec![grower.open(0, 0..rows.len(), 0, histogram, &rows)];
    let mut leaves = 1;
    while leaves < params.leaves_max {
        let gain = |leaf: &Open| leaf.split.as_ref().map_or(0.0, |split| split.gain);
        // The first of equal ones, so that the order is fixed.
        let first =
            |best: usize, at: usize| if gain(&open[at]) > gain(&open[best]) { at } else { best };
        let Some(best) = (0..open.len()).reduce(first) else { break };
        let leaf = open.swap_remove(best);
        let Some(split) = &leaf.split else { break };
        let left = tree.0.len();
        let cut = bins.cuts(split.column)[usize::from(split.bin)];
        tree.0[leaf.node] = Node::Split { column: split.column, bin: split.bin, cut, left };
        for child in grower.part(&leaf, split, left, &mut rows) {
            let value = grower.value(grower.sum(&rows[child.rows.clone()]));
            tree.0.push(Node::Leaf(value));
            open.push(child);
        }
        leaves += 1;
    }
    tree
}

impl Grower<'_> {
    fn sum(&self, rows: &[usize]) -> Sum {
        Sum { rows: rows.len(), targets: rows.iter().map(|&row| self.targets[row]).sum() }
    }

    /// The value of a leaf.
    fn value(&self, sum: Sum) -> f64 {
        self.params.learning_rate * sum.targets / (sum.rows as f64 + self.params.lambda)
    }

    fn histogram(&self, rows: &[usize]) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.width];
        for &(column, start) in &self.columns {
            let bins = self.bins.column(column);
            let own = &mut sums[start..];
            for &row in rows {
                let sum = &mut own[usize::from(bins[row])];
                sum.rows += 1;
                sum.targets += self.targets[row];
            }
        }
        sums
    }

    fn open(
        &self,
        node: usize,
        range: std::ops::Range<usize>,
        depth: usize,
        histogram: Vec<Sum>,
        rows: &[usize],
    ) -> Open {
        let may = depth < self.params.depth_max && range.len() >= 2 * self.params.child_rows_min;
        let total = self.sum(&rows[range.clone()]);
        let split = may.then(|| self.best(&histogram, total)).flatten();
        Open { node, rows: range, depth, histogram, split }
    }

    /// The split with the largest gain, the first of equal ones.
    fn best(&self, histogram: &[Sum], total: Sum) -> Option<Split> {
        let (lambda, least) = (self.params.lambda, self.params.child_rows_min);
        let whole = total.score(lambda);
        let mut best: Option<Split> = None;
        let mut gain_min = self.gain_min;
        for &(column, start) in &self.columns {
            let mut left = Sum::default();
            for bin in 0..self.bins.cuts(column).len() {
                left.rows += histogram[start + bin].rows;
                left.targets += histogram[start + bin].targets;
                let right = total.minus(left);
                if left.rows < least {
                    continue;
                }
                if right.rows < least {
                    break;
                }
                let gain = left.score(lambda) + right.score(lambda) - whole;
                if gain > gain_min {
                    gain_min = gain;
                    // No more than 255 cuts: a bin is a byte.
                    best = Some(Split { gain, column, bin: bin as u8 });
                }
            }
        }
        best
    }

    /// Splits a leaf: its rows are parted in place, and its children are nodes `left`, `left + 1`.
    fn part(&self, leaf: &Open, split: &Split, left: usize, rows: &mut [usize]) -> [Open; 2] {
        let bins = self.bins.column(split.column);
        let range = leaf.rows.clone();
        let (below, above): (Vec<usize>, Vec<usize>) =
            rows[range.clone()].iter().partition(|&&row| bins[row] <= split.bin);
        let middle = range.start + below.len();
        rows[range.start..middle].copy_from_slice(&below);
        rows[middle..range.end].copy_from_slice(&above);
        // Only the smaller side is counted; the other is what is left of the parent.
        let small = self.histogram(if below.len() <= above.len() { &below } else { &above });
        let rest = leaf.histogram.iter().zip(&small).map(|(all, part)| all.minus(*part)).collect();
        let (first, second) =
            if below.len() <= above.len() { (small, rest) } else { (rest, small) };
        let depth = leaf.depth + 1;
        [
            self.open(left, range.start..middle, depth, first, rows),
            self.open(left + 1, middle..range.end, depth, second, rows),
        ]
    }
}

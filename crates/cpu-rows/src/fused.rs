//! Several functions of the elements at one place, one after the other on pieces that stay in the
//! second-level cache, and a reduction of what they give.

use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::math::{Func, map};
use hetra_cpu_base::scratch::{Lent, Shared, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use smallvec::SmallVec;

use crate::broadcast::{Binary, binary};
use crate::norm::{Reduce, reduce};

/// Numbers of a piece: long enough that calls cost little, short enough that a few pieces stay in
/// cache (32 KiB each).
pub const PIECE: usize = 8 << 10;

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The elements of an input.
    Input(usize),
    /// The one number of an input.
    Number(usize),
    /// What an earlier step gives.
    Step(usize),
}

/// A function of elements.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Of one.
    Map(Func, Source),
    /// Of two.
    Pair(Binary, Source, Source),
}

impl Step {
    fn sources(self) -> [Option<Source>; 2] {
        match self {
            Step::Map(_, x) => [Some(x), None],
            Step::Pair(_, a, b) => [Some(a), Some(b)],
        }
    }
}

/// Steps, the last of which gives the result.
#[derive(Clone, Debug)]
pub struct Fused {
    steps: Vec<Step>,
    /// The place of each step's result among the pieces that are alive.
    places: Vec<usize>,
    /// Pieces alive at one time.
    pieces: usize,
    /// The step during which the inputs of the next piece are fetched: one that reads no input.
    fetches: Option<usize>,
}

/// Numbers that are fetched, and computed meanwhile, at a time.
const BLOCK: usize = 1 << 10;

/// Asks for numbers that are read soon.
struct Fetch<'a>(&'a [f32]);

impl Kernel for Fetch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // A line of any processor.
        self.0.chunks(16).for_each(|line| s.prefetch(line.as_ptr()));
    }
}

/// Pieces that are alive.
type Pieces = SmallVec<[Option<Lent>; 8]>;

impl Fused {
    /// `None` where a step reads itself or a later one, or there is none.
    pub fn new(steps: Vec<Step>) -> Option<Fused> {
        let reads = |at: usize, step: Source| step == Source::Step(at);
        let mut last = vec![0; steps.len()];
        for (at, step) in steps.iter().enumerate() {
            for source in step.sources().into_iter().flatten() {
                match source {
                    Source::Step(from) if from >= at => return None,
                    Source::Step(from) => last[from] = at,
                    Source::Input(_) | Source::Number(_) => {}
                }
            }
        }
        let (mut places, mut free, mut pieces) = (Vec::new(), Vec::new(), 0);
        for (at, step) in steps.iter().enumerate() {
            let place = free.pop().unwrap_or_else(|| {
                pieces += 1;
                pieces - 1
            });
            places.push(place);
            // What is read for the last time is free for the next step, not for this one.
            let ends = (0..at).filter(|&from| {
                last[from] == at && step.sources().iter().flatten().any(|&s| reads(from, s))
            });
            free.extend(ends.map(|from| places[from]));
        }
        let inside = |step: &Step| matches!(step, Step::Map(_, Source::Step(_)));
        let fetches = steps.iter().position(inside);
        (!steps.is_empty()).then_some(Fused { steps, places, pieces, fetches })
    }

    /// `out[i]` of the elements `i` of `inputs`, which are as long, or of one number.
    ///
    /// Panics when an input is too short.
    pub fn map(&self, isa: Isa, inputs: &[&[f32]], out: &mut [f32]) {
        let n = out.len();
        let out = Shared::new(out);
        for_ranges(n.div_ceil(PIECE), self.grain(n), |first, count| {
            let mut pieces = self.lend();
            for at in (first..first + count).map(|piece| piece * PIECE) {
                let len = PIECE.min(n - at);
                // SAFETY: the pieces are disjoint.
                let out = unsafe { out.slice(at, len) };
                self.piece(isa, inputs, at, len, &mut pieces, Some(out));
            }
        });
    }

    /// As [`Fused::map`], reduced along rows of `axis` elements to one number each.
    ///
    /// Panics when an input is too short.
    pub fn reduce(&self, isa: Isa, op: Reduce, inputs: &[&[f32]], axis: usize, out: &mut [f32]) {
        let rows = out.len();
        if rows == 0 || axis == 0 {
            return;
        }
        // Of long rows the pieces are reduced first; of short ones a piece has several.
        let per_row = axis.div_ceil(PIECE);
        let per_piece = if per_row == 1 { (PIECE / axis).max(1) } else { 1 };
        // A mean is made of the sum, once.
        let inner = if op == Reduce::Mean { Reduce::Sum } else { op };
        let mut parts = lend(if per_row == 1 { 1 } else { rows * per_row });
        let target = if per_row == 1 { Shared::new(&mut *out) } else { Shared::new(&mut parts) };
        let tasks = if per_row == 1 { rows.div_ceil(per_piece) } else { rows * per_row };
        for_ranges(tasks, self.grain(rows * axis), |first, count| {
            let mut pieces = self.lend();
            for task in first..first + count {
                let (row, start) = match per_row {
                    1 => (task * per_piece, 0),
                    _ => (task / per_row, task % per_row * PIECE),
                };
                let whole = per_piece.min(rows - row);
                let len = if per_row == 1 { whole * axis } else { PIECE.min(axis - start) };
                self.piece(isa, inputs, row * axis + start, len, &mut pieces, None);
                let Some(values) = pieces[self.result()].as_deref() else { continue };
                let (at, of) =
                    if per_row == 1 { (row, [whole, axis, 1]) } else { (task, [1, len, 1]) };
                // SAFETY: each task has rows, or a part, of its own.
                let to = unsafe { target.slice(at, of[0]) };
                reduce(isa, inner, &values[..len], of, to);
            }
        });
        if per_row > 1 {
            reduce(isa, inner, &parts, [rows, per_row, 1], out);
        }
        if op == Reduce::Mean {
            out.iter_mut().for_each(|sum| *sum /= axis as f32);
        }
    }

    /// Pieces that a task takes at a time: so that threads have a few tasks each.
    fn grain(&self, n: usize) -> usize {
        (n / PIECE / 64).clamp(1, 16)
    }

    fn result(&self) -> usize {
        self.places.last().copied().unwrap_or(0)
    }

    fn lend(&self) -> Pieces {
        (0..self.pieces).map(|_| Some(lend(PIECE))).collect()
    }

    /// All steps on the elements from `at`; the last writes to `out` where it is given.
    fn piece(
        &self,
        isa: Isa,
        inputs: &[&[f32]],
        at: usize,
        len: usize,
        pieces: &mut Pieces,
        mut out: Option<&mut [f32]>,
    ) {
        for (index, step) in self.steps.iter().enumerate() {
            let place = self.places[index];
            let mut own = pieces[place].take();
            let last = index + 1 == self.steps.len();
            let target = match (last, &mut out) {
                (true, Some(out)) => &mut **out,
                _ => match &mut own {
                    Some(own) => &mut own[..len],
                    None => return,
                },
            };
            let read = |source: Source| match source {
                Source::Input(input) => (&inputs[input][at..at + len], 1),
                Source::Number(input) => (&inputs[input][..1], 0),
                Source::Step(from) => {
                    let from = pieces[self.places[from]].as_deref();
                    (from.map_or(&[][..], |piece| &piece[..len]), 1)
                }
            };
            match *step {
                Step::Map(function, x) => match read(x) {
                    (x, 1) if self.fetches == Some(index) => {
                        // What is computed in the cache leaves the memory free for the next piece.
                        let blocks = x.chunks(BLOCK).zip(target.chunks_mut(BLOCK));
                        for (block, (x, target)) in blocks.enumerate() {
                            let from = at + len + block * BLOCK;
                            inputs.iter().for_each(|input| {
                                let ahead = from.min(input.len())..(from + BLOCK).min(input.len());
                                isa.dispatch(Fetch(&input[ahead]));
                            });
                            map(isa, function, x, target);
                        }
                    }
                    (x, 1) => map(isa, function, x, target),
                    (x, _) => {
                        target.fill(x[0]);
                        hetra_cpu_base::math::map_in_place(isa, function, target);
                    }
                },
                Step::Pair(op, a, b) => {
                    let ((a, sa), (b, sb)) = (read(a), read(b));
                    binary(isa, op, Activation::None, &[len], (a, &[sa]), (b, &[sb]), target);
                }
            }
            pieces[place] = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_cpu_base::isa::Isa;

    fn steps() -> Fused {
        let all = vec![
            Step::Pair(Binary::Sub, Source::Input(0), Source::Number(1)),
            Step::Pair(Binary::Mul, Source::Step(0), Source::Step(0)),
            Step::Map(Func::Sqrt, Source::Step(1)),
            Step::Pair(Binary::Add, Source::Step(2), Source::Input(0)),
        ];
        Fused::new(all).unwrap()
    }

    fn wanted(x: f32) -> f32 {
        (x - 0.5).abs() + x
    }

    #[test]
    fn pieces_are_used_again() {
        // The first two are alive at once, and one of them is free after that.
        assert_eq!(steps().pieces, 2);
        assert!(Fused::new(vec![Step::Map(Func::Exp, Source::Step(0))]).is_none());
    }

    #[test]
    fn every_length_and_every_row_comes_out_right() {
        let fused = steps();
        for isa in Isa::available() {
            for n in [1, 7, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, 40 * PIECE] {
                let x: Vec<f32> = (0..n).map(|i| (i % 97) as f32 / 97.0).collect();
                let mut out = vec![0.0; n];
                fused.map(isa, &[&x, &[0.5]], &mut out);
                let same = |(got, x): (&f32, &f32)| (got - wanted(*x)).abs() < 1e-6;
                assert!(out.iter().zip(&x).all(same), "{isa:?} {n}");
            }
            for (rows, axis) in [(1, 5), (3, PIECE), (2, PIECE + 3), (1000, 37), (1, 9 * PIECE)] {
                let x: Vec<f32> = (0..rows * axis).map(|i| (i % 89) as f32 / 89.0).collect();
                for op in [Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min] {
                    let mut out = vec![0.0; rows];
                    fused.reduce(isa, op, &[&x, &[0.5]], axis, &mut out);
                    for (got, row) in out.iter().zip(x.chunks(axis)) {
                        let values = row.iter().map(|&x| f64::from(wanted(x)));
                        let wanted = match op {
                            Reduce::Sum => values.sum::<f64>(),
                            Reduce::Mean => values.sum::<f64>() / axis as f64,
                            Reduce::Max => values.fold(f64::NEG_INFINITY, f64::max),
                            _ => values.fold(f64::INFINITY, f64::min),
                        };
                        let close =
                            (f64::from(*got) - wanted).abs() <= 1e-5 * wanted.abs().max(1.0);
                        assert!(close, "{isa:?} {op:?} {rows} {axis}: {got} {wanted}");
                    }
                }
            }
        }
    }
}

//! The transforms of Winograd convolutions by 3 taps along one axis.
//!
//! `M` neighbouring outputs of a correlation with three taps are the coefficients of a product of
//! polynomials, which is known from its values at `N = M + 2` points (one of them at infinity):
//! the input and the taps are evaluated there, the values multiplied, and the product interpolated
//! (A. Lavin, S. Gray, "Fast algorithms for convolutional neural networks", 2016). All divisions
//! are put into the transform of the taps, which is made once and in f64.
//!
//! Points come in pairs `p, -p`, so that even and odd terms are summed once for both. With fused
//! multiply-adds whole points are no cheaper than others, so they are chosen for a small error:
//! see [`Four`].

use hetra_cpu_base::simd::Simd;

/// Where the polynomials are evaluated, by which each transform is given.
pub(crate) trait Points<const N: usize, const M: usize> {
    /// The points but the one at infinity, which comes last in the transforms.
    const FINITE: &'static [f64];
    /// `N` neighbouring inputs at the points.
    fn input<S: Simd>(s: S, d: [S::F; N]) -> [S::F; N];
    /// `M` neighbouring outputs, from the products at the points.
    fn output<S: Simd>(s: S, p: [S::F; N]) -> [S::F; M];

    /// The three taps at the points.
    fn taps(g: [f64; 3]) -> [f64; N] {
        std::array::from_fn(|i| {
            let Some(&at) = Self::FINITE.get(i) else { return g[2] };
            let others = Self::FINITE.iter().enumerate().filter(|(j, _)| *j != i);
            let divisor: f64 = others.map(|(_, other)| at - other).product();
            (g[0] + at * (g[1] + at * g[2])) / divisor
        })
    }
}

/// Two outputs from four inputs: points 0, 1, -1.
pub(crate) struct Two;

impl Points<4, 2> for Two {
    const FINITE: &'static [f64] = &[0.0, 1.0, -1.0];

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::F; 4]) -> [S::F; 4] {
        [s.sub(d[2], d[0]), s.add(d[2], d[1]), s.sub(d[2], d[1]), s.sub(d[3], d[1])]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: [S::F; 4]) -> [S::F; 2] {
        let (even, odd) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        [s.add(p[0], even), s.add(odd, p[3])]
    }
}

/// Four outputs from six inputs: points 0, ±[`A`], ±[`B`].
///
/// With ±1 and ±2, as in the paper, the error is twice as large; all multiples here are exact.
pub(crate) struct Four;

const A: f64 = 0.625;
const B: f64 = 1.5;

impl Points<6, 4> for Four {
    const FINITE: &'static [f64] = &[0.0, A, -A, B, -B];

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::F; 6]) -> [S::F; 6] {
        let by = |factor: f64, x: S::F, y: S::F| s.fma(s.splat(factor as f32), x, y);
        let (sum, product) = (A * A + B * B, A * A * B * B);
        // Without the factor x - p, the polynomial with the roots 0 and the other points.
        let (even_a, odd_a) = (by(-B * B, d[2], d[4]), by(-B * B, d[1], d[3]));
        let (even_b, odd_b) = (by(-A * A, d[2], d[4]), by(-A * A, d[1], d[3]));
        [
            by(product, d[0], by(-sum, d[2], d[4])),
            by(A, odd_a, even_a),
            by(-A, odd_a, even_a),
            by(B, odd_b, even_b),
            by(-B, odd_b, even_b),
            by(product, d[1], by(-sum, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: [S::F; 6]) -> [S::F; 4] {
        let by = |factor: f64, x: S::F, y: S::F| s.fma(s.splat(factor as f32), x, y);
        let times = |factor: f64, x: S::F| s.mul(s.splat(factor as f32), x);
        let (even_a, odd_a) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        let (even_b, odd_b) = (s.add(p[3], p[4]), s.sub(p[3], p[4]));
        [
            s.add(p[0], s.add(even_a, even_b)),
            by(B, odd_b, times(A, odd_a)),
            by(B * B, even_b, times(A * A, even_a)),
            by(B * B * B, odd_b, by(A * A * A, odd_a, p[5])),
        ]
    }
}

// Plain loops below: the closures of array functions are compiled without the target features.

/// Transforms a square along both axes: `N` rows of `N` inputs.
#[inline(always)]
pub(crate) fn input_square<S: Simd, P: Points<N, M>, const N: usize, const M: usize>(
    s: S,
    mut d: [[S::F; N]; N],
) -> [[S::F; N]; N] {
    for row in &mut d {
        *row = P::input(s, *row);
    }
    for j in 0..N {
        let mut column = [s.splat(0.0); N];
        for (v, row) in column.iter_mut().zip(&d) {
            *v = row[j];
        }
        for (v, row) in P::input(s, column).into_iter().zip(&mut d) {
            row[j] = v;
        }
    }
    d
}

/// Transforms a square of products back: `M` rows of `M` outputs.
#[inline(always)]
pub(crate) fn output_square<S: Simd, P: Points<N, M>, const N: usize, const M: usize>(
    s: S,
    p: [[S::F; N]; N],
) -> [[S::F; M]; M] {
    let mut across = [[s.splat(0.0); M]; N];
    for (row, p) in across.iter_mut().zip(p) {
        *row = P::output(s, p);
    }
    let mut all = [[s.splat(0.0); M]; M];
    for j in 0..M {
        let mut column = [s.splat(0.0); N];
        for (v, row) in column.iter_mut().zip(&across) {
            *v = row[j];
        }
        for (v, row) in P::output(s, column).into_iter().zip(&mut all) {
            row[j] = v;
        }
    }
    all
}

/// A kernel of three by three taps at all pairs of points, `N` rows of `N`.
pub(crate) fn taps_square<P: Points<N, M>, const N: usize, const M: usize>(
    g: &[f32],
) -> [[f64; N]; N] {
    let rows: [[f64; N]; 3] =
        std::array::from_fn(|y| P::taps(std::array::from_fn(|x| f64::from(g[3 * y + x]))));
    let columns: [[f64; N]; N] =
        std::array::from_fn(|j| P::taps(std::array::from_fn(|y| rows[y][j])));
    std::array::from_fn(|i| std::array::from_fn(|j| columns[j][i]))
}

//! The tiles of a Winograd convolution: inputs are read from the images and transformed, and
//! products are transformed back and stored.

use super::bf16::Product;
use super::nhwc_store::{Added, End};
use super::winograd::{Call, Layout};
use super::winograd_transform::{Points, input_square, output_square};
use hetra_cpu_base::activation;
use hetra_cpu_base::isa::Kernel;
use hetra_cpu_base::numbers::Number;
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// Transforms the inputs of tiles.
pub(crate) struct Input<'a, X, R, P, const N: usize, const M: usize> {
    pub(crate) call: &'a Call<'a>,
    /// The images, and as many zeros as they have channels.
    pub(crate) x: (*const X, *const X),
    pub(crate) tiles: Range<usize>,
    /// `N * N` points of the layout.
    pub(crate) out: Shared<'a, f32>,
    pub(crate) layout: Layout,
    /// The place of the first tile.
    pub(crate) at: usize,
    pub(crate) marker: PhantomData<(R, P)>,
}

impl<X: Number, R: Product, P: Points<N, M>, const N: usize, const M: usize> Kernel
    for Input<'_, X, R, P, N, M>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.call.conv.shape.c;
        let full = c / S::LANES * S::LANES;
        for (i, tile) in self.tiles.clone().enumerate() {
            let pixels = self.pixels(tile);
            for at in (0..full).step_by(S::LANES) {
                self.vector::<S, false>(s, &pixels, self.at + i, at);
            }
            if full < c {
                self.vector::<S, true>(s, &pixels, self.at + i, full);
            }
        }
    }
}

impl<X: Number, R: Product, P: Points<N, M>, const N: usize, const M: usize>
    Input<'_, X, R, P, N, M>
{
    /// Where the pixels of a tile lie; zeros where they lie outside the image. Each is followed by
    /// all its channels.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> [[*const X; N]; N] {
        let call = self.call;
        let ([h, w, ..], s) = (call.size, &call.conv.shape);
        let (image, y, x) = call.place(tile);
        let (top, left) = ((y * M).wrapping_sub(s.pads[0]), (x * M).wrapping_sub(s.pads[1]));
        let mut pixels = [[self.x.1; N]; N];
        for (i, line) in pixels.iter_mut().enumerate() {
            let y = top.wrapping_add(i);
            let row = (image * h).wrapping_add(y).wrapping_mul(w);
            for (j, pixel) in line.iter_mut().enumerate() {
                let x = left.wrapping_add(j);
                if y < h && x < w {
                    *pixel = self.x.0.wrapping_add((row + x) * s.c);
                }
            }
        }
        pixels
    }

    /// One vector of channels from `at` on, the last of them if `TAIL`: with zeros behind it.
    #[inline(always)]
    fn vector<S: Simd, const TAIL: bool>(
        &self,
        s: S,
        pixels: &[[*const X; N]; N],
        tile: usize,
        at: usize,
    ) {
        let Layout { row, point } = self.layout;
        let n = self.call.conv.shape.c - at;
        // Of numbers of the operand to a word.
        let dense = size_of::<f32>() / size_of::<R::Left>();
        assert!(if TAIL { n < S::LANES } else { n >= S::LANES } && at + S::LANES <= row * dense);
        let first = tile * row + at / dense;
        let out = self.out.rows(first, (N * N, point), S::LANES / dense);
        // SAFETY: `n` numbers are left of each pixel, of which as many as fit a vector are read.
        // For the output: `rows`; `at` is a multiple of the lanes, which fill whole words. Each
        // tile is transformed by one task, and is read when it is done.
        unsafe {
            let mut square = [[s.splat(0.0); N]; N];
            for (row, pixels) in square.iter_mut().zip(pixels) {
                for (v, pixel) in row.iter_mut().zip(pixels) {
                    let pixel = pixel.add(at);
                    *v = load_n::<S, X, TAIL>(s, pixel, n);
                }
            }
            let square = input_square::<S, P, N, M>(s, square);
            for (i, v) in square.as_flattened().iter().enumerate() {
                R::Left::store(s, out.add(i * point).cast(), *v);
            }
        }
    }
}

/// Transforms the products of tiles with one panel, and stores the outputs.
pub(crate) struct Output<'a, O, P, const N: usize, const M: usize> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) out: Shared<'a, O>,
    pub(crate) tiles: Range<usize>,
    pub(crate) panel: usize,
    pub(crate) products: &'a [f32],
    pub(crate) layout: Layout,
    pub(crate) marker: PhantomData<P>,
}

impl<O: Number, P: Points<N, M>, const N: usize, const M: usize> Kernel for Output<'_, O, P, N, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let m = self.call.conv.shape.m;
        for (i, tile) in self.tiles.clone().enumerate() {
            for at in [0, S::LANES] {
                let column = self.panel * 2 * S::LANES + at;
                if column + S::LANES <= m {
                    self.vector::<S, false>(s, (i, at), tile, column);
                } else if column < m {
                    self.vector::<S, true>(s, (i, at), tile, column);
                }
            }
        }
    }
}

impl<O: Number, P: Points<N, M>, const N: usize, const M: usize> Output<'_, O, P, N, M> {
    /// One vector of output channels from `column` on, the last of them if `TAIL`; it is vector
    /// `at` of row `i` of the products.
    #[inline(always)]
    fn vector<S: Simd, const TAIL: bool>(
        &self,
        s: S,
        (i, at): (usize, usize),
        tile: usize,
        column: usize,
    ) {
        let (call, conv) = (self.call, self.call.conv);
        let ([_, _, oh, ow], m) = (call.size, conv.shape.m);
        let n = if TAIL { m - column } else { S::LANES };
        assert!(n <= S::LANES && n > 0);
        let (image, y, x) = call.place(tile);
        let (y, x) = (y * M, x * M);
        let (rows, columns) = (M.min(oh - y), M.min(ow - x));
        let start = ((image * oh + y) * ow + x) * m + column;
        let len = ((rows - 1) * ow + columns - 1) * m + n;
        let out = self.out.rows(start, (1, 0), len);
        let added = Added::of(call.residual, start..start + len);
        let from = i * self.layout.row + at;
        let last = from + (N * N - 1) * self.layout.point;
        let products = self.products[from..last + S::LANES].as_ptr();
        let load = |x: &[f32]| if TAIL { s.loads_tail(&x[..n]) } else { s.loads(x) };
        let bias = conv.bias.as_ref().map(|bias| load(&bias[column..]));
        let end = End::of(conv.act);
        // SAFETY: a vector of each point was sliced. The last pixel of the last row ends at the end
        // of what was sliced of the output and the residual. Tasks have different tiles or panels,
        // so no other one uses this part of the output.
        unsafe {
            let mut square = [[s.splat(0.0); N]; N];
            for (i, v) in square.as_flattened_mut().iter_mut().enumerate() {
                *v = s.load(products.add(i * self.layout.point));
            }
            let mut square = output_square::<S, P, N, M>(s, square);
            for (y, line) in square.iter_mut().enumerate().take(rows) {
                for (x, v) in line.iter_mut().enumerate().take(columns) {
                    let to = (y * ow + x) * m;
                    if let Some(bias) = bias {
                        *v = s.add(*v, bias);
                    }
                    match added {
                        Added::None => {}
                        Added::F32(r) => *v = s.add(*v, load_n::<_, _, TAIL>(s, r.add(to), n)),
                        Added::Bf16(r) => *v = s.add(*v, load_n::<_, _, TAIL>(s, r.add(to), n)),
                    }
                    if let Some(end) = end {
                        store_n::<_, _, TAIL>(s, out.add(to), end.vector(s, *v), n);
                    }
                }
            }
            if end.is_none() {
                let mut all = [0.0; 4 * 4 * 16];
                for (to, v) in all.chunks_exact_mut(S::LANES).zip(square.as_flattened()) {
                    s.stores(to, *v);
                }
                activation::apply(S::ISA, conv.act, &mut all[..M * M * S::LANES]);
                for (i, v) in all.chunks_exact(S::LANES).enumerate().take(M * rows) {
                    if i % M < columns {
                        let to = out.add((i / M * ow + i % M) * m);
                        store_n::<_, _, TAIL>(s, to, s.loads(v), n);
                    }
                }
            }
        }
    }
}

/// `n` numbers, as many as lanes unless `TAIL`.
///
/// # Safety
/// They must be readable behind `p`.
#[inline(always)]
unsafe fn load_n<S: Simd, T: Number, const TAIL: bool>(s: S, p: *const T, n: usize) -> S::F {
    // SAFETY: as the caller promises.
    unsafe { if TAIL { T::load_n(s, p, n) } else { T::load(s, p) } }
}

/// Writes `n` numbers, as many as lanes unless `TAIL`.
///
/// # Safety
/// They must be writable behind `p`.
#[inline(always)]
unsafe fn store_n<S: Simd, T: Number, const TAIL: bool>(s: S, p: *mut T, v: S::F, n: usize) {
    // SAFETY: as the caller promises.
    unsafe { if TAIL { T::store_n(s, p, v, n) } else { T::store(s, p, v) } }
}

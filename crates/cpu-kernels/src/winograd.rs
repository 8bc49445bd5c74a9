//! Winograd convolution by 3x3 taps of images with channels last (NHWC).
//!
//! The output is cut into tiles of 4 by 4 or 2 by 2 pixels. The square of inputs that a tile
//! depends on is transformed (`winograd_transform`), and so are the taps, in which form a
//! convolution is one product for each of 36 or 16 points: a quarter of the multiply-adds, or 4/9.
//! For a block of tiles these are as many matrix products, tiles by input channels by output
//! channels, which the register kernel of `nhwc` computes. A block stays in the second cache
//! level, while the taps pass by.
//!
//! Each output is computed by the same operations in the same order, whatever the block or the
//! threads ([`Tiling`]). An input that is infinite makes the outputs of its whole tile NaN.
//!
//! Measured on one core of an Emerald Rapids Xeon, in GFLOP/s of the direct sum, for 3x3:
//!
//! | channels, side | direct | 2x2 | 4x4 |
//! |---|---|---|---|
//! | 64 to 64, 56 | 155 | 251 | 357 |
//! | 128 to 128, 28 | 165 | 300 | 440 |
//! | 256 to 256, 14 | 158 | 293 | 272 |
//! | 512 to 512, 7 | 145 | 164 | 116 |
//! | 32 to 32, 80 | 145 | 191 | 285 |
//! | 16 to 32, 160 | 124 | 139 | 208 |
//! | 96 to 208, 14 | 169 | 297 | 303 |
//! | 48 to 192, 27 | 165 | 248 | 358 |
//! | 64 to 256, 13 | 169 | 249 | 258 |
//! | 24 to 24, 40 | 104 | 130 | 187 |
//!
//! What is multiplied may be rounded to bf16 (AVX512-BF16), and images may be stored so. On one
//! core of a Zen 4, with images stored as bf16:
//!
//! | channels, side | direct | 2x2 |
//! |---|---|---|
//! | 64 to 64, 56 | 223 | 344 |
//! | 128 to 128, 28 | 231 | 412 |
//! | 256 to 256, 14 | 234 | 461 |
//! | 512 to 512, 7 | 234 | 372 |
//! | 32 to 32, 80 | 199 | 255 |
//! | 16 to 32, 160 | 171 | 185 |
//! | 96 to 24, 40 | 166 | 249 |
//! | 24 to 96, 20 | 211 | 243 |
//!
//! Greatest error on random normal numbers, relative to the sum of |x||w| and against f64: 4.3e-7
//! for 4x4, 1.0e-7 for 2x2, 2.2e-7 for the direct kernel; 7e-7, 1.3e-7 and 2.2e-7 over the
//! layers above. With rounded operands 1.1e-3 for 2x2 (root of the mean square 2.5e-4) and 5.7e-4
//! for the direct kernel (1.5e-4); 4x4, which is not taken, had 4.1e-3. Rerun with
//! `HETRA_BENCH=1 cargo test --release winograd_speed -- --nocapture`.

use super::bf16::{F32, Operands, Pairs, Product, pair};
use super::conv::ConvShape;
use super::gemm_pack::block;
use super::nhwc::part;
use super::nhwc_micro::{PixelTiles, pixel_tiles};
use super::nhwc_store::{Added, End, Outputs, Sink};
use super::tiling::Tiling;
use super::winograd_tiles::{Input, Output};
use super::winograd_transform::{Four, Points, Two, taps_square};
use half::bf16;
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::{Number, Numbers, NumbersOut, SharedOut};
use hetra_cpu_base::scratch::{AlignedBuf, Lent, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};
use std::marker::PhantomData;
use std::ops::Range;

/// Multiply-adds below which a convolution stays on one thread (about 5 µs).
const PAR_MIN: usize = 256 << 10;
/// Floats of transformed inputs that a block of tiles makes, about: half of the second cache level.
const INPUT_BLOCK: usize = 128 << 10;
/// Most tiles of a block, whatever is asked for.
const TILES_MAX: usize = 1 << 10;
/// Floats in a line of the cache.
const LINE: usize = 16;

/// How many outputs a tile has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Square {
    /// 2 by 2: less is computed in vain at the edges, and the transformed taps are 16/9 of the taps
    /// where those of 4 by 4 are four times them.
    Two,
    /// 4 by 4: the fewest multiply-adds.
    Four,
}

impl Square {
    /// Points along an axis, and outputs along it.
    fn sizes(self) -> (usize, usize) {
        match self {
            Square::Two => (4, 2),
            Square::Four => (6, 4),
        }
    }
}

/// A convolution with its weights transformed and in kernel order, its bias and its activation.
pub struct PackedWinograd {
    isa: Isa,
    pub(crate) shape: ConvShape,
    square: Square,
    /// Of the products.
    operands: Operands,
    /// `[panel][point][channel][two vectors]`. Of bf16 weights two channels are one.
    weights: AlignedBuf,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) act: Activation,
}

impl std::fmt::Debug for PackedWinograd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedWinograd").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Whether there is such a form of a convolution.
pub fn takes(s: &ConvShape) -> bool {
    (s.kh, s.kw, s.groups) == (3, 3, 1) && s.stride == [1, 1] && s.dilation == [1, 1]
}

/// What steps cost beside a multiply-add of the direct kernel.
struct Costs {
    /// To transform one channel of a tile, in and out, for each point.
    input: f64,
    output: f64,
    /// To bring one weight from a far cache, and from a near one.
    weight: f64,
    near: f64,
    /// How much faster a form must be by this reckoning to be taken.
    gain: f64,
}

impl Costs {
    fn of(operands: Operands) -> Self {
        match operands {
            Operands::F32 => {
                Costs { input: 16.0, output: 16.0, weight: 16.0, near: 4.0, gain: 1.1 }
            }
            // Fitted to the layers of `winograd_speed` on one core of a Zen 4.
            _ => Costs { input: 7.0, output: 21.0, weight: 8.0, near: 8.0, gain: 1.2 },
        }
    }

    /// To bring one of so many weights.
    fn weight(&self, count: f64) -> f64 {
        if count <= NEAR { self.near } else { self.weight }
    }
}

/// Weights that stay in the second cache level until the model runs again.
const NEAR: f64 = (128 << 10) as f64;

/// The tiles that may be taken with these operands. Those of 4 by 4 would make the error of rounded
/// operands five times as large.
pub fn squares(operands: Operands) -> &'static [Square] {
    match operands {
        Operands::F32 => &[Square::Two, Square::Four],
        Operands::Pairs => &[Square::Two],
        Operands::Wide | Operands::Tiles => &[],
    }
}

/// The tiles with which an image of `h` by `w` is convolved fastest, or `None` where the direct
/// kernel is to be taken. The same for images alone and in a batch, whose results thus agree.
///
/// For `t` tiles, either form takes `points (t c m + t (i c + o m) + k c m)`, and the direct kernel
/// `9 (pixels + k) c m`: multiply-adds, transforms in and out, and weights that come from memory.
/// For the layers above this is within a fifth of what was measured. Where weights are far it is
/// reserved: by itself, in the loop of a tuner, a layer of 13 by 13 pixels is up to 1.38 times as
/// fast with tiles of 4 by 4 instead of 2 by 2, and not in the model, whose other weights push
/// these out.
pub fn pays(s: &ConvShape, operands: Operands, h: usize, w: usize) -> Option<Square> {
    let (oh, ow) = s.out(h, w).filter(|_| takes(s))?;
    let (c, m, costs) = (s.c as f64, s.m as f64, Costs::of(operands));
    let cost = |square: Square| {
        let (n, side) = square.sizes();
        let tiles = oh.div_ceil(side) as f64 * ow.div_ceil(side) as f64;
        let points = (n * n) as f64;
        let sums = (tiles + costs.weight(points * c * m)) * c * m;
        points * (sums + tiles * (costs.input * c + costs.output * m))
    };
    let direct = 9.0 * (oh as f64 * ow as f64 + costs.weight(9.0 * c * m)) * c * m;
    let forms = squares(operands).iter().copied();
    let best = forms.min_by(|a, b| cost(*a).total_cmp(&cost(*b)))?;
    (cost(best) * costs.gain < direct).then_some(best)
}

impl PackedWinograd {
    /// Transforms and packs `weights`, `[m, c, 3, 3]`. What is multiplied, transformed inputs and
    /// taps, has the form of `operands`. Panics if sizes disagree, the shape is none that [`takes`]
    /// takes, or the tiles are none of [`squares`].
    pub fn new(
        isa: Isa,
        operands: Operands,
        square: Square,
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        shape.check(weights.len());
        assert!(takes(&shape) && squares(operands).contains(&square), "no Winograd form");
        assert!(bias.is_none_or(|b| b.len() == shape.m), "bias of another size");
        let weights = match square {
            Square::Two => pack::<Two, 4, 2>((isa, operands), &shape, weights),
            Square::Four => pack::<Four, 6, 4>((isa, operands), &shape, weights),
        };
        let bias = bias.map(<[f32]>::to_vec);
        PackedWinograd { isa, shape, square, operands, weights, bias, act }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// `out = act(conv(x) + bias + residual)` for `n` images of `h` by `w` pixels. `residual` has
    /// the layout of `out`. Panics if a slice is too short or the kernel does not fit the image.
    pub fn run(
        &self,
        tiling: Tiling,
        x: Numbers<'_>,
        (n, h, w): (usize, usize, usize),
        residual: Option<Numbers<'_>>,
        out: NumbersOut<'_>,
    ) {
        let s = &self.shape;
        let (oh, ow) = s.out(h, w).expect("the caller has checked that the kernel fits");
        let outputs = count(&[n, oh, ow, s.m]);
        assert!(x.len() >= count(&[n, h, w, s.c]) && out.len() >= outputs, "slice too short");
        assert!(residual.is_none_or(|r| r.len() >= outputs), "residual too short");
        if outputs == 0 {
            return;
        }
        let mut zeros = lend(s.c);
        zeros.fill(0.0);
        let side = self.square.sizes().1;
        let grid = [n, oh.div_ceil(side), ow.div_ceil(side)];
        let (size, out) = ([h, w, oh, ow], out.share());
        let call = Call { conv: self, tiling, x, zeros: &zeros, size, grid, out, residual };
        match (self.operands, self.square) {
            (Operands::F32, Square::Two) => call.run::<F32, Two, 4, 2>(),
            (Operands::F32, Square::Four) => call.run::<F32, Four, 6, 4>(),
            (Operands::Pairs, Square::Two) => call.run::<Pairs, Two, 4, 2>(),
            (operands, square) => unreachable!("{square:?} is no form of {operands:?}"),
        }
    }

    /// Words of a transformed tile at a point, and steps of the register kernel.
    fn steps(&self) -> usize {
        self.operands.steps(self.shape.c)
    }

    /// Panels of two vectors of output channels.
    fn panels(&self) -> usize {
        self.shape.m.div_ceil(block(self.isa).1)
    }
}

/// The order of the register kernel.
fn pack<P: Points<N, M>, const N: usize, const M: usize>(
    (isa, operands): (Isa, Operands),
    s: &ConvShape,
    weights: &[f32],
) -> AlignedBuf {
    let (nr, steps) = (block(isa).1, operands.steps(s.c));
    let size = count(&[N * N, steps, nr]);
    let panels = s.m.div_ceil(nr);
    let mut packed = AlignedBuf::zeroed(count(&[panels, size]));
    let data = Shared::new(packed.as_mut_slice());
    for_each(panels, weights.len() > 16 << 10, |p| {
        // SAFETY: each panel is written by one task.
        let panel = unsafe { data.slice(p * size, size) };
        // The lines that a channel fills are all in the cache until they are full.
        for step in 0..steps {
            for j in 0..nr.min(s.m - p * nr) {
                let square = |c: usize| {
                    let taps = weights[(p * nr + j) * s.c * 9..].get(c * 9..c * 9 + 9);
                    taps.filter(|_| c < s.c).map_or([[0.0; N]; N], taps_square::<P, N, M>)
                };
                let to = |point: usize| (point * steps + step) * nr + j;
                if operands == Operands::F32 {
                    for (point, tap) in square(step).as_flattened().iter().enumerate() {
                        panel[to(point)] = *tap as f32;
                    }
                    continue;
                }
                let (even, odd) = (square(2 * step), square(2 * step + 1));
                let both = even.as_flattened().iter().zip(odd.as_flattened());
                for (point, (even, odd)) in both.enumerate() {
                    panel[to(point)] = pair(*even as f32, *odd as f32);
                }
            }
        }
    });
    packed
}

/// The image and the sizes of one call.
pub(crate) struct Call<'a> {
    pub(crate) conv: &'a PackedWinograd,
    tiling: Tiling,
    x: Numbers<'a>,
    /// As many as there are input channels.
    zeros: &'a [f32],
    /// Height, width; output height, width.
    pub(crate) size: [usize; 4],
    /// Images, rows of tiles, tiles in a row.
    grid: [usize; 3],
    out: SharedOut<'a>,
    pub(crate) residual: Option<Numbers<'a>>,
}

/// Transformed inputs of some tiles, or their products with one panel, as `[point][tile][row]`.
/// Rows and points lie an odd number of cache lines apart where they would else fall on the same
/// few places of the first cache level.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// Floats from tile to tile.
    pub(crate) row: usize,
    /// Floats from point to point.
    pub(crate) point: usize,
}

impl Layout {
    fn of(tiles: usize, channels: usize) -> Self {
        let lines = channels.div_ceil(LINE);
        let row = if lines.is_multiple_of(4) { lines + 1 } else { lines };
        Layout { row: row * LINE, point: (count(&[tiles, row]) | 1) * LINE }
    }

    /// Room for so many points.
    fn lend(self, points: usize) -> Lent {
        lend(count(&[points, self.point]))
    }
}

impl Call<'_> {
    fn run<R: Product, P: Points<N, M>, const N: usize, const M: usize>(&self) {
        let (conv, s) = (self.conv, &self.conv.shape);
        let (tiles, panels) = (count(&self.grid), conv.panels());
        let mr = self.tiling.rows(block(conv.isa).0);
        let work = count(&[tiles, s.m]).saturating_mul(N * N * s.c);
        let threads = if work < PAR_MIN { 1 } else { threads() };
        let block = |tiles: Range<usize>, panels: Range<usize>, input| {
            let marker = PhantomData::<(R, P)>;
            let block = Block::<R, P, N, M> { call: self, tiles, panels, input, marker };
            R::dispatch(conv.isa, block);
        };
        if threads == 1 {
            return block(0..tiles, 0..panels, None);
        }
        // Enough tiles for all: each thread transforms its own.
        if tiles >= threads * mr {
            let parts = (tiles / mr / threads).clamp(1, self.tiling.tasks.max(1)) * threads;
            return for_each(parts, true, |i| block(part(tiles, parts, i), 0..panels, None));
        }
        // Else threads share the tiles, and each has its own panels.
        let layout = Layout::of(tiles, conv.steps());
        let mut input = layout.lend(N * N);
        let shared = Shared::new(&mut input);
        let parts = tiles.min(2 * threads);
        for_each(parts, true, |i| {
            let tiles = part(tiles, parts, i);
            let at = tiles.start;
            self.transform::<R, P, N, M>(tiles, (shared, layout, at));
        });
        let across = panels.min(threads);
        let down = threads.div_ceil(across).min(tiles);
        for_each(down * across, true, |t| {
            let tiles = part(tiles, down, t % down);
            block(tiles, part(panels, across, t / down), Some((&*input, layout)));
        });
    }

    /// Transforms the inputs of tiles to places from `at` on.
    fn transform<R: Product, P: Points<N, M>, const N: usize, const M: usize>(
        &self,
        tiles: Range<usize>,
        (out, layout, at): (Shared<'_, f32>, Layout, usize),
    ) {
        let (call, marker, isa) = (self, PhantomData::<(R, P)>, self.conv.isa);
        match self.x {
            Numbers::F32(x) => {
                let x = (x.as_ptr(), self.zeros.as_ptr());
                R::dispatch(
                    isa,
                    Input::<_, _, _, N, M> { call, x, tiles, out, layout, at, marker },
                );
            }
            Numbers::Bf16(x) => {
                let x = (x.as_ptr(), self.zeros.as_ptr().cast());
                R::dispatch(
                    isa,
                    Input::<_, _, _, N, M> { call, x, tiles, out, layout, at, marker },
                );
            }
        }
    }

    /// Image, row and column of a tile.
    #[inline(always)]
    pub(crate) fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [_, down, across] = self.grid;
        let row = tile / across;
        (row / down, row % down, tile % across)
    }
}

/// Tiles and panels that one task computes, and all transformed inputs if they are made before.
struct Block<'a, R, P, const N: usize, const M: usize> {
    call: &'a Call<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
    input: Option<(&'a [f32], Layout)>,
    marker: PhantomData<(R, P)>,
}

/// Transformed inputs.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    data: &'a [f32],
    layout: Layout,
    /// The place of the first tile.
    at: usize,
}

impl<R: Product, P: Points<N, M>, const N: usize, const M: usize> Kernel for Block<'_, R, P, N, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let steps = self.call.conv.steps();
        let usual = (INPUT_BLOCK / (N * N * steps.max(1)) / S::MR).clamp(2, 4) * S::MR;
        let most = self.call.tiling.scaled(usual).clamp(1, TILES_MAX);
        let blocks = self.tiles.len().div_ceil(most).max(1);
        let size = self.tiles.len().div_ceil(blocks);
        let mut products = Layout::of(size, 2 * S::LANES).lend(N * N);
        let mut buf = self.input.is_none().then(|| Layout::of(size, steps).lend(N * N));
        for i in 0..blocks {
            let part = part(self.tiles.len(), blocks, i);
            let tiles = self.tiles.start + part.start..self.tiles.start + part.end;
            let inputs = match (&mut buf, self.input) {
                (Some(buf), _) => {
                    let layout = Layout::of(tiles.len(), steps);
                    let out = (Shared::new(&mut *buf), layout, 0);
                    self.call.transform::<R, P, N, M>(tiles.clone(), out);
                    Inputs { data: buf, layout, at: 0 }
                }
                (None, Some((data, layout))) => Inputs { data, layout, at: tiles.start },
                (None, None) => unreachable!("inputs are made here or before"),
            };
            for panel in self.panels.clone() {
                let layout = Layout::of(tiles.len(), 2 * S::LANES);
                self.multiply::<S>(tiles.len(), panel, inputs, (&mut products, layout));
                let call = self.call;
                let (tiles, products) = (tiles.clone(), &products[..]);
                match call.out {
                    SharedOut::F32(out) => {
                        let marker = PhantomData::<P>;
                        let all = Output { call, out, tiles, panel, products, layout, marker };
                        f32::dispatch(S::ISA, all);
                    }
                    SharedOut::Bf16(out) => {
                        let marker = PhantomData::<P>;
                        let all = Output { call, out, tiles, panel, products, layout, marker };
                        bf16::dispatch(S::ISA, all);
                    }
                }
            }
        }
    }
}

impl<R: Product, P: Points<N, M>, const N: usize, const M: usize> Block<'_, R, P, N, M> {
    /// The product of each point.
    #[inline(always)]
    fn multiply<S: Simd>(
        &self,
        tiles: usize,
        panel: usize,
        inputs: Inputs<'_>,
        (products, to): (&mut [f32], Layout),
    ) {
        let conv = self.call.conv;
        let (steps, nr) = (conv.steps(), 2 * S::LANES);
        assert!(nr == block(conv.isa).1, "packed for another instruction set");
        let size = N * N * steps * nr;
        let weights = &conv.weights.as_slice()[panel * size..][..size];
        // Whole vectors: what is in the lanes that do not exist is not stored in the end.
        let nv = (conv.shape.m - panel * nr).min(nr).next_multiple_of(S::LANES);
        let bias = [0.0; 32];
        assert!(nr <= bias.len(), "longer vectors than any");
        let table: [usize; 16] = std::array::from_fn(|i| i * inputs.layout.row);
        let parts = tiles.div_ceil(self.call.tiling.rows(S::MR));
        let products = Shared::new(products);
        for point in 0..N * N {
            let b = &weights[point * steps * nr..][..steps * nr];
            for i in 0..parts {
                let rows = part(tiles, parts, i);
                let mr = rows.len();
                let from =
                    point * inputs.layout.point + (inputs.at + rows.start) * inputs.layout.row;
                let x = &inputs.data[from..from + (mr - 1) * inputs.layout.row + steps];
                let out = products.rows(point * to.point + rows.start * to.row, (mr, to.row), nv);
                let tile = PixelTiles {
                    tiles: 1,
                    mr,
                    table: table.as_ptr(),
                    x: x.as_ptr(),
                    zeros: std::ptr::null(),
                    first: 0,
                    channels: steps,
                    taps: 1,
                    b: b.as_ptr(),
                    next: b.as_ptr().wrapping_add(steps * nr),
                    next_step: (0, 1),
                    bias: bias.as_ptr(),
                    out: Outputs {
                        nv,
                        c: Sink::F32(out),
                        ldc: to.row,
                        added: Added::None,
                        lda: 0,
                        end: End::NONE,
                    },
                };
                // SAFETY: the table has `mr` entries, at most `S::MR`, behind each of which lie
                // `steps` words of `x`; none is a border. The panel was sliced to `steps` of two
                // vectors. The output is inside (`rows`) and this task's own.
                unsafe { pixel_tiles::<S, R>(&tile) }
            }
        }
    }
}

#[cfg(test)]
#[path = "winograd_tests.rs"]
mod tests;

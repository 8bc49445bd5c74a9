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
//! Greatest error on random normal numbers, relative to the sum of |x||w| and against f64: 4.3e-7
//! for 4x4, 1.0e-7 for 2x2, 2.2e-7 for the direct kernel; 7e-7, 1.3e-7 and 2.2e-7 over the
//! layers above. Rerun with `HETRA_BENCH=1 cargo test --release winograd_speed -- --nocapture`.

use super::bf16::F32;
use super::conv::ConvShape;
use super::gemm_pack::block;
use super::nhwc_micro::{PixelTiles, pixel_tiles};
use super::nhwc_store::{Added, End, Outputs, Sink};
use super::tiling::Tiling;
use super::winograd_transform::{Four, Points, Two, input_square, output_square, taps_square};
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
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
    shape: ConvShape,
    square: Square,
    /// `[panel][point][channel][two vectors]`.
    weights: AlignedBuf,
    bias: Option<Vec<f32>>,
    act: Activation,
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

/// What it costs to transform one channel of a tile, in or out, for each point; and to bring one
/// weight from a far cache. In multiply-adds of the direct kernel.
const TRANSFORM_COST: f64 = 16.0;
const WEIGHT_COST: f64 = 16.0;
/// How much faster a form must be by this reckoning to be taken.
const GAIN_MIN: f64 = 1.2;

/// The tiles with which an image of `h` by `w` is convolved fastest, or `None` where the direct
/// kernel is to be taken. The same for images alone and in a batch, whose results thus agree.
///
/// For `t` tiles, either form takes `points (t c m + 16 t (c + m) + 16 c m)`, and the direct kernel
/// `9 (pixels + 16) c m`: multiply-adds, transforms, and weights that come from memory. For the
/// layers above this is within a fifth of what was measured, and it never took a slower form.
pub fn pays(s: &ConvShape, h: usize, w: usize) -> Option<Square> {
    let (oh, ow) = s.out(h, w).filter(|_| takes(s))?;
    let (c, m) = (s.c as f64, s.m as f64);
    let cost = |square: Square| {
        let (n, side) = square.sizes();
        let tiles = oh.div_ceil(side) as f64 * ow.div_ceil(side) as f64;
        let sums = (tiles + WEIGHT_COST) * c * m;
        (n * n) as f64 * (sums + TRANSFORM_COST * tiles * (c + m))
    };
    let direct = 9.0 * (oh as f64 * ow as f64 + WEIGHT_COST) * c * m;
    let best = if cost(Square::Two) < cost(Square::Four) { Square::Two } else { Square::Four };
    (cost(best) * GAIN_MIN < direct).then_some(best)
}

impl PackedWinograd {
    /// Transforms and packs `weights`, `[m, c, 3, 3]`. Panics if sizes disagree, or the shape is
    /// none that [`takes`] takes.
    pub fn new(
        isa: Isa,
        square: Square,
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        shape.check(weights.len());
        assert!(takes(&shape), "no Winograd form");
        assert!(bias.is_none_or(|b| b.len() == shape.m), "bias of another size");
        let weights = match square {
            Square::Two => pack::<Two, 4, 2>(isa, &shape, weights),
            Square::Four => pack::<Four, 6, 4>(isa, &shape, weights),
        };
        PackedWinograd { isa, shape, square, weights, bias: bias.map(<[f32]>::to_vec), act }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// The tiles given to `new`.
    pub fn square(&self) -> Square {
        self.square
    }

    /// `out = act(conv(x) + bias + residual)` for `n` images of `h` by `w` pixels. `residual` has
    /// the layout of `out`. Panics if a slice is too short or the kernel does not fit the image.
    pub fn run(
        &self,
        tiling: Tiling,
        x: &[f32],
        (n, h, w): (usize, usize, usize),
        residual: Option<&[f32]>,
        out: &mut [f32],
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
        let (size, out) = ([h, w, oh, ow], Shared::new(out));
        let call = Call { conv: self, tiling, x, zeros: &zeros, size, grid, out, residual };
        match self.square {
            Square::Two => call.run::<Two, 4, 2>(),
            Square::Four => call.run::<Four, 6, 4>(),
        }
    }

    /// Panels of two vectors of output channels.
    fn panels(&self) -> usize {
        self.shape.m.div_ceil(block(self.isa).1)
    }
}

/// The order of the register kernel.
fn pack<P: Points<N, M>, const N: usize, const M: usize>(
    isa: Isa,
    s: &ConvShape,
    weights: &[f32],
) -> AlignedBuf {
    let nr = block(isa).1;
    let size = count(&[N * N, s.c, nr]);
    let panels = s.m.div_ceil(nr);
    let mut packed = AlignedBuf::zeroed(count(&[panels, size]));
    let data = Shared::new(packed.as_mut_slice());
    for_each(panels, weights.len() > 16 << 10, |p| {
        // SAFETY: each panel is written by one task.
        let panel = unsafe { data.slice(p * size, size) };
        // The lines that a channel fills are all in the cache until they are full.
        for c in 0..s.c {
            for j in 0..nr.min(s.m - p * nr) {
                let taps = &weights[((p * nr + j) * s.c + c) * 9..][..9];
                for (point, tap) in taps_square::<P, N, M>(taps).as_flattened().iter().enumerate() {
                    panel[(point * s.c + c) * nr + j] = *tap as f32;
                }
            }
        }
    });
    packed
}

/// The image and the sizes of one call.
struct Call<'a> {
    conv: &'a PackedWinograd,
    tiling: Tiling,
    x: &'a [f32],
    /// As many as there are input channels.
    zeros: &'a [f32],
    /// Height, width; output height, width.
    size: [usize; 4],
    /// Images, rows of tiles, tiles in a row.
    grid: [usize; 3],
    out: Shared<'a, f32>,
    residual: Option<&'a [f32]>,
}

/// Transformed inputs of some tiles, or their products with one panel, as `[point][tile][row]`.
/// Rows and points lie an odd number of cache lines apart where they would else fall on the same
/// few places of the first cache level.
#[derive(Clone, Copy)]
struct Layout {
    /// Floats from tile to tile.
    row: usize,
    /// Floats from point to point.
    point: usize,
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

/// Part `i` of `parts` nearly equal ones of `0..len`.
fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

impl Call<'_> {
    fn run<P: Points<N, M>, const N: usize, const M: usize>(&self) {
        let (conv, s) = (self.conv, &self.conv.shape);
        let (tiles, panels) = (count(&self.grid), conv.panels());
        let mr = self.tiling.rows(block(conv.isa).0);
        let work = count(&[tiles, s.m]).saturating_mul(N * N * s.c);
        let threads = if work < PAR_MIN { 1 } else { threads() };
        let block = |tiles: Range<usize>, panels: Range<usize>, input| {
            let marker = PhantomData::<P>;
            conv.isa.dispatch(Block::<P, N, M> { call: self, tiles, panels, input, marker });
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
        let layout = Layout::of(tiles, s.c);
        let mut input = layout.lend(N * N);
        let shared = Shared::new(&mut input);
        let parts = tiles.min(2 * threads);
        for_each(parts, true, |i| {
            let tiles = part(tiles, parts, i);
            let at = tiles.start;
            let marker = PhantomData::<P>;
            conv.isa.dispatch(Input::<P, N, M> {
                call: self,
                tiles,
                out: shared,
                at,
                layout,
                marker,
            });
        });
        let across = panels.min(threads);
        let down = threads.div_ceil(across).min(tiles);
        for_each(down * across, true, |t| {
            let tiles = part(tiles, down, t % down);
            block(tiles, part(panels, across, t / down), Some((&*input, layout)));
        });
    }

    /// Image, row and column of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [_, down, across] = self.grid;
        let row = tile / across;
        (row / down, row % down, tile % across)
    }
}

/// Transforms the inputs of tiles.
struct Input<'a, P, const N: usize, const M: usize> {
    call: &'a Call<'a>,
    tiles: Range<usize>,
    /// `N * N` points of the layout.
    out: Shared<'a, f32>,
    layout: Layout,
    /// The place of the first tile.
    at: usize,
    marker: PhantomData<P>,
}

impl<P: Points<N, M>, const N: usize, const M: usize> Kernel for Input<'_, P, N, M> {
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

impl<P: Points<N, M>, const N: usize, const M: usize> Input<'_, P, N, M> {
    /// Where the pixels of a tile lie; zeros where they lie outside the image. Each is followed by
    /// all its channels.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> [[*const f32; N]; N] {
        let call = self.call;
        let ([h, w, ..], s) = (call.size, &call.conv.shape);
        let (image, y, x) = call.place(tile);
        let (top, left) = ((y * M).wrapping_sub(s.pads[0]), (x * M).wrapping_sub(s.pads[1]));
        let mut pixels = [[call.zeros.as_ptr(); N]; N];
        for (i, line) in pixels.iter_mut().enumerate() {
            let y = top.wrapping_add(i);
            let row = (image * h).wrapping_add(y).wrapping_mul(w);
            for (j, pixel) in line.iter_mut().enumerate() {
                let x = left.wrapping_add(j);
                if y < h && x < w {
                    *pixel = call.x.as_ptr().wrapping_add((row + x) * s.c);
                }
            }
        }
        pixels
    }

    /// One vector of channels from `at` on, the last of them if `TAIL`.
    #[inline(always)]
    fn vector<S: Simd, const TAIL: bool>(
        &self,
        s: S,
        pixels: &[[*const f32; N]; N],
        tile: usize,
        at: usize,
    ) {
        let Layout { row, point } = self.layout;
        let n = self.call.conv.shape.c - at;
        assert!(if TAIL { n < S::LANES } else { n >= S::LANES } && at + S::LANES <= row);
        let out = self.out.rows(tile * row + at, (N * N, point), S::LANES);
        // SAFETY: `n` floats are left of each pixel, of which as many as fit a vector are read. For
        // the output: `rows`. Each tile is transformed by one task, and is read when it is done.
        unsafe {
            let mut square = [[s.splat(0.0); N]; N];
            for (row, pixels) in square.iter_mut().zip(pixels) {
                for (v, pixel) in row.iter_mut().zip(pixels) {
                    let pixel = pixel.add(at);
                    *v = if TAIL { s.load_n(pixel, n) } else { s.load(pixel) };
                }
            }
            let square = input_square::<S, P, N, M>(s, square);
            for (i, v) in square.as_flattened().iter().enumerate() {
                s.store(out.add(i * point), *v);
            }
        }
    }
}

/// Tiles and panels that one task computes, and all transformed inputs if they are made before.
struct Block<'a, P, const N: usize, const M: usize> {
    call: &'a Call<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
    input: Option<(&'a [f32], Layout)>,
    marker: PhantomData<P>,
}

/// Transformed inputs.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    data: &'a [f32],
    layout: Layout,
    /// The place of the first tile.
    at: usize,
}

impl<P: Points<N, M>, const N: usize, const M: usize> Kernel for Block<'_, P, N, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.call.conv.shape.c;
        let usual = (INPUT_BLOCK / (N * N * c.max(1)) / S::MR).clamp(2, 4) * S::MR;
        let most = self.call.tiling.scaled(usual).clamp(1, TILES_MAX);
        let blocks = self.tiles.len().div_ceil(most).max(1);
        let size = self.tiles.len().div_ceil(blocks);
        let mut products = Layout::of(size, 2 * S::LANES).lend(N * N);
        let mut buf = self.input.is_none().then(|| Layout::of(size, c).lend(N * N));
        for i in 0..blocks {
            let part = part(self.tiles.len(), blocks, i);
            let tiles = self.tiles.start + part.start..self.tiles.start + part.end;
            let inputs = match (&mut buf, self.input) {
                (Some(buf), _) => {
                    let (call, layout) = (self.call, Layout::of(tiles.len(), c));
                    let (tiles, out) = (tiles.clone(), Shared::new(&mut *buf));
                    let marker = PhantomData::<P>;
                    let input = Input::<P, N, M> { call, tiles, out, layout, at: 0, marker };
                    S::ISA.dispatch(input);
                    Inputs { data: buf, layout, at: 0 }
                }
                (None, Some((data, layout))) => Inputs { data, layout, at: tiles.start },
                (None, None) => unreachable!("inputs are made here or before"),
            };
            for panel in self.panels.clone() {
                let layout = Layout::of(tiles.len(), 2 * S::LANES);
                self.multiply::<S>(tiles.len(), panel, inputs, (&mut products, layout));
                let (call, marker) = (self.call, PhantomData::<P>);
                let (tiles, products) = (tiles.clone(), &products[..]);
                S::ISA.dispatch(Output { call, tiles, panel, products, layout, marker });
            }
            self.activate::<S>(tiles);
        }
    }
}

impl<P: Points<N, M>, const N: usize, const M: usize> Block<'_, P, N, M> {
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
        let (c, nr) = (conv.shape.c, 2 * S::LANES);
        assert!(nr == block(conv.isa).1, "packed for another instruction set");
        let size = N * N * c * nr;
        let weights = &conv.weights.as_slice()[panel * size..][..size];
        // Whole vectors: what is in the lanes that do not exist is not stored in the end.
        let nv = (conv.shape.m - panel * nr).min(nr).next_multiple_of(S::LANES);
        let bias = [0.0; 32];
        assert!(nr <= bias.len(), "longer vectors than any");
        let table: [usize; 16] = std::array::from_fn(|i| i * inputs.layout.row);
        let parts = tiles.div_ceil(self.call.tiling.rows(S::MR));
        let products = Shared::new(products);
        for point in 0..N * N {
            let b = &weights[point * c * nr..][..c * nr];
            for i in 0..parts {
                let rows = part(tiles, parts, i);
                let mr = rows.len();
                let from =
                    point * inputs.layout.point + (inputs.at + rows.start) * inputs.layout.row;
                let x = &inputs.data[from..from + (mr - 1) * inputs.layout.row + c];
                let out = products.rows(point * to.point + rows.start * to.row, (mr, to.row), nv);
                let tile = PixelTiles {
                    tiles: 1,
                    mr,
                    table: table.as_ptr(),
                    x: x.as_ptr(),
                    zeros: std::ptr::null(),
                    first: 0,
                    channels: c,
                    taps: 1,
                    b: b.as_ptr(),
                    next: b.as_ptr().wrapping_add(c * nr),
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
                // `c` floats of `x`; none is a border. The panel was sliced to `c` steps of two
                // vectors. The output is inside (`rows`) and this task's own.
                unsafe { pixel_tiles::<S, F32>(&tile) }
            }
        }
    }

    /// Activations that are more than bounds, when the panels of these tiles are done.
    #[inline(always)]
    fn activate<S: Simd>(&self, tiles: Range<usize>) {
        let (call, conv) = (self.call, self.call.conv);
        if conv.act.clamp().is_some() {
            return;
        }
        let ([_, _, oh, ow], m, nr) = (call.size, conv.shape.m, 2 * S::LANES);
        let columns = self.panels.start * nr..(self.panels.end * nr).min(m);
        for tile in tiles {
            let (image, y, x) = call.place(tile);
            for y in y * M..(y * M + M).min(oh) {
                let row = (image * oh + y) * ow;
                let pixels = row + x * M..row + (x * M + M).min(ow);
                if columns.len() == m {
                    // SAFETY: these pixels are this task's, and no other reference to them is
                    // alive.
                    let all = unsafe { call.out.slice(pixels.start * m, pixels.len() * m) };
                    activation::apply(S::ISA, conv.act, all);
                    continue;
                }
                for p in pixels {
                    // SAFETY: these columns of this pixel are this task's, as above.
                    let some = unsafe { call.out.slice(p * m + columns.start, columns.len()) };
                    activation::apply(S::ISA, conv.act, some);
                }
            }
        }
    }
}

/// Transforms the products of tiles with one panel, and stores the outputs.
struct Output<'a, P, const N: usize, const M: usize> {
    call: &'a Call<'a>,
    tiles: Range<usize>,
    panel: usize,
    products: &'a [f32],
    layout: Layout,
    marker: PhantomData<P>,
}

impl<P: Points<N, M>, const N: usize, const M: usize> Kernel for Output<'_, P, N, M> {
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

impl<P: Points<N, M>, const N: usize, const M: usize> Output<'_, P, N, M> {
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
        let out = call.out.rows(start, (1, 0), len);
        let residual = call.residual.map(|r| r[start..start + len].as_ptr());
        let from = i * self.layout.row + at;
        let last = from + (N * N - 1) * self.layout.point;
        let products = self.products[from..last + S::LANES].as_ptr();
        let load = |x: &[f32]| if TAIL { s.loads_tail(&x[..n]) } else { s.loads(x) };
        let bias = conv.bias.as_ref().map(|bias| load(&bias[column..]));
        let (lo, hi) = conv.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        // SAFETY: a vector of each point was sliced. The last pixel of the last row ends at the end
        // of what was sliced of the output and the residual. Tasks have different tiles or panels,
        // so no other one uses this part of the output.
        unsafe {
            let mut square = [[s.splat(0.0); N]; N];
            for (i, v) in square.as_flattened_mut().iter_mut().enumerate() {
                *v = s.load(products.add(i * self.layout.point));
            }
            let square = output_square::<S, P, N, M>(s, square);
            for (y, line) in square.iter().enumerate().take(rows) {
                for (x, v) in line.iter().enumerate().take(columns) {
                    let (to, mut v) = ((y * ow + x) * m, *v);
                    if let Some(bias) = bias {
                        v = s.add(v, bias);
                    }
                    if let Some(r) = residual {
                        let r = r.add(to);
                        v = s.add(v, if TAIL { s.load_n(r, n) } else { s.load(r) });
                    }
                    v = s.min(s.splat(hi), s.max(s.splat(lo), v));
                    if TAIL {
                        s.store_n(out.add(to), v, n);
                    } else {
                        s.store(out.add(to), v);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "winograd_tests.rs"]
mod tests;

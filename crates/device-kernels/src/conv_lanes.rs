//! Convolutions on devices whose items work on wide vectors, which are processors.
//!
//! A vector has places of the output that lie side by side. So that those of the input do as well,
//! planes are copied first where there is padding or a stride: with zeros around them, and each
//! phase of the strides to planes of its own. Places are then counted through the whole plane, rows
//! with what is beyond the output's, and for each tap the input lies a fixed step away.

use hetra_kernel::{Lanes, kernel, kernel_fn};
use hetra_ops::ConvGeometry;
use hetra_tensor::DType;
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, Stop};
use crate::conv::Plane;
use crate::math::activate;
use crate::panels::LANES;
use crate::stored::Stored;

/// Copies lines of planes to the planes of one phase of the strides, with zeros around them.
#[kernel(group = [8])]
fn phases(
    lines: u32,
    height: u32,
    width: u32,
    row: u32,
    planes: u32,
    phases_x: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let line = global_id(0);
    if line >= lines {
        return;
    }
    let source = group_id(1);
    let phase = group_id(2);
    let phase_x = phase % phases_x;
    let to = ((phase * planes + source) * lines + line) * row;
    // What lies in the padding wraps and is beyond the last row.
    let from = line * stride_y + phase / phases_x - pad_y;
    let mut first = 0u32;
    let mut last = 0u32;
    if from < height {
        if pad_x > phase_x {
            first = (pad_x - phase_x + stride_x - 1) / stride_x;
        }
        if width + pad_x > phase_x {
            last = ((width + pad_x - phase_x + stride_x - 1) / stride_x).min(row);
        }
        first = first.min(last);
    }
    let at = (source * height + from) * width + phase_x - pad_x;
    for q in 0..first {
        y[to + q] = 0.0;
    }
    if stride_x == 1 {
        for q in first..last {
            y[to + q] = x[at + q];
        }
    } else {
        for q in first..last {
            y[to + q] = x[at + q * stride_x];
        }
    }
    for q in last..row {
        y[to + q] = 0.0;
    }
}

/// Activations (of `math::activate`) whose exponentials are dear one by one: the sigmoid of `x`,
/// and that times `x`.
#[kernel_fn]
fn by_exponentials<const CODE: u32>(x: Lanes<f32, 16>) -> Lanes<f32, 16> {
    let one = splat::<16>(1.0);
    let top = if CODE == 7 { x } else { one };
    top / (one + (-x).exp())
}

/// `ROWS` channels of `VECTORS` vectors of places; `FLOATS` is how many these have. An item does
/// `each` such spans, one after the other; the last one begins earlier, so that it ends with the
/// last place.
#[kernel(group = [1, 1])]
fn spans<const ROWS: usize, const VECTORS: usize, const FLOATS: usize, const CODE: u32>(
    images: u32,
    channels_in: u32,
    group_in: u32,
    group_out: u32,
    tiles: u32,
    row: u32,
    plane: u32,
    out_row: u32,
    out_places: u32,
    length: u32,
    each: u32,
    phases_x: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    has_bias: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let group = group_id(1) / tiles;
    let first = (group_id(1) % tiles) * ROWS;
    let image = group_id(2);
    let source = (image * channels_in + group * group_in) * plane;
    let channel = group * group_out + first;
    let rows = (group_out - first).min(ROWS as u32);
    let width = (FLOATS / ROWS) as u32;
    let mut all = [0.0; FLOATS];
    for turn in 0..each {
        let from = (group_id(0) * each + turn) * width;
        if from >= length {
            break;
        }
        let begin = from.min(length - width);
        let mut sums = [[splat::<16>(0.0); VECTORS]; ROWS];
        let mut loaded = [splat::<16>(0.0); VECTORS];
        let mut weight = group_id(1) * taps_y * taps_x * group_in * ROWS;
        for ty in 0..taps_y {
            let down = ty * dilation_y;
            for tx in 0..taps_x {
                let right = tx * dilation_x;
                let phase = (down % stride_y) * phases_x + right % stride_x;
                let step = (down / stride_y) * row + right / stride_x;
                let mut at = phase * images * channels_in * plane + source + step + begin;
                for c in 0..group_in {
                    for v in 0..VECTORS {
                        loaded[v] = x.vector::<16>(at + v * 16);
                    }
                    for i in 0..ROWS {
                        let by = splat::<16>(w[weight + c * ROWS + i]);
                        for v in 0..VECTORS {
                            sums[i][v] = by.mul_add(loaded[v], sums[i][v]);
                        }
                    }
                    at += plane;
                }
                weight += group_in * ROWS;
            }
        }
        for i in 0..ROWS {
            let add = if has_bias != 0 { bias[channel + (i as u32).min(rows - 1)] } else { 0.0 };
            for v in 0..VECTORS {
                let mut sum = sums[i][v] + splat::<16>(add);
                if CODE == 2 || CODE == 7 {
                    sum = by_exponentials::<CODE>(sum);
                }
                all.set_vector((i * VECTORS + v) * 16, sum);
            }
        }
        let end = (from + width).min(length);
        for i in 0..rows {
            let to = (image * (channels_in / group_in) * group_out + channel + i) * out_places;
            let mut q = from;
            while q < end {
                let line = q / row;
                let until = (line * row + out_row).min(end);
                // Steps that are less than nothing wrap, and so do their sums.
                let target = to + line * out_row - line * row;
                let own = i * width - begin;
                for j in q..until {
                    let value = all[own + j];
                    if CODE == 2 || CODE == 7 {
                        y[target + j] = scale * value + shift;
                    } else {
                        y[target + j] = activate(value, CODE, act_a, act_b, scale, shift);
                    }
                }
                q = (line + 1) * row;
            }
        }
    }
}

/// How many rows and vectors an item has: their sums stay in registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tile {
    pub(crate) rows: usize,
    pub(crate) vectors: usize,
}

/// Those that registers of 512 bits, and of 256, hold.
const WIDE: &[(usize, usize)] = &[(12, 2), (8, 3), (6, 4), (4, 6), (2, 8), (1, 8)];
const NARROW: &[(usize, usize)] = &[(3, 2), (2, 2), (1, 4)];

/// Tiles that a device takes; none where items do not work on vectors.
pub(crate) fn tiles(lanes: u32) -> &'static [(usize, usize)] {
    match lanes {
        16.. => WIDE,
        8..16 => NARROW,
        _ => &[],
    }
}

impl Tile {
    /// The tile that wastes least where groups have so many channels; `None` where items do not
    /// work on vectors.
    pub(crate) fn of(lanes: u32, group_out: usize) -> Option<Tile> {
        let all = tiles(lanes).iter().map(|&(rows, vectors)| Tile { rows, vectors });
        // For each vector of places: multiplications, or what they wait for, which is memory.
        let cost = |tile: &Tile| {
            let (rows, vectors) = (tile.rows as f64, tile.vectors as f64);
            let loads = 1.5 * vectors + 0.5 * rows;
            let turns = group_out.div_ceil(tile.rows) as f64 / vectors;
            (turns * loads.max(rows * vectors), turns * loads)
        };
        all.min_by(|a, b| cost(a).partial_cmp(&cost(b)).unwrap_or(std::cmp::Ordering::Equal))
    }
}

/// Copies have at most so many times the places of a plane, and some besides.
const COPY_MAX: usize = 4;
const COPY_FREE: usize = 4096;

/// What a convolution reads and how: planes as they are, or copied.
struct Source {
    /// Extents of a plane that is read.
    lines: usize,
    row: usize,
    phases: [usize; 2],
    /// Whether it is the input as it is.
    plain: bool,
}

impl Source {
    fn of(plane: &Plane, [height, width]: [usize; 2], output: [usize; 2]) -> Source {
        let reach = |axis: usize| (plane.taps[axis] - 1) * plane.dilations[axis];
        let extent = |axis: usize| output[axis] + reach(axis) / plane.strides[axis];
        let phases = |axis: usize| plane.strides[axis].min(reach(axis) + 1);
        let (lines, row) = (extent(0), extent(1));
        let as_it_is = plane.strides == [1, 1] && plane.pads == [0, 0];
        let plain = as_it_is && [lines, row] == [height, width];
        Source { lines, row, phases: [phases(0), phases(1)], plain }
    }

    /// Places of the output, with those between its rows.
    fn length(&self, [out_height, out_width]: [usize; 2]) -> usize {
        (out_height - 1) * self.row + out_width
    }

    /// Whether copies are little more than the planes themselves, and what counts their places does
    /// not wrap.
    fn pays(&self, plane: &Plane, input: [usize; 2]) -> bool {
        let copied = self.phases[0] * self.phases[1] * self.lines * self.row;
        let reach = |axis: usize| {
            let lines = [self.lines, self.row][axis].checked_mul(plane.strides[axis])?;
            lines.checked_add(plane.pads[axis])?.checked_add(input[axis])
        };
        let fits = |axis| reach(axis).is_some_and(|reach| reach <= i32::MAX as usize);
        copied <= COPY_MAX * input[0] * input[1] + COPY_FREE && fits(0) && fits(1)
    }

    fn copy(
        &self,
        gpu: &Gpu,
        plane: &Plane,
        geometry: &ConvGeometry,
        [height, width]: [usize; 2],
        x: &Stored,
    ) -> Result<Stored, Stop> {
        let planes = geometry.batch * geometry.channels_in;
        let count = self.phases[0] * self.phases[1];
        let copied = gpu.room(DType::F32, &[count, planes, self.lines, self.row])?;
        let kernel = gpu.kernel("phases", || phases::with(&[]))?;
        let args = [
            A::U(self.lines),
            A::U(height),
            A::U(width),
            A::U(self.row),
            A::U(planes),
            A::U(self.phases[1]),
            A::U(plane.strides[0]),
            A::U(plane.strides[1]),
            A::U(plane.pads[0]),
            A::U(plane.pads[1]),
            A::M(x),
            A::M(&copied),
        ];
        gpu.launch(&kernel, [self.lines.div_ceil(8), planes, count], &args)?;
        Ok(copied)
    }
}

/// Writes a convolution to `out`; `w` is packed for tiles of `tile.rows`. An item does several
/// spans until it has `least` multiplications of vectors. False where a plane has less than one.
pub(crate) fn convolve(
    gpu: &Gpu,
    (tile, least): (Tile, usize),
    act: Activate,
    (geometry, plane): (&ConvGeometry, &Plane),
    (input, output): ([usize; 2], [usize; 2]),
    [x, w, bias, out]: [Option<&Stored>; 4],
) -> Result<bool, Stop> {
    let (Some(x), Some(w), Some(out)) = (x, w, out) else { return Err(Stop::Host) };
    let source = Source::of(plane, input, output);
    let flat = source.plain && plane.taps == [1, 1];
    let length = source.length(output);
    let vectors = tile.vectors.min(length / LANES);
    if vectors == 0 {
        return Ok(false);
    }
    let copied;
    let x = match source.plain {
        true => x,
        // Planes with holes are read as they are, by the other kernel.
        false if !source.pays(plane, input) => return Ok(false),
        false => match source.copy(gpu, plane, geometry, input, x) {
            Ok(made) => {
                copied = made;
                &copied
            }
            // No room.
            Err(Stop::Host) => return Ok(false),
            Err(fault) => return Err(fault),
        },
    };
    let tiles = geometry.group_out().div_ceil(tile.rows);
    let spans = length.div_ceil(vectors * LANES);
    let work = plane.taps[0] * plane.taps[1] * geometry.group_in() * tile.rows * vectors;
    let each = (least / work.max(1)).clamp(1, spans);
    // Rows that follow each other without a gap are one.
    let (row, out_row) = if flat { (length, length) } else { (source.row, output[1]) };
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![
        A::U(geometry.batch),
        A::U(geometry.channels_in),
        A::U(geometry.group_in()),
        A::U(geometry.group_out()),
        A::U(tiles),
        A::U(row),
        A::U(source.lines * source.row),
        A::U(out_row),
        A::U(output[0] * output[1]),
        A::U(length),
        A::U(each),
        A::U(source.phases[1]),
    ];
    args.extend(plane.args().take(6));
    args.push(A::U(usize::from(bias.is_some())));
    args.extend(act.args().into_iter().skip(1));
    args.extend([A::M(x), A::M(w), A::M(bias.unwrap_or(w)), A::M(out)]);
    let floats = tile.rows * vectors * LANES;
    let constants = [tile.rows, vectors, floats, act.code()].map(|n| n as u32);
    let name = format!("spans {constants:?}");
    let kernel = gpu.kernel(&name, || self::spans::with(&constants))?;
    gpu.launch(&kernel, [spans.div_ceil(each), geometry.groups * tiles, geometry.batch], &args)?;
    Ok(true)
}

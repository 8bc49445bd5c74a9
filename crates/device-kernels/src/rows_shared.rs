//! What runs over rows, where the items of a group share memory, as on GPUs: a group has a row.
//! Element `i` of it is at `(outer * length + i) * inner + rest`.

use hetra_device::LaunchLimits;
use hetra_kernel::{kernel, kernel_fn};

use crate::math::{between, is_nan};

/// Items of a group.
pub(crate) const GROUP: usize = 128;

/// The constants of the kernels: `ITEMS` of a group, and `TURNS` in which two partial results at a
/// time become one, until one is left.
pub(crate) const CONSTANTS: [u32; 2] = [GROUP as u32, GROUP.ilog2()];

/// Most groups of a launch: beyond it there are enough rows for an item each.
const ROWS_MAX: usize = 1 << 16;

/// Whether a group for each row takes less time than an item for each.
pub(crate) fn pays(limits: &LaunchLimits, rows: usize, length: usize, inner: usize) -> bool {
    let can = limits.cheap_barriers && limits.group_items_max as usize >= GROUP;
    // Rows whose elements lie apart are read together by items that are neighbours.
    let few = rows < if inner == 1 { ROWS_MAX } else { limits.units * GROUP };
    can && length >= GROUP && few
}

/// The place of the first element of a part in its row.
#[kernel_fn]
fn first_in_row(part: u32, lanes: u32, each: u32) -> u32 {
    (part / lanes) * lanes * each + part % lanes
}

/// A part of a row: `each` elements, `lanes` apart, so that items that are neighbours read
/// neighbours. `g` counts parts: rows have `parts` of them.
#[kernel_fn]
pub(crate) fn first_of(g: u32, length: u32, inner: u32, parts: u32, lanes: u32, each: u32) -> u32 {
    let part = (g / inner) % parts;
    (g / (inner * parts)) * length * inner + first_in_row(part, lanes, each) * inner + g % inner
}

/// How many elements a part has.
#[kernel_fn]
pub(crate) fn count_of(part: u32, length: u32, lanes: u32, each: u32) -> u32 {
    let first = first_in_row(part, lanes, each);
    let left = if first < length { (length - first + lanes - 1) / lanes } else { 0 };
    left.min(each)
}

/// Two partial results as one; `way` as in `reduce.rs`.
#[kernel_fn]
pub(crate) fn merged(way: u32, a: f32, b: f32) -> f32 {
    let sum = a + b;
    let greater = if b > a { b } else { a };
    let less = if b < a { b } else { a };
    let number = if is_nan(b) { b } else { a };
    let no_number = is_nan(a) || is_nan(b);
    let mut result = sum;
    if way == 1 {
        result = if no_number { number } else { greater };
    } else if way == 2 {
        result = if no_number { number } else { less };
    } else if way == 3 {
        result = a * b;
    } else if way == 6 {
        result = greater;
    }
    result
}

/// What changes nothing where it is merged with a number.
#[kernel_fn]
pub(crate) fn neutral(way: u32) -> f32 {
    let mut value = 0.0;
    if way == 1 || way == 6 {
        value = f32::NEG_INFINITY;
    } else if way == 2 {
        value = f32::INFINITY;
    } else if way == 3 {
        value = 1.0;
    }
    value
}

/// What is merged of an element.
#[kernel_fn]
pub(crate) fn taken(way: u32, value: f32) -> f32 {
    let mut result = value;
    if way == 4 {
        result = value.abs();
    } else if way == 5 {
        result = value * value;
    }
    result
}

/// Of the logarithm of a sum of exponentials (`log` is 1), or the root of a sum of squares: what is
/// less than any size.
#[kernel_fn]
pub(crate) fn nothing(log: u32) -> f32 {
    if log != 0 { f32::NEG_INFINITY } else { 0.0 }
}

/// What the greatest is looked for of.
#[kernel_fn]
pub(crate) fn size_of(log: u32, value: f32) -> f32 {
    if log != 0 { value } else { value.abs() }
}

/// What elements are brought near one by: the greatest size, neither nothing nor infinite.
#[kernel_fn]
pub(crate) fn unit_of(log: u32, greatest: f32) -> f32 {
    let least = if log != 0 { f32::MIN } else { 1e-30 };
    let most = if log != 0 { f32::MAX } else { 1e30 };
    between(greatest, least, most)
}

/// What is added up of an element.
#[kernel_fn]
pub(crate) fn term_of(log: u32, value: f32, unit: f32) -> f32 {
    let mut term = 0.0;
    if log != 0 {
        term = (value - unit).exp();
    } else {
        term = (value / unit) * (value / unit);
    }
    term
}

/// The result of a sum.
#[kernel_fn]
pub(crate) fn whole_of(log: u32, unit: f32, sum: f32) -> f32 {
    if log != 0 { unit + sum.ln() } else { unit * sum.sqrt() }
}

/// Which of the factors of a norm an element has: each is for `per` neighbours, and they repeat.
#[kernel_fn]
pub(crate) fn factor_of(at: u32, per: u32, factors: u32) -> u32 {
    if per == 1 { at % factors } else { (at / per) % factors }
}

/// Reductions, as `reduce.rs` has them.
#[kernel(group = [ITEMS])]
pub(crate) fn reduced<const ITEMS: usize, const TURNS: usize>(
    length: u32,
    inner: u32,
    parts: u32,
    lanes: u32,
    each: u32,
    way: u32,
    factor: f32,
    x: &[f32],
    y: &mut [f32],
) {
    let tile = shared::<[f32; ITEMS]>();
    let g = group_id(0);
    let item = local_id(0);
    let count = count_of((g / inner) % parts, length, lanes, each);
    let from = first_of(g, length, inner, parts, lanes, each);
    let mut result = neutral(way);
    for i in (item..count).step_by(ITEMS) {
        result = merged(way, result, taken(way, x[from + i * lanes * inner]));
    }
    tile[item] = result;
    barrier();
    for turn in 0..TURNS {
        let half = (ITEMS >> 1) >> turn;
        if item < half {
            tile[item] = merged(way, tile[item], tile[item + half]);
        }
        barrier();
    }
    if item == 0 {
        y[g] = tile[0] * factor;
    }
}

/// As `scaled` of `reduce.rs`.
#[kernel(group = [ITEMS])]
pub(crate) fn scaled<const ITEMS: usize, const TURNS: usize>(
    length: u32,
    inner: u32,
    parts: u32,
    lanes: u32,
    each: u32,
    log: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let tile = shared::<[f32; ITEMS]>();
    let g = group_id(0);
    let item = local_id(0);
    let count = count_of((g / inner) % parts, length, lanes, each);
    let from = first_of(g, length, inner, parts, lanes, each);
    let step = lanes * inner;
    let mut unit = nothing(log);
    let mut all = 0.0;
    // First the greatest, then the sum.
    for pass in 0..2 {
        let mut part = if pass == 0 { unit } else { 0.0 };
        for i in (item..count).step_by(ITEMS) {
            let value = x[from + i * step];
            if pass == 0 {
                part = part.max(size_of(log, value));
            } else {
                part += term_of(log, value, unit);
            }
        }
        tile[item] = part;
        barrier();
        for turn in 0..TURNS {
            let half = (ITEMS >> 1) >> turn;
            if item < half {
                let other = tile[item + half];
                let own = tile[item];
                tile[item] = if pass == 0 { own.max(other) } else { own + other };
            }
            barrier();
        }
        if pass == 0 {
            unit = unit_of(log, tile[0]);
        } else {
            all = tile[0];
        }
        barrier();
    }
    if item == 0 {
        y[g] = whole_of(log, unit, all);
    }
}

#[kernel(group = [ITEMS])]
pub(crate) fn softmax<const ITEMS: usize, const TURNS: usize>(
    length: u32,
    inner: u32,
    log: u32,
    x: &[f32],
    y: &mut [f32],
) {
    let tile = shared::<[f32; ITEMS]>();
    let row = group_id(0);
    let item = local_id(0);
    let from = (row / inner) * length * inner + row % inner;
    let mut greatest = x[from];
    let mut all = 0.0;
    // First the greatest, then the sum.
    for pass in 0..2 {
        let mut part = if pass == 0 { greatest } else { 0.0 };
        for i in (item..length).step_by(ITEMS) {
            let value = x[from + i * inner];
            if pass == 0 {
                part = part.max(value);
            } else {
                part += (value - greatest).exp();
            }
        }
        tile[item] = part;
        barrier();
        for turn in 0..TURNS {
            let half = (ITEMS >> 1) >> turn;
            if item < half {
                let other = tile[item + half];
                let own = tile[item];
                tile[item] = if pass == 0 { own.max(other) } else { own + other };
            }
            barrier();
        }
        if pass == 0 {
            greatest = tile[0];
        } else {
            all = tile[0];
        }
        barrier();
    }
    let below = all.ln();
    let factor = 1.0 / all;
    for i in (item..length).step_by(ITEMS) {
        let off = x[from + i * inner] - greatest;
        if log != 0 {
            y[from + i * inner] = off - below;
        } else {
            y[from + i * inner] = off.exp() * factor;
        }
    }
}

#[kernel(group = [ITEMS])]
pub(crate) fn norm<const ITEMS: usize, const TURNS: usize>(
    length: u32,
    per: u32,
    factors: u32,
    epsilon: f32,
    centred: u32,
    has_bias: u32,
    x: &[f32],
    scale: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let tile = shared::<[f32; ITEMS]>();
    let item = local_id(0);
    let from = group_id(0) * length;
    let mut mean = 0.0;
    let mut variance = 0.0;
    // First the mean, then what it lost to rounding, then what lies off it.
    for pass in 0..3 {
        let mut part = 0.0;
        for i in (item..length).step_by(ITEMS) {
            let off = x[from + i] - mean;
            let more = if pass < 2 { off } else { off * off };
            part += more;
        }
        tile[item] = part;
        barrier();
        for turn in 0..TURNS {
            let half = (ITEMS >> 1) >> turn;
            if item < half {
                tile[item] = tile[item] + tile[item + half];
            }
            barrier();
        }
        let result = tile[0] / (length as f32);
        if pass < 2 {
            let more = if centred != 0 { result } else { 0.0 };
            mean += more;
        } else {
            variance = result;
        }
        barrier();
    }
    let factor = 1.0 / (variance + epsilon).sqrt();
    for i in (item..length).step_by(ITEMS) {
        let of = factor_of(from + i, per, factors);
        let mut value = (x[from + i] - mean) * factor * scale[of];
        if has_bias != 0 {
            value += bias[of];
        }
        y[from + i] = value;
    }
}

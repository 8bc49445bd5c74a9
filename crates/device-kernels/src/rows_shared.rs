//! What runs over rows, where the items of a group share memory, as on GPUs: a group has a row.
//! Element `i` of it is at `(outer * length + i) * inner + rest`.

use hetra_device::LaunchLimits;
use hetra_kernel::{kernel, kernel_fn};

use crate::math::is_nan;

/// Items of a group, as the kernels spell them out.
pub(crate) const GROUP: usize = 128;

/// Most groups of a launch: beyond it there are enough rows for an item each.
const ROWS_MAX: usize = 1 << 16;

/// Whether a group for each row takes less time than an item for each.
pub(crate) fn pays(limits: &LaunchLimits, rows: usize, length: usize, inner: usize) -> bool {
    let can = limits.cheap_barriers && limits.group_items_max as usize >= GROUP;
    // Rows whose elements lie apart are read together by items that are neighbours.
    let few = rows < if inner == 1 { ROWS_MAX } else { limits.units * GROUP };
    can && length >= GROUP && few
}

/// Two partial results as one; `way` as in `rows.rs`.
#[kernel_fn]
fn merged(way: u32, a: f32, b: f32) -> f32 {
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

/// Reductions, as `rows.rs` has them.
#[kernel(group = [128])]
pub(crate) fn reduced(length: u32, inner: u32, way: u32, factor: f32, x: &[f32], y: &mut [f32]) {
    let tile = shared::<[f32; 128]>();
    let row = group_id(0);
    let item = local_id(0);
    let from = (row / inner) * length * inner + row % inner;
    let mut result = 0.0;
    if way == 1 || way == 2 {
        result = x[from];
    } else if way == 3 {
        result = 1.0;
    } else if way == 6 {
        result = f32::NEG_INFINITY;
    }
    for i in (item..length).step_by(128) {
        let mut value = x[from + i * inner];
        if way == 4 {
            value = value.abs();
        } else if way == 5 {
            value = value * value;
        }
        result = merged(way, result, value);
    }
    tile[item] = result;
    barrier();
    for turn in 0..7 {
        let half = 64u32 >> turn;
        if item < half {
            tile[item] = merged(way, tile[item], tile[item + half]);
        }
        barrier();
    }
    if item == 0 {
        y[row] = tile[0] * factor;
    }
}

#[kernel(group = [128])]
pub(crate) fn softmax(length: u32, inner: u32, log: u32, x: &[f32], y: &mut [f32]) {
    let tile = shared::<[f32; 128]>();
    let row = group_id(0);
    let item = local_id(0);
    let from = (row / inner) * length * inner + row % inner;
    let mut greatest = x[from];
    for i in (item..length).step_by(128) {
        greatest = greatest.max(x[from + i * inner]);
    }
    tile[item] = greatest;
    barrier();
    for turn in 0..7 {
        let half = 64u32 >> turn;
        if item < half {
            tile[item] = tile[item].max(tile[item + half]);
        }
        barrier();
    }
    greatest = tile[0];
    barrier();
    let mut sum = 0.0;
    for i in (item..length).step_by(128) {
        sum += (x[from + i * inner] - greatest).exp();
    }
    tile[item] = sum;
    barrier();
    for turn in 0..7 {
        let half = 64u32 >> turn;
        if item < half {
            tile[item] = tile[item] + tile[item + half];
        }
        barrier();
    }
    let all = tile[0];
    let below = all.ln();
    let factor = 1.0 / all;
    for i in (item..length).step_by(128) {
        let off = x[from + i * inner] - greatest;
        if log != 0 {
            y[from + i * inner] = off - below;
        } else {
            y[from + i * inner] = off.exp() * factor;
        }
    }
}

#[kernel(group = [128])]
pub(crate) fn layer_norm(
    length: u32,
    epsilon: f32,
    has_bias: u32,
    x: &[f32],
    scale: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let tile = shared::<[f32; 128]>();
    let item = local_id(0);
    let from = group_id(0) * length;
    let mut sum = 0.0;
    for i in (item..length).step_by(128) {
        sum += x[from + i];
    }
    tile[item] = sum;
    barrier();
    for turn in 0..7 {
        let half = 64u32 >> turn;
        if item < half {
            tile[item] = tile[item] + tile[item + half];
        }
        barrier();
    }
    let mean = tile[0] / (length as f32);
    barrier();
    let mut squares = 0.0;
    for i in (item..length).step_by(128) {
        let off = x[from + i] - mean;
        squares += off * off;
    }
    tile[item] = squares;
    barrier();
    for turn in 0..7 {
        let half = 64u32 >> turn;
        if item < half {
            tile[item] = tile[item] + tile[item + half];
        }
        barrier();
    }
    let factor = 1.0 / (tile[0] / (length as f32) + epsilon).sqrt();
    for i in (item..length).step_by(128) {
        let mut value = (x[from + i] - mean) * factor * scale[i];
        if has_bias != 0 {
            value += bias[i];
        }
        y[from + i] = value;
    }
}

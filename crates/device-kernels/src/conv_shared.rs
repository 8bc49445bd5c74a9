//! Convolutions as products of the weights and of what each place of the output sees of the input
//! (implicit GEMM), for devices on which items of a group share memory at little cost.

use hetra_kernel::kernel;

use crate::math::activate;

/// An item has `M` channels and `N` places; a group `ROWS` and `COLUMNS`, of which an item loads
/// `LEFT` and `RIGHT` at a time, `DEPTH` steps of the sums before they are needed. Weights are
/// packed in blocks of `ROWS` channels.
#[kernel(group = [G, G])]
pub(crate) fn convolve_shared<
    const M: usize,
    const N: usize,
    const G: usize,
    const ROWS: usize,
    const COLUMNS: usize,
    const DEPTH: usize,
    const BOTH: usize,
    const LEFT: usize,
    const RIGHT: usize,
>(
    images: u32,
    part: u32,
    channels_in: u32,
    height: u32,
    width: u32,
    out_width: u32,
    out_places: u32,
    group_in: u32,
    group_out: u32,
    blocks: u32,
    taps_y: u32,
    taps_x: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    pad_y: u32,
    pad_x: u32,
    has_bias: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let tile_w = shared::<[[f32; ROWS]; BOTH]>();
    let tile_x = shared::<[[f32; COLUMNS]; BOTH]>();
    let across = local_id(0);
    let down = local_id(1);
    let item = down * G + across;
    let first_place = group_id(0) * COLUMNS;
    let group = group_id(1) / blocks;
    let first = (group_id(1) % blocks) * ROWS;
    let image = group_id(2) % images;
    let plane = height * width;
    let source = (image * channels_in + group * group_in) * plane;
    let steps = taps_y * taps_x * group_in;
    let begin = ((group_id(2) / images) * part).min(steps);
    let end = (begin + part).min(steps);
    let turns = (end - begin + DEPTH - 1) / DEPTH;
    let weights = group_id(1) * steps * ROWS;
    let mut sums = [[0.0; N]; M];
    let mut left = [0.0; M];
    let mut next_w = [0.0; LEFT];
    let mut next_x = [0.0; RIGHT];
    // All that an item loads of the input is of one place: a group has a whole number of times as
    // many items as places.
    let place = first_place + item % COLUMNS;
    let top = (place / out_width) * stride_y - pad_y;
    let side = (place % out_width) * stride_x - pad_x;
    for turn in 0..turns + 1 {
        let from = begin + turn * DEPTH;
        for i in 0..LEFT {
            let e = item + i * (G * G);
            let mut value = 0.0;
            if from + e / ROWS < end {
                value = w[weights + from * ROWS + e];
            }
            next_w[i] = value;
        }
        for i in 0..RIGHT {
            let e = item + i * (G * G);
            let step = from + e / COLUMNS;
            let mut value = 0.0;
            if step < end && place < out_places {
                let tap = step / group_in;
                let channel = step - tap * group_in;
                let tap_y = tap / taps_x;
                // What lies in the padding wraps and is beyond the last row.
                let row = top + tap_y * dilation_y;
                let column = side + (tap - tap_y * taps_x) * dilation_x;
                if row < height && column < width {
                    value = x[source + channel * plane + row * width + column];
                }
            }
            next_x[i] = value;
        }
        if turn > 0 {
            let now = ((turn - 1) % 2) * DEPTH;
            for p in 0..DEPTH {
                for i in 0..M {
                    left[i] = tile_w[now + p][down * M + i];
                }
                for j in 0..N {
                    let right = tile_x[now + p][across + j * G];
                    for i in 0..M {
                        sums[i][j] += left[i] * right;
                    }
                }
            }
        }
        let then = (turn % 2) * DEPTH;
        for i in 0..LEFT {
            let e = item + i * (G * G);
            tile_w[then + e / ROWS][e % ROWS] = next_w[i];
        }
        for i in 0..RIGHT {
            let e = item + i * (G * G);
            tile_x[then + e / COLUMNS][e % COLUMNS] = next_x[i];
        }
        barrier();
    }
    let channels = (channels_in / group_in) * group_out;
    for i in 0..M {
        for j in 0..N {
            let channel = first + down * M + i;
            let place = first_place + across + j * G;
            if channel < group_out && place < out_places {
                let mut sum = sums[i][j];
                if has_bias != 0 {
                    sum += bias[group * group_out + channel];
                }
                y[(group_id(2) * channels + group * group_out + channel) * out_places + place] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

//! Convolutions as products of the weights and of what each place of the output sees of the input
//! (implicit GEMM), for devices on which items of a group share memory at little cost.

use hetra_kernel::kernel;

use crate::math::activate;

/// An item has `M` channels and `N` places; a group `ROWS` and `COLUMNS`. Weights are packed in
/// blocks of `ROWS` channels.
#[kernel(group = [G, G])]
pub(crate) fn convolve_shared<
    const M: usize,
    const N: usize,
    const G: usize,
    const ROWS: usize,
    const COLUMNS: usize,
>(
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
    let tile_w = shared::<[[f32; ROWS]; 16]>();
    let tile_x = shared::<[[f32; COLUMNS]; 16]>();
    let across = local_id(0);
    let down = local_id(1);
    let item = down * G + across;
    let first_place = group_id(0) * COLUMNS;
    let group = group_id(1) / blocks;
    let first = (group_id(1) % blocks) * ROWS;
    let image = group_id(2);
    let plane = height * width;
    let source = (image * channels_in + group * group_in) * plane;
    let steps = taps_y * taps_x * group_in;
    let weights = group_id(1) * steps * ROWS;
    let mut sums = [[0.0; N]; M];
    let mut left = [0.0; M];
    for from in (0..steps).step_by(16) {
        for e in (item..ROWS * 16).step_by(G * G) {
            let p = e / ROWS;
            let mut value = 0.0;
            if from + p < steps {
                value = w[weights + (from + p) * ROWS + e % ROWS];
            }
            tile_w[p][e % ROWS] = value;
        }
        for e in (item..COLUMNS * 16).step_by(G * G) {
            let step = from + e / COLUMNS;
            let place = first_place + e % COLUMNS;
            let mut value = 0.0;
            if step < steps && place < out_places {
                let tap = step / group_in;
                // What lies in the padding wraps and is beyond the last row.
                let row = (place / out_width) * stride_y + (tap / taps_x) * dilation_y - pad_y;
                let column = (place % out_width) * stride_x + (tap % taps_x) * dilation_x - pad_x;
                if row < height && column < width {
                    value = x[source + (step % group_in) * plane + row * width + column];
                }
            }
            tile_x[e / COLUMNS][e % COLUMNS] = value;
        }
        barrier();
        for p in 0..16 {
            for i in 0..M {
                left[i] = tile_w[p][down * M + i];
            }
            for j in 0..N {
                let right = tile_x[p][across + j * G];
                for i in 0..M {
                    sums[i][j] += left[i] * right;
                }
            }
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
                y[(image * channels + group * group_out + channel) * out_places + place] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

//! Patches of a picture by affine maps, normalised: `hetra.Warp`.

use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::threads::for_ranges;

/// Places that a task makes.
const GRAIN: usize = 4 << 10;

/// A picture and how patches of it are made.
#[derive(Clone, Copy, Debug)]
pub struct Warp<'a> {
    /// Rows of pixels of three channels.
    pub pixels: &'a [u8],
    /// Height and width of the picture, both at least 1.
    pub picture: (usize, usize),
    /// Height and width of a patch.
    pub size: (usize, usize),
    /// What each channel of a patch has taken from it, and is then multiplied by.
    pub mean: [f32; 3],
    /// See `mean`.
    pub scale: [f32; 3],
    /// The channel of the picture that each channel of a patch shows.
    pub channels: [usize; 3],
    /// What stands outside of the picture.
    pub fill: f32,
}

/// Makes a patch by each map of six numbers. Panics where slices are too short.
pub fn warp(p: &Warp<'_>, maps: &[f32], out: &mut [f32]) {
    let ((height, width), (h, w)) = (p.picture, p.size);
    let patches = maps.len() / 6;
    assert!(height > 0 && width > 0 && p.pixels.len() >= count(&[height, width, 3]), "pixels");
    assert!(out.len() >= count(&[patches, 3, h, w]), "output too short");
    let out = Shared::new(out);
    for_ranges(patches * h, GRAIN / w.max(1), |start, len| {
        let mut blended = Vec::new();
        for row in start..start + len {
            let (patch, y) = (row / h, row % h);
            let map = &maps[patch * 6..][..6];
            // SAFETY: each row of each channel of each patch is made by one task, once.
            let rows = [0, 1, 2]
                .map(|channel| unsafe { out.slice(((patch * 3 + channel) * h + y) * w, w) });
            match map[1] == 0.0 && map[3] == 0.0 {
                true => straight(p, map, y as f32, rows, &mut blended),
                false => line(p, map, y as f32, rows),
            }
        }
    });
}

/// A place along an axis with `extent` pixels: the pixel before it and how far behind that it is;
/// none outside.
#[inline]
fn place(at: f32, extent: usize) -> Option<(usize, f32)> {
    let most = (extent - 1) as f32;
    // Not a number is not inside.
    let inside = at >= -0.5 && at <= most + 0.5;
    let at = at.clamp(0.0, most);
    inside.then_some((at as usize, at - (at as usize) as f32))
}

/// One row of a patch that is not turned: two rows of the picture are blended, and read between.
fn straight(
    p: &Warp<'_>,
    map: &[f32],
    y: f32,
    [first, second, third]: [&mut [f32]; 3],
    blended: &mut Vec<f32>,
) {
    let (height, width) = p.picture;
    let outside = [0, 1, 2].map(|channel| (p.fill - p.mean[channel]) * p.scale[channel]);
    let Some((top, dy)) = place(map[4] * y + map[5], height) else {
        let outputs = first.iter_mut().zip(second).zip(third);
        outputs.for_each(|((a, b), c)| [*a, *b, *c] = outside);
        return;
    };
    let row = |row: usize| &p.pixels[row * width * 3..][..width * 3];
    let (upper, lower) = (row(top), row((top + 1).min(height - 1)));
    blended.clear();
    blended.extend(upper.iter().zip(lower).map(|(&a, &c)| {
        let (a, c) = (f32::from(a), f32::from(c));
        a + (c - a) * dy
    }));
    // What is behind the last pixel is that one.
    let last: [f32; 3] = [0, 1, 2].map(|channel| blended[(width - 1) * 3 + channel]);
    blended.extend(last);
    let outputs = first.iter_mut().zip(second).zip(third);
    for (x, ((first, second), third)) in outputs.enumerate() {
        let Some((left, dx)) = place(map[0] * x as f32 + map[1] * y + map[2], width) else {
            [*first, *second, *third] = outside;
            continue;
        };
        let pixels: &[f32] = &blended[left * 3..][..6];
        let channel = |channel: usize| {
            let from = p.channels[channel];
            let (a, b) = (pixels[from], pixels[from + 3]);
            (a + (b - a) * dx - p.mean[channel]) * p.scale[channel]
        };
        [*first, *second, *third] = [channel(0), channel(1), channel(2)];
    }
}

/// One row of a patch, channel by channel.
fn line(p: &Warp<'_>, map: &[f32], y: f32, [first, second, third]: [&mut [f32]; 3]) {
    let (height, width) = p.picture;
    let outside = [0, 1, 2].map(|channel| (p.fill - p.mean[channel]) * p.scale[channel]);
    let outputs = first.iter_mut().zip(second).zip(third);
    for (x, ((first, second), third)) in outputs.enumerate() {
        // As the reference does it, so that both round alike.
        let sx = map[0] * x as f32 + map[1] * y + map[2];
        let sy = map[3] * x as f32 + map[4] * y + map[5];
        let (Some((left, dx)), Some((top, dy))) = (place(sx, width), place(sy, height)) else {
            [*first, *second, *third] = outside;
            continue;
        };
        let across = if left + 1 < width { 3 } else { 0 };
        let down = if top + 1 < height { width * 3 } else { 0 };
        let at = (top * width + left) * 3;
        let channel = |channel: usize| {
            let at = at + p.channels[channel];
            let pixel = |at: usize| f32::from(p.pixels[at]);
            let (a, b) = (pixel(at), pixel(at + across));
            let (c, d) = (pixel(at + down), pixel(at + down + across));
            let (left, right) = (a + (c - a) * dy, b + (d - b) * dy);
            (left + (right - left) * dx - p.mean[channel]) * p.scale[channel]
        };
        [*first, *second, *third] = [channel(0), channel(1), channel(2)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_of_half_the_size_takes_what_lies_between() {
        let pixels: Vec<u8> = (0..48).collect();
        let p = Warp {
            pixels: &pixels,
            picture: (4, 4),
            size: (2, 2),
            mean: [1.0; 3],
            scale: [2.0; 3],
            channels: [2, 1, 0],
            fill: 0.0,
        };
        let mut out = vec![0.0; 24];
        let halves = [2.0, 0.0, 0.5, 0.0, 2.0, 0.5];
        let outside = [1.0, 0.0, 9.0, 0.0, 1.0, 0.0];
        warp(&p, &[halves, outside].concat(), &mut out);
        // Of pixels 0, 1, 4 and 5, channel 2: 2, 5, 14, 17.
        assert_eq!(out[0], (9.5 - 1.0) * 2.0);
        assert_eq!(out[8], (7.5 - 1.0) * 2.0);
        assert_eq!(out[12..], [-2.0; 12]);
    }
}

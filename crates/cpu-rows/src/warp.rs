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
        for row in start..start + len {
            let (patch, y) = (row / h, row % h);
            let map = &maps[patch * 6..][..6];
            // SAFETY: each row of each channel of each patch is made by one task, once.
            let rows = [0, 1, 2]
                .map(|channel| unsafe { out.slice(((patch * 3 + channel) * h + y) * w, w) });
            line(p, map, y as f32, rows);
        }
    });
}

/// One row of a patch, channel by channel.
fn line(p: &Warp<'_>, map: &[f32], y: f32, [first, second, third]: [&mut [f32]; 3]) {
    let (height, width) = p.picture;
    let (most_x, most_y) = ((width - 1) as f32, (height - 1) as f32);
    let outside = [0, 1, 2].map(|channel| (p.fill - p.mean[channel]) * p.scale[channel]);
    let outputs = first.iter_mut().zip(second).zip(third);
    for (x, ((first, second), third)) in outputs.enumerate() {
        // As the reference does it, so that both round alike.
        let sx = map[0] * x as f32 + map[1] * y + map[2];
        let sy = map[3] * x as f32 + map[4] * y + map[5];
        let inside = sx >= -0.5 && sx <= most_x + 0.5 && sy >= -0.5 && sy <= most_y + 0.5;
        if !inside {
            [*first, *second, *third] = outside;
            continue;
        }
        let (sx, sy) = (sx.clamp(0.0, most_x), sy.clamp(0.0, most_y));
        let (left, top) = (sx as usize, sy as usize);
        let (dx, dy) = (sx - left as f32, sy - top as f32);
        let across = if left + 1 < width { 3 } else { 0 };
        let down = if top + 1 < height { width * 3 } else { 0 };
        let at = (top * width + left) * 3;
        let channel = |channel: usize| {
            let at = at + p.channels[channel];
            let pixel = |at: usize| f32::from(p.pixels[at]);
            let (a, b) = (pixel(at), pixel(at + across));
            let (c, d) = (pixel(at + down), pixel(at + down + across));
            let (upper, lower) = (a + (b - a) * dx, c + (d - c) * dx);
            (upper + (lower - upper) * dy - p.mean[channel]) * p.scale[channel]
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

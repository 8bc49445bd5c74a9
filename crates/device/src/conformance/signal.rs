//! Cases of Fourier transforms, and of the greatest elements.

use hetra_tensor::Tensor;

use super::Case;
use super::random::{Random, live, node, weight};

/// DFT along any axis, of real and complex signals, cut and padded, forth and back; STFT.
pub(super) fn transforms(random: &Random, cases: &mut Vec<Case>) {
    let one = |value: usize| weight(Tensor::scalar(value as i64));
    for onesided in [false, true] {
        let parts = if onesided { 1 } else { random.pick(&[1, 2]) };
        let (points, axis) = (random.pick(&[1, 2, 7, 12, 64usize]), random.pick(&[1, 2]));
        let mut shape = [2, 3, 4, parts];
        shape[axis] = points;
        let length = random.pick(&[points, points + 3, points / 2 + 1]);
        let dft = node("DFT").with("onesided", i64::from(onesided));
        let dft = dft.with("inverse", random.below(2) as i64);
        let arguments = vec![live(random.floats(&shape)), one(length), one(axis)];
        cases.push(Case::new("DFT", dft, arguments, 1));
        let length = random.pick(&[1, 6, 15, 32]);
        let signal = live(random.floats(&[2, length + random.below(40), parts]));
        let window = live(random.floats(&[length - random.below(2).min(length - 1)]));
        let stft = node("STFT").with("onesided", i64::from(onesided));
        let step = one(random.pick(&[1, 5]));
        cases.push(Case::new("STFT", stft, vec![signal, step, window, one(length)], 1));
    }
}

/// TopK along any axis, with equal elements, zeros of both signs, and what is no number.
pub(super) fn greatest(random: &Random, cases: &mut Vec<Case>) {
    let shape = [random.pick(&[1, 3]), random.pick(&[5, 17, 150]), random.pick(&[1, 4])];
    let mut x = random.floats(&shape);
    if let Ok(values) = x.as_mut_slice::<f32>() {
        values.iter_mut().for_each(|value| *value = (*value * 4.0).round() / 4.0);
        let odd = [f32::NAN, -0.0, 0.0, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        let places = values.iter_mut().skip(random.below(4)).step_by(7);
        places.zip(odd).for_each(|(value, odd)| *value = odd);
    }
    let axis = random.below(3);
    let top = node("TopK").with("axis", axis as i64).with("largest", random.below(2) as i64);
    let count = 1 + random.below(shape[axis]);
    let arguments = vec![live(x), weight(Tensor::vector(&[count as i64]))];
    cases.push(Case::new("TopK", top, arguments, 2));
}

//! Cases of Resize: modes, ways to place coordinates, scales and sizes.

use hetra_ir::Attr;
use hetra_tensor::{DType, Tensor};

use super::Case;
use super::random::{Random, live, node, weight};

const COORDINATES: [&str; 7] = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
];
const ROUNDINGS: [&str; 4] = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

pub(super) fn resizes(random: &Random, cases: &mut Vec<Case>) {
    for mode in ["nearest", "linear", "cubic"] {
        for coordinates in COORDINATES {
            let shape = [2, 3, random.pick(&[1, 4, 7]), random.pick(&[1, 5, 18])];
            let dtype = random.pick(&[DType::F32, DType::F32, DType::F32, DType::U8]);
            let mut x = random.tensor(dtype, &shape);
            // What lies on a place is that place, whatever is beside it.
            if let Ok([first, ..]) = x.as_mut_slice::<f32>() {
                *first = f32::INFINITY;
            }
            let mut resize = node("Resize")
                .with("mode", mode)
                .with("coordinate_transformation_mode", coordinates)
                .with("nearest_mode", random.pick(&ROUNDINGS))
                .with("antialias", i64::from(random.below(4) == 0));
            // The regions are fractions: all of the first two axes, more than all of the last.
            let roi = weight(Tensor::vector(&[0f32, 0.0, 0.1, -0.2, 1.0, 1.0, 0.8, 1.1]));
            let mut arguments = vec![live(x), roi];
            match random.below(3) {
                0 => {
                    let factor = || random.pick(&[0.5f32, 1.0, 2.0, 2.6]);
                    let scales = Tensor::vector(&[1.0, 1.0, factor(), factor()]);
                    arguments.push(weight(scales));
                }
                1 => {
                    let sizes = [1, 2].map(|_| 1 + random.below(20) as i64);
                    // Channels may be last, too.
                    let first = if mode == "nearest" { 1 + random.below(2) as i64 } else { 2 };
                    resize.attrs.set("axes", Attr::Ints(vec![first, first + 1]));
                    arguments[1] = weight(Tensor::vector(&[0.1f32, -0.2, 0.8, 1.1]));
                    arguments.extend([(None, false), weight(Tensor::vector(&sizes))]);
                }
                _ => {
                    // An axis before the last two, which kernels need not do.
                    let scales = Tensor::vector(&[1f32, 2.0, 1.0, 1.0]);
                    arguments.push(weight(scales));
                }
            }
            cases.push(Case::new("Resize", resize, arguments, 1));
        }
    }
}

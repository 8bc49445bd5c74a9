//! Weights of convolutions with channels last in the order of their register kernels.

use super::bf16::{Operands, pair};
use super::conv::ConvShape;
use super::gemm_pack::block;
use hetra_cpu_base::isa::Isa;
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count};
use hetra_cpu_base::threads::for_each;

/// The order of the register kernel.
pub(crate) fn pack(isa: Isa, operands: Operands, s: &ConvShape, weights: &[f32]) -> AlignedBuf {
    let (cg, mg) = s.per_group();
    let (taps, nr, steps) = (s.kh * s.kw, block(isa).1, operands.steps(cg));
    let (panels, depth) = (mg.div_ceil(nr), taps * steps);
    let mut packed = AlignedBuf::zeroed(count(&[s.groups, panels, depth, nr]));
    let data = Shared::new(packed.as_mut_slice());
    for_each(s.groups * panels, weights.len() > 64 << 10, |p| {
        let (g, j0) = (p / panels, p % panels * nr);
        // SAFETY: each panel is written by one task.
        let panel = unsafe { data.slice(p * depth * nr, depth * nr) };
        for j in 0..nr.min(mg - j0) {
            let kernel = &weights[(g * mg + j0 + j) * taps * cg..][..taps * cg];
            let at = |c: usize, tap: usize| if c < cg { kernel[c * taps + tap] } else { 0.0 };
            for (i, row) in panel.chunks_exact_mut(nr).enumerate() {
                let (tap, c) = (i / steps, i % steps);
                row[j] = match operands {
                    Operands::F32 => at(c, tap),
                    _ => pair(at(2 * c, tap), at(2 * c + 1, tap)),
                };
            }
        }
    });
    packed
}

/// The bias in the order of the panels; zeros where there is none.
pub(crate) fn pack_bias(isa: Isa, s: &ConvShape, bias: Option<&[f32]>) -> Vec<f32> {
    let ((_, mg), nr) = (s.per_group(), block(isa).1);
    let panels = mg.div_ceil(nr);
    let mut packed = vec![0.0; count(&[s.groups, panels, nr])];
    let groups = packed.chunks_exact_mut((panels * nr).max(1));
    for (to, from) in groups.zip(bias.unwrap_or_default().chunks_exact(mg.max(1))) {
        to[..mg].copy_from_slice(from);
    }
    packed
}

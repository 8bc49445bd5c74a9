//! What programs of 8-bit convolutions keep of their constants: packed weights, and what is done
//! with the sums.

use std::sync::{Arc, OnceLock};

use hetra_device::{Call, Part};
use hetra_ir::Node;
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor};

use super::conv::{fixed_by, window_taken};
use super::only_first_varies;
use super::quantised::{CODES, bytes, scales, single, zeros};
use hetra_cpu_base::isa::{Isa, isa};
use hetra_cpu_kernels::conv::ConvShape;
use hetra_cpu_kernels::int8_conv::Bytes;

/// What a quantised convolution does with its sums.
pub(super) struct ConvTerms {
    pub(super) x_zero: i32,
    /// Of the codes that this zero point is of; any, without one.
    x_dtype: Option<DType>,
    pub(super) y_zero: i32,
    /// One, or one for each output channel.
    pub(super) factors: Vec<f32>,
    bias: Option<Tensor>,
    /// That of the output: u8 or i8.
    pub(super) dtype: DType,
}

impl ConvTerms {
    /// The terms of a QLinearConv with `m` output channels, if they are such as the kernels take.
    fn of(call: &Call<'_>, x: DType, m: usize) -> Option<ConvTerms> {
        let at = |index: usize| call.tensor_opt(index);
        let of_x = at(1).and_then(scales).and_then(single)?;
        let of_y = at(6).and_then(scales).and_then(single)?;
        let (of_w, output) = (at(4).and_then(scales)?, at(7)?);
        let dtype = output.dtype();
        let x_zero = zeros(at(2), x).as_deref().and_then(single)?;
        let y_zero = zeros(Some(output), dtype).as_deref().and_then(single)?;
        let bias = at(8).cloned();
        let sums = |bias: &Tensor| bias.dtype() == DType::I32 && bias.len() == m;
        let fits = bias.as_ref().is_none_or(sums) && (of_w.len() == 1 || of_w.len() == m);
        let factors = of_w.iter().map(|w| of_x * w / of_y).collect();
        let x_dtype = at(2).map(Tensor::dtype);
        let terms = ConvTerms { x_zero, x_dtype, y_zero, factors, bias, dtype };
        (fits && CODES.contains(&dtype)).then_some(terms)
    }

    pub(super) fn bias(&self) -> Result<Option<&[i32]>, OpError> {
        Ok(self.bias.as_ref().map(Tensor::as_slice).transpose()?)
    }
}

/// Packs weights with their zero points, one or one for each output channel.
type Pack<K> = fn(Isa, ConvShape, Bytes<'_>, &[i32]) -> K;

/// Weights in the order of a kernel, and the terms of the convolution, both kept where they are
/// constant.
pub(super) struct IntConv<K> {
    pack: Pack<K>,
    /// `None` inside for weights that the kernel does not take.
    weights: OnceLock<Option<(ConvShape, K)>>,
    constant: bool,
    terms: OnceLock<Arc<ConvTerms>>,
}

impl<K> IntConv<K> {
    /// Packs the weights of a QLinearConv, inputs 3 and 5, if its shape is known already.
    pub(super) fn of(part: &Part<'_>, node: &Node, pack: Pack<K>) -> IntConv<K> {
        let constant = only_first_varies(part, node);
        let kept = IntConv { pack, weights: OnceLock::new(), constant, terms: OnceLock::new() };
        let constants = part.constant(node, 3).zip(part.constant(node, 5));
        if let Some((w, zero)) = constants
            && let Some(shape) = fixed_by(node, w.shape())
        {
            let _ = kept.weights.set(kept.packed(w, Some(zero), shape));
        }
        kept
    }

    fn packed(
        &self,
        w: &Tensor,
        zero: Option<&Tensor>,
        shape: ConvShape,
    ) -> Option<(ConvShape, K)> {
        let zero = zeros(zero, w.dtype())?;
        let zeros_fit = zero.len() == 1 || zero.len() == shape.m;
        // Without weights nothing bounds what a file says of groups and channels.
        let fits = zeros_fit && !w.is_empty() && window_taken(&shape);
        fits.then(|| Some((shape, (self.pack)(isa(), shape, bytes(w)?, &zero))))?
    }

    /// The weights of a call, which are constant; packed at the first run at the latest. `None`
    /// where the kernel does not take them, or they were packed for another shape.
    pub(super) fn weights(&self, call: &Call<'_>, w: &Tensor, shape: ConvShape) -> Option<&K> {
        // Packing is parallel: a thread that waits in it may take up another run, which comes here
        // again, so it is not done inside `get_or_init`.
        if self.weights.get().is_none() {
            // Another run may have been first; both packings are the same.
            let _ = self.weights.set(self.packed(w, call.tensor_opt(5), shape));
        }
        let (of, packed) = self.weights.get()?.as_ref()?;
        (*of == shape).then_some(packed)
    }

    /// What is done with the sums of a call whose image has codes of this dtype.
    pub(super) fn terms(&self, call: &Call<'_>, x: DType, m: usize) -> Option<Arc<ConvTerms>> {
        let kept = self.terms.get().filter(|kept| kept.x_dtype.is_none_or(|dtype| dtype == x));
        if let Some(kept) = kept {
            return Some(kept.clone());
        }
        let terms = Arc::new(ConvTerms::of(call, x, m)?);
        if self.constant {
            // Another run may have been first; its terms are the same.
            let _ = self.terms.set(terms.clone());
        }
        Some(terms)
    }
}

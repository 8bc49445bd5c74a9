//! Sliding windows over spatial axes: padding, strides, dilations and the extents they give.
//!
//! Shared by the operators (convolution, pooling), by passes and by device kernels, so that the
//! attributes of a node are read in one place only.

use std::ops::Range;

use hetra_ir::{Attrs, Dim};
use hetra_tensor::Axes;
use smallvec::smallvec;

use crate::error::OpError;

/// More spatial axes than any model has; bounds recursion over axes.
pub(crate) const SPATIAL_RANK_MAX: usize = 16;

/// Attribute values above this are refused, which keeps all arithmetic here exact.
const VALUE_MAX: i64 = 1 << 31;

/// A window that slides over the spatial axes of an input; one entry per axis everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: Axes,
    /// Steps between windows, at least 1.
    pub strides: Axes,
    /// Steps between taps, at least 1.
    pub dilations: Axes,
    /// Padding before the first element.
    pub pads_begin: Axes,
    /// Padding after the last element.
    pub pads_end: Axes,
    /// Output extents round up, as long as the last window starts in the input or the padding
    /// before it.
    pub ceil: bool,
}

/// How `auto_pad` asks to pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoPad {
    Explicit,
    SameUpper,
    SameLower,
    Valid,
}

impl AutoPad {
    pub(crate) fn of(attrs: &Attrs) -> Result<AutoPad, OpError> {
        match attrs.str_or("auto_pad", "NOTSET")? {
            "NOTSET" | "" => Ok(AutoPad::Explicit),
            "SAME_UPPER" => Ok(AutoPad::SameUpper),
            "SAME_LOWER" => Ok(AutoPad::SameLower),
            "VALID" => Ok(AutoPad::Valid),
            other => Err(OpError::invalid(format!("auto_pad `{other}` is not known"))),
        }
    }

    fn is_same(self) -> bool {
        matches!(self, AutoPad::SameUpper | AutoPad::SameLower)
    }
}

impl Window {
    /// Reads `strides`, `dilations`, `pads`, `auto_pad` and `ceil_mode` of a node whose input has
    /// these spatial extents; `kernel` is the number of taps along each axis.
    ///
    /// # Errors
    /// Attributes of wrong length or sign, or a `kernel_shape` that is not `kernel`.
    pub fn of(attrs: &Attrs, input: &[usize], kernel: &[usize]) -> Result<Window, OpError> {
        let (mut window, auto) = Window::unpadded(attrs, kernel)?;
        if input.len() != kernel.len() {
            return Err(OpError::input(
                0,
                format!("{} spatial axes", kernel.len()),
                format!("{}", input.len()),
            ));
        }
        if auto.is_same() {
            for (axis, &extent) in input.iter().enumerate() {
                let outputs = extent.div_ceil(window.strides[axis]) as i128;
                let covered = (outputs - 1) * window.strides[axis] as i128 + window.span(axis);
                let total = usize::try_from((covered - extent as i128).max(0)).unwrap_or(0);
                let (less, more) = (total / 2, total - total / 2);
                let upper = auto == AutoPad::SameUpper;
                window.pads_begin[axis] = if upper { less } else { more };
                window.pads_end[axis] = if upper { more } else { less };
            }
        }
        Ok(window)
    }

    /// Everything but the padding that `auto_pad` asks for.
    pub(crate) fn unpadded(attrs: &Attrs, kernel: &[usize]) -> Result<(Window, AutoPad), OpError> {
        let rank = kernel.len();
        if rank > SPATIAL_RANK_MAX {
            return Err(OpError::unsupported(format!("{rank} spatial axes")));
        }
        if let Some(given) = attrs.ints_opt("kernel_shape")?
            && !given.iter().copied().eq(kernel.iter().map(|&taps| taps as i64))
        {
            return Err(OpError::invalid(format!("kernel_shape {given:?}, weights {kernel:?}")));
        }
        if kernel.iter().any(|&taps| taps == 0 || taps as u64 > VALUE_MAX as u64) {
            return Err(OpError::invalid(format!("a window of {kernel:?} taps")));
        }
        let auto = AutoPad::of(attrs)?;
        // Some exporters write `pads` beside `auto_pad`; the latter wins.
        let pads = match auto {
            AutoPad::Explicit => per_axis(attrs, "pads", 2 * rank, 0, 0)?,
            _ => smallvec![0; 2 * rank],
        };
        let window = Window {
            kernel: kernel.into(),
            strides: per_axis(attrs, "strides", rank, 1, 1)?,
            dilations: per_axis(attrs, "dilations", rank, 1, 1)?,
            pads_begin: pads[..rank].into(),
            pads_end: pads[rank..].into(),
            ceil: attrs.flag_or("ceil_mode", false)?,
        };
        Ok((window, auto))
    }

    /// Number of spatial axes.
    pub fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// Elements from the first tap to the last, both included.
    fn span(&self, axis: usize) -> i128 {
        (self.kernel[axis] as i128 - 1) * self.dilations[axis] as i128 + 1
    }

    /// Number of windows along each axis.
    ///
    /// # Errors
    /// When the window is larger than the padded input.
    pub fn output_extents(&self, input: &[usize]) -> Result<Axes, OpError> {
        input.iter().enumerate().map(|(axis, &extent)| self.output_extent(axis, extent)).collect()
    }

    fn output_extent(&self, axis: usize, extent: usize) -> Result<usize, OpError> {
        let (begin, end) = (self.pads_begin[axis] as i128, self.pads_end[axis] as i128);
        let stride = self.strides[axis] as i128;
        let room = extent as i128 + begin + end - self.span(axis);
        let mut outputs = room.div_euclid(stride) + 1;
        if self.ceil && room.rem_euclid(stride) != 0 {
            outputs += 1;
        }
        if self.ceil && outputs > 0 && (outputs - 1) * stride >= extent as i128 + begin {
            outputs -= 1;
        }
        usize::try_from(outputs).map_err(|_| {
            OpError::invalid(format!(
                "axis {axis}: a window over {} elements does not fit into {extent} and padding",
                self.span(axis)
            ))
        })
    }

    /// As [`Window::output_extents`], for pooling: a window that is larger than its padded input
    /// by less than a stride still gives one output, of what lies inside. ONNX's shape inference
    /// divides towards zero, and models count on it.
    ///
    /// # Errors
    /// As [`Window::output_extents`].
    pub(crate) fn pooled_extents(&self, input: &[usize]) -> Result<Axes, OpError> {
        let outputs = self.output_extents(input)?;
        let pooled = outputs.iter().zip(input).enumerate().map(|(axis, (&output, &extent))| {
            let pads = (self.pads_begin[axis] + self.pads_end[axis]) as i128;
            let room = extent as i128 + pads - self.span(axis);
            let overhangs = !self.ceil && extent > 0 && room > -(self.strides[axis] as i128);
            if output == 0 && overhangs { 1 } else { output }
        });
        Ok(pooled.collect())
    }

    /// The output extents of a node of which some input extents are not known yet.
    ///
    /// # Errors
    /// As [`Window::of`] and [`Window::output_extents`].
    pub fn output_dims(
        attrs: &Attrs,
        input: &[Dim],
        kernel: &[usize],
    ) -> Result<Vec<Dim>, OpError> {
        // Extent 0 stands for an unknown one; what is computed from it is not used.
        let extents: Vec<usize> = input.iter().map(|dim| dim.known().unwrap_or(0)).collect();
        let window = Window::of(attrs, &extents, kernel)?;
        let same = AutoPad::of(attrs)?.is_same();
        let dims = input.iter().enumerate().map(|(axis, dim)| {
            if let Dim::Known(extent) = dim {
                return window.output_extent(axis, *extent).map(Dim::Known);
            }
            let pads = (window.pads_begin[axis] + window.pads_end[axis]) as i128;
            let keeps = same || pads == window.span(axis) - 1;
            Ok(if keeps && window.strides[axis] == 1 { dim.clone() } else { Dim::Unknown })
        });
        dims.collect()
    }

    /// The taps of window `output` that lie inside an input of this extent.
    pub fn taps_inside(&self, axis: usize, output: usize, extent: usize) -> Range<usize> {
        self.taps_between(axis, output, 0, extent as i128)
    }

    /// The taps of window `output` that lie in the input or its padding.
    pub fn taps_padded(&self, axis: usize, output: usize, extent: usize) -> Range<usize> {
        let begin = -(self.pads_begin[axis] as i128);
        self.taps_between(axis, output, begin, (extent + self.pads_end[axis]) as i128)
    }

    fn taps_between(&self, axis: usize, output: usize, low: i128, high: i128) -> Range<usize> {
        let step = self.dilations[axis] as i128;
        let start = output as i128 * self.strides[axis] as i128 - self.pads_begin[axis] as i128;
        let taps = self.kernel[axis] as i128;
        // Both quotients round up: the first tap at or after the bound.
        let first = (low - start + step - 1).div_euclid(step).clamp(0, taps);
        let past = (high - start + step - 1).div_euclid(step).clamp(first, taps);
        first as usize..past as usize
    }

    /// Where tap `tap` of window `output` reads along `axis`. Only for taps inside the input.
    pub fn position(&self, axis: usize, output: usize, tap: usize) -> usize {
        (output * self.strides[axis] + tap * self.dilations[axis]) - self.pads_begin[axis]
    }

    /// The outputs along `axis` whose tap `tap` lies inside an input of this extent.
    pub fn outputs_inside(
        &self,
        axis: usize,
        tap: usize,
        extent: usize,
        outputs: usize,
    ) -> Range<usize> {
        let stride = self.strides[axis] as i128;
        let start = tap as i128 * self.dilations[axis] as i128 - self.pads_begin[axis] as i128;
        let first = (stride - 1 - start).div_euclid(stride).clamp(0, outputs as i128);
        let past = (extent as i128 - start + stride - 1).div_euclid(stride);
        first as usize..past.clamp(first, outputs as i128) as usize
    }
}

/// `count` integers of at least `least`; `default` for all when the attribute is missing.
pub(crate) fn per_axis(
    attrs: &Attrs,
    name: &str,
    count: usize,
    default: usize,
    least: i64,
) -> Result<Axes, OpError> {
    let Some(values) = attrs.ints_opt(name)?.filter(|values| !values.is_empty()) else {
        return Ok(smallvec![default; count]);
    };
    if values.len() != count {
        let wanted = format!("wanted {count} numbers");
        return Err(OpError::invalid(format!("attribute `{name}`: {wanted}, got {values:?}")));
    }
    let valid = |&value: &i64| (least..=VALUE_MAX).contains(&value).then_some(value as usize);
    values.iter().map(valid).collect::<Option<_>>().ok_or_else(|| {
        let wanted = format!("wanted {count} numbers from {least} up");
        OpError::invalid(format!("attribute `{name}`: {wanted}, got {values:?}"))
    })
}

/// The taps along each axis of a node that has no weights, from `kernel_shape`.
///
/// # Errors
/// When the attribute is missing or not positive.
pub(crate) fn kernel_shape(attrs: &Attrs) -> Result<Axes, OpError> {
    let count = attrs.ints("kernel_shape")?.len();
    per_axis(attrs, "kernel_shape", count, 1, 1)
}

/// Walks the indices below `extents` in row-major order; false when the walk is over.
pub(crate) fn advance(index: &mut [usize], extents: &[usize]) -> bool {
    for (place, &extent) in index.iter_mut().zip(extents).rev() {
        *place += 1;
        if *place < extent {
            return true;
        }
        *place = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(ints: &[(&str, &[i64])], auto: &str, ceil: i64) -> Attrs {
        let mut attrs = Attrs::default();
        for (name, values) in ints {
            attrs.set(name, values.to_vec());
        }
        attrs.set("auto_pad", auto);
        attrs.set("ceil_mode", ceil);
        attrs
    }

    #[test]
    fn output_extents_follow_the_padding() {
        let check = |list: &[(&str, &[i64])], auto, ceil, extent: usize, taps, wanted: usize| {
            let attrs = attrs(list, auto, ceil);
            let window = Window::of(&attrs, &[extent], &[taps]).unwrap();
            assert_eq!(window.output_extents(&[extent]).unwrap()[..], [wanted], "{attrs:?}");
            let dims = Window::output_dims(&attrs, &[Dim::Known(extent)], &[taps]).unwrap();
            assert_eq!(dims, [Dim::Known(wanted)]);
        };
        check(&[("strides", &[2])], "NOTSET", 0, 4, 3, 1);
        check(&[("strides", &[2])], "NOTSET", 1, 4, 3, 2);
        check(&[("strides", &[3]), ("pads", &[1, 1])], "NOTSET", 1, 2, 3, 1);
        check(&[("strides", &[2])], "NOTSET", 1, 2, 1, 1);
        check(&[("strides", &[2])], "SAME_UPPER", 0, 5, 3, 3);
        check(&[("strides", &[2]), ("dilations", &[2])], "SAME_LOWER", 0, 6, 3, 3);
        check(&[], "VALID", 0, 5, 3, 3);
    }

    #[test]
    fn unknown_extents_stay_when_the_window_keeps_them() {
        let batch = Dim::Sym("h".into());
        let keep = attrs(&[("pads", &[1, 1])], "NOTSET", 0);
        let one = std::slice::from_ref(&batch);
        assert_eq!(Window::output_dims(&keep, one, &[3]).unwrap(), one);
        let shrink = attrs(&[("strides", &[2])], "SAME_UPPER", 0);
        assert_eq!(Window::output_dims(&shrink, &[batch], &[3]).unwrap(), [Dim::Unknown]);
    }

    #[test]
    fn taps_and_outputs_agree() {
        for (extent, taps, stride, dilation, pads) in
            [(5, 3, 1, 1, [1, 1]), (7, 2, 3, 2, [2, 4]), (1, 3, 2, 3, [3, 5]), (4, 4, 5, 1, [6, 0])]
        {
            let list: [(&str, &[i64]); 3] =
                [("pads", &pads), ("strides", &[stride]), ("dilations", &[dilation])];
            let window = Window::of(&attrs(&list, "NOTSET", 0), &[extent], &[taps]).unwrap();
            let outputs = window.output_extents(&[extent]).unwrap()[0];
            for output in 0..outputs {
                for tap in 0..taps {
                    let at = output as i64 * stride + tap as i64 * dilation - pads[0];
                    let inside = (0..extent as i64).contains(&at);
                    assert_eq!(window.taps_inside(0, output, extent).contains(&tap), inside);
                    let range = window.outputs_inside(0, tap, extent, outputs);
                    assert_eq!(range.contains(&output), inside);
                    assert!(window.taps_padded(0, output, extent).contains(&tap));
                }
            }
        }
    }

    #[test]
    fn wrong_attributes_are_errors() {
        let check = |list: &[(&str, &[i64])], auto| {
            assert!(Window::of(&attrs(list, auto, 0), &[4, 4], &[3, 3]).is_err(), "{list:?}");
        };
        check(&[("strides", &[0, 1])], "NOTSET");
        check(&[("pads", &[1, 1])], "NOTSET");
        check(&[("pads", &[-1, 0, 0, 0])], "NOTSET");
        check(&[("dilations", &[i64::MAX, 1])], "NOTSET");
        check(&[("kernel_shape", &[2, 2])], "NOTSET");
        check(&[], "SAME");
        let small = Window::of(&attrs(&[], "VALID", 0), &[1], &[3]).unwrap();
        assert!(small.output_extents(&[1]).is_err());
    }
}

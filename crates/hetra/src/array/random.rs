//! Random arrays: numbers by place, the same on every device.

use hetra_tensor::DType;

use super::call::Op;
use super::movement::signed;
use super::{Array, ArrayError, Device, Result};

/// A stream of random arrays. Each is a function of the seed and of how many were drawn before it.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random { seed, drawn: 0 }
    }

    /// The stream of a seed, after so many arrays were drawn of it.
    pub fn at(seed: u64, drawn: u64) -> Random {
        Random { seed, drawn }
    }

    fn draw(
        &mut self,
        kind: &'static str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Array> {
        let fits = dtype == DType::U32 || matches!(dtype, DType::F32 | DType::F64);
        if !fits || (kind == "bits") != (dtype == DType::U32) {
            return Err(ArrayError::dtype("random", "f32 or f64", dtype));
        }
        let stream = self.drawn;
        self.drawn = self.drawn.wrapping_add(1);
        let op = Op::new("hetra.Random")
            .attr("kind", kind)
            .attr("seed", self.seed as i64)
            .attr("stream", stream as i64)
            .attr("dtype", i64::from(dtype.onnx()))
            .attr("shape", signed(shape));
        // The key of what is compiled would be another one at each draw: computed at once.
        let drawn = op.now(1)?.remove(0);
        Ok(Array::from_tensor(drawn.to_host()?, device))
    }

    /// Numbers in [0, 1), all equally likely, of `f32` or `f64`.
    ///
    /// # Errors
    /// For another dtype, and when they take too much memory.
    pub fn uniform(&mut self, shape: &[usize], dtype: DType, device: &Device) -> Result<Array> {
        self.draw("uniform", shape, dtype, device)
    }

    /// Numbers of the normal distribution of mean 0 and deviation 1, of `f32` or `f64`.
    ///
    /// # Errors
    /// As [`Random::uniform`].
    pub fn normal(&mut self, shape: &[usize], dtype: DType, device: &Device) -> Result<Array> {
        self.draw("normal", shape, dtype, device)
    }

    /// Whole numbers from `low` up to `high`, which is not among them, all equally likely (but for
    /// one part in 2^53 of the range).
    ///
    /// # Errors
    /// When there are none, or they take too much memory.
    pub fn integers(
        &mut self,
        low: i64,
        high: i64,
        shape: &[usize],
        device: &Device,
    ) -> Result<Array> {
        let range = high.checked_sub(low).filter(|&range| range > 0 && range < 1 << 53);
        let range = range.ok_or_else(|| {
            ArrayError::Invalid(format!("integers: from {low} to {high} there is no range"))
        })?;
        let unit = self.draw("uniform", shape, DType::F64, device)?;
        let steps = unit.multiply(&unit.number(range as f64)?)?.floor()?.cast(DType::I64)?;
        steps.add(&steps.number(low)?)
    }
}

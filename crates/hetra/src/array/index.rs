//! Parts of arrays by index: what stands in brackets in NumPy.

use hetra_tensor::{DType, Shape};

use super::call::{Op, broadcast_of};
use super::movement::{axis_of, signed};
use super::{Array, ArrayError, Result};

/// One entry of an index.
#[derive(Clone, Debug)]
pub enum Pick {
    /// One place, counted from either end; its axis goes away.
    At(i64),
    /// From a place up to one that is not taken, so far apart; either may be left out.
    Range(Option<i64>, Option<i64>, i64),
    /// A new axis of extent 1.
    New,
    /// All axes that the other entries leave.
    Rest,
    /// The places that integers name; or where a boolean array is true.
    Array(Array),
}

/// An index on the axes of an array, one entry for each.
struct Basic {
    starts: Vec<i64>,
    ends: Vec<i64>,
    steps: Vec<i64>,
    /// The extents after it, without new axes and with those that go away.
    counts: Vec<usize>,
    /// The extents after it.
    shape: Vec<usize>,
    /// Arrays, each with its axis of the result without the axes that go away but with new ones.
    arrays: Vec<(usize, Array)>,
    plain: bool,
}

impl Array {
    /// The part of the array that an index names, as a copy.
    ///
    /// # Errors
    /// For too many entries, places outside, and a boolean array of another shape.
    pub fn index(&self, picks: &[Pick]) -> Result<Array> {
        if let [Pick::Array(mask)] = picks
            && mask.dtype() == DType::Bool
        {
            return self.compress(mask);
        }
        let basic = self.resolve(picks)?;
        let part = self.basic(&basic)?;
        match &basic.arrays[..] {
            [] => Ok(part),
            [(axis, indices)] => part.take(indices, *axis as i64),
            many => part.gather(many),
        }
    }

    /// Works out an index: every entry as a slice of its axis, arrays as all of it.
    fn resolve(&self, picks: &[Pick]) -> Result<Basic> {
        let mut picks = spread(picks, self.shape())?;
        // Beside arrays a place is one, too: NumPy's rule of where their axes go.
        if picks.iter().any(|pick| matches!(pick, Pick::Array(_))) {
            for pick in &mut picks {
                if let Pick::At(at) = *pick {
                    *pick = Pick::Array(Array::scalar(at.into(), DType::I64, self.place())?);
                }
            }
        }
        let taking = picks.iter().filter(|pick| !matches!(pick, Pick::New | Pick::Rest)).count();
        if taking > self.rank() {
            let (rank, shape) = (self.rank(), self.shape());
            let reason = format!("{taking} indices for the {rank} axes of shape {shape:?}");
            return Err(ArrayError::Index(reason));
        }
        let rest = self.rank() - taking;
        let mut basic = Basic {
            starts: vec![],
            ends: vec![],
            steps: vec![],
            counts: vec![],
            shape: vec![],
            arrays: vec![],
            plain: true,
        };
        let mut left = picks.iter().any(|pick| matches!(pick, Pick::Rest));
        for pick in picks.iter().chain((!left).then_some(&Pick::Rest)) {
            match pick {
                Pick::New => basic.shape.push(1),
                Pick::Rest => {
                    left = true;
                    for _ in 0..rest {
                        self.axis(&mut basic, &Pick::Range(None, None, 1))?;
                    }
                }
                pick => self.axis(&mut basic, pick)?,
            }
        }
        debug_assert!(left);
        Ok(basic)
    }

    /// Adds an entry for the next axis.
    fn axis(&self, basic: &mut Basic, pick: &Pick) -> Result<()> {
        let axis = basic.starts.len();
        let extent = self.shape()[axis] as i64;
        let (start, end, step, count) = match *pick {
            Pick::At(at) => {
                let place = if at < 0 { at.saturating_add(extent) } else { at };
                if place < 0 || place >= extent {
                    let reason = format!("index {at} is out of range for axis {axis} of {extent}");
                    return Err(ArrayError::Index(reason));
                }
                (place, place + 1, 1, 1)
            }
            Pick::Range(from, to, step) => slice(from, to, step, extent)?,
            _ => (0, extent, 1, extent),
        };
        basic.plain &= start == 0 && step == 1 && count == extent;
        if let Pick::Array(array) = pick {
            basic.arrays.push((basic.shape.len(), array.clone()));
        }
        basic.starts.push(start);
        // Before the first place there is no other way to say it.
        basic.ends.push(if end < 0 { i64::MIN + 1 } else { end });
        basic.steps.push(step);
        basic.counts.push(count as usize);
        if !matches!(pick, Pick::At(_)) {
            basic.shape.push(count as usize);
        }
        Ok(())
    }

    fn basic(&self, basic: &Basic) -> Result<Array> {
        let mut part = self.clone();
        if !basic.plain {
            let axes: Vec<i64> = (0..self.rank() as i64).collect();
            let op = Op::new("Slice").on(self).ints(&basic.starts).ints(&basic.ends);
            let op = op.ints(&axes).ints(&basic.steps);
            part = op.typed(self.dtype(), basic.counts.iter().copied().collect())?;
        }
        part.reshaped(&basic.shape)
    }

    /// The places that integers name along an axis, whose place their axes take.
    ///
    /// # Errors
    /// When the axis is not there, or they are no integers.
    pub fn take(&self, indices: &Array, axis: i64) -> Result<Array> {
        let axis = axis_of(axis, self.rank())?;
        let indices = integers(indices)?;
        let mut shape: Shape = self.shape()[..axis].into();
        shape.extend_from_slice(indices.shape());
        shape.extend_from_slice(&self.shape()[axis + 1..]);
        let op = Op::new("Gather").attr("axis", axis as i64).on(self).on(&indices);
        op.typed(self.dtype(), shape)
    }

    /// For each index the element at its place, but at that index along the axis.
    ///
    /// # Errors
    /// When the axis is not there, or the other extents do not broadcast.
    pub fn take_along(&self, indices: &Array, axis: i64) -> Result<Array> {
        let axis = axis_of(axis, self.rank())?;
        let indices = integers(indices)?;
        if indices.rank() != self.rank() {
            return Err(ArrayError::shape("take_along_axis", "wanted as many axes of indices"));
        }
        let with = |of: &Array, extent: usize| -> Vec<usize> {
            let mut shape = of.shape().to_vec();
            shape[axis] = extent;
            shape
        };
        let rest = hetra_tensor::broadcast(&with(self, 1), &with(&indices, 1))
            .map_err(|error| ArrayError::shape("take_along_axis", error.to_string()))?;
        let shape = |extent: usize| {
            let mut shape = rest.clone();
            shape[axis] = extent;
            shape
        };
        let (x, at) = (shape(self.shape()[axis]), shape(indices.shape()[axis]));
        let (x, indices) = (self.broadcast_to(&x)?, indices.broadcast_to(&at)?);
        let op = Op::new("GatherElements").attr("axis", axis as i64).on(&x).on(&indices);
        op.typed(self.dtype(), at)
    }

    /// By several arrays at once: their places together.
    fn gather(&self, arrays: &[(usize, Array)]) -> Result<Array> {
        let (axes, tuples) = self.tuples(arrays)?;
        let together = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let front = signed(&axes);
        let places: Vec<i64> = (0..axes.len() as i64).collect();
        let moved = self.move_axes(&front, &places)?;
        let mut shape: Shape = tuples.shape()[..tuples.rank() - 1].into();
        let picked = shape.len();
        shape.extend_from_slice(&moved.shape()[axes.len()..]);
        let result = Op::new("GatherND").on(&moved).on(&tuples).typed(self.dtype(), shape)?;
        if !together || axes[0] == 0 {
            return Ok(result);
        }
        // Neighbours: the picked axes come where the first of them was.
        let from: Vec<i64> = (0..picked as i64).collect();
        let to: Vec<i64> = (axes[0] as i64..(axes[0] + picked) as i64).collect();
        result.move_axes(&from, &to)
    }

    /// The axes of arrays, and their places along these as tuples.
    fn tuples(&self, arrays: &[(usize, Array)]) -> Result<(Vec<usize>, Array)> {
        let mut indices = Vec::new();
        for (_, array) in arrays {
            if array.dtype() == DType::Bool {
                let reason = "a boolean array stands alone in its index";
                return Err(ArrayError::Index(reason.to_string()));
            }
            indices.push(integers(array)?);
        }
        let shape = broadcast_of("index", &indices.iter().collect::<Vec<_>>())?;
        let wide: Vec<Array> =
            indices.iter().map(|array| array.broadcast_to(&shape)).collect::<Result<_>>()?;
        Ok((arrays.iter().map(|(axis, _)| *axis).collect(), Array::stack(&wide, -1)?))
    }

    /// The places where a boolean array is true, in order; it covers the first axes.
    fn compress(&self, mask: &Array) -> Result<Array> {
        let rank = mask.rank();
        if !covers(mask.shape(), self.shape()) {
            let (mask, own) = (mask.shape(), self.shape());
            let reason = format!("a boolean array of shape {mask:?} for one of shape {own:?}");
            return Err(ArrayError::Index(reason));
        }
        if mask.size() == 0 {
            let mut shape: Shape = self.shape()[rank..].into();
            shape.insert(0, 0);
            return Array::full(&shape, 0i64, self.dtype(), &self.device_handle());
        }
        let mut shape = vec![mask.size()];
        shape.extend(&self.shape()[rank..]);
        let places = mask.reshape(&[-1])?.nonzero()?.remove(0);
        self.reshaped(&shape)?.take(&places, 0)
    }

    /// The array with other values in the part that an index names; they are broadcast to it and
    /// take its dtype.
    ///
    /// # Errors
    /// As [`Array::index`], and when the values do not broadcast.
    pub fn with(&self, picks: &[Pick], values: &Array) -> Result<Array> {
        let values = values.cast(self.dtype())?;
        // One number wherever a mask is true needs no places.
        if let [Pick::Array(mask)] = picks
            && mask.dtype() == DType::Bool
            && values.size() == 1
            && self.shape().starts_with(mask.shape())
        {
            let mut shape = mask.shape().to_vec();
            shape.resize(self.rank(), 1);
            return mask.reshaped(&shape)?.select(&values.reshape(&[])?, self);
        }
        // The numbers of all places, and of these those that the index names.
        let count = self.size() as i64;
        let device = self.device_handle();
        let (zero, end, one) = (0i64.into(), count.into(), 1i64.into());
        let numbers = Array::arange(zero, end, one, DType::I64, &device)?;
        let places = numbers.reshaped(self.shape())?.index(picks)?;
        let values = trimmed(&values, places.rank())?.broadcast_to(places.shape())?;
        let flat = self.reshape(&[-1])?;
        let op = Op::new("ScatterElements").attr("axis", 0i64).on(&flat);
        let op = op.on(&places.reshape(&[-1])?).on(&values.reshape(&[-1])?);
        op.typed(self.dtype(), flat.shape().into())?.reshaped(self.shape())
    }
}

/// Without the axes in front that are more than `rank`, if their extents are 1.
fn trimmed(values: &Array, rank: usize) -> Result<Array> {
    let extra = values.rank().saturating_sub(rank);
    let ones = values.shape()[..extra].iter().all(|&extent| extent == 1);
    if extra == 0 || !ones {
        return Ok(values.clone());
    }
    values.squeeze(&(0..extra as i64).collect::<Vec<_>>())
}

/// Whether a boolean array is of the first axes of a shape. One without elements picks nothing,
/// and may have an axis of none where the array has some: NumPy's rule.
fn covers(mask: &[usize], shape: &[usize]) -> bool {
    let empty = mask.contains(&0);
    let fits = |(&mask, &own): (&usize, &usize)| mask == own || empty && mask == 0;
    mask.len() <= shape.len() && mask.iter().zip(shape).all(fits)
}

fn integers(indices: &Array) -> Result<Array> {
    match indices.dtype() {
        _ if indices.size() == 0 => indices.cast(DType::I64),
        DType::I64 | DType::I32 => Ok(indices.clone()),
        dtype if dtype.is_int() => indices.cast(DType::I64),
        dtype => Err(ArrayError::Index(format!("indices are integers, got {dtype}"))),
    }
}

/// What a range takes of an axis, as Python says: start, end (-1: past the front), step, count.
fn slice(
    from: Option<i64>,
    to: Option<i64>,
    step: i64,
    extent: i64,
) -> Result<(i64, i64, i64, i64)> {
    if step == 0 {
        return Err(ArrayError::Index("the step of a slice is 0".to_string()));
    }
    let (low, high) = if step > 0 { (0, extent) } else { (-1, extent - 1) };
    let bound = |at: i64| {
        let at = if at < 0 { at.saturating_add(extent) } else { at };
        at.clamp(low, high)
    };
    let start = from.map_or(if step > 0 { low } else { high }, bound);
    let end = to.map_or(if step > 0 { high } else { low }, bound);
    let distance = if step > 0 { end - start } else { start - end };
    let size = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX);
    let count = if distance > 0 { (distance - 1) / size + 1 } else { 0 };
    if count == 0 {
        return Ok((0, 0, 1, 0));
    }
    Ok((start, end, step.max(-i64::MAX), count))
}

/// The entries with boolean arrays among others as the places where they are true.
fn spread(picks: &[Pick], shape: &[usize]) -> Result<Vec<Pick>> {
    let mut all = Vec::with_capacity(picks.len());
    if picks.iter().filter(|pick| matches!(pick, Pick::Rest)).count() > 1 {
        return Err(ArrayError::Index("an index has one `...` at most".to_string()));
    }
    // The axis that each entry begins at, from the front and, behind `...`, from the back.
    let width = |pick: &Pick| match pick {
        Pick::Array(mask) if mask.dtype() == DType::Bool => mask.rank(),
        Pick::New | Pick::Rest => 0,
        _ => 1,
    };
    let mut axis = 0;
    for (at, pick) in picks.iter().enumerate() {
        if matches!(pick, Pick::Rest) {
            let behind: usize = picks[at..].iter().map(width).sum();
            axis = shape.len().saturating_sub(behind);
        }
        let begin = axis;
        axis += width(pick);
        match pick {
            Pick::Array(mask) if mask.dtype() == DType::Bool => {
                let covered = shape.get(begin..).unwrap_or_default();
                if !covers(mask.shape(), covered) {
                    let mask = mask.shape();
                    let reason = format!("a boolean array of shape {mask:?} for axes {covered:?}");
                    return Err(ArrayError::Index(reason));
                }
                all.extend(mask.nonzero()?.into_iter().map(Pick::Array));
            }
            pick => all.push(pick.clone()),
        }
    }
    Ok(all)
}

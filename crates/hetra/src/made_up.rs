//! Values that mean nothing: what models are timed with where nobody gives others.

use hetra_ir::Type;
use hetra_tensor::{DType, Tensor, Value};

/// A value of a type: floats of 32 bits from -1 to 1, whole numbers of 64 bits that are 0 or 1,
/// zeros of all else. `open` says the extent of an axis that the type leaves open; a seed always
/// gives the same. None where the type is no tensor's, or is too large.
pub fn made_up(ty: &Type, open: &dyn Fn(usize) -> usize, seed: u64) -> Option<Value> {
    let (dtype, dims) = (ty.dtype()?, ty.dims()?);
    let extents = dims.iter().enumerate().map(|(axis, dim)| dim.known().unwrap_or(open(axis)));
    let shape: Vec<usize> = extents.collect();
    // Where there is no memory for it, that is told before a number is drawn.
    let mut tensor = Tensor::zeros(dtype, &shape).ok()?;
    let mut random = fastrand::Rng::with_seed(seed);
    match dtype {
        DType::F32 => {
            let numbers = tensor.as_mut_slice::<f32>().ok()?;
            numbers.iter_mut().for_each(|number| *number = random.f32() * 2.0 - 1.0);
        }
        DType::I64 => {
            let numbers = tensor.as_mut_slice::<i64>().ok()?;
            numbers.iter_mut().for_each(|number| *number = i64::from(random.bool()));
        }
        _ => {}
    }
    Some(tensor.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_filled() {
        let ty = |dtype| Type::shaped(dtype, vec![hetra_ir::Dim::Sym("n".into()), 3usize.into()]);
        let value = |dtype| made_up(&ty(dtype), &|axis| axis + 2, 1).unwrap();
        let floats = value(DType::F32);
        let floats = floats.as_tensor().unwrap();
        assert_eq!(floats.shape(), [2, 3]);
        assert!(floats.as_slice::<f32>().unwrap().iter().all(|number| number.abs() <= 1.0));
        assert_eq!(value(DType::F32), made_up(&ty(DType::F32), &|_| 2, 1).unwrap());
        assert_eq!(value(DType::U8).as_tensor().unwrap().shape(), [2, 3]);
        assert!(made_up(&Type::Unknown, &|_| 1, 1).is_none());
        assert!(made_up(&ty(DType::F32), &|_| usize::MAX, 1).is_none());
    }
}

//! Calls of kernels on tensors: what they are given, and the host's way to run them.

use hetra_kernel::{Arg, KernelError, Literal, Scalar, Source, Word, run_native};
use hetra_tensor::{DType, Tensor, TensorError};

use crate::DeviceError;

/// An argument of a kernel. Memory is that of tensors: kernels of users take and give arrays.
#[derive(Clone, Debug)]
pub enum KernelArg<'a, M = Tensor> {
    /// A number.
    Value(Literal),
    /// Memory that is read.
    Read(&'a M),
    /// New memory, of zeros, of this dtype and shape, that is written.
    Write(DType, &'a [usize]),
    /// Memory that is read and written: the result is another one.
    Update(&'a M),
}

impl<T: Word, M> From<T> for KernelArg<'_, M> {
    fn from(value: T) -> Self {
        KernelArg::Value(Literal::new(value))
    }
}

/// What kernels hold elements of a dtype as; `None` for those that users' kernels do not take.
pub fn scalar_of(dtype: DType) -> Option<Scalar> {
    Some(match dtype {
        DType::F32 => Scalar::F32,
        DType::F16 => Scalar::F16,
        DType::I32 => Scalar::I32,
        DType::U32 => Scalar::U32,
        _ => return None,
    })
}

/// The error of an argument that is no memory for kernels.
pub fn no_memory(source: &Source, index: usize, dtype: DType) -> DeviceError {
    let (name, param) = match source.kernel() {
        Ok(kernel) => {
            let param = kernel.params.get(index).map(|param| param.name.clone());
            (kernel.name.clone(), param.unwrap_or_else(|| index.to_string()))
        }
        Err(error) => return DeviceError::Kernel(error),
    };
    let wanted = "memory of f32, f16, i32 or u32".to_string();
    DeviceError::Kernel(KernelError::Argument { name, param, wanted, got: dtype.to_string() })
}

/// Runs a kernel as rustc compiled it; `each` runs so many groups, in any order.
///
/// # Errors
/// `Kernel` for arguments that do not fit, and for an index out of bounds; `Failed` when there is
/// no room for a result.
pub fn run_on_host(
    source: &Source,
    groups: [u32; 3],
    args: &[KernelArg<'_>],
    each: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
) -> Result<Vec<Tensor>, DeviceError> {
    let failed = |error: TensorError| DeviceError::Failed {
        device: "cpu".to_string(),
        reason: error.to_string(),
    };
    let mut results: Vec<Tensor> = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        let dtype = match arg {
            KernelArg::Value(_) => continue,
            KernelArg::Read(tensor) | KernelArg::Update(tensor) => tensor.dtype(),
            KernelArg::Write(dtype, _) => *dtype,
        };
        scalar_of(dtype).ok_or_else(|| no_memory(source, index, dtype))?;
        match arg {
            KernelArg::Write(dtype, shape) => {
                results.push(Tensor::zeros(*dtype, shape).map_err(failed)?);
            }
            KernelArg::Update(tensor) => {
                tensor.fetch().map_err(failed)?;
                let copy = Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes());
                results.push(copy.map_err(failed)?);
            }
            KernelArg::Read(tensor) => tensor.fetch().map_err(failed)?,
            KernelArg::Value(_) => {}
        }
    }
    let mut written = results.iter_mut();
    let mut given: Vec<Arg<'_>> = Vec::with_capacity(args.len());
    for arg in args {
        given.push(match arg {
            KernelArg::Value(literal) => Arg::Value(*literal),
            KernelArg::Read(tensor) => {
                Arg::Read(scalar_of(tensor.dtype()).unwrap_or(Scalar::F32), tensor.bytes())
            }
            KernelArg::Write(..) | KernelArg::Update(_) => {
                let Some(tensor) = written.next() else { continue };
                let scalar = scalar_of(tensor.dtype()).unwrap_or(Scalar::F32);
                Arg::Write(scalar, tensor.bytes_mut().map_err(failed)?)
            }
        });
    }
    let kernel = source.kernel().map_err(DeviceError::Kernel)?;
    run_native(kernel, source.native(), groups, &mut given, each).map_err(DeviceError::Kernel)?;
    drop(given);
    Ok(results)
}

//! Kernels of users on arrays.

use hetra_device::KernelArg;
use hetra_kernel::Source;
use hetra_tensor::Tensor;

use super::{Array, ArrayError, Device, Result};

/// Runs a kernel on a device, with every index checked, and waits for it. `groups` are along each
/// axis of the grid, of as many items as the kernel says. Gives a new array for each argument that
/// is [`KernelArg::Write`] or [`KernelArg::Update`], in order.
///
/// ```
/// use hetra::array::{Device, KernelArg, launch};
/// use hetra::{Array, DType, kernel};
///
/// /// y = a x + y, an element for each item.
/// #[kernel(group = [64])]
/// fn saxpy(a: f32, x: &[f32], y: &mut [f32]) {
///     let i = global_id(0);
///     if i < y.len() {
///         y[i] = a * x[i] + y[i];
///     }
/// }
///
/// # fn main() -> Result<(), hetra::ArrayError> {
/// let (x, y) = (Array::vector(&[1f32, 2.0, 3.0])?, Array::vector(&[10f32, 20.0, 30.0])?);
/// let args = [2.0f32.into(), KernelArg::Read(&x), KernelArg::Update(&y)];
/// let sums = launch(&saxpy(), [1, 1, 1], &args, &Device::host()?)?;
/// assert_eq!(sums[0].to_vec::<f32>()?, [12.0, 24.0, 36.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// For arguments that do not fit the kernel's parameters, arrays of other devices, what the device
/// cannot do, and an index out of bounds, with the parameter and the index.
pub fn launch(
    source: &Source,
    groups: [u32; 3],
    args: &[KernelArg<'_, Array>],
    device: &Device,
) -> Result<Vec<Array>> {
    let mut tensors: Vec<Option<Tensor>> = Vec::with_capacity(args.len());
    for arg in args {
        tensors.push(match arg {
            KernelArg::Read(array) | KernelArg::Update(array) => {
                if array.device() != device.id() {
                    let (left, right) = (array.device().to_string(), device.id().to_string());
                    return Err(ArrayError::Devices { left, right });
                }
                Some(array.value()?)
            }
            KernelArg::Value(_) | KernelArg::Write(..) => None,
        });
    }
    let given = args.iter().zip(&tensors).filter_map(|(arg, tensor)| match (arg, tensor) {
        (KernelArg::Value(literal), _) => Some(KernelArg::Value(*literal)),
        (KernelArg::Write(dtype, shape), _) => Some(KernelArg::Write(*dtype, shape)),
        (KernelArg::Read(_), Some(tensor)) => Some(KernelArg::Read(tensor)),
        (KernelArg::Update(_), Some(tensor)) => Some(KernelArg::Update(tensor)),
        _ => None,
    });
    let given: Vec<KernelArg<'_>> = given.collect();
    let results = device.opened().run_kernel(source, groups, &given);
    let results = results.map_err(|error| ArrayError::Run(error.into()))?;
    Ok(results.into_iter().map(|tensor| Array::from_tensor(tensor, device)).collect())
}

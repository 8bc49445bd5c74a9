//! What the operators of a device share, and what one run of one of them has at hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hetra_device::{Call, DeviceError, Launch, LaunchArg, LaunchLimits, Launcher};
use hetra_kernel::{Kernel, KernelError, Literal, Scalar};
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor, TensorError};
use smallvec::SmallVec;

use crate::cut::{Cut, Shape};
use crate::stored::{Stored, bytes_of, scalar_of};

/// Items of a group, for kernels along a line.
pub(crate) const LINE: u32 = 64;

/// Sizes of products that are remembered.
const CUTS_MAX: usize = 1024;

/// Most elements of a memory: kernels count them in 32 bits.
const COUNT_MAX: usize = u32::MAX as usize / 2;

/// A device as the operators see it.
pub(crate) struct Gpu {
    pub(crate) launcher: Arc<dyn Launcher>,
    /// Kernels by what they are for.
    library: Mutex<HashMap<String, Arc<Kernel>>>,
    /// How products are cut, by their sizes.
    cuts: Mutex<HashMap<Shape, Option<Cut>>>,
    /// Whether every index is checked: for tests.
    pub(crate) checked: bool,
}

/// An argument of a kernel.
pub(crate) enum A<'a> {
    /// A whole number.
    U(usize),
    /// A whole number of any sign.
    I(i32),
    /// A float.
    F(f32),
    /// Memory.
    M(&'a Stored),
    /// Memory of words, whatever they are.
    W(&'a Stored),
}

/// Why a run did not give a value.
pub(crate) enum Stop {
    /// The host does it.
    Host,
    /// It fails.
    Fault(OpError),
}

impl<E: Into<OpError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Fault(error.into())
    }
}

/// What a run of an operator gives.
pub(crate) type Outcome = Result<SmallVec<[Stored; 1]>, Stop>;

/// What an error of the device means: the host has other memory.
fn fault(error: DeviceError) -> Stop {
    if matches!(error, DeviceError::Memory { .. }) {
        return Stop::Host;
    }
    Stop::Fault(OpError::Tensor(TensorError::from(error)))
}

impl Gpu {
    pub(crate) fn new(launcher: Arc<dyn Launcher>, checked: bool) -> Gpu {
        Gpu { launcher, library: Mutex::default(), cuts: Mutex::default(), checked }
    }

    /// How a product is cut by default: reckoned at the first time.
    pub(crate) fn cut(&self, of: Shape) -> Option<Cut> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.len() >= CUTS_MAX {
            cuts.clear();
        }
        *cuts.entry(of).or_insert_with(|| Cut::usual(self.limits(), of, None))
    }

    pub(crate) fn limits(&self) -> &LaunchLimits {
        self.launcher.limits()
    }

    /// Elements of what is larger than a kernel can be given, that it is given at a time: those of
    /// two bytes and of four both begin where a part may.
    pub(crate) fn part_elements(&self) -> usize {
        let LaunchLimits { part_max, part_align, .. } = *self.limits();
        part_max / size_of::<u32>() / part_align.max(1) * part_align
    }

    /// How elements of a dtype are held.
    pub(crate) fn scalar(&self, dtype: DType) -> Option<Scalar> {
        scalar_of(dtype, self.limits().f16)
    }

    /// Memory with these bytes.
    pub(crate) fn filled(&self, bytes: &[u8]) -> Result<Arc<dyn hetra_tensor::Held>, DeviceError> {
        if bytes.len() / 4 > COUNT_MAX {
            let (device, bytes) = ("this device".to_string(), bytes.len());
            return Err(DeviceError::Memory { device, bytes, at_most: String::new() });
        }
        let memory = self.launcher.alloc(bytes.len().max(4))?;
        self.launcher.write(&*memory, bytes)?;
        Ok(memory)
    }

    /// A tensor on the device: held there already, or copied.
    pub(crate) fn place(&self, tensor: &Tensor) -> Result<Stored, Stop> {
        if let Some(stored) = Stored::of(tensor, &self.launcher) {
            return Ok(stored);
        }
        tensor.fetch()?;
        let scalar = self.scalar(tensor.dtype()).ok_or(Stop::Host)?;
        let bytes = tensor.len().saturating_mul(scalar.bytes());
        if tensor.len() > COUNT_MAX || bytes > self.limits().bytes_max {
            return Err(Stop::Host);
        }
        let bytes = bytes_of(tensor, self.limits().f16).ok_or(Stop::Host)?;
        let memory = self.filled(&bytes).map_err(fault)?;
        Ok(Stored { memory, from: 0, scalar, dtype: tensor.dtype(), shape: tensor.shape().into() })
    }

    /// The kernel of this name; made at the first time.
    pub(crate) fn kernel(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Kernel, KernelError>,
    ) -> Result<Arc<Kernel>, Stop> {
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = library.get(name) {
            return Ok(kernel.clone());
        }
        let made = make().map_err(|error| fault(error.into()))?;
        let kernel = Arc::new(made);
        library.insert(name.to_string(), kernel.clone());
        Ok(kernel)
    }

    /// Memory for a tensor.
    pub(crate) fn room(&self, dtype: DType, shape: &[usize]) -> Result<Stored, Stop> {
        let scalar = self.scalar(dtype).ok_or(Stop::Host)?;
        let count = hetra_tensor::element_count(shape)?;
        let bytes = count.checked_mul(scalar.bytes()).ok_or(Stop::Host)?;
        if count > COUNT_MAX || bytes > self.limits().bytes_max {
            return Err(Stop::Host);
        }
        let memory = self.launcher.alloc(bytes.max(4)).map_err(fault)?;
        Ok(Stored { memory, from: 0, scalar, dtype, shape: shape.into() })
    }

    /// Launches a kernel.
    pub(crate) fn launch(
        &self,
        kernel: &Arc<Kernel>,
        groups: [usize; 3],
        args: &[A<'_>],
    ) -> Result<(), Stop> {
        let mut given: SmallVec<[LaunchArg<'_>; 16]> = SmallVec::new();
        for arg in args {
            if let A::W(stored) | A::M(stored) = arg
                && stored.bytes() > self.limits().part_max
            {
                return Err(Stop::Host);
            }
            given.push(match arg {
                A::U(value) => {
                    LaunchArg::Value(Literal::new(u32::try_from(*value).map_err(|_| Stop::Host)?))
                }
                A::I(value) => LaunchArg::Value(Literal::new(*value)),
                A::F(value) => LaunchArg::Value(Literal::new(*value)),
                A::W(stored) => LaunchArg::Memory {
                    memory: &stored.memory,
                    scalar: None,
                    from: stored.from,
                    bytes: stored.bytes(),
                },
                A::M(stored) => LaunchArg::Memory {
                    memory: &stored.memory,
                    scalar: Some(stored.scalar),
                    from: stored.from,
                    bytes: stored.bytes(),
                },
            });
        }
        let mut counts = [0u32; 3];
        for (to, from) in counts.iter_mut().zip(groups) {
            *to = u32::try_from(from).map_err(|_| Stop::Host)?;
        }
        let mut launch = Launch::new(kernel, counts, &given);
        if !self.checked {
            // SAFETY: every operator of this crate works out extents and steps from the shapes of
            // the very memories that it hands over, and refuses (`Stop::Host`) those that do not
            // belong together; the conformance suite runs all of them checked.
            launch = unsafe { launch.unchecked() };
        }
        self.launcher.launch(&launch).map_err(fault)
    }

    /// Launches a kernel of [`LINE`] items a group for so many items.
    pub(crate) fn line(
        &self,
        kernel: &Arc<Kernel>,
        items: usize,
        args: &[A<'_>],
    ) -> Result<(), Stop> {
        self.launch(kernel, [items.div_ceil(LINE as usize), 1, 1], args)
    }
}

/// One run.
pub(crate) struct Run<'r, 'c> {
    pub(crate) gpu: &'r Gpu,
    pub(crate) call: &'r Call<'c>,
    /// Inputs that were copied when the node was compiled, by index.
    pub(crate) constants: &'r [Option<Stored>],
    /// Whether it works on what is larger than a kernel can be given, part by part.
    pub(crate) in_parts: bool,
}

impl Run<'_, '_> {
    /// An input on the device.
    pub(crate) fn input(&self, index: usize) -> Result<Stored, Stop> {
        if let Some(Some(constant)) = self.constants.get(index) {
            return Ok(constant.clone());
        }
        let tensor = self.call.tensor(index)?;
        let scalar = self.gpu.scalar(tensor.dtype()).ok_or(Stop::Host)?;
        let bytes = tensor.len().saturating_mul(scalar.bytes());
        if !self.in_parts && bytes > self.gpu.limits().part_max {
            return Err(Stop::Host);
        }
        self.gpu.place(tensor)
    }

    /// An input that need not be there.
    pub(crate) fn optional(&self, index: usize) -> Result<Option<Stored>, Stop> {
        match self.call.tensor_opt(index) {
            None => Ok(None),
            Some(_) => self.input(index).map(Some),
        }
    }

    /// An input on the host: what says how, not what.
    pub(crate) fn on_host(&self, index: usize) -> Result<Option<&Tensor>, Stop> {
        let tensor = self.call.tensor_opt(index);
        if let Some(tensor) = tensor {
            tensor.fetch()?;
        }
        Ok(tensor)
    }

    /// Whole numbers on the host.
    pub(crate) fn numbers(&self, index: usize) -> Result<Option<Vec<i64>>, Stop> {
        Ok(self.on_host(index)?.map(hetra_tensor::to_i64).transpose()?)
    }

    /// The shape of an input.
    pub(crate) fn shape(&self, index: usize) -> Result<&[usize], Stop> {
        Ok(self.call.tensor(index)?.shape())
    }
}

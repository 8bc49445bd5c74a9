//! Calls of kernels on the host: arguments, checked, and groups, one after the other or in
//! parallel.

use half::f16;

use crate::error::KernelError;
use crate::ir::{Access, ArrayId, Kernel, Param, ParamId, ParamKind};
use crate::native::{ARRAYS_FROM, Argument, DIVERGENT, Faults, GroupRun, Native};
use crate::types::{Literal, Scalar, Type, Word};

/// Most groups of a grid.
pub const GROUPS_MAX: u64 = 1 << 31;

/// An argument in the host's memory.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A number.
    Value(Literal),
    /// Memory that is read.
    Read(Scalar, &'a [u8]),
    /// Memory that is read and written.
    Write(Scalar, &'a mut [u8]),
}

impl<T: Word> From<T> for Arg<'_> {
    fn from(value: T) -> Self {
        Arg::Value(Literal::new(value))
    }
}

macro_rules! slices {
    ($($type:ty)*) => {$(
        impl<'a> From<&'a [$type]> for Arg<'a> {
            fn from(slice: &'a [$type]) -> Self {
                Arg::Read(<$type>::SCALAR, bytemuck::cast_slice(slice))
            }
        }
        impl<'a> From<&'a mut [$type]> for Arg<'a> {
            fn from(slice: &'a mut [$type]) -> Self {
                Arg::Write(<$type>::SCALAR, bytemuck::cast_slice_mut(slice))
            }
        }
    )*};
}

slices!(f32 f16 i32 u32);

/// What an argument is, whatever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// A number.
    Value(Scalar),
    /// Memory.
    Memory {
        /// Of what; `None` where that is not known.
        scalar: Option<Scalar>,
        /// Whether it may be written.
        writable: bool,
        /// Its size.
        bytes: usize,
    },
}

impl Arg<'_> {
    /// What it is.
    pub fn given(&self) -> Given {
        match self {
            Arg::Value(literal) => Given::Value(literal.scalar),
            Arg::Read(scalar, bytes) => {
                Given::Memory { scalar: Some(*scalar), writable: false, bytes: bytes.len() }
            }
            Arg::Write(scalar, bytes) => {
                Given::Memory { scalar: Some(*scalar), writable: true, bytes: bytes.len() }
            }
        }
    }
}

impl Given {
    /// What it is, for messages.
    fn describe(self) -> String {
        match self {
            Given::Value(scalar) => format!("a number of type {}", scalar.name()),
            Given::Memory { scalar, writable, .. } => {
                let scalar = scalar.map_or("some type", Scalar::name);
                format!("memory of {scalar} to {}", if writable { "write" } else { "read" })
            }
        }
    }

    fn bytes(self) -> usize {
        match self {
            Given::Value(_) => 0,
            Given::Memory { bytes, .. } => bytes,
        }
    }
}

/// What a parameter takes, for messages.
fn wanted(kind: ParamKind) -> String {
    match kind {
        ParamKind::Value(scalar) => format!("a number of type {}", scalar.name()),
        ParamKind::Buffer { element, access: Access::Read } => format!("memory of {element}"),
        ParamKind::Buffer { element, .. } => format!("memory of {element} to write"),
    }
}

impl Kernel {
    /// Checks a call: as many arguments as parameters, each of its kind, and a grid that is not
    /// too large.
    ///
    /// # Errors
    /// With the parameter, what it takes and what it was given.
    pub fn check_call(&self, groups: [u32; 3], given: &[Given]) -> Result<(), KernelError> {
        self.check_grid(groups)?;
        if given.len() != self.params.len() {
            let (wanted, got) = (self.params.len(), given.len());
            return Err(KernelError::Arguments { name: self.name.clone(), wanted, got });
        }
        self.params.iter().zip(given).try_for_each(|(param, given)| self.check_arg(param, *given))
    }

    /// Checks how many groups there are.
    ///
    /// # Errors
    /// `Grid`.
    pub fn check_grid(&self, groups: [u32; 3]) -> Result<(), KernelError> {
        let count = groups.iter().map(|&count| u64::from(count)).try_fold(1u64, u64::checked_mul);
        let items = |axis: usize| u64::from(groups[axis]) * u64::from(self.group[axis]);
        let wraps = (0..3).any(|axis| items(axis) > u64::from(u32::MAX));
        if count.is_none_or(|count| count > GROUPS_MAX) || wraps {
            return Err(KernelError::Grid { name: self.name.clone(), groups });
        }
        Ok(())
    }

    fn check_arg(&self, param: &Param, given: Given) -> Result<(), KernelError> {
        match (param.kind, given) {
            (ParamKind::Value(wanted), Given::Value(scalar)) if scalar == wanted => Ok(()),
            (ParamKind::Buffer { element, access }, Given::Memory { scalar, writable, bytes })
                if scalar.is_none_or(|scalar| scalar == element.scalar)
                    && (writable || access == Access::Read) =>
            {
                self.check_bytes(param, element, bytes)
            }
            _ => Err(KernelError::Argument {
                name: self.name.clone(),
                param: param.name.clone(),
                wanted: wanted(param.kind),
                got: given.describe(),
            }),
        }
    }

    /// Checks that memory of this size holds whole elements, not more than an index can count.
    fn check_bytes(&self, param: &Param, element: Type, bytes: usize) -> Result<(), KernelError> {
        let elements = bytes / element.bytes();
        if !bytes.is_multiple_of(element.bytes()) || elements > u32::MAX as usize {
            let (name, param) = (self.name.clone(), param.name.clone());
            return Err(KernelError::Bytes { name, param, bytes, element });
        }
        Ok(())
    }

    /// The name of memory by its number, for messages: a parameter's, or an array's.
    pub(crate) fn memory_name(&self, memory: u32) -> String {
        match memory.checked_sub(ARRAYS_FROM) {
            Some(array) => format!("array {array}"),
            None => self
                .params
                .get(memory as usize)
                .map_or_else(|| format!("memory {memory}"), |param| param.name.clone()),
        }
    }

    /// Elements of memory by its number, where an index is refused.
    fn memory_len(&self, memory: u32, given: &[Given]) -> usize {
        match memory.checked_sub(ARRAYS_FROM) {
            Some(array) if (array as usize) < self.arrays.len() => {
                self.array(ArrayId(array)).elements()
            }
            Some(_) => 0,
            None => match self.params.get(memory as usize).map(|param| param.kind) {
                Some(ParamKind::Buffer { element, .. }) => {
                    given.get(memory as usize).map_or(0, |given| given.bytes() / element.bytes())
                }
                _ => 0,
            },
        }
    }

    /// The error of a fault that a device or a native run recorded: which memory, which index.
    pub fn fault(&self, (memory, index): (u32, u32), given: &[Given]) -> KernelError {
        let name = self.name.clone();
        if memory == DIVERGENT {
            return KernelError::Divergent { name };
        }
        let len = self.memory_len(memory, given);
        KernelError::OutOfBounds { name, memory: self.memory_name(memory), index, len }
    }

    /// The number of a parameter in a recorded fault.
    pub(crate) fn memory_of(param: ParamId) -> u32 {
        param.0
    }
}

/// Runs a compiled kernel. `parallel` calls its second argument once for each number below the
/// first, in any order and on any threads.
///
/// # Errors
/// As [`Kernel::check_call`], and when an index is out of bounds or items do not reach the same
/// barrier. What was written then stays.
pub fn run_native(
    kernel: &Kernel,
    native: Native,
    groups: [u32; 3],
    args: &mut [Arg<'_>],
    parallel: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
) -> Result<(), KernelError> {
    let given: Vec<Given> = args.iter().map(Arg::given).collect();
    kernel.check_call(groups, &given)?;
    let arguments: Vec<Argument<'_>> = kernel
        .params
        .iter()
        .zip(args)
        .map(|(param, arg)| match arg {
            Arg::Value(literal) => Ok(Argument::Value(literal.bits)),
            Arg::Read(_, bytes) => Ok(Argument::Read(bytes)),
            Arg::Write(scalar, bytes) => {
                if param.kind.is_read() {
                    return Ok(Argument::Read(bytes));
                }
                let size = bytes.len();
                Argument::cells(bytes, scalar.bytes()).ok_or_else(|| KernelError::Argument {
                    name: kernel.name.clone(),
                    param: param.name.clone(),
                    wanted: format!("memory that begins at a multiple of {}", scalar.bytes()),
                    got: format!("{size} bytes that do not"),
                })
            }
        })
        .collect::<Result<_, _>>()?;
    let faults = Faults::default();
    let [width, height, depth] = groups.map(|count| count as usize);
    parallel(width * height * depth, &|index| {
        let group = [index % width, index / width % height, index / (width * height)];
        let group = group.map(|place| place as u32);
        let size = kernel.group;
        native(&GroupRun { group, groups, size, arguments: &arguments, faults: &faults });
    });
    match faults.first() {
        None => Ok(()),
        Some(fault) => Err(kernel.fault(fault, &given)),
    }
}

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

impl Arg<'_> {
    /// What it is, for messages.
    fn describe(&self) -> String {
        match self {
            Arg::Value(literal) => format!("a number of type {}", literal.scalar.name()),
            Arg::Read(scalar, _) => format!("memory of {} to read", scalar.name()),
            Arg::Write(scalar, _) => format!("memory of {} to write", scalar.name()),
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
    pub fn check_call(&self, groups: [u32; 3], args: &[Arg<'_>]) -> Result<(), KernelError> {
        self.check_grid(groups)?;
        if args.len() != self.params.len() {
            let (wanted, got) = (self.params.len(), args.len());
            return Err(KernelError::Arguments { name: self.name.clone(), wanted, got });
        }
        self.params.iter().zip(args).try_for_each(|(param, arg)| self.check_arg(param, arg))
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

    fn check_arg(&self, param: &Param, arg: &Arg<'_>) -> Result<(), KernelError> {
        let (scalar, bytes) = match (param.kind, arg) {
            (ParamKind::Value(wanted), Arg::Value(literal)) if literal.scalar == wanted => {
                return Ok(());
            }
            (ParamKind::Buffer { access: Access::Read, .. }, Arg::Read(scalar, bytes)) => {
                (*scalar, bytes.len())
            }
            (ParamKind::Buffer { .. }, Arg::Write(scalar, bytes)) => (*scalar, bytes.len()),
            _ => return Err(self.wrong_arg(param, arg)),
        };
        match param.kind {
            ParamKind::Buffer { element, .. } if element.scalar == scalar => {
                self.check_bytes(param, element, bytes)
            }
            _ => Err(self.wrong_arg(param, arg)),
        }
    }

    /// Checks that memory of this size holds whole elements, not more than an index can count.
    ///
    /// # Errors
    /// `Bytes`.
    pub fn check_bytes(
        &self,
        param: &Param,
        element: Type,
        bytes: usize,
    ) -> Result<(), KernelError> {
        let elements = bytes / element.bytes();
        if !bytes.is_multiple_of(element.bytes()) || elements > u32::MAX as usize {
            let (name, param) = (self.name.clone(), param.name.clone());
            return Err(KernelError::Bytes { name, param, bytes, element });
        }
        Ok(())
    }

    fn wrong_arg(&self, param: &Param, arg: &Arg<'_>) -> KernelError {
        KernelError::Argument {
            name: self.name.clone(),
            param: param.name.clone(),
            wanted: wanted(param.kind),
            got: arg.describe(),
        }
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
    fn memory_len(&self, memory: u32, args: &[usize]) -> usize {
        match memory.checked_sub(ARRAYS_FROM) {
            Some(array) if (array as usize) < self.arrays.len() => {
                self.array(ArrayId(array)).elements()
            }
            Some(_) => 0,
            None => match self.params.get(memory as usize).map(|param| param.kind) {
                Some(ParamKind::Buffer { element, .. }) => {
                    args.get(memory as usize).map_or(0, |bytes| bytes / element.bytes())
                }
                _ => 0,
            },
        }
    }

    /// The error of a fault that a device or a native run recorded: which memory, which index.
    /// `bytes` has the size of each argument that is memory.
    pub fn fault(&self, (memory, index): (u32, u32), bytes: &[usize]) -> KernelError {
        let name = self.name.clone();
        if memory == DIVERGENT {
            return KernelError::Divergent { name };
        }
        let len = self.memory_len(memory, bytes);
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
    kernel.check_call(groups, args)?;
    let bytes: Vec<usize> = args
        .iter()
        .map(|arg| match arg {
            Arg::Value(_) => 0,
            Arg::Read(_, bytes) => bytes.len(),
            Arg::Write(_, bytes) => bytes.len(),
        })
        .collect();
    let arguments: Vec<Argument<'_>> = kernel
        .params
        .iter()
        .zip(args)
        .map(|(param, arg)| match arg {
            Arg::Value(literal) => Ok(Argument::Value(literal.bits)),
            Arg::Read(_, bytes) => Ok(Argument::Read(bytes)),
            Arg::Write(scalar, bytes) => {
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
        Some(fault) => Err(kernel.fault(fault, &bytes)),
    }
}

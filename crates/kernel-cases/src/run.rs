//! Runs a case one way or another.

use std::sync::Arc;

use hetra_device::{DeviceError, Launch, LaunchArg, Launcher, Random};
use hetra_kernel::{Arg, KernelError, Limits, Literal, Scalar, Source, interpret};
use hetra_tensor::Held;

/// Items that a case is for.
const ITEMS: usize = 100;

/// A generated kernel with its inputs.
pub struct Case {
    /// The kernel, of parameters `n, x, a, b, y, c, d`.
    pub source: Source,
    x: Vec<f32>,
    a: Vec<i32>,
    b: Vec<u32>,
}

/// What a case writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// Floats, which may differ in the last digits.
    pub y: Vec<f32>,
    /// Exact.
    pub c: Vec<i32>,
    /// Exact.
    pub d: Vec<u32>,
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(7);
    let cases = crate::generated::all().into_iter().map(|source| Case {
        source,
        x: (0..ITEMS).map(|_| random.below(200) as f32 - 100.0).collect(),
        a: (0..ITEMS).map(|_| random.bits() as i32).collect(),
        b: (0..ITEMS).map(|_| random.bits() as u32).collect(),
    });
    cases.collect()
}

impl Case {
    fn outputs(&self) -> Outputs {
        Outputs { y: vec![0.0; ITEMS], c: vec![0; ITEMS], d: vec![0; ITEMS] }
    }

    fn groups(&self) -> Result<[u32; 3], KernelError> {
        Ok([(ITEMS as u32).div_ceil(self.source.kernel()?.group[0]), 1, 1])
    }

    fn args<'a>(&'a self, outputs: &'a mut Outputs) -> [Arg<'a>; 7] {
        [
            (ITEMS as u32).into(),
            self.x[..].into(),
            self.a[..].into(),
            self.b[..].into(),
            (&mut outputs.y[..]).into(),
            (&mut outputs.c[..]).into(),
            (&mut outputs.d[..]).into(),
        ]
    }
}

/// As rustc compiled it.
///
/// # Errors
/// As the run.
pub fn native(case: &Case) -> Result<Outputs, KernelError> {
    let mut outputs = case.outputs();
    case.source.run(case.groups()?, &mut case.args(&mut outputs))?;
    Ok(outputs)
}

/// By the interpreter.
///
/// # Errors
/// As the run.
pub fn interpreted(case: &Case) -> Result<Outputs, KernelError> {
    let mut outputs = case.outputs();
    let kernel = case.source.kernel()?;
    interpret(kernel, case.groups()?, &mut case.args(&mut outputs), Limits::default())?;
    Ok(outputs)
}

/// On a device.
///
/// # Errors
/// As the launch.
pub fn on(launcher: &dyn Launcher, case: &Case) -> Result<Outputs, DeviceError> {
    let mut outputs = case.outputs();
    let words = |words: &mut dyn Iterator<Item = u32>| -> Result<Arc<dyn Held>, DeviceError> {
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let memory = launcher.alloc(bytes.len())?;
        launcher.write(&*memory, &bytes)?;
        Ok(memory)
    };
    let zeros = || words(&mut std::iter::repeat_n(0, ITEMS));
    let memories = [
        (words(&mut case.x.iter().map(|x| x.to_bits()))?, Scalar::F32),
        (words(&mut case.a.iter().map(|a| *a as u32))?, Scalar::I32),
        (words(&mut case.b.iter().copied())?, Scalar::U32),
        (zeros()?, Scalar::F32),
        (zeros()?, Scalar::I32),
        (zeros()?, Scalar::U32),
    ];
    let mut args = vec![LaunchArg::Value(Literal::new(ITEMS as u32))];
    args.extend(memories.iter().map(|(memory, scalar)| LaunchArg::Memory {
        memory,
        scalar: Some(*scalar),
        from: 0,
        bytes: ITEMS * 4,
    }));
    launcher.launch(&Launch::of(&case.source, case.groups()?, &args)?)?;
    let read = |index: usize| -> Result<Vec<u32>, DeviceError> {
        let mut bytes = vec![0; ITEMS * 4];
        memories[index].0.read(&mut bytes).map_err(|error| DeviceError::Failed {
            device: String::new(),
            reason: error.to_string(),
        })?;
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(4).map(word).collect())
    };
    outputs.y = read(3)?.into_iter().map(f32::from_bits).collect();
    outputs.c = read(4)?.into_iter().map(|word| word as i32).collect();
    outputs.d = read(5)?;
    Ok(outputs)
}

/// Whether two runs agree: whole numbers exactly, floats to a part in 100,000.
pub fn same(one: &Outputs, other: &Outputs) -> bool {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
    one.c == other.c && one.d == other.d && one.y.iter().zip(&other.y).all(close)
}

//! The device passes the conformance suite of every device, with every index checked.
use std::sync::Arc;

use hetra_device::conformance::{Case, Outcome, check, suite};
use hetra_device::{
    DeviceError, DeviceInfo, Driver, HostThreads, Launch, LaunchLimits, Launcher, ScheduleTable,
};
use hetra_device_cpu::CpuDriver;
use hetra_device_kernels::{KernelDevice, OPEN};
use hetra_device_wgpu::Wgpu;
use hetra_ir::Node;
use hetra_kernel_cases::opened;
use hetra_tensor::{Held, Tensor};

/// A device that says that barriers cost little, as GPUs do: operators then choose other kernels.
struct AsGpu {
    device: Wgpu,
    limits: LaunchLimits,
}

impl Launcher for AsGpu {
    fn limits(&self) -> &LaunchLimits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Held>, DeviceError> {
        self.device.alloc(bytes)
    }

    fn write(&self, memory: &dyn Held, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(memory, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.device.launch(launch)
    }

    fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.device.run(launch)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.device.wait()
    }
}

/// A device for models, of a launcher; it checks every index.
fn checked(info: DeviceInfo, launcher: Arc<dyn Launcher>) -> KernelDevice {
    let host = CpuDriver.open("cpu", HostThreads::default(), ScheduleTable::default()).unwrap();
    KernelDevice::new(info, launcher, host, ScheduleTable::default()).checked()
}

/// A device whose kernels can be given 8 KiB at once.
fn of_small_parts() -> Option<KernelDevice> {
    let device = opened("wgpu", hetra_device_wgpu::open("wgpu"))?;
    let info = device.info().clone();
    let limits = LaunchLimits { part_max: 8192, ..device.limits().clone() };
    Some(checked(info, Arc::new(AsGpu { device, limits })))
}

fn run_suite(info: DeviceInfo, launcher: Arc<dyn Launcher>) {
    let device = checked(info, launcher);
    let kinds = suite(&device, (1, 6), 3e-5, OPEN).unwrap_or_else(|failures| panic!("{failures}"));
    assert!(kinds > 40, "{kinds}");
}

#[test]
fn every_claimed_operator_agrees_by_the_kernels_of_gpus() {
    let Some(device) = opened("wgpu", hetra_device_wgpu::open("wgpu")) else { return };
    let limits = LaunchLimits { cheap_barriers: true, units: 96, ..device.limits().clone() };
    run_suite(device.info().clone(), Arc::new(AsGpu { device, limits }));
}

#[test]
fn weights_larger_than_a_buffer_are_cut_into_blocks() {
    let Some(device) = of_small_parts() else { return };
    let numbers = |shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| ((i * 37) % 101) as f32).collect();
        Tensor::from_slice(&shape, &values).unwrap()
    };
    let (m, k, n) = (10, 40, 150);
    let bias = Tensor::vector(&(0..n).map(|i| i as f32).collect::<Vec<_>>());
    let gemm = Node::new("Gemm", &[], &[]).with("transB", 1i64).with("beta", 2.0f32);
    for (node, weights, bias) in
        [(Node::new("MatMul", &[], &[]), [k, n], None), (gemm, [n, k], Some(bias))]
    {
        let op = node.op.clone();
        let mut inputs = vec![(Some(numbers([m, k])), false), (Some(numbers(weights)), true)];
        inputs.extend(bias.map(|bias| (Some(bias), true)));
        match check(&device, &Case::new(&op, node, inputs, 1), 1e-5) {
            Outcome::Passed { kernel, .. } => assert_eq!(kernel, "matmul", "{op}"),
            other => panic!("{op}: {other:?}"),
        }
    }
}

#[test]
fn what_a_kernel_cannot_be_given_at_once_is_done_in_parts() {
    let Some(device) = of_small_parts() else { return };
    let values: Vec<f32> = (0..5000).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
    let x = Tensor::from_slice(&[50, 100], &values).unwrap();
    let live = |tensor: &Tensor| (Some(tensor.clone()), false);
    let mut cases = vec![
        Case::new("Add", Node::new("Add", &[], &[]), vec![live(&x), live(&x)], 1),
        Case::new(
            "Mul",
            Node::new("Mul", &[], &[]),
            vec![live(&x), live(&Tensor::scalar(3.0f32))],
            1,
        ),
        Case::new("Less", Node::new("Less", &[], &[]), vec![live(&x), live(&x)], 1),
    ];
    for op in ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"] {
        let node = Node::new(&format!("Reduce{op}"), &[], &[]);
        cases.push(Case::new(op, node, vec![live(&x)], 1));
    }
    for case in cases {
        match check(&device, &case, 1e-5) {
            Outcome::Passed { kernel, .. } => assert_ne!(kernel, "reference", "{}", case.name),
            other => panic!("{}: {other:?}", case.name),
        }
    }
}

#[test]
fn every_claimed_operator_agrees_with_its_reference() {
    let Some(device) = opened("wgpu", hetra_device_wgpu::open("wgpu")) else { return };
    run_suite(device.info().clone(), Arc::new(device));
}

//! The kernels of docs/kernels.md, on every device that is here.

use hetra::array::{KernelArg, Random, launch};
use hetra::{Array, ArrayError, DType, kernel, kernel_fn};

use crate::found::devices;

type Result<T = ()> = std::result::Result<T, ArrayError>;

#[kernel(group = [64])]
fn saxpy(a: f32, x: &[f32], y: &mut [f32]) {
    let i = global_id(0);
    if i < y.len() {
        y[i] = a * x[i] + y[i];
    }
}

/// The sums of 64 elements each.
#[kernel(group = [64])]
fn sums(n: u32, x: &[f32], y: &mut [f32]) {
    let part = shared::<[f32; 64]>();
    let i = local_id(0);
    let from = global_id(0);
    part[i] = if from < n { x[from] } else { 0.0 };
    barrier();
    let mut step = 32;
    while step > 0 {
        if i < step {
            part[i] += part[i + step];
        }
        barrier();
        step /= 2;
    }
    if i == 0 {
        y[group_id(0)] = part[0];
    }
}

/// The product of two matrices, by tiles that a group reads together.
#[kernel(group = [T, T])]
fn tiled<const T: usize>(m: u32, n: u32, k: u32, a: &[f32], b: &[f32], c: &mut [f32]) {
    let tile_a = shared::<[[f32; T]; T]>();
    let tile_b = shared::<[[f32; T]; T]>();
    let x = local_id(0);
    let y = local_id(1);
    let column = global_id(0);
    let row = global_id(1);
    let mut sum = 0.0;
    for from in (0..k).step_by(T) {
        tile_a[y][x] = if row < m && from + x < k { a[row * k + from + x] } else { 0.0 };
        tile_b[y][x] = if from + y < k && column < n { b[(from + y) * n + column] } else { 0.0 };
        barrier();
        for i in 0..T {
            sum += tile_a[y][i] * tile_b[i][x];
        }
        barrier();
    }
    if row < m && column < n {
        c[row * n + column] = clipped(sum);
    }
}

/// A function that kernels call.
#[kernel_fn]
fn clipped(x: f32) -> f32 {
    x.max(0.0)
}

/// Reads beyond the end.
#[kernel(group = [4])]
fn careless(x: &[f32], y: &mut [f32]) {
    let i = global_id(0);
    y[i] = x[i + 1];
}

#[test]
fn a_line_of_numbers() -> Result {
    for device in devices() {
        let (x, y) = (vec![1.5f32; 1000], (0..1000).map(|i| i as f32).collect::<Vec<f32>>());
        let x = Array::vector(&x)?.to(device.id())?;
        let on = Array::vector(&y)?.to(device.id())?;
        let args = [2.0f32.into(), KernelArg::Read(&x), KernelArg::Update(&on)];
        let result = launch(&saxpy(), [16, 1, 1], &args, &device)?.remove(0);
        assert_eq!(result.to_vec::<f32>()?[999], 1002.0);
        // What was given is as it was.
        assert_eq!(on.to_vec::<f32>()?, y);
        // Results are arrays as all others.
        assert_eq!(result.add(&x)?.to_vec::<f32>()?[0], 4.5);
    }
    Ok(())
}

#[test]
fn items_that_work_together() -> Result {
    for device in devices() {
        let x = Random::new(1).uniform(&[1000], DType::F32, &device)?;
        let args = [1000u32.into(), KernelArg::Read(&x), KernelArg::Write(DType::F32, &[16])];
        let parts = launch(&sums(), [16, 1, 1], &args, &device)?.remove(0);
        let (got, wanted) = (parts.sum(None, false)?.item()?, x.sum(None, false)?.item()?);
        assert!((got.as_f64() - wanted.as_f64()).abs() < 1e-3, "{} {got:?}", device.id());
    }
    Ok(())
}

#[test]
fn a_product_by_tiles() -> Result {
    let (m, n, k) = (37, 50, 41);
    for device in devices() {
        let mut random = Random::new(2);
        let a = random.uniform(&[m, k], DType::F32, &device)?;
        let b = random.uniform(&[k, n], DType::F32, &device)?;
        let sizes = [m, n, k].map(|extent| KernelArg::from(extent as u32));
        let [m_arg, n_arg, k_arg] = sizes;
        let args = [
            m_arg,
            n_arg,
            k_arg,
            KernelArg::Read(&a),
            KernelArg::Read(&b),
            KernelArg::Write(DType::F32, &[m, n]),
        ];
        let groups = [n.div_ceil(8) as u32, m.div_ceil(8) as u32, 1];
        let c = launch(&tiled::<8>(), groups, &args, &device)?.remove(0);
        let wanted = a.matmul(&b)?.to_vec::<f32>()?;
        let close = |(got, wanted): (&f32, &f32)| (got - wanted).abs() < 1e-4;
        assert!(c.to_vec::<f32>()?.iter().zip(&wanted).all(close), "{}", device.id());
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_an_error_and_the_device_goes_on() -> Result {
    for device in devices() {
        let x = Array::vector(&[1f32; 8])?.to(device.id())?;
        let write = KernelArg::Write(DType::F32, &[8]);
        let run = |args: &[KernelArg<'_, Array>]| {
            let error = launch(&careless(), [2, 1, 1], args, &device).unwrap_err();
            error.to_string()
        };
        let outside = run(&[KernelArg::Read(&x), write.clone()]);
        assert!(outside.contains("x") && outside.contains('8'), "{outside}");
        let few = run(&[KernelArg::Read(&x)]);
        assert!(few.contains("careless"), "{few}");
        let number = run(&[1.0f32.into(), write.clone()]);
        assert!(number.contains("memory of f32"), "{number}");
        let doubles = x.cast(DType::F64)?;
        let wrong = run(&[KernelArg::Read(&doubles), write.clone()]);
        assert!(wrong.contains("f64"), "{wrong}");
        let whole = run(&[KernelArg::Read(&x), KernelArg::Write(DType::I32, &[8])]);
        assert!(whole.contains("`y`") || whole.contains('y'), "{whole}");
        let args = [1.0f32.into(), KernelArg::Read(&x), KernelArg::Update(&x)];
        let again = launch(&saxpy(), [1, 1, 1], &args, &device)?.remove(0);
        assert_eq!(again.to_vec::<f32>()?, [2.0; 8]);
    }
    Ok(())
}

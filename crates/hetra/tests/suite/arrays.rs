//! Arrays: what users of the Rust face rely on. The functions themselves are compared with NumPy's
//! by the tests of the Python package, over dtypes, shapes and devices.

use hetra::array::{Device, Pick, Random, Scalar, traced};
use hetra::{Array, ArrayError, DType};

use crate::found::devices;

type Result<T = ()> = std::result::Result<T, ArrayError>;

fn vector(values: &[f32], device: &Device) -> Result<Array> {
    Array::vector(values)?.to(device.id())
}

#[test]
fn a_chain_is_noted_and_then_computed_at_once() -> Result {
    for device in devices() {
        let (a, b) = (vector(&[1.0, 2.0, 3.0], &device)?, vector(&[4.0, 5.0, 6.0], &device)?);
        let sum = a.multiply(&b)?.add(&a)?.sum(None, false)?;
        assert!(!sum.is_ready());
        let (value, traces) = traced(|| sum.item());
        assert_eq!(value?, Scalar::Float(38.0));
        assert_eq!(traces.len(), 1);
        // Every step ran where the arrays are.
        assert!(traces[0].steps.iter().all(|step| step.device == device.id()));
        let (_, again) = traced(|| sum.item());
        assert!(again.is_empty());
    }
    Ok(())
}

#[test]
fn a_matrix_goes_to_a_device_and_comes_back() -> Result {
    let host = Device::host()?;
    let x = Random::new(3).uniform(&[65, 70], DType::F32, &host)?;
    let wanted = x.matmul(&x.transpose()?)?.to_vec::<f32>()?;
    for device in devices() {
        let on = x.to(device.id())?;
        let product = on.matmul(&on.transpose()?)?.to("cpu")?;
        let got = product.to_vec::<f32>()?;
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
        assert!(got.iter().zip(&wanted).all(close), "{}", device.id());
    }
    Ok(())
}

#[test]
fn large_chains_are_one_pass_over_memory() -> Result {
    let host = Device::host()?;
    let mut random = Random::new(1);
    let mut draw = || random.uniform(&[300, 400], DType::F32, &host);
    let (a, b, c) = (draw()?, draw()?, draw()?);
    let chain = || a.multiply(&b)?.add(&c)?.exp()?.sum(Some(&[1]), false);
    let (value, traces) = traced(|| chain()?.to_vec::<f32>());
    let ops: Vec<&str> = traces[0].steps.iter().map(|step| step.op.as_str()).collect();
    assert_eq!(ops, ["hetra.Fused"]);
    assert!(traces[0].steps[0].kernel.starts_with("fused"));
    let lists = [a.to_vec::<f32>()?, b.to_vec::<f32>()?, c.to_vec::<f32>()?];
    for (row, got) in value?.into_iter().enumerate() {
        let at = |i: usize| lists.each_ref().map(|list| f64::from(list[row * 400 + i]));
        let wanted: f64 = (0..400).map(at).map(|[a, b, c]| (a * b + c).exp()).sum();
        assert!((f64::from(got) - wanted).abs() < 1e-4 * wanted, "{got} {wanted}");
    }
    Ok(())
}

#[test]
fn what_looks_alike_is_not_taken_for_the_same() -> Result {
    // The same operators and shapes, joined otherwise, with other constants, of other dtypes.
    let (a, b) = (Array::vector(&[1f32, 2.0])?, Array::vector(&[10f32, 20.0])?);
    assert_eq!(a.subtract(&b)?.to_vec::<f32>()?, [-9.0, -18.0]);
    assert_eq!(b.subtract(&a)?.to_vec::<f32>()?, [9.0, 18.0]);
    assert_eq!(a.subtract(&a)?.to_vec::<f32>()?, [0.0, 0.0]);
    let x = Array::from_slice(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    assert_eq!(x.sum(Some(&[0]), false)?.to_vec::<f32>()?, [5.0, 7.0, 9.0]);
    assert_eq!(x.sum(Some(&[1]), false)?.to_vec::<f32>()?, [6.0, 15.0]);
    assert_eq!(x.index(&[Pick::At(0)])?.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    assert_eq!(x.index(&[Pick::At(1)])?.to_vec::<f32>()?, [4.0, 5.0, 6.0]);
    let full = |value: f64| Array::full(&[2], value, DType::F32, &Device::host()?);
    assert_eq!(full(1.0)?.to_vec::<f32>()?, [1.0, 1.0]);
    assert_eq!(full(2.0)?.to_vec::<f32>()?, [2.0, 2.0]);
    let sorted = a.sorted(0, true)?;
    assert_eq!(sorted.0.to_vec::<f32>()?, [2.0, 1.0]);
    assert_eq!(sorted.1.to_vec::<i64>()?, [1, 0]);
    Ok(())
}

#[test]
fn values_with_names_are_kept() -> Result {
    let x = Array::vector(&[1f32, 2.0])?;
    let held = x.multiply(&x)?;
    let end = held.add(&x)?.exp()?;
    end.eval()?;
    assert!(held.is_ready());
    let (_, traces) = traced(|| held.negative()?.eval().map(|_| ()));
    assert_eq!(traces[0].steps.len(), 1);
    Ok(())
}

#[test]
fn chains_of_any_length_end() -> Result {
    let one = Array::vector(&[1f64])?;
    let mut x = one.clone();
    for _ in 0..20_000 {
        x = x.add(&one)?;
    }
    assert_eq!(x.to_vec::<f64>()?, [20_001.0]);
    // Wide ones, too: all of it in one graph.
    let parts: Vec<Array> = (0..500).map(|_| one.add(&one)).collect::<Result<_>>()?;
    assert_eq!(Array::concat(&parts, 0)?.sum(None, false)?.item()?, Scalar::Float(1000.0));
    Ok(())
}

#[test]
fn wrong_calls_are_errors_at_once() -> Result {
    let x = Array::from_slice(&[2, 3], &[0f32; 6])?;
    let message = |result: Result<Array>| result.unwrap_err().to_string();
    assert_eq!(message(x.matmul(&x)), "matmul: shapes [2, 3] and [2, 3] do not multiply");
    assert_eq!(message(x.sum(Some(&[2]), false)), "axis 2 is out of range for an array of 2 axes");
    assert_eq!(message(x.sum(Some(&[0, -2]), false)), "axis -2 is named twice");
    assert_eq!(message(x.index(&[Pick::At(5)])), "index 5 is out of range for axis 0 of 2");
    let int = Array::vector(&[1i8])?;
    let far = int.binary_scalar(hetra::array::Binary::Add, 1000i64, false);
    assert_eq!(message(far), "1000 is out of the range of i8");
    assert_eq!(message(x.bitwise_and(&x)), "bitwise_and: wanted integers or booleans, got f32");
    let huge = Array::full(&[1 << 40, 1 << 30], 0i64, DType::F64, &Device::host()?);
    assert!(message(huge).contains("over the limit"));
    assert!(matches!(x.item(), Err(ArrayError::NotScalar { .. })));
    assert!(matches!(Device::named("nonsense:3"), Err(ArrayError::Run(_))));
    Ok(())
}

#[test]
fn threads_may_share_what_is_not_computed() -> Result {
    let x = Array::vector(&[1f32; 1000])?;
    let y = x.add(&x)?.multiply(&x)?;
    let total = y.sum(None, false)?;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(total.item().ok(), Some(Scalar::Float(2000.0))));
        }
    });
    Ok(())
}

//! The limit on one tensor. In a process of its own: the limit holds for the whole process.

use hetra_tensor::{DType, Tensor, TensorError, set_bytes_max};

#[test]
fn a_copy_on_write_beyond_the_limit_is_an_error() {
    let tensor = Tensor::vector(&[1f32; 64]);
    let mut shared = tensor.clone();
    set_bytes_max(128);
    let fault = Err(TensorError::TooLarge { bytes: 256 });
    assert_eq!(shared.bytes_mut().map(|bytes| bytes.len()), fault);
    assert_eq!(shared.as_mut_slice::<f32>().map(|values| values.len()), fault);
    drop(tensor);
    // Nobody shares it any more, so there is nothing to copy.
    assert_eq!(shared.bytes_mut().map(|bytes| bytes.len()), Ok(256));
    // Which limit it is, and a size beyond counting, are told.
    let fault = TensorError::TooLarge { bytes: 256 }.to_string();
    assert_eq!(fault, "a tensor of 256 bytes is over the limit of 128 bytes (bytes_max)");
    let fault = Tensor::zeros(DType::F32, &[usize::MAX, 2]).unwrap_err().to_string();
    assert!(fault.starts_with("a tensor of more than 18446744073709551615 bytes"), "{fault}");
}

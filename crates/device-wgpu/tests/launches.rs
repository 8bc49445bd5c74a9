//! Kernels on every GPU that is here.

use hetra_device_wgpu::{all, open};
use hetra_kernel_cases::{cases, interpreted, on, same};

#[test]
fn generated_kernels_run_as_the_interpreter_says() {
    let device = open("wgpu").unwrap();
    for (number, case) in cases().iter().enumerate() {
        let wanted = interpreted(case).unwrap();
        let got = on(&device, case, number % 2 == 0).unwrap();
        assert!(same(&wanted, &got), "{number}: {wanted:?} {got:?}");
    }
    let _ = all();
}

//! The cases on the host.

use std::collections::HashSet;

use hetra_kernel_cases::{cases, interpreted, native, same};

#[test]
fn rustc_and_the_interpreter_agree() {
    let mut kinds = HashSet::new();
    for (number, case) in cases().iter().enumerate() {
        let (native, interpreted) = (native(case).unwrap(), interpreted(case).unwrap());
        assert!(same(&native, &interpreted), "{number}: {native:?} {interpreted:?}");
        kinds.insert(format!("{:?}", native.c));
    }
    assert!(kinds.len() > 100, "most kernels give something of their own: {}", kinds.len());
}

//! The null device passes the conformance suite: it refuses with a reason what it does not do.

use hetra_device::NullDevice;
use hetra_device::conformance::{Outcome, cases, check};

#[test]
fn the_null_device_refuses_what_it_does_not_claim() {
    let device = NullDevice::default();
    for case in cases(1, 1) {
        match check(&device, &case, 0.0) {
            Outcome::Refused(reason) => assert!(!reason.is_empty()),
            Outcome::Passed { .. } => {}
            Outcome::Failed(reason) => panic!("{}: {reason}", case.name),
        }
    }
}

//! Models that no tool would write: hand-broken, mutated, drawn at random. A program by itself, as
//! it keeps every core busy, which tests of deadlines would feel.

// What tests share.
#[path = "../suite/places.rs"]
mod places;
mod random;
mod watch;
mod wire;

/// Tensors over this are refused, and turns of loops: small enough that what a mutant asks for ends
/// before the watch does. The limits are the process's: every test sets the same.
const BYTES_MAX: usize = 64 << 20;
const TURNS_MAX: i64 = 1000;

fn set_limits() {
    hetra::limits::set_bytes_max(BYTES_MAX);
    hetra::limits::set_turns_max(TURNS_MAX);
}

mod bad_input;
mod every_op;
mod mutations;

//! What CPU kernels are written with.
//!
//! Layout: [`isa`] picks the instruction set, [`simd`] is the vector vocabulary, [`math`] has
//! functions over it and [`activation`] those of kernels, [`numbers`] are f32 or bf16 in memory,
//! [`scratch`] lends aligned buffers, [`threads`] runs tasks, [`pin`] binds threads, [`peak`]
//! measures what there is to reach, [`amx`] multiplies by matrix registers.

pub use hetra_memory::Axes;

pub mod activation;
pub mod amx;
pub mod isa;
pub mod math;
pub mod numbers;
mod pages;
pub mod peak;
pub mod pin;
pub mod scratch;
pub mod simd;
pub mod threads;
mod trigonometry;

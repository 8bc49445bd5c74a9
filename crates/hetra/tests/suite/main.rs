//! What a user of the Rust face may rely on. One program: linking twenty of them takes longer than
//! running them, and gigabytes of disk.

// What tests share.
mod found;
mod numbers;
mod places;

mod arrays;
mod bodies;
mod costs;
mod delegates;
mod devices;
mod group;
mod int8;
mod kernels;
mod models;
mod pipelines;
mod precision;
mod session;
mod shapes_in_turn;
mod shared_models;
mod shared_sessions;
mod simulated;
mod tune;
mod weights;

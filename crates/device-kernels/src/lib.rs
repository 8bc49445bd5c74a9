//! Operators as kernels.

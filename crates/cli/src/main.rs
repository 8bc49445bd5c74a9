//! The `hetra` command.

fn main() {}

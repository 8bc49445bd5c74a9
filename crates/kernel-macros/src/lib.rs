//! `#[kernel]` and `#[kernel_fn]`: Rust functions that run on every device.
//!
//! A function is written out twice: for rustc, as code for the host's processor, and as calls that
//! write the kernel down ([`hetra_kernel::Trace`]), whose types rustc infers, too. Both come from
//! one walk over the function (`expand.rs`); what differs between them is `Mode`. What a kernel may
//! not do is refused here, at the place where it stands.

mod env;
mod expand;
mod signature;
mod types;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// Makes a kernel of a function.
///
/// `#[kernel(group = [64])]` says how many items a group has, along up to three axes; constants of
/// the function may stand there. The function `name` then gives the kernel, and the module `name`
/// has `name::with(&[..])`, which gives it for constants that are known only at run time, without
/// the form for the host's processor.
#[proc_macro_attribute]
pub fn kernel(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let attribute = parse_macro_input!(attribute as signature::Attribute);
    let function = parse_macro_input!(item as ItemFn);
    signature::kernel(&attribute, &function).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a helper of a function: kernels and other helpers may call it.
///
/// It takes and gives numbers and vectors; its value is its last expression.
#[proc_macro_attribute]
pub fn kernel_fn(attribute: TokenStream, item: TokenStream) -> TokenStream {
    parse_macro_input!(attribute as syn::parse::Nothing);
    let function = parse_macro_input!(item as ItemFn);
    signature::helper(&function).unwrap_or_else(syn::Error::into_compile_error).into()
}

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

#[cfg(test)]
mod tests {
    use super::signature;

    /// What is said of a kernel.
    fn refusal(text: &str) -> Option<String> {
        let attribute = syn::parse_str("group = [64]").expect("an attribute");
        let function = syn::parse_str(text).expect("a function");
        signature::kernel(&attribute, &function).err().map(|error| error.to_string())
    }

    #[test]
    fn what_a_kernel_may_not_do_is_said_where_it_is_compiled() {
        let said =
            |body: &str| refusal(&format!("fn k(n: u32, x: &[f32], y: &mut [f32]) {{ {body} }}"));
        assert_eq!(said("if global_id(0) < n { y[global_id(0)] = x[0]; }"), None);
        for (body, wanted) in [
            ("println!(\"{}\", n);", "a kernel calls no macros"),
            ("let f = |a: f32| a;", "a kernel has no closures"),
            ("let z = &x;", "a kernel has no references inside"),
            ("y[0] = match n { _ => 1.0 };", "a kernel has no `match`; use `if`"),
            ("y[0] = x[0]?;", "a kernel has no `?`"),
            ("let (a, b) = (1, 2);", "a kernel's `let` has one name"),
            ("let a: u32;", "a kernel's variables have a value from the start"),
            ("let all = x;", "memory is used by index, or by `.len()`"),
            ("y[0] = \"text\";", "a kernel's literals are numbers, true and false"),
            ("let t = shared();", "wanted `shared::<[T; N]>()`"),
            ("y[0] = barrier();", "a barrier is a statement of its own"),
            ("fn inner() {}", "a kernel has no items inside"),
            ("let i = global_id(3);", "an axis is 0, 1 or 2"),
            ("y[0] = 1.0 + if n > 1 { 1.0 } else { 2.0 };", "bind an `if` with a value by `let`"),
        ] {
            let got = said(body).unwrap_or_else(|| panic!("`{body}` is taken"));
            assert!(got.contains(wanted), "`{body}`: {got}");
        }
        for (signature, wanted) in [
            ("async fn k(y: &mut [f32]) {}", "a kernel is not async"),
            ("unsafe fn k(y: &mut [f32]) {}", "a kernel is never unsafe"),
            ("fn k(y: &mut [f32]) -> f32 { 1.0 }", "a kernel gives nothing"),
            ("fn k(y: Box<[f32]>, z: *const f32) {}", "a kernel takes numbers"),
            ("fn k((a, b): (u32, u32)) {}", "a kernel's parameters are plain names"),
            ("fn k(&self) {}", "a kernel is no method"),
        ] {
            let got = refusal(signature).unwrap_or_else(|| panic!("`{signature}` is taken"));
            assert!(got.contains(wanted), "`{signature}`: {got}");
        }
    }
}

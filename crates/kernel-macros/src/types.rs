//! Types as they stand in signatures and in `let`.

use proc_macro2::TokenStream;
use syn::{Error, Expr, GenericArgument, Ident, PathArguments, Result, Type, spanned::Spanned};

/// What a parameter is.
pub(crate) enum Parameter<'a> {
    /// A number or a vector.
    Value(&'a Type),
    /// `&[T]`.
    Input(&'a Type),
    /// `&mut [T]`.
    Output(&'a Type),
    /// `&[Atomic<T>]`.
    Cells(&'a Type),
}

/// Reads the type of a kernel's parameter.
pub(crate) fn parameter(ty: &Type) -> Result<Parameter<'_>> {
    let wanted = "a kernel takes numbers (f32, f16, i32, u32, bool), `&[T]`, `&mut [T]` and \
                  `&[Atomic<T>]`";
    match ty {
        Type::Path(_) => Ok(Parameter::Value(ty)),
        Type::Reference(reference) => match &*reference.elem {
            Type::Slice(slice) if reference.mutability.is_some() => {
                Ok(Parameter::Output(&slice.elem))
            }
            Type::Slice(slice) => Ok(match atomic(&slice.elem) {
                Some(inner) => Parameter::Cells(inner),
                None => Parameter::Input(&slice.elem),
            }),
            _ => Err(Error::new(ty.span(), wanted)),
        },
        _ => Err(Error::new(ty.span(), wanted)),
    }
}

/// `T` of `Atomic<T>`.
fn atomic(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Atomic")?;
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => Some(inner),
            _ => None,
        },
        _ => None,
    }
}

/// An array's elements and extents, outermost first.
pub(crate) struct ArrayType<'a> {
    pub(crate) element: &'a Type,
    pub(crate) extents: Vec<&'a Expr>,
}

/// `[T; N]` or `[[T; N]; M]`.
pub(crate) fn array(ty: &Type) -> Result<ArrayType<'_>> {
    let mut extents = Vec::new();
    let mut element = ty;
    while let Type::Array(array) = element {
        extents.push(&array.len);
        element = &array.elem;
    }
    if !(1..=2).contains(&extents.len()) {
        return Err(Error::new(ty.span(), "an array of a kernel is `[T; N]` or `[[T; N]; M]`"));
    }
    Ok(ArrayType { element, extents })
}

/// The one identifier that a path is made of.
pub(crate) fn single(path: &syn::Path) -> Option<&Ident> {
    path.get_ident()
}

/// An error for what kernels do not have.
pub(crate) fn refuse<T>(at: &impl Spanned, what: &str) -> Result<T> {
    Err(Error::new(at.span(), what))
}

/// Where the generated code finds what it uses.
pub(crate) fn root() -> TokenStream {
    quote::quote!(::hetra_kernel)
}

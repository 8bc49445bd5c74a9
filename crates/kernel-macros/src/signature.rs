//! The functions around the bodies: parameters, constants, and what the module of a kernel has.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, FnArg, GenericParam, Ident, ItemFn, Pat, Result, ReturnType, Token, Type};

use crate::env::{Env, Kind};
use crate::expand::{Expander, Mode, Tail};
use crate::types::{Parameter, parameter, refuse, root};

/// `group = [x, y, z]`.
pub(crate) struct Attribute {
    group: Vec<Expr>,
}

impl Parse for Attribute {
    fn parse(input: ParseStream<'_>) -> Result<Attribute> {
        let name: Ident = input.parse()?;
        input.parse::<Token![=]>()?;
        let content;
        syn::bracketed!(content in input);
        let group: Punctuated<Expr, Token![,]> = Punctuated::parse_terminated(&content)?;
        if name != "group" || !(1..=3).contains(&group.len()) || !input.is_empty() {
            return refuse(&name, "wanted #[kernel(group = [x, y, z])], up to three numbers");
        }
        Ok(Attribute { group: group.into_iter().collect() })
    }
}

/// One parameter of a function.
struct Param<'a> {
    name: &'a Ident,
    mutable: bool,
    kind: Parameter<'a>,
}

fn params(function: &ItemFn) -> Result<Vec<Param<'_>>> {
    let mut all = Vec::new();
    for input in &function.sig.inputs {
        let FnArg::Typed(typed) = input else { return refuse(input, "a kernel is no method") };
        let Pat::Ident(pat) = &*typed.pat else {
            return refuse(&typed.pat, "a kernel's parameters are plain names");
        };
        let kind = parameter(&typed.ty)?;
        all.push(Param { name: &pat.ident, mutable: pat.mutability.is_some(), kind });
    }
    Ok(all)
}

/// Names of the constants.
fn constants(function: &ItemFn) -> Result<Vec<&Ident>> {
    let mut all = Vec::new();
    for param in &function.sig.generics.params {
        match param {
            GenericParam::Const(param) if is_number(&param.ty) => all.push(&param.ident),
            other => return refuse(other, "wanted constants, `const N: usize` or `const N: u32`"),
        }
    }
    Ok(all)
}

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("usize") || path.path.is_ident("u32"))
}

fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(word) = &signature.asyncness {
        return refuse(word, "a kernel is not async");
    }
    if matches!(signature.safety, syn::Safety::Unsafe(_)) {
        return refuse(signature, "a kernel is never unsafe");
    }
    if let Some(clause) = &signature.generics.where_clause {
        return refuse(clause, "a kernel has no bounds");
    }
    Ok(())
}

fn expander(mode: Mode, function: &ItemFn, helper: bool) -> Result<Expander> {
    let mut env = Env::default();
    for name in constants(function)? {
        env.add(name, Kind::Constant);
    }
    for param in params(function)? {
        let kind = match param.kind {
            Parameter::Value(_) if param.mutable => Kind::Variable,
            Parameter::Value(_) => Kind::Value,
            Parameter::Input(_) | Parameter::Output(_) => Kind::Row,
            Parameter::Cells(_) => Kind::Cells,
        };
        env.add(param.name, kind);
    }
    Ok(Expander { mode, env, helper, waits: false })
}

/// What both forms bring into scope, and the lints that written-out code would trip over.
fn allowed() -> TokenStream {
    quote! {
        #[allow(
            unused, clippy::all, clippy::pedantic, non_snake_case, unreachable_pub,
            reason = "written out by a macro"
        )]
    }
}

/// A kernel: the function that gives it, and its module.
pub(crate) fn kernel(attribute: &Attribute, function: &ItemFn) -> Result<TokenStream> {
    check(function)?;
    if let ReturnType::Type(_, ty) = &function.sig.output {
        return refuse(ty, "a kernel gives nothing; it writes into its buffers");
    }
    let (root, allowed) = (root(), allowed());
    let (name, vis) = (&function.sig.ident, &function.vis);
    let docs = function.attrs.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let generics = &function.sig.generics.params;
    let constants = constants(function)?;
    let trace = kernel_trace(attribute, function)?;
    let native = kernel_native(function)?;
    let count = constants.len();
    let names = constants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let module_doc = format!("What the kernel `{name}` is made of.");
    let text = name.to_string();
    Ok(quote! {
        #(#docs)*
        #[allow(unreachable_pub, reason = "as visible as the function was")]
        #vis fn #name<#generics>() -> #root::Source {
            let kernel = #name::with(&[#((#constants) as u32),*]);
            #root::Source::new(kernel, #name::native::<#(#constants),*>)
        }

        #[doc = #module_doc]
        #allowed
        #vis mod #name {
            use super::*;
            use #root::native::{At as _, At2 as _, AtMut as _, Buffer as _};

            /// The kernel for constants that are known at run time only; it runs on devices, and
            /// on the host by the interpreter.
            ///
            /// # Errors
            /// When there are not as many constants, or the kernel is refused for them.
            pub fn with(
                __constants: &[u32],
            ) -> ::core::result::Result<#root::Kernel, #root::KernelError> {
                let [#(#constants),*] = #root::constants::<#count>(#text, #names, __constants)?;
                #trace
            }

            #[doc(hidden)]
            pub fn native<#generics>(__run: &#root::native::GroupRun<'_>) {
                #native
            }
        }
    })
}

fn kernel_trace(attribute: &Attribute, function: &ItemFn) -> Result<TokenStream> {
    let root = root();
    let name = function.sig.ident.to_string();
    let mut walk = expander(Mode::Trace, function, false)?;
    let declared = params(function)?.into_iter().map(|param| {
        let (name, text) = (param.name, param.name.to_string());
        match param.kind {
            Parameter::Value(ty) if param.mutable => {
                quote!(let #name = __t.value::<#ty>(#text); let #name = __t.var(#name);)
            }
            Parameter::Value(ty) => quote!(let #name = __t.value::<#ty>(#text);),
            Parameter::Input(ty) => quote!(let #name = __t.input::<#ty>(#text);),
            Parameter::Output(ty) => quote!(let #name = __t.output::<#ty>(#text);),
            Parameter::Cells(ty) => quote!(let #name = __t.cells::<#ty>(#text);),
        }
    });
    let mut declarations = TokenStream::new();
    declared.for_each(|one| declarations.extend(one));
    let body = walk.block(&function.block, Tail::Nothing)?;
    let mut group = attribute.group.iter().map(|size| quote!((#size) as u32)).collect::<Vec<_>>();
    group.resize(3, quote!(1));
    Ok(quote! {
        let __trace = #root::Trace::new(#name, [#(#group),*]);
        {
            let __t = &__trace;
            #declarations
            #body
        }
        __trace.finish()
    })
}

fn kernel_native(function: &ItemFn) -> Result<TokenStream> {
    let mut walk = expander(Mode::Native, function, false)?;
    let (mut before, mut inside) = (TokenStream::new(), TokenStream::new());
    for (index, param) in params(function)?.into_iter().enumerate() {
        let name = param.name;
        before.extend(match param.kind {
            Parameter::Value(ty) => quote!(let #name = __run.value::<#ty>(#index);),
            Parameter::Input(ty) => quote!(let #name = __run.input::<#ty>(#index);),
            Parameter::Output(ty) | Parameter::Cells(ty) => {
                quote!(let #name = __run.output::<#ty>(#index);)
            }
        });
        inside.extend(quote!(let mut #name = #name;));
    }
    let body = walk.block(&function.block, Tail::Nothing)?;
    Ok(if walk.waits {
        quote! {
            #before
            let __shared = __run.shared();
            __run.together(&__shared, |__item| async move {
                let __c = &__item;
                #inside
                #body
            });
        }
    } else {
        quote! {
            #before
            __run.each(|__c| {
                #inside
                #body
            });
        }
    })
}

/// A helper: its module with both forms.
pub(crate) fn helper(function: &ItemFn) -> Result<TokenStream> {
    check(function)?;
    let ReturnType::Type(_, output) = &function.sig.output else {
        return refuse(&function.sig, "a helper gives a value");
    };
    let (root, allowed) = (root(), allowed());
    let (name, vis, generics) = (&function.sig.ident, &function.vis, &function.sig.generics.params);
    let docs = function.attrs.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let constants = constants(function)?;
    let (mut native_params, mut trace_params) = (TokenStream::new(), TokenStream::new());
    let mut variables = TokenStream::new();
    for param in params(function)? {
        let name = param.name;
        match param.kind {
            Parameter::Value(ty) => {
                native_params.extend(quote!(mut #name: #ty,));
                trace_params.extend(quote!(#name: #root::E<#ty>,));
                if param.mutable {
                    variables.extend(quote!(let #name = __t.var(#name);));
                }
            }
            Parameter::Input(ty) => {
                native_params.extend(quote!(#name: #root::native::Input<'_, #ty>,));
                trace_params.extend(quote!(#name: #root::Input<#ty>,));
            }
            Parameter::Output(ty) | Parameter::Cells(ty) => {
                return refuse(ty, "a helper writes into no memory");
            }
        }
    }
    let native = expander(Mode::Native, function, true)?.block(&function.block, Tail::Value)?;
    let trace = expander(Mode::Trace, function, true)?.block(&function.block, Tail::Value)?;
    let count = constants.len();
    Ok(quote! {
        #(#docs)*
        #allowed
        #vis mod #name {
            use super::*;
            use #root::native::{At as _, At2 as _, AtMut as _, Buffer as _};

            #[doc(hidden)]
            #[inline(always)]
            pub fn native<#generics>(__c: &#root::native::Item<'_>, #native_params) -> #output
                #native

            #[doc(hidden)]
            pub fn trace(
                __t: &#root::Trace,
                __constants: &[u32; #count],
                #trace_params
            ) -> #root::E<#output> {
                let [#(#constants),*] = *__constants;
                if !__t.enter() {
                    return __t.nothing();
                }
                #variables
                let __value = #trace;
                __t.leave();
                __value
            }
        }
    })
}

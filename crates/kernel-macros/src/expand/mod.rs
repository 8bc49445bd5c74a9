//! One walk over a function's body, which writes it out in either form.

mod statement;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    BinOp, Block, Expr, ExprBinary, ExprCall, ExprCast, ExprIndex, ExprLit, ExprMethodCall,
    ExprPath, ExprUnary, Lit, Local, Pat, Result, Stmt, Type, UnOp,
};

use crate::env::{Env, Kind};
use crate::types::{array, refuse, root, single};

/// Which form is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Code for the host's processor.
    Native,
    /// Calls that write the kernel down.
    Trace,
}

/// What the walk knows where it is.
pub(crate) struct Expander {
    pub(crate) mode: Mode,
    pub(crate) env: Env,
    /// Whether this is a helper, which neither waits nor returns early.
    pub(crate) helper: bool,
    /// Whether items wait for each other.
    pub(crate) waits: bool,
}

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// What it does.
    Nothing,
    /// Its value.
    Value,
}

const IDS: [&str; 5] = ["global_id", "local_id", "group_id", "group_count", "group_size"];
const GROUPS: [&str; 3] = ["subgroup_add", "subgroup_min", "subgroup_max"];
const IF_INSIDE: &str = "bind an `if` with a value by `let` before it is used in an expression";

impl Expander {
    fn native(&self) -> bool {
        self.mode == Mode::Native
    }

    /// A function of the language, in this form.
    fn function(&self, name: &str, arguments: &[TokenStream]) -> TokenStream {
        let name = quote::format_ident!("{name}");
        if self.native() {
            let root = root();
            quote!(#root::native::#name(#(#arguments),*))
        } else {
            quote!(__t.#name(#(#arguments),*))
        }
    }

    /// A block with braces.
    pub(crate) fn block(&mut self, block: &Block, tail: Tail) -> Result<TokenStream> {
        let mark = self.env.mark();
        let mut all = TokenStream::new();
        let count = block.stmts.len();
        for (index, stmt) in block.stmts.iter().enumerate() {
            let last = index + 1 == count && tail == Tail::Value;
            all.extend(match stmt {
                Stmt::Local(local) => self.local(local)?,
                Stmt::Expr(expr, None) if last => self.value(expr)?,
                Stmt::Expr(expr, _) => self.statement(expr)?,
                Stmt::Item(item) => return refuse(item, "a kernel has no items inside"),
                Stmt::Macro(call) => return refuse(call, "a kernel calls no macros"),
            });
        }
        if tail == Tail::Value && !matches!(block.stmts.last(), Some(Stmt::Expr(_, None))) {
            return refuse(block, "this block ends with the value it is for");
        }
        self.env.leave(mark);
        Ok(quote!({ #all }))
    }

    fn local(&mut self, local: &Local) -> Result<TokenStream> {
        if let Some(attribute) = local.attrs.first() {
            return refuse(attribute, "a kernel has no attributes inside");
        }
        let (pat, ty) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
            pat => (pat, None),
        };
        let Pat::Ident(pat) = pat else {
            return refuse(pat, "a kernel's `let` has one name");
        };
        let Some(init) = &local.init else {
            return refuse(local, "a kernel's variables have a value from the start");
        };
        if let Some((_, other)) = &init.diverge {
            return refuse(other, "a kernel has no `let .. else`");
        }
        let name = &pat.ident;
        if let Some(made) = self.array(&init.expr)? {
            self.env.add(name, made.1);
            let made = made.0;
            return Ok(quote!(#[allow(unused_mut)] let mut #name = #made;));
        }
        let value = self.value(&init.expr)?;
        let kind = if pat.mutability.is_some() { Kind::Variable } else { Kind::Value };
        self.env.add(name, kind);
        let root = root();
        Ok(match (self.mode, kind) {
            (Mode::Native, _) => {
                let ty = ty.map(|ty| quote!(: #ty));
                let mutable = pat.mutability;
                quote!(let #mutable #name #ty = #value;)
            }
            (Mode::Trace, Kind::Variable) => {
                let ty = ty.map(|ty| quote!(: #root::Var<#ty>));
                quote!(let #name #ty = __t.var(#value);)
            }
            (Mode::Trace, _) => {
                let ty = ty.map(|ty| quote!(: #root::E<#ty>));
                quote!(let #name #ty = __t.bind(#value);)
            }
        })
    }

    /// Memory that is made by `[value; N]`, `[[value; N]; M]` or `shared::<[T; N]>()`.
    fn array(&mut self, init: &Expr) -> Result<Option<(TokenStream, Kind)>> {
        let number = self.env.arrays;
        let made = match init {
            Expr::Repeat(outer) => match &*outer.expr {
                Expr::Repeat(inner) => {
                    let (rows, columns) = (self.extent(&outer.len)?, self.extent(&inner.len)?);
                    let value = self.value(&inner.expr)?;
                    let made = if self.native() {
                        quote!(__c.private_grid::<_, #rows, #columns>(#number, #value))
                    } else {
                        quote!(__t.private_grid(#rows, #columns, #value))
                    };
                    (made, Kind::Grid)
                }
                value => {
                    let extent = self.extent(&outer.len)?;
                    let value = self.value(value)?;
                    let made = if self.native() {
                        quote!(__c.private_row::<_, #extent>(#number, #value))
                    } else {
                        quote!(__t.private_row(#extent, #value))
                    };
                    (made, Kind::Row)
                }
            },
            Expr::Call(call) => match self.shared(call, number)? {
                Some(made) => made,
                None => return Ok(None),
            },
            Expr::Array(array) => {
                return refuse(array, "a kernel's arrays begin with one value: `[value; N]`");
            }
            _ => return Ok(None),
        };
        self.env.arrays += 1;
        Ok(Some(made))
    }

    fn shared(&mut self, call: &ExprCall, number: u32) -> Result<Option<(TokenStream, Kind)>> {
        let Expr::Path(path) = &*call.func else { return Ok(None) };
        let Some(last) = path.path.segments.last().filter(|last| last.ident == "shared") else {
            return Ok(None);
        };
        if self.helper {
            return refuse(call, "a helper has no shared memory");
        }
        let syn::PathArguments::AngleBracketed(generics) = &last.arguments else {
            return refuse(call, "wanted `shared::<[T; N]>()`");
        };
        let Some(syn::GenericArgument::Type(ty)) = generics.args.first() else {
            return refuse(call, "wanted `shared::<[T; N]>()`");
        };
        let ty = array(ty)?;
        let element = ty.element;
        let extents = ty
            .extents
            .iter()
            .map(|extent| self.extent(extent).map(|extent| self.as_number(extent)))
            .collect::<Result<Vec<_>>>()?;
        let root = root();
        let rank = if extents.len() == 1 { "row" } else { "grid" };
        let made = if self.native() {
            let name = quote::format_ident!("shared_{rank}");
            quote!(__c.#name::<#element>(#number, #(#extents),*))
        } else {
            let name = quote::format_ident!("{rank}");
            quote!(__t.#name::<#element>(#root::Space::Shared, #(#extents),*))
        };
        Ok(Some((made, if extents.len() == 1 { Kind::Row } else { Kind::Grid })))
    }

    fn as_number(&self, extent: TokenStream) -> TokenStream {
        if self.native() { quote!((#extent) as u32) } else { extent }
    }

    /// An extent: a literal, or a constant of the function or beside it.
    fn extent(&self, extent: &Expr) -> Result<TokenStream> {
        match extent {
            Expr::Lit(literal) => Ok(quote!(#literal)),
            Expr::Path(path) => match single(&path.path).and_then(|name| self.env.find(name)) {
                Some(Kind::Constant) => Ok(quote!(#path)),
                None if self.native() => Ok(quote!(#path)),
                None => Ok(quote!((#path) as u32)),
                Some(_) => refuse(extent, "an extent is known when the kernel is compiled"),
            },
            _ => refuse(extent, "an extent is a literal or one constant"),
        }
    }

    /// A value, which may come of an `if`.
    pub(crate) fn value(&mut self, expr: &Expr) -> Result<TokenStream> {
        let Expr::If(branch) = expr else { return self.expr(expr) };
        let condition = self.expr(&branch.cond)?;
        let yes = self.block(&branch.then_branch, Tail::Value)?;
        let no = match &branch.else_branch {
            Some((_, no)) => match &**no {
                Expr::Block(block) => self.block(&block.block, Tail::Value)?,
                other => self.value(other)?,
            },
            None => return refuse(branch, "an `if` with a value has an `else`"),
        };
        Ok(if self.native() {
            quote!(if #condition #yes else { #no })
        } else {
            quote!(__t.choose(#condition, || #yes, || #no))
        })
    }

    fn values<'e>(&mut self, all: impl IntoIterator<Item = &'e Expr>) -> Result<Vec<TokenStream>> {
        all.into_iter().map(|expr| self.expr(expr)).collect()
    }

    fn expr(&mut self, expr: &Expr) -> Result<TokenStream> {
        match expr {
            Expr::Lit(literal) => self.literal(&literal.lit),
            Expr::Path(path) => self.name(path),
            Expr::Paren(inner) => self.expr(&inner.expr),
            Expr::Group(inner) => self.expr(&inner.expr),
            Expr::Unary(unary) => self.unary(unary),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Cast(cast) => {
                if let Some(literal) = self.typed_literal(cast) {
                    return Ok(literal);
                }
                let (value, ty) = (self.expr(&cast.expr)?, &cast.ty);
                Ok(if self.native() {
                    let root = root();
                    quote!(#root::native::cast::<#ty, _>(#value))
                } else {
                    quote!(__t.cast::<#ty, _>(#value))
                })
            }
            Expr::Index(index) => self.index(index),
            Expr::MethodCall(call) => self.method(call),
            Expr::Call(call) => self.call(call),
            Expr::If(branch) => refuse(branch, IF_INSIDE),
            Expr::Block(block) => refuse(block, "a block is no value in a kernel; use `let`"),
            Expr::Closure(closure) => refuse(closure, "a kernel has no closures"),
            Expr::Reference(reference) => refuse(reference, "a kernel has no references inside"),
            Expr::Macro(call) => refuse(call, "a kernel calls no macros"),
            Expr::Match(branch) => refuse(branch, "a kernel has no `match`; use `if`"),
            Expr::Try(question) => refuse(question, "a kernel has no `?`"),
            Expr::Assign(assign) => refuse(assign, "an assignment is a statement, no value"),
            other => refuse(other, "a kernel has nothing like this"),
        }
    }

    /// A whole literal that is cast to a kind of whole numbers is of that kind, as in Rust.
    fn typed_literal(&self, cast: &ExprCast) -> Option<TokenStream> {
        let (Expr::Lit(literal), Type::Path(path)) = (&*cast.expr, &*cast.ty) else { return None };
        let Lit::Int(int) = &literal.lit else { return None };
        let name = single(&path.path).filter(|name| *name == "i32" || *name == "u32")?;
        if !int.suffix().is_empty() {
            return None;
        }
        let typed = syn::LitInt::new(&format!("{}{name}", int.base10_digits()), int.span());
        Some(if self.native() { quote!(#typed) } else { quote!(__t.int(#typed)) })
    }

    fn literal(&self, literal: &Lit) -> Result<TokenStream> {
        let value = match literal {
            Lit::Int(int) if int.suffix().starts_with('f') => quote!(#int),
            Lit::Int(int) => {
                return Ok(if self.native() { quote!(#int) } else { quote!(__t.int(#int)) });
            }
            Lit::Float(float) if float.suffix().is_empty() => {
                let digits =
                    syn::LitFloat::new(&format!("{}f32", float.base10_digits()), float.span());
                quote!(#digits)
            }
            Lit::Float(float) => quote!(#float),
            Lit::Bool(truth) => quote!(#truth),
            other => return refuse(other, "a kernel's literals are numbers, true and false"),
        };
        Ok(if self.native() { value } else { quote!(__t.lit(#value)) })
    }

    fn name(&self, path: &ExprPath) -> Result<TokenStream> {
        let kind = single(&path.path).and_then(|name| self.env.find(name));
        let native = self.native();
        match kind {
            Some(Kind::Value) => Ok(quote!(#path)),
            Some(Kind::Variable) => Ok(if native { quote!(#path) } else { quote!(__t.get(#path)) }),
            Some(Kind::Constant) if native => Ok(quote!(((#path) as u32))),
            Some(Kind::Constant) => Ok(quote!(__t.int(#path))),
            None if native => Ok(quote!(#path)),
            None => Ok(quote!(__t.lit(#path))),
            Some(_) => refuse(path, "memory is used by index, or by `.len()`"),
        }
    }

    fn unary(&mut self, unary: &ExprUnary) -> Result<TokenStream> {
        let value = self.expr(&unary.expr)?;
        match unary.op {
            UnOp::Neg(_) => Ok(self.function("neg", &[value])),
            UnOp::Not(_) => Ok(self.function("not", &[value])),
            _ => refuse(unary, "a kernel has no pointers"),
        }
    }

    fn binary(&mut self, binary: &ExprBinary) -> Result<TokenStream> {
        let (a, b) = (self.expr(&binary.left)?, self.expr(&binary.right)?);
        match binary.op {
            BinOp::And(_) if self.native() => Ok(quote!((#a && #b))),
            BinOp::Or(_) if self.native() => Ok(quote!((#a || #b))),
            BinOp::And(_) => Ok(quote!(__t.and(#a, || #b))),
            BinOp::Or(_) => Ok(quote!(__t.or(#a, || #b))),
            op => match operator(op) {
                Some(name) => Ok(self.function(name, &[a, b])),
                None => refuse(binary, "this operator is no value in a kernel"),
            },
        }
    }

    /// Memory by index: the name and the tokens of its indices; `None` for a lane.
    fn place(&mut self, index: &ExprIndex) -> Result<Option<(TokenStream, Vec<TokenStream>)>> {
        let kind = |expander: &Expander, expr: &Expr| match expr {
            Expr::Path(path) => single(&path.path).and_then(|name| expander.env.find(name)),
            _ => None,
        };
        if let Expr::Index(outer) = &*index.expr
            && kind(self, &outer.expr) == Some(Kind::Grid)
        {
            let name = &outer.expr;
            let indices = self.values([&*outer.index, &*index.index])?;
            return Ok(Some((quote!(#name), indices)));
        }
        match kind(self, &index.expr) {
            Some(Kind::Row) => {
                let name = &index.expr;
                Ok(Some((quote!(#name), self.values([&*index.index])?)))
            }
            Some(Kind::Grid) => refuse(index, "this array has two indices"),
            Some(Kind::Cells) => refuse(index, "cells are used by `fetch_add` and its like"),
            _ => Ok(None),
        }
    }

    fn index(&mut self, index: &ExprIndex) -> Result<TokenStream> {
        let Some((name, indices)) = self.place(index)? else {
            let Expr::Lit(lane) = &*index.index else {
                return refuse(&index.index, "a lane is chosen by a literal");
            };
            let value = self.expr(&index.expr)?;
            return Ok(self.function("lane", &[value, quote!(#lane)]));
        };
        let method = if indices.len() == 1 { quote!(at) } else { quote!(at2) };
        Ok(if self.native() {
            quote!(#name.#method(#(#indices),*))
        } else {
            quote!(__t.#method(#name, #(#indices),*))
        })
    }

    fn method(&mut self, call: &ExprMethodCall) -> Result<TokenStream> {
        let method = call.method.to_string();
        let receiver = match &*call.receiver {
            Expr::Path(path) => single(&path.path).and_then(|name| self.env.find(name)),
            _ => None,
        };
        let name = &call.receiver;
        match receiver {
            Some(Kind::Row | Kind::Cells) if method == "len" => {
                return Ok(if self.native() {
                    quote!(#name.len())
                } else {
                    quote!(__t.len(#name))
                });
            }
            Some(Kind::Row) if method == "vector" || method == "set_vector" => {
                return self.span(call);
            }
            Some(Kind::Cells) => {
                let arguments = self.values(&call.args)?;
                let method = &call.method;
                return Ok(if self.native() {
                    quote!(#name.#method(#(#arguments),*))
                } else {
                    quote!(__t.#method(#name, #(#arguments),*))
                });
            }
            _ => {}
        }
        let value = self.expr(&call.receiver)?;
        if method == "lane" {
            let lane = &call.args;
            return Ok(self.function("lane", &[value, quote!(#lane)]));
        }
        let mut arguments = vec![value];
        arguments.extend(self.values(&call.args)?);
        if method == "clamp" && arguments.len() == 3 {
            let least = self.function("max", &arguments[..2]);
            return Ok(self.function("min", &[least, arguments[2].clone()]));
        }
        if let Some(generics) = &call.turbofish
            && method == "cast_lanes"
        {
            let to = &generics.args;
            let root = root();
            let value = &arguments[0];
            return Ok(if self.native() {
                quote!(#root::native::cast_lanes::<#to, _, _>(#value))
            } else {
                quote!(__t.cast_lanes::<#to, _, _>(#value))
            });
        }
        if let Some(generics) = &call.turbofish {
            return refuse(generics, "this method takes no types in a kernel");
        }
        Ok(self.function(&method, &arguments))
    }

    /// Elements of a buffer as a vector: `x.vector::<N>(i)`, `y.set_vector(i, v)`.
    fn span(&mut self, call: &ExprMethodCall) -> Result<TokenStream> {
        let (name, method) = (&call.receiver, &call.method);
        let arguments = self.values(&call.args)?;
        let lanes = call.turbofish.as_ref().map(|generics| &generics.args);
        Ok(match (self.native(), lanes) {
            (true, Some(lanes)) => quote!(#name.#method::<#lanes>(#(#arguments),*)),
            (true, None) => quote!(#name.#method(#(#arguments),*)),
            (false, Some(lanes)) => quote!(__t.#method::<_, #lanes>(#name, #(#arguments),*)),
            (false, None) => quote!(__t.#method(#name, #(#arguments),*)),
        })
    }

    fn call(&mut self, call: &ExprCall) -> Result<TokenStream> {
        let Expr::Path(path) = &*call.func else {
            return refuse(&call.func, "a kernel calls functions by their names");
        };
        let text = quote!(#path).to_string().replace(' ', "");
        let name = text.split("::<").next().unwrap_or_default();
        let arguments = &call.args;
        if IDS.contains(&name) {
            let axis = |of: &Expr| match of {
                Expr::Lit(ExprLit { lit: Lit::Int(axis), .. }) => axis.base10_parse::<u32>().ok(),
                _ => None,
            };
            if arguments.first().and_then(axis).is_none_or(|axis| axis > 2) {
                return refuse(call, "an axis is 0, 1 or 2");
            }
            return Ok(self.context(name, &[quote!(#arguments)]));
        }
        if GROUPS.contains(&name) {
            if self.helper {
                return refuse(call, "a helper does not work with other items");
            }
            let values = self.values(arguments)?;
            return Ok(self.context(name, &values));
        }
        match name {
            "barrier" => refuse(call, "a barrier is a statement of its own"),
            "shared" => refuse(call, "shared memory is bound by `let`"),
            "f32::from_bits" => {
                let values = self.values(arguments)?;
                Ok(self.function("from_bits", &values))
            }
            "select" => {
                let values = self.values(arguments)?;
                Ok(self.function("select", &values))
            }
            "splat" => self.splat(path, arguments.first()),
            "lanes" => match arguments.first() {
                Some(Expr::Array(array)) => {
                    let values = self.values(&array.elems)?;
                    Ok(self.function("lanes", &[quote!([#(#values),*])]))
                }
                _ => refuse(call, "wanted `lanes([a, b, ..])`"),
            },
            _ => self.helper_call(path, arguments),
        }
    }

    fn context(&self, name: &str, arguments: &[TokenStream]) -> TokenStream {
        let name = quote::format_ident!("{name}");
        if self.native() {
            quote!(__c.#name(#(#arguments),*))
        } else {
            quote!(__t.#name(#(#arguments),*))
        }
    }

    fn splat(&mut self, path: &ExprPath, value: Option<&Expr>) -> Result<TokenStream> {
        let Some(value) = value else { return refuse(path, "wanted `splat::<N>(value)`") };
        let value = self.expr(value)?;
        let count = match path.path.segments.last().map(|last| &last.arguments) {
            Some(syn::PathArguments::AngleBracketed(generics)) => {
                let count = &generics.args;
                quote!(#count)
            }
            _ => quote!(_),
        };
        Ok(if self.native() {
            let root = root();
            quote!(#root::native::splat::<_, #count>(#value))
        } else {
            quote!(__t.splat::<_, #count>(#value))
        })
    }

    fn helper_call<'e>(
        &mut self,
        path: &ExprPath,
        arguments: impl IntoIterator<Item = &'e Expr>,
    ) -> Result<TokenStream> {
        let mut function = path.path.clone();
        let mut generics = TokenStream::new();
        if let Some(last) = function.segments.last_mut()
            && let syn::PathArguments::AngleBracketed(given) =
                std::mem::replace(&mut last.arguments, syn::PathArguments::None)
        {
            let given = given.args;
            generics = quote!(#given);
        }
        let mut values = Vec::new();
        for argument in arguments {
            let memory = match argument {
                Expr::Path(path) => single(&path.path).and_then(|name| self.env.find(name)),
                _ => None,
            };
            if memory == Some(Kind::Row) {
                values.push(quote!(#argument));
            } else {
                let value = self.expr(argument)?;
                values.push(if self.native() { value } else { quote!(__t.once(#value)) });
            }
        }
        Ok(if self.native() {
            let generics = (!generics.is_empty()).then(|| quote!(::<#generics>));
            quote!(#function::native #generics (__c, #(#values),*))
        } else {
            quote!(#function::trace(__t, &[#generics], #(#values),*))
        })
    }
}

/// The function behind an operator with a value.
fn operator(op: BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::Add(_) => "add",
        BinOp::Sub(_) => "sub",
        BinOp::Mul(_) => "mul",
        BinOp::Div(_) => "div",
        BinOp::Rem(_) => "rem",
        BinOp::BitAnd(_) => "bitand",
        BinOp::BitOr(_) => "bitor",
        BinOp::BitXor(_) => "bitxor",
        BinOp::Shl(_) => "shl",
        BinOp::Shr(_) => "shr",
        BinOp::Eq(_) => "eq",
        BinOp::Ne(_) => "ne",
        BinOp::Lt(_) => "lt",
        BinOp::Le(_) => "le",
        BinOp::Gt(_) => "gt",
        BinOp::Ge(_) => "ge",
        _ => return None,
    })
}

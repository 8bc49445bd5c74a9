//! Statements.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    BinOp, Expr, ExprAssign, ExprBinary, ExprCall, ExprForLoop, ExprIf, ExprPath, Pat, Result,
};

use super::{Expander, Mode, Tail};
use crate::env::Kind;
use crate::types::{refuse, root, single};

impl Expander {
    pub(super) fn statement(&mut self, expr: &Expr) -> Result<TokenStream> {
        match expr {
            Expr::Assign(assign) => self.assign(assign),
            Expr::Binary(binary) if compound(binary.op).is_some() => self.compound(binary),
            Expr::If(branch) => self.branch(branch),
            Expr::ForLoop(turns) => self.for_loop(turns),
            Expr::While(turns) => {
                let condition = self.expr(&turns.cond)?;
                let body = self.block(&turns.body, Tail::Nothing)?;
                Ok(if self.native() {
                    quote!(while #condition #body)
                } else {
                    quote!(__t.while_(|| #condition, || #body);)
                })
            }
            Expr::Loop(turns) => {
                let body = self.block(&turns.body, Tail::Nothing)?;
                Ok(if self.native() { quote!(loop #body) } else { quote!(__t.loop_(|| #body);) })
            }
            Expr::Block(block) => self.block(&block.block, Tail::Nothing),
            Expr::Break(leave) if leave.label.is_none() && leave.expr.is_none() => {
                Ok(if self.native() { quote!(break;) } else { quote!(__t.break_();) })
            }
            Expr::Continue(next) if next.label.is_none() => {
                Ok(if self.native() { quote!(continue;) } else { quote!(__t.continue_();) })
            }
            Expr::Return(end) if end.expr.is_none() && !self.helper => {
                Ok(if self.native() { quote!(return;) } else { quote!(__t.return_();) })
            }
            Expr::Return(end) => refuse(end, "a helper's value is its last expression"),
            Expr::Call(call) if is_barrier(call) => self.barrier(call),
            Expr::Call(_) | Expr::MethodCall(_) => {
                let value = self.expr(expr)?;
                Ok(quote!(let _ = #value;))
            }
            Expr::Paren(inner) => self.statement(&inner.expr),
            other => refuse(other, "this does nothing in a kernel"),
        }
    }

    fn barrier(&mut self, call: &ExprCall) -> Result<TokenStream> {
        if self.helper {
            return refuse(call, "a helper does not wait; put the barrier into the kernel");
        }
        self.waits = true;
        Ok(if self.native() { quote!(__c.barrier().await;) } else { quote!(__t.barrier();) })
    }

    fn branch(&mut self, branch: &ExprIf) -> Result<TokenStream> {
        if let Expr::Let(pattern) = &*branch.cond {
            return refuse(pattern, "a kernel has no `if let`");
        }
        let condition = self.expr(&branch.cond)?;
        let yes = self.block(&branch.then_branch, Tail::Nothing)?;
        let no = match &branch.else_branch {
            Some((_, no)) => self.statement(no)?,
            None => TokenStream::new(),
        };
        Ok(if self.native() {
            quote!(if #condition #yes else { #no })
        } else {
            quote!(__t.if_(#condition, || #yes, || { #no });)
        })
    }

    fn for_loop(&mut self, turns: &ExprForLoop) -> Result<TokenStream> {
        let wanted = "a kernel's `for` goes over `a..b` or `(a..b).step_by(c)`";
        let mut inner = &*turns.expr;
        let mut step = quote!(1);
        if let Expr::MethodCall(call) = inner
            && call.method == "step_by"
            && let Some(by) = call.args.first()
        {
            step = self.expr(by)?;
            inner = &call.receiver;
        } else if !self.native() {
            step = quote!(__t.int(1));
        }
        while let Expr::Paren(paren) = inner {
            inner = &paren.expr;
        }
        let Expr::Range(range) = inner else { return refuse(&turns.expr, wanted) };
        let (Some(from), Some(to), syn::RangeLimits::HalfOpen(_)) =
            (&range.start, &range.end, &range.limits)
        else {
            return refuse(range, wanted);
        };
        let (from, to) = (self.expr(from)?, self.expr(to)?);
        let mark = self.env.mark();
        let name = match &*turns.pat {
            Pat::Ident(name) if name.mutability.is_none() => {
                self.env.add(&name.ident, Kind::Value);
                let name = &name.ident;
                quote!(#name)
            }
            Pat::Wild(_) => quote!(_),
            other => return refuse(other, "a kernel's `for` has one name"),
        };
        let body = self.block(&turns.body, Tail::Nothing)?;
        self.env.leave(mark);
        Ok(if self.native() {
            let root = root();
            quote!(for #name in #root::native::steps(#from, #to, #step) #body)
        } else {
            quote!(__t.for_(#from, #to, #step, |#name| #body);)
        })
    }

    fn assign(&mut self, assign: &ExprAssign) -> Result<TokenStream> {
        let value = self.value(&assign.right)?;
        match &*assign.left {
            Expr::Path(path) => self.set(path, &value),
            Expr::Index(index) => match self.place(index)? {
                Some((name, indices)) => Ok(self.store(&name, &indices, &value)),
                None => refuse(index, "a lane is not assigned; make a vector by `lanes([..])`"),
            },
            other => refuse(other, "a kernel assigns to variables and to elements"),
        }
    }

    fn set(&self, path: &ExprPath, value: &TokenStream) -> Result<TokenStream> {
        match single(&path.path).and_then(|name| self.env.find(name)) {
            Some(Kind::Variable) if self.native() => Ok(quote!(#path = #value;)),
            Some(Kind::Variable) => Ok(quote!(__t.set(#path, #value);)),
            Some(Kind::Value) => refuse(path, "not declared by `let mut`"),
            _ => refuse(path, "a kernel assigns to its own variables only"),
        }
    }

    fn store(&self, name: &TokenStream, at: &[TokenStream], value: &TokenStream) -> TokenStream {
        let method = if at.len() == 1 { quote!(store) } else { quote!(store2) };
        if self.native() {
            quote!({ let __value = #value; #name.#method(#(#at,)* __value); })
        } else {
            quote!({ let __value = #value; __t.#method(#name, #(#at,)* __value); })
        }
    }

    fn compound(&mut self, binary: &ExprBinary) -> Result<TokenStream> {
        let Some(operator) = compound(binary.op) else {
            return refuse(binary, "this does nothing in a kernel");
        };
        let value = self.expr(&binary.right)?;
        match &*binary.left {
            Expr::Path(path) => {
                let old = self.name(path)?;
                let new = self.function(operator, &[old, value]);
                self.set(path, &new)
            }
            Expr::Index(index) => {
                let Some((name, indices)) = self.place(index)? else {
                    return refuse(index, "a lane is not assigned");
                };
                let once = |index: &TokenStream| {
                    if self.mode == Mode::Native { index.clone() } else { quote!(__t.once(#index)) }
                };
                let indices: Vec<TokenStream> = indices.iter().map(once).collect();
                let at = [quote!(__i), quote!(__j)];
                let at = &at[..indices.len()];
                let method = if at.len() == 1 { quote!(at) } else { quote!(at2) };
                let old = if self.native() {
                    quote!(#name.#method(#(#at),*))
                } else {
                    quote!(__t.#method(#name, #(#at),*))
                };
                let new = self.function(operator, &[old, value]);
                let store = self.store(&name, at, &new);
                Ok(quote!({ #(let #at = #indices;)* #store }))
            }
            other => refuse(other, "a kernel assigns to variables and to elements"),
        }
    }
}

fn is_barrier(call: &ExprCall) -> bool {
    matches!(&*call.func, Expr::Path(path) if path.path.is_ident("barrier"))
}

/// The function behind an operator that assigns.
fn compound(op: BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::AddAssign(_) => "add",
        BinOp::SubAssign(_) => "sub",
        BinOp::MulAssign(_) => "mul",
        BinOp::DivAssign(_) => "div",
        BinOp::RemAssign(_) => "rem",
        BinOp::BitAndAssign(_) => "bitand",
        BinOp::BitOrAssign(_) => "bitor",
        BinOp::BitXorAssign(_) => "bitxor",
        BinOp::ShlAssign(_) => "shl",
        BinOp::ShrAssign(_) => "shr",
        _ => return None,
    })
}

//! What every kernel satisfies before anything is made of it.

use std::collections::HashSet;

use crate::error::KernelError;
use crate::ir::{Access, Array, Kernel, Op, ParamKind, Place, Space, Stmt};
use crate::types::{LANES_MAX, Scalar, Type};

/// Most items of a group: what every target can do.
pub const GROUP_ITEMS_MAX: u32 = 1024;

/// Most bytes of shared memory: what every target can do.
pub const SHARED_BYTES_MAX: usize = 32 << 10;

/// Most elements of the arrays that an item has for itself.
const PRIVATE_ELEMENTS_MAX: usize = 4096;

/// Most parameters.
const PARAMS_MAX: usize = 64;

/// Most expressions inside each other.
const EXPR_DEPTH_MAX: usize = 256;

/// Most terms of an expression.
const EXPR_SIZE_MAX: usize = 1 << 14;

/// Most loops and branches inside each other.
const DEPTH_MAX: usize = 64;

/// Whether a text is an identifier in every target.
fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 128
}

impl Kernel {
    /// Checks sizes, names, and that statements stand where they may.
    ///
    /// # Errors
    /// `Invalid` with what is wrong.
    pub fn verify(&self) -> Result<(), KernelError> {
        let checked = self
            .arrays
            .iter()
            .try_for_each(verify_array)
            .and_then(|()| self.verify_head())
            .and_then(|()| self.verify_exprs())
            .and_then(|()| self.verify_block(&self.body, 0, false));
        checked.map_err(|reason| KernelError::Invalid { name: self.name.clone(), reason })
    }

    fn verify_head(&self) -> Result<(), String> {
        if !is_identifier(&self.name) {
            return Err("its name is no identifier".to_string());
        }
        let items = self.group.iter().try_fold(1u32, |items, &size| items.checked_mul(size));
        if !items.is_some_and(|items| (1..=GROUP_ITEMS_MAX).contains(&items)) {
            let group = self.group;
            return Err(format!("groups of {group:?} items, wanted 1 to {GROUP_ITEMS_MAX}"));
        }
        let bools = |ty: Type| ty.scalar == Scalar::Bool && ty.lanes != 1;
        if self.buffers().any(|(_, element, _)| bools(element)) {
            return Err("memory of vectors of bool".to_string());
        }
        if self.params.len() > PARAMS_MAX {
            return Err(format!("{} parameters, at most {PARAMS_MAX}", self.params.len()));
        }
        let mut names = HashSet::new();
        for param in &self.params {
            if !is_identifier(&param.name) || !names.insert(param.name.as_str()) {
                return Err(format!("`{}` is no name for a parameter, or twice there", param.name));
            }
        }
        if self.shared_bytes() > SHARED_BYTES_MAX {
            let bytes = self.shared_bytes();
            return Err(format!("{bytes} bytes of shared memory, at most {SHARED_BYTES_MAX}"));
        }
        let private = self.arrays.iter().filter(|array| array.space == Space::Private);
        let elements: usize = private.map(Array::elements).sum();
        if elements > PRIVATE_ELEMENTS_MAX {
            return Err(format!("{elements} elements of arrays, at most {PRIVATE_ELEMENTS_MAX}"));
        }
        Ok(())
    }

    /// Expressions refer to earlier ones, not too deep, and are not too long when each is written
    /// out where it is used.
    fn verify_order(&self) -> Result<(), String> {
        let mut sizes: Vec<(usize, usize)> = Vec::with_capacity(self.exprs.len());
        for (id, expr) in self.exprs.iter().enumerate() {
            let (mut depth, mut size) = (0usize, 1usize);
            for operand in expr.op.operands() {
                let of = sizes.get(operand.0 as usize).filter(|_| (operand.0 as usize) < id);
                let (of_depth, of_size) = of.ok_or("an expression of one that comes later")?;
                depth = depth.max(*of_depth + 1);
                size = size.saturating_add(*of_size);
            }
            if depth > EXPR_DEPTH_MAX || size > EXPR_SIZE_MAX {
                return Err("an expression is too long: bind its parts".to_string());
            }
            sizes.push((depth, size));
        }
        Ok(())
    }

    fn verify_exprs(&self) -> Result<(), String> {
        self.verify_order()?;
        for expr in &self.exprs {
            if expr.ty.scalar == Scalar::Bool && expr.ty.lanes != 1 {
                return Err("vectors of bool".to_string());
            }
            if !matches!(expr.ty.lanes, 1 | 2 | 4 | 8 | 16) {
                return Err(format!("vectors of {} lanes", expr.ty.lanes));
            }
            match &expr.op {
                Op::Lane(of, lane)
                    if usize::from(*lane) >= usize::from(self.type_of(*of).lanes) =>
                {
                    return Err(format!("lane {lane} of {}", self.type_of(*of)));
                }
                Op::Load(place) => self.verify_place(place, &[Access::Read, Access::Write])?,
                _ => {}
            }
        }
        Ok(())
    }

    fn verify_place(&self, place: &Place, allowed: &[Access]) -> Result<(), String> {
        match place {
            Place::Array(array, indices) => {
                let wanted = self.array(*array).extents.len();
                if indices.len() != wanted {
                    return Err(format!("{} indices of an array of {wanted}", indices.len()));
                }
            }
            Place::Span(first, lanes) => {
                let of = self.element(first);
                let whole = matches!(lanes, 2 | 4 | 8 | 16) && allowed != [Access::Atomic];
                let numbers = of.lanes == 1 && of.scalar != Scalar::Bool;
                if !whole || !numbers || first.indices().len() != 1 {
                    return Err(format!("a vector of {lanes} elements that are {of}"));
                }
                self.verify_place(first, allowed)?;
            }
            Place::Buffer(param, _) => match self.param(*param).kind {
                ParamKind::Buffer { access, .. } if allowed.contains(&access) => {}
                _ => {
                    return Err(format!(
                        "`{}` is not used as it is declared",
                        self.param(*param).name
                    ));
                }
            },
        }
        Ok(())
    }

    fn verify_block(&self, block: &[Stmt], depth: usize, in_loop: bool) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} loops and branches inside each other"));
        }
        for stmt in block {
            match stmt {
                Stmt::If(_, yes, no) => {
                    self.verify_block(yes, depth + 1, in_loop)?;
                    self.verify_block(no, depth + 1, in_loop)?;
                }
                Stmt::For { body, .. } | Stmt::Loop(body) => {
                    self.verify_block(body, depth + 1, true)?;
                }
                Stmt::Break | Stmt::Continue if !in_loop => {
                    return Err("a break or continue outside of any loop".to_string());
                }
                Stmt::Store(place, _) => self.verify_place(place, &[Access::Write])?,
                Stmt::Atomic { place, .. } => self.verify_place(place, &[Access::Atomic])?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn verify_array(array: &Array) -> Result<(), String> {
    let extents = &array.extents;
    if !(1..=2).contains(&extents.len()) || extents.contains(&0) {
        return Err(format!("an array of extents {extents:?}"));
    }
    let elements = extents.iter().try_fold(1u32, |product, &extent| product.checked_mul(extent));
    if elements.is_none_or(|elements| elements > 1 << 16) {
        return Err(format!("an array of extents {extents:?} is too large"));
    }
    if usize::from(array.element.lanes) > LANES_MAX || array.element.scalar == Scalar::Bool {
        return Err(format!("an array of {}", array.element));
    }
    Ok(())
}

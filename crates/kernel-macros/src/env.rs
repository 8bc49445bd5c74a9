//! What names mean where they stand.

use proc_macro2::Ident;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value that does not change.
    Value,
    /// A variable.
    Variable,
    /// Memory with one index: a buffer or an array.
    Row,
    /// Memory with two indices.
    Grid,
    /// A buffer of cells.
    Cells,
    /// A constant of the function.
    Constant,
}

/// Names in scope, inner ones last.
#[derive(Default)]
pub(crate) struct Env {
    names: Vec<(String, Kind)>,
    /// Arrays so far, shared and private ones.
    pub(crate) arrays: u32,
}

impl Env {
    /// Adds a name.
    pub(crate) fn add(&mut self, name: &Ident, kind: Kind) {
        self.names.push((name.to_string(), kind));
    }

    /// What a name stands for; `None` where it is not one of the function's.
    pub(crate) fn find(&self, name: &Ident) -> Option<Kind> {
        let name = name.to_string();
        self.names.iter().rev().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// How many names there are, to go back to.
    pub(crate) fn mark(&self) -> usize {
        self.names.len()
    }

    /// Forgets the names since a mark.
    pub(crate) fn leave(&mut self, mark: usize) {
        self.names.truncate(mark);
    }
}

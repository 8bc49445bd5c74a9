//! Attributes: the constant arguments of a node, as data.

use std::collections::BTreeMap;
use std::sync::Arc;

use hetra_tensor::Tensor;

use crate::graph::Graph;
use crate::types::Type;

/// One attribute.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each name is its own description")]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Tensor(Tensor),
    Graph(Arc<Graph>),
    Type(Type),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Arc<Graph>>),
}

/// An attribute that is missing or of the wrong kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attribute `{name}`: wanted {wanted}, {got}")]
pub struct AttrError {
    /// Its name.
    pub name: String,
    /// What was wanted, such as `an integer`.
    pub wanted: &'static str,
    /// What is there, such as `it is missing`.
    pub got: &'static str,
}

/// The attributes of a node, by name, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(pub BTreeMap<String, Attr>);

macro_rules! getters {
    ($($get:ident, $get_opt:ident, $kind:ident, $type:ty, $wanted:literal;)*) => {
        $(
            #[doc = concat!("The attribute as ", $wanted, ", if it is there.\n\n# Errors\nWhen it is of another kind.")]
            pub fn $get_opt(&self, name: &str) -> Result<Option<&$type>, AttrError> {
                match self.0.get(name) {
                    None => Ok(None),
                    Some(Attr::$kind(value)) => Ok(Some(value)),
                    Some(_) => Err(fault(name, $wanted, "it is of another kind")),
                }
            }

            #[doc = concat!("The attribute as ", $wanted, ".\n\n# Errors\nWhen it is missing or of another kind.")]
            pub fn $get(&self, name: &str) -> Result<&$type, AttrError> {
                self.$get_opt(name)?.ok_or_else(|| fault(name, $wanted, "it is missing"))
            }
        )*
    };
}

impl Attrs {
    getters! {
        int, int_opt, Int, i64, "an integer";
        float, float_opt, Float, f32, "a float";
        str, str_opt, Str, String, "a string";
        tensor, tensor_opt, Tensor, Tensor, "a tensor";
        graph, graph_opt, Graph, Arc<Graph>, "a graph";
        ty, ty_opt, Type, Type, "a type";
        ints, ints_opt, Ints, Vec<i64>, "integers";
        floats, floats_opt, Floats, Vec<f32>, "floats";
        strs, strs_opt, Strs, Vec<String>, "strings";
    }

    /// The integer, or `default` when it is not there.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, AttrError> {
        Ok(self.int_opt(name)?.copied().unwrap_or(default))
    }

    /// The integer as a flag: not 0.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, AttrError> {
        Ok(self.int_or(name, i64::from(default))? != 0)
    }

    /// The float, or `default` when it is not there.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32, AttrError> {
        Ok(self.float_opt(name)?.copied().unwrap_or(default))
    }

    /// The string, or `default` when it is not there.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn str_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, AttrError> {
        Ok(self.str_opt(name)?.map_or(default, String::as_str))
    }

    /// Whether there is an attribute of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, attr: impl Into<Attr>) {
        self.0.insert(name.to_string(), attr.into());
    }

    /// Takes an attribute out.
    pub fn take(&mut self, name: &str) -> Option<Attr> {
        self.0.remove(name)
    }

    /// The graphs among the attributes, with their names.
    pub fn graphs(&self) -> impl Iterator<Item = (&str, &Arc<Graph>)> {
        self.0.iter().flat_map(|(name, attr)| {
            let graphs: &[Arc<Graph>] = match attr {
                Attr::Graph(graph) => std::slice::from_ref(graph),
                Attr::Graphs(graphs) => graphs,
                _ => &[],
            };
            graphs.iter().map(move |graph| (name.as_str(), graph))
        })
    }
}

fn fault(name: &str, wanted: &'static str, got: &'static str) -> AttrError {
    AttrError { name: name.to_string(), wanted, got }
}

macro_rules! from {
    ($($type:ty => $kind:ident),*) => {
        $(impl From<$type> for Attr { fn from(value: $type) -> Attr { Attr::$kind(value) } })*
    };
}

from!(i64 => Int, f32 => Float, String => Str, Tensor => Tensor, Arc<Graph> => Graph,
    Vec<i64> => Ints, Vec<f32> => Floats, Vec<String> => Strs, Type => Type);

impl From<&str> for Attr {
    fn from(value: &str) -> Attr {
        Attr::Str(value.to_string())
    }
}

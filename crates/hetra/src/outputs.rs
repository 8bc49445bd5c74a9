//! The outputs of one run.

use std::ops::Index;

use hetra_tensor::{Tensor, Value};

/// Named outputs, in the order they were asked for.
#[derive(Clone, Debug)]
pub struct Outputs {
    pub(crate) names: Vec<String>,
    pub(crate) values: Vec<Value>,
}

impl Outputs {
    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = self.names.iter().position(|known| known == name)?;
        Some(&self.values[index])
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.get(name).and_then(Value::as_tensor)
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// No outputs.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }

    /// The values, in order.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}

impl Index<usize> for Outputs {
    type Output = Value;

    fn index(&self, index: usize) -> &Value {
        &self.values[index]
    }
}

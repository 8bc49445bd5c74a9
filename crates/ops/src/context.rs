//! What a row's functions are given: arguments, checked on access.

use hetra_ir::{Attrs, Dim, Graph, Node, Type, ValueId};
use hetra_tensor::{DType, Tensor, Value};

use crate::error::OpError;

/// Looks up a value that a body captures from the graph around it.
pub type Outer<'a> = &'a dyn Fn(ValueId) -> Option<Value>;

/// Runs the bodies of control-flow nodes.
pub trait Runner {
    /// Runs `body` on its formal inputs; `outer` finds what it captures (ids of the graph around).
    ///
    /// # Errors
    /// The fault of the node inside that failed.
    fn run(
        &self,
        body: &std::sync::Arc<Graph>,
        inputs: Vec<Value>,
        outer: Outer<'_>,
    ) -> Result<Vec<Value>, OpError>;
}

/// The arguments of [`crate::OpDef::eval`].
pub struct EvalCtx<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its inputs.
    pub inputs: &'a [Option<Value>],
    /// Finds what the node's bodies capture.
    pub outer: Outer<'a>,
    /// Runs the node's bodies.
    pub runner: &'a dyn Runner,
}

impl<'a> EvalCtx<'a> {
    /// The node's attributes.
    pub fn attrs(&self) -> &'a Attrs {
        &self.node.attrs
    }

    /// The input at `index`, if it is given.
    pub fn value_opt(&self, index: usize) -> Option<&'a Value> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// The input at `index`.
    ///
    /// # Errors
    /// When it is not given.
    pub fn value(&self, index: usize) -> Result<&'a Value, OpError> {
        self.value_opt(index).ok_or(OpError::MissingInput { index })
    }

    /// The tensor at `index`, if it is given. (A wrong kind of value counts as not given.)
    pub fn tensor_opt(&self, index: usize) -> Option<&'a Tensor> {
        self.value_opt(index).and_then(Value::as_tensor)
    }

    /// The tensor at `index`.
    ///
    /// # Errors
    /// When it is not given or not a tensor.
    pub fn tensor(&self, index: usize) -> Result<&'a Tensor, OpError> {
        let value = self.value(index)?;
        value.as_tensor().ok_or_else(|| OpError::input(index, "a tensor", value.describe()))
    }

    /// The sequence at `index`.
    ///
    /// # Errors
    /// When it is not given or not a sequence.
    pub fn sequence(&self, index: usize) -> Result<&'a [Value], OpError> {
        let value = self.value(index)?;
        value.as_sequence().ok_or_else(|| OpError::input(index, "a sequence", value.describe()))
    }

    /// The integers at `index` (any integer dtype), if given.
    ///
    /// # Errors
    /// When the input is not of integers.
    pub fn ints_opt(&self, index: usize) -> Result<Option<Vec<i64>>, OpError> {
        let Some(tensor) = self.tensor_opt(index) else { return Ok(None) };
        if !tensor.dtype().is_int() && tensor.dtype() != DType::Bool {
            return Err(OpError::input(index, "integers", tensor.describe()));
        }
        Ok(Some(hetra_tensor::to_i64(tensor)?))
    }

    /// The integers at `index` (any integer dtype).
    ///
    /// # Errors
    /// When the input is not given or not of integers.
    pub fn ints(&self, index: usize) -> Result<Vec<i64>, OpError> {
        self.ints_opt(index)?.ok_or(OpError::MissingInput { index })
    }

    /// The one integer at `index`.
    ///
    /// # Errors
    /// When the input is not given or not one integer.
    pub fn int(&self, index: usize) -> Result<i64, OpError> {
        let ints = self.ints(index)?;
        ints.first()
            .copied()
            .filter(|_| ints.len() == 1)
            .ok_or_else(|| OpError::input(index, "one integer", format!("{} of them", ints.len())))
    }

    /// All elements of the tensor at `index` as f64.
    ///
    /// # Errors
    /// When the input is not given or not of real numbers.
    pub fn reals(&self, index: usize) -> Result<Vec<f64>, OpError> {
        Ok(hetra_tensor::to_f64(self.tensor(index)?)?)
    }

    /// Whether the output at `index` is wanted.
    pub fn wants(&self, index: usize) -> bool {
        self.node.output(index).is_some()
    }

    /// Runs a body of the node.
    ///
    /// # Errors
    /// The fault of the node inside that failed.
    pub fn run_body(&self, attr: &str, inputs: Vec<Value>) -> Result<Vec<Value>, OpError> {
        self.runner.run(self.attrs().graph(attr)?, inputs, self.outer)
    }
}

/// Infers the output types of a body from the types of its formal inputs.
pub type InferBody<'a> = &'a dyn Fn(&Graph, &[Type]) -> Result<Vec<Type>, OpError>;

/// The arguments of [`crate::OpDef::infer`].
pub struct InferCtx<'a> {
    /// The node.
    pub node: &'a Node,
    /// Types of its inputs; `None` where left out.
    pub inputs: &'a [Option<Type>],
    /// Values of its inputs where they are known constants.
    pub known: &'a [Option<Tensor>],
    /// Infers a body.
    pub body: InferBody<'a>,
}

impl<'a> InferCtx<'a> {
    /// The node's attributes.
    pub fn attrs(&self) -> &'a Attrs {
        &self.node.attrs
    }

    /// Number of input slots.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// No input slots.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The type of the input at `index`, if given.
    pub fn ty_opt(&self, index: usize) -> Option<&'a Type> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// The type of the input at `index`.
    ///
    /// # Errors
    /// When it is not given.
    pub fn ty(&self, index: usize) -> Result<&'a Type, OpError> {
        self.ty_opt(index).ok_or(OpError::MissingInput { index })
    }

    /// The dtype of the input at `index`; `None` when its type is not known.
    pub fn dtype_opt(&self, index: usize) -> Option<DType> {
        match self.ty_opt(index)? {
            Type::Optional(inner) => inner.dtype(),
            ty => ty.dtype(),
        }
    }

    /// The dims of the input at `index`; `None` when its rank is not known.
    pub fn dims(&self, index: usize) -> Option<&'a [Dim]> {
        match self.ty_opt(index)? {
            Type::Optional(inner) => inner.dims(),
            ty => ty.dims(),
        }
    }

    /// The rank of the input at `index`; `None` when it is not known.
    pub fn rank(&self, index: usize) -> Option<usize> {
        self.dims(index).map(<[Dim]>::len)
    }

    /// The value of the input at `index` where it is a known constant.
    pub fn known(&self, index: usize) -> Option<&'a Tensor> {
        self.known.get(index).and_then(Option::as_ref)
    }

    /// The integers of the input at `index` where it is a known constant.
    pub fn known_ints(&self, index: usize) -> Option<Vec<i64>> {
        self.known(index).and_then(|tensor| hetra_tensor::to_i64(tensor).ok())
    }

    /// Whether the input at `index` is given.
    pub fn has(&self, index: usize) -> bool {
        self.ty_opt(index).is_some()
    }

    /// A tensor type of this dtype and these dims; unknown when the dtype is, unranked when the
    /// dims are.
    pub fn make(dtype: Option<DType>, dims: Option<Vec<Dim>>) -> Type {
        match (dtype, dims) {
            (None, _) => Type::Unknown,
            (Some(dtype), None) => Type::unranked(dtype),
            (Some(dtype), Some(dims)) => Type::shaped(dtype, dims),
        }
    }
}

/// Nothing is known of the outputs.
pub(crate) fn infer_unknown(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Ok(vec![Type::Unknown; ctx.node.outputs.len()])
}

/// Every output is of the type of the first input.
pub(crate) fn infer_same(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Ok(vec![ctx.ty(0)?.clone(); ctx.node.outputs.len()])
}

/// The shape of the first input with another dtype.
pub(crate) fn same_shape(ctx: &InferCtx<'_>, dtype: DType) -> Result<Vec<Type>, OpError> {
    Ok(vec![InferCtx::make(Some(dtype), ctx.dims(0).map(<[Dim]>::to_vec))])
}

/// Broadcasts dims; `None` in, `None` out.
///
/// # Errors
/// When two known extents do not broadcast.
pub(crate) fn broadcast_dims(
    a: Option<&[Dim]>,
    b: Option<&[Dim]>,
) -> Result<Option<Vec<Dim>>, OpError> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let rank = a.len().max(b.len());
    let pick = |dims: &[Dim], axis: usize| {
        (axis + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |axis| dims[axis].clone())
    };
    let merged = (0..rank).map(|axis| broadcast_dim(&pick(a, axis), &pick(b, axis)));
    merged.collect::<Result<_, _>>().map(Some)
}

/// The extent that two broadcast to.
///
/// # Errors
/// When they are known and do not broadcast.
pub(crate) fn broadcast_dim(x: &Dim, y: &Dim) -> Result<Dim, OpError> {
    match (x, y) {
        (x, y) if x == y => Ok(x.clone()),
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Ok(other.clone()),
        (Dim::Known(x), Dim::Known(y)) => {
            Err(OpError::invalid(format!("extents {x} and {y} do not broadcast")))
        }
        // An extent over 1 wins against an unknown one: the unknown must be it, or 1.
        (Dim::Known(x), _) | (_, Dim::Known(x)) => Ok(Dim::Known(*x)),
        _ => Ok(Dim::Unknown),
    }
}

/// All inputs broadcast together, in the dtype of the first.
pub(crate) fn infer_broadcast(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let mut dims = ctx.dims(0).map(<[Dim]>::to_vec);
    for index in 1..ctx.len() {
        if ctx.has(index) {
            dims = broadcast_dims(dims.as_deref(), ctx.dims(index))?;
        }
    }
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

/// An axis counted from either end, as an index below `rank`.
///
/// # Errors
/// When it is out of range.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let resolved = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    if resolved < 0 || resolved >= rank as i64 {
        return Err(hetra_tensor::TensorError::Axis { axis, rank }.into());
    }
    Ok(resolved as usize)
}

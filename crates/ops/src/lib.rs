//! What each operator means.
//!
//! An operator is one [`OpDef`] row in one file of this crate: its ONNX names, how older versions
//! turn into the newest form, shape and dtype inference, the work it does, and a plain reference
//! [`OpDef::eval`] that is obviously right and runs anywhere. Everything generic (import, passes,
//! planning, devices, docs, tests) is read from that row. [`ALL_OPS`] is the table.
//!
//! The crate knows no device, thread or file format.

mod context;
mod control;
mod def;
mod dispatch;
mod error;
mod interpret;
mod table;
mod work;

#[cfg(test)]
mod case;
mod dense;
mod attention;
mod attention_core;
mod recurrent;
mod recurrent_cell;
mod recurrent_form;
mod rotary;
mod activation;
mod convert;
mod elementwise;
mod erf;
mod logic;
mod unary;
mod variadic;
mod real;
mod window;
mod fused_activation;
mod conv;
mod conv_transpose;
mod matmul;
mod quant_form;
mod quant_matmul;
mod quantize;
mod quant_nbits;
mod quant_elementwise;
mod random;
mod generate;
mod cumulative;
mod text;
mod tfidf;
mod training;
mod reduce;
mod arg_reduce;
mod softmax;
mod layer_norm;
mod quant_conv;
mod quant_gemm;
mod quant_lstm;
mod ml;
mod trees;
mod scores;
mod channel_norm;
mod pool;
mod pool_whole;
mod deform_conv;
mod embed_norm;
mod loss;
mod einsum;
mod fourier;
mod linear;
mod attention_cached;
mod attention_group;
mod attention_microsoft;
mod arithmetic;
mod column;
mod regions;
mod sample;
mod resize;
mod resize_axis;
mod pad;
mod pick;
mod optional;
mod sequence;
mod scan;
mod order;
mod select;
mod scatter;
mod gather;
mod slice;
mod movement;
mod reshape;
mod elements;
mod dims;

pub use window::Window;
pub use fused_activation::FusedActivation;
pub use conv::ConvGeometry;
pub use matmul::{GemmForm, MatMulForm, Operand};
pub use softmax::SoftmaxForm;
pub use layer_norm::LayerNormForm;
pub use pool::PoolGeometry;
pub use control::{set_turns_max, turns_max};
pub use context::{EvalCtx, InferBody, InferCtx, Outer, Runner};
pub use def::{Arity, Kind, OnnxName, OpDef, Upgrade, onnx};
pub use error::{NodeError, OpError};
pub use interpret::{Interpreter, interpret};
pub use attention::AttentionForm;
pub use attention_core::Heads;
pub use recurrent_form::{Activation, Cell, RecurrentForm};
pub use quant_elementwise::QuantSum;
pub use quant_form::QuantAxis;
pub use quant_nbits::NBitsForm;
pub use table::{ALL_OPS, find, find_onnx};
pub use work::Work;

//! What each operator means.
//!
//! An operator is one [`OpDef`] row in one file of this crate: its ONNX names, how older versions
//! turn into the newest form, shape and dtype inference, the work it does, and a plain reference
//! [`OpDef::eval`] that is obviously right and runs anywhere. Everything generic (import, passes,
//! planning, devices, docs, tests) is read from that row. [`ALL_OPS`] is the table.
//!
//! The crate knows no device, thread or file format.

mod complex_functions;
mod compute;
mod context;
mod control;
mod def;
mod dispatch;
mod error;
mod interpret;
mod svm;
mod table;
mod tape;
mod work;

mod activation;
mod arg_reduce;
mod arithmetic;
mod attention;
mod attention_cached;
mod attention_core;
mod attention_group;
mod attention_microsoft;
#[cfg(test)]
mod case;
mod channel_norm;
mod channels_last;
mod column;
mod complex;
mod conv;
mod conv_transpose;
mod convert;
mod cumulative;
mod deform_conv;
mod dense;
mod dims;
mod einsum;
mod elements;
mod elementwise;
mod embed_norm;
mod erf;
mod fourier;
mod fused;
mod fused_activation;
mod gather;
mod gather_concat;
mod generate;
mod gradient;
mod layer_norm;
mod linear;
mod logic;
mod loss;
mod matmul;
mod ml;
mod movement;
mod numeric;
mod optional;
mod order;
mod pad;
mod part;
mod philox;
mod pick;
mod pool;
mod pool_whole;
mod quant_conv;
mod quant_elementwise;
mod quant_form;
mod quant_gemm;
mod quant_lstm;
mod quant_matmul;
mod quant_nbits;
mod quantize;
mod random;
mod real;
mod recurrent;
mod recurrent_cell;
mod recurrent_form;
mod reduce;
mod regions;
mod reshape;
mod resize;
mod resize_axis;
mod rotary;
mod sample;
mod scan;
mod scatter;
mod schema;
mod scores;
mod select;
mod sequence;
mod slice;
mod softmax;
mod text;
mod tfidf;
mod training;
mod trees;
mod unary;
mod variadic;
mod warp;
mod window;

pub use attention::AttentionForm;
pub use attention_core::Heads;
pub use attention_group::GroupQueryForm;
pub use attention_microsoft::{MicrosoftAttentionForm, Padding};
pub use channel_norm::LrnForm;
pub use channels_last::{
    ChannelsLast, FIRST_INPUT_PLAIN, channels_first_perm, channels_last_perm, set_stored, stored,
};
pub use compute::{Compute, multiplied};
pub use context::{EvalCtx, InferBody, InferCtx, Outer, Runner, resolve_axis};
pub use control::{meet, set_turns_max, turns_max, without_shape};
pub use conv::ConvGeometry;
pub use def::{Arity, Kind, OnnxName, OpDef, Upgrade, UpgradeFn, onnx};
pub use einsum::EinsumForm;
pub use embed_norm::EmbedForm;
pub use error::{NodeError, OpError};
pub use fourier::{DftForm, StftForm};
pub use fused_activation::{Epilogue, FusedActivation};
pub use gather::resolve_indices;
pub use gradient::{Gradient, gradient};
pub use interpret::{Interpreter, interpret};
pub use layer_norm::LayerNormForm;
pub use matmul::{GemmForm, MatMulForm, Operand};
pub use part::{PART, PART_BODY, PART_DEVICE};
pub use pool::PoolGeometry;
pub use quant_elementwise::{QuantProduct, QuantSum};
pub use quant_form::QuantAxis;
pub use quant_nbits::NBitsForm;
pub use quantize::dynamic_params;
pub use recurrent_form::{Activation, Cell, RecurrentForm};
pub use resize::{ResizeForm, Sampling};
pub use resize_axis::Taps;
pub use rotary::{Pairing, RotaryForm};
pub use schema::{Schema, schemas};
pub use slice::SliceForm;
pub use softmax::SoftmaxForm;
pub use table::{ALL_OPS, find, find_onnx, newest_version};
pub use tape::{GradientFn, Gradients, Tape, Var};
pub use warp::WarpForm;
pub use window::Window;
pub use work::Work;

//! Graph to graph.
//!
//! [`infer`] tells the type of every value, and the values that can be known before a run.
//! [`optimise`] rewrites a graph by the passes of [`PASSES`]: each states a law in its file, keeps
//! what the graph computes up to rounding, can be switched off, and reports what it did and what
//! stood in its way. Everything here is a pure function of its arguments.

mod cut;
mod editor;
mod extents;
mod infer;
mod one_hot;
mod optimise;
mod outputs;
mod pattern;
mod report;
mod table;
mod work;

mod activation;
mod attention;
mod branch;
mod channels;
mod channels_last;
mod code_table;
mod conv;
mod cse;
mod dead;
mod fold;
mod follow;
mod fuse;
mod layout;
mod matmul;
mod noop;
mod norm;
mod pad;
mod precision;
mod quant;
mod quant_move;
mod quantise;
mod regroup;
mod rounded;
mod scale;
mod shuffle;
mod siblings;
mod space_to_depth;
mod spelling;
mod weights;
mod widen;

pub use cut::{Extract, PART_SPARE, cut, extract, leaving, portable, whole};
pub use dead::compact;
pub use editor::Editor;
pub use infer::{Inferred, infer};
pub use optimise::{Claim, Options, Pass, optimise};
pub use outputs::{OutputError, output_types};
pub use precision::{can_lower, lower};
pub use quantise::{Range, Ranges, can_quantise, float_form, observed, quantise};
pub use report::{PassReport, Report};
pub use rounded::rounded;
pub use table::PASSES;
pub use work::{traffic, work, work_of};

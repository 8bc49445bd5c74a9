//! From a dtype at run time to a Rust type at compile time.

/// Runs `$body` with `$T` bound to the element type of `$dtype`, for the types listed; any other
/// dtype is `OpError::Input` of the first input.
///
/// ```text
/// dispatch!(tensor.dtype(), T in [f32, f64, i32, i64] => abs::<T>(tensor))
/// ```
/// `half::f16` and `half::bf16` are written `f16` and `bf16`.
macro_rules! dispatch {
    ($dtype:expr, $T:ident in [$($elem:ident),* $(,)?] => $body:expr) => {{
        #[allow(unused_imports, reason = "not every list names the half types")]
        use half::{bf16, f16};
        let dtype: hetra_tensor::DType = $dtype;
        match dtype {
            $(d if d == <$elem as hetra_tensor::Element>::DTYPE => {
                type $T = $elem;
                $body
            })*
            other => Err($crate::error::OpError::input(
                0,
                concat!("one of ", $(stringify!($elem), " "),*).trim_end(),
                other.name(),
            )),
        }
    }};
}

pub(crate) use dispatch;

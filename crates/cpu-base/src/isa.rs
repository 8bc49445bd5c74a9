//! Which instruction set the kernels use, and how one generic loop is compiled for each.
//!
//! A kernel is a small struct that implements [`Kernel`]: its `run` is written once over a
//! [`Simd`] token. [`Isa::dispatch`] calls it inside a function that has the right target features,
//! so that everything inlined into it is compiled for that instruction set.

use super::simd::{Avx2, Avx512, Portable, Simd};
use std::sync::OnceLock;

/// An instruction set, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, four lanes; runs everywhere.
    Portable,
    /// AVX2 with FMA, eight lanes.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI, sixteen lanes.
    Avx512,
}

/// Work that can be compiled for any instruction set. `run` must be `#[inline(always)]`, or its
/// body would be compiled without the target features.
pub trait Kernel {
    /// What the work gives back.
    type Output;
    /// Does the work with the vectors of `S`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// The strongest instruction set of this machine, whatever the environment says.
pub fn detected() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    match (avx512, avx2) {
        (true, _) => Isa::Avx512,
        (false, true) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// What `HETRA_CPU` asks for: `None` when it is not set, or empty.
///
/// # Errors
/// The text, when it is no name of an instruction set.
pub fn asked() -> Result<Option<Isa>, String> {
    match std::env::var_os("HETRA_CPU") {
        Some(text) => named(&text.to_string_lossy()),
        None => Ok(None),
    }
}

/// The names that `HETRA_CPU` may have.
pub const NAMES: &[(&str, Isa)] =
    &[("portable", Isa::Portable), ("avx2", Isa::Avx2), ("avx512", Isa::Avx512)];

fn named(text: &str) -> Result<Option<Isa>, String> {
    let isa = NAMES.iter().find(|(name, _)| *name == text).map(|(_, isa)| *isa);
    if isa.is_some() || text.is_empty() { Ok(isa) } else { Err(text.to_string()) }
}

/// The instruction set to use: the detected one, or a lower one that `HETRA_CPU` asks for. Read
/// once. What cannot be understood counts for nothing: the device refuses it, see [`asked`].
pub fn isa() -> Isa {
    static CHOSEN: OnceLock<Isa> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let asked = asked().ok().flatten().unwrap_or(Isa::Avx512);
        asked.min(detected())
    })
}

impl Isa {
    /// 32-bit lanes of the vectors that `dispatch` gives a kernel.
    pub fn lanes(self) -> usize {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.dispatch(Lanes)
    }

    /// Every instruction set that this machine can run; tests loop over it.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|i| *i <= detected()).collect()
    }

    /// Runs `kernel` compiled for this instruction set, or for the strongest one the machine has
    /// if this one is missing.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.min(detected()) {
            Isa::Portable => kernel.run(Portable::new()),
            // SAFETY: `min(detected())` proves that the machine has these features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run(Portable::new()),
        }
    }
}

// Never inlined: a kernel is optimised by itself, and the register kernels depend on that.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are the token's condition.
    kernel.run(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are the token's condition.
    kernel.run(unsafe { Avx512::<false>::new() })
}

impl Isa {
    /// As `dispatch`, with the instructions of AVX512-BF16 where this instruction set and the
    /// machine have them.
    #[inline]
    pub fn dispatch_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        if self == Isa::Avx512 && has_bf16() {
            // SAFETY: the machine has these features, as was just checked.
            return unsafe { run_avx512_bf16(kernel) };
        }
        self.dispatch(kernel)
    }
}

/// Whether the machine has AVX-512 with the instructions of AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[inline]
fn has_bf16() -> bool {
    detected() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// Runs `kernel` with the instructions of AVX512-BF16, `None` where the machine has none.
#[inline]
pub fn with_bf16<K: Kernel>(kernel: K) -> Option<K::Output> {
    #[cfg(target_arch = "x86_64")]
    if has_bf16() {
        // SAFETY: the machine has these features, as was just checked.
        return Some(unsafe { run_avx512_bf16(kernel) });
    }
    let _no_instruction = kernel;
    None
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are the token's condition.
    kernel.run(unsafe { Avx512::<true>::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_runs_its_own_width() {
        for isa in Isa::available() {
            let want = match isa {
                Isa::Portable => 4,
                Isa::Avx2 => 8,
                Isa::Avx512 => 16,
            };
            assert_eq!(isa.lanes(), want);
        }
        assert!(isa() <= detected());
    }

    #[test]
    fn names_are_understood_or_refused() {
        assert_eq!(named("avx2"), Ok(Some(Isa::Avx2)));
        assert_eq!(named(""), Ok(None));
        assert_eq!(named("avx-512"), Err("avx-512".to_string()));
    }
}

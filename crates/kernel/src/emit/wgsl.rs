//! WGSL.

use std::fmt::Write as _;

use super::writer::{
    Dialect, Numbers, Storage, Unroll, array_name, body, entry_name, is_buffer, param_name, vectors,
};
use super::{Options, Target, lacks};
use crate::error::KernelError;
use crate::function::{Binary, Function, Group, Unary};
use crate::ir::{Access, Array, ArrayId, Atomic, Id, Kernel, ParamId, ParamKind, Space};
use crate::types::{Literal, Scalar, Type};

/// Where the words of the uniform buffer are. It has a whole number of four words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// First of three: what is added to the ids of groups.
    pub base: usize,
    /// First of three: groups of the grid.
    pub groups: usize,
    /// First of one for each parameter: a number's bits, or the elements of a buffer.
    pub params: usize,
    /// How many there are.
    pub len: usize,
}

/// The words of a kernel's uniform buffer.
pub fn words(kernel: &Kernel) -> Words {
    let params = 6;
    Words { base: 0, groups: 3, params, len: (params + kernel.params.len()).next_multiple_of(4) }
}

struct Wgsl {
    words: Words,
}

/// The kernel in WGSL.
pub(super) fn emit(kernel: &Kernel, options: Options) -> Result<String, KernelError> {
    if let Some(wide) = vectors(kernel).into_iter().find(|ty| ty.lanes > 4) {
        return Err(lacks(kernel, Target::Wgsl, &format!("vectors like {wide}")));
    }
    let dialect = Wgsl { words: words(kernel) };
    let mut text = String::new();
    // Writing into a string does not fail.
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    if kernel.uses(Scalar::F16) {
        line("enable f16;");
    }
    let mut binding = 0;
    for param in &kernel.params {
        let ParamKind::Buffer { element, access } = param.kind else { continue };
        let (mode, ty) = match access {
            Access::Read => ("read", dialect.stored(element)),
            Access::Write => ("read_write", dialect.stored(element)),
            Access::Atomic => ("read_write", format!("atomic<{}>", dialect.ty(element))),
        };
        let name = param_name(param);
        line(&format!("@group(0) @binding({binding}) var<storage, {mode}> {name}: array<{ty}>;"));
        binding += 1;
    }
    let vectors = dialect.words.len / 4;
    line(&format!(
        "@group(0) @binding({binding}) var<uniform> h_args: array<vec4<u32>, {vectors}>;"
    ));
    if options.checked {
        binding += 1;
        line(&format!(
            "@group(0) @binding({binding}) var<storage, read_write> h_faults: array<atomic<u32>, 2>;"
        ));
        line(CHECKS);
    }
    for (index, array) in kernel.arrays.iter().enumerate() {
        if array.space == Space::Shared {
            let name = array_name(ArrayId(index as u32));
            line(&format!("var<workgroup> {name}: {};", dialect.array_type(array)));
        }
    }
    line(CASTS);
    line("// The bits of what no literal says: infinities and NaN.");
    line("var<private> h_zero: u32 = 0u;");
    let [x, y, z] = kernel.group;
    line(&format!("@compute @workgroup_size({x}, {y}, {z})"));
    line(&format!(
        "fn {}(@builtin(local_invocation_id) h_local: vec3<u32>, \
         @builtin(workgroup_id) h_group: vec3<u32>) {{",
        entry_name(kernel)
    ));
    text.push_str(&body(kernel, &dialect, options));
    text.push_str("}\n");
    Ok(text)
}

/// To whole numbers as Rust's `as`: towards zero, saturating, NaN is zero.
const CASTS: &str = "fn h_i32(a: f32) -> i32 {
    if ((bitcast<u32>(a) & 0x7fffffffu) > 0x7f800000u) { return 0i; }
    if (a >= 2147483648.0f) { return 2147483647i; }
    if (a < -2147483648.0f) { return bitcast<i32>(0x80000000u); }
    return i32(a);
}
fn h_u32(a: f32) -> u32 {
    if ((bitcast<u32>(a) & 0x7fffffffu) > 0x7f800000u) { return 0u; }
    if (a >= 4294967296.0f) { return 4294967295u; }
    if (a <= 0.0f) { return 0u; }
    return u32(a);
}";

const CHECKS: &str = "fn h_fault(index: u32, memory: u32) {
    let first = atomicCompareExchangeWeak(&h_faults[0], 0u, memory + 1u);
    if (first.exchanged) { atomicStore(&h_faults[1], index); }
}
fn h_at(index: u32, len: u32, memory: u32) -> u32 {
    if (index < len) { return index; }
    h_fault(index, memory);
    return 0u;
}
fn h_in(index: u32, lanes: u32, len: u32, memory: u32) -> bool {
    if (index < len && len - index >= lanes) { return true; }
    h_fault(max(index, len), memory);
    return false;
}";

const AXES: [&str; 4] = ["x", "y", "z", "w"];

impl Wgsl {
    /// A word of the uniform buffer.
    fn word(&self, index: usize) -> String {
        format!("h_args[{}].{}", index / 4, AXES[index % 4])
    }

    /// The type of an element in a buffer.
    fn stored(&self, element: Type) -> String {
        self.ty(if element.scalar == Scalar::Bool { element.of(Scalar::U32) } else { element })
    }

    fn array_type(&self, array: &Array) -> String {
        let element = self.ty(array.element);
        array.extents.iter().rev().fold(element, |ty, extent| format!("array<{ty}, {extent}>"))
    }
}

impl Numbers for Wgsl {
    fn ty(&self, ty: Type) -> String {
        match ty.lanes {
            1 => ty.scalar.name().to_string(),
            lanes => format!("vec{lanes}<{}>", ty.scalar.name()),
        }
    }

    fn literal(&self, literal: Literal) -> String {
        let bits = literal.bits;
        match literal.scalar {
            Scalar::Bool => (bits != 0).to_string(),
            Scalar::U32 => format!("{bits}u"),
            Scalar::I32 if bits == 1 << 31 => "bitcast<i32>(0x80000000u)".to_string(),
            Scalar::I32 if (bits as i32) < 0 => format!("({}i)", bits as i32),
            Scalar::I32 => format!("{bits}i"),
            Scalar::F32 if f32::from_bits(bits).is_finite() => float(f32::from_bits(bits), "f"),
            Scalar::F32 => format!("bitcast<f32>(h_zero | {bits}u)"),
            Scalar::F16 => {
                let value = half::f16::from_bits(bits as u16);
                if value.is_finite() {
                    float(value.to_f32(), "h")
                } else {
                    format!("bitcast<vec2<f16>>(h_zero | {bits}u).x")
                }
            }
        }
    }

    fn unary(&self, op: Unary, ty: Type, a: &str) -> String {
        match op {
            Unary::Neg => format!("(-{a})"),
            Unary::Not if ty.scalar == Scalar::Bool => format!("(!{a})"),
            Unary::Not => format!("(~{a})"),
            Unary::Abs => format!("abs({a})"),
            Unary::CountOnes => format!("countOneBits({a})"),
            Unary::LeadingZeros => format!("countLeadingZeros({a})"),
        }
    }

    fn binary(&self, op: Binary, ty: Type, a: &str, b: &str) -> String {
        let sign = match op {
            Binary::Min => return format!("min({a}, {b})"),
            Binary::Max => return format!("max({a}, {b})"),
            Binary::Shl | Binary::Shr => {
                let sign = if op == Binary::Shl { "<<" } else { ">>" };
                let amount = self.bits(ty, ty.of(Scalar::U32), b);
                let mask = self.vector(ty.of(Scalar::U32), &["31u".to_string()]);
                return format!("({a} {sign} ({amount} & {mask}))");
            }
            Binary::Add => "+",
            Binary::Sub => "-",
            Binary::Mul => "*",
            Binary::Div => "/",
            Binary::Rem => "%",
            Binary::BitAnd => "&",
            Binary::BitOr => "|",
            Binary::BitXor => "^",
        };
        format!("({a} {sign} {b})")
    }

    fn call(&self, function: Function, _: Type, operands: &[String]) -> String {
        format!("{}({})", function.names()[0], operands.join(", "))
    }

    fn cast(&self, from: Type, to: Type, a: &str) -> String {
        if !from.scalar.is_float() || !to.scalar.is_integer() {
            return format!("{}({a})", self.ty(to));
        }
        let name = if to.scalar == Scalar::I32 { "h_i32" } else { "h_u32" };
        if to.lanes == 1 {
            return format!("{name}(f32({a}))");
        }
        let lanes = (0..to.lanes).map(|lane| format!("{name}(f32({}))", self.lane(a, lane)));
        self.vector(to, &lanes.collect::<Vec<_>>())
    }

    fn bits(&self, from: Type, to: Type, a: &str) -> String {
        if from == to { a.to_string() } else { format!("bitcast<{}>({a})", self.ty(to)) }
    }

    fn select(&self, condition: &str, yes: &str, no: &str) -> String {
        format!("select({no}, {yes}, {condition})")
    }

    fn vector(&self, ty: Type, scalars: &[String]) -> String {
        if ty.lanes == 1 {
            return scalars.join(", ");
        }
        format!("{}({})", self.ty(ty), scalars.join(", "))
    }

    fn lane(&self, a: &str, lane: u8) -> String {
        format!("{a}.{}", AXES[usize::from(lane) % 4])
    }
}

impl Storage for Wgsl {
    fn array(&self, array: &Array, name: &str) -> String {
        format!("var {name}: {};", self.array_type(array))
    }

    fn atomic(&self, op: Atomic, _: Scalar, element: &str, value: &str) -> String {
        let name = match op {
            Atomic::Add => "atomicAdd",
            Atomic::Min => "atomicMin",
            Atomic::Max => "atomicMax",
            Atomic::And => "atomicAnd",
            Atomic::Or => "atomicOr",
            Atomic::Xor => "atomicXor",
            Atomic::Exchange => "atomicExchange",
        };
        format!("{name}(&{element}, {value})")
    }

    fn checked(&self, index: &str, len: &str, memory: u32) -> String {
        format!("h_at({index}, {len}, {memory}u)")
    }

    fn inside(&self, index: &str, lanes: u8, len: &str, memory: u32) -> String {
        format!("h_in({index}, {lanes}u, {len}, {memory}u)")
    }
}

impl Dialect for Wgsl {
    fn id(&self, id: Id, axis: u8, size: u32) -> String {
        let letter = AXES[usize::from(axis)];
        let group =
            format!("(h_group.{letter} + {})", self.word(self.words.base + usize::from(axis)));
        match id {
            Id::Local => format!("h_local.{letter}"),
            Id::Group => group,
            Id::Groups => self.word(self.words.groups + usize::from(axis)),
            Id::Global => format!("({group} * {size}u + h_local.{letter})"),
        }
    }

    fn group(&self, op: Group, _: Type, a: &str) -> String {
        let name = match op {
            Group::Add => "subgroupAdd",
            Group::Min => "subgroupMin",
            Group::Max => "subgroupMax",
        };
        format!("{name}({a})")
    }

    fn value(&self, kernel: &Kernel, param: ParamId) -> String {
        let word = self.word(self.words.params + param.0 as usize);
        match kernel.param(param).kind {
            ParamKind::Value(Scalar::F32) => format!("bitcast<f32>({word})"),
            ParamKind::Value(Scalar::I32) => format!("bitcast<i32>({word})"),
            ParamKind::Value(Scalar::F16) => format!("bitcast<vec2<f16>>({word}).x"),
            ParamKind::Value(Scalar::Bool) => format!("({word} != 0u)"),
            _ => word,
        }
    }

    fn len(&self, kernel: &Kernel, param: ParamId) -> String {
        debug_assert!(is_buffer(kernel.param(param)));
        self.word(self.words.params + param.0 as usize)
    }

    fn unroll(&self) -> Unroll {
        Unroll::Text
    }

    fn declare(&self, ty: Type, name: &str, value: &str, fixed: bool) -> String {
        let word = if fixed { "let" } else { "var" };
        format!("{word} {name}: {} = {value};", self.ty(ty))
    }

    fn barrier(&self) -> &'static str {
        "workgroupBarrier(); storageBarrier();"
    }

    fn loop_head(&self) -> &'static str {
        "loop"
    }
}

/// A finite number with a suffix, exact when it is read again.
pub(super) fn float(value: f32, suffix: &str) -> String {
    let digits = format!("{value:?}{suffix}");
    if value.is_sign_negative() { format!("({digits})") } else { digits }
}

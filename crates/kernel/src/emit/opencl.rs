//! OpenCL C 1.2.

use std::fmt::Write as _;

use super::Options;
use super::wgsl::float;
use super::writer::{Dialect, Numbers, Storage, Unroll, array_name, body, entry_name, param_name};
use crate::function::{Binary, Function, Group, Unary};
use crate::ir::{Access, Array, ArrayId, Atomic, Id, Kernel, ParamId, ParamKind, Space};
use crate::types::{Literal, Scalar, Type};

struct OpenCl;

/// The kernel in OpenCL C.
pub(super) fn emit(kernel: &Kernel, options: Options) -> String {
    let mut text = String::new();
    if kernel.uses(Scalar::F16) {
        text.push_str("#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n");
    }
    if options.subgroups {
        text.push_str("#pragma OPENCL EXTENSION cl_khr_subgroups : enable\n");
    }
    text.push_str("#pragma OPENCL FP_CONTRACT OFF\n");
    text.push_str(DIVISIONS);
    if options.checked {
        text.push_str(CHECKS);
    }
    let params = signature(kernel, options, |element, access| {
        let ty = OpenCl.stored(element);
        match access {
            Access::Read => format!("__global const {ty}* restrict"),
            Access::Write => format!("__global {ty}*"),
            Access::Atomic => format!("__global volatile {ty}*"),
        }
    });
    let [x, y, z] = kernel.group;
    let name = entry_name(kernel);
    // Writing into a string does not fail.
    let _ = writeln!(text, "__kernel __attribute__((reqd_work_group_size({x}, {y}, {z})))");
    let _ = writeln!(text, "void {name}({params}) {{");
    for (index, array) in kernel.arrays.iter().enumerate() {
        if array.space == Space::Shared {
            let name = array_name(ArrayId(index as u32));
            let declared = declaration(&OpenCl.ty(array.element), array, &name);
            let _ = writeln!(text, "    __local {declared};");
        }
    }
    text.push_str(&body(kernel, &OpenCl, options));
    text.push_str("}\n");
    text
}

/// The parameters of a C function: the kernel's, then lengths, then faults.
pub(super) fn signature(
    kernel: &Kernel,
    options: Options,
    pointer: impl Fn(Type, Access) -> String,
) -> String {
    let mut all = Vec::new();
    for param in &kernel.params {
        let name = param_name(param);
        all.push(match param.kind {
            ParamKind::Buffer { element, access } => format!("{} {name}", pointer(element, access)),
            ParamKind::Value(scalar) => format!("{} {name}", argument(scalar)),
        });
    }
    for (id, ..) in kernel.buffers() {
        all.push(format!("uint {}", length(kernel, id)));
    }
    if options.checked {
        all.push(format!("{} h_faults", pointer(Type::U32, Access::Atomic)));
    }
    all.join(", ")
}

/// The type of an argument that is a number: `bool` and `f16` come as their bits.
fn argument(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::F32 => "float",
        Scalar::I32 => "int",
        Scalar::U32 | Scalar::Bool => "uint",
        Scalar::F16 => "ushort",
    }
}

/// The name of a buffer's number of elements.
pub(super) fn length(kernel: &Kernel, param: ParamId) -> String {
    format!("h_len_{}", kernel.param(param).name)
}

/// A C declaration of an array.
pub(super) fn declaration(ty: &str, array: &Array, name: &str) -> String {
    let extents = array.extents.iter().map(|extent| format!("[{extent}]")).collect::<String>();
    format!("{ty} {name}{extents}")
}

const DIVISIONS: &str = "int h_div(int a, int b) {
    return b == 0 ? a : b == -1 ? as_int(0u - as_uint(a)) : a / b;
}
int h_rem(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }
uint h_divu(uint a, uint b) { return b == 0u ? a : a / b; }
uint h_remu(uint a, uint b) { return b == 0u ? 0u : a % b; }
";

const CHECKS: &str = "void h_fault(__global volatile uint* faults, uint index, uint memory) {
    if (atomic_cmpxchg(&faults[0], 0u, memory + 1u) == 0u) { faults[1] = index; }
}
uint h_at(__global volatile uint* faults, uint index, uint len, uint memory) {
    if (index < len) { return index; }
    h_fault(faults, index, memory);
    return 0u;
}
int h_in(__global volatile uint* faults, uint index, uint lanes, uint len, uint memory) {
    if (index < len && len - index >= lanes) { return 1; }
    h_fault(faults, max(index, len), memory);
    return 0;
}
";

impl OpenCl {
    fn stored(&self, element: Type) -> String {
        self.ty(if element.scalar == Scalar::Bool { element.of(Scalar::U32) } else { element })
    }

    /// Signed arithmetic that wraps: through unsigned numbers.
    fn wrapping(&self, ty: Type, sign: &str, a: &str, b: &str) -> String {
        let unsigned = ty.of(Scalar::U32);
        let (a, b) = (self.bits(ty, unsigned, a), self.bits(ty, unsigned, b));
        self.bits(unsigned, ty, &format!("({a} {sign} {b})"))
    }

    /// A function of scalars, for each lane.
    fn lanes(&self, ty: Type, name: &str, a: &str, b: &str) -> String {
        if ty.lanes == 1 {
            return format!("{name}({a}, {b})");
        }
        let each = (0..ty.lanes)
            .map(|lane| format!("{name}({}, {})", self.lane(a, lane), self.lane(b, lane)));
        self.vector(ty, &each.collect::<Vec<_>>())
    }
}

impl Numbers for OpenCl {
    fn ty(&self, ty: Type) -> String {
        let scalar = match ty.scalar {
            Scalar::F32 => "float",
            Scalar::F16 => "half",
            Scalar::I32 => "int",
            Scalar::U32 => "uint",
            Scalar::Bool => "int",
        };
        if ty.lanes == 1 { scalar.to_string() } else { format!("{scalar}{}", ty.lanes) }
    }

    fn literal(&self, literal: Literal) -> String {
        let bits = literal.bits;
        match literal.scalar {
            Scalar::Bool => bits.to_string(),
            Scalar::U32 => format!("{bits}u"),
            Scalar::I32 if bits == 1 << 31 => "as_int(0x80000000u)".to_string(),
            Scalar::I32 if (bits as i32) < 0 => format!("({})", bits as i32),
            Scalar::I32 => format!("{}", bits as i32),
            Scalar::F32 if f32::from_bits(bits).is_finite() => float(f32::from_bits(bits), "f"),
            Scalar::F32 => format!("as_float({bits}u)"),
            Scalar::F16 => format!("as_half((ushort){bits}u)"),
        }
    }

    fn unary(&self, op: Unary, ty: Type, a: &str) -> String {
        match op {
            Unary::Neg if ty.scalar == Scalar::I32 => {
                let zero = self.vector(ty, &["0".to_string()]);
                self.wrapping(ty, "-", &zero, a)
            }
            Unary::Neg => format!("(-{a})"),
            Unary::Not if ty.scalar == Scalar::Bool => format!("(!{a})"),
            Unary::Not => format!("(~{a})"),
            Unary::Abs if ty.scalar.is_float() => format!("fabs({a})"),
            Unary::Abs => self.bits(ty.of(Scalar::U32), ty, &format!("abs({a})")),
            Unary::CountOnes => format!("popcount({a})"),
            Unary::LeadingZeros => format!("clz({a})"),
        }
    }

    fn binary(&self, op: Binary, ty: Type, a: &str, b: &str) -> String {
        let signed = ty.scalar == Scalar::I32;
        let unsigned = ty.scalar == Scalar::U32;
        let sign = match op {
            // `min` and `max` of floats are for finite numbers only.
            Binary::Min if ty.scalar.is_float() => return format!("fmin({a}, {b})"),
            Binary::Max if ty.scalar.is_float() => return format!("fmax({a}, {b})"),
            Binary::Min => return format!("min({a}, {b})"),
            Binary::Max => return format!("max({a}, {b})"),
            Binary::Div if signed => return self.lanes(ty, "h_div", a, b),
            Binary::Rem if signed => return self.lanes(ty, "h_rem", a, b),
            Binary::Div if unsigned => return self.lanes(ty, "h_divu", a, b),
            Binary::Rem if unsigned => return self.lanes(ty, "h_remu", a, b),
            Binary::Rem => return format!("fmod({a}, {b})"),
            Binary::Add if signed => return self.wrapping(ty, "+", a, b),
            Binary::Sub if signed => return self.wrapping(ty, "-", a, b),
            Binary::Mul if signed => return self.wrapping(ty, "*", a, b),
            // The language takes amounts modulo the width.
            Binary::Shl if signed => return self.wrapping(ty, "<<", a, b),
            Binary::Shl => "<<",
            Binary::Shr => ">>",
            Binary::Add => "+",
            Binary::Sub => "-",
            Binary::Mul => "*",
            Binary::Div => "/",
            Binary::BitAnd => "&",
            Binary::BitOr => "|",
            Binary::BitXor => "^",
        };
        format!("({a} {sign} {b})")
    }

    fn call(&self, function: Function, _: Type, operands: &[String]) -> String {
        format!("{}({})", function.names()[1], operands.join(", "))
    }

    fn cast(&self, from: Type, to: Type, a: &str) -> String {
        if from.scalar.is_integer() && to.scalar.is_integer() {
            return self.bits(from, to, a);
        }
        let saturates = from.scalar.is_float() && to.scalar.is_integer();
        format!("convert_{}{}({a})", self.ty(to), if saturates { "_sat" } else { "" })
    }

    fn bits(&self, from: Type, to: Type, a: &str) -> String {
        if from == to { a.to_string() } else { format!("as_{}({a})", self.ty(to)) }
    }

    fn select(&self, condition: &str, yes: &str, no: &str) -> String {
        format!("({condition} ? {yes} : {no})")
    }

    fn vector(&self, ty: Type, scalars: &[String]) -> String {
        if ty.lanes == 1 {
            return scalars.join(", ");
        }
        format!("(({})({}))", self.ty(ty), scalars.join(", "))
    }

    fn lane(&self, a: &str, lane: u8) -> String {
        format!("({a}).s{lane:x}")
    }
}

impl Storage for OpenCl {
    fn array(&self, array: &Array, name: &str) -> String {
        let braces = "{".repeat(array.extents.len());
        let ends = "}".repeat(array.extents.len());
        format!("{} = {braces}0{ends};", declaration(&self.ty(array.element), array, name))
    }

    fn atomic(&self, op: Atomic, _: Scalar, element: &str, value: &str) -> String {
        let name = match op {
            Atomic::Add => "atomic_add",
            Atomic::Min => "atomic_min",
            Atomic::Max => "atomic_max",
            Atomic::And => "atomic_and",
            Atomic::Or => "atomic_or",
            Atomic::Xor => "atomic_xor",
            Atomic::Exchange => "atomic_xchg",
        };
        format!("{name}(&{element}, {value})")
    }

    fn checked(&self, index: &str, len: &str, memory: u32) -> String {
        format!("h_at(h_faults, {index}, {len}, {memory}u)")
    }

    fn inside(&self, index: &str, lanes: u8, len: &str, memory: u32) -> String {
        format!("h_in(h_faults, {index}, {lanes}u, {len}, {memory}u)")
    }

    fn load_span(&self, ty: Type, memory: &str, index: &str) -> String {
        format!("vload{}(0, {memory} + {index})", ty.lanes)
    }

    fn store_span(&self, ty: Type, memory: &str, index: &str, value: &str) -> String {
        format!("vstore{}({value}, 0, {memory} + {index});", ty.lanes)
    }
}

impl Dialect for OpenCl {
    fn id(&self, id: Id, axis: u8, size: u32) -> String {
        match id {
            Id::Local => format!("(uint)get_local_id({axis})"),
            Id::Group => format!("(uint)get_group_id({axis})"),
            Id::Groups => format!("(uint)get_num_groups({axis})"),
            Id::Global => {
                format!("((uint)get_group_id({axis}) * {size}u + (uint)get_local_id({axis}))")
            }
        }
    }

    fn group(&self, op: Group, _: Type, a: &str) -> String {
        let name = match op {
            Group::Add => "sub_group_reduce_add",
            Group::Min => "sub_group_reduce_min",
            Group::Max => "sub_group_reduce_max",
        };
        format!("{name}({a})")
    }

    fn value(&self, kernel: &Kernel, param: ParamId) -> String {
        let name = param_name(kernel.param(param));
        match kernel.param(param).kind {
            ParamKind::Value(Scalar::Bool) => format!("({name} != 0u)"),
            ParamKind::Value(Scalar::F16) => format!("as_half({name})"),
            _ => name,
        }
    }

    fn len(&self, kernel: &Kernel, param: ParamId) -> String {
        length(kernel, param)
    }

    fn unroll(&self) -> Unroll {
        Unroll::Hint("#pragma unroll")
    }

    fn declare(&self, ty: Type, name: &str, value: &str, fixed: bool) -> String {
        let word = if fixed { "const " } else { "" };
        format!("{word}{} {name} = {value};", self.ty(ty))
    }

    fn barrier(&self) -> &'static str {
        "barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);"
    }

    fn loop_head(&self) -> &'static str {
        "while (1)"
    }
}

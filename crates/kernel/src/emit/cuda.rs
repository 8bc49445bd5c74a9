//! CUDA C++ as NVRTC takes it, without headers: vectors and `f16` are defined here.

use std::fmt::Write as _;

use super::Options;
use super::opencl::{declaration, length, signature};
use super::wgsl::float;
use super::writer::{
    Dialect, Numbers, Storage, Unroll, array_name, body, entry_name, param_name, vectors,
};
use crate::function::{Binary, Function, Group, Unary};
use crate::ir::{Access, Array, ArrayId, Atomic, Id, Kernel, ParamId, ParamKind, Space};
use crate::types::{Literal, Scalar, Type};

struct Cuda;

/// The kernel in CUDA C++.
pub(super) fn emit(kernel: &Kernel, options: Options) -> String {
    let mut text = String::from("typedef unsigned int uint;\ntypedef unsigned short ushort;\n");
    text.push_str(ARITHMETIC);
    if kernel.uses(Scalar::F16) {
        text.push_str(HALF);
    }
    if !vectors(kernel).is_empty() {
        text.push_str(VECTORS);
    }
    if options.subgroups {
        text.push_str(WARPS);
    }
    if options.checked {
        text.push_str(CHECKS);
    }
    let params = signature(kernel, options, |element, access| {
        let ty = Cuda.stored(element);
        match access {
            Access::Read => format!("const {ty}* __restrict__"),
            _ => format!("{ty}*"),
        }
    });
    let name = entry_name(kernel);
    // Writing into a string does not fail.
    let items = kernel.group_items();
    let _ = writeln!(
        text,
        "extern \"C\" __global__ void __launch_bounds__({items}) {name}({params}) {{"
    );
    for (index, array) in kernel.arrays.iter().enumerate() {
        if array.space == Space::Shared {
            let name = array_name(ArrayId(index as u32));
            let declared = declaration(&Cuda.ty(array.element), array, &name);
            let _ = writeln!(text, "    __shared__ {declared};");
        }
    }
    text.push_str(&body(kernel, &Cuda, options));
    text.push_str("}\n");
    text
}

/// `__fmul_rn` and its like never become one instruction that rounds once, as `a * b + c` does
/// where the caller has not turned that off.
const ARITHMETIC: &str = "#define H __device__ __forceinline__
H int h_add(int a, int b) { return (int)((uint)a + (uint)b); }
H int h_sub(int a, int b) { return (int)((uint)a - (uint)b); }
H int h_mul(int a, int b) { return (int)((uint)a * (uint)b); }
H int h_shl(int a, int b) { return (int)((uint)a << ((uint)b & 31u)); }
H uint h_shl(uint a, uint b) { return a << (b & 31u); }
H int h_shr(int a, int b) { return a >> ((uint)b & 31u); }
H uint h_shr(uint a, uint b) { return a >> (b & 31u); }
H int h_div(int a, int b) { return b == 0 ? a : b == -1 ? h_sub(0, a) : a / b; }
H uint h_div(uint a, uint b) { return b == 0u ? a : a / b; }
H int h_rem(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }
H uint h_rem(uint a, uint b) { return b == 0u ? 0u : a % b; }
H float h_rem(float a, float b) { return fmodf(a, b); }
H float h_add(float a, float b) { return __fadd_rn(a, b); }
H float h_sub(float a, float b) { return __fsub_rn(a, b); }
H float h_mul(float a, float b) { return __fmul_rn(a, b); }
template <class T> H T h_add(T a, T b) { return a + b; }
template <class T> H T h_sub(T a, T b) { return a - b; }
template <class T> H T h_mul(T a, T b) { return a * b; }
template <class T> H T h_div(T a, T b) { return a / b; }
template <class T> H T h_min(T a, T b) { return b < a ? b : a; }
template <class T> H T h_max(T a, T b) { return b > a ? b : a; }
template <class T> H T h_and(T a, T b) { return a & b; }
template <class T> H T h_or(T a, T b) { return a | b; }
template <class T> H T h_xor(T a, T b) { return a ^ b; }
H int h_neg(int a) { return h_sub(0, a); }
H float h_neg(float a) { return -a; }
H int h_abs(int a) { return a < 0 ? h_sub(0, a) : a; }
H float h_abs(float a) { return fabsf(a); }
template <class T> H T h_not(T a) { return ~a; }
H bool h_not(bool a) { return !a; }
template <class T> H T h_ones(T a) { return (T)__popc(a); }
template <class T> H T h_zeros(T a) { return (T)__clz(a); }
template <class To, class From> struct h_cast_to {
    H static To of(From a) { return (To)a; }
};
template <> struct h_cast_to<int, float> {
    H static int of(float a) { return a != a ? 0 : __float2int_rz(a); }
};
template <> struct h_cast_to<uint, float> {
    H static uint of(float a) { return a != a ? 0u : __float2uint_rz(a); }
};
template <class To, class From> H To h_cast(From a) { return h_cast_to<To, From>::of(a); }
H uint h_bits(float a) { return __float_as_uint(a); }
H float h_float(uint a) { return __uint_as_float(a); }
";

const HALF: &str = "struct h_half {
    ushort bits;
    H operator float() const {
        float a;
        asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(a) : \"h\"(bits));
        return a;
    }
};
H h_half h_round(float a) {
    h_half b;
    asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(b.bits) : \"f\"(a));
    return b;
}
H h_half h_halves(ushort bits) { h_half a; a.bits = bits; return a; }
#define H_BINARY(name) H h_half name(h_half a, h_half b) { return h_round(name((float)a, (float)b)); }
H_BINARY(h_add) H_BINARY(h_sub) H_BINARY(h_mul) H_BINARY(h_div) H_BINARY(h_rem)
H_BINARY(h_min) H_BINARY(h_max)
H h_half h_neg(h_half a) { return h_round(-(float)a); }
H h_half h_abs(h_half a) { return h_round(fabsf((float)a)); }
template <class From> struct h_cast_to<h_half, From> {
    H static h_half of(From a) { return h_round((float)a); }
};
template <class To> struct h_cast_to<To, h_half> {
    H static To of(h_half a) { return h_cast_to<To, float>::of((float)a); }
};
template <> struct h_cast_to<h_half, h_half> {
    H static h_half of(h_half a) { return a; }
};
";

const VECTORS: &str =
    "template <class T, int N> struct alignas(sizeof(T) * N) h_vec { T lane[N]; };
template <class V, class F, class T, int N> H V h_map(F f, h_vec<T, N> a) {
    V r;
#pragma unroll
    for (int i = 0; i < N; ++i) r.lane[i] = f(a.lane[i]);
    return r;
}
template <class V, class F, class T, int N> H V h_map(F f, h_vec<T, N> a, h_vec<T, N> b) {
    V r;
#pragma unroll
    for (int i = 0; i < N; ++i) r.lane[i] = f(a.lane[i], b.lane[i]);
    return r;
}
template <class V, class F, class T, int N>
H V h_map(F f, h_vec<T, N> a, h_vec<T, N> b, h_vec<T, N> c) {
    V r;
#pragma unroll
    for (int i = 0; i < N; ++i) r.lane[i] = f(a.lane[i], b.lane[i], c.lane[i]);
    return r;
}
template <class V, class T> H V h_splat(T a) {
    V r;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(V) / sizeof(T)); ++i) r.lane[i] = a;
    return r;
}
";

const WARPS: &str = "template <class T, class F> H T h_warp(T a, F f) {
    uint mask = __activemask();
    int first = __ffs(mask) - 1;
    T all = __shfl_sync(mask, a, first);
    for (uint left = mask & (mask - 1u); left != 0u; left &= left - 1u) {
        all = f(all, __shfl_sync(mask, a, __ffs(left) - 1));
    }
    return all;
}
";

const CHECKS: &str = "H void h_fault(uint* faults, uint index, uint memory) {
    if (atomicCAS(&faults[0], 0u, memory + 1u) == 0u) { faults[1] = index; }
}
H uint h_at(uint* faults, uint index, uint len, uint memory) {
    if (index < len) { return index; }
    h_fault(faults, index, memory);
    return 0u;
}
H bool h_in(uint* faults, uint index, uint lanes, uint len, uint memory) {
    if (index < len && len - index >= lanes) { return true; }
    h_fault(faults, index < len ? len : index, memory);
    return false;
}
";

impl Cuda {
    fn stored(&self, element: Type) -> String {
        self.ty(if element.scalar == Scalar::Bool { element.of(Scalar::U32) } else { element })
    }

    /// A function of scalars, for each lane; `result` is the type that it gives.
    fn map(&self, ty: Type, result: Type, name: &str, operands: &[&str]) -> String {
        let all = operands.join(", ");
        if ty.lanes == 1 {
            return format!("{name}({all})");
        }
        let scalar = self.ty(Type::scalar(ty.scalar));
        let names = ["a", "b", "c"];
        let names = &names[..operands.len()];
        let params: Vec<String> = names.iter().map(|name| format!("{scalar} {name}")).collect();
        let (params, args) = (params.join(", "), names.join(", "));
        format!("h_map<{}>([]({params}) {{ return {name}({args}); }}, {all})", self.ty(result))
    }
}

impl Numbers for Cuda {
    fn ty(&self, ty: Type) -> String {
        let scalar = match ty.scalar {
            Scalar::F32 => "float",
            Scalar::F16 => "h_half",
            Scalar::I32 => "int",
            Scalar::U32 => "uint",
            Scalar::Bool => "bool",
        };
        if ty.lanes == 1 { scalar.to_string() } else { format!("h_vec<{scalar}, {}>", ty.lanes) }
    }

    fn literal(&self, literal: Literal) -> String {
        let bits = literal.bits;
        match literal.scalar {
            Scalar::Bool => (bits != 0).to_string(),
            Scalar::U32 => format!("{bits}u"),
            Scalar::I32 if bits == 1 << 31 => "(int)0x80000000u".to_string(),
            Scalar::I32 if (bits as i32) < 0 => format!("({})", bits as i32),
            Scalar::I32 => format!("{}", bits as i32),
            Scalar::F32 if f32::from_bits(bits).is_finite() => float(f32::from_bits(bits), "f"),
            Scalar::F32 => format!("h_float({bits}u)"),
            Scalar::F16 => format!("h_halves({bits})"),
        }
    }

    fn unary(&self, op: Unary, ty: Type, a: &str) -> String {
        let name = match op {
            Unary::Neg => "h_neg",
            Unary::Not => "h_not",
            Unary::Abs => "h_abs",
            Unary::CountOnes => "h_ones",
            Unary::LeadingZeros => "h_zeros",
        };
        self.map(ty, ty, name, &[a])
    }

    fn binary(&self, op: Binary, ty: Type, a: &str, b: &str) -> String {
        let name = match op {
            Binary::Add => "h_add",
            Binary::Sub => "h_sub",
            Binary::Mul => "h_mul",
            Binary::Div => "h_div",
            Binary::Rem => "h_rem",
            Binary::Min => "h_min",
            Binary::Max => "h_max",
            Binary::BitAnd => "h_and",
            Binary::BitOr => "h_or",
            Binary::BitXor => "h_xor",
            Binary::Shl => "h_shl",
            Binary::Shr => "h_shr",
        };
        self.map(ty, ty, name, &[a, b])
    }

    fn call(&self, function: Function, ty: Type, operands: &[String]) -> String {
        let name = function.names()[2];
        let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
        if ty.scalar != Scalar::F16 {
            return self.map(ty, ty, name, &operands);
        }
        // A half becomes a float by itself; the result is rounded.
        let names = ["a", "b", "c"];
        let names = &names[..operands.len()];
        let params: Vec<String> = names.iter().map(|name| format!("h_half {name}")).collect();
        let call = format!("h_round({name}({}))", names.join(", "));
        let lambda = format!("[]({}) {{ return {call}; }}", params.join(", "));
        let all = operands.join(", ");
        if ty.lanes == 1 {
            format!("({lambda})({all})")
        } else {
            format!("h_map<{}>({lambda}, {all})", self.ty(ty))
        }
    }

    fn cast(&self, from: Type, to: Type, a: &str) -> String {
        let name = format!("h_cast<{}>", self.ty(Type::scalar(to.scalar)));
        self.map(from, to, &name, &[a])
    }

    fn bits(&self, from: Type, to: Type, a: &str) -> String {
        let name = match (from.scalar, to.scalar) {
            (from, to) if from == to => return a.to_string(),
            (Scalar::F32, _) => "h_bits",
            (_, Scalar::F32) => "h_float",
            (_, Scalar::I32) => "(int)",
            _ => "(uint)",
        };
        self.map(from, to, name, &[a])
    }

    fn select(&self, condition: &str, yes: &str, no: &str) -> String {
        format!("({condition} ? {yes} : {no})")
    }

    fn vector(&self, ty: Type, scalars: &[String]) -> String {
        match (ty.lanes, scalars) {
            (1, scalars) => scalars.join(", "),
            (_, [scalar]) => format!("h_splat<{}>({scalar})", self.ty(ty)),
            (_, scalars) => format!("{}{{{{{}}}}}", self.ty(ty), scalars.join(", ")),
        }
    }

    fn lane(&self, a: &str, lane: u8) -> String {
        format!("({a}).lane[{lane}]")
    }
}

impl Storage for Cuda {
    fn array(&self, array: &Array, name: &str) -> String {
        format!("{} = {{}};", declaration(&self.ty(array.element), array, name))
    }

    fn atomic(&self, op: Atomic, _: Scalar, element: &str, value: &str) -> String {
        let name = match op {
            Atomic::Add => "atomicAdd",
            Atomic::Min => "atomicMin",
            Atomic::Max => "atomicMax",
            Atomic::And => "atomicAnd",
            Atomic::Or => "atomicOr",
            Atomic::Xor => "atomicXor",
            Atomic::Exchange => "atomicExch",
        };
        format!("{name}(&{element}, {value})")
    }

    fn checked(&self, index: &str, len: &str, memory: u32) -> String {
        format!("h_at(h_faults, {index}, {len}, {memory}u)")
    }

    fn inside(&self, index: &str, lanes: u8, len: &str, memory: u32) -> String {
        format!("h_in(h_faults, {index}, {lanes}u, {len}, {memory}u)")
    }
}

impl Dialect for Cuda {
    fn id(&self, id: Id, axis: u8, size: u32) -> String {
        let letter = ["x", "y", "z"][usize::from(axis)];
        match id {
            Id::Local => format!("threadIdx.{letter}"),
            Id::Group => format!("blockIdx.{letter}"),
            Id::Groups => format!("gridDim.{letter}"),
            Id::Global => format!("(blockIdx.{letter} * {size}u + threadIdx.{letter})"),
        }
    }

    fn group(&self, op: Group, ty: Type, a: &str) -> String {
        let scalar = self.ty(ty);
        let name = match op {
            Group::Add => "h_add",
            Group::Min => "h_min",
            Group::Max => "h_max",
        };
        if ty.scalar == Scalar::F16 {
            return format!(
                "h_round(h_warp((float){a}, [](float a, float b) {{ return {name}(a, b); }}))"
            );
        }
        format!("h_warp({a}, []({scalar} a, {scalar} b) {{ return {name}(a, b); }})")
    }

    fn value(&self, kernel: &Kernel, param: ParamId) -> String {
        let name = param_name(kernel.param(param));
        match kernel.param(param).kind {
            ParamKind::Value(Scalar::Bool) => format!("({name} != 0u)"),
            ParamKind::Value(Scalar::F16) => format!("h_halves({name})"),
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
        "__syncthreads();"
    }

    fn loop_head(&self) -> &'static str {
        "while (true)"
    }
}

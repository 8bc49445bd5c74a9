//! Kernels that have, between them, all that the language has.

use hetra_kernel::{
    Cast, E, Element, Float, Integer, Kernel, Lanes, Number, Signed, Space, Trace, Turned, Word,
    f16, kernel,
};

/// The kernels.
pub(crate) fn all() -> Vec<Kernel> {
    let mut all = vec![
        numbers::<f32, f16, i32, u32>("scalars"),
        vectors::<2>("twos"),
        vectors::<4>("fours"),
        vectors::<8>("eights"),
        floats::<f32, f16>("floats"),
        floats::<Lanes<f32, 2>, Lanes<f16, 2>>("floats_of_twos"),
        casts("casts"),
        casts_of_lanes::<2>("casts_of_twos"),
        casts_of_lanes::<16>("casts_of_sixteens"),
        spans("spans"),
        constants("constants"),
        cells("cells"),
        subgroups("subgroups"),
    ];
    for source in [bools(), turns(), tiled::<4>(), places()] {
        all.push(source.kernel().expect("a kernel").as_ref().clone());
    }
    all
}

fn finished(t: Trace) -> Kernel {
    t.finish().expect("a kernel")
}

/// Every operation that is a sign or of bits, on every kind of number.
fn numbers<F, H, I, U>(name: &str) -> Kernel
where
    F: Element<Lane = f32>,
    H: Element<Lane = f16>,
    I: Element<Lane = i32>,
    U: Element<Lane = u32>,
{
    let t = Trace::new(name, [32, 1, 1]);
    on_memory::<F>(&t, "f", |a, b| signed(&t, arithmetic(&t, a, b)));
    on_memory::<H>(&t, "h", |a, b| signed(&t, arithmetic(&t, a, b)));
    on_memory::<I>(&t, "i", |a, b| bits(&t, signed(&t, arithmetic(&t, a, b)), b));
    on_memory::<U>(&t, "u", |a, b| bits(&t, arithmetic(&t, a, b), b));
    finished(t)
}

/// Every function.
fn floats<F, H>(name: &str) -> Kernel
where
    F: Element<Lane = f32>,
    H: Element<Lane = f16>,
{
    let t = Trace::new(name, [32, 1, 1]);
    on_memory::<F>(&t, "f", |a, b| functions(&t, a, b));
    on_memory::<H>(&t, "h", |a, b| functions(&t, a, b));
    finished(t)
}

/// Memory of a kind, read at two places and written; between them an array of an item and one of
/// the group.
fn on_memory<T: Element>(t: &Trace, name: &str, value: impl Fn(E<T>, E<T>) -> E<T>) {
    let (input, output) =
        (t.input::<T>(&format!("{name}_in")), t.output::<T>(&format!("{name}_out")));
    let (own, shared) = (t.row::<T>(Space::Private, 3), t.row::<T>(Space::Shared, 32));
    let (own_grid, shared_grid) =
        (t.grid::<T>(Space::Private, 2, 3), t.grid::<T>(Space::Shared, 4, 8));
    let (i, local) = (t.global_id(0), t.local_id(0));
    let (four, eight) = (t.int(4u32), t.int(8u32));
    let var = t.var(value(t.at(input, i), t.at(output, i)));
    t.store(own, t.rem(i, t.int(3)), t.get(var));
    t.store2(own_grid, t.int(1), t.rem(i, t.int(3)), t.at(own, t.int(1)));
    t.store(shared, local, t.at2(own_grid, t.int(1), t.int(2)));
    t.barrier();
    t.store2(shared_grid, t.rem(local, four), t.div(local, four), t.at(shared, local));
    t.barrier();
    let turned = t.at2(shared_grid, t.div(local, eight), t.rem(local, eight));
    let chosen = t.select(t.lt(i, t.len(input)), turned, t.get(var));
    t.set(var, chosen);
    t.store(output, i, t.get(var));
}

fn arithmetic<T: Element<Lane: Number>>(t: &Trace, a: E<T>, b: E<T>) -> E<T> {
    let sum = t.bind(t.add(t.mul(a, b), t.sub(a, b)));
    let rest = t.bind(t.rem(t.div(sum, b), a));
    t.bind(t.min(t.max(rest, a), b))
}

fn signed<T: Element<Lane: Signed>>(t: &Trace, a: E<T>) -> E<T> {
    t.bind(t.neg(t.abs(a)))
}

fn bits<T: Element<Lane: Integer + Turned>>(t: &Trace, a: E<T>, b: E<T>) -> E<T> {
    let mixed = t.bind(t.bitxor(t.bitand(a, b), t.bitor(t.not(a), b)));
    let moved = t.bind(t.shr(t.shl(mixed, b), a));
    t.bind(t.add(t.count_ones(moved), t.leading_zeros(mixed)))
}

fn functions<T: Element<Lane: Float>>(t: &Trace, a: E<T>, b: E<T>) -> E<T> {
    let of_one = [
        Trace::exp,
        Trace::exp2,
        Trace::ln,
        Trace::log2,
        Trace::sqrt,
        Trace::rsqrt,
        Trace::sin,
        Trace::cos,
        Trace::tan,
        Trace::asin,
        Trace::acos,
        Trace::atan,
        Trace::sinh,
        Trace::cosh,
        Trace::tanh,
        Trace::floor,
        Trace::ceil,
        Trace::trunc,
        Trace::round_ties_even,
    ];
    let all = of_one.into_iter().fold(a, |value, function| t.bind(function(t, value)));
    t.bind(t.mul_add(t.atan2(all, b), t.powf(a, b), all))
}

/// The operations on vectors.
fn vectors<const N: usize>(name: &str) -> Kernel
where
    Lanes<f32, N>: Element<Lane = f32>,
    Lanes<f16, N>: Element<Lane = f16>,
    Lanes<i32, N>: Element<Lane = i32>,
    Lanes<u32, N>: Element<Lane = u32>,
{
    numbers::<Lanes<f32, N>, Lanes<f16, N>, Lanes<i32, N>, Lanes<u32, N>>(name)
}

/// Every cast of numbers.
fn casts(name: &str) -> Kernel {
    let t = Trace::new(name, [8, 1, 1]);
    let i = t.global_id(0);
    from_scalar::<f32>(&t, i, "f");
    from_scalar::<f16>(&t, i, "h");
    from_scalar::<i32>(&t, i, "i");
    from_scalar::<u32>(&t, i, "u");
    let (truth, y) = (t.value::<bool>("truth"), t.output::<f32>("y"));
    let (int, uint) = (t.cast::<i32, _>(truth), t.cast::<u32, _>(truth));
    let bits = t.bitxor(t.to_bits(t.at(y, i)), t.add(uint, t.cast(int)));
    t.store(y, i, t.from_bits(bits));
    finished(t)
}

fn from_scalar<T>(t: &Trace, i: E<u32>, name: &str)
where
    T: Cast<f32> + Cast<f16> + Cast<i32> + Cast<u32>,
{
    let value = t.at(t.input::<T>(name), i);
    t.store(t.output::<f32>(&format!("{name}_f")), i, t.cast(value));
    t.store(t.output::<f16>(&format!("{name}_h")), i, t.cast(value));
    t.store(t.output::<i32>(&format!("{name}_i")), i, t.cast(value));
    t.store(t.output::<u32>(&format!("{name}_u")), i, t.cast(value));
}

/// Every cast of vectors, vectors of one number and of several, and lanes.
fn casts_of_lanes<const N: usize>(name: &str) -> Kernel
where
    Lanes<f32, N>: Element<Lane = f32>,
    Lanes<f16, N>: Element<Lane = f16>,
    Lanes<i32, N>: Element<Lane = i32>,
    Lanes<u32, N>: Element<Lane = u32>,
{
    let t = Trace::new(name, [8, 1, 1]);
    from_lanes::<f32, N>(&t, "f");
    from_lanes::<f16, N>(&t, "h");
    from_lanes::<i32, N>(&t, "i");
    from_lanes::<u32, N>(&t, "u");
    finished(t)
}

fn from_lanes<T, const N: usize>(t: &Trace, name: &str)
where
    T: Cast<f32> + Cast<f16> + Cast<i32> + Cast<u32>,
    Lanes<T, N>: Element<Lane = T>,
    Lanes<f32, N>: Element,
    Lanes<f16, N>: Element,
    Lanes<i32, N>: Element,
    Lanes<u32, N>: Element,
{
    let i = t.global_id(0);
    let value = t.at(t.input::<Lanes<T, N>>(name), i);
    let last = t.lane(value, N as u8 - 1);
    let turned = t.bind(t.lanes([last; N]));
    let chosen = t.select(t.lt(i, t.int(4)), turned, t.splat(t.lane(value, 1)));
    t.store(t.output::<Lanes<f32, N>>(&format!("{name}_f")), i, t.cast_lanes(chosen));
    t.store(t.output::<Lanes<f16, N>>(&format!("{name}_h")), i, t.cast_lanes(chosen));
    t.store(t.output::<Lanes<i32, N>>(&format!("{name}_i")), i, t.cast_lanes(chosen));
    t.store(t.output::<Lanes<u32, N>>(&format!("{name}_u")), i, t.cast_lanes(chosen));
}

/// Vectors that begin at any element.
fn spans(name: &str) -> Kernel {
    let t = Trace::new(name, [8, 1, 1]);
    spans_of::<f32, 2>(&t, "f");
    spans_of::<f16, 4>(&t, "h");
    spans_of::<i32, 8>(&t, "i");
    spans_of::<u32, 16>(&t, "u");
    finished(t)
}

fn spans_of<T: Word, const N: usize>(t: &Trace, name: &str)
where
    Lanes<T, N>: Element<Lane = T>,
{
    let (input, output) =
        (t.input::<T>(&format!("{name}_in")), t.output::<T>(&format!("{name}_out")));
    let (own, shared) = (t.row::<T>(Space::Private, 20), t.row::<T>(Space::Shared, 160));
    let from = t.mul(t.local_id(0), t.int(N as u32));
    t.set_vector(own, t.int(1), t.vector::<_, N>(input, t.global_id(0)));
    t.set_vector(shared, from, t.vector::<_, N>(own, t.int(2)));
    t.barrier();
    t.set_vector(output, from, t.vector::<_, N>(shared, t.add(from, t.int(3))));
}

/// Constants that languages have no plain word for.
fn constants(name: &str) -> Kernel {
    let t = Trace::new(name, [1, 1, 1]);
    let floats = [0.0, -0.0, 1e-45, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    constants_of(&t, "f", &floats);
    constants_of(&t, "h", &floats.map(f16::from_f32));
    constants_of(&t, "i", &[0, -1, i32::MIN, i32::MAX]);
    constants_of(&t, "u", &[0, 1 << 31, u32::MAX]);
    constants_of(&t, "b", &[true, false]);
    finished(t)
}

fn constants_of<T: Word>(t: &Trace, name: &str, values: &[T]) {
    let output = t.output::<T>(name);
    for (index, value) in values.iter().enumerate() {
        t.store(output, t.int(index as u32), t.lit(*value));
    }
}

/// Every atomic change.
fn cells(name: &str) -> Kernel {
    let t = Trace::new(name, [16, 1, 1]);
    cells_of::<i32>(&t, "i");
    cells_of::<u32>(&t, "u");
    finished(t)
}

fn cells_of<T: Integer>(t: &Trace, name: &str) {
    let (cells, output) = (t.cells::<T>(name), t.output::<T>(&format!("{name}_old")));
    let changes = [
        Trace::fetch_add,
        Trace::fetch_min,
        Trace::fetch_max,
        Trace::fetch_and,
        Trace::fetch_or,
        Trace::fetch_xor,
        Trace::swap,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let old = change(t, cells, t.local_id(0), t.int(T::from_word(3)));
        t.store(output, t.int(index as u32), old);
    }
}

/// Every operation of subgroups.
fn subgroups(name: &str) -> Kernel {
    let t = Trace::new(name, [64, 1, 1]);
    subgroups_of::<f32>(&t, "f");
    subgroups_of::<f16>(&t, "h");
    subgroups_of::<i32>(&t, "i");
    subgroups_of::<u32>(&t, "u");
    finished(t)
}

fn subgroups_of<T: Number>(t: &Trace, name: &str) {
    let output = t.output::<T>(name);
    let i = t.global_id(0);
    let all = t.subgroup_max(t.subgroup_min(t.subgroup_add(t.at(output, i))));
    t.store(output, i, all);
}

/// Truth in arguments and memory.
#[kernel(group = [8])]
fn bools(yes: bool, half: f16, x: &[bool], h: &mut [f16], y: &mut [bool]) {
    let i = global_id(0);
    let other = x[i] && !yes || half < h[i];
    let same = half == h[i] || half != h[0] && !(other && yes);
    h[i] = select(same, half, h[i]);
    y[i] = same;
}

/// Loops and branches.
#[kernel(group = [4, 2])]
fn turns(from: i32, to: i32, step: i32, x: &[u32], y: &mut [i32]) {
    let i = global_id(1) * group_size(0) + local_id(0);
    if i >= y.len() {
        return;
    }
    let mut total = 0;
    for k in (from..to).step_by(step) {
        if k % 7 == 3 {
            continue;
        }
        total += k;
    }
    for k in (0..9u32).step_by(2) {
        total ^= k as i32;
    }
    let mut left = x[i];
    while left > 1 && total < 1000 {
        left = if left & 1 == 0 { left >> 1 } else { 3 * left + 1 };
        total += 1;
    }
    loop {
        total -= 3;
        if total < 0 {
            break;
        }
    }
    y[i] = total.clamp(-1, 1 << 20);
}

/// A product of matrices by tiles that a group shares.
#[kernel(group = [T, T])]
fn tiled<const T: usize>(m: u32, n: u32, k: u32, a: &[f32], b: &[f32], c: &mut [f32]) {
    let tile_a = shared::<[[f32; T]; T]>();
    let tile_b = shared::<[[f32; T]; T]>();
    let x = local_id(0);
    let y = local_id(1);
    let column = global_id(0);
    let row = global_id(1);
    let mut sum = 0.0;
    for from in (0..k).step_by(T) {
        tile_a[y][x] = if row < m && from + x < k { a[row * k + from + x] } else { 0.0 };
        tile_b[y][x] = if from + y < k && column < n { b[(from + y) * n + column] } else { 0.0 };
        barrier();
        for i in 0..T {
            sum += tile_a[y][i] * tile_b[i][x];
        }
        barrier();
    }
    if row < m && column < n {
        c[row * n + column] = sum;
    }
}

/// Where an item stands, along every axis.
#[kernel(group = [2, 3, 4])]
fn places(y: &mut [u32]) {
    let global = global_id(0) + global_id(1) + global_id(2);
    let local = local_id(0) + local_id(1) + local_id(2);
    let group = group_id(0) + group_id(1) + group_id(2);
    let groups = group_count(0) + group_count(1) + group_count(2);
    y[global] = local + group + groups + group_size(2);
}

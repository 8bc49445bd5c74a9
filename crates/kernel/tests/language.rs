//! What can be said in a kernel, run as rustc compiled it and as the interpreter sees it.

use expect_test::expect;
use hetra_kernel::{
    Arg, KernelError, Lanes, Limits, Options, Source, Target, emit, f16, interpret, kernel,
    kernel_fn,
};

/// `y = a x + y`.
#[kernel(group = [4])]
fn saxpy(a: f32, x: &[f32], y: &mut [f32]) {
    let i = global_id(0);
    if i < y.len() {
        y[i] = a * x[i] + y[i];
    }
}

/// The product of two matrices, tile by tile.
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

#[kernel_fn]
fn bucket<const N: u32>(value: u32) -> u32 {
    value % N
}

/// Counts values by their remainders.
#[kernel(group = [8])]
fn histogram(values: &[u32], counts: &[Atomic<u32>], last: &[Atomic<i32>]) {
    let i = global_id(0);
    if i >= values.len() {
        return;
    }
    let at = bucket::<5>(values[i]);
    let before = counts.fetch_add(at, 1);
    last.fetch_max(0, (before as i32) - 3);
}

#[kernel_fn]
fn collatz(mut value: u32) -> u32 {
    let mut steps = 0;
    while value > 1 && steps < 1000 {
        if value & 1 == 0 {
            value >>= 1;
        } else {
            value = 3 * value + 1;
        }
        steps += 1;
    }
    steps
}

/// Loops, branches, arrays.
#[kernel(group = [4, 2])]
fn control(x: &[u32], y: &mut [i32]) {
    let i = (global_id(1) * group_size(0) + local_id(0)) as u32;
    if i >= y.len() {
        return;
    }
    let mut powers = [1i32; 6];
    for k in 1..6 {
        powers[k] = powers[k - 1] * -3;
    }
    let mut grid = [[0i32; 3]; 2];
    for r in 0..2u32 {
        for c in 0..3u32 {
            if (r + c) % 2 == 1 {
                continue;
            }
            grid[r][c] += powers[r + c] + (c as i32);
        }
    }
    let mut total = 0;
    let mut k = 0;
    loop {
        total += powers[k] ^ (x[i] as i32);
        k += 1;
        if k == 6 || total > 1000 {
            break;
        }
    }
    let steps = collatz(x[i]);
    y[i] = total - grid[1][2] * 7 + if_more(steps, 10) + (steps as i32);
}

#[kernel_fn]
fn if_more(a: u32, b: u32) -> i32 {
    let more = if a > b {
        let by = a - b;
        (by * 2) as i32
    } else if a == b {
        0
    } else {
        -1
    };
    more.clamp(-1, 1 << 20)
}

/// Vectors and halves.
#[kernel(group = [2])]
fn vectors(x: &[Lanes<f32, 4>], h: &[f16], y: &mut [Lanes<f32, 4>], s: &mut [f16]) {
    let i = global_id(0);
    let v = x[i];
    let w = v * splat::<4>(2.0) + lanes([v[3], v[2], v[1], 1.0]);
    let low = w.min(v).abs();
    y[i] = low.mul_add(w.abs(), splat(0.5)).sqrt();
    let half = h[i];
    s[i] = half * half + (low[0] as f16) / (3.0 as f16);
}

/// Vectors that begin at any element, of memory and of arrays.
#[kernel(group = [2])]
fn spans(from: u32, x: &[f32], y: &mut [f32]) {
    let i = global_id(0);
    let mut own = [0.0; 12];
    own.set_vector(i * 3 + 1, x.vector::<4>(from + i * 8) * splat(2.0));
    let two = own.vector::<2>(i * 3 + 1);
    y.set_vector(i * 4 + 1, lanes([two[0], two[1]]) + own.vector::<2>(i * 3 + 3));
}

fn both(source: &Source, groups: [u32; 3], run: impl Fn(&mut dyn FnMut(&mut [Arg<'_>]))) {
    let kernel = source.kernel().unwrap();
    run(&mut |args| source.run(groups, args).unwrap());
    run(&mut |args| interpret(kernel, groups, args, Limits::default()).unwrap());
    for target in [Target::Wgsl, Target::OpenCl, Target::Cuda] {
        for checked in [false, true] {
            let options = Options { checked, f16: true, subgroups: true };
            assert!(emit(kernel, target, options).unwrap().contains(&kernel.name));
        }
    }
}

#[test]
fn vectors_begin_anywhere() {
    let x: Vec<f32> = (0..20).map(|i| i as f32).collect();
    both(&spans(), [1, 1, 1], |run| {
        let mut y = vec![-1.0f32; 7];
        run(&mut [3u32.into(), x[..].into(), (&mut y[..]).into()]);
        // Twice the elements 3, 4 and 5, 6; then 11, 12 and 13, 14.
        assert_eq!(y, [-1.0, 16.0, 20.0, -1.0, -1.0, 48.0, 52.0]);
    });
}

#[test]
fn vectors_end_inside() {
    let x = [1.0f32; 20];
    for (from, len, index, memory) in [(9u32, 7, 20, "x"), (4, 6, 6, "y"), (30, 7, 30, "x")] {
        let faults = |run: &dyn Fn(&mut [Arg<'_>]) -> Result<(), KernelError>| {
            let mut y = vec![0.0f32; len];
            run(&mut [from.into(), x[..].into(), (&mut y[..]).into()]).unwrap_err().to_string()
        };
        let (source, groups) = (spans(), [1, 1, 1]);
        let kernel = source.kernel().unwrap();
        let wanted = format!("index {index} of `{memory}`");
        for said in [
            faults(&|args| source.run(groups, args)),
            faults(&|args| interpret(kernel, groups, args, Limits::default())),
        ] {
            assert!(said.contains(&wanted), "{wanted}: {said}");
        }
    }
}

#[test]
fn a_line_of_numbers() {
    both(&saxpy(), [3, 1, 1], |run| {
        let x: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let mut y = vec![1.0f32; 10];
        run(&mut [2.0f32.into(), x[..].into(), (&mut y[..]).into()]);
        assert_eq!(y, (0..10).map(|i| 2.0 * i as f32 + 1.0).collect::<Vec<_>>());
    });
}

#[test]
fn items_that_wait_for_each_other() {
    let (m, n, k) = (7, 5, 9);
    let a: Vec<f32> = (0..m * k).map(|i| (i % 11) as f32 - 5.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i % 7) as f32 - 3.0).collect();
    let cell = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum::<f32>();
    let wanted: Vec<f32> = (0..m * n).map(cell).collect();
    both(&tiled::<4>(), [2, 2, 1], |run| {
        let mut c = vec![0.0f32; m * n];
        let [m, n, k] = [m, n, k].map(|x| Arg::from(x as u32));
        run(&mut [m, n, k, a[..].into(), b[..].into(), (&mut c[..]).into()]);
        assert_eq!(c, wanted);
    });
}

#[test]
fn cells_that_all_items_change() {
    both(&histogram(), [4, 1, 1], |run| {
        let values: Vec<u32> = (0..30).map(|i| i * i).collect();
        let (mut counts, mut last) = (vec![0u32; 5], vec![-9i32]);
        run(&mut [values[..].into(), (&mut counts[..]).into(), (&mut last[..]).into()]);
        assert_eq!((counts, last), (vec![6, 12, 0, 0, 12], vec![8]));
    });
}

#[test]
fn loops_branches_and_arrays() {
    let x: Vec<u32> = vec![0, 1, 6, 27, 97, 31, 2, 9];
    let mut seen = Vec::new();
    let seen_cell = std::cell::RefCell::new(&mut seen);
    both(&control(), [1, 1, 1], |run| {
        let mut y = vec![0i32; 8];
        run(&mut [x[..].into(), (&mut y[..]).into()]);
        seen_cell.borrow_mut().push(y);
    });
    assert_eq!(seen[0], seen[1]);
    assert_eq!(collatz_steps(27), 111);
    assert!(seen[0].iter().any(|&y| y != 0), "{seen:?}");
}

fn collatz_steps(mut value: u32) -> u32 {
    let mut steps = 0;
    while value > 1 {
        value = if value.is_multiple_of(2) { value / 2 } else { 3 * value + 1 };
        steps += 1;
    }
    steps
}

#[test]
fn vectors_and_halves() {
    let x: Vec<f32> = (0..8).map(|i| i as f32 / 2.0 - 1.0).collect();
    let h = [f16::from_f32(0.1), f16::from_f32(3.0)];
    both(&vectors(), [1, 1, 1], |run| {
        let (mut y, mut s) = (vec![0.0f32; 8], vec![f16::ZERO; 2]);
        run(&mut [x[..].into(), h[..].into(), (&mut y[..]).into(), (&mut s[..]).into()]);
        for (i, y) in y.iter().enumerate() {
            let (v, other) = (x[i], if i % 4 == 3 { 1.0 } else { x[i / 4 * 4 + 3 - i % 4] });
            let w = v * 2.0 + other;
            assert_eq!(*y, w.min(v).abs().mul_add(w.abs(), 0.5).sqrt(), "{i}");
        }
        let third = |x: f32| f16::from_f32(f16::from_f32(x).to_f32() / 3.0);
        let w = (x[0] * 2.0 + x[3]).min(x[0]).abs();
        let square = f16::from_f32(h[0].to_f32() * h[0].to_f32());
        assert_eq!(s[0], f16::from_f32(square.to_f32() + third(w).to_f32()));
    });
}

#[kernel(group = [4])]
fn out_of_bounds(y: &mut [f32]) {
    let i = global_id(0);
    y[i + 2] = 1.0;
}

#[kernel(group = [4])]
fn racing(y: &mut [f32]) {
    let i = global_id(0);
    let next = y[(i + 1) % 4];
    y[i] = next;
}

#[kernel(group = [4])]
fn divergent(y: &mut [f32]) {
    let i = global_id(0);
    if i < 2 {
        barrier();
    }
    y[i] = 1.0;
}

#[kernel(group = [1])]
fn endless(y: &mut [u32]) {
    while y[0] == 0 {
        y[1] = 1;
    }
}

#[test]
fn what_is_wrong_is_found() {
    let run = |source: &Source| {
        let mut y = [0.0f32; 4];
        source.run([1, 1, 1], &mut [(&mut y[..]).into()])
    };
    let interpreted = |source: &Source| {
        let mut y = [0.0f32; 4];
        let args = &mut [Arg::from(&mut y[..])];
        interpret(source.kernel().unwrap(), [1, 1, 1], args, Limits::default())
    };
    for result in [run(&out_of_bounds()), interpreted(&out_of_bounds())] {
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "kernel `out_of_bounds`: index 4 of `y`, which has 4 elements");
    }
    for result in [run(&divergent()), interpreted(&divergent())] {
        assert!(matches!(result, Err(KernelError::Divergent { .. })), "{result:?}");
    }
    let race = interpreted(&racing()).unwrap_err().to_string();
    assert!(race.contains("two items use element 0 of `y` without a barrier"), "{race}");
    let mut y = [0u32; 2];
    let limits = Limits { steps: 100, ..Limits::default() };
    let kernel = endless();
    let ended = interpret(kernel.kernel().unwrap(), [1, 1, 1], &mut [(&mut y[..]).into()], limits);
    assert!(matches!(ended, Err(KernelError::Steps { .. })), "{ended:?}");
}

#[test]
fn calls_are_checked() {
    let mut y = [0.0f32; 4];
    let message = |args: &mut [Arg<'_>]| saxpy().run([1, 1, 1], args).unwrap_err().to_string();
    assert_eq!(message(&mut []), "kernel `saxpy` wants 3 arguments, got 0");
    let x = [0i32; 4];
    assert_eq!(
        message(&mut [1.0f32.into(), x[..].into(), (&mut y[..]).into()]),
        "kernel `saxpy`, argument `x`: wanted memory of f32, got memory of i32 to read"
    );
    let mut args = [1.0f32.into(), Arg::from(&[0.0f32; 4][..]), Arg::from(&mut y[..])];
    let grid = saxpy().run([1 << 31, 2, 1], &mut args).unwrap_err();
    assert!(matches!(grid, KernelError::Grid { .. }), "{grid}");
    assert!(tiled::with(&[64]).unwrap_err().to_string().contains("1 to 1024"));
    assert!(tiled::with(&[]).unwrap_err().to_string().contains("wants 1 constants (T), got 0"));
}
#[test]
fn text_of_a_kernel() {
    let kernel = saxpy();
    let kernel = kernel.kernel().unwrap();
    let text = |target, checked| {
        let options = Options { checked, ..Options::default() };
        let text = emit(kernel, target, options).unwrap();
        // Without what does not depend on the kernel.
        let from = text.find("@group").or(text.find("__kernel")).or(text.find("extern")).unwrap();
        text[from..].to_string()
    };
    expect![[r#"
        @group(0) @binding(0) var<storage, read> p_x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> p_y: array<f32>;
        @group(0) @binding(2) var<uniform> h_args: array<vec4<u32>, 3>;
        fn h_i32(a: f32) -> i32 {
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
        }
        // The bits of what no literal says: infinities and NaN.
        var<private> h_zero: u32 = 0u;
        @compute @workgroup_size(4, 1, 1)
        fn k_saxpy(@builtin(local_invocation_id) h_local: vec3<u32>, @builtin(workgroup_id) h_group: vec3<u32>) {
            let v0: u32 = ((h_group.x + h_args[0].x) * 4u + h_local.x);
            if ((v0 < h_args[2].x)) {
                p_y[v0] = ((bitcast<f32>(h_args[1].z) * p_x[v0]) + p_y[v0]);
            }
        }
    "#]]
    .assert_eq(&text(Target::Wgsl, false));
    expect![[r#"
        __kernel __attribute__((reqd_work_group_size(4, 1, 1)))
        void k_saxpy(float p_a, __global const float* restrict p_x, __global float* p_y, uint h_len_x, uint h_len_y, __global volatile uint* h_faults) {
            const uint v0 = ((uint)get_group_id(0) * 4u + (uint)get_local_id(0));
            if ((v0 < h_len_y)) {
                {
                    const float h_t1 = ((p_a * p_x[h_at(h_faults, v0, h_len_x, 1u)]) + p_y[h_at(h_faults, v0, h_len_y, 2u)]);
                    const uint h_t2 = v0;
                    if (h_in(h_faults, h_t2, 1u, h_len_y, 2u)) { p_y[h_t2] = h_t1; }
                }
            }
        }
    "#]].assert_eq(&text(Target::OpenCl, true));
    expect![[r#"
        extern "C" __global__ void __launch_bounds__(4) k_saxpy(float p_a, const float* __restrict__ p_x, float* p_y, uint h_len_x, uint h_len_y) {
            const uint v0 = (blockIdx.x * 4u + threadIdx.x);
            if ((v0 < h_len_y)) {
                p_y[v0] = h_add(h_mul(p_a, p_x[v0]), p_y[v0]);
            }
        }
    "#]].assert_eq(&text(Target::Cuda, false));
}

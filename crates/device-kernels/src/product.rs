//! Kernels of products: each item has some rows and columns of the output, which may be a block of
//! columns of a `whole` one.

use hetra_kernel::kernel;

use crate::math::activate;

/// An item reads what it multiplies from memory: `M` rows and `N` columns that lie side by side.
#[kernel(group = [X, Y])]
pub(crate) fn product<const M: usize, const N: usize, const X: usize, const Y: usize>(
    m: u32,
    n: u32,
    k: u32,
    products: u32,
    steps: u32,
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    inner: u32,
    a_inner: u32,
    b_inner: u32,
    a_outer: u32,
    b_outer: u32,
    alpha: f32,
    beta: f32,
    c_row: u32,
    c_col: u32,
    whole: u32,
    from_column: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    y: &mut [f32],
) {
    let column = global_id(0) * N;
    let row = global_id(1) * M;
    let batch = global_id(2) % products;
    // The part of the sums.
    let first = ((global_id(2) / products) * steps).min(k);
    let last = (first + steps).min(k);
    if row >= m || column >= n {
        return;
    }
    let a_batch = (batch / inner) * a_outer + (batch % inner) * a_inner;
    let b_batch = (batch / inner) * b_outer + (batch % inner) * b_inner;
    let mut a_at = [0u32; M];
    let mut b_at = [0u32; N];
    for i in 0..M {
        // What is beyond the last row or column is computed and not stored.
        a_at[i] = a_batch + (row + i).min(m - 1) * a_row;
    }
    for j in 0..N {
        b_at[j] = b_batch + (column + j).min(n - 1) * b_col;
    }
    let mut sums = [[0.0; N]; M];
    let mut left = [0.0; M];
    for p in first..last {
        for i in 0..M {
            left[i] = a[a_at[i] + p * a_col];
        }
        for j in 0..N {
            let right = b[b_at[j] + p * b_row];
            for i in 0..M {
                sums[i][j] += left[i] * right;
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            if row + i < m && column + j < n {
                let mut sum = alpha * sums[i][j];
                if beta != 0.0 {
                    sum += beta * c[(row + i) * c_row + (from_column + column + j) * c_col];
                }
                y[(global_id(2) * m + row + i) * whole + from_column + column + j] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

/// The items of a group read what they multiply from memory that they share, `DEPTH` steps at a
/// time, and load what comes next before they multiply. `ROWS` and `COLUMNS` are those of a group,
/// of which an item loads `LEFT` and `RIGHT` elements at a time. Where steps along the sum lie side
/// by side in memory (`A_DEEP`, `B_DEEP`), items that are neighbours load them.
#[kernel(group = [G, G])]
pub(crate) fn product_shared<
    const M: usize,
    const N: usize,
    const G: usize,
    const ROWS: usize,
    const COLUMNS: usize,
    const DEPTH: usize,
    const BOTH: usize,
    const LEFT: usize,
    const RIGHT: usize,
    const ROW: usize,
    const COLUMN: usize,
    const A_DEEP: usize,
    const B_DEEP: usize,
>(
    m: u32,
    n: u32,
    k: u32,
    products: u32,
    steps: u32,
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    inner: u32,
    a_inner: u32,
    b_inner: u32,
    a_outer: u32,
    b_outer: u32,
    alpha: f32,
    beta: f32,
    c_row: u32,
    c_col: u32,
    whole: u32,
    from_column: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    y: &mut [f32],
) {
    // Of a deep operand one element more than there are: else items that store a column wait for
    // each other.
    let tile_a = shared::<[[f32; ROW]; BOTH]>();
    let tile_b = shared::<[[f32; COLUMN]; BOTH]>();
    let x = local_id(0);
    let z = local_id(1);
    let item = z * G + x;
    let first_column = group_id(0) * COLUMNS;
    let first_row = group_id(1) * ROWS;
    let batch = group_id(2) % products;
    let first = ((group_id(2) / products) * steps).min(k);
    let last = (first + steps).min(k);
    let turns = (last - first + DEPTH - 1) / DEPTH;
    let a_batch = (batch / inner) * a_outer + (batch % inner) * a_inner;
    let b_batch = (batch / inner) * b_outer + (batch % inner) * b_inner;
    let mut sums = [[0.0; N]; M];
    let mut left = [0.0; M];
    let mut next_a = [0.0; LEFT];
    let mut next_b = [0.0; RIGHT];
    for turn in 0..turns + 1 {
        let from = first + turn * DEPTH;
        for i in 0..LEFT {
            let e = item + i * (G * G);
            let p = if A_DEEP == 1 { e % DEPTH } else { e / ROWS };
            let line = if A_DEEP == 1 { e / DEPTH } else { e % ROWS };
            let row = first_row + line;
            let mut value = 0.0;
            if row < m && from + p < last {
                value = a[a_batch + row * a_row + (from + p) * a_col];
            }
            next_a[i] = value;
        }
        for i in 0..RIGHT {
            let e = item + i * (G * G);
            let p = if B_DEEP == 1 { e % DEPTH } else { e / COLUMNS };
            let line = if B_DEEP == 1 { e / DEPTH } else { e % COLUMNS };
            let column = first_column + line;
            let mut value = 0.0;
            if column < n && from + p < last {
                value = b[b_batch + (from + p) * b_row + column * b_col];
            }
            next_b[i] = value;
        }
        if turn > 0 {
            let now = ((turn - 1) % 2) * DEPTH;
            for p in 0..DEPTH {
                for i in 0..M {
                    left[i] = tile_a[now + p][z * M + i];
                }
                for j in 0..N {
                    let right = tile_b[now + p][x + j * G];
                    for i in 0..M {
                        sums[i][j] += left[i] * right;
                    }
                }
            }
        }
        let then = (turn % 2) * DEPTH;
        for i in 0..LEFT {
            let e = item + i * (G * G);
            let p = if A_DEEP == 1 { e % DEPTH } else { e / ROWS };
            let line = if A_DEEP == 1 { e / DEPTH } else { e % ROWS };
            tile_a[then + p][line] = next_a[i];
        }
        for i in 0..RIGHT {
            let e = item + i * (G * G);
            let p = if B_DEEP == 1 { e % DEPTH } else { e / COLUMNS };
            let line = if B_DEEP == 1 { e / DEPTH } else { e % COLUMNS };
            tile_b[then + p][line] = next_b[i];
        }
        barrier();
    }
    for i in 0..M {
        for j in 0..N {
            let row = first_row + z * M + i;
            let column = first_column + x + j * G;
            if row < m && column < n {
                let mut sum = alpha * sums[i][j];
                if beta != 0.0 {
                    sum += beta * c[row * c_row + (from_column + column) * c_col];
                }
                y[(group_id(2) * m + row) * whole + from_column + column] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

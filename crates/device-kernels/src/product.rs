//! Kernels of products: each item has some rows and columns of the output, which may be a block of
//! columns of a `whole` one.

use hetra_kernel::kernel;

use crate::math::activate;

/// An item reads what it multiplies from memory: `M` rows and `N` columns that lie side by side.
#[kernel(group = [G, G])]
pub(crate) fn product<const M: usize, const N: usize, const G: usize>(
    m: u32,
    n: u32,
    k: u32,
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
    let batch = global_id(2);
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
    for p in 0..k {
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
                y[(batch * m + row + i) * whole + from_column + column + j] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

/// The items of a group read what they multiply from memory that they share, 16 steps at a time.
/// `ROWS` and `COLUMNS` are those of a group.
#[kernel(group = [G, G])]
pub(crate) fn product_shared<
    const M: usize,
    const N: usize,
    const G: usize,
    const ROWS: usize,
    const COLUMNS: usize,
>(
    m: u32,
    n: u32,
    k: u32,
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
    let tile_a = shared::<[[f32; ROWS]; 16]>();
    let tile_b = shared::<[[f32; COLUMNS]; 16]>();
    let x = local_id(0);
    let z = local_id(1);
    let item = z * G + x;
    let first_column = group_id(0) * COLUMNS;
    let first_row = group_id(1) * ROWS;
    let batch = group_id(2);
    let a_batch = (batch / inner) * a_outer + (batch % inner) * a_inner;
    let b_batch = (batch / inner) * b_outer + (batch % inner) * b_inner;
    let mut sums = [[0.0; N]; M];
    let mut left = [0.0; M];
    for from in (0..k).step_by(16) {
        for e in (item..ROWS * 16).step_by(G * G) {
            let p = e % 16;
            let row = first_row + e / 16;
            let mut value = 0.0;
            if row < m && from + p < k {
                value = a[a_batch + row * a_row + (from + p) * a_col];
            }
            tile_a[p][e / 16] = value;
        }
        for e in (item..COLUMNS * 16).step_by(G * G) {
            let p = e / COLUMNS;
            let column = first_column + e % COLUMNS;
            let mut value = 0.0;
            if column < n && from + p < k {
                value = b[b_batch + (from + p) * b_row + column * b_col];
            }
            tile_b[p][e % COLUMNS] = value;
        }
        barrier();
        for p in 0..16 {
            for i in 0..M {
                left[i] = tile_a[p][z * M + i];
            }
            for j in 0..N {
                let right = tile_b[p][x + j * G];
                for i in 0..M {
                    sums[i][j] += left[i] * right;
                }
            }
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
                y[(batch * m + row) * whole + from_column + column] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

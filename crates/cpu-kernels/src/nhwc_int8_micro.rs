//! The register kernel of 8-bit convolutions with channels last: a block of `MR` pixels by one or
//! two vectors of output channels, which stays in registers over all taps and input channels.
//!
//! A step takes four neighbouring input channels of a pixel, as they lie, to all lanes; the weights
//! have the same four channels of each output channel in a lane. Where the instruction set
//! multiplies 16-bit numbers only, the four are taken apart into two pairs.

use hetra_cpu_base::isa::Kernel;
use hetra_cpu_base::simd::Simd;

/// One call of the register kernel. The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct ByteTile {
    /// Read: `taps` steps of `mr` offsets: of a pixel in `x` or, less `len`, in `edge`.
    pub(crate) table: *const usize,
    /// Read: `4 * quads` bytes from `first` on behind each offset of the table.
    pub(crate) x: *const u8,
    pub(crate) len: usize,
    pub(crate) edge: *const u8,
    /// First channel that is read.
    pub(crate) first: usize,
    /// Steps of four channels for each tap.
    pub(crate) quads: usize,
    pub(crate) taps: usize,
    /// How often all taps are summed, with other weights.
    pub(crate) parts: usize,
    /// Read: `parts * taps * quads` steps of `halves` times two vectors.
    pub(crate) b: *const i32,
    /// Pixels, at least 1.
    pub(crate) mr: usize,
    /// Output channels of the panel that exist: at least 1, at most two vectors.
    pub(crate) nv: usize,
    /// Read: two vectors, added to the sums of the output channels.
    pub(crate) fixed: *const i32,
    /// Read: two vectors, factors of the output channels.
    pub(crate) scale: *const f32,
    /// Output, written: `mr` rows of `nv` bytes, `ldc` apart. No other thread uses them.
    pub(crate) c: *mut u8,
    pub(crate) ldc: usize,
    pub(crate) end: CodeEnd,
}

/// How scaled sums become codes.
#[derive(Clone, Copy)]
pub(crate) struct CodeEnd {
    /// Zero point of unsigned codes.
    pub(crate) zero: i32,
    /// Bits of four bytes that are turned afterwards: the highest ones for signed codes.
    pub(crate) flip: i32,
}

impl CodeEnd {
    /// For codes with this zero point.
    pub(crate) fn new(zero: i32, signed: bool) -> Self {
        let (above, flip) = if signed { (128, 0x80) } else { (0, 0) };
        CodeEnd { zero: zero + above, flip: i32::from_le_bytes([flip; 4]) }
    }

    /// `saturate(round(sum * scale) + zero)` of four vectors, in the order of `to_bytes`. Rounded
    /// before the zero point is added, ties to even.
    #[inline(always)]
    pub(crate) fn codes<S: Simd>(&self, s: S, sums: [S::I; 4], scale: [S::F; 4]) -> S::I {
        // A larger number would be converted to the least one.
        let top = s.splat(32_767.0);
        let mut v = sums;
        for r in 0..4 {
            v[r] = s.to_int(s.min(s.mul(s.to_float(v[r]), scale[r]), top));
        }
        s.ixor(s.to_bytes(v, self.zero), s.isplat(self.flip))
    }
}

/// Vectors that stand for a vector of four bytes in each lane.
pub(crate) const fn halves(kg: usize) -> usize {
    4 / kg
}

/// Four weights as the lanes that meet four bytes; of these, `halves` count.
pub(crate) fn lanes_of(kg: usize, v: [i16; 4]) -> [i32; 2] {
    let pair = |low: i16, high: i16| i32::from(low as u16) | (i32::from(high) << 16);
    match kg {
        4 => [i32::from_le_bytes(v.map(|w| w as u8)), 0],
        _ => [pair(v[0], v[2]), pair(v[1], v[3])],
    }
}

/// Four bytes in each lane, as `dot` takes them.
#[inline(always)]
pub(crate) fn split<S: Simd>(s: S, v: S::I) -> [S::I; 2] {
    if S::KG == 4 {
        return [v, v];
    }
    let even = s.isplat(0x00ff_00ff);
    [s.iand(v, even), s.iand(s.sar::<8>(v), even)]
}

/// `c` + the dot product of four bytes and four weights in each lane.
#[inline(always)]
pub(crate) fn dot4<S: Simd>(s: S, a: [S::I; 2], b: [S::I; 2], c: S::I) -> S::I {
    let c = s.dot(a[0], b[0], c);
    if S::KG == 4 { c } else { s.dot(a[1], b[1], c) }
}

/// Where channel `j` of a panel with `nv` channels stands in two vectors of lanes: as `to_bytes`
/// wants them of a pair of pixels or, if one vector is enough, of four.
pub(crate) fn place(j: usize, nv: usize, lanes: usize) -> usize {
    if nv <= lanes { j } else { j % 8 / 4 * lanes + j / 8 * 4 + j % 4 }
}

/// # Safety
/// The pointers of `t` must cover the sizes that `ByteTile` states, and `t.mr == MR`.
#[inline(always)]
unsafe fn micro<S: Simd, const MR: usize, const NV: usize>(s: S, t: &ByteTile) {
    if MR > S::MR {
        return; // Never asked for; keeps the compiler from building it.
    }
    let mut acc = [[s.isplat(0); NV]; MR];
    let step = 2 * S::LANES;
    let mut b = t.b;
    // SAFETY: the table has `taps` steps of `MR` offsets, behind each of which `first` and four
    // times `quads` bytes lie; the weights have `parts * taps * quads` steps of `halves` times two
    // vectors, and `NV` is at most 2. That is how often and how far they are read, and `fixed` has
    // two vectors. For `store`: as the caller promises.
    unsafe {
        for j in 0..NV {
            let fixed = s.iload(t.fixed.add(j * S::LANES));
            acc.iter_mut().for_each(|row| row[j] = fixed);
        }
        for _ in 0..t.parts {
            let mut table = t.table;
            for _ in 0..t.taps {
                let mut pixel = [t.x; MR];
                for (i, pixel) in pixel.iter_mut().enumerate() {
                    let at = *table.add(i);
                    *pixel = if at < t.len { t.x.add(at) } else { t.edge.add(at - t.len) };
                    *pixel = pixel.add(t.first);
                }
                table = table.add(MR);
                for q in 0..t.quads {
                    let mut bv = [[s.isplat(0); 2]; NV];
                    for (j, v) in bv.iter_mut().enumerate() {
                        v[0] = s.iload(b.add(j * S::LANES));
                        if S::KG == 2 {
                            v[1] = s.iload(b.add(step + j * S::LANES));
                        }
                    }
                    for (row, pixel) in acc.iter_mut().zip(&pixel) {
                        let four = pixel.add(4 * q).cast::<i32>().read_unaligned();
                        let a = split(s, s.isplat(four));
                        for j in 0..NV {
                            row[j] = dot4(s, a, bv[j], row[j]);
                        }
                    }
                    b = b.add(halves(S::KG) * step);
                }
            }
        }
        store(s, t, &acc);
    }
}

/// # Safety
/// As `micro`.
#[inline(always)]
unsafe fn store<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    t: &ByteTile,
    acc: &[[S::I; NV]; MR],
) {
    let last = MR - 1;
    // SAFETY: rows up to `MR`, `nv` bytes of each; `scale` has two vectors. Where rows are left
    // over, the last one is written again.
    unsafe {
        let row = |i: usize| t.c.add(i.min(last) * t.ldc);
        let low = s.load(t.scale);
        if NV == 2 {
            let high = s.load(t.scale.add(S::LANES));
            for i in (0..MR).step_by(2) {
                let (one, two) = (&acc[i], &acc[(i + 1).min(last)]);
                let sums = [one[0], one[NV - 1], two[0], two[NV - 1]];
                let codes = t.end.codes(s, sums, [low, high, low, high]);
                s.store_pair([row(i), row(i + 1)], codes, t.nv);
            }
        } else {
            for i in (0..MR).step_by(4) {
                // Not by `map`, which is not inlined: vectors would go through memory.
                let at = [i, (i + 1).min(last), (i + 2).min(last), (i + 3).min(last)];
                let sums = [acc[at[0]][0], acc[at[1]][0], acc[at[2]][0], acc[at[3]][0]];
                let codes = t.end.codes(s, sums, [low; 4]);
                s.store_quad([row(i), row(i + 1), row(i + 2), row(i + 3)], codes, t.nv);
            }
        }
    }
}

/// A register kernel as a function of its own, as for f32.
struct Call<'a, const MR: usize, const NV: usize>(&'a ByteTile);

impl<const MR: usize, const NV: usize> Kernel for Call<'_, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Call` is made by `call` only, which has the same contract.
        unsafe { micro::<S, MR, NV>(s, self.0) }
    }
}

/// # Safety
/// As `micro`.
#[inline(always)]
unsafe fn call<S: Simd, const MR: usize, const NV: usize>(t: &ByteTile) {
    if MR <= S::MR {
        S::ISA.dispatch(Call::<MR, NV>(t));
    }
}

/// Runs the register kernel of the right height and width.
/// # Safety
/// As `micro`; `t.mr <= S::MR`.
#[inline(always)]
pub(crate) unsafe fn byte_tile<S: Simd>(t: &ByteTile) {
    macro_rules! heights {
        ($nv:literal: $($m:literal)+) => {
            match t.mr {
                // SAFETY: passed on to the caller.
                $($m => unsafe { call::<S, $m, $nv>(t) },)+
                _ => unreachable!("more pixels than the register block has rows"),
            }
        };
    }
    if t.nv <= S::LANES {
        heights!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        heights!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_cpu_base::isa::Isa;

    struct Orders;
    impl Kernel for Orders {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let n = 4 * S::LANES;
            let bytes: Vec<u8> = (0..4 * n).map(|i| (i * 37 % 251) as u8).collect();
            // SAFETY: the rows have `n` bytes each, and the outputs what is written to them.
            unsafe {
                let rows = [0, 1, 2, 3].map(|q| s.load_bytes(bytes[q * n..].as_ptr(), n));
                let lanes = s.unpack4(rows).map(|v| {
                    let mut lanes = [0; 16];
                    s.istore(lanes.as_mut_ptr(), v);
                    lanes
                });
                for at in 0..n {
                    let lane = lanes[at % 16 / 4][at / 16 * 4 + at % 4].to_le_bytes();
                    assert_eq!(lane, [0, 1, 2, 3].map(|q| bytes[q * n + at]));
                }
                // What `place` says of two rows and of four.
                for len in [1, 3, S::LANES, 2 * S::LANES - 1, 2 * S::LANES] {
                    let mut sums = [[0i32; 32]; 4];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for j in 0..len {
                            sums[place(j, len, S::LANES)] = (row * 40 + j) as i32 - 20;
                        }
                    }
                    let at = |row: usize, v: usize| s.iload(sums[row][v * S::LANES..].as_ptr());
                    let mut out = [[9u8; 40]; 4];
                    let p = out.each_mut().map(|row| row.as_mut_ptr());
                    let wide = len > S::LANES;
                    if wide {
                        let v = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
                        s.store_pair([p[0], p[1]], s.to_bytes(v, 7), len);
                    } else {
                        let v = [at(0, 0), at(1, 0), at(2, 0), at(3, 0)];
                        s.store_quad(p, s.to_bytes(v, 7), len);
                    }
                    for (row, out) in out.iter().enumerate().take(if wide { 2 } else { 4 }) {
                        for (j, code) in out.iter().enumerate() {
                            let want = (row * 40 + j) as i32 - 13;
                            let want = if j < len { want.max(0) as u8 } else { 9 };
                            assert_eq!(*code, want, "row {row} of {len}, {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_go_where_it_is_said() {
        for isa in Isa::available() {
            isa.dispatch(Orders);
        }
    }

    struct Rounds;
    impl Kernel for Rounds {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let cases: [(i32, f32); 9] = [
                (5, 0.5),
                (7, 0.5),
                (-5, 0.5),
                (i32::MAX, 1.0),
                (i32::MIN, 1.0),
                (300, 1e6),
                (-300, 1e6),
                (1 << 20, 1e-4),
                (0, 1.0),
            ];
            for (zero, signed) in [(0, false), (3, false), (255, false), (-128, true), (5, true)] {
                for (sum, scale) in cases {
                    let end = CodeEnd::new(zero, signed);
                    let codes = end.codes(s, [s.isplat(sum); 4], [s.splat(scale); 4]);
                    let mut got = [0u8; 64];
                    // SAFETY: a vector has at most 64 bytes.
                    unsafe { s.store_bytes(got.as_mut_ptr(), codes, 4 * S::LANES) };
                    let v = (sum as f32 * scale).round_ties_even() + zero as f32;
                    let want = match signed {
                        true => v.clamp(-128.0, 127.0) as i8 as u8,
                        false => v.clamp(0.0, 255.0) as u8,
                    };
                    assert!(got[..4 * S::LANES].iter().all(|&code| code == want), "{sum} {scale}");
                }
            }
        }
    }

    #[test]
    fn codes_are_rounded_and_saturated() {
        for isa in Isa::available() {
            isa.dispatch(Rounds);
        }
    }
}

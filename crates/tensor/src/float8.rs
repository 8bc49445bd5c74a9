//! Floats of 8 and 4 bits: the codes of the ONNX `Cast` tables.
//!
//! Every format but E8M0 is one [`Format`] row: the sign bit, then exponent and mantissa read
//! as one integer that grows with the value, so that rounding may carry into the exponent and
//! overflow is a comparison with the largest finite code. E8M0 is a bare exponent.

use crate::cast::Rounding;
use crate::dtype::DType;

/// How one format lays out its bits; `max`, `over` and `nan` are codes without the sign bit,
/// except that in the "UZ" formats NaN is the code that would be minus zero.
struct Format {
    mantissa_bits: u32,
    bias: i32,
    sign: u8,
    /// The largest finite value.
    max: u8,
    /// What a value over `max` becomes when it does not saturate.
    over: u8,
    nan: u8,
    /// No minus zero, one NaN.
    unsigned_zero: bool,
}

const fn format(
    mantissa_bits: u32,
    bias: i32,
    sign: u8,
    [max, over, nan]: [u8; 3],
    unsigned_zero: bool,
) -> Format {
    Format { mantissa_bits, bias, sign, max, over, nan, unsigned_zero }
}

static E4M3FN: Format = format(3, 7, 0x80, [0x7e, 0x7f, 0x7f], false);
static E4M3FNUZ: Format = format(3, 8, 0x80, [0x7f, 0x80, 0x80], true);
static E5M2: Format = format(2, 15, 0x80, [0x7b, 0x7c, 0x7e], false);
static E5M2FNUZ: Format = format(2, 16, 0x80, [0x7f, 0x80, 0x80], true);
/// Has neither infinities nor NaN and always saturates; NaN becomes a zero (see `Format::encode`).
static E2M1: Format = format(1, 1, 0x08, [0x07, 0x07, 0x08], false);

const E8M0_MAX: u8 = 0xfe;
const E8M0_NAN: u8 = 0xff;
const E8M0_BIAS: i32 = 127;

/// The row of a narrow float; `None` for E8M0.
fn format_of(dtype: DType) -> Option<&'static Format> {
    match dtype {
        DType::F8E4M3FN => Some(&E4M3FN),
        DType::F8E4M3FNUZ => Some(&E4M3FNUZ),
        DType::F8E5M2 => Some(&E5M2),
        DType::F8E5M2FNUZ => Some(&E5M2FNUZ),
        DType::F4E2M1 => Some(&E2M1),
        DType::F8E8M0 => None,
        _ => panic!("{dtype} is not a float of 8 bits or less"),
    }
}

/// The value of a code of a float of 8 or 4 bits (a 4-bit code stands in the low bits).
///
/// # Panics
/// When `dtype` is not such a float.
pub fn decode_narrow(dtype: DType, bits: u8) -> f32 {
    match format_of(dtype) {
        Some(format) => format.decode(bits),
        None if bits == E8M0_NAN => f32::NAN,
        None => power_of_two(i32::from(bits) - E8M0_BIAS) as f32,
    }
}

/// The code of the value nearest to `value`, ties to even, as ONNX `Cast` has it.
///
/// `saturate` sends infinities and values out of range to the largest finite value, else they
/// become an infinity or NaN; F4E2M1 has neither and always saturates. Only F8E8M0 reads
/// `rounding`: it holds powers of two, takes the magnitude of a negative value, breaks the ties
/// of `NearestEven` upwards (as the ONNX reference does), and without `saturate` makes every
/// value outside its range NaN, 0 among them.
///
/// # Panics
/// When `dtype` is not a float of 8 bits or less.
pub fn encode_narrow(dtype: DType, value: f32, saturate: bool, rounding: Rounding) -> u8 {
    match format_of(dtype) {
        Some(format) => format.encode(value, saturate),
        None => encode_e8m0(value, saturate, rounding),
    }
}

impl Format {
    fn decode(&self, bits: u8) -> f32 {
        let magnitude = bits & (self.sign - 1);
        let is_nan = if self.unsigned_zero { bits == self.nan } else { magnitude > self.over };
        let is_over = magnitude > self.max;
        let size = if is_nan || (is_over && self.over == self.nan) {
            f64::NAN
        } else if is_over {
            f64::INFINITY
        } else {
            let exponent = i32::from(magnitude >> self.mantissa_bits);
            let fraction = magnitude & ((1 << self.mantissa_bits) - 1);
            let lead = u8::from(exponent > 0) << self.mantissa_bits;
            f64::from(lead + fraction)
                * power_of_two(exponent.max(1) - self.bias - self.mantissa_bits as i32)
        };
        // Exact: every value here has at most 4 significant bits and a small exponent.
        let size = size as f32;
        if bits & self.sign != 0 { -size } else { size }
    }

    fn encode(&self, value: f32, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign } else { 0 };
        if value.is_nan() {
            // The xor is for E2M1, whose "NaN" is minus zero: the reference flips the sign of zero.
            return if self.unsigned_zero { self.nan } else { self.nan ^ sign };
        }
        let size = f64::from(value.abs());
        let magnitude = self.round(size);
        if magnitude > u64::from(self.max) {
            return match saturate {
                true => self.max | sign,
                false => self.over | sign,
            };
        }
        let code = magnitude as u8;
        if code == 0 && self.unsigned_zero { 0 } else { code | sign }
    }

    /// The code of a size, ties to even, as if the format went on above `max`.
    fn round(&self, size: f64) -> u64 {
        if size.is_infinite() {
            return u64::MAX;
        }
        // Below the smallest normal number the step between codes stays the same.
        let exponent = exponent_of(size).max(1 - self.bias);
        // A scaling by a power of two is exact in f64 for every f32.
        let steps = size * power_of_two(self.mantissa_bits as i32 - exponent);
        let base = ((exponent + self.bias - 1) as u64) << self.mantissa_bits;
        base + steps.round_ties_even() as u64
    }
}

fn encode_e8m0(value: f32, saturate: bool, rounding: Rounding) -> u8 {
    if value.is_nan() {
        return E8M0_NAN;
    }
    let size = f64::from(value.abs());
    let (low, high) = (power_of_two(-E8M0_BIAS), power_of_two(E8M0_BIAS));
    if !saturate && !(low..=high).contains(&size) {
        return E8M0_NAN;
    }
    if size >= high {
        return E8M0_MAX;
    }
    if size <= low {
        return 0;
    }
    let exponent = exponent_of(size);
    let fraction = size * power_of_two(-exponent);
    let up = match rounding {
        Rounding::Up => fraction > 1.0,
        Rounding::NearestEven => fraction >= 1.5,
        Rounding::Down => false,
    };
    (exponent + E8M0_BIAS + i32::from(up)) as u8
}

/// The exponent of a normal f64 (every f32 but 0 is one); very small for 0.
fn exponent_of(size: f64) -> i32 {
    (size.to_bits() >> 52) as i32 - 1023
}

/// 2 to the `exponent`, which must be a normal f64.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: [DType; 5] =
        [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1];

    fn codes(dtype: DType) -> impl Iterator<Item = u8> {
        0..=if dtype == DType::F4E2M1 { 0x0f } else { 0xff }
    }

    fn encode(dtype: DType, value: f32, saturate: bool) -> u8 {
        encode_narrow(dtype, value, saturate, Rounding::NearestEven)
    }

    #[test]
    fn decode_then_encode_is_the_identity() {
        for dtype in SIGNED.into_iter().chain([DType::F8E8M0]) {
            for code in codes(dtype) {
                let value = decode_narrow(dtype, code);
                for rounding in [Rounding::NearestEven, Rounding::Up, Rounding::Down] {
                    let back = encode_narrow(dtype, value, false, rounding);
                    if value.is_nan() {
                        assert!(decode_narrow(dtype, back).is_nan(), "{dtype} {code:#x}");
                    } else {
                        assert_eq!(back, code, "{dtype} {code:#x} {value}");
                    }
                }
            }
        }
    }

    /// Nearest by search over all codes; of two equally near, the even code.
    fn nearest(dtype: DType, value: f32) -> u8 {
        let distance = |code: u8| (f64::from(decode_narrow(dtype, code)) - f64::from(value)).abs();
        codes(dtype)
            .filter(|&code| decode_narrow(dtype, code).is_finite())
            .filter(|&code| decode_narrow(dtype, code).is_sign_negative() == (value < 0.0))
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
            .unwrap()
    }

    #[test]
    fn encode_is_nearest_even() {
        for dtype in SIGNED {
            let values: Vec<f32> =
                codes(dtype).map(|c| decode_narrow(dtype, c)).filter(|v| *v >= 0.0).collect();
            let finite: Vec<f32> = values.into_iter().filter(|v| v.is_finite()).collect();
            for (&a, &b) in finite.iter().zip(&finite[1..]) {
                let middle = (a + b) / 2.0;
                for value in [middle, middle.next_down(), middle.next_up(), a * 0.7 + b * 0.3] {
                    for value in [value, -value] {
                        let want = match nearest(dtype, value) {
                            0x80 if dtype.name().ends_with("uz") => 0,
                            code => code,
                        };
                        let got = encode(dtype, value, true);
                        // A "UZ" format has no minus zero for the search to find.
                        let zero = decode_narrow(dtype, got) == 0.0;
                        let small = zero && value.abs() <= finite[1] / 2.0;
                        assert!(got == want || small, "{dtype} {value:e}: {got:#x} {want:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn special_values_follow_the_onnx_tables() {
        let check = |value: f32, saturate: bool, wanted: [u8; 5]| {
            let got = SIGNED.map(|dtype| encode(dtype, value, saturate));
            assert_eq!(got, wanted, "{value} {saturate}");
        };
        let nan = f32::NAN.copysign(1.0);
        for saturate in [true, false] {
            check(0.0, saturate, [0; 5]);
            check(-0.0, saturate, [0x80, 0, 0x80, 0, 0x08]);
            check(-1e-9, saturate, [0x80, 0, 0x80, 0, 0x08]);
            check(nan, saturate, [0x7f, 0x80, 0x7e, 0x80, 0x08]);
            check(-nan, saturate, [0xff, 0x80, 0xfe, 0x80, 0x00]);
        }
        for big in [f32::INFINITY, 1e9] {
            check(big, true, [0x7e, 0x7f, 0x7b, 0x7f, 0x07]);
            check(-big, true, [0xfe, 0xff, 0xfb, 0xff, 0x0f]);
            check(big, false, [0x7f, 0x80, 0x7c, 0x80, 0x07]);
            check(-big, false, [0xff, 0x80, 0xfc, 0x80, 0x0f]);
        }
        // Overflow is judged after rounding.
        assert_eq!(encode(DType::F8E4M3FN, 464.0, false), 0x7e);
        assert_eq!(encode(DType::F8E4M3FN, 465.0, false), 0x7f);
        assert_eq!(encode(DType::F8E5M2, 61439.0, false), 0x7b);
        assert_eq!(encode(DType::F8E5M2, 61440.0, false), 0x7c);
        assert_eq!(encode(DType::F8E4M3FNUZ, 247.9, false), 0x7f);
        assert_eq!(encode(DType::F8E4M3FNUZ, 248.0, false), 0x80);
    }

    #[test]
    fn known_values() {
        assert_eq!(decode_narrow(DType::F8E4M3FN, 0x7e), 448.0);
        assert_eq!(decode_narrow(DType::F8E4M3FNUZ, 0x7f), 240.0);
        assert_eq!(decode_narrow(DType::F8E5M2, 0x7b), 57344.0);
        assert_eq!(decode_narrow(DType::F8E5M2, 0xfc), f32::NEG_INFINITY);
        assert_eq!(decode_narrow(DType::F8E5M2FNUZ, 0x01), 2f32.powi(-17));
        assert_eq!(decode_narrow(DType::F8E8M0, 0), 2f32.powi(-127));
        let fours: Vec<f32> = (0..8).map(|code| decode_narrow(DType::F4E2M1, code)).collect();
        assert_eq!(fours, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn e8m0_rounds_as_asked() {
        let check = |value: f32, wanted: [u8; 3], loose: [u8; 3]| {
            let modes = [Rounding::Up, Rounding::Down, Rounding::NearestEven];
            let e8m0 = |saturate| modes.map(|m| encode_narrow(DType::F8E8M0, value, saturate, m));
            assert_eq!(e8m0(true), wanted, "{value}");
            assert_eq!(e8m0(false), loose, "{value}");
        };
        check(1.0, [127; 3], [127; 3]);
        check(1.4, [128, 127, 127], [128, 127, 127]);
        check(1.5, [128, 127, 128], [128, 127, 128]);
        check(f32::NAN, [0xff; 3], [0xff; 3]);
        check(f32::INFINITY, [0xfe; 3], [0xff; 3]);
        check(3e38, [0xfe; 3], [0xff; 3]);
        check(0.0, [0; 3], [0xff; 3]);
        check(1e-45, [0; 3], [0xff; 3]);
        check(2f32.powi(-127) * 1.25, [1, 0, 0], [1, 0, 0]);
    }

    #[test]
    fn e8m0_nearest_is_nearest() {
        for code in 0..E8M0_MAX {
            let (low, high) =
                (decode_narrow(DType::F8E8M0, code), decode_narrow(DType::F8E8M0, code + 1));
            for share in [0.0, 0.2, 0.49, 0.5, 0.51, 0.9] {
                let value = low + (high - low) * share;
                let wanted = code + u8::from(high - value <= value - low);
                assert_eq!(encode(DType::F8E8M0, value, false), wanted, "{value:e}");
            }
        }
    }
}

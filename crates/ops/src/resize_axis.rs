//! One axis of a resize: where output places lie in the input, and the weights around them.

use hetra_ir::Attrs;

use crate::error::OpError;
use crate::pick::OUTSIDE;

/// How output places map to input coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNearest,
    TfCropAndResize,
}

impl Coordinates {
    pub(crate) fn of(attrs: &Attrs) -> Result<Coordinates, OpError> {
        Ok(match attrs.str_or("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
            "tf_crop_and_resize" => Coordinates::TfCropAndResize,
            other => {
                let text = format!("`coordinate_transformation_mode` is `{other}`");
                return Err(OpError::invalid(text));
            }
        })
    }
}

/// How the nearest mode rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

impl Nearest {
    pub(crate) fn of(attrs: &Attrs) -> Result<Nearest, OpError> {
        Ok(match attrs.str_or("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" => Nearest::RoundPreferFloor,
            "round_prefer_ceil" => Nearest::RoundPreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(OpError::invalid(format!("`nearest_mode` is `{other}`"))),
        })
    }

    fn round(self, at: f64) -> f64 {
        match self {
            Nearest::RoundPreferFloor => (at - 0.5).ceil(),
            Nearest::RoundPreferCeil => (at + 0.5).floor(),
            Nearest::Floor => at.floor(),
            Nearest::Ceil => at.ceil(),
        }
    }
}

/// The kernel of an interpolation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Filter {
    Linear,
    /// With the coefficient `a`.
    Cubic(f64),
}

impl Filter {
    /// Beyond this distance the weight is 0.
    fn support(self) -> f64 {
        match self {
            Filter::Linear => 1.0,
            Filter::Cubic(_) => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Filter::Linear => (1.0 - x).max(0.0),
            Filter::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Filter::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Filter::Cubic(_) => 0.0,
        }
    }
}

/// Extents, scale and region of interest (as fractions) of an axis; neither extent is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) scale: f64,
    pub(crate) roi: (f64, f64),
}

impl Axis {
    /// Where output place `at` lies in the input; `None` outside the region of interest's input.
    fn coordinate(&self, at: usize, coordinates: Coordinates) -> Option<f64> {
        let (at, input) = (at as f64, self.input as f64);
        // The exact extent, which rounding down may have made smaller.
        let exact = self.scale * input;
        let half = (at + 0.5) / self.scale - 0.5;
        Some(match coordinates {
            Coordinates::HalfPixel => half,
            Coordinates::HalfPixelSymmetric => {
                half + input / 2.0 * (1.0 - self.output as f64 / exact)
            }
            Coordinates::PytorchHalfPixel if self.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => half,
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => at * (input - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => at / self.scale,
            Coordinates::TfHalfPixelForNearest => (at + 0.5) / self.scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = self.roi;
                let last = input - 1.0;
                let offset = match exact == 1.0 {
                    true => (end - start) * last / 2.0,
                    false => at * (end - start) * last / (exact - 1.0),
                };
                let place = start * last + offset;
                return (0.0..=last).contains(&place).then_some(place);
            }
        })
    }

    /// The nearest input place of each output place.
    pub(crate) fn nearest(&self, coordinates: Coordinates, nearest: Nearest) -> Vec<usize> {
        let last = self.input - 1;
        let place = |at| match self.coordinate(at, coordinates) {
            // Scales are of f32: what is a tie in f32 was meant to be one. A cast saturates, also a
            // NaN to 0.
            Some(place) => (nearest.round(f64::from(place as f32)) as usize).min(last),
            None => OUTSIDE,
        };
        (0..self.output).map(place).collect()
    }
}

/// Less is no weight but the rounding of a coordinate that was meant to be a place.
const WEIGHT_MIN: f64 = 1e-12;

/// For each output place the input places with their weights; none where it is outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Taps {
    /// One row for each output place; a weight of 0 only where all are.
    pub rows: Vec<Vec<(usize, f64)>>,
}

impl Taps {
    /// `antialias` stretches the filter when the axis shrinks; `exclude` drops places that are
    /// not in the input instead of repeating the edge.
    pub(crate) fn of(
        axis: &Axis,
        coordinates: Coordinates,
        filter: Filter,
        antialias: bool,
        exclude: bool,
    ) -> Taps {
        let stretch = if antialias { axis.scale.min(1.0) } else { 1.0 };
        let last = axis.input as i64 - 1;
        // No wider than what repeats the edge all the way: bounds the work of tiny scales.
        let reach = (filter.support() / stretch).min(2.0 * axis.input as f64 + 4.0);
        let row = |at: usize| {
            let Some(center) = axis.coordinate(at, coordinates) else { return vec![] };
            let center = if center.is_finite() { center } else { 0.0 };
            let mut row: Vec<(usize, f64)> = Vec::new();
            for place in (center - reach).floor() as i64..=(center + reach).ceil() as i64 {
                let weight = filter.weight((place as f64 - center) * stretch);
                let inside = (0..=last).contains(&place);
                if weight.abs() < WEIGHT_MIN || (exclude && !inside) {
                    continue;
                }
                let place = place.clamp(0, last) as usize;
                match row.last_mut() {
                    Some((same, sum)) if *same == place => *sum += weight,
                    _ => row.push((place, weight)),
                }
            }
            let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
            if (antialias || exclude) && sum != 0.0 {
                row.iter_mut().for_each(|(_, weight)| *weight /= sum);
            }
            // An empty row would mean "outside".
            if row.is_empty() {
                row.push((center.clamp(0.0, last as f64) as usize, 0.0));
            }
            row
        };
        Taps { rows: (0..axis.output).map(row).collect() }
    }

    /// Each output place is the input place of the same index.
    pub fn is_identity(&self, input: usize) -> bool {
        let same = |(at, row): (usize, &Vec<(usize, f64)>)| match row[..] {
            [(place, weight)] => place == at && (weight - 1.0).abs() < WEIGHT_MIN,
            _ => false,
        };
        self.rows.len() == input && self.rows.iter().enumerate().all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(input: usize, output: usize) -> Axis {
        Axis { input, output, scale: output as f64 / input as f64, roi: (0.0, 1.0) }
    }

    #[test]
    fn weights_add_up_to_one() {
        for (input, output) in [(4, 8), (8, 3), (1, 5), (5, 5), (7, 1)] {
            for filter in [Filter::Linear, Filter::Cubic(-0.5)] {
                for (antialias, exclude) in [(false, false), (true, false), (true, true)] {
                    let axis = axis(input, output);
                    let taps = Taps::of(&axis, Coordinates::HalfPixel, filter, antialias, exclude);
                    for row in &taps.rows {
                        let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
                        assert!((sum - 1.0).abs() < 1e-12, "{input} {output} {filter:?} {sum}");
                    }
                    assert_eq!(taps.is_identity(input), input == output);
                }
            }
        }
    }

    #[test]
    fn nearest_rounds_as_asked() {
        let check = |nearest, wanted: &[usize]| {
            assert_eq!(axis(4, 8).nearest(Coordinates::Asymmetric, nearest), wanted);
        };
        check(Nearest::Floor, &[0, 0, 1, 1, 2, 2, 3, 3]);
        check(Nearest::Ceil, &[0, 1, 1, 2, 2, 3, 3, 3]);
        check(Nearest::RoundPreferFloor, &[0, 0, 1, 1, 2, 2, 3, 3]);
        check(Nearest::RoundPreferCeil, &[0, 1, 1, 2, 2, 3, 3, 3]);
    }
}

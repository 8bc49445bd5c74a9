//! Statistics of a list of times.

use serde::Serialize;

/// Milliseconds of the steady state.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) min_ms: f64,
    pub(crate) median_ms: f64,
    pub(crate) mean_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) samples: usize,
    /// (p90 - p10) / median: how much the samples vary.
    pub(crate) spread: f64,
}

impl Statistics {
    /// Statistics of samples in milliseconds; there are none without samples.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Statistics> {
        samples.sort_by(f64::total_cmp);
        let min_ms = *samples.first()?;
        let median = quantile(&samples, 0.5);
        Some(Statistics {
            min_ms,
            median_ms: median,
            mean_ms: samples.iter().sum::<f64>() / samples.len() as f64,
            p90_ms: quantile(&samples, 0.9),
            p95_ms: quantile(&samples, 0.95),
            p99_ms: quantile(&samples, 0.99),
            max_ms: samples[samples.len() - 1],
            samples: samples.len(),
            spread: (quantile(&samples, 0.9) - quantile(&samples, 0.1)) / median.max(1e-9),
        })
    }
}

/// Linear interpolation between the two nearest ranks of sorted samples.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let s = Statistics::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((s.min_ms, s.median_ms, s.mean_ms, s.samples), (1.0, 2.5, 2.5, 4));
        assert!((s.p90_ms - 3.7).abs() < 1e-12);
        assert_eq!(Statistics::of(vec![]), None);
    }
}

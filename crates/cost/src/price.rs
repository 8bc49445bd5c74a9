//! What a device costs.

use hetra_machine::Price;

/// Years over which the price of a device that is bought is spread.
pub const PRICED_YEARS: f64 = 3.0;

const HOURS_OF_A_YEAR: f64 = 24.0 * 365.0;

/// US dollars for an hour of a device: what it is rented for, else its price spread over
/// [`PRICED_YEARS`] of running all day, without power; none where neither is known.
pub fn dollars_per_hour(price: &Price) -> Option<f64> {
    let rented = price.per_hour_usd.as_ref().map(|figure| figure.value);
    let bought = || Some(price.buy_usd.as_ref()?.value / (PRICED_YEARS * HOURS_OF_A_YEAR));
    rented.or_else(bought)
}

#[cfg(test)]
mod tests {
    use hetra_machine::Figure;

    use super::*;

    #[test]
    fn rented_or_bought() {
        let figure = |value| Some(Figure::measured(value, "x"));
        let mut price = Price { buy_usd: figure(26_280.0), per_hour_usd: None };
        assert_eq!(dollars_per_hour(&price), Some(1.0));
        price.per_hour_usd = figure(2.5);
        assert_eq!(dollars_per_hour(&price), Some(2.5));
        assert_eq!(dollars_per_hour(&Price::default()), None);
    }
}

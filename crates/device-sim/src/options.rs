//! `sim:h100-sxm?number=f16&fail_at=3ms`: what stands in an id.

use std::time::Duration;

use crate::faults::{At, Fault, Faults, Kind};

/// What every key means, for messages.
pub(crate) const KEYS: &str = "machine=FILE, number=f16, round=no, and faults: fail_at, lose_at, \
     hang_at, slow_at (a time on the device's clock, such as 3ms, or a call, such as 5), hang_for=2s, \
     slow_by=4, fail_every=N";

/// What an id asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// The entry.
    pub(crate) entry: String,
    /// The machine file that has it, in the place of the catalogue.
    pub(crate) machine: Option<String>,
    /// What it multiplies.
    pub(crate) number: Option<String>,
    /// Whether results are rounded as the device would; where it is not said, wherever the number
    /// is not f32.
    pub(crate) round: Option<bool>,
    /// What goes wrong.
    pub(crate) faults: Faults,
}

/// Reads what stands behind `sim:`.
pub(crate) fn parse(text: &str) -> Result<Options, String> {
    let (entry, query) = text.split_once('?').unwrap_or((text, ""));
    let mut options = Options { entry: entry.to_string(), ..Options::default() };
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = split(pair)?;
        match key {
            "machine" => options.machine = Some(value.to_string()),
            "number" => options.number = Some(value.to_string()),
            "round" => {
                options.round = match value {
                    "yes" => Some(true),
                    "no" => Some(false),
                    _ => return Err(format!("round={value}: wanted yes or no")),
                }
            }
            _ => rest.push(pair),
        }
    }
    options.faults = faults(&rest.join("&"))?;
    Ok(options)
}

fn split(pair: &str) -> Result<(&str, &str), String> {
    pair.split_once('=').ok_or_else(|| format!("`{pair}` is not of the form key=value"))
}

/// Reads faults: `fail_at=3ms&hang_for=1s`.
pub(crate) fn faults(query: &str) -> Result<Faults, String> {
    let mut faults = Faults::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = split(pair)?;
        let kind = match key {
            "fail_at" => Kind::Fail,
            "lose_at" => Kind::Lose,
            "hang_at" => Kind::Hang,
            "slow_at" => Kind::Slow,
            "hang_for" => {
                faults.hang_for = duration(value)?;
                continue;
            }
            "slow_by" => {
                let by = value.parse().ok().filter(|by: &f64| by.is_finite() && *by >= 1.0);
                faults.slow_by = by.ok_or_else(|| format!("slow_by={value}: wanted 1 or more"))?;
                continue;
            }
            "fail_every" => {
                let every = value.parse().ok().filter(|&every: &u64| every > 0);
                let every = every.ok_or_else(|| format!("fail_every={value}: wanted a number"))?;
                faults.fail_every = Some(every);
                continue;
            }
            _ => return Err(format!("there is no `{key}`; there are {KEYS}")),
        };
        faults.list.push(Fault { kind, at: at(value)? });
    }
    Ok(faults)
}

/// `3ms` on the clock, or `5`, the fifth call.
fn at(text: &str) -> Result<At, String> {
    match text.parse() {
        Ok(0) => Err("the first call is 1".to_string()),
        Ok(call) => Ok(At::Call(call)),
        Err(_) => duration(text).map(At::Time),
    }
}

/// `3ms`, `0.5s`, `20us`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0)];
    let of = |(unit, scale): &(&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(number * scale).ok()
    };
    let found = units.iter().find_map(of);
    found.ok_or_else(|| format!("`{text}`: wanted a time such as 3ms, or the number of a call"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read() {
        let options =
            parse("a?machine=b.toml&number=i8&round=yes&fail_at=3ms&lose_at=7&slow_by=2").unwrap();
        assert_eq!((options.entry.as_str(), options.machine.as_deref()), ("a", Some("b.toml")));
        assert_eq!((options.number.as_deref(), options.round), (Some("i8"), Some(true)));
        let fault = |kind, at| Fault { kind, at };
        let wanted =
            [fault(Kind::Fail, At::Time(Duration::from_millis(3))), fault(Kind::Lose, At::Call(7))];
        assert_eq!((&options.faults.list[..], options.faults.slow_by), (&wanted[..], 2.0));
        assert_eq!(parse("h100").unwrap().faults, Faults::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let fault = |text: &str| parse(text).unwrap_err();
        assert!(fault("a?fale_at=3").contains("there is no `fale_at`; there are machine=FILE"));
        assert!(fault("a?fail_at").contains("key=value"));
        assert!(fault("a?fail_at=soon").contains("a time such as 3ms"));
        assert!(fault("a?slow_by=0.5").contains("1 or more"));
        assert!(fault("a?round=maybe").contains("yes or no"));
        assert!(fault("a?fail_every=0").contains("a number"));
        assert!(fault("a?hang_for=-1s").contains("a time"));
    }
}

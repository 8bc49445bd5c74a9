//! What was measured of parts of models, on a device.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{DeviceKey, Store, StoreError, device_id, unread};
use crate::correction::{CostExample, CostPart, EXAMPLES_MAX};

/// Most costs that a store keeps.
pub(super) const COSTS_MAX: u64 = 20_000;
/// Most kernels of a part whose rows are kept: what has more teaches little of each.
const KERNELS_MAX: usize = 400;

/// What a part of a model took.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Its kernels, with what a simple model says of each; may be empty.
    pub parts: Vec<CostPart>,
    /// Seconds, the median.
    pub seconds: f64,
    /// Half of the samples are within so much of it, in parts.
    pub spread: f64,
    /// Seconds since 1970.
    pub at: i64,
}

/// Numbers of a kernel, the guess first, as the file has them: with the digits that matter.
type Row = Vec<f32>;

impl Store {
    /// Keeps what a part took on a device, in the place of what was known of it.
    ///
    /// # Errors
    /// When the file cannot be written, or the device's key is none.
    pub fn keep_cost(
        &mut self,
        device: &DeviceKey,
        part: &str,
        cost: &Cost,
    ) -> Result<(), StoreError> {
        device.check()?;
        let row = |part: &CostPart| -> Row {
            let all = std::iter::once(part.guess).chain(part.features.iter().copied());
            all.map(|number| number as f32).collect()
        };
        let kept = if cost.parts.len() > KERNELS_MAX { &[] } else { &cost.parts[..] };
        let rows = serde_json::to_string(&kept.iter().map(row).collect::<Vec<Row>>());
        let sql = "INSERT OR REPLACE INTO cost (device, part, kernels, seconds, spread, at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.write(|transaction: &Transaction<'_>| {
            let id = device_id(transaction, device)?;
            let rows = rows.map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
            let values = params![id, part, rows, cost.seconds, cost.spread, cost.at];
            transaction.prepare(sql)?.execute(values).map(|_| ())
        })
    }

    /// What a part took on a device; `None` where nobody measured it.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn cost(&self, device: &DeviceKey, part: &str) -> Result<Option<Cost>, StoreError> {
        let sql = format!("{COSTS} AND cost.part = ?4");
        let DeviceKey { device, driver, version } = device;
        let values = params![device, driver, version, part];
        let found = self.connection.query_row(&sql, values, cost).optional();
        found.map_err(|error| self.fault(error))
    }

    /// What may be learned of a device: the newest parts whose kernels are known, the newest last.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn examples(&self, device: &DeviceKey) -> Result<Vec<CostExample>, StoreError> {
        let sql = format!("{COSTS} ORDER BY cost.at DESC, cost.part LIMIT ?4");
        let DeviceKey { device, driver, version } = device;
        let most = i64::try_from(EXAMPLES_MAX).unwrap_or(i64::MAX);
        let costs = self.list(&sql, params![device, driver, version, most], cost)?;
        let example = |cost: Cost| CostExample { parts: cost.parts, seconds: cost.seconds };
        let known = |cost: &Cost| !cost.parts.is_empty() && cost.seconds > 0.0;
        Ok(costs.into_iter().rev().filter(known).map(example).collect())
    }
}

const COSTS: &str = "SELECT cost.kernels, cost.seconds, cost.spread, cost.at \
     FROM cost JOIN device ON device.id = cost.device \
     WHERE device.device = ?1 AND device.driver = ?2 AND device.version = ?3";

fn cost(row: &rusqlite::Row<'_>) -> rusqlite::Result<Cost> {
    let rows = row.get_ref(0)?.as_str()?;
    let rows: Vec<Row> = serde_json::from_str(rows).map_err(|error| unread(0, error))?;
    let part = |row: Row| {
        let (guess, features) = row.split_first()?;
        let features = features.iter().map(|&number| f64::from(number)).collect();
        (*guess > 0.0).then(|| CostPart { guess: f64::from(*guess), features })
    };
    let parts = rows.into_iter().filter_map(part).collect();
    Ok(Cost { parts, seconds: row.get(1)?, spread: row.get(2)?, at: row.get(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_kept_by_device_and_part() {
        let path = std::env::temp_dir().join(format!("hetra-costs-{}.sqlite", std::process::id()));
        let mut store = Store::open(&path).unwrap();
        let device = |name: &str| DeviceKey {
            device: name.to_string(),
            driver: "d".to_string(),
            version: "1".to_string(),
        };
        let part = CostPart { guess: 0.5, features: vec![1.0, 2.5] };
        let cost = |seconds: f64, at: i64| Cost {
            parts: vec![part.clone(); 2],
            seconds,
            spread: 0.01,
            at,
        };
        store.keep_cost(&device("a"), "x", &cost(1.0, 1)).unwrap();
        store.keep_cost(&device("a"), "y", &cost(2.0, 2)).unwrap();
        store.keep_cost(&device("b"), "x", &cost(3.0, 3)).unwrap();
        store.keep_cost(&device("a"), "x", &cost(4.0, 4)).unwrap();
        assert_eq!(store.cost(&device("a"), "x").unwrap(), Some(cost(4.0, 4)));
        assert_eq!(store.cost(&device("c"), "x").unwrap(), None);
        let seconds: Vec<f64> =
            store.examples(&device("a")).unwrap().iter().map(|e| e.seconds).collect();
        assert_eq!(seconds, [2.0, 4.0]);
        // What has too many kernels is known, and teaches nothing.
        let long = Cost { parts: vec![part.clone(); KERNELS_MAX + 1], ..cost(5.0, 5) };
        store.keep_cost(&device("a"), "long", &long).unwrap();
        assert_eq!(store.cost(&device("a"), "long").unwrap().unwrap().seconds, 5.0);
        assert_eq!(store.examples(&device("a")).unwrap().len(), 2);
        // The oldest go first.
        store.prune(1000, 1000, 2).unwrap();
        assert_eq!(store.cost(&device("a"), "y").unwrap(), None);
        assert_eq!(store.cost(&device("b"), "x").unwrap(), None);
        drop(store);
        std::fs::remove_file(path).unwrap();
    }
}

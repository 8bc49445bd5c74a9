//! Element types by the protocol's names, and those of configurations.

use hetra::DType;

struct Row {
    dtype: DType,
    /// In requests.
    name: &'static str,
    /// In `config.pbtxt`.
    config: &'static str,
    /// The number of `inference.DataType`.
    code: i32,
}

const fn row(dtype: DType, name: &'static str, config: &'static str, code: i32) -> Row {
    Row { dtype, name, config, code }
}

static ROWS: &[Row] = &[
    row(DType::Bool, "BOOL", "TYPE_BOOL", 1),
    row(DType::U8, "UINT8", "TYPE_UINT8", 2),
    row(DType::U16, "UINT16", "TYPE_UINT16", 3),
    row(DType::U32, "UINT32", "TYPE_UINT32", 4),
    row(DType::U64, "UINT64", "TYPE_UINT64", 5),
    row(DType::I8, "INT8", "TYPE_INT8", 6),
    row(DType::I16, "INT16", "TYPE_INT16", 7),
    row(DType::I32, "INT32", "TYPE_INT32", 8),
    row(DType::I64, "INT64", "TYPE_INT64", 9),
    row(DType::F16, "FP16", "TYPE_FP16", 10),
    row(DType::F32, "FP32", "TYPE_FP32", 11),
    row(DType::F64, "FP64", "TYPE_FP64", 12),
    row(DType::String, "BYTES", "TYPE_STRING", 13),
    row(DType::BF16, "BF16", "TYPE_BF16", 14),
];

fn by(wanted: impl Fn(&Row) -> bool) -> Option<&'static Row> {
    ROWS.iter().find(|row| wanted(row))
}

/// The protocol's name; none for types that it does not have.
pub(crate) fn name(dtype: DType) -> Option<&'static str> {
    by(|row| row.dtype == dtype).map(|row| row.name)
}

/// The type that the protocol calls so.
pub(crate) fn from_name(name: &str) -> Option<DType> {
    by(|row| row.name == name).map(|row| row.dtype)
}

/// The name that configurations have for it.
pub(crate) fn config_name(dtype: DType) -> Option<&'static str> {
    by(|row| row.dtype == dtype).map(|row| row.config)
}

/// The number of a type that configurations call so, in messages.
pub(crate) fn config_code(name: &str) -> i32 {
    by(|row| row.config == name).map_or(0, |row| row.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for row in ROWS {
            assert_eq!(from_name(name(row.dtype).unwrap()), Some(row.dtype));
            assert_eq!(config_name(row.dtype), Some(row.config));
            assert_eq!(config_code(row.config), row.code);
        }
        assert_eq!((name(DType::C64), from_name("FP8")), (None, None));
    }
}

//! What can go wrong with a session.

use hetra_device::DeviceError;
use hetra_exec::ExecError;
use hetra_ir::VerifyError;
use hetra_onnx::ImportError;
use hetra_pass::OutputError;
use hetra_tensor::TensorError;

/// Why a session could not be built or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum Error {
    #[error("no model was given")]
    NoModel,
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("the graph is malformed: {}", list(.0))]
    Graph(Vec<VerifyError>),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("the model has no {what} `{name}`; it has {known}{}", hint(.nearest.as_deref()))]
    Name { what: &'static str, name: String, known: String, nearest: Option<String> },
    #[error("input `{name}` is given twice")]
    Twice { name: String },
    #[error("input `{input}`: wanted {symbol} = {wanted}, as in input `{other}`, got {got}")]
    Symbol { input: String, symbol: String, wanted: usize, other: String, got: usize },
    #[error("there is no pass `{name}`; there are {known}")]
    Pass { name: String, known: String },
    #[error("{waiting} runs wait in the background already; wait for one of them")]
    Busy { waiting: usize },
    #[error("no thread for runs in the background: {0}")]
    Thread(std::io::Error),
    #[error("the session may make no runs at all: wanted at least 1 at one time")]
    NoRuns,
    #[error("a device that is open is given: it has its id and its threads already")]
    TwoDevices,
    #[error("the run was lost: its thread ended early")]
    Lost,
}

fn list(errors: &[VerifyError]) -> String {
    errors.iter().map(VerifyError::to_string).collect::<Vec<_>>().join("; ")
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

impl Error {
    /// A name that is none of `known`.
    pub(crate) fn name<'a>(
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Error {
        let nearest = nearest(name, known.clone()).map(str::to_string);
        let known = known.collect::<Vec<_>>().join(", ");
        Error::Name { what, name: name.to_string(), known, nearest }
    }
}

/// The known name that a wrong one may stand for: at most one letter in three is another.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let with_distance = known.map(|other| (distance(name, other), other));
    let (distance, other) = with_distance.min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= other.chars().count()).then_some(other)
}

/// Letters to insert, remove or change between two names, whatever their case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.to_lowercase().chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], at + 1);
        for (index, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[index + 1];
            row[index + 1] = changed.min(corner + 1).min(row[index] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_with_what_it_may_stand_for() {
        let known = ["input_ids", "attention_mask", "x"];
        let check = |name, wanted| assert_eq!(nearest(name, known.into_iter()), wanted, "{name}");
        check("input_id", Some("input_ids"));
        check("Input_IDs", Some("input_ids"));
        check("atention_msk", Some("attention_mask"));
        check("X", Some("x"));
        check("y", None);
        check("token_type_ids", None);
        assert_eq!(nearest("x", [].into_iter()), None);
    }

    #[test]
    fn distances_are_of_the_shortest_way() {
        for (a, b, wanted) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("a", "a", 0)]
        {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
        }
    }
}

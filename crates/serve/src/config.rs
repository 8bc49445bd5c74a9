//! What `config.pbtxt` may say of a model, and what a model without one gets.
//!
//! The fields are those of Triton's model configuration that mean something here; any other field
//! is refused by its name, and so is a value that would mean something else.

use std::collections::BTreeMap;

use hetra::{Dim, Port, Session, Tensor as Values};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::dtypes;

/// Requests that wait for one model at most, where its configuration says nothing.
pub(crate) const QUEUE_MAX: u32 = 256;
/// Rows of one run at most, where nothing says it.
const BATCH_MAX: i32 = 8;
/// Instances of a model at most.
const INSTANCES_MAX: i32 = 64;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub(crate) enum ConfigError {
    #[error("config.pbtxt: {0}")]
    Text(#[from] crate::pbtxt::TextError),
    #[error("the configuration: {0}")]
    Fields(#[from] serde_json::Error),
    #[error("the configuration's `{field}`: {text}")]
    Value { field: &'static str, text: String },
    #[error("{what} `{name}` of the model cannot be served: it is {ty}")]
    Type { what: &'static str, name: String, ty: String },
}

fn wrong<T>(field: &'static str, text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value { field, text: text.into() })
}

/// One value, or a list of them: a repeated field that stands once is no list in the text form.
fn many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Many {
        List(Vec<Value>),
        One(Value),
    }
    let list = match Many::deserialize(reader)? {
        Many::List(list) => list,
        Many::One(one) => vec![one],
    };
    let item = |value| T::deserialize(value).map_err(serde::de::Error::custom);
    list.into_iter().map(item).collect()
}

/// A map: pairs of `key` and `value` in the text form, an object in JSON.
fn map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    reader: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    let error = serde::de::Error::custom;
    let pairs = match Value::deserialize(reader)? {
        Value::Object(fields) if !fields.contains_key("key") => fields.into_iter().collect(),
        one => {
            let list = match one {
                Value::Array(list) => list,
                one => vec![one],
            };
            let pair = |mut one: Value| {
                let key = match &one["key"] {
                    Value::String(key) => key.clone(),
                    other => other.to_string(),
                };
                (key, one.get_mut("value").map(Value::take).unwrap_or_default())
            };
            list.into_iter().map(pair).collect::<Vec<_>>()
        }
    };
    let read = |(key, value)| Ok((key, T::deserialize(value).map_err(error)?));
    pairs.into_iter().map(read).collect()
}

/// An input or output.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) data_type: String,
    #[serde(deserialize_with = "many")]
    pub(crate) dims: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optional: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label_filename: Option<String>,
}

/// How many instances there are of a model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InstanceGroup {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) count: i32,
}

/// What an instance runs on, in a configuration's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[allow(clippy::enum_variant_names, reason = "these are the format's names")]
pub(crate) enum Kind {
    #[default]
    #[serde(rename = "KIND_AUTO")]
    Auto,
    #[serde(rename = "KIND_GPU")]
    Gpu,
    #[serde(rename = "KIND_CPU")]
    Cpu,
    #[serde(rename = "KIND_MODEL")]
    Model,
}

/// What a queue does with requests that wait too long, and how many may wait.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QueuePolicy {
    pub(crate) timeout_action: TimeoutAction,
    pub(crate) default_timeout_microseconds: u64,
    pub(crate) allow_timeout_override: bool,
    pub(crate) max_queue_size: u32,
}

impl Default for QueuePolicy {
    fn default() -> QueuePolicy {
        QueuePolicy {
            timeout_action: TimeoutAction::Reject,
            default_timeout_microseconds: 0,
            // A client's timeout holds where nothing is said: what it no longer waits for is work
            // for nobody.
            allow_timeout_override: true,
            max_queue_size: 0,
        }
    }
}

/// What becomes of a request that has waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum TimeoutAction {
    #[serde(rename = "REJECT")]
    Reject,
    #[serde(rename = "DELAY")]
    Delay,
}

/// How requests are put together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DynamicBatching {
    #[serde(deserialize_with = "many")]
    pub(crate) preferred_batch_size: Vec<i32>,
    pub(crate) max_queue_delay_microseconds: u64,
    pub(crate) preserve_ordering: bool,
    pub(crate) priority_levels: u64,
    pub(crate) default_priority_level: u64,
    pub(crate) default_queue_policy: QueuePolicy,
    #[serde(deserialize_with = "map")]
    pub(crate) priority_queue_policy: BTreeMap<String, QueuePolicy>,
}

/// Which versions are served.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum VersionPolicy {
    Latest(#[serde(default)] Latest),
    All(BTreeMap<String, Value>),
    Specific(Specific),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Latest {
    pub(crate) num_versions: u32,
}

impl Default for Latest {
    fn default() -> Latest {
        Latest { num_versions: 1 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Specific {
    #[serde(deserialize_with = "many")]
    pub(crate) versions: Vec<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    pub(crate) string_value: String,
}

/// A model's configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version_policy: Option<VersionPolicy>,
    pub(crate) max_batch_size: i32,
    #[serde(deserialize_with = "many")]
    pub(crate) input: Vec<Tensor>,
    #[serde(deserialize_with = "many")]
    pub(crate) output: Vec<Tensor>,
    #[serde(deserialize_with = "many")]
    pub(crate) instance_group: Vec<InstanceGroup>,
    pub(crate) default_model_filename: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic_batching: Option<DynamicBatching>,
    #[serde(deserialize_with = "map")]
    pub(crate) parameters: BTreeMap<String, Parameter>,
}

/// What this server reads in `parameters`.
const PARAMETERS: [&str; 2] = ["device", "threads"];
/// The file of a version, where the configuration does not name it.
pub(crate) const MODEL_FILE: &str = "model.onnx";

impl Config {
    /// Reads `config.pbtxt`.
    pub(crate) fn from_text(text: &str) -> Result<Config, ConfigError> {
        Ok(Config::deserialize(crate::pbtxt::parse(text)?)?)
    }

    /// Reads a configuration in JSON.
    pub(crate) fn from_json(text: &str) -> Result<Config, ConfigError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The name of the file in a version's folder.
    pub(crate) fn file(&self) -> &str {
        match self.default_model_filename.as_str() {
            "" => MODEL_FILE,
            name => name,
        }
    }

    /// Refuses values that mean nothing, or nothing here.
    pub(crate) fn check(&self, folder: &str) -> Result<(), ConfigError> {
        if !self.name.is_empty() && self.name != folder {
            return wrong("name", format!("`{}` in the folder `{folder}`", self.name));
        }
        if !["", "onnxruntime_onnx"].contains(&self.platform.as_str()) {
            return wrong("platform", format!("`{}` is not served: ONNX is", self.platform));
        }
        if !["", "onnxruntime", "hetra"].contains(&self.backend.as_str()) {
            return wrong("backend", format!("`{}` is not served: ONNX is", self.backend));
        }
        if self.file().contains(['/', '\\']) || self.file() == ".." {
            return wrong("default_model_filename", "wanted a name without a folder");
        }
        if self.max_batch_size < 0 {
            return wrong("max_batch_size", "wanted 0 or more");
        }
        if let Some(name) = self.parameters.keys().find(|name| !PARAMETERS.contains(&name.as_str()))
        {
            let known = PARAMETERS.join(", ");
            return wrong("parameters", format!("`{name}` is not known here; there are {known}"));
        }
        for group in &self.instance_group {
            if group.kind == Kind::Gpu && self.parameter("device").is_none() {
                return wrong("instance_group", "KIND_GPU: the parameter `device` says which one");
            }
            if !(0..=INSTANCES_MAX).contains(&group.count) {
                return wrong("instance_group", format!("wanted 1 to {INSTANCES_MAX} instances"));
            }
        }
        self.dynamic_batching.as_ref().map_or(Ok(()), |one| self.check_batching(one))
    }

    fn check_batching(&self, batching: &DynamicBatching) -> Result<(), ConfigError> {
        if self.max_batch_size == 0 {
            return wrong("dynamic_batching", "needs a max_batch_size");
        }
        if batching.preserve_ordering && self.instances() > 1 {
            return wrong("preserve_ordering", "several instances do not keep it");
        }
        let fits = |size: &i32| (1..=self.max_batch_size).contains(size);
        if !batching.preferred_batch_size.iter().all(fits) {
            return wrong("preferred_batch_size", "wanted 1 to max_batch_size");
        }
        let levels = batching.priority_levels;
        if levels > 1024 || batching.default_priority_level > levels {
            return wrong("priority_levels", "wanted up to 1024, with the default among them");
        }
        if levels > 0 && batching.default_priority_level == 0 {
            return wrong("default_priority_level", "wanted 1 to priority_levels");
        }
        let is_level = |key: &String| key.parse().is_ok_and(|key| (1..=levels).contains(&key));
        match batching.priority_queue_policy.keys().find(|key| !is_level(key)) {
            Some(key) => wrong("priority_queue_policy", format!("there is no level {key}")),
            None => Ok(()),
        }
    }

    /// How many runs of the model may overlap.
    pub(crate) fn instances(&self) -> usize {
        let count = |group: &InstanceGroup| group.count.max(1) as usize;
        self.instance_group.iter().map(count).sum::<usize>().clamp(1, INSTANCES_MAX as usize)
    }

    /// The policy of a priority level.
    pub(crate) fn policy(&self, level: u64) -> QueuePolicy {
        let Some(batching) = &self.dynamic_batching else { return QueuePolicy::default() };
        let own = batching.priority_queue_policy.get(&level.to_string());
        own.unwrap_or(&batching.default_queue_policy).clone()
    }

    /// A parameter of this server's.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(|one| one.string_value.as_str())
    }

    /// Fills in what follows from the model, and refuses what contradicts it.
    pub(crate) fn completed(
        mut self,
        name: &str,
        session: &Session,
    ) -> Result<Config, ConfigError> {
        let (inputs, outputs) = (session.inputs(), session.outputs());
        let said = !self.input.is_empty() || !self.output.is_empty() || self.max_batch_size > 0;
        if !said && is_batched(&inputs, &outputs) && rows_are_apart(session) {
            self.max_batch_size = BATCH_MAX;
            self.dynamic_batching.get_or_insert_default();
        }
        let batched = self.max_batch_size > 0;
        self.input = completed("input", &self.input, &inputs, batched)?;
        self.output = completed("output", &self.output, &outputs, batched)?;
        self.name = name.to_string();
        self.platform = "onnxruntime_onnx".into();
        self.backend = "hetra".into();
        if self.default_model_filename.is_empty() {
            self.default_model_filename = MODEL_FILE.into();
        }
        if self.instance_group.is_empty() {
            self.instance_group.push(InstanceGroup::default());
        }
        for (index, group) in self.instance_group.iter_mut().enumerate() {
            group.count = group.count.max(1);
            if group.name.is_empty() {
                group.name = format!("{name}_{index}");
            }
        }
        self.version_policy.get_or_insert(VersionPolicy::Latest(Latest::default()));
        Ok(self)
    }
}

/// Whether rows of requests may be put together: the first axis of each input and output is open,
/// and has one name in all.
fn is_batched(inputs: &[Port], outputs: &[Port]) -> bool {
    let first = |port: &Port| match port.ty.dims().and_then(<[Dim]>::first) {
        Some(Dim::Sym(name)) => Some(name.clone()),
        _ => None,
    };
    // What has a default has no rows of requests.
    if inputs.iter().any(|port| port.has_default) {
        return false;
    }
    let mut names = inputs.iter().chain(outputs).map(first);
    let Some(Some(name)) = names.next() else { return false };
    names.all(|other| other.as_ref() == Some(&name))
}

/// Whether two rows give the same together as one by one, by values that mean nothing; not where
/// that cannot be tried. Axes that are open are 1.
fn rows_are_apart(session: &Session) -> bool {
    let run = |inputs: &[(String, Values)]| {
        let outputs = session.run(inputs.iter().cloned()).ok()?;
        let tensors = outputs.into_values().into_iter().map(|value| value.as_tensor().cloned());
        tensors.collect::<Option<Vec<Values>>>()
    };
    let made = |seed| {
        let input = |port: Port| {
            let value = hetra::made_up(&port.ty, &|_| 1, seed)?;
            Some((port.name, value.as_tensor()?.clone()))
        };
        session.inputs().into_iter().map(input).collect::<Option<Vec<_>>>()
    };
    let tried = || {
        let [first, second] = [made(1)?, made(2)?];
        // Rows that are the same say nothing of how they part.
        if first.iter().zip(&second).any(|((_, a), (_, b))| a == b) {
            return None;
        }
        let pair = |((name, a), (_, b)): (&(String, Values), &(String, Values))| {
            Some((name.clone(), crate::tensors::join(&[a, b]).ok()?))
        };
        let both = first.iter().zip(&second).map(pair).collect::<Option<Vec<_>>>()?;
        let all: [Vec<Values>; 3] = [run(&first)?, run(&second)?, run(&both)?];
        let mut outputs = all[2].iter().zip(all[0].iter().zip(&all[1]));
        Some(outputs.all(|(both, (a, b))| {
            crate::tensors::join(&[a, b]).is_ok_and(|apart| is_near(both, &apart))
        }))
    };
    tried().unwrap_or(false)
}

/// Equal, floats of 32 bits but for what another order of sums makes of them.
fn is_near(a: &Values, b: &Values) -> bool {
    const NEAR: f32 = 1e-3;
    if a.shape() != b.shape() {
        return false;
    }
    match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
        (Ok(a), Ok(b)) => {
            let scale = a.iter().fold(0f32, |most, one| most.max(one.abs()));
            let near = |(a, b): (&f32, &f32)| a == b || (a - b).abs() <= NEAR * scale;
            a.iter().zip(b).all(near)
        }
        _ => a == b,
    }
}

/// Extents as the protocol has them: -1 where one is open. None of a shape that is not known.
pub(crate) fn extents(port: &Port) -> Option<Vec<i64>> {
    let extent = |dim: &Dim| dim.known().map_or(-1, |extent| extent as i64);
    Some(port.ty.dims()?.iter().map(extent).collect())
}

fn completed(
    what: &'static str,
    said: &[Tensor],
    ports: &[Port],
    batched: bool,
) -> Result<Vec<Tensor>, ConfigError> {
    if let Some(one) = said.iter().find(|one| !ports.iter().any(|port| port.name == one.name)) {
        let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let text = format!("the model has no `{}`; it has {}", one.name, known.join(", "));
        return wrong(what, text);
    }
    let mut all = Vec::new();
    for port in ports {
        let dtype = port.ty.dtype().and_then(dtypes::config_name);
        let Some(dtype) = dtype else {
            let (name, ty) = (port.name.clone(), port.ty.to_string());
            return Err(ConfigError::Type { what, name, ty });
        };
        let own = said.iter().find(|one| one.name == port.name);
        let mut dims = extents(port).unwrap_or_default();
        if batched && !dims.is_empty() {
            if dims[0] >= 0 {
                let text = format!("the first axis of `{}` is {}, not open", port.name, dims[0]);
                return wrong("max_batch_size", text);
            }
            dims.remove(0);
        } else if batched && port.ty.dims().is_some() {
            return wrong("max_batch_size", format!("`{}` has no axes", port.name));
        }
        let mut one = own.cloned().unwrap_or_default();
        if let Some(own) = own {
            if own.data_type != dtype {
                return wrong(what, format!("`{}` is {dtype}, not {}", own.name, own.data_type));
            }
            let fits = |(said, has): (&i64, &i64)| *has < 0 || said == has || *said == -1;
            let same = own.dims.len() == dims.len() && own.dims.iter().zip(&dims).all(fits);
            if port.ty.dims().is_some() && !same {
                return wrong(what, format!("`{}` has {dims:?}, not {:?}", own.name, own.dims));
            }
        } else {
            one = Tensor { name: port.name.clone(), data_type: dtype.into(), dims, ..one };
            one.optional = (what == "input" && port.has_default).then_some(true);
        }
        all.push(one);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_what_is_unknown_is_named() {
        let text = "
            max_batch_size: 4
            input { name: \"x\" data_type: TYPE_FP32 dims: 3 }
            instance_group [ { count: 2 kind: KIND_CPU } ]
            dynamic_batching {
              preferred_batch_size: 4
              max_queue_delay_microseconds: 100
              priority_levels: 2
              default_priority_level: 2
              priority_queue_policy { key: 1 value { max_queue_size: 7 } }
            }
            parameters { key: \"device\" value { string_value: \"cpu\" } }
            version_policy { specific { versions: [1, 3] } }";
        let config = Config::from_text(text).unwrap();
        config.check("m").unwrap();
        assert_eq!((config.instances(), config.parameter("device")), (2, Some("cpu")));
        assert_eq!((config.policy(1).max_queue_size, config.policy(2).max_queue_size), (7, 0));
        let specific = Specific { versions: vec![1, 3] };
        assert_eq!(config.version_policy, Some(VersionPolicy::Specific(specific)));
        // The JSON that is written of it is read again.
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::from_json(&json).unwrap(), config);

        let error = Config::from_text("sequence_batching { }").unwrap_err().to_string();
        assert!(error.contains("unknown field `sequence_batching`"), "{error}");
    }

    #[test]
    fn values_that_mean_nothing_here_are_refused() {
        for (text, wanted) in [
            ("name: \"n\"", "`n` in the folder `m`"),
            ("platform: \"tensorrt_plan\"", "`tensorrt_plan` is not served"),
            ("max_batch_size: -1", "wanted 0 or more"),
            ("default_model_filename: \"../x\"", "without a folder"),
            ("dynamic_batching { }", "needs a max_batch_size"),
            ("max_batch_size: 2 dynamic_batching { preferred_batch_size: 3 }", "1 to max_batch"),
            ("instance_group { count: 1000 }", "1 to 64"),
            ("instance_group { kind: KIND_GPU }", "which one"),
            (
                "max_batch_size: 2 instance_group { count: 2 }
                 dynamic_batching { preserve_ordering: true }",
                "do not keep it",
            ),
            ("parameters { key: \"q\" value { string_value: \"\" } }", "`q` is not known here"),
            (
                "max_batch_size: 2 dynamic_batching { priority_levels: 2 }",
                "wanted 1 to priority_levels",
            ),
        ] {
            let error = Config::from_text(text).unwrap().check("m").unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}

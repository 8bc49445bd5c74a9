//! The messages of the protocol over gRPC: names and numbers of fields are the protocol's. What
//! JSON has in the same words is made of the same types.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

/// A message without fields that are read.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Live {
    #[prost(bool, tag = "1")]
    pub(crate) live: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Ready {
    #[prost(bool, tag = "1")]
    pub(crate) ready: bool,
}

/// Names a model; an empty version is the newest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModelName {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct ServerMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) extensions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) shape: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct ModelMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) platform: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Choice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(double, tag = "4")]
    Float(f64),
    #[prost(uint64, tag = "5")]
    Uint(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Parameter {
    #[prost(oneof = "Choice", tags = "1, 2, 3, 4, 5")]
    pub(crate) choice: Option<Choice>,
}

pub(crate) type Parameters = BTreeMap<String, Parameter>;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Contents {
    #[prost(bool, repeated, tag = "1")]
    pub(crate) bools: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    pub(crate) ints: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) longs: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) uints: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) ulongs: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    pub(crate) floats: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    pub(crate) doubles: Vec<f64>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub(crate) texts: Vec<Bytes>,
}

/// An input or output of a run.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferTensor {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) shape: Vec<i64>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) parameters: Parameters,
    #[prost(message, optional, tag = "5")]
    pub(crate) contents: Option<Contents>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wanted {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) parameters: Parameters,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferRequest {
    #[prost(string, tag = "1")]
    pub(crate) model_name: String,
    #[prost(string, tag = "2")]
    pub(crate) model_version: String,
    #[prost(string, tag = "3")]
    pub(crate) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) parameters: Parameters,
    #[prost(message, repeated, tag = "5")]
    pub(crate) inputs: Vec<InferTensor>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) outputs: Vec<Wanted>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(crate) raw: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferResponse {
    #[prost(string, tag = "1")]
    pub(crate) model_name: String,
    #[prost(string, tag = "2")]
    pub(crate) model_version: String,
    #[prost(string, tag = "3")]
    pub(crate) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(crate) parameters: Parameters,
    #[prost(message, repeated, tag = "5")]
    pub(crate) outputs: Vec<InferTensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) raw: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamResponse {
    #[prost(string, tag = "1")]
    pub(crate) error: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) response: Option<InferResponse>,
}

/// How often, and how long in all.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub(crate) struct Took {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) ns: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub(crate) struct InferStatistics {
    #[prost(message, required, tag = "1")]
    pub(crate) success: Took,
    #[prost(message, required, tag = "2")]
    pub(crate) fail: Took,
    #[prost(message, required, tag = "3")]
    pub(crate) queue: Took,
    #[prost(message, required, tag = "4")]
    pub(crate) compute_input: Took,
    #[prost(message, required, tag = "5")]
    pub(crate) compute_infer: Took,
    #[prost(message, required, tag = "6")]
    pub(crate) compute_output: Took,
    #[prost(message, required, tag = "7")]
    pub(crate) cache_hit: Took,
    #[prost(message, required, tag = "8")]
    pub(crate) cache_miss: Took,
}

#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub(crate) struct BatchStatistics {
    #[prost(uint64, tag = "1")]
    pub(crate) batch_size: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) compute_input: Took,
    #[prost(message, required, tag = "3")]
    pub(crate) compute_infer: Took,
    #[prost(message, required, tag = "4")]
    pub(crate) compute_output: Took,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct ModelStatistics {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub(crate) last_inference: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) inference_count: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) execution_count: u64,
    #[prost(message, required, tag = "6")]
    pub(crate) inference_stats: InferStatistics,
    #[prost(message, repeated, tag = "7")]
    pub(crate) batch_stats: Vec<BatchStatistics>,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct Statistics {
    #[prost(message, repeated, tag = "1")]
    pub(crate) model_stats: Vec<ModelStatistics>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IndexRequest {
    #[prost(string, tag = "1")]
    pub(crate) repository_name: String,
    #[prost(bool, tag = "2")]
    pub(crate) ready: bool,
}

#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct ModelIndex {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) state: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Index {
    #[prost(message, repeated, tag = "1")]
    pub(crate) models: Vec<ModelIndex>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum LoadChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bytes, tag = "4")]
    Bytes(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LoadParameter {
    #[prost(oneof = "LoadChoice", tags = "1, 2, 3, 4")]
    pub(crate) choice: Option<LoadChoice>,
}

/// Asks to load or unload a model.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LoadRequest {
    #[prost(string, tag = "1")]
    pub(crate) repository_name: String,
    #[prost(string, tag = "2")]
    pub(crate) model_name: String,
    #[prost(btree_map = "string, message", tag = "3")]
    pub(crate) parameters: BTreeMap<String, LoadParameter>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegionName {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// A region of shared memory.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub(crate) struct RegionStatus {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) key: String,
    #[prost(uint64, tag = "3")]
    pub(crate) offset: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) byte_size: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegionsStatus {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) regions: BTreeMap<String, RegionStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<ModelConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModelConfig {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) platform: String,
    #[prost(int32, tag = "4")]
    pub(crate) max_batch_size: i32,
    #[prost(message, repeated, tag = "5")]
    pub(crate) input: Vec<ConfigInput>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) output: Vec<ConfigOutput>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) instance_group: Vec<ConfigGroup>,
    #[prost(string, tag = "8")]
    pub(crate) default_model_filename: String,
    #[prost(message, optional, tag = "11")]
    pub(crate) dynamic_batching: Option<ConfigBatching>,
    #[prost(btree_map = "string, message", tag = "14")]
    pub(crate) parameters: BTreeMap<String, ConfigParameter>,
    #[prost(string, tag = "17")]
    pub(crate) backend: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigParameter {
    #[prost(string, tag = "1")]
    pub(crate) string_value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigInput {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(int64, repeated, tag = "4")]
    pub(crate) dims: Vec<i64>,
    #[prost(bool, tag = "8")]
    pub(crate) optional: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigOutput {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) dims: Vec<i64>,
    #[prost(string, tag = "4")]
    pub(crate) label_filename: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigGroup {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) count: i32,
    #[prost(int32, tag = "4")]
    pub(crate) kind: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigPolicy {
    #[prost(int32, tag = "1")]
    pub(crate) timeout_action: i32,
    #[prost(uint64, tag = "2")]
    pub(crate) default_timeout_microseconds: u64,
    #[prost(bool, tag = "3")]
    pub(crate) allow_timeout_override: bool,
    #[prost(uint32, tag = "4")]
    pub(crate) max_queue_size: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfigBatching {
    #[prost(int32, repeated, tag = "1")]
    pub(crate) preferred_batch_size: Vec<i32>,
    #[prost(uint64, tag = "2")]
    pub(crate) max_queue_delay_microseconds: u64,
    #[prost(bool, tag = "3")]
    pub(crate) preserve_ordering: bool,
    #[prost(uint64, tag = "4")]
    pub(crate) priority_levels: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) default_priority_level: u64,
    #[prost(message, optional, tag = "6")]
    pub(crate) default_queue_policy: Option<ConfigPolicy>,
    #[prost(btree_map = "uint64, message", tag = "7")]
    pub(crate) priority_queue_policy: BTreeMap<u64, ConfigPolicy>,
}

impl From<&crate::config::QueuePolicy> for ConfigPolicy {
    fn from(policy: &crate::config::QueuePolicy) -> ConfigPolicy {
        ConfigPolicy {
            timeout_action: policy.timeout_action as i32,
            default_timeout_microseconds: policy.default_timeout_microseconds,
            allow_timeout_override: policy.allow_timeout_override,
            max_queue_size: policy.max_queue_size,
        }
    }
}

impl From<&crate::config::DynamicBatching> for ConfigBatching {
    fn from(one: &crate::config::DynamicBatching) -> ConfigBatching {
        let own = &one.priority_queue_policy;
        let own = own.iter().filter_map(|(key, policy)| Some((key.parse().ok()?, policy.into())));
        ConfigBatching {
            preferred_batch_size: one.preferred_batch_size.clone(),
            max_queue_delay_microseconds: one.max_queue_delay_microseconds,
            preserve_ordering: one.preserve_ordering,
            priority_levels: one.priority_levels,
            default_priority_level: one.default_priority_level,
            default_queue_policy: Some((&one.default_queue_policy).into()),
            priority_queue_policy: own.collect(),
        }
    }
}

impl From<&crate::config::Config> for ModelConfig {
    fn from(config: &crate::config::Config) -> ModelConfig {
        let code = |one: &crate::config::Tensor| crate::dtypes::config_code(&one.data_type);
        let input = |one: &crate::config::Tensor| ConfigInput {
            name: one.name.clone(),
            data_type: code(one),
            dims: one.dims.clone(),
            optional: one.optional.unwrap_or(false),
        };
        let output = |one: &crate::config::Tensor| ConfigOutput {
            name: one.name.clone(),
            data_type: code(one),
            dims: one.dims.clone(),
            label_filename: one.label_filename.clone().unwrap_or_default(),
        };
        let group = |one: &crate::config::InstanceGroup| ConfigGroup {
            name: one.name.clone(),
            count: one.count,
            kind: one.kind as i32,
        };
        let parameter = |(key, one): (&String, &crate::config::Parameter)| {
            (key.clone(), ConfigParameter { string_value: one.string_value.clone() })
        };
        ModelConfig {
            name: config.name.clone(),
            platform: config.platform.clone(),
            max_batch_size: config.max_batch_size,
            input: config.input.iter().map(input).collect(),
            output: config.output.iter().map(output).collect(),
            instance_group: config.instance_group.iter().map(group).collect(),
            default_model_filename: config.default_model_filename.clone(),
            dynamic_batching: config.dynamic_batching.as_ref().map(Into::into),
            parameters: config.parameters.iter().map(parameter).collect(),
            backend: config.backend.clone(),
        }
    }
}

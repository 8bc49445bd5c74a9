//! What the server does, whatever the protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hetra::Tensor;
use serde_json::{Map, Value};

use crate::dtypes;
use crate::error::{Kind, Refusal};
use crate::model::{Model, Named, Urgency};
use crate::regions::{Place, Regions};
use crate::repository::Repository;
use crate::wire::{self, Contents};
use crate::{Options, tensors};

/// Parts of the protocol that are there, by Triton's names.
const EXTENSIONS: [&str; 8] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
];

/// Extra words of a request, an input or an output.
pub(crate) type Parameters = Map<String, Value>;

/// What an input holds.
pub(crate) enum Data {
    /// Nothing: it lies in shared memory.
    Elsewhere,
    Raw(Bytes),
    Json(Value),
    Typed(Contents),
}

/// An input of a request.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) parameters: Parameters,
    pub(crate) data: Data,
}

/// A request to run a model.
pub(crate) struct Request {
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) parameters: Parameters,
    pub(crate) inputs: Vec<Input>,
    /// The outputs that are wanted, and how; none: all.
    pub(crate) outputs: Vec<(String, Parameters)>,
}

/// An output of a request.
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    pub(crate) parameters: Parameters,
    /// Where it was put, and how many bytes it has there.
    pub(crate) place: Option<Place>,
}

/// What a request led to.
pub(crate) struct Response {
    pub(crate) model: Arc<Model>,
    pub(crate) outputs: Vec<Output>,
}

/// The server, without its connections.
pub(crate) struct Core {
    pub(crate) repository: Repository,
    pub(crate) regions: Regions,
    pub(crate) options: Options,
}

impl Core {
    /// Whether a token is the one that is asked for, in a header `authorization: Bearer ..`.
    pub(crate) fn admits(&self, header: Option<&[u8]>) -> Result<(), Refusal> {
        let Some(token) = &self.options.token else { return Ok(()) };
        let given = header.and_then(|header| header.strip_prefix(b"Bearer ")).unwrap_or_default();
        // How long it takes says nothing of where they differ.
        let differs = given.iter().zip(token.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        if given.len() == token.len() && differs == 0 {
            return Ok(());
        }
        Err(Refusal::new(Kind::Unauthenticated, "wanted the server's token (Bearer)"))
    }

    pub(crate) fn server_metadata(&self) -> wire::ServerMetadata {
        wire::ServerMetadata {
            name: "hetra".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_string).to_vec(),
        }
    }

    pub(crate) fn model_metadata(
        &self,
        name: &str,
        version: &str,
    ) -> Result<wire::ModelMetadata, Refusal> {
        let model = self.repository.get(name, version)?;
        let tensors = |inputs| {
            let port = |(name, dtype, shape)| wire::TensorMetadata {
                name,
                datatype: dtypes::name(dtype).unwrap_or_default().into(),
                shape,
            };
            model.ports(inputs).into_iter().map(port).collect()
        };
        Ok(wire::ModelMetadata {
            name: name.to_string(),
            versions: self.repository.versions(name),
            platform: model.config.platform.clone(),
            inputs: tensors(true),
            outputs: tensors(false),
        })
    }

    /// Of one model, or with no name of all of them.
    pub(crate) fn statistics(
        &self,
        name: &str,
        version: &str,
    ) -> Result<wire::Statistics, Refusal> {
        let models = match name {
            "" => self.repository.loaded(),
            name => vec![self.repository.get(name, version)?],
        };
        let told = |model: &Arc<Model>| model.stats().told(&model.name, model.version);
        Ok(wire::Statistics { model_stats: models.iter().map(told).collect() })
    }

    /// Loads a model. Of the parameters, those of text have it; `config` is a configuration in JSON
    /// that counts instead of the model's own.
    pub(crate) async fn load(
        self: &Arc<Core>,
        name: String,
        parameters: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<(), Refusal> {
        self.may_control()?;
        let mut config = None;
        for (name, value) in parameters {
            if name != "config" || value.is_none() {
                let text = format!("the parameter `{name}` of a load is not taken here");
                return Err(Refusal::new(Kind::Unsupported, text));
            }
            config = value;
        }
        self.blocking(move |core| core.repository.load(&name, config.as_deref())).await
    }

    pub(crate) async fn unload(self: &Arc<Core>, name: String) -> Result<(), Refusal> {
        self.may_control()?;
        self.blocking(move |core| core.repository.unload(&name)).await
    }

    fn may_control(&self) -> Result<(), Refusal> {
        match self.options.control {
            true => Ok(()),
            false => Err(Refusal::invalid("models are not loaded and unloaded by requests here")),
        }
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Core>,
        work: impl FnOnce(&Core) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let core = self.clone();
        let ended = tokio::task::spawn_blocking(move || work(&core)).await;
        ended.unwrap_or_else(|error| Err(Refusal::new(Kind::Failed, error.to_string())))
    }

    pub(crate) fn regions(&self, name: &str) -> Result<Vec<wire::RegionStatus>, Refusal> {
        let status = |(name, region): (String, Arc<crate::regions::Region>)| wire::RegionStatus {
            name,
            key: region.key.clone(),
            offset: region.offset,
            byte_size: region.byte_size,
        };
        Ok(self.regions.list(name)?.into_iter().map(status).collect())
    }

    /// Runs a model.
    pub(crate) async fn infer(&self, request: Request) -> Result<Response, Refusal> {
        let model = self.repository.get(&request.model, &request.version)?;
        let urgency = urgency(&request.parameters)?;
        // Before anything is read or made for them: to repeat a name costs its sender little.
        model.knows(request.inputs.iter().map(|input| input.name.as_str()))?;
        let inputs = request.inputs.into_iter().map(|input| self.tensor(input));
        let inputs = inputs.collect::<Result<Named, Refusal>>()?;
        let known = &model.config.output;
        if request.outputs.len() > known.len() {
            let (asked, known) = (request.outputs.len(), known.len());
            let text = format!("{asked} outputs are asked for; it has {known}");
            return Err(Refusal::invalid(format!("model `{}`: {text}", model.name)));
        }
        for (name, parameters) in &request.outputs {
            if !known.iter().any(|one| one.name == *name) {
                let known: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
                let text = format!("no output `{name}`; there are {}", known.join(", "));
                return Err(Refusal::invalid(format!("model `{}`: {text}", model.name)));
            }
            if parameters.contains_key("classification") {
                let text = "`classification` of outputs is not done here: ask for the scores";
                return Err(Refusal::new(Kind::Unsupported, text));
            }
        }
        let (made, model) = match model.infer(inputs.clone(), urgency).await {
            // It was loaded anew in the meantime: the new one does it.
            Err(refusal) if refusal.kind == Kind::Unavailable => {
                let newer = self.repository.get(&request.model, &request.version);
                let newer =
                    newer.ok().filter(|newer| !Arc::ptr_eq(newer, &model)).ok_or(refusal)?;
                (newer.infer(inputs, urgency).await?, newer)
            }
            made => (made?, model),
        };
        let wanted = match request.outputs.is_empty() {
            true => made.iter().map(|(name, _)| (name.clone(), Parameters::new())).collect(),
            false => request.outputs,
        };
        let mut outputs = Vec::new();
        for (name, parameters) in wanted {
            let tensor = made.iter().find(|(other, _)| *other == name).map(|(_, one)| one.clone());
            let missing = || Refusal::new(Kind::Failed, format!("the output `{name}` is missing"));
            let tensor = tensor.ok_or_else(missing)?;
            let place = match place(&parameters)? {
                Some(place) => {
                    let bytes = tensors::to_bytes(&tensor)?;
                    self.regions.write(&place, &bytes)?;
                    Some(Place { byte_size: bytes.len() as u64, ..place })
                }
                None => None,
            };
            outputs.push(Output { name, tensor, parameters, place });
        }
        Ok(Response { model, outputs })
    }

    fn tensor(&self, input: Input) -> Result<(String, Tensor), Refusal> {
        let Input { name, datatype, shape, parameters, data } = input;
        let (dtype, shape) = tensors::stated(&name, &datatype, &shape)?;
        let tensor = match (place(&parameters)?, data) {
            (Some(place), Data::Elsewhere) => {
                tensors::check_size(&name, dtype, &shape, place.byte_size, self.options.body_max)?;
                tensors::from_bytes(&name, dtype, &shape, self.regions.read(&place)?)?
            }
            (Some(_), _) => {
                let text = format!("input `{name}`: in shared memory, and in the request");
                return Err(Refusal::invalid(text));
            }
            (None, Data::Raw(bytes)) => tensors::from_bytes(&name, dtype, &shape, bytes)?,
            (None, Data::Json(value)) => tensors::from_json(&name, dtype, &shape, &value)?,
            (None, Data::Typed(contents)) => {
                tensors::from_contents(&name, dtype, &shape, contents)?
            }
            (None, Data::Elsewhere) => {
                return Err(Refusal::invalid(format!("input `{name}` has no data")));
            }
        };
        Ok((name, tensor))
    }
}

/// A whole number of some parameters, 0 or more; numbers in text are taken, as Triton takes them.
pub(crate) fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    let wrong = || Refusal::invalid(format!("the parameter `{name}`: wanted a number from 0 on"));
    number.map(Some).ok_or_else(wrong)
}

/// Where a tensor lies, where its parameters say so.
fn place(parameters: &Parameters) -> Result<Option<Place>, Refusal> {
    let Some(region) = parameters.get("shared_memory_region") else { return Ok(None) };
    let missing = |what: &str| Refusal::invalid(format!("shared memory: `{what}` is missing"));
    let region = region.as_str().ok_or_else(|| missing("shared_memory_region"))?.to_string();
    let byte_size = number(parameters, "shared_memory_byte_size")?;
    let byte_size = byte_size.ok_or_else(|| missing("shared_memory_byte_size"))?;
    let offset = number(parameters, "shared_memory_offset")?.unwrap_or(0);
    Ok(Some(Place { region, offset, byte_size }))
}

fn urgency(parameters: &Parameters) -> Result<Urgency, Refusal> {
    if number(parameters, "sequence_id").ok().flatten().is_some_and(|id| id != 0) {
        return Err(Refusal::new(Kind::Unsupported, "no model here keeps state between requests"));
    }
    let timeout = number(parameters, "timeout")?.filter(|&micros| micros > 0);
    let priority = number(parameters, "priority")?.unwrap_or(0);
    Ok(Urgency { priority, timeout: timeout.map(Duration::from_micros) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameters(value: Value) -> Parameters {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn parameters_are_read() {
        let all = parameters(json!({"priority": "2", "timeout": 1500, "custom": true}));
        let urgency = urgency(&all).unwrap();
        assert_eq!((urgency.priority, urgency.timeout), (2, Some(Duration::from_micros(1500))));
        assert!(super::urgency(&parameters(json!({"priority": -1}))).is_err());
        let state = super::urgency(&parameters(json!({"sequence_id": 3}))).unwrap_err();
        assert_eq!(state.kind, Kind::Unsupported);

        assert_eq!(place(&all).unwrap(), None);
        let all = json!({"shared_memory_region": "r", "shared_memory_byte_size": 8});
        let wanted = Place { region: "r".into(), offset: 0, byte_size: 8 };
        assert_eq!(place(&parameters(all)).unwrap(), Some(wanted));
        assert!(place(&parameters(json!({"shared_memory_region": "r"}))).is_err());
    }
}

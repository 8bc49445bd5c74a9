//! The protocol over gRPC.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use serde_json::Value;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::core::{self, Core, Data, Input, Output, Parameters};
use crate::dtypes;
use crate::error::{Kind, Refusal};
use crate::tensors;
use crate::wire::{self, Choice, InferRequest, InferResponse, InferTensor, LoadChoice};

/// The service of the protocol.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Core>);

impl NamedService for Service {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let core = self.0.clone();
        Box::pin(async move {
            let header = request.headers().get(http::header::AUTHORIZATION);
            let admits = core.admits(header.map(http::HeaderValue::as_bytes));
            // Whether the server is up is told to everybody.
            let is_health = ["ServerLive", "ServerReady"].contains(&method(&request));
            match admits {
                Err(refusal) if !is_health => return Ok(Status::from(refusal).into_http()),
                _ => {}
            }
            Ok(answer(core, request).await)
        })
    }
}

/// A messages' codec and limits.
fn grpc<A, Q>(core: &Core) -> Grpc<ProstCodec<A, Q>>
where
    A: Message + Default + 'static,
    Q: Message + Default + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::default())
        .max_decoding_message_size(core.options.body_max)
        .max_encoding_message_size(usize::MAX);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        grpc = grpc.accept_compressed(encoding);
    }
    grpc
}

async fn unary<Q, A, F>(
    core: Arc<Core>,
    request: http::Request<Body>,
    answer: impl Fn(Arc<Core>, Q) -> F + Send + Sync + 'static,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    let mut grpc = grpc::<A, Q>(&core);
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = answer(core.clone(), request.into_inner());
        async move { answer.await.map(Response::new).map_err(Status::from) }
    });
    grpc.unary(service, request).await
}

type Responses = Pin<Box<dyn Stream<Item = Result<wire::StreamResponse, Status>> + Send>>;

/// Requests of one stream run in their order.
async fn stream(core: Arc<Core>, request: http::Request<Body>) -> http::Response<Body> {
    let mut grpc = grpc::<wire::StreamResponse, InferRequest>(&core);
    let service = tower::service_fn(move |request: Request<Streaming<InferRequest>>| {
        let core = core.clone();
        let responses = request.into_inner().then(move |one| {
            let core = core.clone();
            async move {
                let one = one?;
                // A client finds what it asked by its id, also where that failed.
                let (id, model_name) = (one.id.clone(), one.model_name.clone());
                let failed = InferResponse { id, model_name, ..InferResponse::default() };
                let (error, response) = match infer(core, one).await {
                    Ok(response) => (String::new(), response),
                    Err(refusal) => (refusal.text, failed),
                };
                Ok(wire::StreamResponse { error, response: Some(response) })
            }
        });
        let responses: Responses = Box::pin(responses);
        async move { Ok::<_, Status>(Response::new(responses)) }
    });
    grpc.streaming(service, request).await
}

/// The call that a request is.
fn method(request: &http::Request<Body>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

async fn answer(core: Arc<Core>, request: http::Request<Body>) -> http::Response<Body> {
    let method = method(&request).to_string();
    match method.as_str() {
        "ServerLive" => {
            unary(core, request, |_, _: wire::Empty| async { Ok(wire::Live { live: true }) }).await
        }
        "ServerReady" => {
            unary(core, request, |_, _: wire::Empty| async { Ok(wire::Ready { ready: true }) })
                .await
        }
        "ModelReady" => {
            unary(core, request, |core, one: wire::ModelName| async move {
                let ready = core.repository.get(&one.name, &one.version).is_ok();
                Ok(wire::Ready { ready })
            })
            .await
        }
        "ServerMetadata" => {
            unary(core, request, |core, _: wire::Empty| async move { Ok(core.server_metadata()) })
                .await
        }
        "ModelMetadata" => {
            unary(core, request, |core, one: wire::ModelName| async move {
                core.model_metadata(&one.name, &one.version)
            })
            .await
        }
        "ModelConfig" => {
            unary(core, request, |core, one: wire::ModelName| async move {
                let model = core.repository.get(&one.name, &one.version)?;
                Ok(wire::ConfigResponse { config: Some((&model.config).into()) })
            })
            .await
        }
        "ModelStatistics" => {
            unary(core, request, |core, one: wire::ModelName| async move {
                core.statistics(&one.name, &one.version)
            })
            .await
        }
        "ModelInfer" => unary(core, request, infer).await,
        "ModelStreamInfer" => stream(core, request).await,
        _ => answer_of_control(core, request, &method).await,
    }
}

/// The calls that change what is there.
async fn answer_of_control(
    core: Arc<Core>,
    request: http::Request<Body>,
    method: &str,
) -> http::Response<Body> {
    match method {
        "RepositoryIndex" => {
            unary(core, request, |core, one: wire::IndexRequest| async move {
                Ok(wire::Index { models: core.repository.index(one.ready) })
            })
            .await
        }
        "RepositoryModelLoad" => unary(core, request, load).await,
        "RepositoryModelUnload" => {
            unary(core, request, |core, one: wire::LoadRequest| async move {
                core.unload(one.model_name).await.map(|()| wire::Empty {})
            })
            .await
        }
        "SystemSharedMemoryStatus" => {
            unary(core, request, |core, one: wire::RegionName| async move {
                let regions = core.regions(&one.name)?.into_iter();
                let regions = regions.map(|region| (region.name.clone(), region)).collect();
                Ok(wire::RegionsStatus { regions })
            })
            .await
        }
        "SystemSharedMemoryRegister" => {
            unary(core, request, |core, one: wire::RegionStatus| async move {
                core.regions.register(&one.name, &one.key, one.offset, one.byte_size)?;
                Ok(wire::Empty {})
            })
            .await
        }
        "SystemSharedMemoryUnregister" => {
            unary(core, request, |core, one: wire::RegionName| async move {
                core.regions.unregister(&one.name);
                Ok(wire::Empty {})
            })
            .await
        }
        // No region is ever registered: a client that cleans up has nothing to be refused.
        "CudaSharedMemoryStatus" | "CudaSharedMemoryUnregister" => {
            unary(core, request, |_, _: wire::Empty| async { Ok(wire::Empty {}) }).await
        }
        method => {
            let text = format!("`{method}` is not done here");
            Status::from(Refusal::new(Kind::Unsupported, text)).into_http()
        }
    }
}

async fn load(core: Arc<Core>, one: wire::LoadRequest) -> Result<wire::Empty, Refusal> {
    let text = |value: wire::LoadParameter| match value.choice {
        Some(LoadChoice::Text(text)) => Some(text),
        _ => None,
    };
    let parameters = one.parameters.into_iter().map(|(name, value)| (name, text(value)));
    core.load(one.model_name, parameters).await.map(|()| wire::Empty {})
}

async fn infer(core: Arc<Core>, request: InferRequest) -> Result<InferResponse, Refusal> {
    let id = request.id.clone();
    let request = read(request)?;
    let response = core.infer(request).await?;
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for Output { name, tensor, place, .. } in response.outputs {
        let mut parameters = BTreeMap::new();
        match place {
            Some(place) => {
                let mut add = |name: &str, choice| {
                    parameters.insert(name.into(), wire::Parameter { choice: Some(choice) });
                };
                add("shared_memory_region", Choice::Text(place.region));
                add("shared_memory_byte_size", Choice::Int(place.byte_size as i64));
                if place.offset > 0 {
                    add("shared_memory_offset", Choice::Int(place.offset as i64));
                }
                // Clients count contents by outputs, also by those that lie elsewhere.
                raw.push(bytes::Bytes::new());
            }
            None => raw.push(tensors::to_bytes(&tensor)?),
        }
        outputs.push(InferTensor {
            name,
            datatype: dtypes::name(tensor.dtype()).unwrap_or_default().into(),
            shape: tensor.shape().iter().map(|&one| one as i64).collect(),
            parameters,
            contents: None,
        });
    }
    Ok(InferResponse {
        model_name: response.model.name.clone(),
        model_version: response.model.version.to_string(),
        id,
        parameters: BTreeMap::new(),
        outputs,
        raw,
    })
}

fn read(request: InferRequest) -> Result<core::Request, Refusal> {
    let in_request = |input: &InferTensor| !input.parameters.contains_key("shared_memory_region");
    let wanted = request.inputs.iter().filter(|input| in_request(input)).count();
    let is_raw = !request.raw.is_empty();
    if is_raw && request.raw.len() != wanted {
        let text = format!("wanted raw contents of {wanted} inputs, got {}", request.raw.len());
        return Err(Refusal::invalid(text));
    }
    let mut raw = request.raw.into_iter();
    let mut inputs = Vec::new();
    for input in request.inputs {
        let data = match (in_request(&input), input.contents) {
            (false, _) => Data::Elsewhere,
            (true, None) => raw.next().map_or(Data::Elsewhere, Data::Raw),
            (true, Some(_)) if is_raw => {
                let text = format!("input `{}`: contents beside raw contents", input.name);
                return Err(Refusal::invalid(text));
            }
            (true, Some(contents)) => Data::Typed(contents),
        };
        let parameters = parameters(input.parameters);
        let InferTensor { name, datatype, shape, .. } = input;
        inputs.push(Input { name, datatype, shape, parameters, data });
    }
    let outputs = request.outputs.into_iter().map(|one| (one.name, parameters(one.parameters)));
    Ok(core::Request {
        model: request.model_name,
        version: request.model_version,
        parameters: parameters(request.parameters),
        inputs,
        outputs: outputs.collect(),
    })
}

fn parameters(all: wire::Parameters) -> Parameters {
    let value = |parameter: wire::Parameter| match parameter.choice {
        Some(Choice::Bool(one)) => Value::from(one),
        Some(Choice::Int(one)) => Value::from(one),
        Some(Choice::Text(one)) => Value::from(one),
        Some(Choice::Float(one)) => Value::from(one),
        Some(Choice::Uint(one)) => Value::from(one),
        None => Value::Null,
    };
    all.into_iter().map(|(name, one)| (name, value(one))).collect()
}

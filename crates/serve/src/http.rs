//! The protocol over HTTP.

use std::io::Read;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::{self, Core, Data, Input, Output, Parameters, number};
use crate::dtypes;
use crate::error::{Kind, Refusal};
use crate::tensors;

/// How long the JSON at a body's start is, where bytes of tensors follow.
const JSON_LENGTH: &str = "inference-header-content-length";

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(json!({"error": self.text}))).into_response();
        if let Some(seconds) = self.again_s() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// What each path is given.
type Served = State<Arc<Core>>;
type Answer = Result<Response, Refusal>;

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response()),
        Err(error) => Err(Refusal::new(Kind::Failed, error.to_string())),
    }
}

/// All paths of the protocol.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let model = |version: &str| {
        let path = |rest: &str| format!("/v2/models/{{model}}{version}{rest}");
        Router::new()
            .route(&path(""), get(metadata))
            .route(&path("/ready"), get(ready))
            .route(&path("/config"), get(config))
            .route(&path("/stats"), get(statistics))
            .route(&path("/infer"), post(infer))
    };
    let shared = "/v2/systemsharedmemory";
    Router::new()
        .route("/v2", get(|State(core): Served| async move { json(&core.server_metadata()) }))
        .route("/v2/", get(|State(core): Served| async move { json(&core.server_metadata()) }))
        .route("/v2/health/live", get(|| async { StatusCode::OK }))
        .route("/v2/health/ready", get(|| async { StatusCode::OK }))
        .route("/v2/models/stats", get(all_statistics))
        .merge(model(""))
        .merge(model("/versions/{version}"))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route(&format!("{shared}/status"), get(all_regions))
        .route(&format!("{shared}/region/{{name}}/status"), get(region))
        .route(&format!("{shared}/region/{{name}}/register"), post(register))
        .route(&format!("{shared}/region/{{name}}/unregister"), post(unregister))
        .route(&format!("{shared}/unregister"), post(unregister_all))
        // No region is ever registered: a client that cleans up has nothing to be refused.
        .route("/v2/cudasharedmemory/status", get(|| async { axum::Json(json!([])) }))
        .route("/v2/cudasharedmemory/unregister", post(|| async { StatusCode::OK }))
        .fallback(|request: Request| async move {
            let text = format!("there is no `{} {}`", request.method(), request.uri().path());
            Refusal::new(Kind::NotFound, text)
        })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, axum::Json(json!({"error": "not by this method"})))
        })
        .layer(middleware::from_fn_with_state(core.clone(), admitted))
        .with_state(core)
}

/// Whether the server is up is told to everybody.
async fn admitted(State(core): Served, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let admits = core.admits(header.map(axum::http::HeaderValue::as_bytes));
    match admits {
        Err(refusal) if !request.uri().path().starts_with("/v2/health/") => refusal.into_response(),
        _ => next.run(request).await,
    }
}

/// A model's name, and its version where the path has one.
#[derive(Deserialize)]
struct Which {
    model: String,
    #[serde(default)]
    version: String,
}

async fn metadata(State(core): Served, Path(which): Path<Which>) -> Answer {
    json(&core.model_metadata(&which.model, &which.version)?)
}

async fn ready(State(core): Served, Path(which): Path<Which>) -> Answer {
    // A client asks whether, not why: no model is 400 here, as Triton has it.
    let found = core.repository.get(&which.model, &which.version);
    found.map_err(|refusal| Refusal::invalid(refusal.text))?;
    Ok(StatusCode::OK.into_response())
}

async fn config(State(core): Served, Path(which): Path<Which>) -> Answer {
    json(&core.repository.get(&which.model, &which.version)?.config)
}

async fn statistics(State(core): Served, Path(which): Path<Which>) -> Answer {
    json(&core.statistics(&which.model, &which.version)?)
}

async fn all_statistics(State(core): Served) -> Answer {
    json(&core.statistics("", "")?)
}

async fn index(State(core): Served, headers: HeaderMap, body: Body) -> Answer {
    #[derive(Default, Deserialize)]
    struct Ask {
        #[serde(default)]
        ready: bool,
    }
    let body = whole(&core, &headers, body).await?;
    let ask: Ask = if body.is_empty() { Ask::default() } else { parsed(&body)? };
    json(&core.repository.index(ask.ready))
}

async fn load(
    State(core): Served,
    Path(which): Path<Which>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    #[derive(Default, Deserialize)]
    struct Ask {
        #[serde(default)]
        parameters: Parameters,
    }
    let body = whole(&core, &headers, body).await?;
    let ask: Ask = if body.is_empty() { Ask::default() } else { parsed(&body)? };
    let text = |value: Value| value.as_str().map(str::to_string);
    let parameters = ask.parameters.into_iter().map(|(name, value)| (name, text(value)));
    core.load(which.model, parameters).await?;
    Ok(StatusCode::OK.into_response())
}

async fn unload(State(core): Served, Path(which): Path<Which>) -> Answer {
    core.unload(which.model).await?;
    Ok(StatusCode::OK.into_response())
}

async fn all_regions(State(core): Served) -> Answer {
    json(&core.regions("")?)
}

async fn region(State(core): Served, Path(name): Path<String>) -> Answer {
    json(&core.regions(&name)?)
}

async fn register(
    State(core): Served,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    #[derive(Deserialize)]
    struct Ask {
        key: String,
        #[serde(default)]
        offset: u64,
        byte_size: u64,
    }
    let ask: Ask = parsed(&whole(&core, &headers, body).await?)?;
    core.regions.register(&name, &ask.key, ask.offset, ask.byte_size)?;
    Ok(StatusCode::OK.into_response())
}

async fn unregister(State(core): Served, Path(name): Path<String>) -> Answer {
    core.regions.unregister(&name);
    Ok(StatusCode::OK.into_response())
}

async fn unregister_all(State(core): Served) -> Answer {
    core.regions.unregister("");
    Ok(StatusCode::OK.into_response())
}

fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("the JSON: {error}")))
}

/// A body, decompressed; refused where it is larger than the server takes, before or after.
async fn whole(core: &Core, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let most = core.options.body_max;
    let too_large = || Refusal::new(Kind::TooLarge, format!("the body has more than {most} bytes"));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| length > most) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(body, most).await.map_err(|error| {
        let text = error.to_string();
        if text.contains("limit") { too_large() } else { Refusal::invalid(text) }
    })?;
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
    let mut reader: Box<dyn Read + Send> = match encoding {
        None | Some(b"" | b"identity") => return Ok(bytes),
        Some(b"gzip") => Box::new(flate2::bufread::MultiGzDecoder::new(&bytes[..])),
        Some(b"deflate") => Box::new(flate2::bufread::ZlibDecoder::new(&bytes[..])),
        Some(other) => {
            let text = format!("content-encoding `{}`", String::from_utf8_lossy(other));
            return Err(Refusal::invalid(format!("{text}: wanted gzip or deflate")));
        }
    };
    let mut plain = Vec::new();
    let read = (&mut reader).take(most as u64 + 1).read_to_end(&mut plain);
    read.map_err(|error| Refusal::invalid(format!("the compressed body: {error}")))?;
    if plain.len() > most { Err(too_large()) } else { Ok(plain.into()) }
}

/// The JSON of a request.
#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<AskInput>,
    #[serde(default)]
    outputs: Vec<AskOutput>,
}

#[derive(Deserialize)]
struct AskInput {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Parameters,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct AskOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

async fn infer(
    State(core): Served,
    Path(which): Path<Which>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let body = whole(&core, &headers, body).await?;
    let (ask, raw) = split(&headers, &body)?;
    let (id, is_binary) = (ask.id.clone(), flag(&ask.parameters, "binary_data_output"));
    let request = read(which, ask, raw)?;
    let response = core.infer(request).await?;
    let mut outputs = Vec::new();
    let mut binary = Vec::new();
    for output in response.outputs {
        let wants = flag(&output.parameters, "binary_data").unwrap_or(is_binary.unwrap_or(false));
        let Output { name, tensor, place, .. } = output;
        let mut one = json!({
            "name": name,
            "datatype": dtypes::name(tensor.dtype()),
            "shape": tensor.shape(),
        });
        if place.is_some() {
            // Whoever asked knows where it is. Clients take parameters for those of bytes behind.
        } else if wants {
            let bytes = tensors::to_bytes(&tensor)?;
            one["parameters"] = json!({"binary_data_size": bytes.len()});
            binary.push(bytes);
        } else {
            one["data"] = tensors::to_json(&name, &tensor)?;
        }
        outputs.push(one);
    }
    let mut told = json!({
        "model_name": response.model.name,
        "model_version": response.model.version.to_string(),
        "outputs": outputs,
    });
    if !id.is_empty() {
        told["id"] = id.into();
    }
    answered(&headers, &told, &binary)
}

/// A response: JSON, and bytes of tensors behind it; compressed where that is asked for.
fn answered(headers: &HeaderMap, told: &Value, binary: &[Bytes]) -> Answer {
    let failed = |error: &dyn std::fmt::Display| Refusal::new(Kind::Failed, error.to_string());
    let text = serde_json::to_vec(told).map_err(|error| failed(&error))?;
    let mut response = Response::builder();
    if !binary.is_empty() {
        response = response.header(JSON_LENGTH, text.len());
        response = response.header(header::CONTENT_TYPE, "application/octet-stream");
    } else {
        response = response.header(header::CONTENT_TYPE, "application/json");
    }
    let length = text.len() + binary.iter().map(Bytes::len).sum::<usize>();
    let mut body = BytesMut::with_capacity(length);
    body.extend_from_slice(&text);
    binary.iter().for_each(|bytes| body.extend_from_slice(bytes));
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let accepts = |name: &str| {
        let mut names = accepted.unwrap_or_default().split(',').map(|one| one.split(';').next());
        names.any(|one| one.is_some_and(|one| one.trim() == name))
    };
    let level = flate2::Compression::fast();
    let mut packed = Vec::new();
    let body = if accepts("gzip") {
        response = response.header(header::CONTENT_ENCODING, "gzip");
        let mut encoder = flate2::bufread::GzEncoder::new(&body[..], level);
        encoder.read_to_end(&mut packed).map_err(|error| failed(&error))?;
        packed.into()
    } else if accepts("deflate") {
        response = response.header(header::CONTENT_ENCODING, "deflate");
        let mut encoder = flate2::bufread::ZlibEncoder::new(&body[..], level);
        encoder.read_to_end(&mut packed).map_err(|error| failed(&error))?;
        packed.into()
    } else {
        body.freeze()
    };
    response.body(Body::from(body)).map_err(|error| failed(&error))
}

fn flag(parameters: &Parameters, name: &str) -> Option<bool> {
    parameters.get(name)?.as_bool()
}

/// The JSON of a body, and the bytes behind it.
fn split(headers: &HeaderMap, body: &Bytes) -> Result<(Ask, Bytes), Refusal> {
    let Some(length) = headers.get(JSON_LENGTH) else {
        return Ok((parsed(body)?, Bytes::new()));
    };
    let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
    let length = length.filter(|&length| length <= body.len());
    let wrong =
        || Refusal::invalid(format!("`{JSON_LENGTH}`: wanted a number up to {}", body.len()));
    let length = length.ok_or_else(wrong)?;
    Ok((parsed(&body[..length])?, body.slice(length..)))
}

fn read(which: Which, ask: Ask, mut raw: Bytes) -> Result<core::Request, Refusal> {
    let mut inputs = Vec::new();
    for AskInput { name, datatype, shape, parameters, data } in ask.inputs {
        let size = number(&parameters, "binary_data_size")?;
        let data = match (data, size) {
            (Some(_), Some(_)) => {
                let text = format!("input `{name}`: data in the JSON, and bytes behind it");
                return Err(Refusal::invalid(text));
            }
            (Some(value), None) => Data::Json(value),
            (None, Some(size)) => {
                let left = raw.len();
                let size = usize::try_from(size).ok().filter(|&size| size <= left);
                let wrong = || {
                    Refusal::invalid(format!("input `{name}`: only {left} bytes are left of it"))
                };
                Data::Raw(raw.split_to(size.ok_or_else(wrong)?))
            }
            (None, None) => Data::Elsewhere,
        };
        inputs.push(Input { name, datatype, shape, parameters, data });
    }
    if !raw.is_empty() {
        return Err(Refusal::invalid(format!("{} bytes belong to no input", raw.len())));
    }
    let outputs = ask.outputs.into_iter().map(|one| (one.name, one.parameters)).collect();
    let Which { model, version } = which;
    Ok(core::Request { model, version, parameters: ask.parameters, inputs, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_split_into_json_and_bytes() {
        let text = r#"{"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "y", "datatype": "INT8", "shape": [1], "data": [1]}]}"#;
        let body = Bytes::from(format!("{text}abcd"));
        let mut headers = HeaderMap::new();
        let read = |headers: &HeaderMap| {
            let (ask, raw) = split(headers, &body)?;
            super::read(Which { model: "m".into(), version: String::new() }, ask, raw)
        };
        headers.insert(JSON_LENGTH, text.len().into());
        let request = read(&headers).unwrap();
        assert!(matches!(&request.inputs[0].data, Data::Raw(bytes) if bytes == "abcd"));
        assert!(matches!(&request.inputs[1].data, Data::Json(_)));
        for (length, wanted) in
            [(text.len() + 5, "wanted a number up to"), (text.len() - 1, "the JSON")]
        {
            headers.insert(JSON_LENGTH, length.into());
            assert!(read(&headers).err().unwrap().text.contains(wanted));
        }
    }

    #[tokio::test]
    async fn compressed_bodies_are_bounded() {
        let options = crate::Options { body_max: 1000, ..crate::Options::default() };
        let core = Core::new(options);
        let packed = |length: usize| {
            let zeros = vec![0u8; length];
            let mut packed = Vec::new();
            let mut encoder = flate2::bufread::GzEncoder::new(&zeros[..], Default::default());
            encoder.read_to_end(&mut packed).unwrap();
            packed
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        let small = whole(&core, &headers, Body::from(packed(1000))).await.unwrap();
        assert_eq!(small.len(), 1000);
        let large = whole(&core, &headers, Body::from(packed(1001))).await.unwrap_err();
        assert_eq!(large.kind, Kind::TooLarge);
        let broken = whole(&core, &headers, Body::from("no gzip")).await.unwrap_err();
        assert_eq!(broken.kind, Kind::Invalid);
        headers.remove(header::CONTENT_ENCODING);
        let large = whole(&core, &headers, Body::from(vec![0; 1001])).await.unwrap_err();
        assert_eq!(large.kind, Kind::TooLarge);
    }
}

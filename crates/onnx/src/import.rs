//! ONNX bytes to a graph.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use hetra_ir::Graph;
use hetra_ops::{find_onnx, newest_version};
use hetra_tensor::Blob;
use prost::Message;
use prost::bytes::Bytes;

use crate::error::{ImportError, title};
use crate::export::IR_VERSION;
use crate::external::Folder;
use crate::proto::{ModelProto, OperatorSetIdProto};
use crate::reader::Reader;
use crate::tensors::{External, decode_error};

/// How to import.
#[derive(Clone, Copy, Default)]
pub struct ImportOptions<'a> {
    /// Reads data that lies in other files; without it a model with such data is refused.
    pub external: Option<External<'a>>,
    /// Operators that Hetra does not know stay in the graph (to look at it) instead of being an
    /// error.
    pub allow_unknown_ops: bool,
    /// Reads a file of a newer format or operator set than Hetra knows as if it were of the newest
    /// known: right as long as nothing that the model uses has changed since.
    pub allow_newer: bool,
}

/// A graph and what its file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The graph.
    pub graph: Graph,
    /// What the file says about itself.
    pub info: ModelInfo,
}

/// What a file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of each imported operator set, by domain; empty for ai.onnx.
    pub opsets: BTreeMap<String, u32>,
    /// The program that wrote the file.
    pub producer: String,
    /// Its version.
    pub producer_version: String,
    /// The domain of the model.
    pub domain: String,
    /// The version of the model.
    pub model_version: i64,
    /// Documentation.
    pub doc: String,
    /// Any other facts, in the order of the file.
    pub metadata: Vec<(String, String)>,
    /// Number of model-local functions, which the import has inlined.
    pub functions: usize,
    /// What is odd about the nodes of the file, and was passed over: the first of it.
    pub warnings: Vec<String>,
    /// The files of external data that were read, in order.
    pub data_files: Vec<PathBuf>,
}

/// Reads a graph from the bytes of an ONNX file.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn import(bytes: &[u8], options: &ImportOptions<'_>) -> Result<Graph, ImportError> {
    Ok(import_model(bytes, options)?.graph)
}

/// Reads a graph and the file's facts from the bytes of an ONNX file.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn import_model(bytes: &[u8], options: &ImportOptions<'_>) -> Result<Model, ImportError> {
    build(&ModelProto::decode(bytes).map_err(|error| decode_error(&error))?, options, None)
}

/// As [`import_model`], from bytes that the caller gives away: weights stay where they lie in them.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn import_blob(bytes: Blob, options: &ImportOptions<'_>) -> Result<Model, ImportError> {
    // Blobs of the messages share the memory of the file.
    let proto = ModelProto::decode(Bytes::from_owner(bytes.clone()));
    build(&proto.map_err(|error| decode_error(&error))?, options, Some(&bytes))
}

/// Reads a model from a file; data in other files is read from its folder (unless `options`
/// bring their own way). Files are mapped where [`Blob::open`] finds that safe: large weights stay
/// in them until they are needed, so do not write into a file while its graph is in use; to replace
/// it (by renaming another one) is fine.
///
/// # Errors
/// What is wrong with the file, and where.
pub fn import_file(
    path: impl AsRef<Path>,
    options: &ImportOptions<'_>,
) -> Result<Model, ImportError> {
    let path = path.as_ref();
    let io = |error: std::io::Error| ImportError::Io {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let bytes = Blob::open(path).map_err(io)?;
    let folder = Folder::of(path).map_err(io)?;
    let read = |location: &str, offset, length| folder.read(location, offset, length);
    let external = Some(options.external.unwrap_or(&read));
    let mut model = import_blob(bytes, &ImportOptions { external, ..*options })?;
    model.info.data_files = folder.files();
    Ok(model)
}

fn build(
    proto: &ModelProto,
    options: &ImportOptions<'_>,
    file: Option<&Blob>,
) -> Result<Model, ImportError> {
    let graph = proto.graph.as_ref().ok_or(ImportError::NoGraph)?;
    let ir_version = proto.ir_version.unwrap_or(0);
    if ir_version > IR_VERSION && !options.allow_newer {
        let what = "version of the file format".to_string();
        return Err(ImportError::TooNew { what, got: ir_version, newest: IR_VERSION });
    }
    let mut opsets = opsets(&proto.opset_import, options)?;
    if opsets.is_empty() && ir_version < 3 {
        // Such files know no operator sets: they mean the first.
        opsets.insert("", 1);
    }
    let mut info = ModelInfo {
        ir_version,
        opsets: opsets.iter().map(|(domain, version)| (domain.to_string(), *version)).collect(),
        producer: proto.producer_name.clone(),
        producer_version: proto.producer_version.clone(),
        domain: proto.domain.clone(),
        model_version: proto.model_version,
        doc: proto.doc_string.clone(),
        metadata: proto
            .metadata_props
            .iter()
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect(),
        functions: proto.functions.len(),
        warnings: Vec::new(),
        data_files: Vec::new(),
    };
    let mut reader = Reader::new(&proto.functions, options, file, ir_version)?;
    let graph = reader.model(graph, opsets)?;
    info.warnings = reader.warnings;
    Ok(Model { graph, info })
}

/// The domains whose operators change from version to version: what ONNX itself defines.
pub(crate) const VERSIONED: &[&str] = &["", "ai.onnx.ml"];

/// Version by domain.
pub(crate) fn opsets<'a>(
    imports: &'a [OperatorSetIdProto],
    options: &ImportOptions<'_>,
) -> Result<HashMap<&'a str, u32>, ImportError> {
    let read = |import: &OperatorSetIdProto| {
        let (domain, got) = (domain_of(&import.domain), import.version.unwrap_or(0));
        let version = u32::try_from(got).ok().filter(|version| *version > 0);
        let none = || ImportError::OpsetVersion { domain: import.domain.clone(), version: got };
        let version = version.ok_or_else(none)?;
        let newest = newest_version(domain);
        if VERSIONED.contains(&domain) && version > newest && !options.allow_newer {
            let what = format!("opset of {}", title(domain));
            return Err(ImportError::TooNew { what, got, newest: newest.into() });
        }
        Ok(version)
    };
    imports.iter().map(|import| Ok((domain_of(&import.domain), read(import)?))).collect()
}

/// The domain under its short name.
pub(crate) fn domain_of(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Our name of an operator; unknown ones are named in our way.
pub(crate) fn op_name(domain: &str, op: &str) -> (String, bool) {
    match find_onnx(domain, op) {
        Some(def) => (def.name.to_string(), true),
        None if domain.is_empty() => (op.to_string(), false),
        None => (format!("{domain}.{op}"), false),
    }
}

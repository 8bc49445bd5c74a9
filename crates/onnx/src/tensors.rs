//! Tensors and values, between their ONNX messages and ours.

use hetra_ir::Type;
use hetra_tensor::{Blob, DType, Tensor, TensorError, Value, element_count, to_i64};
use prost::Message;
use prost::bytes::Bytes;

use crate::error::{ImportError, TensorFault};
use crate::proto::{OptionalProto, SequenceProto, SparseTensorProto, TensorProto, element_type};

/// Reads a part of another file: location, offset, length.
pub type External<'a> = &'a dyn Fn(&str, u64, Option<u64>) -> Result<Blob, String>;

/// Where elements may lie, outside the message of a tensor or in it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Origin<'a> {
    pub(crate) external: Option<External<'a>>,
    /// The bytes that the messages were decoded from, and that their blobs are parts of.
    pub(crate) file: Option<&'a Blob>,
}

/// Tensors of fewer bytes are copied out of their file: they are read again and again, and must
/// not keep its pages in memory.
const LENT_BYTES_MIN: usize = 4096;

/// Decodes a `TensorProto` (the `.pb` files of ONNX test data) into its name and elements.
///
/// # Errors
/// When the bytes are no tensor, or its elements lie in another file.
pub fn tensor_from_bytes(bytes: &[u8]) -> Result<(String, Tensor), ImportError> {
    let proto = TensorProto::decode(bytes).map_err(|error| decode_error(&error))?;
    let tensor = tensor(&proto, Origin::default()).map_err(|source| named(&proto.name, source))?;
    Ok((proto.name, tensor))
}

/// Encodes a tensor as a `TensorProto`.
pub fn tensor_to_bytes(name: &str, tensor: &Tensor) -> Vec<u8> {
    to_proto(name, tensor).encode_to_vec()
}

/// Decodes a value of ONNX test data; `ty` (of the graph's input or output) tells which message
/// the bytes hold.
///
/// # Errors
/// When the bytes are no such value.
pub fn value_from_pb(bytes: &[u8], ty: &Type) -> Result<Value, ImportError> {
    let value = match ty {
        Type::Sequence(_) => {
            let proto = SequenceProto::decode(bytes).map_err(|error| decode_error(&error))?;
            sequence(&proto)
        }
        Type::Optional(_) => {
            let proto = OptionalProto::decode(bytes).map_err(|error| decode_error(&error))?;
            optional(&proto)
        }
        Type::Tensor(_) | Type::Unknown => return Ok(tensor_from_bytes(bytes)?.1.into()),
    };
    value.map_err(|source| named("", source))
}

pub(crate) fn decode_error(error: &prost::DecodeError) -> ImportError {
    ImportError::Decode(error.to_string())
}

pub(crate) fn named(tensor: &str, source: TensorFault) -> ImportError {
    ImportError::Tensor { tensor: tensor.to_string(), source }
}

fn sequence(proto: &SequenceProto) -> Result<Value, TensorFault> {
    let items: Result<Vec<Value>, TensorFault> = match proto.elem_type {
        element_type::UNDEFINED | element_type::TENSOR => proto
            .tensor_values
            .iter()
            .map(|item| Ok(tensor(item, Origin::default())?.into()))
            .collect(),
        element_type::SPARSE_TENSOR => proto
            .sparse_tensor_values
            .iter()
            .map(|item| Ok(sparse(item, Origin::default())?.into()))
            .collect(),
        element_type::SEQUENCE => proto.sequence_values.iter().map(sequence).collect(),
        element_type::OPTIONAL => proto.optional_values.iter().map(optional).collect(),
        other => Err(TensorFault::Element(other)),
    };
    Ok(Value::Sequence(items?))
}

fn optional(proto: &OptionalProto) -> Result<Value, TensorFault> {
    let inner = match proto.elem_type {
        element_type::UNDEFINED => None,
        element_type::TENSOR => {
            proto.tensor_value.as_ref().map(|item| tensor(item, Origin::default()).map(Value::from))
        }
        element_type::SPARSE_TENSOR => proto
            .sparse_tensor_value
            .as_ref()
            .map(|item| sparse(item, Origin::default()).map(Value::from)),
        element_type::SEQUENCE => proto.sequence_value.as_ref().map(sequence),
        element_type::OPTIONAL => proto.optional_value.as_ref().map(|item| optional(item)),
        other => Some(Err(TensorFault::Element(other))),
    };
    Ok(Value::Optional(inner.transpose()?.map(Box::new)))
}

/// Most axes that a tensor may have.
pub(crate) const RANK_MAX: usize = 64;

fn shape_of(dims: &[i64]) -> Result<Vec<usize>, TensorFault> {
    if dims.len() > RANK_MAX {
        return Err(TensorFault::Rank { rank: dims.len(), max: RANK_MAX });
    }
    let extent = |dim: &i64| usize::try_from(*dim).map_err(|_| TensorFault::Extent(*dim));
    dims.iter().map(extent).collect()
}

pub(crate) fn dtype_of(code: i32) -> Result<DType, TensorFault> {
    DType::from_onnx(code).ok_or(TensorFault::DType(code))
}

/// The tensor of a message.
pub(crate) fn tensor(proto: &TensorProto, origin: Origin<'_>) -> Result<Tensor, TensorFault> {
    const EXTERNAL: i32 = 1;
    let dtype = dtype_of(proto.data_type)?;
    let shape = shape_of(&proto.dims)?;
    if proto.data_location == EXTERNAL {
        return from_blob(dtype, &shape, read_external(proto, dtype, &shape, origin.external)?);
    }
    if dtype == DType::String {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| TensorFault::Text);
        let texts: Vec<String> = proto.string_data.iter().map(text).collect::<Result<_, _>>()?;
        return Ok(Tensor::from_strings(&shape, texts)?);
    }
    match &proto.raw_data {
        Some(raw) if !raw.is_empty() => match origin.file.and_then(|file| file.find(raw)) {
            Some(blob) => from_blob(dtype, &shape, blob),
            None => from_raw(dtype, &shape, raw),
        },
        _ => from_fields(proto, dtype, &shape),
    }
}

/// Elements in the typed fields of the message.
fn from_fields(proto: &TensorProto, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorFault> {
    let tensor = match dtype {
        DType::F32 => Tensor::from_slice(shape, &proto.float_data)?,
        DType::F64 => Tensor::from_slice(shape, &proto.double_data)?,
        DType::I64 => Tensor::from_slice(shape, &proto.int64_data)?,
        DType::U64 => Tensor::from_slice(shape, &proto.uint64_data)?,
        DType::I32 => Tensor::from_slice(shape, &proto.int32_data)?,
        DType::C64 => from_raw(dtype, shape, &bytes_of(&proto.float_data, f32::to_le_bytes))?,
        DType::C128 => from_raw(dtype, shape, &bytes_of(&proto.double_data, f64::to_le_bytes))?,
        DType::U32 => {
            let low = |value: u64| std::array::from_fn::<u8, 4, _>(|at| value.to_le_bytes()[at]);
            from_raw(dtype, shape, &bytes_of(&proto.uint64_data, low))?
        }
        // Two-byte types are the low half of each number, one-byte and packed ones its low byte.
        _ if dtype.bits() == 16 => {
            let low = |value: i32| std::array::from_fn::<u8, 2, _>(|at| value.to_le_bytes()[at]);
            from_raw(dtype, shape, &bytes_of(&proto.int32_data, low))?
        }
        _ => {
            let low = |value: i32| [value.to_le_bytes()[0]];
            from_raw(dtype, shape, &bytes_of(&proto.int32_data, low))?
        }
    };
    Ok(tensor)
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

/// As [`from_raw`], but left where they lie if they are many.
fn from_blob(dtype: DType, shape: &[usize], blob: Blob) -> Result<Tensor, TensorFault> {
    if dtype.is_packed() || blob.bytes().len() < LENT_BYTES_MIN {
        return from_raw(dtype, shape, blob.bytes());
    }
    Ok(Tensor::from_blob(dtype, shape, blob)?)
}

/// Elements as little-endian bytes; what a packed type leaves over in the last byte is cleared,
/// so that equal tensors have equal bytes.
fn from_raw(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorFault> {
    let mut tensor = Tensor::from_bytes(dtype, shape, bytes)?;
    if dtype.is_packed() {
        let used = tensor.len() * dtype.bits() % 8;
        if let Some(last) = tensor.bytes_mut()?.last_mut().filter(|_| used != 0) {
            *last &= (1 << used) - 1;
        }
    }
    Ok(tensor)
}

fn read_external(
    proto: &TensorProto,
    dtype: DType,
    shape: &[usize],
    external: Option<External<'_>>,
) -> Result<Blob, TensorFault> {
    let entry = |key: &str| {
        let found = proto.external_data.iter().find(|entry| entry.key == key);
        found.map(|entry| entry.value.as_str())
    };
    let location = entry("location").unwrap_or_default();
    let fault = |reason: String| TensorFault::External { location: location.to_string(), reason };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<u64>().map(Some).map_err(|_| fault(format!("`{text}` is no {key}")))
        }
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?;
    if dtype == DType::String {
        return Err(fault("strings cannot be external".to_string()));
    }
    let too_large = TensorError::TooLarge { bytes: u128::MAX };
    let wanted = dtype.bytes(element_count(shape)?).ok_or(too_large)?;
    let wanted = u64::try_from(wanted).map_err(|_| fault("it is too large".to_string()))?;
    if let Some(length) = length.filter(|length| *length != wanted) {
        return Err(fault(format!("its length is {length} bytes, the shape takes {wanted}")));
    }
    let read =
        external.ok_or_else(|| fault("the model was given without its folder".to_string()))?;
    read(location, offset, Some(wanted)).map_err(fault)
}

/// Bytes that the dense form of a sparse tensor takes.
pub(crate) fn dense_bytes(proto: &SparseTensorProto) -> Result<usize, TensorFault> {
    let dtype = dtype_of(proto.values.as_ref().map_or(0, |values| values.data_type))?;
    let bytes = dtype.bytes(element_count(&shape_of(&proto.dims)?)?);
    bytes.ok_or(TensorFault::Tensor(TensorError::TooLarge { bytes: u128::MAX }))
}

/// The dense form of a sparse tensor. Its name is that of `values`.
pub(crate) fn sparse(proto: &SparseTensorProto, origin: Origin<'_>) -> Result<Tensor, TensorFault> {
    let shape = shape_of(&proto.dims)?;
    let values = proto.values.as_ref().ok_or(TensorFault::Sparse("it has no values"))?;
    let values = tensor(values, origin)?;
    let indices = match &proto.indices {
        Some(indices) => tensor(indices, origin)?,
        None if values.is_empty() => Tensor::zeros(DType::I64, &[0])?,
        None => return Err(TensorFault::Sparse("it has no indices")),
    };
    if indices.dtype() != DType::I64 || values.rank() != 1 {
        return Err(TensorFault::Sparse("values are no vector, or indices no 64-bit integers"));
    }
    if values.dtype().bits() < 8 {
        return Err(TensorFault::Sparse("strings, or elements of less than a byte"));
    }
    let places = linear_indices(&shape, values.len(), &indices)?;
    let mut dense = Tensor::zeros(values.dtype(), &shape)?;
    let width = values.dtype().bits() / 8;
    let target = dense.bytes_mut()?;
    for (place, bytes) in places.iter().zip(values.bytes().chunks_exact(width)) {
        target[place * width..(place + 1) * width].copy_from_slice(bytes);
    }
    Ok(dense)
}

/// The place of each value of a sparse tensor, from linear indices `[n]` or coordinates
/// `[n, rank]`; each below the number of elements.
fn linear_indices(
    shape: &[usize],
    count: usize,
    indices: &Tensor,
) -> Result<Vec<usize>, TensorFault> {
    let elements = element_count(shape)?;
    let numbers = to_i64(indices)?;
    let outside = TensorFault::Sparse("an index is out of range");
    let below = |index: i64, extent: usize| {
        usize::try_from(index).ok().filter(|index| *index < extent).ok_or(outside.clone())
    };
    if indices.shape() == [count] {
        return numbers.iter().map(|index| below(*index, elements)).collect();
    }
    if indices.shape() != [count, shape.len()] {
        return Err(TensorFault::Sparse("there are not as many indices as values"));
    }
    if shape.is_empty() {
        return Ok(vec![0; count]);
    }
    let strides = hetra_tensor::strides_of(shape);
    let place = |row: &[i64]| {
        row.iter().zip(shape).zip(&strides).try_fold(0, |sum, ((index, extent), stride)| {
            Ok(sum + below(*index, *extent)? * stride)
        })
    };
    numbers.chunks_exact(shape.len()).map(place).collect()
}

/// The message of a tensor: strings as they are, everything else as raw bytes.
pub(crate) fn to_proto(name: &str, tensor: &Tensor) -> TensorProto {
    // No extent of a tensor in memory is over `i64`.
    let dims = tensor.shape().iter().map(|extent| i64::try_from(*extent).unwrap_or(i64::MAX));
    let mut proto = TensorProto {
        dims: dims.collect(),
        data_type: tensor.dtype().onnx(),
        name: name.to_string(),
        ..TensorProto::default()
    };
    match tensor.as_strings() {
        Ok(texts) => {
            let texts = texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes()));
            proto.string_data = texts.collect();
        }
        Err(_) => proto.raw_data = Some(Bytes::from_owner(Elements(tensor.clone()))),
    }
    proto
}

/// Lends a tensor's memory to a message.
struct Elements(Tensor);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

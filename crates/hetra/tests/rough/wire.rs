//! The wire format of ONNX files as plain fields: to write files that no tool would, and to
//! change one thing of a file that a tool wrote.

/// A field: its number and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) number: u64,
    pub(crate) data: Data,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    /// Text, elements, or bytes that do not read as fields.
    Bytes(Vec<u8>),
    /// Bytes that read as fields; a text may look like some, and is written as it was all the same.
    Message(Vec<Field>),
}

/// Messages in messages, at most.
const DEPTH_MAX: usize = 24;

/// Reads bytes as fields.
pub(crate) fn parse(bytes: &[u8]) -> Option<Vec<Field>> {
    parse_at(bytes, 0)
}

fn parse_at(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let (number, kind) = (key >> 3, key & 7);
        if number == 0 || number > 64 {
            return None;
        }
        let data = match kind {
            0 => Data::Varint(take_varint(&mut bytes)?),
            1 => Data::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            5 => Data::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let payload = take(&mut bytes, length)?;
                let inner = (depth < DEPTH_MAX && !payload.is_empty())
                    .then(|| parse_at(payload, depth + 1))
                    .flatten()
                    .filter(|fields| encode(fields) == payload);
                inner.map_or_else(|| Data::Bytes(payload.to_vec()), Data::Message)
            }
            _ => return None,
        };
        fields.push(Field { number, data });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(count)?;
    *bytes = tail;
    Some(head)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes fields as bytes.
pub(crate) fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let key = |kind: u64| field.number << 3 | kind;
        let mut payload = |bytes: &[u8]| {
            put_varint(&mut out, key(2));
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        match &field.data {
            Data::Bytes(bytes) => payload(bytes),
            Data::Message(fields) => payload(&encode(fields)),
            Data::Varint(value) => {
                put_varint(&mut out, key(0));
                put_varint(&mut out, *value);
            }
            Data::Fixed64(bytes) => {
                put_varint(&mut out, key(1));
                out.extend_from_slice(bytes);
            }
            Data::Fixed32(bytes) => {
                put_varint(&mut out, key(5));
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// A number.
pub(crate) fn int(number: u64, value: i64) -> Field {
    Field { number, data: Data::Varint(value.cast_unsigned()) }
}

/// A text.
pub(crate) fn text(number: u64, text: &str) -> Field {
    Field { number, data: Data::Bytes(text.as_bytes().to_vec()) }
}

/// A message.
pub(crate) fn message(number: u64, fields: Vec<Field>) -> Field {
    Field { number, data: Data::Message(fields) }
}

/// `NodeProto` from `name Op: inputs -> outputs`, as a field of a graph.
pub(crate) fn node(line: &str, attributes: Vec<Field>) -> Field {
    let (head, tail) = line.split_once(':').expect("a colon");
    let (name, op) = head.split_once(' ').expect("a name and an operator");
    let (inputs, outputs) = tail.split_once("->").expect("an arrow");
    let mut fields = vec![text(3, name), text(4, op)];
    fields.extend(inputs.split_whitespace().map(|input| text(1, input)));
    fields.extend(outputs.split_whitespace().map(|output| text(2, output)));
    fields.extend(attributes);
    message(1, fields)
}

/// `ValueInfoProto` of an f32 tensor; `number` is 11 for an input and 12 for an output.
pub(crate) fn value(number: u64, name: &str, dims: &[i64]) -> Field {
    let dims = dims.iter().map(|&dim| message(1, vec![int(1, dim)])).collect();
    let tensor = vec![int(1, 1), message(2, dims)];
    message(number, vec![text(1, name), message(2, vec![message(1, tensor)])])
}

/// `ModelProto` of opset 21 around the fields of a graph.
pub(crate) fn model(mut graph: Vec<Field>) -> Vec<u8> {
    graph.push(text(2, "g"));
    encode(&[int(1, 10), message(8, vec![int(2, 21)]), message(7, graph)])
}

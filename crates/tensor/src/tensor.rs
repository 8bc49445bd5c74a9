//! Dense, row-major, shared tensors.

use std::fmt;
use std::sync::Arc;

use crate::blob::Blob;
use crate::buffer::Buffer;
use crate::dtype::{DType, Element};
use crate::lazy::{Held, Lazy};
use crate::shape::{Shape, element_count};
use crate::view::TensorView;

/// What can be wrong with a tensor or a request to one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum TensorError {
    #[error("a tensor of {} is over the limit of {} bytes (bytes_max)", counted(*.bytes), crate::bytes_max())]
    TooLarge { bytes: u128 },
    #[error("there is no memory for a tensor of {bytes} bytes")]
    Memory { bytes: usize },
    #[error("wanted {wanted}, got {got}")]
    DType { wanted: DType, got: DType },
    #[error("shape {shape:?} holds {wanted} elements, got {got}")]
    Count { shape: Shape, wanted: usize, got: usize },
    #[error("shapes {left:?} and {right:?} do not broadcast")]
    Broadcast { left: Shape, right: Shape },
    #[error("no cast from {from} to {to}")]
    Cast { from: DType, to: DType },
    #[error("`{text}` is not a number")]
    Number { text: String },
    #[error("{reason}")]
    Device { reason: String },
    #[error("axis {axis} is out of range for rank {rank}")]
    Axis { axis: i64, rank: usize },
}

/// A number of bytes; the largest stands for one that was too large to count.
fn counted(bytes: u128) -> String {
    match bytes {
        u128::MAX => format!("more than {} bytes", u64::MAX),
        _ => format!("{bytes} bytes"),
    }
}

/// The storage: number bytes or strings, shared.
#[derive(Clone)]
enum Data {
    Bytes(Arc<Buffer>),
    /// Nobody writes there.
    Lazy(Arc<Lazy>),
    Strings(Arc<Vec<String>>),
}

/// A dense, row-major tensor in host memory. Cloning shares the storage.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    count: usize,
    data: Data,
}

impl Tensor {
    /// A tensor of zeros (`false`, empty strings).
    ///
    /// # Errors
    /// `TooLarge` when the size overflows or is over the limit.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        let data = if dtype == DType::String {
            let bytes = count as u128 * size_of::<String>() as u128;
            if bytes > crate::bytes_max() as u128 {
                return Err(TensorError::TooLarge { bytes });
            }
            Data::Strings(Arc::new(vec![String::new(); count]))
        } else {
            Data::Bytes(Arc::new(Buffer::zeroed(byte_size(dtype, count)?)?))
        };
        Ok(Tensor { dtype, shape: shape.into(), count, data })
    }

    /// A tensor over a block that may hold old data: every element must be written before it is
    /// read. Takes the block when it is large enough and nobody else has it, else allocates.
    ///
    /// # Errors
    /// `TooLarge` when the size overflows or is over the limit.
    pub fn in_buffer(
        dtype: DType,
        shape: &[usize],
        block: Arc<Buffer>,
    ) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        let own = Arc::strong_count(&block) == 1;
        if dtype == DType::String || !own || block.capacity() < byte_size(dtype, count)? {
            return Tensor::zeros(dtype, shape);
        }
        Ok(Tensor { dtype, shape: shape.into(), count, data: Data::Bytes(block) })
    }

    /// Gives the block back if nobody else shares it.
    pub fn into_buffer(self) -> Option<Arc<Buffer>> {
        match self.data {
            Data::Bytes(mut block) => Arc::get_mut(&mut block).is_some().then_some(block),
            Data::Lazy(_) | Data::Strings(_) => None,
        }
    }

    /// A tensor that copies `values`.
    ///
    /// # Errors
    /// `Count` when the shape does not hold that many.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// A tensor of one dimension.
    ///
    /// # Panics
    /// Only when the memory limit is reached by a slice that is already in memory.
    pub fn vector<T: Element>(values: &[T]) -> Tensor {
        Tensor::from_slice(&[values.len()], values).expect("a slice in memory fits")
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_slice(&[], &[value]).expect("one element fits")
    }

    /// A tensor of booleans.
    ///
    /// # Errors
    /// `Count` when the shape does not hold that many.
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&value| u8::from(value)).collect();
        Tensor::from_bytes(DType::Bool, shape, &bytes)
    }

    /// A tensor of strings.
    ///
    /// # Errors
    /// `Count` when the shape does not hold that many.
    pub fn from_strings(shape: &[usize], values: Vec<String>) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        if count != values.len() {
            let shape = shape.into();
            return Err(TensorError::Count { shape, wanted: count, got: values.len() });
        }
        let data = Data::Strings(Arc::new(values));
        Ok(Tensor { dtype: DType::String, shape: shape.into(), count, data })
    }

    /// A tensor from its bytes: little endian, row-major, packed when narrower than a byte.
    ///
    /// # Errors
    /// `Count` when the bytes are not exactly what the shape needs.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        let wanted = byte_size(dtype, count)?;
        if wanted != bytes.len() || dtype == DType::String {
            let got = bytes.len() * 8 / dtype.bits().max(1);
            return Err(TensorError::Count { shape: shape.into(), wanted: count, got });
        }
        let mut block = Buffer::zeroed(wanted)?;
        block.bytes_mut()[..wanted].copy_from_slice(bytes);
        if dtype == DType::Bool {
            // Any other byte than 0 means true; we keep the invariant that storage is 0 or 1.
            block.bytes_mut()[..wanted].iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
        }
        Ok(Tensor { dtype, shape: shape.into(), count, data: Data::Bytes(Arc::new(block)) })
    }

    /// A tensor whose elements stay where they are, little endian and row-major, and are copied
    /// when they are first read if they do not lie at an address for such elements. Booleans and
    /// elements narrower than a byte are copied at once, by the rules of [`Tensor::from_bytes`].
    ///
    /// # Errors
    /// `Count` when the bytes are not exactly what the shape needs, `TooLarge` over the limit.
    pub fn from_blob(dtype: DType, shape: &[usize], blob: Blob) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        let wanted = byte_size(dtype, count)?;
        let plain = dtype != DType::Bool && dtype != DType::String && !dtype.is_packed();
        if !plain || wanted != blob.bytes().len() {
            return Tensor::from_bytes(dtype, shape, blob.bytes());
        }
        if wanted > crate::bytes_max() {
            return Err(TensorError::TooLarge { bytes: wanted as u128 });
        }
        let lazy = Lazy::of_blob(blob, dtype.bits() / 8);
        Ok(Tensor { dtype, shape: shape.into(), count, data: Data::Lazy(Arc::new(lazy)) })
    }

    /// A tensor that `make` makes when its elements are first read, and again when they are read
    /// after [`Tensor::unloaded`]: of this type and shape, and the same one each time.
    ///
    /// # Errors
    /// `TooLarge` when the size overflows or is over the limit, `DType` for strings.
    pub fn made(
        dtype: DType,
        shape: &[usize],
        make: impl Fn() -> Tensor + Send + Sync + 'static,
    ) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        if dtype == DType::String {
            return Err(TensorError::DType { wanted: DType::U8, got: dtype });
        }
        let bytes = byte_size(dtype, count)?;
        if bytes > crate::bytes_max() {
            return Err(TensorError::TooLarge { bytes: bytes as u128 });
        }
        let data = Data::Lazy(Arc::new(Lazy::made(bytes, make)));
        Ok(Tensor { dtype, shape: shape.into(), count, data })
    }

    /// A tensor whose elements a device holds. They are copied to the host when they are first
    /// read; [`Tensor::fetch`] does that where it may fail.
    ///
    /// # Errors
    /// `DType` for strings, `TooLarge` when the size overflows or is over the limit.
    pub fn held(dtype: DType, shape: &[usize], held: Arc<dyn Held>) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        if dtype == DType::String {
            return Err(TensorError::DType { wanted: DType::U8, got: dtype });
        }
        let bytes = byte_size(dtype, count)?;
        if bytes > crate::bytes_max() {
            return Err(TensorError::TooLarge { bytes: bytes as u128 });
        }
        let data = Data::Lazy(Arc::new(Lazy::held(bytes, held)));
        Ok(Tensor { dtype, shape: shape.into(), count, data })
    }

    /// The device's memory that holds the elements.
    pub fn holder(&self) -> Option<&Arc<dyn Held>> {
        match &self.data {
            Data::Lazy(lazy) => lazy.holder(),
            Data::Bytes(_) | Data::Strings(_) => None,
        }
    }

    /// Copies the elements to the host if a device holds them; they stay there as well. Reading
    /// does not fail after that.
    ///
    /// # Errors
    /// `Device` when the device fails, `TooLarge` and `Memory` when there is no room.
    pub fn fetch(&self) -> Result<(), TensorError> {
        match &self.data {
            Data::Lazy(lazy) => lazy.fetch(),
            Data::Bytes(_) | Data::Strings(_) => Ok(()),
        }
    }

    /// The same tensor without the memory that was taken to read its elements, if they can be had
    /// again. That memory is free when nobody has the old one.
    pub fn unloaded(&self) -> Option<Tensor> {
        match &self.data {
            Data::Lazy(lazy) => {
                Some(Tensor { data: Data::Lazy(Arc::new(lazy.again())), ..self.clone() })
            }
            Data::Bytes(_) | Data::Strings(_) => None,
        }
    }

    /// Tells that the elements are not needed for a while: those that lie in a mapped file leave
    /// memory. It changes nothing but time.
    pub fn release(&self) {
        if let Data::Lazy(lazy) = &self.data {
            lazy.release();
        }
    }

    /// Whether the elements take memory of their own: not while they lie in a file or are yet to be
    /// made.
    pub fn is_loaded(&self) -> bool {
        match &self.data {
            Data::Lazy(lazy) => lazy.is_loaded(),
            Data::Bytes(_) | Data::Strings(_) => true,
        }
    }

    /// The bytes of the elements where they lie, at any address; `None` where they would have to be
    /// made. Empty for strings.
    pub fn raw_bytes(&self) -> Option<&[u8]> {
        match &self.data {
            Data::Lazy(lazy) => lazy.raw(),
            Data::Bytes(_) | Data::Strings(_) => Some(self.bytes()),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the elements (for strings: of their text).
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Bytes(_) | Data::Lazy(_) => self.dtype.bytes(self.count).unwrap_or(0),
            Data::Strings(strings) => strings.iter().map(String::len).sum(),
        }
    }

    /// The bytes of the elements; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(block) => &block.bytes()[..self.byte_len()],
            Data::Lazy(lazy) => lazy.bytes(),
            Data::Strings(_) => &[],
        }
    }

    /// The bytes to write; copies the storage first if it is shared. Empty for strings.
    ///
    /// # Errors
    /// `TooLarge` when there is no memory for the copy.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        let len = self.byte_len();
        if let Data::Lazy(lazy) = &self.data {
            let mut copy = Buffer::zeroed(len)?;
            copy.bytes_mut()[..len].copy_from_slice(lazy.raw().unwrap_or_else(|| lazy.bytes()));
            self.data = Data::Bytes(Arc::new(copy));
        }
        let Data::Bytes(block) = &mut self.data else { return Ok(&mut []) };
        if Arc::get_mut(block).is_none() {
            let mut copy = Buffer::zeroed(len)?;
            copy.bytes_mut()[..len].copy_from_slice(&block.bytes()[..len]);
            *block = Arc::new(copy);
        }
        Ok(&mut Arc::get_mut(block).expect("made unique above").bytes_mut()[..len])
    }

    /// Whether nobody else shares the storage, so that it may be written in place.
    pub fn is_unique(&self) -> bool {
        match &self.data {
            Data::Bytes(block) => Arc::strong_count(block) == 1,
            Data::Lazy(_) => false,
            Data::Strings(strings) => Arc::strong_count(strings) == 1,
        }
    }

    /// Whether both tensors share one storage.
    pub fn shares_storage(&self, other: &Tensor) -> bool {
        match (&self.data, &other.data) {
            (Data::Bytes(a), Data::Bytes(b)) => Arc::ptr_eq(a, b),
            (Data::Lazy(a), Data::Lazy(b)) => Arc::ptr_eq(a, b),
            (Data::Strings(a), Data::Strings(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The elements as a slice.
    ///
    /// # Errors
    /// `DType` when the elements are of another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { wanted: T::DTYPE, got: self.dtype });
        }
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// The elements as a slice to write; copies the storage first if it is shared.
    ///
    /// # Errors
    /// `DType` when the elements are of another type, `TooLarge` when there is no memory for a
    /// copy.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { wanted: T::DTYPE, got: self.dtype });
        }
        Ok(bytemuck::cast_slice_mut(self.bytes_mut()?))
    }

    /// Booleans as bytes 0 or 1.
    ///
    /// # Errors
    /// `DType` when the elements are of another type.
    pub fn as_bools(&self) -> Result<&[u8], TensorError> {
        if self.dtype != DType::Bool {
            return Err(TensorError::DType { wanted: DType::Bool, got: self.dtype });
        }
        Ok(self.bytes())
    }

    /// The strings.
    ///
    /// # Errors
    /// `DType` when the elements are of another type.
    pub fn as_strings(&self) -> Result<&[String], TensorError> {
        match &self.data {
            Data::Strings(strings) => Ok(strings),
            Data::Bytes(_) | Data::Lazy(_) => {
                Err(TensorError::DType { wanted: DType::String, got: self.dtype })
            }
        }
    }

    /// The same elements under another shape; shares the storage.
    ///
    /// # Errors
    /// `Count` when the shape holds another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        if count != self.count {
            let shape = shape.into();
            return Err(TensorError::Count { shape, wanted: count, got: self.count });
        }
        Ok(Tensor { shape: shape.into(), ..self.clone() })
    }

    /// The same bytes read as another dtype of the same width (bit cast); shares the storage.
    ///
    /// # Errors
    /// `Cast` when the widths differ or either is a string.
    pub fn bit_cast(&self, dtype: DType) -> Result<Tensor, TensorError> {
        if dtype.bits() != self.dtype.bits() || dtype == DType::String {
            return Err(TensorError::Cast { from: self.dtype, to: dtype });
        }
        Ok(Tensor { dtype, ..self.clone() })
    }

    /// A strided view of the whole tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView::of(self)
    }

    /// dtype and shape, such as `f32[2,3]`.
    pub fn describe(&self) -> String {
        let extents: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        format!("{}[{}]", self.dtype, extents.join(","))
    }
}

fn byte_size(dtype: DType, count: usize) -> Result<usize, TensorError> {
    dtype.bytes(count).ok_or(TensorError::TooLarge { bytes: u128::MAX })
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Strings(a), Data::Strings(b)) => a == b,
                // To compare needs no copy of what lies in a file.
                _ => match (self.raw_bytes(), other.raw_bytes()) {
                    (Some(a), Some(b)) => a == b,
                    _ => self.bytes() == other.bytes(),
                },
            }
    }
}

/// Elements that `Debug` shows.
const SHOWN_MAX: usize = 8;

impl Tensor {
    /// The first elements, each as its own dtype is written; complex numbers have no such form.
    fn shown(&self) -> Option<Vec<String>> {
        if let Data::Strings(strings) = &self.data {
            return Some(strings.iter().take(SHOWN_MAX).map(|text| format!("{text:?}")).collect());
        }
        let count = self.count.min(SHOWN_MAX);
        let bytes = &self.bytes()[..self.dtype.bytes(count)?];
        let head = Tensor::from_bytes(self.dtype, &[count], bytes).ok()?;
        if self.dtype == DType::Bool {
            return Some(head.as_bools().ok()?.iter().map(|&b| (b != 0).to_string()).collect());
        }
        if self.dtype.is_int() {
            let wide = self.dtype == DType::U64;
            let text = |v: i64| if wide { (v as u64).to_string() } else { v.to_string() };
            return Some(crate::to_i64(&head).ok()?.into_iter().map(text).collect());
        }
        // Every float but f64 is an f32: more digits would be noise.
        let double = self.dtype == DType::F64;
        let text = |v: f64| if double { format!("{v:?}") } else { format!("{:?}", v as f32) };
        Some(crate::to_f64(&head).ok()?.into_iter().map(text).collect())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())?;
        let Some(shown) = self.shown() else { return Ok(()) };
        let more = if self.count > shown.len() { ", .." } else { "" };
        write!(f, "[{}{more}]", shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_written() {
        let a = Tensor::vector(&[1.0f32, 2.0]);
        let mut b = a.clone();
        assert!(a.shares_storage(&b));
        b.as_mut_slice::<f32>().unwrap()[0] = 5.0;
        assert_eq!(a.as_slice::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(b.as_slice::<f32>().unwrap(), [5.0, 2.0]);
    }

    #[test]
    fn wrong_requests_are_errors() {
        let a = Tensor::vector(&[1i64, 2, 3]);
        assert!(a.as_slice::<f32>().is_err());
        assert!(a.reshape(&[2]).is_err());
        assert!(Tensor::zeros(DType::F32, &[1 << 40, 1 << 40]).is_err());
        assert!(Tensor::from_bytes(DType::F32, &[2], &[0; 7]).is_err());
    }

    #[test]
    fn buffers_go_round() {
        let a = Tensor::in_buffer(DType::F32, &[4], Arc::new(Buffer::zeroed(64).unwrap())).unwrap();
        let shared = a.clone();
        assert!(a.into_buffer().is_none());
        assert!(shared.into_buffer().is_some());
    }

    #[test]
    fn elements_in_a_file_are_read_where_they_lie_at_any_address() {
        let mut bytes = vec![0u8; 3];
        bytes.extend([1.5f32, -2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()));
        let all = Blob::from(bytes);
        for start in 0..4 {
            // Some of these starts are aligned, the others are not.
            let mut moved = vec![0u8; start];
            moved.extend(&all.bytes()[3..]);
            let blob = Blob::from(moved).part(start..start + 12).unwrap();
            let mut tensor = Tensor::from_blob(DType::F32, &[3], blob).unwrap();
            assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.5, -2.0, 3.0]);
            assert_eq!(tensor, Tensor::vector(&[1.5f32, -2.0, 3.0]));
            let again = tensor.unloaded().unwrap();
            assert!(!again.shares_storage(&tensor) && !tensor.is_unique());
            assert_eq!(again, tensor);
            tensor.as_mut_slice::<f32>().unwrap()[0] = 9.0;
            assert_eq!(again.as_slice::<f32>().unwrap(), [1.5, -2.0, 3.0]);
        }
        assert!(Tensor::from_blob(DType::F32, &[2], all.part(0..7).unwrap()).is_err());
        let bools = Tensor::from_blob(DType::Bool, &[2], Blob::from(vec![7, 0])).unwrap();
        assert_eq!(bools.as_bools().unwrap(), [1, 0]);
    }

    #[test]
    fn what_is_made_is_made_when_read_and_again_after_it_was_unloaded() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let times = Arc::new(AtomicUsize::new(0));
        let counter = times.clone();
        let make = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Tensor::vector(&[1u8, 2, 3])
        };
        let tensor = Tensor::made(DType::U8, &[3], make).unwrap();
        let shared = tensor.clone();
        assert_eq!((tensor.raw_bytes(), tensor.byte_len()), (None, 3));
        assert!(!tensor.is_loaded());
        assert_eq!(tensor.bytes(), shared.bytes());
        assert_eq!(times.load(Ordering::Relaxed), 1);
        assert!(shared.is_loaded());
        assert_eq!(tensor.unloaded().unwrap().as_slice::<u8>().unwrap(), [1, 2, 3]);
        assert_eq!(times.load(Ordering::Relaxed), 2);
        assert!(Tensor::vector(&[1u8]).unloaded().is_none());
    }

    #[test]
    fn debug_writes_elements_in_their_dtype_and_says_that_there_are_more() {
        let check = |tensor: Tensor, wanted: &str| assert_eq!(format!("{tensor:?}"), wanted);
        check(Tensor::vector(&[0.1f32, 2.0]), "f32[2][0.1, 2.0]");
        check(Tensor::vector(&[0.1f64]), "f64[1][0.1]");
        check(Tensor::vector(&[0u8; 9]), "u8[9][0, 0, 0, 0, 0, 0, 0, 0, ..]");
        check(Tensor::vector(&[u64::MAX, 1]), "u64[2][18446744073709551615, 1]");
        check(Tensor::vector(&[i64::MAX]), "i64[1][9223372036854775807]");
        check(Tensor::from_bools(&[2], &[true, false]).unwrap(), "bool[2][true, false]");
        check(Tensor::from_strings(&[1], vec!["a".to_string()]).unwrap(), "string[1][\"a\"]");
    }
}

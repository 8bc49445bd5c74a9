//! Memory as a kernel sees it. What is out of bounds is a fault: reading gives zero, writing does
//! nothing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::{Faults, Words};
use crate::function::{Integer, Number};
use crate::types::{Element, Lanes, Word};

/// Which memory something is, for what goes wrong.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) index: u32,
    pub(super) faults: &'a Faults,
}

/// Memory that is read by one index.
pub trait At {
    /// Of its elements.
    type Element: Element;
    /// The element there; zero and a fault where there is none.
    fn at(&self, index: u32) -> Self::Element;

    /// Whether so many elements are there from an index on; a fault where they are not.
    fn holds(&self, index: u32, count: u32) -> bool;

    /// So many elements from an index on; zeros and a fault where they are not all there.
    #[inline(always)]
    fn vector<const N: usize>(&self, index: u32) -> Lanes<Self::Element, N>
    where
        Self::Element: Word,
        Lanes<Self::Element, N>: Element<Lane = Self::Element>,
    {
        if !self.holds(index, N as u32) {
            return zero();
        }
        Lanes::from_lanes(|lane| self.at(index + lane as u32))
    }
}

/// Memory that is written by one index.
pub trait AtMut: At {
    /// Writes the element there; a fault where there is none.
    fn store(&mut self, index: u32, value: Self::Element);

    /// Writes the lanes to so many elements from an index on; a fault where they are not all there.
    #[inline(always)]
    fn set_vector<const N: usize>(&mut self, index: u32, value: Lanes<Self::Element, N>)
    where
        Self::Element: Word,
        Lanes<Self::Element, N>: Element<Lane = Self::Element>,
    {
        if self.holds(index, N as u32) {
            (0..N).for_each(|lane| self.store(index + lane as u32, value.lane(lane)));
        }
    }
}

/// Whether a span is inside what has `len` elements; a fault with the first index that is not.
#[inline(always)]
fn holds(memory: Memory<'_>, index: u32, count: u32, len: u32) -> bool {
    let holds = index < len && len - index >= count;
    if !holds {
        memory.faults.record(memory.index, index.max(len));
    }
    holds
}

fn zero<T: Element>() -> T {
    T::from_lanes(|_| T::Lane::default())
}

/// A buffer that is read.
#[derive(Clone, Copy)]
pub struct Input<'a, T> {
    pub(super) bytes: &'a [u8],
    pub(super) memory: Memory<'a>,
    pub(super) of: PhantomData<fn() -> T>,
}

/// A buffer that is written.
#[derive(Clone, Copy)]
pub struct Output<'a, T> {
    pub(super) cells32: &'a [AtomicU32],
    pub(super) cells16: &'a [AtomicU16],
    pub(super) memory: Memory<'a>,
    pub(super) of: PhantomData<fn() -> T>,
}

/// A buffer.
#[allow(clippy::len_without_is_empty, reason = "kernels ask for the length only")]
pub trait Buffer {
    /// Its elements.
    fn len(&self) -> u32;
}

impl<T: Element> Buffer for Input<'_, T> {
    #[inline(always)]
    fn len(&self) -> u32 {
        (self.bytes.len() / T::TYPE.bytes()) as u32
    }
}

impl<T: Element> Buffer for Output<'_, T> {
    #[inline(always)]
    fn len(&self) -> u32 {
        let cells =
            if T::TYPE.scalar.bytes() == 2 { self.cells16.len() } else { self.cells32.len() };
        (cells / usize::from(T::TYPE.lanes)) as u32
    }
}

impl<T: Element> At for Input<'_, T> {
    type Element = T;
    #[inline(always)]
    fn holds(&self, index: u32, count: u32) -> bool {
        holds(self.memory, index, count, self.len())
    }
    #[inline(always)]
    fn at(&self, index: u32) -> T {
        let bytes = T::TYPE.bytes();
        let start = index as usize * bytes;
        let Some(element) = self.bytes.get(start..start + bytes) else {
            self.memory.faults.record(self.memory.index, index);
            return zero();
        };
        T::from_lanes(|lane| {
            let size = T::TYPE.scalar.bytes();
            let mut word = [0; 4];
            word[..size].copy_from_slice(&element[lane * size..(lane + 1) * size]);
            T::Lane::from_word(u32::from_le_bytes(word))
        })
    }
}

impl<T: Element> At for Output<'_, T> {
    type Element = T;
    #[inline(always)]
    fn holds(&self, index: u32, count: u32) -> bool {
        holds(self.memory, index, count, self.len())
    }
    #[inline(always)]
    fn at(&self, index: u32) -> T {
        if index >= self.len() {
            self.memory.faults.record(self.memory.index, index);
            return zero();
        }
        let first = index as usize * usize::from(T::TYPE.lanes);
        T::from_lanes(|lane| {
            T::Lane::from_word(if T::TYPE.scalar.bytes() == 2 {
                u32::from(self.cells16[first + lane].load(Ordering::Relaxed))
            } else {
                self.cells32[first + lane].load(Ordering::Relaxed)
            })
        })
    }
}

impl<T: Element> AtMut for Output<'_, T> {
    #[inline(always)]
    fn store(&mut self, index: u32, value: T) {
        if index >= self.len() {
            return self.memory.faults.record(self.memory.index, index);
        }
        let lanes = usize::from(T::TYPE.lanes);
        for lane in 0..lanes {
            let (at, word) = (index as usize * lanes + lane, value.lane(lane).to_word());
            if T::TYPE.scalar.bytes() == 2 {
                self.cells16[at].store(word as u16, Ordering::Relaxed);
            } else {
                self.cells32[at].store(word, Ordering::Relaxed);
            }
        }
    }
}

macro_rules! atomics {
    ($($name:ident |$old:ident, $new:ident| $value:expr;)*) => {
        impl<T: Integer> Output<'_, T> {$(
            /// Changes a cell, and gives what it was.
            pub fn $name(&self, index: u32, value: T) -> T {
                let Some(cell) = self.cells32.get(index as usize) else {
                    self.memory.faults.record(self.memory.index, index);
                    return T::default();
                };
                let order = Ordering::Relaxed;
                let change = |word: u32| {
                    let ($old, $new) = (T::from_word(word), value);
                    Some(T::to_word($value))
                };
                let (Ok(word) | Err(word)) = cell.fetch_update(order, order, change);
                T::from_word(word)
            }
        )*}
    };
}

atomics! {
    fetch_add |old, new| old.add(new);
    fetch_min |old, new| Number::lesser(old, new);
    fetch_max |old, new| Number::greater(old, new);
    fetch_and |old, new| old.and(new);
    fetch_or |old, new| old.or(new);
    fetch_xor |old, new| old.xor(new);
    swap |_old, new| new;
}

/// An array of the group with one index.
pub struct Row<'a, T> {
    pub(super) cells: Words,
    pub(super) memory: Memory<'a>,
    pub(super) of: PhantomData<fn() -> T>,
}

/// An array of the group with two indices.
pub struct Grid<'a, T> {
    pub(super) cells: Words,
    pub(super) columns: u32,
    pub(super) memory: Memory<'a>,
    pub(super) of: PhantomData<fn() -> T>,
}

#[inline(always)]
fn read<T: Element>(cells: &[Cell<u32>], memory: Memory<'_>, index: u32) -> T {
    let lanes = usize::from(T::TYPE.lanes);
    let first = index as usize * lanes;
    match cells.get(first..first + lanes) {
        Some(cells) => T::from_lanes(|lane| T::Lane::from_word(cells[lane].get())),
        None => {
            memory.faults.record(memory.index, index);
            zero()
        }
    }
}

#[inline(always)]
fn write<T: Element>(cells: &[Cell<u32>], memory: Memory<'_>, index: u32, value: T) {
    let lanes = usize::from(T::TYPE.lanes);
    let first = index as usize * lanes;
    match cells.get(first..first + lanes) {
        Some(cells) => (0..lanes).for_each(|lane| cells[lane].set(value.lane(lane).to_word())),
        None => memory.faults.record(memory.index, index),
    }
}

impl<T: Element> At for Row<'_, T> {
    type Element = T;
    #[inline(always)]
    fn holds(&self, index: u32, count: u32) -> bool {
        holds(self.memory, index, count, (self.cells.len() / usize::from(T::TYPE.lanes)) as u32)
    }
    #[inline(always)]
    fn at(&self, index: u32) -> T {
        read(&self.cells, self.memory, index)
    }
}

impl<T: Element> AtMut for Row<'_, T> {
    #[inline(always)]
    fn store(&mut self, index: u32, value: T) {
        write(&self.cells, self.memory, index, value);
    }
}

/// Memory with two indices.
pub trait At2 {
    /// Of its elements.
    type Element: Element;
    /// The element there; zero and a fault where there is none.
    fn at2(&self, row: u32, column: u32) -> Self::Element;
    /// Writes the element there; a fault where there is none.
    fn store2(&mut self, row: u32, column: u32, value: Self::Element);
}

impl<T> Grid<'_, T> {
    /// The index of an element; `u32::MAX` where there is none.
    fn index(&self, row: u32, column: u32) -> u32 {
        if column >= self.columns {
            return u32::MAX;
        }
        row.saturating_mul(self.columns).saturating_add(column)
    }
}

impl<T: Element> At2 for Grid<'_, T> {
    type Element = T;
    #[inline(always)]
    fn at2(&self, row: u32, column: u32) -> T {
        read(&self.cells, self.memory, self.index(row, column))
    }
    #[inline(always)]
    fn store2(&mut self, row: u32, column: u32, value: T) {
        write(&self.cells, self.memory, self.index(row, column), value);
    }
}

/// An array of the item itself.
pub struct Own<'a, T, const M: usize, const N: usize> {
    pub(super) cells: [[T; N]; M],
    pub(super) memory: Memory<'a>,
}

impl<T: Element, const N: usize> At for Own<'_, T, 1, N> {
    type Element = T;
    #[inline(always)]
    fn holds(&self, index: u32, count: u32) -> bool {
        holds(self.memory, index, count, N as u32)
    }
    #[inline(always)]
    fn at(&self, index: u32) -> T {
        self.at2(0, index)
    }
}

impl<T: Element, const N: usize> AtMut for Own<'_, T, 1, N> {
    #[inline(always)]
    fn store(&mut self, index: u32, value: T) {
        self.store2(0, index, value);
    }
}

impl<T: Element, const M: usize, const N: usize> At2 for Own<'_, T, M, N> {
    type Element = T;
    #[inline(always)]
    fn at2(&self, row: u32, column: u32) -> T {
        match self.cells.get(row as usize).and_then(|cells| cells.get(column as usize)) {
            Some(value) => *value,
            None => {
                self.memory.faults.record(self.memory.index, column);
                zero()
            }
        }
    }
    #[inline(always)]
    fn store2(&mut self, row: u32, column: u32, value: T) {
        match self.cells.get_mut(row as usize).and_then(|cells| cells.get_mut(column as usize)) {
            Some(cell) => *cell = value,
            None => self.memory.faults.record(self.memory.index, column),
        }
    }
}

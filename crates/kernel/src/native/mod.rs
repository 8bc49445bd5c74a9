//! What a kernel is made of when rustc compiles it for the host's processor.
//!
//! A group runs on one thread, item after item; where items wait for each other the kernel is an
//! `async` function, and a barrier is where it yields: rustc keeps what lives across it. Shared
//! memory is therefore the thread's own. Buffers that are written are read and written by relaxed
//! atomics, since groups of other threads may touch the same element when a kernel is wrong: the
//! result is then some value, as on a GPU, and never undefined.
//!
//! Each item is a subgroup of its own here.

mod arithmetic;
mod memory;

pub use arithmetic::*;
pub use memory::{At, At2, AtMut, Buffer, Grid, Input, Output, Own, Row};

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use self::memory::Memory;
use crate::function::Number;
use crate::types::{Element, Word};

/// What an argument is when it reaches the compiled kernel.
pub enum Argument<'a> {
    /// The bits of a number.
    Value(u32),
    /// A buffer that is read.
    Read(&'a [u8]),
    /// A buffer of four-byte cells.
    Cells32(&'a [AtomicU32]),
    /// A buffer of two-byte cells.
    Cells16(&'a [AtomicU16]),
}

impl<'a> Argument<'a> {
    /// Memory that is written; `None` where it does not begin at a multiple of a cell's size, or
    /// is no whole number of them.
    pub fn cells(bytes: &'a mut [u8], cell: usize) -> Option<Argument<'a>> {
        let (at, len) = (bytes.as_mut_ptr(), bytes.len());
        if !(at as usize).is_multiple_of(cell) || !len.is_multiple_of(cell) {
            return None;
        }
        // SAFETY: `bytes` is borrowed for 'a alone, is aligned and long enough for the cells (both
        // checked above), and any bits are a cell.
        Some(unsafe {
            match cell {
                4 => Argument::Cells32(std::slice::from_raw_parts(at.cast(), len / 4)),
                2 => Argument::Cells16(std::slice::from_raw_parts(at.cast(), len / 2)),
                _ => return None,
            }
        })
    }
}

/// The first thing that went wrong.
#[derive(Default)]
pub struct Faults {
    /// 0: nothing. Else memory (counted from 1) in the upper half, and an index in the lower one.
    first: AtomicU64,
}

/// The number of memory that stands for a barrier which not all items reached.
pub(crate) const DIVERGENT: u32 = u32::MAX - 1;

/// Memory below this is a parameter, from it on an array.
pub(crate) const ARRAYS_FROM: u32 = 1 << 16;

impl Faults {
    #[cold]
    pub(crate) fn record(&self, memory: u32, index: u32) {
        let fault = (u64::from(memory) + 1) << 32 | u64::from(index);
        let order = Ordering::Relaxed;
        let _ = self.first.compare_exchange(0, fault, order, order);
    }

    /// The memory and the index of the first fault.
    pub(crate) fn first(&self) -> Option<(u32, u32)> {
        let fault = self.first.load(Ordering::Relaxed);
        (fault != 0).then(|| ((fault >> 32) as u32 - 1, fault as u32))
    }
}

/// A kernel that rustc compiled: runs one group.
pub type Native = fn(&GroupRun<'_>);

/// One group, to be run.
pub struct GroupRun<'a> {
    /// Which one.
    pub group: [u32; 3],
    /// Of how many.
    pub groups: [u32; 3],
    /// Items of it.
    pub size: [u32; 3],
    /// What the kernel is called with.
    pub arguments: &'a [Argument<'a>],
    /// Takes what goes wrong.
    pub faults: &'a Faults,
}

/// Memory of a group, as words.
type Words = Rc<[Cell<u32>]>;

/// What the items of a group have in common while it runs.
pub struct Shared<'a> {
    run: &'a GroupRun<'a>,
    /// By number; made when it is first used.
    arrays: RefCell<Vec<Option<Words>>>,
}

/// One item, to the kernel.
pub struct Item<'a> {
    local: [u32; 3],
    shared: &'a Shared<'a>,
}

impl<'a> GroupRun<'a> {
    /// Runs a kernel whose items do not wait.
    #[inline(always)]
    pub fn each(&self, body: impl Fn(&Item<'_>)) {
        let shared = Shared { run: self, arrays: RefCell::default() };
        for z in 0..self.size[2] {
            for y in 0..self.size[1] {
                for x in 0..self.size[0] {
                    body(&Item { local: [x, y, z], shared: &shared });
                }
            }
        }
    }

    /// Runs a kernel whose items wait for each other.
    pub fn together<'s, F: Future<Output = ()>>(
        &'s self,
        shared: &'s Shared<'s>,
        body: impl Fn(Item<'s>) -> F,
    ) {
        let [width, height, depth] = self.size;
        let ids = (0..depth)
            .flat_map(move |z| (0..height).flat_map(move |y| (0..width).map(move |x| [x, y, z])));
        let mut items: Vec<Option<F>> =
            ids.map(|local| Some(body(Item { local, shared }))).collect();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let mut waiting = 0;
            for item in &mut items {
                let Some(future) = item else { continue };
                // SAFETY: the vector neither grows nor moves its items from here on; each is
                // dropped where it lies.
                let future = unsafe { Pin::new_unchecked(future) };
                match future.poll(&mut context) {
                    Poll::Ready(()) => *item = None,
                    Poll::Pending => waiting += 1,
                }
            }
            if waiting == 0 {
                return;
            }
            if waiting != items.len() {
                return self.faults.record(DIVERGENT, 0);
            }
        }
    }

    /// A parameter that is a number.
    pub fn value<T: Word>(&self, index: usize) -> T {
        match self.arguments.get(index) {
            Some(Argument::Value(bits)) => T::from_word(*bits),
            _ => T::default(),
        }
    }

    /// A parameter that is read.
    pub fn input<T: Element>(&self, index: usize) -> Input<'a, T> {
        let bytes = match self.arguments.get(index) {
            Some(Argument::Read(bytes)) => bytes,
            _ => &[][..],
        };
        Input {
            bytes,
            memory: Memory { index: index as u32, faults: self.faults },
            of: PhantomData,
        }
    }

    /// A parameter that is written.
    pub fn output<T: Element>(&self, index: usize) -> Output<'a, T> {
        let (cells32, cells16) = match self.arguments.get(index) {
            Some(Argument::Cells32(cells)) => (*cells, &[][..]),
            Some(Argument::Cells16(cells)) => (&[][..], *cells),
            _ => (&[][..], &[][..]),
        };
        Output {
            cells32,
            cells16,
            memory: Memory { index: index as u32, faults: self.faults },
            of: PhantomData,
        }
    }

    /// What the items of this group will share.
    pub fn shared(&'a self) -> Shared<'a> {
        Shared { run: self, arrays: RefCell::default() }
    }
}

/// Waits until the other items have come as far.
#[derive(Default)]
pub struct Barrier {
    waited: bool,
}

impl Future for Barrier {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.waited, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn along(ids: [u32; 3], axis: u32) -> u32 {
    ids[axis.min(2) as usize]
}

impl<'a> Item<'a> {
    /// Where the item stands in the grid.
    #[inline(always)]
    pub fn global_id(&self, of: u32) -> u32 {
        self.group_id(of).wrapping_mul(self.group_size(of)).wrapping_add(self.local_id(of))
    }

    /// Where the item stands in its group.
    #[inline(always)]
    pub fn local_id(&self, of: u32) -> u32 {
        along(self.local, of)
    }

    /// Where its group stands in the grid.
    #[inline(always)]
    pub fn group_id(&self, of: u32) -> u32 {
        along(self.shared.run.group, of)
    }

    /// Groups of the grid.
    #[inline(always)]
    pub fn group_count(&self, of: u32) -> u32 {
        along(self.shared.run.groups, of)
    }

    /// Items of a group.
    #[inline(always)]
    pub fn group_size(&self, of: u32) -> u32 {
        along(self.shared.run.size, of)
    }

    /// Waits until all items of the group are here.
    pub fn barrier(&self) -> Barrier {
        Barrier::default()
    }

    /// The sum over the subgroup.
    #[inline(always)]
    pub fn subgroup_add<T: Number>(&self, value: T) -> T {
        value
    }

    /// The least of the subgroup.
    #[inline(always)]
    pub fn subgroup_min<T: Number>(&self, value: T) -> T {
        value
    }

    /// The greatest of the subgroup.
    #[inline(always)]
    pub fn subgroup_max<T: Number>(&self, value: T) -> T {
        value
    }

    fn memory(&self, index: u32) -> Memory<'a> {
        Memory { index, faults: self.shared.run.faults }
    }

    /// An array of the group with one index.
    pub fn shared_row<T: Element>(&self, index: u32, extent: u32) -> Row<'a, T> {
        let grid: Grid<'a, T> = self.shared_grid(index, 1, extent);
        Row { cells: grid.cells, memory: grid.memory, of: PhantomData }
    }

    /// An array of the group with two indices.
    pub fn shared_grid<T: Element>(&self, index: u32, rows: u32, columns: u32) -> Grid<'a, T> {
        let words = rows as usize * columns as usize * usize::from(T::TYPE.lanes);
        let mut arrays = self.shared.arrays.borrow_mut();
        if arrays.len() <= index as usize {
            arrays.resize(index as usize + 1, None);
        }
        let cells = arrays[index as usize].get_or_insert_with(|| vec![Cell::new(0); words].into());
        let memory = self.memory(ARRAYS_FROM + index);
        Grid { cells: cells.clone(), columns, memory, of: PhantomData }
    }

    /// An array of the item with one index.
    pub fn private_row<T: Element, const N: usize>(
        &self,
        index: u32,
        value: T,
    ) -> Own<'a, T, 1, N> {
        Own { cells: [[value; N]], memory: self.memory(ARRAYS_FROM + index) }
    }

    /// An array of the item with two indices.
    pub fn private_grid<T: Element, const M: usize, const N: usize>(
        &self,
        index: u32,
        value: T,
    ) -> Own<'a, T, M, N> {
        Own { cells: [[value; N]; M], memory: self.memory(ARRAYS_FROM + index) }
    }
}

//! Searches schedules by measurement and remembers what it found.

pub mod boost;

//! Models of what is usual, one file each: the idea, the maths, its constants and why, and when it
//! is wrong.
//!
//! [`series`] follows one number over time.

pub mod series;

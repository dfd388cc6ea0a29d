//! Where records go when they leave calltap.
//!
//! A sink takes records from the pipeline and never makes it wait: what does not fit is dropped and
//! counted with its reason (see [`account`](crate::account)).

pub(crate) mod json_lines;

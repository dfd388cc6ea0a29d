//! `loadtest detect`: does what is unusual raise an alert, and nothing else?
//!
//! [`tools`] plays programs that attackers use among many who mean well; [`series`] scores the model of one
//! number over time on labelled series of others, with [`vus`] and [`nab`].

pub mod nab;
pub mod series;
pub mod tools;
pub mod vus;

//! The binary `calltap`.
#![forbid(unsafe_code)]

mod account;
mod admin;
mod config;
mod demo;
mod doctor;
mod identity;
mod route;
mod sink;
mod tail;
mod tls;
mod upstream;

fn main() {}

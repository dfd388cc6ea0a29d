//! Asks calltap from outside: does it hold, does it tell the truth, what does it cost.
//!
//! A black box test: it speaks HTTP to a running gateway, reads the records it leaves and the admin
//! API it offers, and knows nothing of its insides. It refuses to link the gateway, and to use the
//! join, so that a mistake there cannot hide in a shared type. Only [`detect`] is no black box: it
//! feeds the models of `calltap-policies` with the series of others.
//!
//! In reading order: [`wire`] is HTTP/1.1 with every byte counted; [`backend`] answers by path;
//! [`plan`] draws a mix of calls that [`client`] and [`h2c`] play; [`gateway`] is the process under
//! test and [`records`] what it wrote; [`checks`] holds one against the other. [`lab`] makes network
//! namespaces, [`raw_client`] speaks TCP by hand in them, [`certificate`] is for TLS, [`cleanup`]
//! takes away what was made, [`machine`] says what a run was made on, [`table`] prints. [`verify`],
//! [`faults`], [`delays`], [`abort`], [`deny`], [`truth`], [`fingerprints`], [`compare`] and [`detect`]
//! are the questions.
#![forbid(unsafe_code)]

pub mod abort;
pub mod backend;
pub mod certificate;
pub mod checks;
pub mod cleanup;
pub mod client;
pub mod compare;
pub mod delays;
pub mod deny;
pub mod detect;
pub mod faults;
pub mod fingerprints;
pub mod gateway;
pub mod h2c;
pub mod lab;
pub mod machine;
pub mod page;
pub mod plan;
pub mod raw_client;
pub mod records;
pub mod table;
pub mod truth;
pub mod verify;
pub mod wire;

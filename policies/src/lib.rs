//! Policies over API calls. Pure: what was seen and the time come in, verdicts go out; the gateway
//! enforces and delivers.
#![forbid(unsafe_code)]

//! Denies the source of an alert for a time, where the configuration says so of its detector.

use std::sync::Arc;

use calltap_policies::alert::Change;

use super::board::{Board, Told};
use crate::config::AlertsDenyConfig;
use crate::denials::{Denials, Proven};

/// Decides who is denied.
pub(super) struct Denier {
    config: AlertsDenyConfig,
    denials: Arc<Denials>,
    board: Arc<Board>,
}

impl Denier {
    /// Denies whom `config` says.
    pub(super) fn new(config: AlertsDenyConfig, denials: Arc<Denials>, board: Arc<Board>) -> Self {
        Self {
            config,
            denials,
            board,
        }
    }

    /// Denies the source of an alert that begins or goes on, if it is to be.
    pub(super) fn consider(&self, told: &Told) {
        let AlertsDenyConfig { detectors, for_ } = &self.config;
        let alert = &told.alert;
        if told.change == Change::Resolved || !detectors.contains(&alert.detector) {
            return;
        }
        let Some(source) = Proven::source_of(alert) else {
            return;
        };
        // What is denied ends when it was said to end, whatever comes meanwhile.
        if !self.denials.told(Some(source.address())).is_empty() {
            return;
        }
        let (detector, id) = (alert.detector.info().name, alert.id);
        let why = format!("alert {id}: {detector}");
        let denied = self.denials.deny_peer(source, *for_, &why);
        self.board.count_denial(denied.is_ok());
        match denied {
            Ok(denied) => tracing::warn!("{} is denied for {for_:?}: {why}", denied.network),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::warn!("{} is not denied: {error:#} ({why})", source.address());
            }
        }
    }
}

//! Whether the network or the application is to blame: by where the time of the calls went.

use calltap_correlate::record::CallRecord;

/// Who is to blame for an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever called: the traffic itself is what is unusual.
    Client,
    /// The path between client and gateway, or gateway and upstream.
    Network,
    /// The upstream's application.
    Application,
    /// The gateway and its machine.
    Gateway,
    /// Nothing was measured that would tell.
    Unknown,
}

impl Blame {
    /// In lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Network => "network",
            Self::Application => "application",
            Self::Gateway => "gateway",
            Self::Unknown => "unknown",
        }
    }
}

/// Where the time of some calls went, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Packets under way, and connections being made: `client_send`, `connect`, `upstream_network`,
    /// `delivery`, `delayed_ack`, `failed_attempts`.
    pub network_us: u64,
    /// The upstream at work: `upstream_server`, `upstream_tls`.
    pub application_us: u64,
    /// The gateway and the kernel below it: `gateway`, `kernel_wait`.
    pub gateway_us: u64,
}

impl Spent {
    /// Adds what is known of one call.
    pub fn add(&mut self, call: &CallRecord) {
        let sum = |parts: &[Option<u64>]| parts.iter().flatten().sum::<u64>();
        self.network_us += sum(&[
            call.time_client_send_us,
            call.time_connect_us,
            call.time_upstream_network_us,
            call.time_delivery_us,
            call.time_delayed_ack_us,
            call.time_failed_attempts_us,
        ]);
        self.application_us += sum(&[call.time_upstream_server_us, call.time_upstream_tls_us]);
        self.gateway_us += sum(&[call.time_gateway_us, call.time_kernel_wait_us]);
    }

    /// Where most of the time went.
    pub fn blame(&self) -> Blame {
        let parts = [
            (self.network_us, Blame::Network),
            (self.application_us, Blame::Application),
            (self.gateway_us, Blame::Gateway),
        ];
        match parts.into_iter().max_by_key(|(us, _)| *us) {
            Some((1.., blame)) => blame,
            _ => Blame::Unknown,
        }
    }
}

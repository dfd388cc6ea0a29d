//! What the kernel says of full queues and SYN cookies, of all listeners of the network namespace
//! together: evidence beside our own counts, never instead of them.

use std::fs;

/// Since the namespace is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynPressure {
    /// SYNs answered with a cookie, because the queue of handshakes was full.
    pub cookies_sent: u64,
    /// Handshakes that were completed or begun and found the queue of accepted connections full.
    pub overflows: u64,
}

impl SynPressure {
    /// `None` where there is no `/proc`, or none that says it.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/net/netstat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = (lines.next()?, lines.next()?);
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let value = |name| {
            let (_, value) = pairs.clone().find(|(other, _)| *other == name)?;
            value.parse().ok()
        };
        Some(Self {
            cookies_sent: value("SyncookiesSent")?,
            overflows: value("ListenOverflows")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent Other ListenOverflows\n\
                    TcpExt: 7 1 8\nIpExt: InNoRoutes\nIpExt: 5\n";
        let pressure = SynPressure {
            cookies_sent: 7,
            overflows: 8,
        };
        assert_eq!(SynPressure::parse(text), Some(pressure));
        assert_eq!(SynPressure::parse("TcpExt: Other\nTcpExt: 1\n"), None);
        assert!(SynPressure::read().is_some());
    }
}

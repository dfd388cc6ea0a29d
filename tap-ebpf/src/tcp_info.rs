//! What any process may ask the kernel about its own sockets: `TCP_INFO`, cookies, addresses.
//!
//! Fewer facts than a ledger has, and only at the moment one asks. Knows no ledger.

use std::io;
use std::mem::{offset_of, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use calltap_correlate::socket::{Counters, DirectionTotals, SocketCookie, SocketIdentity};
use rustix::net::SocketAddrAny;
use smallvec::SmallVec;

/// `struct tcp_info` as far as we read it. The kernel's may be shorter or longer.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    window_shifts: u8,
    bits: u8,
    rto_us: u32,
    ato_us: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent_ms: u32,
    last_ack_sent_ms: u32,
    last_data_recv_ms: u32,
    last_ack_recv_ms: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt_us: u32,
    rttvar_us: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt_us: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt_us: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time_us: u64,
    rwnd_limited_us: u64,
    sndbuf_limited_us: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
}

const _: () = {
    assert!(offset_of!(TcpInfo, bytes_acked) == 120);
    assert!(offset_of!(TcpInfo, notsent_bytes) == 144);
    assert!(offset_of!(TcpInfo, delivery_rate) == 160);
    assert!(offset_of!(TcpInfo, bytes_retrans) == 208);
    assert!(size_of::<TcpInfo>() == 216);
};

const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// A socket's cookie.
///
/// # Errors
/// When the descriptor is no socket, or the kernel is older than 4.12.
pub fn cookie_of(socket: impl AsFd) -> io::Result<SocketCookie> {
    let raw = rustix::net::sockopt::socket_cookie(socket)?;
    SocketCookie::new(raw).ok_or_else(|| io::Error::other("the kernel returned cookie 0"))
}

/// The connection so far, as its own socket tells it. It does not know the headers, so no IP bytes.
///
/// # Errors
/// When the descriptor is no TCP socket.
pub fn counters(socket: impl AsFd, now_ns: u64) -> io::Result<Counters> {
    let (info, length) = read(socket)?;
    Ok(counters_of(&info, length, now_ns))
}

/// Like [`counters`], for a descriptor that somebody else owns: read only if it is still the socket
/// with this cookie.
///
/// # Errors
/// When the descriptor is another socket by now, or none.
pub fn counters_if(fd: RawFd, cookie: SocketCookie, now_ns: u64) -> io::Result<Counters> {
    // SAFETY: a descriptor that was closed or taken over in the meantime gives an error or another
    // cookie; it is neither kept nor closed here. -1 is the only value that must not be borrowed.
    let socket = match fd {
        0.. => unsafe { BorrowedFd::borrow_raw(fd) },
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    if cookie_of(socket)? != cookie {
        return Err(io::ErrorKind::NotFound.into());
    }
    counters(socket, now_ns)
}

/// Both addresses and the cookie. Nothing about the handshake: that is over.
///
/// # Errors
/// When the descriptor is no connected IP socket.
pub fn identity(socket: impl AsFd) -> io::Result<SocketIdentity> {
    let socket = socket.as_fd();
    Ok(identity_between(
        cookie_of(socket)?,
        address(rustix::net::getsockname(socket)?)?,
        address(rustix::net::getpeername(socket)?.ok_or(io::ErrorKind::NotConnected)?)?,
    ))
}

/// As [`identity`], of a socket whose ends are known: one that was reset has forgotten them.
pub fn identity_between(
    cookie: SocketCookie,
    local: SocketAddr,
    peer: SocketAddr,
) -> SocketIdentity {
    SocketIdentity {
        cookie,
        local,
        peer,
        syn_ns: None,
        established_ns: None,
        receive_base: None,
        send_base: None,
        peer_window_shift: None,
        syn_headers: SmallVec::new(),
    }
}

fn address(any: SocketAddrAny) -> io::Result<SocketAddr> {
    let mut address = SocketAddr::try_from(any)?;
    address.set_ip(address.ip().to_canonical());
    Ok(address)
}

/// The structure, and how many bytes of it this kernel filled.
fn read(socket: impl AsFd) -> io::Result<(TcpInfo, usize)> {
    let mut info = TcpInfo::default();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of integers into `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut length,
        )
    };
    match result {
        0 => Ok((info, length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn counters_of(info: &TcpInfo, length: usize, now_ns: u64) -> Counters {
    macro_rules! filled {
        ($field:ident) => {
            (length >= offset_of!(TcpInfo, $field) + size_of_val(&info.$field))
                .then_some(info.$field)
        };
    }
    let sent_offset = filled!(bytes_sent)
        .zip(filled!(bytes_retrans))
        .and_then(|(sent, resent)| sent.checked_sub(resent));
    Counters {
        taken_ns: now_ns,
        received: received_offset(info.state, filled!(bytes_received))
            .zip(filled!(data_segs_in))
            .map(|(offset, segments)| DirectionTotals {
                offset,
                segments: u64::from(segments),
                ip_bytes: None,
                late_segments: None,
            }),
        sent: sent_offset
            .zip(filled!(data_segs_out))
            .map(|(offset, segments)| DirectionTotals {
                offset,
                segments: u64::from(segments),
                ip_bytes: None,
                late_segments: None,
            }),
        acked_offset: acked_offset(info, sent_offset, filled!(bytes_acked)),
        unsent_bytes: filled!(notsent_bytes).map(u64::from),
        rtt_us: filled!(rtt_us).filter(|us| *us > 0),
        min_rtt_us: filled!(min_rtt_us).filter(|us| *us > 0 && *us != u32::MAX),
        handshake_rtt_us: None,
        retransmits: filled!(total_retrans),
        retransmitted_bytes: filled!(bytes_retrans),
        rtos: None,
        dup_acks: None,
        cwnd: filled!(snd_cwnd),
        mss: filled!(snd_mss),
        delivery_rate_bytes_per_s: filled!(delivery_rate).filter(|rate| *rate > 0),
        peer_reset: false,
        close: None,
        closed_ns: None,
    }
}

/// The kernel counts the peer's FIN as a byte. After the close nobody can tell whether it came.
fn received_offset(state: u8, bytes_received: Option<u64>) -> Option<u64> {
    match state {
        TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 => bytes_received,
        TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING => bytes_received?.checked_sub(1),
        _ => None,
    }
}

/// The kernel counts the SYN of a socket that connected as an acknowledged byte, and our FIN of
/// any. With nothing in flight it does not matter; with something in flight one byte less may be
/// said than is true, never one more.
fn acked_offset(info: &TcpInfo, sent: Option<u64>, acked: Option<u64>) -> Option<u64> {
    if info.unacked == 0 && info.state == TCP_ESTABLISHED {
        return sent;
    }
    Some(acked?.saturating_sub(1).min(sent?))
}

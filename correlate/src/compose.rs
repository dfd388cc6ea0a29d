//! Writes what is known of a call into its record, and nothing else.
//!
//! Every field of the halves is taken apart here, so that a new one cannot be forgotten.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::exchange::{
    Attempt, Consumer, EndedConnection, Exchange, ExternalEntry, GatewayTimes, Leg, Policy,
    Request, Response, Sharing, Stage, Text, TlsFacts, UpstreamBody, UpstreamLeg,
};
use crate::leg::{self, Beginning, Direction, LegEnd, LegReading};
use crate::record::{Address, AttemptRecord, CallRecord, Kind, Reason, Settled, WallClock};
use crate::socket::{Close, Counters, Coverage, SocketCookie};
use crate::syn::Syn;
use crate::timeline::{self, Evidence, Marks, Part, Parts, round_us};

/// SYNs already taken apart, one per slot, so that a kept-alive connection is read once.
pub(crate) struct SynCache(Vec<Option<(SocketCookie, Option<Syn>)>>);

/// Slots of the cache; a connection that lost its slot to another is read again.
const SYN_CACHE_SLOTS: usize = 1024;

impl SynCache {
    pub(crate) fn new() -> Self {
        Self(vec![None; SYN_CACHE_SLOTS])
    }

    fn get(&mut self, cookie: SocketCookie, headers: &[u8]) -> Option<&Syn> {
        if headers.is_empty() {
            return None;
        }
        let slot = &mut self.0[cookie.get() as usize % SYN_CACHE_SLOTS];
        if slot.as_ref().is_none_or(|(owner, _)| *owner != cookie) {
            *slot = Some((cookie, Syn::parse(headers)));
        }
        slot.as_ref().and_then(|(_, syn)| syn.as_ref())
    }
}

/// The record of a call. `last` is the client's connection as last seen.
pub(crate) fn call_record(
    mut exchange: Box<Exchange>,
    last: &Counters,
    settled: Option<Settled>,
    clock: WallClock,
    syns: &mut SynCache,
) -> Arc<CallRecord> {
    // No call without a head: an empty range says that its bytes were not told from others, such as
    // the end of a TLS handshake that was read together with it.
    let received = &mut exchange.client.received_range;
    *received = received.take().filter(|range| !range.is_empty());

    if exchange.client.sharing == Sharing::Upgraded
        && exchange.client.request_seq == 1
        && exchange.tls.is_none()
    {
        // All that the connection ever carried is this call's.
        exchange.client.begin = from_birth(Counters::default());
    }
    if exchange
        .client
        .sent_range
        .as_ref()
        .is_some_and(Range::is_empty)
    {
        // The gateway may have prepared a head, but not a byte of it was written.
        exchange.response.status = None;
    }

    connected_by_the_kernel(&mut exchange);

    // The final response left after the gateway had its head, if an upstream sent one.
    let sent = exchange
        .times
        .resp_read_ns
        .map_or(Beginning::Range, Beginning::NotBefore);
    let mut client = leg::read_leg(&exchange.client, Beginning::Range, sent, last);
    if exchange.response.status.is_none() && exchange.client.sent_range.is_none() {
        // No response, no bytes of it: nothing about them is unknown.
        client.sent.fault = None;
    }
    if let Some(upstream) = &mut exchange.upstream
        && upstream.tls_version.is_some()
    {
        leg::leave_out_farewell(&mut upstream.leg, exchange.times.resp_read_ns);
    }
    let upstream = exchange
        .upstream
        .as_ref()
        .map(|upstream| read_upstream(upstream, &exchange.times, &exchange.response));
    // Marks are of the last attempt; the leg may be of an earlier one, where the last got none.
    let of_last_attempt = upstream.as_ref().filter(|_| is_of_last_attempt(&exchange));
    let marks = Marks::of(&exchange, &client, of_last_attempt);
    let evidence = Evidence::of(&exchange, &client, of_last_attempt);

    let begin = marks.req_first.unwrap_or(marks.head_read);
    // Filled where it stays: it is large, and copying it would cost more than most of its fields.
    let mut shared = Arc::new(CallRecord::new(
        Kind::Call,
        exchange.uid,
        clock.at_us(begin),
    ));
    let record = Arc::get_mut(&mut shared).expect("nobody else has it yet");
    record.settled = settled;
    times(record, &marks, begin);
    if let Some(parts) = timeline::parts(&marks, &evidence) {
        whole_and_parts(record, &parts);
    }

    let Exchange {
        uid: _,
        request,
        response,
        api,
        consumer,
        tls,
        times,
        // The legs are large, and stay where they are.
        client: ref client_leg,
        client_address,
        cluster,
        attempts,
        upstream: ref upstream_leg,
        policy,
        mut flags,
        mut error_type,
        reset_code,
    } = *exchange;
    if flags.is_empty()
        && let Some(lost) = lost_on_the_way(client_leg, &response, &times, last, settled)
    {
        flags.push(lost);
        error_type = error_type.or(Some(lost.into()));
    }
    // Nobody waits for acknowledgements that cannot be seen.
    let ended_well = flags.is_empty() && matches!(settled, None | Some(Settled::Acked));

    asked(record, request);
    // What is still on its way, or in a queue that the client may yet drain, is not in vain.
    let is_lost = !flags.is_empty() || settled == Some(Settled::Closed);
    if is_lost && let Some(body) = response.upstream_body {
        in_vain(record, body, &response, client_leg, last);
    }
    answered(record, response);
    record.api = api;
    called_by(record, consumer);
    decided(record, policy);
    record.response_flags = flags.into_iter().map(Text::Borrowed).collect();
    record.error_type = error_type;
    record.http2_reset_code = reset_code.map(Text::Borrowed);

    if let Some(tls) = &tls {
        secured(record, tls, true);
    }
    let first_call = client_leg.request_seq == 1;
    addresses(record, client_leg, client_address);
    syn(record, client_leg, syns);
    if first_call {
        handshakes(record, client_leg, tls.as_deref(), times.accepted_ns);
    }
    let end = LegEnd {
        last,
        ended_well,
        tls: tls.is_some(),
    };
    record.client = leg::describe(client_leg, &client, Direction::Received, end);

    record.upstream_cluster = cluster;
    if let (Some(leg), Some(reading)) = (upstream_leg, &upstream) {
        used_upstream(record, leg, reading, ended_well);
    }
    // The socket, where one is known, says what was reached; else what was to be reached.
    if record.upstream_address.is_none()
        && let Some(attempt) = attempts.last()
    {
        (record.upstream_address, record.upstream_port) = endpoint(&attempt.address);
    }
    record.upstream_attempts = attempts.into_iter().map(tried).collect();
    worse_of_both(record);
    record.enforce_limits();
    shared
}

/// The record of a call that is still open, as far as it is known. Its exchange says of every end that has
/// not come how far it has got; the call's own record will be named after the exchange, and this one
/// after `uid`.
pub fn progress_record(exchange: Box<Exchange>, uid: Uuid, clock: WallClock) -> Arc<CallRecord> {
    let call = exchange.uid;
    let last = exchange.client.end;
    let mut shared = call_record(exchange, &last, None, clock, &mut SynCache::new());
    let record = Arc::get_mut(&mut shared).expect("nobody else has it yet");
    record.kind = Kind::Progress;
    record.uid = uid;
    record.attached_to = Some(call.to_string());
    // What is over when the call is.
    record.timing_resp_written_us = None;
    record.duration_us = None;
    leave_out_parts(record);
    shared
}

fn leave_out_parts(record: &mut CallRecord) {
    record.delivered_us = None;
    record.time_client_send_us = None;
    record.time_kernel_wait_us = None;
    record.time_gateway_us = None;
    record.time_failed_attempts_us = None;
    record.time_connect_us = None;
    record.time_upstream_tls_us = None;
    record.time_upstream_network_us = None;
    record.time_upstream_server_us = None;
    record.time_delivery_us = None;
    record.time_delayed_ack_us = None;
    record.time_unattributed_us = None;
}

/// Who ended a call that the gateway had every reason to think well of: it had written all of the
/// response, and the client's kernel never acknowledged it.
fn lost_on_the_way(
    leg: &Leg,
    response: &Response,
    times: &GatewayTimes,
    last: &Counters,
    settled: Option<Settled>,
) -> Option<&'static str> {
    if leg.coverage != Coverage::Ebpf || !was_lost(leg, response, last)? {
        return None;
    }
    match (settled?, last.close) {
        (Settled::Closed, _) if last.peer_reset => Some("client_abort"),
        (Settled::Closed, Some(Close::FinPeer | Close::RstIn)) => Some("client_abort"),
        // Our kernel answers with a reset what comes after we have closed, and throws away what the
        // client has not taken yet.
        (Settled::Closed, Some(Close::RstOut)) => Some("gateway_reset"),
        // Closed by nobody but the kernel, which had asked often enough.
        (Settled::Closed, Some(Close::Timeout | Close::FinLocal)) => Some("client_timeout"),
        // Still waiting: a client that is slow is not one that has gone.
        (Settled::Deadline, _) if has_stalled(leg, times, last) => Some("client_timeout"),
        _ => None,
    }
}

/// Whether some of a response never arrived; `None` where there was none, or nobody can tell. Of a
/// stream that was alone on its connection, what is certain: less was acknowledged than its body.
fn was_lost(leg: &Leg, response: &Response, last: &Counters) -> Option<bool> {
    match leg.sharing {
        Sharing::Sole | Sharing::Pipelined | Sharing::EndUnknown => {
            leg.sent_range.as_ref().map(|range| !range.is_empty())
        }
        Sharing::Multiplexed if leg.streams == 1 => {
            let begin = leg.begin.sent?.offset;
            Some(last.acked_offset? < begin + response.body_bytes)
        }
        Sharing::Multiplexed | Sharing::Upgraded => None,
    }
}

/// Whether for half of the time since the response was written nothing of it was acknowledged.
fn has_stalled(leg: &Leg, times: &GatewayTimes, last: &Counters) -> bool {
    let written_ns = times.resp_written_ns;
    let acked_ns = leg.sent.turns.iter().map(|turn| turn.ack.ns).max();
    let silent_ns = last
        .taken_ns
        .saturating_sub(acked_ns.unwrap_or(0).max(written_ns));
    2 * silent_ns >= last.taken_ns.saturating_sub(written_ns)
}

/// What the upstream did for nothing.
fn in_vain(
    record: &mut CallRecord,
    body: UpstreamBody,
    response: &Response,
    leg: &Leg,
    last: &Counters,
) {
    let UpstreamBody {
        bytes,
        complete,
        passed_on,
    } = body;
    record.upstream_http_response_complete = complete;
    record.upstream_http_response_body_size = Some(bytes);
    let delivered = match passed_on {
        true => delivered(response, leg, last),
        false => Some(0),
    };
    record.upstream_http_response_body_discarded =
        delivered.and_then(|delivered| bytes.checked_sub(delivered));
}

/// Bytes of the response's body that the client's kernel acknowledged. Where they are not sent as
/// they are, only all or nothing of them can be told apart from what is around them.
fn delivered(response: &Response, leg: &Leg, last: &Counters) -> Option<u64> {
    if leg.coverage != Coverage::Ebpf || leg.sharing == Sharing::Multiplexed {
        return None;
    }
    let range = leg.sent_range.as_ref()?;
    let acked = leg::acked_to(leg, last).unwrap_or(range.start);
    if let Some(start) = response.body_start {
        return Some(acked.saturating_sub(start));
    }
    if acked >= range.end && !response.is_blocked {
        return Some(response.body_bytes);
    }
    (acked <= range.start).then_some(0)
}

fn read_upstream(upstream: &UpstreamLeg, times: &GatewayTimes, response: &Response) -> LegReading {
    // TLS 1.3 servers send session tickets once they have heard from the client: ahead of the
    // first response, in the same turn, at a time of their own.
    let has_tickets = !upstream.reused && upstream.tls_version.as_deref() == Some("1.3");
    let received = match times.resp_read_ns {
        _ if has_tickets => Beginning::Hidden(Reason::TlsTickets),
        Some(head_ns) => match times.interim_read_ns {
            Some(interim_ns) => Beginning::AfterInterim {
                interim_ns,
                head_ns,
                body_bytes: response.upstream_body.map_or(0, |body| body.bytes),
            },
            None => Beginning::Range,
        },
        None => Beginning::Range,
    };
    let leg = &upstream.leg;
    leg::read_leg(leg, received, Beginning::Range, &leg.end)
}

/// The gateway learns of a connection when it is woken, the kernel when the SYN-ACK comes.
fn connected_by_the_kernel(exchange: &mut Exchange) {
    if !is_of_last_attempt(exchange) {
        return;
    }
    let upstream = exchange.upstream.as_ref();
    let identity = upstream.and_then(|upstream| upstream.leg.identity.as_deref());
    let established_ns = identity.and_then(|identity| identity.established_ns);
    if let (Some(attempt), Some(established_ns)) = (exchange.attempts.last_mut(), established_ns)
        && let Some(connected_ns) = attempt.connected_ns
        && (attempt.begin_ns..=connected_ns).contains(&established_ns)
    {
        attempt.connected_ns = Some(established_ns);
    }
}

fn is_of_last_attempt(exchange: &Exchange) -> bool {
    let leg = exchange
        .upstream
        .as_ref()
        .and_then(|upstream| upstream.leg.cookie);
    let attempt = exchange.attempts.last().and_then(|attempt| attempt.cookie);
    leg.is_some() && leg == attempt
}

fn times(record: &mut CallRecord, marks: &Marks, begin: u64) {
    let after = |mark: Option<u64>| mark.map(|mark| mark.wrapping_sub(begin) as i64);
    let Marks {
        req_first,
        req_last,
        head_arrived,
        head_read,
        up_begin,
        up_connected,
        up_secured,
        up_sent_first,
        up_sent_last,
        up_resent_last,
        up_acked,
        up_first,
        up_last,
        resp_read,
        resp_first,
        resp_last,
        resp_written,
        resp_acked,
    } = *marks;
    record.timing_req_first_us = after(req_first);
    record.timing_req_last_us = after(req_last);
    record.timing_head_arrived_us = after(head_arrived);
    record.timing_head_read_us = after(Some(head_read));
    record.timing_up_begin_us = after(up_begin);
    record.timing_up_connected_us = after(up_connected);
    record.timing_up_secured_us = after(up_secured);
    record.timing_up_sent_first_us = after(up_sent_first);
    record.timing_up_sent_last_us = after(up_sent_last);
    record.timing_up_resent_last_us = after(up_resent_last);
    record.timing_up_acked_us = after(up_acked);
    record.timing_up_first_us = after(up_first);
    record.timing_up_last_us = after(up_last);
    record.timing_resp_read_us = after(resp_read);
    record.timing_resp_first_us = after(resp_first);
    record.timing_resp_last_us = after(resp_last);
    record.timing_resp_written_us = after(Some(resp_written));
    record.timing_resp_acked_us = after(resp_acked);
    record.gateway_duration_us = Some(resp_written.saturating_sub(head_read));
    record.duration_us = req_first
        .zip(resp_last)
        .and_then(|(first, last)| last.checked_sub(first));
}

fn whole_and_parts(record: &mut CallRecord, parts: &Parts) {
    record.delivered_us = Some(parts.total());
    record.time_client_send_us = parts.get(Part::ClientSend);
    record.time_kernel_wait_us = parts.get(Part::KernelWait);
    record.time_gateway_us = parts.get(Part::Gateway);
    record.time_failed_attempts_us = parts.get(Part::FailedAttempts);
    record.time_connect_us = parts.get(Part::Connect);
    record.time_upstream_tls_us = parts.get(Part::UpstreamTls);
    record.time_upstream_network_us = parts.get(Part::UpstreamNetwork);
    record.time_upstream_server_us = parts.get(Part::UpstreamServer);
    record.time_delivery_us = parts.get(Part::Delivery);
    record.time_delayed_ack_us = parts.get(Part::DelayedAck);
    record.time_unattributed_us = parts.get(Part::Unattributed);
}

fn asked(record: &mut CallRecord, request: Request) {
    let Request {
        method,
        method_original,
        scheme,
        server_address,
        server_port,
        path,
        query,
        version,
        user_agent,
        body_bytes,
        headers,
        request_id,
        trace_id,
        span_id,
        global_transaction_id,
        rpc_method,
        upgraded_to,
    } = request;
    record.http_request_method = Some(method);
    record.http_request_method_original = method_original;
    record.url_scheme = Some(scheme);
    record.server_address = server_address;
    record.server_port = server_port;
    record.url_path = Some(path);
    record.url_query = query;
    // After an upgrade the connection speaks something else, in a version HTTP does not tell.
    (
        record.network_protocol_name,
        record.network_protocol_version,
    ) = match upgraded_to {
        Some(protocol) => (Some(protocol.into()), None),
        None => (Some("http".into()), Some(version)),
    };
    record.user_agent_original = user_agent;
    record.http_request_body_size = Some(body_bytes);
    record.http_request_headers = headers;
    record.http_request_id = request_id;
    record.trace_id = trace_id;
    record.span_id = span_id;
    record.global_transaction_id = global_transaction_id;
    record.rpc_system_name = rpc_method.is_some().then_some("grpc".into());
    record.rpc_method = rpc_method;
}

fn answered(record: &mut CallRecord, response: Response) {
    let Response {
        status,
        upstream_status,
        body_bytes,
        headers,
        upstream_body: _, // said already where it is of interest
        body_start: _,
        is_blocked: _,
        rpc_status,
    } = response;
    record.http_response_status_code = status;
    record.upstream_http_response_status_code = upstream_status;
    record.http_response_body_size = status.is_some().then_some(body_bytes);
    record.http_response_headers = headers;
    record.rpc_status_code = rpc_status;
}

fn called_by(record: &mut CallRecord, consumer: Consumer) {
    let Consumer {
        client_id,
        app,
        org,
    } = consumer;
    record.api_consumer_client_id = client_id;
    record.api_consumer_app = app;
    record.api_consumer_org = org;
}

fn decided(record: &mut CallRecord, policy: Policy) {
    let Policy {
        decision,
        matched,
        reason,
        ratelimit_key,
        ratelimit_remaining,
    } = policy;
    record.policy_decision = decision.map(Text::Borrowed);
    record.policy_matched = matched.into_iter().map(Text::Owned).collect();
    record.policy_reason = reason;
    record.ratelimit_key = ratelimit_key;
    record.ratelimit_remaining = ratelimit_remaining;
}

fn secured(record: &mut CallRecord, tls: &TlsFacts, established: bool) {
    let TlsFacts {
        version,
        cipher,
        next_protocol,
        resumed,
        server_name,
        ja4,
        client_subject,
        client_issuer,
        client_sha256,
        handshake_us: _, // of the connection, not of every call
    } = tls;
    record.tls_established = Some(established);
    record.tls_protocol_version = version.clone();
    record.tls_cipher = cipher.clone();
    record.tls_next_protocol = next_protocol.clone();
    record.tls_resumed = *resumed;
    record.tls_client_server_name = server_name.clone();
    record.tls_client_ja4 = ja4.clone();
    record.tls_client_subject = client_subject.clone();
    record.tls_client_issuer = client_issuer.clone();
    record.tls_client_hash_sha256 = client_sha256.clone();
}

fn addresses(record: &mut CallRecord, leg: &Leg, client: Option<SocketAddr>) {
    if let Some(identity) = &leg.identity {
        let peer = canonical(identity.peer);
        let local = canonical(identity.local);
        record.network_peer_address = Some(peer.ip());
        record.network_peer_port = Some(peer.port());
        record.network_local_address = Some(local.ip());
        record.network_local_port = Some(local.port());
        record.network_transport = Some("tcp".into());
        record.network_type = Some(if peer.is_ipv4() {
            "ipv4".into()
        } else {
            "ipv6".into()
        });
    }
    let client = client.or(leg.identity.as_ref().map(|identity| identity.peer));
    if let Some(client) = client.map(canonical) {
        record.client_address = Some(client.ip());
        // Forwarding headers seldom tell a port.
        record.client_port = Some(client.port()).filter(|port| *port != 0);
    }
}

/// An IPv4 address that a dual-stack socket wraps is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn syn(record: &mut CallRecord, leg: &Leg, syns: &mut SynCache) {
    let Some(identity) = &leg.identity else {
        return;
    };
    let Some(syn) = syns.get(identity.cookie, &identity.syn_headers) else {
        return;
    };
    let Syn {
        ttl,
        hops_guess,
        window,
        wscale,
        mss,
        options,
        df,
        ecn,
        dscp,
        p0f,
    } = syn;
    record.client_syn_ttl = Some(*ttl);
    record.client_syn_hops_guess = *hops_guess;
    record.client_syn_window = Some(*window);
    record.client_syn_wscale = *wscale;
    record.client_syn_mss = *mss;
    record.client_syn_options = Some(Arc::clone(options));
    record.client_syn_df = *df;
    record.client_syn_ecn = Some(*ecn);
    record.client_syn_dscp = Some(*dscp);
    record.client_syn_p0f = Some(Arc::clone(p0f));
}

fn handshakes(
    record: &mut CallRecord,
    leg: &Leg,
    tls: Option<&TlsFacts>,
    accepted_ns: Option<u64>,
) {
    let between = |from: Option<u64>, to: Option<u64>| round_us(to?).checked_sub(round_us(from?));
    if let Some(identity) = &leg.identity {
        record.client_handshake_us = between(identity.syn_ns, identity.established_ns);
        record.client_accept_wait_us = between(identity.established_ns, accepted_ns);
    }
    record.client_tls_handshake_us = tls.and_then(|tls| tls.handshake_us);
}

fn used_upstream(
    record: &mut CallRecord,
    upstream: &UpstreamLeg,
    reading: &LegReading,
    ended_well: bool,
) {
    let UpstreamLeg {
        leg,
        reused,
        tls_version,
        tls_cipher,
    } = upstream;
    if let Some(identity) = &leg.identity {
        let peer = canonical(identity.peer);
        record.upstream_address = Some(Address::Ip(peer.ip()));
        record.upstream_port = Some(peer.port());
        record.upstream_local_port = Some(identity.local.port());
    }
    record.upstream_reused = Some(*reused);
    let end = LegEnd {
        last: &leg.end,
        ended_well,
        tls: tls_version.is_some(),
    };
    record.upstream = leg::describe(leg, reading, Direction::Sent, end);
    record.upstream_tls_protocol_version = tls_version.clone();
    record.upstream_tls_cipher = tls_cipher.clone();
}

/// An endpoint as attempts name it: `10.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`.
fn endpoint(address: &str) -> (Option<Address>, Option<u16>) {
    if let Ok(address) = address.parse::<SocketAddr>() {
        let address = canonical(address);
        return (Some(Address::Ip(address.ip())), Some(address.port()));
    }
    match address.parse::<IpAddr>() {
        Ok(ip) => (Some(Address::Ip(ip.to_canonical())), None),
        Err(_) => (Some(Address::Other(address.to_owned())), None),
    }
}

fn tried(attempt: Attempt) -> AttemptRecord {
    let Attempt {
        address,
        cookie,
        begin_ns,
        connected_ns,
        secured_ns: _,
        outcome,
    } = attempt;
    let connect_us =
        connected_ns.and_then(|connected| round_us(connected).checked_sub(round_us(begin_ns)));
    AttemptRecord {
        address,
        cookie,
        outcome: outcome.into(),
        connect_us,
    }
}

fn worse_of_both(record: &mut CallRecord) {
    let (client, upstream) = (&record.client, &record.upstream);
    record.coverage = [client.coverage, upstream.coverage]
        .into_iter()
        .flatten()
        .min();
    record.attribution = [client.attribution, upstream.attribution]
        .into_iter()
        .flatten()
        .max();
}

/// The record of a connection that ended.
pub fn connection_record(connection: EndedConnection, clock: WallClock) -> Arc<CallRecord> {
    let EndedConnection {
        uid,
        stage,
        error_type,
        accepted_ns,
        ended_ns: _, // its age has no field; what it carried and how it ended have
        status,
        tls,
        client: mut leg,
    } = connection;
    let timestamp = clock.at_us(round_us(accepted_ns));
    let mut record = CallRecord::new(Kind::Connection, uid, timestamp);
    record.connection_stage = Some(stage);
    record.error_type = error_type.map(Into::into);
    record.http_response_status_code = status;
    addresses(&mut record, &leg, None);
    syn(&mut record, &leg, &mut SynCache::new());
    handshakes(&mut record, &leg, tls.as_deref(), Some(accepted_ns));
    if let Some(tls) = &tls {
        secured(&mut record, tls, stage != Stage::Tls);
    }
    // There was no call to share the connection with: its counters are its own, from birth on.
    leg.sharing = Sharing::Upgraded;
    leg.begin = from_birth(leg.begin);
    let last = leg.end;
    let reading = leg::read_leg(&leg, Beginning::Range, Beginning::Range, &last);
    let end = LegEnd {
        last: &last,
        ended_well: true,
        tls: tls.is_some(),
    };
    record.client = leg::describe(&leg, &reading, Direction::Received, end);
    record.client.tcp_close = last.close;
    worse_of_both(&mut record);
    record.enforce_limits();
    Arc::new(record)
}

/// Nothing had been counted when the connection was born, whether somebody looked or not.
fn from_birth(begin: Counters) -> Counters {
    Counters {
        received: begin.received.or_else(|| Some(Default::default())),
        sent: begin.sent.or_else(|| Some(Default::default())),
        retransmits: begin.retransmits.or(Some(0)),
        retransmitted_bytes: begin.retransmitted_bytes.or(Some(0)),
        rtos: begin.rtos.or(Some(0)),
        ..begin
    }
}

/// The record of an entry that somebody posted.
pub fn external_record(entry: ExternalEntry, clock: WallClock) -> Arc<CallRecord> {
    let ExternalEntry {
        uid,
        accepted_ns,
        message,
        details,
        attached_to,
        matches,
    } = entry;
    let timestamp = clock.at_us(round_us(accepted_ns));
    let mut record = CallRecord::new(Kind::External, uid, timestamp);
    record.message = Some(message);
    record.details = details;
    record.attached_to = attached_to;
    record.matches = matches;
    record.enforce_limits();
    Arc::new(record)
}

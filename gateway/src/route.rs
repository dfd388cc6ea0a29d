//! Decides which route a call takes: host, then path template, then method.
//!
//! Routes match a [normalised](normalise) path and that same path is what is forwarded, so the
//! backend cannot read another path out of the bytes than the one that was matched. Does no I/O,
//! runs no regular expressions, and refuses paths that different servers read differently.
//!
//! Precedence: an exact host before a wildcard (the longest first) before no host; then segment by
//! segment from the left, a literal before a parameter before a tail. A route whose methods do not
//! include the call's is passed over; when only such routes match, the answer is which methods do.
//!
//! ```text
//! /orders/{id}      one segment that is not empty
//! /files/{*rest}    everything below /files/, also nothing: /files/ but not /files
//! /{*rest}          every path
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use calltap_correlate::exchange::ApiNames;
use smallvec::SmallVec;

/// Longer names are no host names (RFC 1035) and match only routes without a host.
const HOST_BYTES_MAX: usize = 253;

/// One configured way through the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Tells it from the others in logs.
    pub(crate) name: Arc<str>,
    /// Which hosts it answers for; `None` is every host.
    pub(crate) host: Option<HostPattern>,
    /// Which paths it answers for.
    pub(crate) template: Template,
    /// Which methods it answers for, upper case, sorted; empty is every method.
    pub(crate) methods: Vec<String>,
    /// The upstream group's name; the configuration has one of that name.
    pub(crate) upstream: Arc<str>,
    /// Taken off the front of the path before it is forwarded; whole segments, no final slash.
    pub(crate) strip_prefix: Option<String>,
    /// Longest time for the whole call; `None` is no limit.
    pub(crate) timeout: Option<Duration>,
    /// The Host header the upstream gets.
    pub(crate) host_header: HostHeader,
    /// Names for the record; `route` is the template's text.
    pub(crate) api: Arc<ApiNames>,
}

/// What happens to the Host header on the way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostHeader {
    /// As the client sent it.
    Keep,
    /// The upstream's own name: its TLS server name, else the endpoint as configured.
    Rewrite,
}

impl Route {
    /// The path to forward for a normalised path that matched this route.
    pub(crate) fn forward_path<'p>(&self, normalised: &'p str) -> Cow<'p, str> {
        let Some(prefix) = &self.strip_prefix else {
            return Cow::Borrowed(normalised);
        };
        match normalised.strip_prefix(prefix.as_str()) {
            Some("") => Cow::Borrowed("/"),
            Some(rest) if rest.starts_with('/') => Cow::Borrowed(rest),
            _ => Cow::Borrowed(normalised),
        }
    }

    fn allows(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|allowed| allowed == method)
    }
}

/// Which hosts a route answers for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    /// This host, lower case, without a port.
    Exact(String),
    /// Every host below this one, at any depth, but not the host itself: `*.example.com` is kept
    /// as `example.com`.
    Below(String),
}

/// Why a host pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostPatternError {
    /// Routes do not match on ports.
    #[error("a host is named without its port")]
    Port,
    /// A `*` anywhere but as the whole first label.
    #[error("a * stands only for whole leading labels, as in *.example.com")]
    Star,
    /// Nothing, a character that no host name has, or too long.
    #[error("this is not a host name")]
    Name,
}

impl HostPattern {
    /// Reads `api.example.com`, `*.example.com`, `10.0.0.1` or `[::1]`.
    pub(crate) fn parse(text: &str) -> Result<Self, HostPatternError> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        if lower.starts_with('[') {
            let address = lower
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            return match address.map(str::parse::<std::net::Ipv6Addr>) {
                Some(Ok(address)) => Ok(Self::Exact(format!("[{address}]"))),
                _ => Err(HostPatternError::Name),
            };
        }
        if lower.contains(':') {
            return Err(HostPatternError::Port);
        }
        let (name, below) = match lower.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        if name.contains('*') {
            return Err(HostPatternError::Star);
        }
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() > HOST_BYTES_MAX || !name.split('.').all(label) {
            return Err(HostPatternError::Name);
        }
        Ok(match below {
            true => Self::Below(name.to_owned()),
            false => Self::Exact(name.to_owned()),
        })
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(host) => write!(f, "*.{host}"),
        }
    }
}

/// Which paths a route answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    text: Arc<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
    Tail(String),
}

/// Why a path template is none. Positions in it are named by the segment's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// It is a path, not a URL or a pattern.
    #[error("a path begins with /")]
    NoSlash,
    /// `{` or `}` inside of a segment.
    #[error("{0} mixes text and a parameter; a parameter is a whole segment, as in /orders/{{id}}")]
    PartOfSegment(String),
    /// A `*` that is not a tail.
    #[error("{0} is no wildcard; a tail is written {{*name}} and comes last")]
    Star(String),
    /// A tail with something after it.
    #[error("{0} must be the last segment")]
    TailNotLast(String),
    /// Two parameters of the same name.
    #[error("two parameters are named {0}")]
    DuplicateName(String),
    /// A parameter without a usable name.
    #[error("{0} has no name of letters, digits, _ and -")]
    Name(String),
    /// A literal that no normalised path contains, so that the route could never match.
    #[error("no normalised path contains {0}, so nothing would ever match")]
    NeverMatches(String),
}

impl Template {
    /// Reads `/orders/{id}/items` or `/files/{*rest}`. Literals are normalised as requests are.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let path = text.strip_prefix('/').ok_or(TemplateError::NoSlash)?;
        let mut segments = Vec::new();
        let count = path.split('/').count();
        for (index, segment) in path.split('/').enumerate() {
            let last = index + 1 == count;
            segments.push(Segment::parse(segment, last)?);
        }
        let mut names: Vec<&str> = segments.iter().filter_map(Segment::name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TemplateError::DuplicateName(pair[0].to_owned()));
        }
        Ok(Self {
            text: text.into(),
            segments,
        })
    }

    /// As configured: the low-cardinality name of the route in records and metrics.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every path this template matches begins with these whole literal segments.
    pub(crate) fn begins_with(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.trim_start_matches('/').split('/').all(|wanted| {
            matches!(segments.next(), Some(Segment::Literal(literal)) if literal == wanted)
        })
    }

    /// The template without the parameters' names: templates of one shape match the same paths.
    fn shape(&self) -> String {
        let segment = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Parameter(_) => "/{}".to_owned(),
            Segment::Tail(_) => "/{*}".to_owned(),
        };
        self.segments.iter().map(segment).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }
}

impl Segment {
    fn parse(text: &str, last: bool) -> Result<Self, TemplateError> {
        let owned = || text.to_owned();
        let Some(inner) = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        else {
            return match text {
                _ if text.contains(['{', '}']) => Err(TemplateError::PartOfSegment(owned())),
                "*" | "**" => Err(TemplateError::Star(owned())),
                "" if last => Ok(Self::Literal(String::new())),
                _ => Self::literal(text),
            };
        };
        let (name, tail) = match inner.strip_prefix('*') {
            Some(name) => (name, true),
            None => (inner, false),
        };
        if name.contains(['{', '}']) {
            return Err(TemplateError::PartOfSegment(owned()));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(TemplateError::Name(owned()));
        }
        match (tail, last) {
            (true, false) => Err(TemplateError::TailNotLast(owned())),
            (true, true) => Ok(Self::Tail(name.to_owned())),
            (false, _) => Ok(Self::Parameter(name.to_owned())),
        }
    }

    fn literal(text: &str) -> Result<Self, TemplateError> {
        let path = format!("/{text}");
        match normalise(&path) {
            Ok(path) if path.len() > 1 && !path[1..].contains('/') => {
                Ok(Self::Literal(path[1..].to_owned()))
            }
            _ if text.is_empty() => Err(TemplateError::NeverMatches("an empty segment".to_owned())),
            _ => Err(TemplateError::NeverMatches(text.to_owned())),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::Parameter(name) | Self::Tail(name) => Some(name),
        }
    }
}

/// All routes, ready to be searched. Immutable; a reload builds another.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    routes: Vec<Arc<Route>>,
    exact: HashMap<Box<str>, Node>,
    below: HashMap<Box<str>, Node>,
    any: Node,
}

/// Two routes that would answer the same calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// Index of the route that was there first.
    pub(crate) first: usize,
    /// Index of the route that repeats it.
    pub(crate) second: usize,
    /// The method both answer for; `None` when both answer for every method.
    pub(crate) method: Option<String>,
}

/// One segment's worth of the tree.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    parameter: Option<Box<Node>>,
    /// Routes whose template ends here.
    ends: Vec<usize>,
    /// Routes whose template ends here with a tail.
    tails: Vec<usize>,
}

/// What the table says about a call.
#[derive(Debug)]
#[expect(clippy::enum_variant_names, reason = "not found is what HTTP calls it")]
pub(crate) enum Found<'r, 'p> {
    /// Take this route; the parameters are in the template's order.
    Route(
        &'r Arc<Route>,
        #[cfg_attr(
            not(test),
            expect(
                dead_code,
                reason = "what a policy may key on; no rule asks for it yet"
            )
        )]
        Params<'r, 'p>,
    ),
    /// The path is known, the method is not among these (sorted, for the Allow header).
    MethodNotAllowed(Vec<&'r str>),
    /// No route has this host and path.
    NotFound,
}

/// Names and values of a template's parameters, as they stand in the normalised path.
pub(crate) type Params<'r, 'p> = SmallVec<[(&'r str, &'p str); 4]>;

/// Finds the routes that answer calls another one answers too, so that one of them is never taken.
///
/// Takes what tells calls apart of each route, in the order of the file. A route for every method
/// beside one for some is no overlap: the narrower is asked first.
pub(crate) fn overlaps<'r>(
    routes: impl IntoIterator<Item = (Option<&'r HostPattern>, &'r Template, &'r [String])>,
) -> Vec<Overlap> {
    let mut seen: HashMap<_, Vec<(usize, &[String])>> = HashMap::new();
    let mut overlaps = Vec::new();
    for (second, (host, template, methods)) in routes.into_iter().enumerate() {
        let place = seen.entry((host, template.shape())).or_default();
        for &(first, others) in place.iter() {
            let shared = others.iter().find(|method| methods.contains(method));
            if shared.is_some() || (others.is_empty() && methods.is_empty()) {
                let method = shared.cloned();
                overlaps.push(Overlap {
                    first,
                    second,
                    method,
                });
                break;
            }
        }
        place.push((second, methods));
    }
    overlaps
}

impl RouteTable {
    /// Builds the table. Of routes that [overlap](overlaps) the first is taken.
    pub(crate) fn new(routes: Vec<Route>) -> Self {
        let mut table = Self {
            routes: routes.into_iter().map(Arc::new).collect(),
            ..Self::default()
        };
        for (index, route) in table.routes.iter().enumerate() {
            let tree = match &route.host {
                None => &mut table.any,
                Some(HostPattern::Exact(host)) => {
                    table.exact.entry(host.as_str().into()).or_default()
                }
                Some(HostPattern::Below(host)) => {
                    table.below.entry(host.as_str().into()).or_default()
                }
            };
            let place = tree.place(&route.template.segments);
            place.push(index);
            place.sort_by_key(|&index| table.routes[index].methods.is_empty());
        }
        table
    }

    /// All routes in the order of the file.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Finds the route of a call.
    ///
    /// `host` is the Host header or `:authority` as sent (any case, with or without a port, a final
    /// dot is ignored); `path` has been [normalised](normalise); `method` is compared as it is.
    pub(crate) fn find<'r, 'p>(
        &'r self,
        host: Option<&str>,
        path: &'p str,
        method: &str,
    ) -> Found<'r, 'p> {
        let mut search = Search::new(&self.routes, method);
        let Some(path) = path.strip_prefix('/') else {
            return Found::NotFound; // the asterisk of `OPTIONS *`, which no template has
        };
        if let Some(host) = host.and_then(lookup_name) {
            if let Some(tree) = self.exact.get(&*host)
                && let Some(route) = search.descend(tree, path)
            {
                return search.found(route);
            }
            if !self.below.is_empty() {
                for (dot, _) in host.match_indices('.') {
                    if let Some(tree) = self.below.get(&host[dot + 1..])
                        && let Some(route) = search.descend(tree, path)
                    {
                        return search.found(route);
                    }
                }
            }
        }
        match search.descend(&self.any, path) {
            Some(route) => search.found(route),
            None => search.not_found(),
        }
    }
}

impl Node {
    /// The list that a route with these segments belongs to.
    fn place(&mut self, segments: &[Segment]) -> &mut Vec<usize> {
        match segments {
            [] => &mut self.ends,
            [Segment::Tail(_), ..] => &mut self.tails,
            [Segment::Parameter(_), rest @ ..] => {
                self.parameter.get_or_insert_default().place(rest)
            }
            [Segment::Literal(text), rest @ ..] => self
                .literals
                .entry(text.as_str().into())
                .or_default()
                .place(rest),
        }
    }
}

/// One walk through the trees.
struct Search<'r, 'p, 'm> {
    routes: &'r [Arc<Route>],
    method: &'m str,
    captures: SmallVec<[&'p str; 4]>,
    allowed: Vec<&'r str>,
    #[cfg(test)]
    steps: usize,
}

impl<'r, 'p, 'm> Search<'r, 'p, 'm> {
    fn new(routes: &'r [Arc<Route>], method: &'m str) -> Self {
        Self {
            routes,
            method,
            captures: SmallVec::new(),
            allowed: Vec::new(),
            #[cfg(test)]
            steps: 0,
        }
    }

    // Goes back where a more specific branch ends without a route. Only branches that the
    // configuration has and that agree with the path so far are entered, each at most once, so the
    // caller of an API cannot make this longer than its path; the number of routes does not matter.
    fn descend(&mut self, node: &'r Node, rest: &'p str) -> Option<&'r Arc<Route>> {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        if let Some(child) = node.literals.get(segment)
            && let Some(route) = self.step(child, after)
        {
            return Some(route);
        }
        if let Some(child) = &node.parameter
            && !segment.is_empty()
        {
            self.captures.push(segment);
            if let Some(route) = self.step(child, after) {
                return Some(route);
            }
            self.captures.pop();
        }
        let route = self.accept(&node.tails)?;
        self.captures.push(rest);
        Some(route)
    }

    fn step(&mut self, child: &'r Node, after: Option<&'p str>) -> Option<&'r Arc<Route>> {
        match after {
            Some(after) => self.descend(child, after),
            None => self.accept(&child.ends),
        }
    }

    fn accept(&mut self, candidates: &[usize]) -> Option<&'r Arc<Route>> {
        let candidates = candidates.iter().map(|&index| &self.routes[index]);
        for route in candidates {
            if route.allows(self.method) {
                return Some(route);
            }
            self.allowed
                .extend(route.methods.iter().map(String::as_str));
        }
        None
    }

    fn found(self, route: &'r Arc<Route>) -> Found<'r, 'p> {
        Found::Route(route, route.template.names().zip(self.captures).collect())
    }

    fn not_found(mut self) -> Found<'r, 'p> {
        if self.allowed.is_empty() {
            return Found::NotFound;
        }
        self.allowed.sort_unstable();
        self.allowed.dedup();
        Found::MethodNotAllowed(self.allowed)
    }
}

/// The host as routes spell it: no port, no final dot, lower case. `None` for what is no host.
fn lookup_name(host: &str) -> Option<Cow<'_, str>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => &host[..rest.find(']')? + 2],
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > HOST_BYTES_MAX {
        return None;
    }
    Some(match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    })
}

/// Why a path is refused (status 400): servers disagree about what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// Neither `/...` nor `*`.
    #[error("the path does not begin with /")]
    NoSlash,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a % that encodes nothing")]
    BrokenEncoding,
    /// `%2F`: one segment to some servers, two to others.
    #[error("the path has an encoded slash")]
    EncodedSlash,
    /// `\` or `%5C`: a slash to some servers.
    #[error("the path has a backslash")]
    Backslash,
    /// NUL or another control character, encoded or not, or a space.
    #[error("the path has a control character or a space")]
    Control,
    /// A `?` or `#`: not part of a path.
    #[error("the path has a query or fragment delimiter")]
    Delimiter,
    /// `..;x`: a dot segment to servers that drop path parameters first.
    #[error("the path has a dot segment with parameters")]
    DotParameters,
}

/// Brings the path of a request (without the query) into the one form that is matched and
/// forwarded; borrows when it has it already. `*` (of `OPTIONS *`) stays as it is.
///
/// As RFC 3986, 6.2.2: encoded unreserved characters are decoded, other encodings written in upper
/// case, characters that may not stand in a path encoded, dot segments resolved (never above the
/// root). Beyond it, runs of slashes become one, as most backends read them: else `//admin` would
/// take another route than `/admin` to the same place.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NoSlash);
    }
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    resolve_dots(&decode(path)?).map(Cow::Owned)
}

/// Whether nothing needs to be done; may say no too often.
fn is_normal(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let fits = is_path_byte(byte) || (byte == b'/' && before != b'/');
        let hidden_dot = before == b'/' && byte == b'.';
        before = byte;
        fits && !hidden_dot
    })
}

/// Decodes what means the same decoded, encodes what may not stand in a path.
fn decode(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let (byte, encoded) = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| (digit as char).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => ((high << 4 | low) as u8, true),
                    _ => return Err(PathError::BrokenEncoding),
                }
            }
            byte => (byte, false),
        };
        match byte {
            b'/' if encoded => return Err(PathError::EncodedSlash),
            b'\\' => return Err(PathError::Backslash),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b' ' if !encoded => return Err(PathError::Control),
            b'?' | b'#' if !encoded => return Err(PathError::Delimiter),
            b'/' => out.push('/'),
            // A reserved character keeps the form it came in: the two forms differ in meaning.
            byte if is_unreserved(byte) || (!encoded && is_path_byte(byte)) => {
                out.push(byte as char)
            }
            byte => {
                out.push('%');
                out.extend(
                    [byte >> 4, byte & 0xf]
                        .map(|digit| b"0123456789ABCDEF"[digit as usize] as char),
                );
            }
        }
    }
    Ok(out)
}

/// Resolves `.` and `..` and joins runs of slashes.
fn resolve_dots(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                if last {
                    out.push('/');
                }
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => {
                return Err(PathError::DotParameters);
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    Ok(out)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What RFC 3986 calls `pchar`, without encodings.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// One route per line: `[host]/template [METHOD,METHOD]`.
    fn table(lines: &str) -> RouteTable {
        RouteTable::new(routes(lines))
    }

    fn routes(lines: &str) -> Vec<Route> {
        let lines = lines.lines().map(str::trim);
        lines.filter(|line| !line.is_empty()).map(route).collect()
    }

    fn route(line: &str) -> Route {
        let (place, methods) = line.split_once(' ').unwrap_or((line, ""));
        let slash = place.find('/').unwrap();
        let host = &place[..slash];
        Route {
            name: place.into(),
            host: (!host.is_empty()).then(|| HostPattern::parse(host).unwrap()),
            template: Template::parse(&place[slash..]).unwrap(),
            methods: methods
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            upstream: "u".into(),
            strip_prefix: None,
            timeout: None,
            host_header: HostHeader::Keep,
            api: Arc::default(),
        }
    }

    fn answer(table: &RouteTable, host: &str, path: &str, method: &str) -> String {
        match table.find((!host.is_empty()).then_some(host), path, method) {
            Found::Route(route, params) => {
                let params: String = params
                    .iter()
                    .map(|(name, value)| format!(" {name}={value}"))
                    .collect();
                format!("{}{params}", route.name)
            }
            Found::MethodNotAllowed(allowed) => format!("405 {}", allowed.join(",")),
            Found::NotFound => "404".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table(
            "/orders
             /orders/{id} GET,HEAD
             /orders/{order} DELETE
             /orders/new POST
             /orders/{id}/items
             /orders/{a}/items/{b}
             /orders/{*rest} PUT
             /a/b/c
             /a/{x}/d
             /{x}/b/e
             /files/
             /files/{*path}
             api.example.com/{*rest}
             api.example.com/v1/x POST
             *.example.com/{*any}
             *.eu.example.com/{*any}
             *.example.com/only/below
             [::1]/six",
        );
        for (host, path, method, expected) in [
            ("", "/orders", "GET", "/orders"),
            ("", "/orders/", "GET", "405 PUT"),
            ("", "/orders/", "PUT", "/orders/{*rest} rest="),
            ("", "/orders/7", "GET", "/orders/{id} id=7"),
            ("", "/orders/7", "DELETE", "/orders/{order} order=7"),
            ("", "/orders/7", "get", "405 DELETE,GET,HEAD,PUT"),
            ("", "/orders/new", "POST", "/orders/new"),
            ("", "/orders/new", "GET", "/orders/{id} id=new"),
            ("", "/orders/new", "PUT", "/orders/{*rest} rest=new"),
            ("", "/orders/new", "PATCH", "405 DELETE,GET,HEAD,POST,PUT"),
            ("", "/orders/7/items", "GET", "/orders/{id}/items id=7"),
            (
                "",
                "/orders/7/items/9",
                "GET",
                "/orders/{a}/items/{b} a=7 b=9",
            ),
            (
                "",
                "/orders/7/items/",
                "PUT",
                "/orders/{*rest} rest=7/items/",
            ),
            ("", "/orders//items", "GET", "405 PUT"),
            ("", "/a/b/c", "GET", "/a/b/c"),
            ("", "/a/b/d", "GET", "/a/{x}/d x=b"),
            ("", "/a/b/e", "GET", "/{x}/b/e x=a"),
            ("", "/a/b/f", "GET", "404"),
            ("", "/files", "GET", "404"),
            ("", "/files/", "GET", "/files/"),
            ("", "/files/x/y", "GET", "/files/{*path} path=x/y"),
            ("", "/", "GET", "404"),
            ("", "*", "OPTIONS", "404"),
            ("", "", "GET", "404"),
            (
                "API.example.com.:8443",
                "/anything",
                "GET",
                "api.example.com/{*rest} rest=anything",
            ),
            ("api.example.com", "/v1/x", "POST", "api.example.com/v1/x"),
            (
                "api.example.com",
                "/v1/x",
                "GET",
                "api.example.com/{*rest} rest=v1/x",
            ),
            ("b.example.com", "/", "GET", "*.example.com/{*any} any="),
            (
                "c.b.example.com",
                "/only/below",
                "GET",
                "*.example.com/only/below",
            ),
            (
                "b.eu.example.com",
                "/only/below",
                "GET",
                "*.eu.example.com/{*any} any=only/below",
            ),
            ("example.com", "/orders", "GET", "/orders"),
            ("notexample.com", "/only/below", "GET", "404"),
            ("[::1]:8080", "/six", "GET", "[::1]/six"),
            ("[::1", "/orders", "GET", "/orders"),
            (":80", "/orders", "GET", "/orders"),
        ] {
            assert_eq!(
                answer(&table, host, path, method),
                expected,
                "{method} {host}{path}"
            );
        }
    }

    #[test]
    fn an_exact_host_without_the_path_leaves_it_to_wider_ones() {
        let table = table("a.example.com/x GET\n*.example.com/y\n/z\n/x PUT");
        assert_eq!(
            answer(&table, "a.example.com", "/y", "GET"),
            "*.example.com/y"
        );
        assert_eq!(answer(&table, "a.example.com", "/z", "GET"), "/z");
        assert_eq!(answer(&table, "a.example.com", "/x", "PUT"), "/x");
        assert_eq!(answer(&table, "a.example.com", "/x", "POST"), "405 GET,PUT");
    }

    #[test]
    fn routes_for_the_same_calls_are_a_mistake() {
        for (lines, expected) in [
            ("/a/{x}\n/a/{y}", Some((0, 1, None))),
            ("/a GET\n/b\n/a POST,GET", Some((0, 2, Some("GET")))),
            ("/a GET\n/a POST", None),
            ("/a GET\n/a", None),
            ("/a\n/a GET\n/a", Some((0, 2, None))),
            ("/{*x}\n/{*y}", Some((0, 1, None))),
            ("/{x}\n/{*y}", None),
            ("h/a\n/a", None),
            ("H.example/a\nh.example./a", Some((0, 1, None))),
            ("*.h/a\nh/a", None),
        ] {
            let routes = routes(lines);
            let overlaps = overlaps(routes.iter().map(|route| {
                let Route {
                    host,
                    template,
                    methods,
                    ..
                } = route;
                (host.as_ref(), template, methods.as_slice())
            }));
            let found = overlaps
                .first()
                .map(|overlap| (overlap.first, overlap.second, overlap.method.as_deref()));
            assert_eq!(found, expected, "{lines}");
        }
    }

    #[test]
    fn a_route_for_some_methods_is_asked_before_one_for_all() {
        let table = table("/a\n/a GET");
        let Found::Route(route, _) = table.find(None, "/a", "GET") else {
            panic!("not found")
        };
        assert_eq!(route.methods, ["GET"]);
    }

    #[test]
    fn a_thousand_routes_take_no_more_steps_than_one() {
        let lines: String = (0..1000)
            .map(|n| format!("/api/r{n}/{{id}}/s{n}\n/api/r{n}/{{id}}/{{*rest}}\n"))
            .collect();
        let many = table(&lines);
        let few = table("/api/r999/{id}/s999\n/api/r999/{id}/{*rest}");
        for path in [
            "/api/r999/1/s999",
            "/api/r999/1/s1",
            "/api/r1000/1/2/3",
            "/api",
        ] {
            let steps = |table: &RouteTable| {
                let mut search = Search::new(&table.routes, "GET");
                search.descend(&table.any, &path[1..]);
                search.steps
            };
            assert_eq!(steps(&many), steps(&few), "{path}");
            assert_eq!(
                answer(&many, "", path, "GET"),
                answer(&few, "", path, "GET")
            );
        }
    }

    #[test]
    fn paths_have_one_normal_form() {
        use PathError::*;
        for (path, expected) in [
            ("/", Ok("/")),
            ("*", Ok("*")),
            ("/a/b", Ok("/a/b")),
            ("/a/b/", Ok("/a/b/")),
            ("/%7Euser/%41%2dz", Ok("/~user/A-z")),
            ("/a%3ab%3B", Ok("/a%3Ab%3B")),
            ("/a;v=1/b,c:d@e", Ok("/a;v=1/b,c:d@e")),
            ("/caf%c3%a9", Ok("/caf%C3%A9")),
            ("/café", Ok("/caf%C3%A9")),
            ("/a|b\"{c}^`<>", Ok("/a%7Cb%22%7Bc%7D%5E%60%3C%3E")),
            ("/a%20b", Ok("/a%20b")),
            ("/%252e%252e/x", Ok("/%252e%252e/x")),
            ("/a/./b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/b/.", Ok("/a/b/")),
            ("/..", Ok("/")),
            ("/../../a", Ok("/a")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a/..b/...", Ok("/a/..b/...")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("//a", Ok("/a")),
            ("/a//b///", Ok("/a/b/")),
            ("/a//../b", Ok("/b")),
            ("/a/%2f", Err(EncodedSlash)),
            ("/a/..%2Fb", Err(EncodedSlash)),
            ("/a\\b", Err(Backslash)),
            ("/a%5cb", Err(Backslash)),
            ("/a%00", Err(Control)),
            ("/a%0d%0a", Err(Control)),
            ("/a\tb", Err(Control)),
            ("/a b", Err(Control)),
            ("/a%7f", Err(Control)),
            ("/a%", Err(BrokenEncoding)),
            ("/a%4", Err(BrokenEncoding)),
            ("/a%zz", Err(BrokenEncoding)),
            ("/a%+1", Err(BrokenEncoding)),
            ("/a#b", Err(Delimiter)),
            ("/a?b", Err(Delimiter)),
            ("/x/..;/admin", Err(DotParameters)),
            ("/x/.;a=b/admin", Err(DotParameters)),
            ("/x/%2e%2e;/admin", Err(DotParameters)),
            ("", Err(NoSlash)),
            ("a/b", Err(NoSlash)),
            ("http://a/b", Err(NoSlash)),
        ] {
            let normal = normalise(path);
            assert_eq!(normal.as_deref(), expected.as_ref().copied(), "{path}");
            if let Ok(normal) = &normal {
                assert_eq!(
                    normalise(normal).as_deref(),
                    Ok(&**normal),
                    "normal forms stay, {path}"
                );
            }
        }
        assert!(
            matches!(normalise("/a/b.c/~d;e=1"), Ok(Cow::Borrowed(_))),
            "the usual path is not copied"
        );
    }

    #[test]
    fn templates_that_are_none_say_why() {
        for (template, expected) in [
            ("orders", "a path begins with /"),
            (
                "/a{id}",
                "a{id} mixes text and a parameter; a parameter is a whole segment, as in /orders/{id}",
            ),
            (
                "/{a}{b}",
                "{a}{b} mixes text and a parameter; a parameter is a whole segment, as in /orders/{id}",
            ),
            (
                "/a/*",
                "* is no wildcard; a tail is written {*name} and comes last",
            ),
            ("/{*rest}/a", "{*rest} must be the last segment"),
            ("/{id}/x/{id}", "two parameters are named id"),
            ("/{}", "{} has no name of letters, digits, _ and -"),
            (
                "/a//b",
                "no normalised path contains an empty segment, so nothing would ever match",
            ),
            (
                "/a/../b",
                "no normalised path contains .., so nothing would ever match",
            ),
            (
                "/a%2Fb",
                "no normalised path contains a%2Fb, so nothing would ever match",
            ),
        ] {
            let error = Template::parse(template).expect_err(template);
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(
            Template::parse("/café").unwrap().segments,
            Template::parse("/caf%c3%a9").unwrap().segments
        );
    }

    #[test]
    fn a_prefix_is_stripped_in_whole_segments() {
        let stripped = |path| {
            let mut route = route("/shop/{*rest}");
            route.strip_prefix = Some("/shop".to_owned());
            route.forward_path(path).into_owned()
        };
        assert_eq!(stripped("/shop/a/b"), "/a/b");
        assert_eq!(stripped("/shop/"), "/");
        assert_eq!(stripped("/shop"), "/");
        assert_eq!(stripped("/shopping"), "/shopping");
        let template = |text| Template::parse(text).unwrap();
        assert!(template("/shop/orders/{id}").begins_with("/shop"));
        assert!(template("/shop/orders/{id}").begins_with("/shop/orders"));
        assert!(!template("/shop/orders/{id}").begins_with("/shop/orders/x"));
        assert!(!template("/shopping").begins_with("/shop"));
    }

    #[test]
    fn hosts_that_are_none_say_why() {
        use HostPatternError::*;
        for (host, expected) in [
            ("example.com:80", Port),
            ("*example.com", Star),
            ("a.*.example.com", Star),
            ("*", Star),
            ("", Name),
            ("a..b", Name),
            ("exa mple", Name),
            ("[::g]", Name),
            ("http://x", Port),
        ] {
            assert_eq!(HostPattern::parse(host), Err(expected), "{host}");
        }
    }

    /// What the table should say, by asking every route: the most specific that takes the call.
    fn answer_by_asking_all(routes: &[Route], host: &str, path: &str, method: &str) -> String {
        let host_rank = |route: &Route| match &route.host {
            Some(HostPattern::Exact(own)) => (own == host).then_some((0, 0)),
            Some(HostPattern::Below(own)) => {
                let longer_first = HOST_BYTES_MAX - own.len();
                host.ends_with(&format!(".{own}"))
                    .then_some((1, longer_first))
            }
            None => Some((2, 0)),
        };
        // Per segment: what it took, 0 for a literal, 1 for a parameter, 2 for a tail.
        let path_rank = |route: &Route| {
            let mut parts = path[1..].split('/');
            let mut rank = Vec::new();
            for segment in &route.template.segments {
                match segment {
                    Segment::Tail(_) => return parts.next().map(|_| [rank, vec![2]].concat()),
                    Segment::Literal(text) if parts.next() == Some(text) => rank.push(0),
                    Segment::Parameter(_) if !parts.next()?.is_empty() => rank.push(1),
                    _ => return None,
                }
            }
            parts.next().is_none().then_some(rank)
        };
        let here: Vec<_> = routes
            .iter()
            .filter_map(|route| Some((host_rank(route)?, path_rank(route)?, route)))
            .collect();
        let best = here
            .iter()
            .filter(|(.., route)| route.allows(method))
            .min_by_key(|(host, path, route)| (host, path, route.methods.is_empty()));
        let mut allowed: Vec<&str> = here
            .iter()
            .flat_map(|(.., route)| route.methods.iter().map(String::as_str))
            .collect();
        allowed.sort_unstable();
        allowed.dedup();
        match best {
            Some((.., route)) => route.name.to_string(),
            None if here.is_empty() => "404".to_owned(),
            None => format!("405 {}", allowed.join(",")),
        }
    }

    proptest! {
        #[test]
        fn the_tree_says_what_asking_every_route_says(
            lines in vec("(h[.]e|[*][.]e|[*][.]h[.]e)?(/(a|b|[{]p[}]))?(/(a|b|[{]q[}]))?(/(a|b|[{]s[}]))?/(a|b||[{]y[}]|[{][*]r[}]) (|GET|POST|GET,PUT)", 1..30),
            host in "(x[.])?(h[.]e|e)",
            path in "(/(a|b|c)){0,4}/(a|b|)",
            method in "GET|POST|PATCH",
        ) {
            let mut seen = std::collections::HashSet::new();
            let all: Vec<Route> = lines
                .iter()
                .map(|line| route(line))
                .filter(|route| {
                    // One route per host and shape for each method, as the configuration has it.
                    let methods = match route.methods.as_slice() {
                        [] => vec!["every".to_owned()],
                        methods => methods.to_vec(),
                    };
                    let place = (route.host.clone(), route.template.shape());
                    methods.into_iter().all(|method| seen.insert((place.clone(), method)))
                })
                .collect();
            let table = RouteTable::new(all.clone());
            let found = answer(&table, &host, &path, &method);
            let name = found.split_once(' ').filter(|(name, _)| *name != "405").map_or(&*found, |(name, _)| name);
            prop_assert_eq!(name, answer_by_asking_all(&all, &host, &path, &method));
        }

        #[test]
        fn a_normal_path_has_nothing_left_to_disagree_about(path in "/(%2[eEfF5]|%5[cC]|%[0-9a-f]{2}|[./;a%|é\\\\?]){0,12}") {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(normal.starts_with('/') && !normal.contains("//"));
                prop_assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")));
                let plain = |byte: u8| is_path_byte(byte) || matches!(byte, b'/' | b'%');
                prop_assert!(normal.bytes().all(plain));
                prop_assert!(!["%2F", "%5C", "%00", "%2E", "%41"].iter().any(|hidden| normal.contains(hidden)));
            }
        }

        #[test]
        fn no_call_upsets_the_table(host in ".{0,20}", path in ".{0,40}", method in ".{0,5}") {
            let table = table("h.e/{a}/{*b}\n*.e/\n/{x}\n/{*y} GET");
            let _ = table.find(Some(&host), &path, &method);
            let _ = normalise(&path);
        }
    }
}

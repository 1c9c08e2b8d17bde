//! URLs as etcd takes them, and etcd's words for the ones it does not.
//!
//! This is not the `url` crate on purpose: member ids are hashes of these strings, so nothing may be normalised that
//! Go's `net/url` leaves alone (a default port, an upper-case host, a missing path).

use std::fmt;
use std::net::IpAddr;

/// `http`, `https`, `unix` or `unixs`, an authority, and for the unix kinds a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Url {
    /// Parses one URL; the error is etcd's text.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let raw = RawUrl::parse(text).map_err(|e| format!("parse {text:?}: {e}"))?;
        let scheme = match raw.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        let url = Url { text: raw.to_string(), scheme, host: raw.host, path: raw.path };
        match scheme {
            Scheme::Http | Scheme::Https => {
                if split_host_port(&url.host).is_err() {
                    return Err(format!("URL address does not have the form \"host:port\": {text}"));
                }
                if !url.path.is_empty() {
                    return Err(format!("URL must not contain a path: {text}"));
                }
            }
            Scheme::Unix | Scheme::Unixs => {
                if url.host.is_empty() && url.path.is_empty() {
                    return Err(format!("URL address does not have the form \"host:port\": {text}"));
                }
            }
        }
        Ok(url)
    }

    /// The canonical text, which ids are made of.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    pub fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port` as written, brackets included.
    pub fn authority(&self) -> &str {
        &self.host
    }

    /// Host without brackets, and port as written; for a unix URL whatever stands before and after the last colon.
    pub fn host_port(&self) -> (&str, &str) {
        split_host_port(&self.host).unwrap_or((&self.host, ""))
    }

    /// The socket file of a unix URL: etcd joins authority and path, so `unix://localhost:2379` is a file of that name.
    pub fn socket_path(&self) -> String {
        format!("{}{}", self.host, self.path)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A comma-separated list as etcd keeps it: sorted, each URL once. An empty text is an empty list.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// The texts of a list, for logs and ids.
pub fn strings(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// A socket is bound to an address, not to a name: IPs and `localhost` only.
pub fn check_bind(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|u| !u.is_unix()) {
        let (host, _) = url.host_port();
        let ip = host.split('%').next().unwrap_or(host);
        if host != "localhost" && ip.parse::<IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

/// An advertised URL must lead somewhere.
pub fn check_host(urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|u| !u.is_unix() && u.host_port().0.is_empty()) {
        Some(url) => Err(format!("unexpected empty host ({url})")),
        None => Ok(()),
    }
}

/// Go's `net.SplitHostPort`.
fn split_host_port(authority: &str) -> Result<(&str, &str), ()> {
    let colon = authority.rfind(':').ok_or(())?;
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(())?;
        return if inner.contains(['[', ']']) || port.contains([']', '[']) { Err(()) } else { Ok((inner, port)) };
    }
    if host.contains([':', '[', ']']) || port.contains([']', '[']) { Err(()) } else { Ok((host, port)) }
}

/// The parts of a URL in Go's sense, each as Go would print it again.
struct RawUrl {
    scheme: String,
    opaque: String,
    /// The slashes before the authority were there, or are printed all the same because there is a host.
    slashes: bool,
    user: Option<String>,
    host: String,
    path: String,
    rest: String,
}

impl RawUrl {
    fn parse(text: &str) -> Result<RawUrl, String> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_string());
        }
        let (scheme, rest) = split_scheme(text)?;
        let cut = rest.find(['?', '#']).unwrap_or(rest.len());
        let (body, tail) = rest.split_at(cut);
        let mut url = RawUrl {
            scheme: scheme.to_ascii_lowercase(),
            opaque: String::new(),
            slashes: false,
            user: None,
            host: String::new(),
            path: String::new(),
            rest: tail.to_string(),
        };
        if let Some(authority_path) = body.strip_prefix("//") {
            let slash = authority_path.find('/').unwrap_or(authority_path.len());
            let (authority, path) = authority_path.split_at(slash);
            let (user, host) = match authority.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, authority),
            };
            if user.is_some_and(|u| !u.bytes().all(is_userinfo)) {
                return Err("net/url: invalid userinfo".to_string());
            }
            url.host = parse_host(host)?;
            url.user = user.map(str::to_string);
            url.slashes = true;
            url.path = path.to_string();
        } else if body.starts_with('/') || scheme.is_empty() {
            if scheme.is_empty() && body.split('/').next().is_some_and(|first| first.contains(':')) {
                return Err("first path segment in URL cannot contain colon".to_string());
            }
            url.path = body.to_string();
        } else {
            url.opaque = body.to_string();
        }
        check_escapes(&url.path)?;
        Ok(url)
    }
}

impl fmt::Display for RawUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.opaque)?;
        if self.slashes {
            f.write_str("//")?;
        }
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}{}{}", self.host, self.path, self.rest)
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_string()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn parse_host(host: &str) -> Result<String, String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if (!port.is_empty() && !port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} after host"));
    }
    check_escapes(host)?;
    match host.chars().find(|&c| c.is_ascii() && !is_host_char(c)) {
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => Ok(host.to_string()),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let escape = &bytes[at..bytes.len().min(at + 3)];
        if escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("invalid URL escape {:?}", String::from_utf8_lossy(escape)));
        }
    }
    Ok(())
}

fn is_host_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c)
}

fn is_userinfo(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)
}

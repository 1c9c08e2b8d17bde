//! The headers members know each other by, and the rule for who may talk to whom. Pure: no socket, no clock.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Config;

pub(super) const X_SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(super) const X_SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(super) const X_MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(super) const X_ETCD_CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(super) const X_RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");
pub(super) const X_PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");

/// What a member that leaves its version out is taken for: etcd 2.0 did not say.
const VERSION_UNSAID: &str = "2.0.0";

/// What this member says of itself.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub member_id: u64,
    pub cluster_id: u64,
    pub server_version: HeaderValue,
    min_cluster_version: HeaderValue,
    peer_urls: Option<HeaderValue>,
    version: (u64, u64),
    min_version: (u64, u64),
}

/// Why a request is answered with 412. The texts are etcd's: peers compare them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Incompatible {
    #[error("incompatible version")]
    Version,
    #[error("cluster ID mismatch")]
    ClusterId,
}

impl Identity {
    /// Versions are our own, so one that is no version is a mistake in the program: it is taken for 0.0 and says so to
    /// peers.
    pub fn new(config: &Config) -> Identity {
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("0.0.0"));
        Identity {
            member_id: config.member_id,
            cluster_id: config.cluster_id,
            server_version: value(&config.server_version),
            min_cluster_version: value(&config.min_cluster_version),
            peer_urls: HeaderValue::from_str(&config.peer_urls.join(",")).ok().filter(|urls| !urls.is_empty()),
            version: major_minor(&config.server_version).unwrap_or_default(),
            min_version: major_minor(&config.min_cluster_version).unwrap_or_default(),
        }
    }

    /// The member's id as the log and the wire write it.
    pub fn member(&self) -> String {
        hex(self.member_id)
    }

    pub fn cluster(&self) -> HeaderValue {
        hex_value(self.cluster_id)
    }

    /// The headers of every request to a peer.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(X_SERVER_FROM, hex_value(self.member_id));
        headers.insert(X_SERVER_VERSION, self.server_version.clone());
        headers.insert(X_MIN_CLUSTER_VERSION, self.min_cluster_version.clone());
        headers.insert(X_ETCD_CLUSTER_ID, self.cluster());
        if let Some(urls) = &self.peer_urls {
            headers.insert(X_PEER_URLS, urls.clone());
        }
        headers
    }

    /// etcd's rule: the peer is no older than the oldest we talk to, nor we than the oldest it talks to, and it is of
    /// our cluster.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Incompatible> {
        let version = |name| major_minor(text(headers, name).unwrap_or(VERSION_UNSAID));
        match (version(&X_SERVER_VERSION), version(&X_MIN_CLUSTER_VERSION)) {
            (Some(remote), Some(remote_min)) if remote >= self.min_version && remote_min <= self.version => {}
            _ => return Err(Incompatible::Version),
        }
        if text(headers, &X_ETCD_CLUSTER_ID) != Some(&hex(self.cluster_id)) {
            return Err(Incompatible::ClusterId);
        }
        Ok(())
    }
}

/// An id as etcd writes it: hexadecimal, no leading zeros.
pub(super) fn hex(id: u64) -> String {
    format!("{id:x}")
}

pub(super) fn hex_value(id: u64) -> HeaderValue {
    HeaderValue::from_str(&hex(id)).unwrap_or_else(|_| unreachable!("hexadecimal digits are a header value"))
}

/// Reads an id as etcd writes it.
pub(super) fn parse_hex(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { u64::from_str_radix(text, 16).ok() }
}

/// A header's text; an empty one counts as left out.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

/// "3.5.0-rc.1" is 3.5; only these two count between members.
fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.splitn(3, '.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    patch.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

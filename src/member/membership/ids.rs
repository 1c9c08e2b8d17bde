//! etcd's member and cluster ids, which every peer and every tool derives from the same bytes; and request ids.
//!
//! Nothing here may look at a clock: etcd mixes the time into the id of a member that is *added* later, and that id
//! arrives in a `ConfChange`; the ids of a bootstrapped cluster depend on URLs and token alone.

use sha1::{Digest, Sha1};

/// The id of a member with these peer URLs in a cluster bootstrapped with `token`: the first eight bytes, big-endian,
/// of SHA-1 over the sorted URLs and the token.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight(hash)
}

/// The id of a member that is added to a running cluster: the time in seconds stands where a founder's has the token,
/// so that a member which comes back under the same URLs is another one.
pub fn added_member_id(peer_urls: &[String], unix_seconds: u64) -> u64 {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// The id of the cluster that these members bootstrap: the same over their sorted ids, each as eight big-endian bytes.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

/// Where the ids of a member's requests begin in this life of it (`epoch`); they count up from here.
///
/// Replies find their way by these ids alone, on every member. Far apart for any two lives of any two members: were ids
/// composed of a few bits of each, two members that agree in those bits would take each other's answers.
pub fn first_request(member_id: u64, epoch: u64) -> u64 {
    let mut hash = Sha1::new();
    hash.update(member_id.to_be_bytes());
    hash.update(epoch.to_be_bytes());
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

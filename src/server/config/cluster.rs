//! The cluster that a start bootstraps: defaults that follow the name and the host, and etcd's checks of
//! `--initial-cluster`. Resolving names and learning the host's address are its only looks outside.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use super::flags::Note;
use super::urls::{self, Url};
use super::{Config, DEFAULT_INITIAL_CLUSTER, DEFAULT_NAME};
use crate::member::membership::ids;
use crate::server::log;
use crate::server::peer::{RemoteCluster, RemoteMember};

const RESOLVE_LIMIT: Duration = Duration::from_secs(30);
const RESOLVE_RETRY: Duration = Duration::from_secs(1);

/// The members of a new cluster and their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub cluster_id: u64,
    pub local_id: u64,
    /// Sorted by id.
    pub members: Vec<BootstrapMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapMember {
    pub id: u64,
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
}

/// etcd's `UpdateDefaultClusterFromName`: a default `--initial-cluster` follows a name that is not the default, and a
/// default advertised URL follows the host's address when the member listens on `0.0.0.0`.
pub fn fill_defaults(config: &mut Config) -> Option<Note> {
    let mut used = None;
    let wants = |advertised: &[Url], default: &str, listened: &[Url]| {
        matches!(advertised, [one] if one.as_str() == default)
            && listened.first().is_some_and(|u| u.host_port().0 == "0.0.0.0")
    };
    let peers = wants(&config.initial_advertise_peer_urls, "http://localhost:2380", &config.listen_peer_urls);
    let clients = wants(&config.advertise_client_urls, "http://localhost:2379", &config.listen_client_urls);
    if let Some(host) = (peers || clients).then(default_host).flatten() {
        let at = |listened: &[Url]| {
            let port = listened.first().map_or("", |u| u.host_port().1);
            Url::parse(&format!("http://{host}:{port}")).ok()
        };
        if let Some(url) = peers.then(|| at(&config.listen_peer_urls)).flatten() {
            config.initial_advertise_peer_urls = vec![url];
        }
        if let Some(url) = clients.then(|| at(&config.listen_client_urls)).flatten() {
            config.advertise_client_urls = vec![url];
        }
        used = Some(Note::DetectedHost(host));
    }
    if config.name != DEFAULT_NAME && config.initial_cluster == DEFAULT_INITIAL_CLUSTER {
        let name = if config.name.is_empty() { DEFAULT_NAME } else { &config.name };
        let members: Vec<String> = config.initial_advertise_peer_urls.iter().map(|u| format!("{name}={u}")).collect();
        config.initial_cluster = members.join(",");
    }
    used
}

/// See [`Config::bootstrap`].
pub fn bootstrap(config: &Config) -> Result<Bootstrap, String> {
    let members = initial(config)?;
    founding(&config.name, &config.initial_advertise_peer_urls, members, &config.initial_cluster_token)
}

/// The same from its words, for a restore.
pub fn bootstrap_of(name: &str, advertised: &str, initial_cluster: &str, token: &str) -> Result<Bootstrap, String> {
    let mut advertised = advertised.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    advertised.sort();
    founding(name, &advertised, parse_initial(initial_cluster)?, token)
}

fn founding(
    name: &str,
    advertised: &[Url],
    members: BTreeMap<String, Vec<Url>>,
    token: &str,
) -> Result<Bootstrap, String> {
    let Some(own) = members.get(name) else {
        return Err(format!("couldn't find local name {name:?} in the initial cluster configuration"));
    };
    advertised_is_listed(name, advertised, own)?;
    check_duplicates(&members)?;
    let mut list: Vec<BootstrapMember> = members
        .iter()
        .map(|(name, urls)| {
            let peer_urls = urls::strings(urls);
            BootstrapMember { id: ids::member_id(&peer_urls, token), name: name.clone(), peer_urls }
        })
        .collect();
    list.sort_by_key(|member| member.id);
    let local_id = ids::member_id(&urls::strings(own), token);
    let ids: Vec<u64> = list.iter().map(|member| member.id).collect();
    Ok(Bootstrap { cluster_id: ids::cluster_id(&ids), local_id, members: list })
}

/// See [`Config::peers_to_ask`].
pub fn peers_to_ask(config: &Config) -> Result<Vec<String>, String> {
    let members = initial(config)?;
    check_duplicates(&members)?;
    let others = members.iter().filter(|(name, _)| **name != config.name).flat_map(|(_, urls)| urls);
    let mut urls: Vec<String> = others.map(Url::to_string).collect();
    urls.sort();
    Ok(urls)
}

/// See [`Config::join`].
pub fn join(config: &Config, existing: &RemoteCluster) -> Result<u64, String> {
    let members = initial(config)?;
    let refuse = |why: String| format!("error validating peerURLs {}: {why}", cluster_text(existing));
    let mut theirs: Vec<_> = existing.members.iter().collect();
    theirs.sort_by_key(|member| member.id);
    if theirs.len() != members.len() {
        return Err(refuse("member count is unequal".to_owned()));
    }
    let mut own = None;
    for member in theirs {
        let parsed: Result<Vec<Url>, String> = member.peer_urls.iter().map(|url| Url::parse(url)).collect();
        let mut urls = parsed.map_err(&refuse)?;
        urls.sort();
        let mut last = String::new();
        let found = members.iter().find(|(_, listed)| match same_places(&urls, listed) {
            Ok(()) => true,
            Err(why) => {
                last = why;
                false
            }
        });
        let Some((name, _)) = found else {
            let (id, urls) = (member.id, member.peer_urls.join(" "));
            return Err(refuse(format!(
                "PeerURLs: no match found for existing member ({id:x}, [{urls}]), last resolver error ({last})"
            )));
        };
        if *name == config.name {
            own = Some(member.id);
        }
    }
    // As many members as names, and each has its own: this one is among them, or two share a name's URLs.
    own.ok_or_else(|| refuse("member count is unequal".to_owned()))
}

/// The cluster as etcd writes it in such an error.
fn cluster_text(cluster: &RemoteCluster) -> String {
    let member = |m: &RemoteMember| {
        let RemoteMember { id, peer_urls, name, client_urls, is_learner } = m;
        format!(
            "&{{ID:{id:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{is_learner}}} Attributes:{{Name:{name} \
             ClientURLs:[{}]}}}}",
            peer_urls.join(" "),
            client_urls.join(" ")
        )
    };
    let members: Vec<String> = cluster.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", cluster.cluster_id, members.join(" "))
}

/// The members of `--initial-cluster`, this one among them.
fn initial(config: &Config) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let members =
        parse_initial(&config.initial_cluster).map_err(|e| format!("error setting up initial cluster: {e}"))?;
    match members.contains_key(&config.name) {
        true => Ok(members),
        false => Err(format!("couldn't find local name {:?} in the initial cluster configuration", config.name)),
    }
}

fn check_duplicates(members: &BTreeMap<String, Vec<Url>>) -> Result<(), String> {
    let mut all: Vec<&Url> = members.values().flatten().collect();
    all.sort();
    match all.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(format!("initial cluster {} has duplicate url", map_text(members))),
        false => Ok(()),
    }
}

/// `name=url` pairs; a name may come several times.
fn parse_initial(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name.to_string()).or_default().push(Url::parse(url)?);
    }
    members.values_mut().for_each(|urls| urls.sort());
    Ok(members)
}

fn map_text(members: &BTreeMap<String, Vec<Url>>) -> String {
    let mut pairs: Vec<String> =
        members.iter().flat_map(|(name, urls)| urls.iter().map(move |u| format!("{name}={u}"))).collect();
    pairs.sort();
    pairs.join(",")
}

fn advertised_is_listed(name: &str, advertised: &[Url], listed: &[Url]) -> Result<(), String> {
    let Err(why) = same_places(advertised, listed) else { return Ok(()) };
    let without = |of: &[Url], others: &[Url]| -> Vec<String> {
        of.iter().filter(|u| !others.contains(u)).map(Url::to_string).collect()
    };
    let advertised_text = urls::strings(advertised).join(",");
    let named = |urls: &[String]| urls.iter().map(|u| format!("{name}={u}")).collect::<Vec<_>>().join(",");
    let unadvertised = without(listed, advertised);
    if !unadvertised.is_empty() {
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={advertised_text} ({why})",
            named(&unadvertised)
        ));
    }
    let own = named(&urls::strings(advertised));
    let unlisted = without(advertised, listed);
    if !unlisted.is_empty() {
        return Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={own}",
            unlisted.join(",")
        ));
    }
    Err(format!("failed to resolve {advertised_text} to match --initial-cluster={own} ({why})"))
}

/// Whether two lists name the same places: the same texts, or the same addresses behind them.
fn same_places(a: &[Url], b: &[Url]) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", go_list(a), go_list(b)));
    }
    if a == b {
        return Ok(());
    }
    let deadline = Instant::now() + RESOLVE_LIMIT;
    let resolved = |urls: &[Url]| -> Result<Vec<(String, String)>, String> {
        let mut list: Vec<(String, String)> = urls
            .iter()
            .map(|url| resolve(url, deadline).map(|text| (text, url.to_string())))
            .collect::<Result<_, _>>()?;
        list.sort();
        Ok(list)
    };
    for ((ra, a), (rb, b)) in resolved(a)?.iter().zip(&resolved(b)?) {
        if ra != rb {
            return Err(format!("{ra:?}(resolved from {a:?}) != {rb:?}(resolved from {b:?})"));
        }
    }
    Ok(())
}

/// The URL with its host resolved, IPv4 first; `localhost` and sockets stay. Tries until the deadline.
fn resolve(url: &Url, deadline: Instant) -> Result<String, String> {
    let (host, port) = url.host_port();
    if url.is_unix() || host == "localhost" {
        return Ok(url.to_string());
    }
    let port: u16 =
        if port.is_empty() { 0 } else { port.parse().map_err(|_| format!("address {port}: invalid port"))? };
    loop {
        let error = match (host, port).to_socket_addrs() {
            Ok(addrs) => {
                let addrs: Vec<SocketAddr> = addrs.collect();
                if let Some(addr) = addrs.iter().find(|a| a.is_ipv4()).or(addrs.first()) {
                    let scheme = if url.is_tls() { "https" } else { "http" };
                    return Ok(format!("{scheme}://{addr}"));
                }
                format!("lookup {host}: no such host")
            }
            Err(e) => format!("lookup {host}: {}", log::errno_text(&e)),
        };
        tracing::warn!(
            url = url.as_str(),
            host = url.authority(),
            "retry-interval" = "1s",
            error = error.as_str(),
            "failed to resolve URL Host"
        );
        if Instant::now() + RESOLVE_RETRY >= deadline {
            return Err(error);
        }
        std::thread::sleep(RESOLVE_RETRY);
    }
}

/// `["a" "b"]`, Go's `%q` of a list.
fn go_list(urls: &[Url]) -> String {
    let quoted: Vec<String> = urls.iter().map(|u| format!("{:?}", u.as_str())).collect();
    format!("[{}]", quoted.join(" "))
}

/// The address this host would send from to the outside. Connecting a UDP socket sends nothing.
fn default_host() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string()).filter(|ip| ip != "0.0.0.0")
}

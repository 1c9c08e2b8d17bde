//! What a member does by itself once it runs: makes itself known to the cluster, and as the leader decides the cluster
//! version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::etcdserverpb::{self as pb, InternalRaftRequest};
use tracing::{info, warn};

use super::node::Node;
use super::peer;
use crate::CLUSTER_VERSION;
use crate::member::error::EtcdError;

/// Between two looks at the members' versions.
const VERSION_INTERVAL: Duration = Duration::from_secs(4);
const VERSION_TIMEOUT: Duration = Duration::from_secs(1);
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// How long an attempt may take before there is another one beside it.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(1);
/// What a cluster says that has no version yet.
const NOT_DECIDED: &str = "not_decided";
/// Spoken by every etcd of version 3.
const MIN_CLUSTER_VERSION: &str = "3.0.0";

/// Puts this member's name and client URLs into the membership; returns when that is applied here. A proposal that was
/// on its way to a leader which leads no more is lost, as is usual while members join: it is made again soon, for it
/// does no harm to have it twice, and clients wait.
pub async fn publish(node: &Node, name: &str, client_urls: &[String]) {
    let attributes = pb::Attributes { name: name.to_owned(), client_urls: client_urls.to_vec() };
    let set = pb::ClusterMemberAttrSetRequest { member_id: node.member_id, member_attributes: Some(attributes) };
    let request = InternalRaftRequest { cluster_member_attr_set: Some(set), ..Default::default() };
    let mut since = Instant::now();
    while !node.is_stopping() {
        let attempt = tokio::time::timeout(PUBLISH_PATIENCE, node.propose(request.clone())).await;
        let answer = match attempt {
            Ok(answer) => answer,
            Err(_) if since.elapsed() < node.request_timeout => continue,
            Err(_) => Err(EtcdError::Timeout),
        };
        match answer {
            Ok(_) => {
                info!(
                    "local-member-id" = %format_args!("{:x}", node.member_id),
                    "local-member-attributes" = %format_args!("{{Name:{name} ClientURLs:[{}]}}", client_urls.join(" ")),
                    "cluster-id" = %format_args!("{:x}", node.cluster_id),
                    "publish-timeout" = %format_args!("{}s", node.request_timeout.as_secs()),
                    "published local member to cluster through raft"
                );
                return;
            }
            Err(error) => {
                warn!(
                    "local-member-id" = %format_args!("{:x}", node.member_id),
                    error = %error,
                    "failed to publish local member to cluster through raft"
                );
                since = Instant::now();
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
        }
    }
}

/// Logs what the cluster version is, whenever it changes, and when it is first known.
pub async fn log_cluster_version(node: Arc<Node>) {
    let mut watch = node.watch_membership();
    let mut known: Option<String> = None;
    loop {
        let now = watch.borrow_and_update().version().map(str::to_owned);
        if let Some(version) = now.filter(|v| known.as_ref() != Some(v)) {
            let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
            let (cluster, local) = (format!("{:x}", node.cluster_id), format!("{:x}", node.member_id));
            match &known {
                None => {
                    info!(
                        "cluster-id" = %cluster,
                        "local-member-id" = %local,
                        "cluster-version" = %short,
                        "set initial cluster version"
                    );
                }
                Some(old) => {
                    info!(
                        "cluster-id" = %cluster,
                        "local-member-id" = %local,
                        from = %old,
                        to = %version,
                        "updated cluster version"
                    );
                }
            }
            info!("cluster-version" = %short, "enabled capabilities for version");
            known = Some(version);
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

/// As the leader: the cluster version is what every member can do.
pub async fn decide_cluster_version(node: Arc<Node>) {
    let mut leader = node.watch_leader();
    let mut stopping = node.watch_stopping();
    loop {
        if *leader.borrow_and_update() == node.member_id {
            decide_once(&node).await;
        }
        tokio::select! {
            _ = leader.changed() => {}
            _ = tokio::time::sleep(VERSION_INTERVAL) => {}
            _ = stopping.changed() => return,
        }
    }
}

/// Whether this member can join a cluster of these: one at least says its version, and none is of a later one.
pub async fn check_versions(members: &[peer::RemoteMember]) -> Result<(), String> {
    let mut fits = false;
    for member in members {
        let Ok(versions) = peer::get_version(&member.peer_urls, VERSION_TIMEOUT).await else { continue };
        if versions.cluster == NOT_DECIDED {
            continue;
        }
        let cluster = minor_of(&versions.cluster);
        if !(minor_of(MIN_CLUSTER_VERSION)..=minor_of(CLUSTER_VERSION)).contains(&cluster) {
            let id = format!("{:x}", member.id);
            warn!(
                "remote-member-id" = %id, "remote-member-cluster-version" = %versions.cluster,
                "cluster version of remote member is not compatible"
            );
            return Err("incompatible with current running cluster".to_owned());
        }
        fits = true;
    }
    if fits { Ok(()) } else { Err("incompatible with current running cluster".to_owned()) }
}

async fn decide_once(node: &Node) {
    let membership = node.membership();
    let mut lowest = minor_of(CLUSTER_VERSION);
    for member in membership.members().filter(|m| m.id != node.member_id) {
        match peer::get_version(&member.peer_urls, VERSION_TIMEOUT).await {
            Ok(versions) => lowest = lowest.min(minor_of(&versions.server)),
            // Not all answer: what was decided stays, and a new cluster starts low.
            Err(_) if membership.version().is_some() => return,
            Err(_) => lowest = minor_of(MIN_CLUSTER_VERSION),
        }
    }
    if membership.version().is_some_and(|now| minor_of(now) >= lowest) {
        return;
    }
    let ver = format!("{}.{}.0", lowest.0, lowest.1);
    let (cluster, local) = (format!("{:x}", node.cluster_id), format!("{:x}", node.member_id));
    let doing = match membership.version() {
        None => "setting up initial cluster version using v3 API",
        Some(_) => "updating cluster version using v3 API",
    };
    info!("cluster-id" = %cluster, "local-member-id" = %local, "cluster-version" = %ver, "{doing}");
    let cluster_version_set = Some(pb::ClusterVersionSetRequest { ver });
    let request = InternalRaftRequest { cluster_version_set, ..Default::default() };
    if let Err(error) = node.propose(request).await {
        warn!(error = %error, "failed to update cluster version");
    }
}

/// (major, minor); what cannot be read is the oldest.
fn minor_of(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => (3, 0),
    }
}

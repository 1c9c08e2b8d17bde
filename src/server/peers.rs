//! The member's side of the transport: what peers say goes into its mailbox, and who the peers are follows the
//! membership.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockstep_proto::raftpb;
use parking_lot::Mutex;

use super::corruption;
use super::host::Mailbox;
use super::leases::Unable;
use super::log::FATAL;
use super::node::Node;
use super::peer::{self, ClusterError, LeaseAnswer, LeaseQuestion, PromoteAnswer};
use super::reconfigure::Reconfigure;
use super::snapshots::Snapshots;
use crate::ETCD_VERSION;
use crate::member::error::EtcdError;
use crate::member::membership::{Member, Membership};
use crate::member::raft::{Input, SnapshotMeta};
use crate::ports::network::Network;

/// Answers the transport. The node is known only after the transport exists, so it is filled in later.
pub struct PeerHandler {
    mailbox: Mailbox,
    node: std::sync::OnceLock<Arc<Node>>,
    reconfigure: std::sync::OnceLock<Arc<Reconfigure>>,
    acquaintance: Option<Arc<Acquaintance>>,
    snapshots: Arc<Snapshots>,
}

/// A member whose directory holds nothing but its founding, until a peer has confirmed that the cluster does not know
/// it as one that ran before; or until this life has made itself known, which takes a majority that heard of nobody
/// before it: from then on it is this life that the cluster knows.
///
/// One that did, and lost its directory, has promised what it no longer remembers: voting or acknowledging again, it
/// could make a majority forget what was acknowledged. It cannot tell by itself, and at boot perhaps no peer was there
/// to ask; so it hears no peer's messages before it has asked the first that sends one.
#[derive(Default)]
struct Acquaintance {
    confirmed: AtomicBool,
    asking: AtomicBool,
    /// Members that know no cluster yet, because they wait for this one to send it to them. They cannot know better.
    newcomers: Mutex<BTreeSet<u64>>,
}

/// Between two attempts to ask a peer that does not answer.
const ASK_PAUSE: Duration = Duration::from_millis(100);

impl Acquaintance {
    /// Whether messages may pass. Asks their sender first where that is still to be done; what is dropped meanwhile
    /// raft sends again.
    fn admits(self: &Arc<Acquaintance>, sender: u64, node: Option<&Arc<Node>>) -> bool {
        if self.confirmed.load(Ordering::Acquire) || self.newcomers.lock().contains(&sender) {
            return true;
        }
        if let Some(node) = node.cloned()
            && !self.asking.swap(true, Ordering::AcqRel)
        {
            let this = self.clone();
            tokio::spawn(async move { this.ask(sender, &node).await });
        }
        false
    }

    async fn ask(&self, sender: u64, node: &Node) {
        let membership = node.membership();
        match ask_peers(node.member_id, node.cluster_id, membership.member(sender).into_iter()).await {
            Ok(Asked { answers: 1.., .. }) => self.confirmed.store(true, Ordering::Release),
            Ok(Asked { newcomers: 1.., .. }) => drop(self.newcomers.lock().insert(sender)),
            Ok(_) => tokio::time::sleep(ASK_PAUSE).await,
            Err(reason) => {
                // What this life has said of itself may be known there before it is known here.
                tokio::time::sleep(ASK_TIMEOUT).await;
                if self.confirmed.load(Ordering::Acquire) {
                    return;
                }
                tracing::error!(target: FATAL, reason, "the member stops: it must not take part without its data");
                std::process::exit(1);
            }
        }
        self.asking.store(false, Ordering::Release);
    }
}

/// How many members said whom they know, and how many that they know nobody yet.
#[derive(Default)]
pub struct Asked {
    pub answers: usize,
    pub newcomers: usize,
}

/// Asks members whether they know this one as started. The error says why this member, whose
/// directory holds nothing, must not take part.
pub async fn ask_peers<'a>(
    member_id: u64,
    cluster_id: u64,
    peers: impl Iterator<Item = &'a Member>,
) -> Result<Asked, String> {
    let mut asked = Asked::default();
    for member in peers.filter(|m| m.id != member_id) {
        let remote = match peer::get_cluster_from_peers(&member.peer_urls, ASK_TIMEOUT).await {
            Ok(remote) => remote,
            Err(ClusterError::NoMembers { .. }) => {
                asked.newcomers += 1;
                continue;
            }
            Err(ClusterError::NoAnswer { .. }) => continue,
        };
        asked.answers += 1;
        if remote.cluster_id != cluster_id {
            return Err(format!(
                "the member at {} belongs to cluster {:x}, but --initial-cluster and --initial-cluster-token make \
                 cluster {:x}: check these flags, or start from an empty data directory on every member",
                member.peer_urls.join(","),
                remote.cluster_id,
                cluster_id
            ));
        }
        let known = remote.members.iter().find(|m| m.id == member_id);
        if known.is_some_and(|m| !m.client_urls.is_empty()) {
            return Err(format!(
                "member {:x} has already been bootstrapped, but its data directory is empty: restore the directory, or \
                 remove the member from the cluster and add it again",
                member_id
            ));
        }
    }
    Ok(asked)
}

/// How long a peer may take to say who is in the cluster.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

impl PeerHandler {
    /// `took_part`: whether this member's directory shows that it ever voted, or took an entry; or a member has been
    /// asked just now.
    pub fn new(mailbox: Mailbox, snapshots: Arc<Snapshots>, took_part: bool) -> PeerHandler {
        let acquaintance = (!took_part).then(Arc::<Acquaintance>::default);
        let (node, reconfigure) = (std::sync::OnceLock::new(), std::sync::OnceLock::new());
        PeerHandler { mailbox, node, reconfigure, acquaintance, snapshots }
    }

    fn admits(&self, sender: u64) -> bool {
        self.acquaintance.as_ref().is_none_or(|acquaintance| acquaintance.admits(sender, self.node.get()))
    }

    /// The member has made itself known in this life.
    pub fn is_known(&self) {
        if let Some(acquaintance) = &self.acquaintance {
            acquaintance.confirmed.store(true, Ordering::Release);
        }
    }

    pub fn set_node(&self, node: Arc<Node>) {
        let _ = self.node.set(node);
    }

    pub fn set_reconfigure(&self, reconfigure: Arc<Reconfigure>) {
        let _ = self.reconfigure.set(reconfigure);
    }

    fn membership(&self) -> Arc<Membership> {
        self.node.get().map(|node| node.membership()).unwrap_or_default()
    }
}

const NOT_STARTED: &str = "the member has not started yet";
/// What a member says that was removed.
pub const REMOVED: &str = "the member has been permanently removed from the cluster";

impl peer::Handler for PeerHandler {
    fn message(&self, message: raftpb::Message) {
        if !self.admits(message.from()) {
            return;
        }
        self.mailbox.consensus(Input::Message(Box::new(message)));
    }

    fn messages(&self, messages: Vec<raftpb::Message>) {
        if messages.first().is_some_and(|first| !self.admits(first.from())) {
            return;
        }
        self.mailbox.messages(messages);
    }

    fn unreachable(&self, peer: u64) {
        self.mailbox.consensus(Input::Unreachable(peer));
    }

    fn snapshot_status(&self, peer: u64, ok: bool) {
        self.mailbox.consensus(Input::SnapshotSent { to: peer, ok });
    }

    fn open_snapshot(&self, index: u64) -> Option<peer::Pieces> {
        self.snapshots.open(index)
    }

    fn snapshot(&self, message: raftpb::Message, body: peer::Pieces) -> peer::Taking<'_> {
        Box::pin(async move {
            if !self.admits(message.from()) {
                return Err("this member has not been told yet whether it is new".into());
            }
            let meta = SnapshotMeta::of(&message).ok_or("it does not say what it is a snapshot of")?;
            self.snapshots.receive(meta, body).await?;
            self.mailbox.consensus(Input::Message(Box::new(message)));
            Ok(())
        })
    }

    fn members_json(&self) -> Vec<u8> {
        let members: Vec<_> = self.membership().members().cloned().collect();
        serde_json::to_vec(&members).expect("strings and numbers")
    }

    fn version_json(&self) -> Vec<u8> {
        version_json(self.membership().version())
    }

    fn lease(&self, question: peer::LeaseQuestion) -> peer::LeaseFuture<'_> {
        Box::pin(async move {
            let Some(node) = self.node.get() else { return LeaseAnswer::NotReady };
            let answer = match question {
                LeaseQuestion::Renew { id } => node.renew_leases(&[id]).await.map(|ttls| match ttls[0] {
                    0 => LeaseAnswer::NotFound,
                    ttl_s => LeaseAnswer::Renewed { ttl_s },
                }),
                LeaseQuestion::TimeToLive(request) => node
                    .lease_time_to_live(request)
                    .await
                    .map(|found| found.map_or(LeaseAnswer::NotFound, LeaseAnswer::TimeToLive)),
            };
            match answer {
                Ok(answer) => answer,
                Err(Unable::NotPrimary) => LeaseAnswer::NotPrimary,
                Err(Unable::Failed(_)) => LeaseAnswer::NotReady,
            }
        })
    }

    fn promote(&self, id: u64) -> peer::PromoteFuture<'_> {
        Box::pin(async move {
            let Some(reconfigure) = self.reconfigure.get() else {
                return PromoteAnswer::Failed(NOT_STARTED.to_owned());
            };
            match reconfigure.promote_as_leader(id).await {
                Ok(members) => PromoteAnswer::Members(serde_json::to_vec(&members).expect("strings and numbers")),
                Err(EtcdError::MemberNotFound) => PromoteAnswer::NotFound,
                Err(EtcdError::MemberNotLearner) => PromoteAnswer::NotLearner,
                Err(EtcdError::LearnerNotReady) => PromoteAnswer::NotReady,
                Err(error) => PromoteAnswer::Failed(error.to_string()),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> peer::HashFuture<'_> {
        Box::pin(async move {
            match self.node.get() {
                Some(node) => corruption::answer(node, revision).await,
                None => Err("this member cannot say yet".to_owned()),
            }
        })
    }

    fn removed_from_cluster(&self, peer: u64) {
        if let Some(node) = self.node.get() {
            tracing::error!("remote-peer-id" = %format_args!("{peer:x}"), "{REMOVED}");
            node.leave();
        }
    }

    /// A leader that is removed is heard until it has handed over.
    fn is_removed(&self, peer: u64) -> bool {
        let leads = || self.node.get().is_some_and(|node| node.status().leader == peer);
        self.membership().is_removed(peer) && !leads()
    }
}

/// The body of `GET /version`, on the peer port and on the client port.
pub fn version_json(cluster_version: Option<&str>) -> Vec<u8> {
    let cluster = cluster_version.unwrap_or("not_decided");
    serde_json::json!({ "etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": crate::CLUSTER_VERSION })
        .to_string()
        .into()
}

impl Network for peer::Transport {
    fn send(&self, messages: Vec<raftpb::Message>) {
        peer::Transport::send(self, messages);
    }
}

/// A removed member may still be sent what was on its way.
const REMOVE_DELAY: Duration = Duration::from_millis(500);

/// Keeps the transport's peers in step with the membership, until the member stops.
pub async fn follow_membership(node: Arc<Node>, transport: peer::Transport) {
    let mut watch = node.watch_membership();
    let mut known: Arc<Membership> = Arc::default();
    loop {
        let now = watch.borrow_and_update().clone();
        for member in now.members().filter(|m| m.id != node.member_id) {
            match known.member(member.id) {
                None => transport.add_peer(member.id, member.peer_urls.clone()),
                Some(old) if old.peer_urls != member.peer_urls => {
                    transport.update_peer(member.id, member.peer_urls.clone())
                }
                Some(_) => {}
            }
        }
        for gone in known.members().filter(|m| now.member(m.id).is_none() && m.id != node.member_id) {
            // What is on its way tells that member that it is removed; later ones find out when they are refused.
            let (transport, id) = (transport.clone(), gone.id);
            tokio::spawn(async move {
                tokio::time::sleep(REMOVE_DELAY).await;
                transport.remove_peer(id);
            });
        }
        log_changes(&node, &known, &now);
        known = now;
        if watch.changed().await.is_err() {
            return;
        }
    }
}

/// Says who came, went, and changed, in etcd's lines.
fn log_changes(node: &Node, known: &Membership, now: &Membership) {
    let (cluster, local) = (format!("{:x}", node.cluster_id), format!("{:x}", node.member_id));
    // What was there when this member started is no change.
    if known.members().next().is_none() {
        return;
    }
    for member in now.members() {
        let (id, urls) = (format!("{:x}", member.id), super::log::json(&member.peer_urls));
        match known.member(member.id) {
            None => tracing::info!(
                "cluster-id" = %cluster, "local-member-id" = %local, "added-peer-id" = %id,
                "added-peer-peer-urls" = ?urls, "added-peer-is-learner" = member.is_learner, "added member"
            ),
            Some(old) => {
                if old.is_learner && !member.is_learner {
                    tracing::info!(
                        "cluster-id" = %cluster, "local-member-id" = %local, "promoted-member-id" = %id,
                        "promote member"
                    );
                }
                if old.peer_urls != member.peer_urls {
                    tracing::info!(
                        "cluster-id" = %cluster, "local-member-id" = %local, "updated-remote-peer-id" = %id,
                        "updated-remote-peer-urls" = ?urls, "updated member"
                    );
                }
            }
        }
    }
    for gone in known.members().filter(|m| now.member(m.id).is_none()) {
        let id = format!("{:x}", gone.id);
        tracing::info!(
            "cluster-id" = %cluster, "local-member-id" = %local, "removed-remote-peer-id" = %id,
            "removed-remote-peer-urls" = ?super::log::json(&gone.peer_urls), "removed member"
        );
    }
}

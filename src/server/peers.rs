//! The member's side of the transport: what peers say goes into its mailbox, and who the peers are follows the
//! membership.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockstep_proto::raftpb;

use super::corruption;
use super::host::Mailbox;
use super::leases::Unable;
use super::log::FATAL;
use super::node::Node;
use super::peer::{self, LeaseAnswer, LeaseQuestion};
use crate::ETCD_VERSION;
use crate::member::membership::{Member, Membership};
use crate::member::raft::Input;
use crate::ports::network::Network;

/// Answers the transport. The node is known only after the transport exists, so it is filled in later.
pub struct PeerHandler {
    mailbox: Mailbox,
    node: std::sync::OnceLock<Arc<Node>>,
    acquaintance: Option<Arc<Acquaintance>>,
}

/// A member whose directory holds nothing but its founding, until a peer has confirmed that the cluster does not know
/// it as one that ran before.
///
/// One that did, and lost its directory, has promised what it no longer remembers: voting or acknowledging again, it
/// could make a majority forget what was acknowledged. It cannot tell by itself, and at boot perhaps no peer was there
/// to ask; so it hears no peer's messages before it has asked the first that sends one.
struct Acquaintance {
    confirmed: AtomicBool,
    asking: AtomicBool,
}

/// Between two attempts to ask a peer that does not answer.
const ASK_PAUSE: Duration = Duration::from_millis(100);

impl Acquaintance {
    /// Whether messages may pass. Asks their sender first where that is still to be done; what is dropped meanwhile
    /// raft sends again.
    fn admits(self: &Arc<Acquaintance>, sender: u64, node: Option<&Arc<Node>>) -> bool {
        if self.confirmed.load(Ordering::Acquire) {
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
            Ok(0) => tokio::time::sleep(ASK_PAUSE).await,
            Ok(_) => self.confirmed.store(true, Ordering::Release),
            Err(reason) => {
                tracing::error!(target: FATAL, reason, "the member stops: it must not take part without its data");
                std::process::exit(1);
            }
        }
        self.asking.store(false, Ordering::Release);
    }
}

/// Asks members whether they know this one as started; returns how many answered. The error says why this member, whose
/// directory holds nothing, must not take part.
pub async fn ask_peers<'a>(
    member_id: u64,
    cluster_id: u64,
    peers: impl Iterator<Item = &'a Member>,
) -> Result<usize, String> {
    let mut answers = 0;
    for member in peers.filter(|m| m.id != member_id) {
        let Ok(remote) = peer::get_cluster_from_peers(&member.peer_urls, ASK_TIMEOUT).await else { continue };
        answers += 1;
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
    Ok(answers)
}

/// How long a peer may take to say who is in the cluster.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

impl PeerHandler {
    /// `took_part`: whether this member's directory shows that it ever voted, or took an entry.
    pub fn new(mailbox: Mailbox, took_part: bool) -> PeerHandler {
        let acquaintance = (!took_part)
            .then(|| Arc::new(Acquaintance { confirmed: AtomicBool::new(false), asking: AtomicBool::new(false) }));
        PeerHandler { mailbox, node: std::sync::OnceLock::new(), acquaintance }
    }

    fn admits(&self, sender: u64) -> bool {
        self.acquaintance.as_ref().is_none_or(|acquaintance| acquaintance.admits(sender, self.node.get()))
    }

    pub fn set_node(&self, node: Arc<Node>) {
        let _ = self.node.set(node);
    }

    fn membership(&self) -> Arc<Membership> {
        self.node.get().map(|node| node.membership()).unwrap_or_default()
    }
}

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

    /// No snapshot is ever sent: the log is kept for the slowest member.
    fn snapshot_status(&self, _peer: u64, _ok: bool) {}

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

    fn hash_kv(&self, revision: i64) -> peer::HashFuture<'_> {
        Box::pin(async move {
            match self.node.get() {
                Some(node) => corruption::answer(node, revision).await,
                None => Err("this member cannot say yet".to_owned()),
            }
        })
    }

    fn removed_from_cluster(&self, peer: u64) {
        tracing::error!(
            target: FATAL,
            { "remote-peer-id" = format!("{peer:x}") },
            "the member has been permanently removed from the cluster; its data directory is of no more use"
        );
        std::process::exit(1);
    }

    fn is_removed(&self, peer: u64) -> bool {
        self.membership().is_removed(peer)
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
            transport.remove_peer(gone.id);
        }
        known = now;
        if watch.changed().await.is_err() {
            return;
        }
    }
}

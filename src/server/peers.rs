//! The member's side of the transport: what peers say goes into its mailbox, and who the peers are follows the
//! membership.

use std::sync::Arc;

use lockstep_proto::raftpb;

use super::host::Mailbox;
use super::log::FATAL;
use super::node::Node;
use super::peer;
use crate::ETCD_VERSION;
use crate::member::membership::Membership;
use crate::member::raft::Input;
use crate::ports::network::Network;

/// Answers the transport. The node is known only after the transport exists, so it is filled in later.
pub struct PeerHandler {
    mailbox: Mailbox,
    node: std::sync::OnceLock<Arc<Node>>,
}

impl PeerHandler {
    pub fn new(mailbox: Mailbox) -> PeerHandler {
        PeerHandler { mailbox, node: std::sync::OnceLock::new() }
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
        self.mailbox.consensus(Input::Message(Box::new(message)));
    }

    fn messages(&self, messages: Vec<raftpb::Message>) {
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

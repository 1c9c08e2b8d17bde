//! Every message that comes from outside, by the name that its schema has.

use lockstep_proto::{etcdserverpb, leasepb, raftpb, v3electionpb, v3lockpb};
use prost::Message;

/// What peers send on `/leases` and `/leases/internal` and answer there, and what the log carries; no gRPC method takes
/// these.
pub const OF_PEERS: [&str; 6] = [
    "etcdserverpb.LeaseKeepAliveResponse",
    "leasepb.LeaseInternalRequest",
    "leasepb.LeaseInternalResponse",
    "leasepb.Lease",
    "etcdserverpb.InternalRaftRequest",
    "raftpb.ConfChange",
];

/// Decodes a message: what is accepted must be the same message when it was sent on. Returns it as sent on.
pub fn decode(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    match name {
        "etcdserverpb.HashKVRequest" => again::<etcdserverpb::HashKvRequest>(bytes),
        _ => by_name(name, bytes),
    }
}

macro_rules! messages {
    ($($package:ident: $($message:ident)*;)*) => {
        fn by_name(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
            match name {
                $($(concat!(stringify!($package), ".", stringify!($message)) => again::<$package::$message>(bytes),)*)*
                _ => panic!("{name} is missing here"),
            }
        }
    };
}

messages! {
    etcdserverpb: RangeRequest PutRequest DeleteRangeRequest TxnRequest CompactionRequest HashRequest
        SnapshotRequest WatchRequest LeaseGrantRequest LeaseRevokeRequest LeaseKeepAliveRequest
        LeaseTimeToLiveRequest LeaseLeasesRequest MemberAddRequest MemberRemoveRequest MemberPromoteRequest
        MemberUpdateRequest MemberListRequest DefragmentRequest MoveLeaderRequest AlarmRequest DowngradeRequest
        StatusRequest AuthEnableRequest AuthDisableRequest AuthStatusRequest AuthenticateRequest AuthUserAddRequest
        AuthUserGetRequest AuthUserDeleteRequest AuthUserChangePasswordRequest AuthUserGrantRoleRequest
        AuthUserRevokeRoleRequest AuthUserListRequest AuthRoleAddRequest AuthRoleGetRequest AuthRoleListRequest
        AuthRoleDeleteRequest AuthRoleGrantPermissionRequest AuthRoleRevokePermissionRequest
        LeaseKeepAliveResponse InternalRaftRequest;
    leasepb: LeaseInternalRequest LeaseInternalResponse Lease;
    raftpb: ConfChange;
    v3lockpb: LockRequest UnlockRequest;
    v3electionpb: CampaignRequest LeaderRequest ResignRequest ProclaimRequest;
}

fn again<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = M::decode(bytes).ok()?;
    let sent = message.encode_to_vec();
    assert_eq!(sent.len(), message.encoded_len());
    assert_eq!(M::decode(&*sent).as_ref(), Ok(&message));
    Some(sent)
}

//! Every error a client can be told, in one table: etcd's exact message and gRPC code.
//!
//! Clients map errors by their exact text and decide retries by the code, so both are an interface. A new error is a
//! line of the table below and nothing else. This file knows no transport: a code is its number on the wire.

/// gRPC's status codes, by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident $code:ident $message:literal;)*) => {
        /// A refusal: something a client is told, after which the member goes on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum EtcdError {
            $($(#[$doc])* #[error($message)] $name,)*
        }

        impl EtcdError {
            /// All of them, in the order of the table.
            pub const ALL: &[EtcdError] = &[$(EtcdError::$name,)*];

            /// The text a client sees and maps by.
            pub const fn message(self) -> &'static str {
                match self { $(EtcdError::$name => $message,)* }
            }

            /// The gRPC code that goes with it.
            pub const fn code(self) -> Code {
                match self { $(EtcdError::$name => Code::$code,)* }
            }
        }
    };
}

errors! {
    // Requests on keys.
    EmptyKey InvalidArgument "etcdserver: key is not provided";
    KeyNotFound InvalidArgument "etcdserver: key not found";
    ValueProvided InvalidArgument "etcdserver: value is provided";
    LeaseProvided InvalidArgument "etcdserver: lease is provided";
    TooManyOps InvalidArgument "etcdserver: too many operations in txn request";
    DuplicateKey InvalidArgument "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion InvalidArgument "etcdserver: invalid client api version";
    InvalidSortOption InvalidArgument "etcdserver: invalid sort option";
    Compacted OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FutureRev OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NoSpace ResourceExhausted "etcdserver: mvcc: database space exceeded";
    /// The request was carried out, and nothing more fits.
    NoSpaceLeft ResourceExhausted "etcdserver: mvcc: database space exceeded";
    RangeStreamSort Unimplemented "RangeStream does not support custom sort orders";
    RangeStreamFilter Unimplemented "RangeStream does not support revision filters";

    // Leases.
    LeaseNotFound NotFound "etcdserver: requested lease not found";
    LeaseExists FailedPrecondition "etcdserver: lease already exists";
    LeaseTtlTooLarge OutOfRange "etcdserver: too large lease TTL";
    /// etcd has no client-side counterpart for it: the lessor's own text.
    NotPrimaryLessor Unknown "not a primary lessor";

    // Watches.
    WatchCanceled Canceled "etcdserver: watch canceled";
    EmptyWatcherRange Unknown "mvcc: watcher range is empty";
    DuplicateWatchId Unknown "mvcc: duplicate watch ID provided on the WatchStream";

    // Membership.
    MemberExists FailedPrecondition "etcdserver: member ID already exist";
    PeerUrlExists FailedPrecondition "etcdserver: Peer URLs already exists";
    /// etcd's server maps this one to its *client's* error type, which gRPC does not know: `Unknown` on the wire.
    MemberNotEnoughStarted Unknown "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls InvalidArgument "etcdserver: given member URLs are invalid";
    MemberNotFound NotFound "etcdserver: member not found";
    MemberNotLearner FailedPrecondition "etcdserver: can only promote a learner member";
    LearnerNotReady FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners FailedPrecondition "etcdserver: too many learner members in cluster";
    ClusterIdMismatch FailedPrecondition "etcdserver: cluster ID mismatch";

    // Limits.
    RequestTooLarge InvalidArgument "etcdserver: request is too large";
    /// `Unknown` on the wire for the same reason as `MemberNotEnoughStarted`.
    TooManyRequests Unknown "etcdserver: too many requests";

    // Auth.
    RootUserNotExist FailedPrecondition "etcdserver: root user does not exist";
    RootRoleNotExist FailedPrecondition "etcdserver: root user does not have root role";
    UserAlreadyExists FailedPrecondition "etcdserver: user name already exists";
    UserEmpty InvalidArgument "etcdserver: user name is empty";
    UserNotFound FailedPrecondition "etcdserver: user name not found";
    RoleAlreadyExists FailedPrecondition "etcdserver: role name already exists";
    RoleNotFound FailedPrecondition "etcdserver: role name not found";
    RoleEmpty InvalidArgument "etcdserver: role name is empty";
    AuthFailed InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven InvalidArgument "etcdserver: permission not given";
    PermissionDenied PermissionDenied "etcdserver: permission denied";
    RoleNotGranted FailedPrecondition "etcdserver: role is not granted to the user";
    PermissionNotGranted FailedPrecondition "etcdserver: permission is not granted to the role";
    AuthNotEnabled FailedPrecondition "etcdserver: authentication is not enabled";
    InvalidAuthToken Unauthenticated "etcdserver: invalid auth token";
    InvalidAuthMgmt InvalidArgument "etcdserver: invalid auth management";
    AuthOldRevision InvalidArgument "etcdserver: revision of auth store is old";

    // The member and its cluster.
    NoLeader Unavailable "etcdserver: no leader";
    NotLeader FailedPrecondition "etcdserver: not leader";
    LeaderChanged Unavailable "etcdserver: leader changed";
    NotCapable FailedPrecondition "etcdserver: not capable";
    Stopped Unavailable "etcdserver: server stopped";
    Timeout Unavailable "etcdserver: request timed out";
    TimeoutDueToLeaderFail Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost Unavailable "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex Unavailable
        "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy Unavailable "etcdserver: unhealthy cluster";
    Corrupt DataLoss "etcdserver: corrupt cluster";
    NotSupportedForLearner FailedPrecondition "etcdserver: rpc not supported for learner";
    /// Not in etcd's table of errors for clients: its own text.
    TimeoutLeaderTransfer Unknown "etcdserver: request timed out, leader transfer took too long";
    BadLeaderTransferee FailedPrecondition "etcdserver: bad leader transferee";

    // Downgrades.
    WrongDowngradeVersionFormat InvalidArgument "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion InvalidArgument "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable FailedPrecondition "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade FailedPrecondition "etcdserver: no inflight downgrade job";

    // The request's own end.
    RequestCanceled Canceled "etcdserver: request canceled";
    DeadlineExceeded DeadlineExceeded "etcdserver: context deadline exceeded";
}

impl EtcdError {
    /// The error with exactly this text, as a client finds it.
    pub fn from_message(message: &str) -> Option<EtcdError> {
        EtcdError::ALL.iter().copied().find(|e| e.message() == message)
    }
}

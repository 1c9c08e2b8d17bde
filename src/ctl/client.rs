//! The connection to a cluster: endpoints and failover, timeouts, retries, and Go's texts for what goes wrong.
//!
//! Scripts and people know the errors of etcd's Go client, so every failure is told in its words: one warning line for
//! each failed attempt (`warn`, the only place that writes them) and a short final text. Nothing here waits longer
//! than the command's timeout.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lockstep_proto::etcdserverpb::cluster_client::ClusterClient;
use lockstep_proto::etcdserverpb::kv_client::KvClient;
use lockstep_proto::etcdserverpb::lease_client::LeaseClient;
use lockstep_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use lockstep_proto::etcdserverpb::*;
use prost::Message;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::dial::{Address, Dialing, connect};
use super::golang::{json_string, now_epoch, now_iso8601};
use super::{Context, Failure, code, say_error};

/// What Go's client sends at most in one message.
const SEND_BYTES_MAX: usize = 2 << 20;
const ATTEMPTS_MAX: u32 = 100;
const BACKOFF: Duration = Duration::from_millis(25);
/// Of the other endpoints, after a connection broke.
const HEAD_START: Duration = Duration::from_millis(100);
/// Of one attempt of a call that is made until it is answered, and the pause between two of them.
const INSIST_LIMIT: Duration = Duration::from_secs(10);
pub const INSIST_PAUSE: Duration = Duration::from_secs(1);

/// How a command line and its environment want the cluster to be reached.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoints: Vec<String>,
    command_timeout: Duration,
    pub(super) dialing: Dialing,
}

impl Settings {
    /// Takes the environment into the flags, refuses what is not supported yet, and picks the printer.
    pub fn read(context: &mut Context) -> Result<Settings, Failure> {
        let environment: Vec<_> = std::env::vars_os().filter(|(name, _)| name != "ETCDCTL_API").collect();
        context.flags.fill_from_environment(&context.inherited, &environment)?;
        let flags = &context.flags;
        for name in ["cert", "key", "cacert"] {
            if flags.changed(name) && flags.bytes(name).is_empty() {
                return Err(Failure::new(code::BAD_ARGS, format!("empty string is passed to --{name} option")));
            }
        }
        for name in ["cert", "key", "cacert", "user", "discovery-srv"] {
            if !flags.bytes(name).is_empty() {
                return Err(not_supported(&format!("--{name}")));
            }
        }
        if !flags.bool("insecure-transport") {
            return Err(not_supported("--insecure-transport=false"));
        }
        context.printer.choose(&flags.text("write-out"), flags.bool("hex"))?;
        let endpoints: Vec<String> =
            flags.list("endpoints").iter().map(|endpoint| endpoint.trim().to_string()).collect();
        for endpoint in &endpoints {
            let scheme = endpoint.split(':').next().unwrap_or_default();
            if ["https", "unixs"].iter().any(|secure| scheme.eq_ignore_ascii_case(secure)) {
                return Err(not_supported(&format!("endpoint {endpoint}: TLS")));
            }
        }
        let positive = |name: &str| Duration::from_nanos(flags.duration(name).max(0) as u64);
        Ok(Settings {
            endpoints,
            command_timeout: positive("command-timeout"),
            dialing: Dialing {
                timeout: Some(positive("dial-timeout")).filter(|timeout| !timeout.is_zero()),
                keepalive_time: positive("keepalive-time"),
                keepalive_timeout: positive("keepalive-timeout"),
            },
        })
    }
}

fn not_supported(what: &str) -> Failure {
    Failure::new(code::BAD_ARGS, format!("{what} is not supported yet"))
}

/// Which of the Go client's two loggers a warning comes from: they write the time differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Iso,
    Epoch,
}

/// A client of one cluster. Connections are made when they are needed and kept.
#[derive(Clone, Debug)]
pub struct Client {
    pub settings: Settings,
    endpoints: Vec<String>,
    target: String,
    log: Log,
    connection: Arc<Mutex<Connection>>,
}

#[derive(Debug, Default)]
struct Connection {
    ready: Option<(usize, Channel)>,
    /// Endpoints whose connection broke: the others get a head start.
    broken: BTreeSet<usize>,
}

/// May the call be sent again when the answer is `Unavailable`? Writes may not: they could happen twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Yes,
    No,
}

impl Client {
    /// The client that this command line asks for.
    pub fn open(context: &mut Context) -> Result<Client, Failure> {
        let settings = Settings::read(context)?;
        if context.flags.bool("debug") {
            context.flags.show(&context.inherited).iter().for_each(|line| say_error(line));
        }
        Client::with(&settings, settings.endpoints.clone(), Log::Iso)
    }

    pub fn with(settings: &Settings, endpoints: Vec<String>, log: Log) -> Result<Client, Failure> {
        let Some(first) = endpoints.first() else {
            return Err(Failure::new(code::BAD_CONNECTION, "etcdclient: no available endpoints"));
        };
        let target = Address::of(first).shown().to_string();
        Ok(Client { settings: settings.clone(), target, endpoints, log, connection: Arc::default() })
    }

    /// The same client, talking to one endpoint only.
    fn at(&self, endpoint: &str) -> Client {
        Client { endpoints: vec![endpoint.to_string()], connection: Arc::default(), ..self.clone() }
    }

    /// When a call that starts now has to be over.
    pub fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.settings.command_timeout).unwrap_or_else(never)
    }

    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.run(Repeat::Yes, request, async |channel, request| kv(channel).range(request).await)
    }

    pub fn put(&self, request: PutRequest) -> Result<PutResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| kv(channel).put(request).await)
    }

    pub fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| kv(channel).delete_range(request).await)
    }

    /// etcdctl gives a transaction no time limit and waits for ever without a server; here it has the command's.
    pub fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| kv(channel).txn(request).await)
    }

    pub fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| kv(channel).compact(request).await)
    }

    pub fn lease_grant(&self, ttl_s: i64) -> Result<LeaseGrantResponse, String> {
        runtime().block_on(self.lease_grant_until(self.deadline(), ttl_s))
    }

    pub fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, String> {
        let send = async |channel, request| lease(channel).lease_revoke(request).await;
        runtime().block_on(self.call(self.deadline(), Repeat::Yes, LeaseRevokeRequest { id }, send))
    }

    /// etcdctl gives this call and the next no time limit; here they have the command's.
    pub fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, String> {
        let send = async |channel, request| lease(channel).lease_time_to_live(request).await;
        runtime().block_on(self.call(self.deadline(), Repeat::Yes, LeaseTimeToLiveRequest { id, keys }, send))
    }

    pub fn leases(&self) -> Result<LeaseLeasesResponse, String> {
        let send = async |channel, request| lease(channel).lease_leases(request).await;
        runtime().block_on(self.call(self.deadline(), Repeat::Yes, LeaseLeasesRequest {}, send))
    }

    pub fn member_list(&self, linearizable: bool) -> Result<MemberListResponse, Failure> {
        let request = MemberListRequest { linearizable };
        self.run(Repeat::Yes, request, async |channel, request| cluster(channel).member_list(request).await)
    }

    pub fn member_add(&self, request: MemberAddRequest) -> Result<MemberAddResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| cluster(channel).member_add(request).await)
    }

    pub fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse, Failure> {
        let request = MemberRemoveRequest { id };
        self.run(Repeat::No, request, async |channel, request| cluster(channel).member_remove(request).await)
    }

    pub fn member_update(&self, request: MemberUpdateRequest) -> Result<MemberUpdateResponse, Failure> {
        self.run(Repeat::No, request, async |channel, request| cluster(channel).member_update(request).await)
    }

    pub fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse, Failure> {
        let request = MemberPromoteRequest { id };
        self.run(Repeat::No, request, async |channel, request| cluster(channel).member_promote(request).await)
    }

    pub fn move_leader(&self, target_id: u64) -> Result<MoveLeaderResponse, Failure> {
        let request = MoveLeaderRequest { target_id };
        self.run(Repeat::Yes, request, async |channel, request| maintenance(channel).move_leader(request).await)
    }

    pub fn alarm(&self, deadline: Instant, request: AlarmRequest) -> Result<AlarmResponse, Failure> {
        let send = async |channel, request| maintenance(channel).alarm(request).await;
        let answer = runtime().block_on(self.call(deadline, Repeat::Yes, request, send));
        answer.map_err(|why| Failure::new(code::ERROR, why))
    }

    /// Asks one endpoint. The error is the final text.
    pub fn status(&self, endpoint: &str) -> Result<StatusResponse, String> {
        let (client, deadline) = (self.at(endpoint), self.deadline());
        let send = async |channel, request| maintenance(channel).status(request).await;
        runtime().block_on(client.call(deadline, Repeat::Yes, StatusRequest {}, send))
    }

    /// Asks one endpoint. The error is the final text.
    pub fn hash_kv(&self, endpoint: &str, request: HashKvRequest) -> Result<HashKvResponse, String> {
        let (client, deadline) = (self.at(endpoint), self.deadline());
        let send = async |channel, request| maintenance(channel).hash_kv(request).await;
        runtime().block_on(client.call(deadline, Repeat::Yes, request, send))
    }

    /// A linearizable read of some key. The error is the final text; a refusal of the reader counts as an answer.
    pub async fn probe(&self, deadline: Instant) -> Result<(), String> {
        let request = RangeRequest { key: "health".into(), ..Default::default() };
        let answer = self.call(deadline, Repeat::Yes, request, |channel, request| async move {
            let mut client = kv(channel);
            client.range(request).await
        });
        match answer.await {
            Err(why) if why != "etcdserver: permission denied" => Err(why),
            _ => Ok(()),
        }
    }

    pub async fn alarms(&self, deadline: Instant) -> Result<Vec<AlarmMember>, String> {
        let request = AlarmRequest::default();
        let answer = self.call(deadline, Repeat::Yes, request, |channel, request| async move {
            let mut client = maintenance(channel);
            client.alarm(request).await
        });
        Ok(answer.await?.alarms)
    }

    /// What follows is for commands that wait for several things at once; errors are the final texts.
    pub async fn range_until(&self, deadline: Instant, request: RangeRequest) -> Result<RangeResponse, String> {
        self.call(deadline, Repeat::Yes, request, async |channel, request| kv(channel).range(request).await).await
    }

    pub async fn put_until(&self, deadline: Instant, request: PutRequest) -> Result<PutResponse, String> {
        self.call(deadline, Repeat::No, request, async |channel, request| kv(channel).put(request).await).await
    }

    pub async fn txn_until(&self, deadline: Instant, request: TxnRequest) -> Result<TxnResponse, String> {
        self.call(deadline, Repeat::No, request, async |channel, request| kv(channel).txn(request).await).await
    }

    pub async fn delete_range_until(
        &self,
        deadline: Instant,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, String> {
        let send = async |channel, request| kv(channel).delete_range(request).await;
        self.call(deadline, Repeat::No, request, send).await
    }

    pub async fn compact_until(
        &self,
        deadline: Instant,
        request: CompactionRequest,
    ) -> Result<CompactionResponse, String> {
        self.call(deadline, Repeat::No, request, async |channel, request| kv(channel).compact(request).await).await
    }

    pub async fn lease_grant_until(&self, deadline: Instant, ttl_s: i64) -> Result<LeaseGrantResponse, String> {
        let request = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let send = async |channel, request| lease(channel).lease_grant(request).await;
        self.call(deadline, Repeat::Yes, request, send).await
    }

    /// Asks one endpoint.
    pub async fn defragment_until(&self, deadline: Instant, endpoint: &str) -> Result<DefragmentResponse, String> {
        let send = async |channel, request| maintenance(channel).defragment(request).await;
        self.at(endpoint).call(deadline, Repeat::No, DefragmentRequest {}, send).await
    }

    /// What follows asks until there is an answer, however long that takes, or a refusal that would come again: for a
    /// mirror, which is to outlast its members.
    pub async fn range_at_last(&self, request: RangeRequest) -> Result<RangeResponse, String> {
        self.insist(request, async |channel, request| kv(channel).range(request).await).await
    }

    pub async fn put_at_last(&self, request: PutRequest) -> Result<PutResponse, String> {
        self.insist(request, async |channel, request| kv(channel).put(request).await).await
    }

    pub async fn txn_at_last(&self, request: TxnRequest) -> Result<TxnResponse, String> {
        self.insist(request, async |channel, request| kv(channel).txn(request).await).await
    }

    /// Begins to download a snapshot.
    pub async fn snapshot_until(&self, deadline: Instant) -> Result<Streaming<SnapshotResponse>, String> {
        let send = async |channel, request| maintenance(channel).snapshot(request).await;
        self.call(deadline, Repeat::Yes, SnapshotRequest {}, send).await
    }

    /// A connection for a stream, however long it takes to get one.
    pub async fn connection(&self) -> Channel {
        loop {
            if let Ok(channel) = self.channel(&Arc::default()).await {
                return channel;
            }
            sleep(BACKOFF).await;
        }
    }

    fn run<Q: Message + Clone, A, F>(
        &self,
        repeat: Repeat,
        request: Q,
        send: impl Fn(Channel, Q) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let answer = runtime().block_on(self.call(self.deadline(), repeat, request, send));
        answer.map_err(|why| Failure::new(code::ERROR, why))
    }

    /// One call: attempts until an answer, a refusal or the deadline. The error is the final text.
    async fn call<Q: Message + Clone, A, F>(
        &self,
        deadline: Instant,
        repeat: Repeat,
        request: Q,
        send: impl Fn(Channel, Q) -> F,
    ) -> Result<A, String>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let size = request.encoded_len();
        let mut attempt = 0;
        loop {
            let status = if size > SEND_BYTES_MAX {
                let text = format!("trying to send message larger than max ({size} vs. {SEND_BYTES_MAX})");
                Status::resource_exhausted(text)
            } else {
                match self.attempt(deadline, request.clone(), &send).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => status,
                }
            };
            self.warn(attempt, &status);
            attempt += 1;
            let again = repeat == Repeat::Yes && status.code() == Code::Unavailable && attempt < ATTEMPTS_MAX;
            if !again {
                return Err(final_text(&status, deadline));
            }
            if timeout_at(deadline, sleep(BACKOFF)).await.is_err() {
                return Err("context deadline exceeded".into());
            }
        }
    }

    async fn insist<Q: Message + Clone, A, F>(&self, request: Q, send: impl Fn(Channel, Q) -> F) -> Result<A, String>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut attempt = 0;
        loop {
            let deadline = Instant::now() + INSIST_LIMIT;
            let status = match self.attempt(deadline, request.clone(), &send).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            self.warn(attempt, &status);
            if !is_passing(&status) {
                return Err(stream_error(&status));
            }
            self.leave();
            attempt += 1;
            sleep(INSIST_PAUSE).await;
        }
    }

    async fn attempt<Q, A, F>(
        &self,
        deadline: Instant,
        request: Q,
        send: &impl Fn(Channel, Q) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let expired = || Status::deadline_exceeded("context deadline exceeded");
        if deadline <= Instant::now() {
            return Err(expired());
        }
        let last_error = Arc::new(Mutex::new(String::new()));
        let channel = match timeout_at(deadline, self.channel(&last_error)).await {
            Ok(channel) => channel?,
            Err(_) => {
                let why = last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if why.is_empty() {
                    return Err(expired());
                }
                return Err(Status::deadline_exceeded(format!("latest balancer error: last connection error: {why}")));
            }
        };
        match timeout_at(deadline, send(channel, request)).await {
            Err(_) => Err(expired()),
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.look_at(status)),
        }
    }

    /// A failure of the connection, not of the server, becomes `Unavailable`, and another endpoint's turn.
    pub fn look_at(&self, status: Status) -> Status {
        let Some(mut cause) = std::error::Error::source(&status) else { return status };
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let text = format!("connection error: desc = \"transport: {cause}\"");
        self.leave();
        Status::unavailable(text)
    }

    /// The next call is another endpoint's turn, if there is one.
    pub fn leave(&self) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, _)) = connection.ready.take() {
            connection.broken.insert(index);
        }
    }

    /// The first endpoint that answers; each is tried again and again until one does.
    async fn channel(&self, last_error: &Arc<Mutex<String>>) -> Result<Channel, Status> {
        let broken = {
            let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, channel)) = &connection.ready {
                return Ok(channel.clone());
            }
            connection.broken.clone()
        };
        let mut race = JoinSet::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let (dialing, last_error) = (self.settings.dialing.clone(), last_error.clone());
            let address = Address::of(endpoint);
            let head_start = if broken.contains(&index) { HEAD_START } else { Duration::ZERO };
            race.spawn(async move {
                sleep(head_start).await;
                (index, connect(&dialing, address, &last_error).await)
            });
        }
        match race.join_next().await {
            Some(Ok((index, channel))) => {
                let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
                connection.ready = Some((index, channel.clone()));
                Ok(channel)
            }
            _ => Err(Status::unavailable("there is no connection available")),
        }
    }

    /// The Go client's line for a failed attempt.
    fn warn(&self, attempt: u32, status: &Status) {
        let (ts, logger) = match self.log {
            Log::Iso => (json_string(now_iso8601().as_bytes()), "etcd-client"),
            Log::Epoch => (now_epoch(), "client"),
        };
        // Go shows the address of its client object; ours says as much.
        let object = format!("0xc{:09x}", std::ptr::from_ref(self).addr() & 0xf_ffff_ffff);
        let target = json_string(format!("etcd-endpoints://{object}/{}", self.target).as_bytes());
        let error = json_string(rpc_error(status).as_bytes());
        say_error(&format!(
            "{{\"level\":\"warn\",\"ts\":{ts},\"logger\":\"{logger}\",\"caller\":\"v3/retry_interceptor.go:62\",\
             \"msg\":\"retrying of unary invoker failed\",\"target\":{target},\"attempt\":{attempt},\"error\":{error}}}"
        ));
    }
}

/// The one runtime: a current-thread one, for a program that does one thing.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    })
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn lease(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn maintenance(channel: Channel) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// What a failed call says in the end.
fn final_text(status: &Status, deadline: Instant) -> String {
    let over = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) && Instant::now() >= deadline;
    match status.message() {
        known if known.starts_with("etcdserver: ") => known.to_string(),
        _ if over => "context deadline exceeded".into(),
        _ => rpc_error(status),
    }
}

/// Could the same call, made again, be answered otherwise?
pub fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted)
        || status.message() == "etcdserver: too many requests"
}

/// What the end of a stream says.
pub fn stream_error(status: &Status) -> String {
    match status.message() {
        known if known.starts_with("etcdserver: ") => known.to_string(),
        _ => rpc_error(status),
    }
}

/// When a call without a time limit has to be over.
pub fn never() -> Instant {
    Instant::now() + Duration::from_secs(86_400 * 365)
}

fn rpc_error(status: &Status) -> String {
    let code = match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

//! What etcd keeps in its database: which buckets there are, what their keys say, and what must hold between them.
//!
//! ```text
//! key               main, '_', sub [, 't']        a marshalled KeyValue; 't' a deletion, whose value is but its key
//! meta              consistent_index, term, confState, scheduledCompactRev, finishedCompactRev, storageVersion
//! lease             big-endian id                 a marshalled Lease
//! members           id in hexadecimal             JSON
//! members_removed   id in hexadecimal             "removed"
//! cluster           clusterVersion, downgrade     text, JSON
//! alarm             a marshalled AlarmMember      nothing
//! auth, authUsers, authRoles
//! ```
//!
//! Nothing is taken on trust here either: a row that is not what its bucket says is an error that names it. Releases
//! differ in what they have: 3.4 has neither `term` nor `confState`, 3.6 adds `storageVersion`.

use bytes::Bytes;
use lockstep_proto::etcdserverpb::AlarmMember;
use lockstep_proto::leasepb::Lease;
use prost::Message;

use super::ReadAt;
use super::bbolt::{self, Db};
use crate::mvcc::read::Revision;
use crate::mvcc::{Header, header, parse_row_key, row_key};

/// The bucket of the rows.
pub const KEY: &str = "key";
/// In the bucket `cluster`.
pub const CLUSTER_VERSION: &str = "clusterVersion";
/// What a cluster can come to, with room for more.
pub const REVISIONS: std::ops::RangeInclusive<i64> = 1..=1 << 60;
/// What etcd grants.
const TTLS_S: std::ops::RangeInclusive<i64> = 1..=9_000_000_000;
/// Behind the key of a row that records a deletion.
const DELETION: u8 = b't';

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Database(#[from] bbolt::Error),
    #[error("the etcd database has no bucket {0}: it is none of a member that ran")]
    NoBucket(&'static str),
    #[error("the etcd database is damaged: bucket {bucket}, row \"{row}\": {detail}; use another copy of it")]
    Row { bucket: String, row: String, detail: String },
}

/// A row of the bucket `key`: one revision of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub revision: Revision,
    pub is_deletion: bool,
    /// The marshalled `KeyValue`.
    pub value: Bytes,
}

impl KeyRow {
    /// Whether it is of no key: the restore of 3.6 puts such a row where it moves the revision to, and has it compacted
    /// at the first start.
    pub fn is_marker(&self) -> bool {
        self.value.is_empty()
    }

    /// The row without its value's own bytes.
    pub fn header(&self) -> Header<'_> {
        header(&self.value).expect("it was looked at when it was read")
    }
}

/// The key under which etcd keeps a revision.
pub fn key_of(revision: Revision, is_deletion: bool) -> Bytes {
    let key = row_key(revision);
    if is_deletion { [&key[..], &[DELETION]].concat().into() } else { Bytes::copy_from_slice(&key) }
}

/// How far the member had come. What its release does not record is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub consistent_index: Option<u64>,
    pub term: Option<u64>,
    pub scheduled_compaction: Option<Revision>,
    pub finished_compaction: Option<Revision>,
    /// JSON of a `raftpb.ConfState`.
    pub conf_state: Option<Bytes>,
    pub storage_version: Option<Bytes>,
}

/// A member's id, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub json: Bytes,
}

/// Whether requests need a user, and the revision of users and roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    pub is_enabled: bool,
    pub revision: u64,
}

/// etcd's database.
#[derive(Debug)]
pub struct Etcd<S> {
    db: Db<S>,
}

impl<S: ReadAt> Etcd<S> {
    pub fn new(db: Db<S>) -> Result<Etcd<S>, Error> {
        for name in [KEY, "meta"] {
            db.bucket(name)?.ok_or(Error::NoBucket(name))?;
        }
        Ok(Etcd { db })
    }

    pub fn db(&self) -> &Db<S> {
        &self.db
    }

    /// Looks at everything beside the keys once, so that no damage is found only when a member runs.
    pub fn check_entries(&self) -> Result<(), Error> {
        self.progress()?;
        self.auth()?;
        self.leases()?.try_for_each(|lease| lease.map(drop))?;
        self.members()?.try_for_each(|member| member.map(drop))?;
        self.members_removed()?.try_for_each(|id| id.map(drop))?;
        self.alarms()?.try_for_each(|alarm| alarm.map(drop))
    }

    /// Every row of every key, in the order of their revisions.
    pub fn key_rows(&self) -> Result<impl Iterator<Item = Result<KeyRow, Error>> + '_, Error> {
        let mut previous = None;
        self.rows(KEY, move |key, value| {
            let row = key_row(key, value)?;
            // Deletion and put of one revision differ in their keys; there is only one of them.
            if previous == Some(row.revision) {
                return Err("its revision is there twice".to_string());
            }
            previous = Some(row.revision);
            Ok(row)
        })
    }

    pub fn leases(&self) -> Result<impl Iterator<Item = Result<Lease, Error>> + '_, Error> {
        self.rows("lease", |key, value| {
            let id = number(key)?;
            let lease = Lease::decode(value).map_err(|e| format!("it is no lease: {e}"))?;
            if lease.id as u64 != id || id == 0 {
                return Err(format!("it is lease {:x}", lease.id));
            }
            let Lease { ttl, remaining_ttl, .. } = lease;
            match TTLS_S.contains(&ttl) && (0..=ttl).contains(&remaining_ttl) {
                true => Ok(lease),
                false => Err(format!("it has {remaining_ttl} s left of {ttl} s")),
            }
        })
    }

    pub fn members(&self) -> Result<impl Iterator<Item = Result<Member, Error>> + '_, Error> {
        self.rows("members", |key, json| Ok(Member { id: member_id(key)?, json }))
    }

    /// The members that may never come back.
    pub fn members_removed(&self) -> Result<impl Iterator<Item = Result<u64, Error>> + '_, Error> {
        self.rows("members_removed", |key, _| member_id(key))
    }

    pub fn alarms(&self) -> Result<impl Iterator<Item = Result<AlarmMember, Error>> + '_, Error> {
        self.rows("alarm", |key, _| AlarmMember::decode(key).map_err(|e| format!("it is no alarm: {e}")))
    }

    pub fn cluster_version(&self) -> Result<Option<Bytes>, Error> {
        self.get("cluster", CLUSTER_VERSION, Ok)
    }

    pub fn auth(&self) -> Result<Auth, Error> {
        let is_enabled = self.get("auth", "authEnabled", |value| match value[..] {
            [flag @ (0 | 1)] => Ok(flag == 1),
            _ => Err("it is neither 0 nor 1".to_string()),
        })?;
        let revision = self.get("auth", "authRevision", number)?;
        Ok(Auth { is_enabled: is_enabled.unwrap_or_default(), revision: revision.unwrap_or_default() })
    }

    pub fn progress(&self) -> Result<Progress, Error> {
        let revision = |value: Bytes| parse_row_key(&value).ok_or_else(|| "it is no revision".to_string());
        Ok(Progress {
            consistent_index: self.get("meta", "consistent_index", number)?,
            term: self.get("meta", "term", number)?,
            scheduled_compaction: self.get("meta", "scheduledCompactRev", revision)?,
            finished_compaction: self.get("meta", "finishedCompactRev", revision)?,
            conf_state: self.get("meta", "confState", Ok)?,
            storage_version: self.get("meta", "storageVersion", Ok)?,
        })
    }

    /// Reads the rows of a bucket; one that is missing has none.
    fn rows<T>(
        &self,
        bucket: &'static str,
        mut read: impl FnMut(Bytes, Bytes) -> Result<T, String>,
    ) -> Result<impl Iterator<Item = Result<T, Error>>, Error> {
        let rows = self.db.bucket(bucket)?.map(|bucket| bucket.rows());
        Ok(rows.into_iter().flatten().map(move |row| {
            let (key, value) = row?;
            read(key.clone(), value).map_err(|detail| wrong(bucket, &key, detail))
        }))
    }

    fn get<T>(
        &self,
        bucket: &str,
        key: &str,
        read: impl FnOnce(Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let Some(found) = self.db.bucket(bucket)? else { return Ok(None) };
        let value = found.get(key.as_bytes())?;
        value.map(|value| read(value).map_err(|detail| wrong(bucket, key.as_bytes(), detail))).transpose()
    }
}

fn key_row(key: Bytes, value: Bytes) -> Result<KeyRow, String> {
    let (place, is_deletion) = match key.split_last() {
        Some((&DELETION, place)) if key.len() == size_of_val(&row_key(Revision::default())) + 1 => (place, true),
        _ => (&key[..], false),
    };
    let revision = parse_row_key(place).ok_or("its key is no revision")?;
    if !REVISIONS.contains(&revision.main) {
        return Err(format!("there is no revision {}", revision.main));
    }
    if value.is_empty() && !is_deletion {
        return Ok(KeyRow { revision, is_deletion, value });
    }
    let Some(head) = header(&value) else { return Err("its value is no KeyValue".to_string()) };
    if head.tombstone != is_deletion {
        return Err("its key and its value do not agree on whether it is a deletion".to_string());
    }
    if head.key.is_empty() || (!is_deletion && head.mod_revision != revision.main) {
        return Err(format!("its value is one of revision {}", head.mod_revision));
    }
    let until_then = 1..=revision.main;
    let is_possible = until_then.contains(&head.create_revision) && until_then.contains(&head.version);
    if !(is_deletion || is_possible) {
        let (created, version) = (head.create_revision, head.version);
        return Err(format!("its value says that it is version {version} of a key created at revision {created}"));
    }
    Ok(KeyRow { revision, is_deletion, value })
}

fn number(bytes: Bytes) -> Result<u64, String> {
    let bytes = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| format!("{} bytes are no number", bytes.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

fn member_id(key: Bytes) -> Result<u64, String> {
    let text = std::str::from_utf8(&key).ok();
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(|| "it is no member's id".to_string())
}

fn wrong(bucket: &str, row: &[u8], detail: String) -> Error {
    Error::Row { bucket: bucket.to_string(), row: row.escape_ascii().to_string(), detail }
}

//! What a stream is sent: plain data, with the events shared between all who are told the same.
//!
//! A change with ten thousand watchers is put together once, and marshalled once if anybody asks. The ids and the term
//! of a header are those of whoever sends it on.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lockstep_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use lockstep_proto::mvccpb::Event;
use prost::Message;

use crate::member::error::EtcdError;

/// One response on a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub watch_id: i64,
    /// The revision in the header.
    pub revision: i64,
    pub what: What,
    /// What it counts for while it waits to be sent; to be given back by [`Input::Taken`](super::Input::Taken).
    pub charge: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Created,
    /// Created and canceled in one, under the id -1.
    Refused(EtcdError),
    /// The client wanted it so.
    Canceled,
    /// Canceled, because history up to this revision is gone.
    Compacted(i64),
    /// Everything up to the header's revision has been sent.
    Progress,
    Events {
        events: Arc<Events>,
        /// A fragment: more of the same revisions follows.
        more: bool,
    },
}

/// Events in order, immutable and shared.
#[derive(Debug, Default)]
pub struct Events {
    /// Nothing but its events is filled in.
    message: WatchResponse,
    encoded_len: usize,
    encoded: OnceLock<Bytes>,
}

impl Events {
    pub fn new(events: Vec<Event>) -> Events {
        let message = WatchResponse { events, ..Default::default() };
        Events { encoded_len: message.encoded_len(), message, encoded: OnceLock::new() }
    }

    pub fn list(&self) -> &[Event] {
        &self.message.events
    }

    /// The message that holds these events and nothing else.
    pub fn message(&self) -> &WatchResponse {
        &self.message
    }

    /// The length of that message, marshalled.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// That message, marshalled. It is done once, whoever asks: appended to the marshalled rest of a `WatchResponse` it
    /// makes a whole one.
    pub fn encoded(&self) -> &Bytes {
        self.encoded.get_or_init(|| self.message.encode_to_vec().into())
    }
}

impl PartialEq for Events {
    fn eq(&self, other: &Events) -> bool {
        self.message == other.message
    }
}

impl Response {
    /// The response as it goes over the wire. The revision of `header` is replaced.
    pub fn to_message(&self, header: ResponseHeader) -> WatchResponse {
        let mut message = self.without_events(header);
        if let What::Events { events, .. } = &self.what {
            message.events = events.list().to_vec();
        }
        message
    }

    /// As [`Response::to_message`], but for the events.
    pub fn without_events(&self, header: ResponseHeader) -> WatchResponse {
        let header = Some(ResponseHeader { revision: self.revision, ..header });
        let mut message = WatchResponse { header, watch_id: self.watch_id, ..Default::default() };
        match &self.what {
            What::Created => message.created = true,
            What::Refused(error) => {
                (message.created, message.canceled) = (true, true);
                message.cancel_reason = error.message().to_owned();
            }
            What::Canceled => message.canceled = true,
            What::Compacted(revision) => (message.canceled, message.compact_revision) = (true, *revision),
            What::Progress => {}
            What::Events { more, .. } => message.fragment = *more,
        }
        message
    }
}

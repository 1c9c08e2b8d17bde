//! The two framings of a stream between members, as pure functions over buffers: bytes in, messages out, and back.
//!
//! `message` carries any raft message: a big-endian `u64` length, then the message. `msgappv2` carries a leader's
//! appends and leaves out what the follower can work out by itself, the term and index that follow from the append
//! before:
//!
//! ```text
//! heartbeat    00
//! AppEntries   01 | count u64 | count x ( length u64 | Entry ) | commit u64      term, index: as the last append left them
//! MsgApp       02 | length u64 | Message                                        sets term and index
//! ```
//!
//! All integers are big-endian. Nothing here may do input or output, and nothing may allocate by a length it was merely
//! told: a decoder holds at most `limit` bytes of one message, and memory grows only with the bytes that have arrived.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lockstep_proto::raftpb::{Entry, Message, MessageType};
use prost::Message as _;

/// A stream that has sent this can not be followed any further: close it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "a message of {length} bytes is over the limit of {limit}; raise the limit on this member if the peer is right"
    )]
    TooLarge { length: u64, limit: usize },
    #[error("a message of more than {limit} entries is over the limit")]
    TooManyEntries { limit: usize },
    #[error("type {0} is unknown in a msgappv2 stream; the peer speaks another protocol")]
    UnknownType(u8),
    #[error("the bytes are no raft message ({0})")]
    Malformed(#[from] prost::DecodeError),
    #[error("the log index overflows")]
    IndexOverflow,
}

const HEARTBEAT: u8 = 0;
const APP_ENTRIES: u8 = 1;
const MSG_APP: u8 = 2;

/// An entry takes about this much memory besides its data, however few bytes it had on the wire.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// The link's own heartbeat: keeps a quiet stream inside the reader's time-out, and never reaches raft.
pub fn link_heartbeat() -> Message {
    Message { r#type: Some(MessageType::MsgHeartbeat as i32), to: Some(0), from: Some(0), ..Message::default() }
}

/// Raft's messages have a sender and a receiver, the link's heartbeat has neither.
pub fn is_link_heartbeat(message: &Message) -> bool {
    message.r#type() == MessageType::MsgHeartbeat && message.from() == 0 && message.to() == 0
}

/// Parses one message, whatever it came in: the body of a POST, a frame of a stream.
pub fn decode_message(bytes: Bytes, limit: usize) -> Result<Message, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { length: bytes.len() as u64, limit });
    }
    let entries = limit / ENTRY_OVERHEAD_BYTES;
    // An entry is at least two bytes: a small message can not hold too many of them, and needs no count.
    if bytes.len() / 2 > entries && count_entries(&bytes)? > entries {
        return Err(DecodeError::TooManyEntries { limit: entries });
    }
    Ok(Message::decode(bytes)?)
}

/// Either framing, for a writer that serves both.
#[derive(Debug)]
pub enum Encoder {
    Message,
    MsgAppV2(MsgAppV2Encoder),
}

impl Encoder {
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        match self {
            Encoder::Message => encode_framed(message, out),
            Encoder::MsgAppV2(encoder) => encoder.encode(message, out),
        }
    }
}

/// Either framing, for a reader that serves both. `Ok(None)` asks for more bytes.
#[derive(Debug)]
pub enum Decoder {
    Message(MessageDecoder),
    MsgAppV2(MsgAppV2Decoder),
}

impl Decoder {
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        match self {
            Decoder::Message(decoder) => decoder.decode(input),
            Decoder::MsgAppV2(decoder) => decoder.decode(input),
        }
    }
}

/// Reads the `message` framing.
#[derive(Debug)]
pub struct MessageDecoder {
    limit: usize,
}

impl MessageDecoder {
    pub fn new(limit: usize) -> MessageDecoder {
        MessageDecoder { limit }
    }

    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        let Some(frame) = take_frame(input, 0, self.limit)? else { return Ok(None) };
        decode_message(frame, self.limit).map(Some)
    }
}

/// Writes the `msgappv2` framing; one for each stream, since what it leaves out depends on what it wrote before.
#[derive(Debug, Default)]
pub struct MsgAppV2Encoder {
    term: u64,
    index: u64,
}

impl MsgAppV2Encoder {
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        if is_link_heartbeat(message) {
            return out.put_u8(HEARTBEAT);
        }
        if self.follows(message) {
            out.put_u8(APP_ENTRIES);
            out.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                put_framed(entry, out);
            }
            out.put_u64(message.commit());
            self.index += message.entries.len() as u64;
            return;
        }
        out.put_u8(MSG_APP);
        put_framed(message, out);
        self.term = message.term();
        self.index = last_index(message);
    }

    /// Whether the reader can work out what AppEntries leaves out.
    fn follows(&self, message: &Message) -> bool {
        self.index == message.index()
            && self.term == message.log_term()
            && message.log_term() == message.term()
            && message.r#type() == MessageType::MsgApp
            && message.context.is_none()
            && message.index().checked_add(message.entries.len() as u64).is_some()
    }
}

/// Reads the `msgappv2` framing. Resumable inside an AppEntries, so that a large one is scanned once.
#[derive(Debug)]
pub struct MsgAppV2Decoder {
    local: u64,
    remote: u64,
    limit: usize,
    term: u64,
    index: u64,
    partial: Option<Partial>,
}

/// An AppEntries of which some entries have arrived.
#[derive(Debug)]
struct Partial {
    first: u64,
    missing: u64,
    bytes: usize,
    entries: Vec<Entry>,
}

impl MsgAppV2Decoder {
    /// `local` and `remote` are the members' ids: AppEntries names neither.
    pub fn new(local: u64, remote: u64, limit: usize) -> MsgAppV2Decoder {
        MsgAppV2Decoder { local, remote, limit, term: 0, index: 0, partial: None }
    }

    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        if self.partial.is_some() {
            return self.decode_entries(input);
        }
        let Some(kind) = input.first().copied() else { return Ok(None) };
        match kind {
            HEARTBEAT => {
                input.advance(1);
                Ok(Some(link_heartbeat()))
            }
            APP_ENTRIES => {
                let Some(count) = peek_u64(input, 1) else { return Ok(None) };
                let limit = self.limit / ENTRY_OVERHEAD_BYTES;
                if count > limit as u64 {
                    return Err(DecodeError::TooManyEntries { limit });
                }
                input.advance(9);
                self.partial = Some(Partial { first: self.index, missing: count, bytes: 0, entries: Vec::new() });
                self.decode_entries(input)
            }
            MSG_APP => {
                let Some(frame) = take_frame(input, 1, self.limit)? else { return Ok(None) };
                let message = decode_message(frame, self.limit)?;
                self.term = message.term();
                self.index = last_index(&message);
                Ok(Some(message))
            }
            other => Err(DecodeError::UnknownType(other)),
        }
    }

    fn decode_entries(&mut self, input: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        while partial.missing > 0 {
            let left = self.limit.saturating_sub(partial.bytes);
            let Some(frame) = take_frame(input, 0, left)? else { return Ok(None) };
            partial.bytes += frame.len();
            partial.missing -= 1;
            partial.entries.push(Entry::decode(frame)?);
            self.index = self.index.checked_add(1).ok_or(DecodeError::IndexOverflow)?;
        }
        let Some(commit) = peek_u64(input, 0) else { return Ok(None) };
        input.advance(8);
        let partial = self.partial.take().unwrap_or_else(|| unreachable!("checked at the top"));
        Ok(Some(Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(self.remote),
            to: Some(self.local),
            term: Some(self.term),
            log_term: Some(self.term),
            index: Some(partial.first),
            entries: partial.entries,
            commit: Some(commit),
            ..Message::default()
        }))
    }
}

/// Writes the `message` framing.
pub fn encode_framed(message: &Message, out: &mut BytesMut) {
    put_framed(message, out);
}

fn put_framed(message: &impl prost::Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(8 + length);
    out.put_u64(length as u64);
    message.encode_raw(out);
}

/// Takes `skip` bytes, a length and so many bytes off the front, once they are all there.
fn take_frame(input: &mut BytesMut, skip: usize, limit: usize) -> Result<Option<Bytes>, DecodeError> {
    let Some(length) = peek_u64(input, skip) else { return Ok(None) };
    if length > limit as u64 {
        return Err(DecodeError::TooLarge { length, limit });
    }
    let (start, length) = (skip + 8, length as usize);
    if input.len() - start < length {
        return Ok(None);
    }
    input.advance(start);
    Ok(Some(input.split_to(length).freeze()))
}

fn peek_u64(input: &BytesMut, at: usize) -> Option<u64> {
    let bytes = input.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().unwrap_or_else(|_| unreachable!("eight bytes"))))
}

fn last_index(message: &Message) -> u64 {
    message.entries.last().map_or(message.index(), |entry| entry.index())
}

/// Counts a message's entries without making them: two bytes on the wire can become seventy in memory.
fn count_entries(bytes: &Bytes) -> Result<usize, DecodeError> {
    const ENTRIES_TAG: u32 = 7;
    let mut rest = &bytes[..];
    let mut count = 0;
    while rest.has_remaining() {
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest)?;
        count += usize::from(tag == ENTRIES_TAG);
        prost::encoding::skip_field(wire_type, tag, &mut rest, prost::encoding::DecodeContext::default())?;
    }
    Ok(count)
}

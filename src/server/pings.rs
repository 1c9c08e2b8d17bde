//! Which pings of a client are too many (`--grpc-keepalive-min-time`), by the rules of gRPC's Go servers.
//!
//! It is shown the heads of HTTP/2 frames, both ways, and decides; it holds no socket and no bytes. A ping is a strike
//! when it follows the one before sooner than it may: the minimum, or two hours where no stream is open. The third
//! strike ends the connection with a GOAWAY (`ENHANCE_YOUR_CALM`, `too_many_pings`), which Go's clients take as: ping
//! half as often. Whatever the server sends of data or headers forgives all strikes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::authority::{FRAME_HEAD_BYTES, FrameHead};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

const ENHANCE_YOUR_CALM: u32 = 11;
const REASON: &[u8] = b"too_many_pings";
/// So many strikes are borne.
const MAX_STRIKES: u32 = 2;
/// What a client without a stream should leave between two pings.
const IDLE_MIN_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// One connection.
pub struct Pings {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u32,
    /// Data or headers were sent since the last ping.
    has_sent: bool,
    open: BTreeSet<u32>,
    last_stream: u32,
    out: Frames,
}

impl Pings {
    pub fn new(min_time: Duration) -> Pings {
        Pings {
            min_time,
            last: None,
            strikes: 0,
            has_sent: false,
            open: BTreeSet::new(),
            last_stream: 0,
            out: Frames::default(),
        }
    }

    /// A frame that the client sends.
    pub fn received(&mut self, head: &FrameHead) {
        match head.kind {
            PING if head.flags & ACK == 0 => self.pinged(Instant::now()),
            HEADERS if head.stream > self.last_stream => {
                self.last_stream = head.stream;
                self.open.insert(head.stream);
            }
            RST_STREAM => drop(self.open.remove(&head.stream)),
            _ => {}
        }
    }

    /// Bytes that were sent to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Pings { out, open, has_sent, .. } = self;
        out.feed(bytes, |head| {
            *has_sent |= matches!(head.kind, DATA | HEADERS);
            let ends = matches!(head.kind, DATA | HEADERS) && head.flags & END_STREAM != 0;
            if ends || head.kind == RST_STREAM {
                open.remove(&head.stream);
            }
        });
    }

    fn pinged(&mut self, now: Instant) {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.has_sent) {
            self.strikes = 0;
            return;
        }
        let wanted = if self.open.is_empty() { IDLE_MIN_TIME } else { self.min_time };
        if last.is_some_and(|last| now.duration_since(last) < wanted) {
            self.strikes += 1;
        }
    }

    pub fn are_too_many(&self) -> bool {
        self.strikes > MAX_STRIKES
    }

    /// What to send before the connection is closed; `None` in the middle of another frame.
    pub fn goaway(&self) -> Option<Vec<u8>> {
        if !self.out.is_between() {
            return None;
        }
        let length = 8 + REASON.len() as u32;
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(REASON);
        Some(frame)
    }
}

/// Finds the frames in what is sent, a head at a time.
#[derive(Default)]
struct Frames {
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// What is still to come of the payload.
    left: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(&FrameHead)) {
        while !bytes.is_empty() {
            let passed = bytes.len().min(self.left);
            self.left -= passed;
            bytes = &bytes[passed..];
            let taken = bytes.len().min(FRAME_HEAD_BYTES - self.head_bytes);
            self.head[self.head_bytes..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_bytes += taken;
            bytes = &bytes[taken..];
            if self.head_bytes == FRAME_HEAD_BYTES {
                self.head_bytes = 0;
                let head = FrameHead::of(&self.head);
                self.left = head.length;
                seen(&head);
            }
        }
    }

    fn is_between(&self) -> bool {
        self.left == 0 && self.head_bytes == 0
    }
}

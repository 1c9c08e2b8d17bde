//! As much HTTP/2 as a load generator needs, on one socket, without allocating: many unary calls of one method.
//!
//! A general client costs 12 us of CPU a request, which on two cores is most of what a fast server costs; this costs a
//! fraction. It asks the server not to index headers, so the end of a good answer is the same bytes each time and an
//! HPACK decoder is not needed: only `grpc-status` is looked for. Its own headers are indexed, as real clients' are.
//! Whatever it does not know ends the connection with an error; it must never take a bad answer for a good one.

use crate::client::Failure;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

const FRAME: usize = 9;
/// What every peer accepts in one frame.
pub const LONGEST_BODY: usize = 16_384;
/// The connection's receive window, topped up when half of it is used.
const WINDOW: u32 = 1 << 30;
const OLDEST_WINDOW: u32 = 65_535;
/// "grpc-status" in HPACK's Huffman code.
const STATUS_CODED: &[u8] = &[0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f];

/// What became of a request; `token` is the caller's.
pub struct Event {
    pub token: usize,
    /// The bytes of the answer's body, gRPC frame head included.
    pub result: Result<usize, Failure>,
}

pub struct Conn {
    socket: TcpStream,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    streams: VecDeque<Option<Stream>>,
    /// The id of `streams[0]`.
    oldest: u32,
    active: u32,
    most_active: u32,
    window: i64,
    stream_window: i64,
    unacknowledged: u32,
    first_block: Vec<u8>,
    block: Vec<u8>,
}

struct Stream {
    token: usize,
    length: usize,
}

impl Conn {
    pub fn open(endpoint: &str, path: &str) -> Result<Conn, String> {
        let fail = |why: &dyn std::fmt::Display| format!("connect to {endpoint}: {why}");
        let mut addresses = endpoint.to_socket_addrs().map_err(|why| fail(&why))?;
        let address = addresses.next().ok_or_else(|| fail(&"no address"))?;
        let socket = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|why| fail(&why))?;
        socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).map_err(|why| fail(&why))?;
        let (first_block, block) = blocks(endpoint, path);
        let mut conn = Conn {
            socket,
            input: vec![0; 1 << 18],
            filled: 0,
            output: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            written: 0,
            streams: VecDeque::new(),
            oldest: 1,
            active: 0,
            most_active: 100,
            window: i64::from(OLDEST_WINDOW),
            stream_window: i64::from(OLDEST_WINDOW),
            unacknowledged: 0,
            first_block,
            block,
        };
        frame_head(&mut conn.output, 12, SETTINGS, 0, 0);
        for (setting, value) in [(HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, WINDOW)] {
            conn.output.extend_from_slice(&setting.to_be_bytes());
            conn.output.extend_from_slice(&u32::to_be_bytes(value));
        }
        window_update(&mut conn.output, WINDOW - OLDEST_WINDOW);
        conn.flush().map_err(|why| fail(&why))?;
        Ok(conn)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether a request with a body of `length` bytes may go out now; when not, wait for answers.
    pub fn can_send(&self, length: usize) -> bool {
        self.active < self.most_active && self.window >= length as i64 && self.stream_window >= length as i64
    }

    /// Requests that have no answer yet.
    pub fn active(&self) -> u32 {
        self.active
    }

    pub fn wants_write(&self) -> bool {
        self.written < self.output.len()
    }

    /// Puts a request behind the others; `flush` sends them. `body` appends exactly `length` bytes.
    pub fn send(&mut self, token: usize, length: usize, body: impl FnOnce(&mut Vec<u8>)) {
        let id = self.oldest + 2 * self.streams.len() as u32;
        let block = if id == 1 { &self.first_block } else { &self.block };
        frame_head(&mut self.output, block.len(), HEADERS, END_HEADERS, id);
        self.output.extend_from_slice(block);
        frame_head(&mut self.output, length, DATA, END_STREAM, id);
        let before = self.output.len();
        body(&mut self.output);
        assert_eq!(self.output.len() - before, length, "a body has the length that was announced");
        self.window -= length as i64;
        self.active += 1;
        self.streams.push_back(Some(Stream { token, length: 0 }));
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        while self.written < self.output.len() {
            match self.socket.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(format!("connection lost: {}", why.kind()).into()),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what is there, once, and reports what ended. After an error the connection is of no use any more.
    pub fn receive(&mut self, events: &mut Vec<Event>) -> Result<(), Failure> {
        match self.socket.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err("connection closed by the server".into()),
            Ok(count) => self.filled += count,
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(why) => return Err(format!("connection lost: {}", why.kind()).into()),
        }
        let input = std::mem::take(&mut self.input);
        let parsed = self.parse(&input[..self.filled], events);
        self.input = input;
        let used = parsed?;
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }

    /// Every request that will have no answer, when the connection is broken.
    pub fn abandon(&mut self) -> impl Iterator<Item = usize> {
        self.active = 0;
        std::mem::take(&mut self.streams).into_iter().flatten().map(|stream| stream.token)
    }

    /// Handles whole frames; returns how many bytes they were.
    fn parse(&mut self, input: &[u8], events: &mut Vec<Event>) -> Result<usize, Failure> {
        let mut at = 0;
        while let Some(head) = input.get(at..at + FRAME) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if length > LONGEST_BODY {
                return Err("a frame longer than was allowed".into());
            }
            let Some(payload) = input.get(at + FRAME..at + FRAME + length) else { break };
            let id = word(&head[5..]) & 0x7fff_ffff;
            self.frame(head[3], head[4], id, payload, events)?;
            at += FRAME + length;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Failure> {
        match kind {
            DATA => {
                self.unacknowledged += payload.len() as u32;
                if self.unacknowledged > WINDOW / 2 {
                    window_update(&mut self.output, self.unacknowledged);
                    self.unacknowledged = 0;
                }
                self.stream(id)?.length += payload.len();
                if flags & END_STREAM != 0 {
                    self.end(id, Err("the answer has no trailers".into()), events)?;
                }
            }
            HEADERS if flags & END_STREAM != 0 => {
                if flags & END_HEADERS == 0 {
                    return Err("trailers longer than a frame".into());
                }
                let length = self.stream(id)?.length;
                self.end(id, status(payload).map(|()| length), events)?;
            }
            HEADERS => drop(self.stream(id)?),
            // A server may reset a stream that it has answered to the end: that takes nothing back.
            RST_STREAM if payload.len() == 4 && self.stream(id).is_ok() => {
                self.end(id, Err(format!("stream reset by the server ({})", word(payload)).into()), events)?;
            }
            SETTINGS if flags & ACK == 0 => self.settings(payload),
            PING if flags & ACK == 0 && payload.len() == 8 => {
                frame_head(&mut self.output, 8, PING, ACK, 0);
                self.output.extend_from_slice(payload);
            }
            WINDOW_UPDATE if payload.len() == 4 && id == 0 => self.window += i64::from(word(payload) & 0x7fff_ffff),
            GOAWAY => return Err("the server says goodbye".into()),
            CONTINUATION => return Err("headers longer than a frame".into()),
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for entry in payload.chunks_exact(6) {
            let value = word(&entry[2..]);
            match u16::from_be_bytes([entry[0], entry[1]]) {
                MAX_CONCURRENT_STREAMS => self.most_active = value,
                INITIAL_WINDOW_SIZE => self.stream_window = i64::from(value),
                _ => {}
            }
        }
        // Without this setting there is no limit; until it is known, HTTP/2 advises 100.
        let named = payload.chunks_exact(6).any(|e| u16::from_be_bytes([e[0], e[1]]) == MAX_CONCURRENT_STREAMS);
        if !named && self.most_active == 100 {
            self.most_active = u32::MAX;
        }
        frame_head(&mut self.output, 0, SETTINGS, ACK, 0);
    }

    fn stream(&mut self, id: u32) -> Result<&mut Stream, Failure> {
        let known = id.checked_sub(self.oldest).and_then(|offset| self.streams.get_mut(offset as usize / 2));
        known.and_then(Option::as_mut).ok_or_else(|| "an answer to a request that was not sent".into())
    }

    fn end(&mut self, id: u32, result: Result<usize, Failure>, events: &mut Vec<Event>) -> Result<(), Failure> {
        let token = self.stream(id)?.token;
        self.streams[(id - self.oldest) as usize / 2] = None;
        while let Some(None) = self.streams.front() {
            self.streams.pop_front();
            self.oldest += 2;
        }
        self.active -= 1;
        events.push(Event { token, result });
        Ok(())
    }
}

/// The request's header block for the first request (each field put into the server's table) and for all later ones.
fn blocks(endpoint: &str, path: &str) -> (Vec<u8>, Vec<u8>) {
    // :method POST and :scheme http are in HPACK's static table, and so are the names with an index here.
    let (mut first, mut later) = (vec![0x83, 0x86], vec![0x83, 0x86]);
    let fields = [(4, ":path", path), (1, ":authority", endpoint), (31, "", "application/grpc"), (0, "te", "trailers")];
    for (number, (name_index, name, value)) in fields.into_iter().enumerate() {
        first.push(0x40 | name_index);
        if name_index == 0 {
            literal(&mut first, name);
        }
        literal(&mut first, value);
        // The newest entry of the dynamic table is 62.
        later.push(0x80 | (62 + fields.len() - 1 - number) as u8);
    }
    (first, later)
}

fn literal(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "a header of one length byte");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Finds `grpc-status` in a block without decoding it: its name in clear or coded, then its value.
fn status(block: &[u8]) -> Result<(), Failure> {
    let after = |name: &[u8], length: u8| {
        let at = block.windows(name.len() + 1).position(|window| window[0] == length && window[1..] == *name)?;
        block.get(at + 1 + name.len()..)
    };
    let value = after(b"grpc-status", 11).or_else(|| after(STATUS_CODED, 0x80 | STATUS_CODED.len() as u8));
    let Some((&length, rest)) = value.and_then(|value| value.split_first()) else {
        return Err("the answer has no grpc-status".into());
    };
    let Some(text) = rest.get(..usize::from(length & 0x7f)) else { return Err("a cut grpc-status".into()) };
    let code = if length & 0x80 == 0 { String::from_utf8_lossy(text).into_owned() } else { digits(text) };
    match code.as_str() {
        "0" => Ok(()),
        code => {
            Err(format!("code {code}{}", CODES.iter().find(|(c, _)| *c == code).map_or("", |(_, name)| name)).into())
        }
    }
}

const CODES: [(&str, &str); 8] = [
    ("3", " (invalid argument)"),
    ("4", " (deadline exceeded)"),
    ("8", " (resource exhausted)"),
    ("9", " (failed precondition)"),
    ("11", " (out of range)"),
    ("12", " (unimplemented)"),
    ("13", " (internal)"),
    ("14", " (unavailable)"),
];

/// Decimal digits out of HPACK's Huffman code: 0, 1, 2 have five bits, 3 to 9 have six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut out, mut rest) = (String::new(), &bits[..]);
    let number = |bits: &[u8]| bits.iter().fold(0, |sum, bit| sum << 1 | bit);
    while rest.len() >= 5 {
        let (digit, length) = match number(&rest[..5]) {
            short @ 0..=2 => (short, 5),
            _ if rest.len() >= 6 => (number(&rest[..6]).wrapping_sub(0b01_1001).wrapping_add(3), 6),
            _ => break,
        };
        if digit > 9 {
            break;
        }
        out.push((b'0' + digit) as char);
        rest = &rest[length..];
    }
    out
}

fn frame_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, id: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
}

fn window_update(out: &mut Vec<u8>, increment: u32) {
    frame_head(out, 4, WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&increment.to_be_bytes());
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

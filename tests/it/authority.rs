//! Endpoints of every shape: what the rewriter does to a client's bytes, and that a server behind it answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use axum::Router;
use lockstep::server::authority::Rewriter;
use lockstep::server::listen::{self, Listener, ServeOptions, SocketOptions};
use lockstep::server::workers::Workers;
use proptest::prelude::*;
use tokio::sync::watch;

use crate::util::http2::{self, *};

/// `:authority` in Huffman code.
const NAME_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const ENDPOINT: &[u8] = b"http://127.0.0.1:2379";
/// What `ENDPOINT` becomes.
const MENDED: &[u8] = b"XXXXXXXXXXXXXXXXXXXXX";

/// Of the connection or of its first stream.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    http2::frame(kind, flags, u32::from(kind != SETTINGS), payload)
}

/// An integer of RFC 7541, section 5.1, in the low `bits` of `first`.
fn integer(first: u8, bits: u8, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut out = vec![first | most as u8];
    value -= most;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn string(huffman: bool, bytes: &[u8]) -> Vec<u8> {
    [integer(u8::from(huffman) << 7, 7, bytes.len()), bytes.to_vec()].concat()
}

/// A literal field whose name is in a table.
fn literal(first: u8, bits: u8, index: usize, value: &[u8]) -> Vec<u8> {
    [integer(first, bits, index), string(false, value)].concat()
}

/// Every kind of representation, with `authority` as the value of each that is an authority's.
fn fields(authority: &[u8]) -> Vec<u8> {
    let long = authority.repeat(20);
    [
        integer(0x20, 5, 4096),
        vec![0x83, 0x86],
        literal(0x40, 6, 1, authority),
        literal(0x40, 6, 4, b"/etcdserverpb.KV/Range"),
        integer(0x80, 7, 300),
        literal(0x10, 4, 1, authority),
        literal(0x00, 4, 1, &long),
        literal(0x00, 4, 58, ENDPOINT),
        literal(0x40, 6, 1, b""),
        [vec![0x40], string(false, b":authority"), string(false, authority)].concat(),
        [vec![0x00], string(true, NAME_HUFFMAN), string(false, authority)].concat(),
        // No authorities: another name, the start of the name, more than it, the wrong coding, no name at all.
        [vec![0x40], string(false, b"grpc-timeout"), string(false, ENDPOINT)].concat(),
        [vec![0x40], string(false, b":author"), string(false, ENDPOINT)].concat(),
        [vec![0x40], string(false, b":authority2"), string(false, ENDPOINT)].concat(),
        [vec![0x40], string(true, b":authority"), string(false, ENDPOINT)].concat(),
        [vec![0x40], string(false, b""), string(false, ENDPOINT)].concat(),
        literal(0x40, 6, 200, ENDPOINT),
    ]
    .concat()
}

fn rewritten(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Rewriter::default().feed(&mut bytes);
    bytes
}

/// A connection's worth of frames, with `authority` where an authority is.
fn connection(authority: &[u8]) -> Vec<u8> {
    let block = fields(authority);
    let (left, right) = block.split_at(block.len() / 2);
    let (middle, right) = right.split_at(7);
    let priority = [0x80, 0, 0, 0, 0x41];
    let mut frames = vec![
        frame(SETTINGS, 0, &[0, 4, 0, 1, 0, 0]),
        frame(SETTINGS, 1, &[]),
        frame(HEADERS, END_HEADERS, &block),
        // What looks like a header block is only one in the right frame.
        frame(DATA, END_STREAM, &fields(ENDPOINT)),
        frame(HEADERS, END_HEADERS | PRIORITY, &[&priority, &block[..]].concat()),
        frame(HEADERS, END_HEADERS | PADDED, &[&[0], &block[..]].concat()),
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &[&[0], &priority[..], &block].concat()),
        frame(HEADERS, 0, left),
        frame(CONTINUATION, 0, middle),
        frame(CONTINUATION, 0, &[]),
        frame(CONTINUATION, END_HEADERS, right),
    ];
    // Padding that looks like an authority is left alone.
    let padding = literal(0x40, 6, 1, ENDPOINT);
    let padded = [&[padding.len() as u8], &priority[..], &block, &padding].concat();
    frames.push(frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded));
    frames.push(frame(HEADERS, END_HEADERS, &block));
    frames.concat()
}

#[test]
fn only_authorities_change() {
    assert_eq!(rewritten(&connection(ENDPOINT)), connection(MENDED));
    // In Huffman code the same letter is another byte.
    let coded = |value: u8| {
        let value = vec![value; 200];
        frame(HEADERS, END_HEADERS, &[vec![0x41], string(true, &value), vec![0x82]].concat())
    };
    assert_eq!(rewritten(&coded(0x9d)), coded(0xfc));
}

/// Bytes that no client sends: they pass on unchanged as far as they make no sense, and what follows the frame is
/// understood again where that is possible.
#[test]
fn hostile_bytes_pass() {
    let good = |authority| frame(HEADERS, END_HEADERS, &literal(0x40, 6, 1, authority));
    let endless = [0xff; 64];
    let hostile: &[(&str, Vec<u8>)] = &[
        ("an endless index", frame(HEADERS, END_HEADERS, &endless)),
        ("an endless name index", frame(HEADERS, END_HEADERS, &[&[0x7f], &endless[..]].concat())),
        ("an endless length", frame(HEADERS, END_HEADERS, &[&[0x41], &endless[..], ENDPOINT].concat())),
        ("the largest length", frame(HEADERS, END_HEADERS, &[0x42, 0x7f, 0xff, 0xff, 0xff, 0x7f, 1, 2])),
        ("a size update without end", frame(HEADERS, END_HEADERS, &[&[0x3f], &endless[..]].concat())),
        ("a name longer than the frame", frame(HEADERS, END_HEADERS, &[0x40, 0x7e, b':', b'a'])),
        ("a block cut inside an integer", frame(HEADERS, END_HEADERS, &[0x7f])),
        ("a block cut before a length", frame(HEADERS, END_HEADERS, &[0x41])),
        ("padding longer than the frame", frame(HEADERS, END_HEADERS | PADDED, &[255, 0x41, 1, b'/'])),
        ("no pad length", frame(HEADERS, END_HEADERS | PADDED, &[])),
        ("half a priority", frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &[0, 1, 2])),
        ("frames of unknown kinds", [frame(77, 0xff, ENDPOINT), frame(255, 0, &[])].concat()),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, &[])),
        ("flags that mean nothing there", frame(CONTINUATION, 0xff, &[0x83, 0x86])),
    ];
    for (what, bytes) in hostile {
        let sent = [&good(ENDPOINT), bytes, &good(ENDPOINT)[..]].concat();
        let expected = [&good(MENDED), bytes, &good(MENDED)[..]].concat();
        assert_eq!(rewritten(&sent), expected, "{what}");
    }
    // A value that goes on beyond its frame ends with it.
    let beyond = |byte| frame(HEADERS, END_HEADERS, &[0x41, 0x7e, byte, byte, byte]);
    assert_eq!(rewritten(&[beyond(b'/'), good(ENDPOINT)].concat()), [beyond(b'X'), good(MENDED)].concat());
}

proptest! {
    /// However the bytes are cut, the outcome is the same.
    #[test]
    fn cuts_do_not_matter(
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        random in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(1usize..90, 1..60),
    ) {
        let mut bytes = [connection(ENDPOINT), random].concat();
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = rewritten(&bytes);
        let mut rewriter = Rewriter::default();
        let (mut rest, mut cuts) = (&mut bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let cut = rest.len().min(*cuts.next().unwrap());
            let (piece, after) = rest.split_at_mut(cut);
            rewriter.feed(piece);
            rest = after;
        }
        prop_assert_eq!(bytes, whole);
    }
}

/// Two requests on one connection, as a Go client sends them: an authority that h2 would refuse, and then the same
/// fields by their indices in the dynamic table.
#[test]
fn a_server_takes_every_endpoint() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let url = lockstep::server::config::Url::parse("http://127.0.0.1:0").unwrap();
    let listener = Listener::bind(&url, SocketOptions::default()).unwrap();
    let address = listener.address().to_string();
    let options = ServeOptions {
        max_connections: 100,
        max_concurrent_streams: u32::MAX,
        keepalive_interval: Duration::from_secs(7_200),
        ping_min_time: Duration::from_secs(5),
        keepalive_timeout: Duration::from_secs(20),
        drain: Duration::from_millis(100),
    };
    let app = Router::new().route("/here", axum::routing::get(|| async { "found" }));
    let (_stop, stopped) = watch::channel(false);
    runtime.spawn(listen::serve(vec![listener], app, options, Workers::start(1).unwrap(), stopped));

    let authorities: &[(bool, &[u8])] = &[
        (false, b"http://127.0.0.1:2379"),
        (false, b"#initially=[http://127.0.0.1:2379;http://[::1]:2379]"),
        (false, b"%2Ftmp%2Fclient.sock"),
        (false, b"\xff not even text"),
        (true, &[0xff, 0xff, 0xff, 0xff]),
    ];
    for (huffman, authority) in authorities {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = [
            vec![0x82, 0x86],
            literal(0x40, 6, 4, b"/here"),
            [vec![0x41], string(*huffman, authority)].concat(),
            literal(0x40, 6, 58, b"etcdctl"),
        ];
        // All of it from the tables: the path, the authority and the agent from the dynamic one.
        let again = [2, 6, 64, 63, 62].map(|index| index | 0x80);
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(SETTINGS, 0, &[]));
        sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, &head.concat()));
        let mut second = frame(HEADERS, END_HEADERS | END_STREAM, &again);
        second[8] = 3;
        sent.extend(second);
        // In pieces, so that the authority comes in two.
        for piece in sent.chunks(70) {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut bodies = 0;
        while bodies < 2 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap_or_else(|e| panic!("{}: {e}", authority.escape_ascii()));
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).unwrap();
            match head[3] {
                DATA => bodies += usize::from(payload == b"found"),
                HEADERS => assert_eq!(payload[0], 0x88, "{}: status 200", authority.escape_ascii()),
                // RST_STREAM, GOAWAY
                3 | 7 => panic!("{}: refused with {payload:?}", authority.escape_ascii()),
                _ => {}
            }
        }
    }
}

//! The two stream framings: what is written is read back however the bytes are cut, and nonsense is an error, not a
//! crash.

use bytes::{Bytes, BytesMut};
use lockstep::proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use lockstep::server::peer::codec::{DecodeError, Decoder, Encoder, MessageDecoder, MsgAppV2Decoder, MsgAppV2Encoder};
use lockstep::server::peer::codec::{decode_message, link_heartbeat};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const LOCAL: u64 = 1;
const REMOTE: u64 = 2;
const LIMIT: usize = 1 << 20;

fn message_decoder() -> Decoder {
    Decoder::Message(MessageDecoder::new(LIMIT))
}

fn msgapp_decoder(limit: usize) -> Decoder {
    Decoder::MsgAppV2(MsgAppV2Decoder::new(LOCAL, REMOTE, limit))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (option::of(0..3i32), option::of(any::<u64>()), option::of(any::<u64>()), option::of(vec(any::<u8>(), 0..40)))
        .prop_map(|(kind, term, index, data)| Entry { r#type: kind, term, index, data: data.map(Bytes::from) })
}

fn any_message() -> impl Strategy<Value = Message> {
    let ids = (option::of(0..19i32), option::of(any::<u64>()), 1..u64::MAX, option::of(any::<u64>()));
    let log = (option::of(any::<u64>()), option::of(any::<u64>()), vec(any_entry(), 0..4), option::of(any::<u64>()));
    let rest = (
        option::of(any::<u64>()),
        option::of(any::<bool>()),
        option::of(any::<u64>()),
        option::of(vec(any::<u8>(), 0..40)),
    );
    (ids, log, rest).prop_map(|(ids, log, rest)| Message {
        r#type: ids.0,
        to: ids.1,
        from: Some(ids.2),
        term: ids.3,
        log_term: log.0,
        index: log.1,
        entries: log.2,
        commit: log.3,
        snapshot: rest.0.map(|index| Snapshot {
            data: None,
            metadata: Some(SnapshotMetadata { index: Some(index), ..Default::default() }),
        }),
        reject: rest.1,
        reject_hint: rest.2,
        context: rest.3.map(Bytes::from),
    })
}

/// A leader's appends: runs that follow one another, with new terms and jumps back in between.
fn appends() -> impl Strategy<Value = Vec<Message>> {
    let step = (0..10u8, 0..6u64, 0..3u64, vec(any::<u8>(), 0..30));
    vec(step, 1..30).prop_map(|steps| {
        let (mut term, mut index, mut log_term) = (1, 0, 0);
        let mut messages = Vec::new();
        for (what, count, back, data) in steps {
            match what {
                0 => {
                    messages.push(link_heartbeat());
                    continue;
                }
                1 => term += 1,
                2 => index -= back.min(index),
                _ => {}
            }
            let entry = |i| Entry {
                r#type: Some(0),
                term: Some(term),
                index: Some(index + i),
                data: Some(data.clone().into()),
            };
            let entries: Vec<_> = (1..=count).map(entry).collect();
            messages.push(Message {
                r#type: Some(MessageType::MsgApp as i32),
                to: Some(LOCAL),
                from: Some(REMOTE),
                term: Some(term),
                log_term: Some(log_term),
                index: Some(index),
                entries,
                commit: Some(index),
                ..Message::default()
            });
            index += count;
            log_term = term;
        }
        messages
    })
}

/// Feeds the bytes in pieces and collects what comes out.
fn read_in_pieces(mut decoder: Decoder, bytes: &[u8], pieces: &[usize]) -> Result<Vec<Message>, DecodeError> {
    let (mut input, mut messages, mut at) = (BytesMut::new(), Vec::new(), 0);
    let mut pieces = pieces.iter().copied().cycle();
    while at < bytes.len() {
        let end = (at + pieces.next().unwrap_or(bytes.len()).max(1)).min(bytes.len());
        input.extend_from_slice(&bytes[at..end]);
        at = end;
        while let Some(message) = decoder.decode(&mut input)? {
            messages.push(message);
        }
    }
    assert!(input.is_empty(), "{} bytes left over", input.len());
    Ok(messages)
}

fn write(mut encoder: Encoder, messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|message| encoder.encode(message, &mut bytes));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_the_message_framing(messages in vec(any_message(), 1..6), pieces in vec(1..200usize, 1..5)) {
        let bytes = write(Encoder::Message, &messages);
        prop_assert_eq!(read_in_pieces(message_decoder(), &bytes, &pieces).unwrap(), messages);
    }

    #[test]
    fn appends_survive_the_msgappv2_framing(messages in appends(), pieces in vec(1..200usize, 1..5)) {
        let bytes = write(Encoder::MsgAppV2(MsgAppV2Encoder::default()), &messages);
        prop_assert_eq!(read_in_pieces(msgapp_decoder(LIMIT), &bytes, &pieces).unwrap(), messages);
    }

    #[test]
    fn other_messages_survive_the_msgappv2_framing(mut messages in vec(any_message(), 1..6)) {
        // An append can take the short form, which keeps only what an append of this leader has.
        for message in messages.iter_mut().filter(|m| m.r#type() == MessageType::MsgApp) {
            message.set_type(MessageType::MsgAppResp);
        }
        let bytes = write(Encoder::MsgAppV2(MsgAppV2Encoder::default()), &messages);
        prop_assert_eq!(read_in_pieces(msgapp_decoder(LIMIT), &bytes, &[bytes.len()]).unwrap(), messages);
    }

    #[test]
    fn no_bytes_crash_a_decoder(bytes in vec(prop_oneof![Just(0u8), 0..4u8, any::<u8>()], 0..300)) {
        for mut decoder in [message_decoder(), msgapp_decoder(LIMIT)] {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
        }
    }
}

/// The frames as etcd documents them, byte for byte.
#[test]
fn msgappv2_frames_have_etcd_s_bytes() {
    let entry =
        |index| Entry { r#type: Some(0), term: Some(5), index: Some(index), data: Some(Bytes::from_static(b"x")) };
    let append = |index, entries: Vec<Entry>, commit| Message {
        r#type: Some(3),
        to: Some(LOCAL),
        from: Some(REMOTE),
        term: Some(5),
        log_term: Some(5),
        index: Some(index),
        entries,
        commit: Some(commit),
        ..Message::default()
    };
    let messages =
        [append(9, vec![entry(10)], 8), append(10, vec![entry(11)], 10), append(11, vec![], 11), link_heartbeat()];
    let bytes = write(Encoder::MsgAppV2(MsgAppV2Encoder::default()), &messages);
    let number = |n: u64| n.to_be_bytes().to_vec();
    let entry_bytes = |index: u8| vec![0x08, 0, 0x10, 5, 0x18, index, 0x22, 1, b'x'];
    let first =
        [vec![0x08, 3, 0x10, 1, 0x18, 2, 0x20, 5, 0x28, 5, 0x30, 9, 0x3a, 9], entry_bytes(10), vec![0x40, 8]].concat();
    let expected = [
        [vec![2], number(first.len() as u64), first].concat(),
        [vec![1], number(1), number(9), entry_bytes(11), number(10)].concat(),
        [vec![1], number(0), number(11)].concat(),
        vec![0],
    ];
    assert_eq!(&bytes[..], expected.concat());
}

/// What a decoder says to bytes that no peer should send.
#[test]
fn hostile_frames_are_refused() {
    let number = |n: u64| n.to_be_bytes().to_vec();
    // Half a million empty entries in one MiB: small on the wire, large in memory.
    let swarm = [0x3a, 0x00].repeat(LIMIT / 2 - 8);
    let framed_swarm = [number(swarm.len() as u64), swarm.clone()].concat();
    let cases: [(&str, Decoder, Vec<u8>, &str); 10] = [
        ("a length over the limit", message_decoder(), number(LIMIT as u64 + 1), "over the limit"),
        ("the largest length", message_decoder(), number(u64::MAX), "over the limit"),
        ("no message", message_decoder(), [number(3), vec![0xff; 3]].concat(), "no raft message"),
        ("a swarm of entries", message_decoder(), framed_swarm.clone(), "more than 16384 entries"),
        ("a swarm in an append", msgapp_decoder(LIMIT), [vec![2], framed_swarm].concat(), "more than 16384 entries"),
        ("an unknown type", msgapp_decoder(LIMIT), vec![3], "type 3 is unknown"),
        (
            "a count over the limit",
            msgapp_decoder(LIMIT),
            [vec![1], number(u64::MAX)].concat(),
            "more than 16384 entries",
        ),
        (
            "an entry over the limit",
            msgapp_decoder(LIMIT),
            [vec![1], number(1), number(u64::MAX)].concat(),
            "over the limit",
        ),
        (
            "entries over the limit together",
            msgapp_decoder(128),
            [vec![1], number(2), number(100), [0x22, 98].to_vec(), vec![0; 98], number(100)].concat(),
            "limit of 28",
        ),
        ("an append over the limit", msgapp_decoder(LIMIT), [vec![2], number(1 << 40)].concat(), "over the limit"),
    ];
    for (what, mut decoder, bytes, expected) in cases {
        let mut input = BytesMut::from(&bytes[..]);
        let error = decoder.decode(&mut input).expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    let error = decode_message(Bytes::from(swarm), LIMIT).expect_err("a swarm in a POST").to_string();
    assert!(error.contains("more than 16384 entries"), "{error}");
}

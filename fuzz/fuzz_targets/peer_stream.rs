//! Whatever bytes a peer writes into a stream, and however they are cut, the decoders say "more", a message, or an
//! error.
//!
//! The first byte picks the framing and the size of the pieces; a message that comes out must survive the way back and
//! forth.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use lockstep::server::peer::codec::{Decoder, Encoder, MessageDecoder, MsgAppV2Decoder, decode_message};
use prost::Message as _;

const LIMIT: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let mut decoder = match choice & 1 {
        0 => Decoder::Message(MessageDecoder::new(LIMIT)),
        _ => Decoder::MsgAppV2(MsgAppV2Decoder::new(1, 2, LIMIT)),
    };
    let mut input = BytesMut::new();
    for piece in bytes.chunks(usize::from(choice >> 1).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    let mut again = BytesMut::new();
                    Encoder::Message.encode(&message, &mut again);
                    let read = Decoder::Message(MessageDecoder::new(2 * LIMIT)).decode(&mut again);
                    assert_eq!(read.ok().flatten().as_ref(), Some(&message));
                }
                Err(_) => return,
            }
        }
    }
    if let Ok(message) = decode_message(bytes.to_vec().into(), LIMIT) {
        assert_eq!(decode_message(message.encode_to_vec().into(), 2 * LIMIT).ok(), Some(message));
    }
});

//! `--write-out=protobuf`: the answer's message as it was on the wire, without a line end.

use prost::Message;

pub fn message(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

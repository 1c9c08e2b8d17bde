//! A message's protobuf bytes as JSON, as jsonpb prints it for etcd: fields under the names of the `.proto` file and in
//! its order, 64-bit numbers as strings, bytes in base64, enums by name, nothing for what is zero.

use lockstep_proto::schema::{Field, Kind, Message};
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `None` when these are no such message: our own service wrote them, so that is a bug.
pub fn encode(message: &Message, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // What was met of each field, so that a field is printed in its place, and the elements of a list together.
    let mut met: Vec<Vec<Met>> = vec![Vec::new(); message.fields.len()];
    let mut rest = bytes;
    while rest.has_remaining() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        let Some(index) = message.fields.iter().position(|field| field.number == number) else {
            skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?;
            continue;
        };
        let field = &message.fields[index];
        match wire {
            WireType::Varint => met[index].push(Met::Number(decode_varint(&mut rest).ok()?)),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).ok()? as usize;
                let (mut value, after) = rest.split_at_checked(length)?;
                rest = after;
                if matches!(field.kind, Kind::Text | Kind::Bytes | Kind::Message(_)) {
                    met[index].push(Met::Bytes(value));
                } else {
                    while value.has_remaining() {
                        met[index].push(Met::Number(decode_varint(&mut value).ok()?));
                    }
                }
            }
            _ => return None,
        }
    }
    out.push(b'{');
    let mut first = true;
    for (field, values) in message.fields.iter().zip(met) {
        let Some(last) = values.last() else { continue };
        if !first {
            out.push(b',');
        }
        first = false;
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        if !field.repeated {
            value(field, last, out)?;
            continue;
        }
        for (at, one) in values.iter().enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            value(field, one, out)?;
        }
        out.push(b']');
    }
    out.push(b'}');
    Some(())
}

/// A value on the wire.
#[derive(Clone, Copy)]
pub(super) enum Met<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

pub(super) fn value(field: &Field, met: &Met<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (field.kind, *met) {
        (Kind::Message(message), Met::Bytes(bytes)) => encode(message, bytes, out)?,
        (Kind::Text, Met::Bytes(bytes)) => string(std::str::from_utf8(bytes).ok()?, out),
        (Kind::Bytes, Met::Bytes(bytes)) => base64(bytes, out),
        (Kind::Bool, Met::Number(number)) => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
        (Kind::Int32, Met::Number(number)) => out.extend_from_slice((number as i32).to_string().as_bytes()),
        (Kind::Uint32, Met::Number(number)) => out.extend_from_slice((number as u32).to_string().as_bytes()),
        (Kind::Int64, Met::Number(number)) => out.extend_from_slice(format!("\"{}\"", number as i64).as_bytes()),
        (Kind::Uint64, Met::Number(number)) => out.extend_from_slice(format!("\"{number}\"").as_bytes()),
        (Kind::Enum(values), Met::Number(number)) => {
            let number = number as i32;
            match values.values.iter().find(|(_, value)| *value == number) {
                Some((name, _)) => string(name, out),
                None => out.extend_from_slice(number.to_string().as_bytes()),
            }
        }
        _ => return None,
    }
    Some(())
}

/// A string as Go's `encoding/json` writes it, safe inside of HTML.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            }
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4 + 2);
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, &b| sum << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = BASE64[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
    out.push(b'"');
}

//! A long answer as JSON while its bytes come, a piece at a time: what [`super::encode`] prints, without the whole of
//! it in memory.
//!
//! It can be done because our own services write fields in the order of their numbers, and the messages that may be
//! long list them so. Only a value (a key, at most what a client could put) is ever held whole.

use lockstep_proto::schema::{Kind, Message};
use prost::bytes::{Buf, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_varint, skip_field};

use super::encode::{self, Met};

/// See the head of this file.
pub struct Printer {
    /// Messages inside of one another, the outermost first.
    open: Vec<Open>,
    /// Bytes that were not enough for a field.
    kept: BytesMut,
}

struct Open {
    message: &'static Message,
    left: u64,
    /// Where the field that was printed last is in the message, and whether its list is still open.
    last: Option<usize>,
    in_list: bool,
}

/// Why a field is not printed.
enum Stop {
    /// More bytes are needed.
    Later,
    /// These are no such message: our own service wrote them, so that is a bug.
    Malformed,
}

impl Printer {
    /// A message of so many bytes.
    pub fn new(message: &'static Message, bytes: u64, out: &mut Vec<u8>) -> Printer {
        out.push(b'{');
        Printer { open: vec![Open { message, left: bytes, last: None, in_list: false }], kept: BytesMut::new() }
    }

    /// Prints what the next bytes say; `None` when they make no sense.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(bytes);
        let outcome = loop {
            let mut rest = &kept[..];
            match self.field(&mut rest, out) {
                Ok(()) => {
                    let used = kept.len() - rest.len();
                    kept.advance(used);
                    if self.open.is_empty() {
                        break kept.is_empty().then_some(());
                    }
                }
                Err(Stop::Later) => break Some(()),
                Err(Stop::Malformed) => break None,
            }
        };
        self.kept = kept;
        outcome
    }

    /// Whether all of the message was printed.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// One field, the beginning of one that is a message, or the end of a message.
    fn field(&mut self, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Stop> {
        let open = self.open.last_mut().ok_or(Stop::Malformed)?;
        if open.left == 0 {
            out.extend_from_slice(if open.in_list { b"]}" } else { b"}" });
            self.open.pop();
            return Ok(());
        }
        let available = rest.len();
        let key = varint(rest)?;
        let wire = WireType::try_from(key & 7).map_err(|_| Stop::Malformed)?;
        let number = u32::try_from(key >> 3).map_err(|_| Stop::Malformed)?;
        let Some(index) = open.message.fields.iter().position(|field| field.number == number) else {
            skip_field(wire, number, rest, DecodeContext::default()).map_err(|_| Stop::Later)?;
            open.left = open.left.checked_sub((available - rest.len()) as u64).ok_or(Stop::Malformed)?;
            return Ok(());
        };
        let field = &open.message.fields[index];
        let met = match wire {
            WireType::Varint => Met::Number(varint(rest)?),
            WireType::LengthDelimited => {
                let length = varint(rest)?;
                if let Kind::Message(message) = field.kind {
                    let head = (available - rest.len()) as u64;
                    open.left =
                        head.checked_add(length).and_then(|n| open.left.checked_sub(n)).ok_or(Stop::Malformed)?;
                    open.name(index, out)?;
                    out.push(b'{');
                    self.open.push(Open { message, left: length, last: None, in_list: false });
                    return Ok(());
                }
                let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
                let (value, after) = rest.split_at_checked(length).ok_or(Stop::Later)?;
                *rest = after;
                Met::Bytes(value)
            }
            _ => return Err(Stop::Malformed),
        };
        open.left = open.left.checked_sub((available - rest.len()) as u64).ok_or(Stop::Malformed)?;
        open.name(index, out)?;
        encode::value(field, &met, out).ok_or(Stop::Malformed)
    }
}

impl Open {
    /// What comes before a field's value.
    fn name(&mut self, index: usize, out: &mut Vec<u8>) -> Result<(), Stop> {
        let field = &self.message.fields[index];
        match self.last {
            Some(last) if last == index && field.repeated => {
                out.push(b',');
                return Ok(());
            }
            Some(last) if last >= index => return Err(Stop::Malformed),
            Some(_) => out.extend_from_slice(if self.in_list { b"]," } else { b"," }),
            None => {}
        }
        self.last = Some(index);
        self.in_list = field.repeated;
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(if field.repeated { b"\":[" } else { b"\":" });
        Ok(())
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Stop> {
    const LONGEST: usize = 10;
    let enough = rest.len() >= LONGEST || rest.iter().any(|byte| byte & 0x80 == 0);
    if !enough {
        return Err(Stop::Later);
    }
    decode_varint(rest).map_err(|_| Stop::Malformed)
}

//! A request's JSON as the bytes of its protobuf message, by the rules and in the words of Go's jsonpb as etcd uses it.
//!
//! Unknown fields are passed over, the last of equal keys counts, both forms of a field's name are taken, numbers may
//! be quoted, `null` is nothing. The result goes to the service as any client's bytes do, so nothing that the services
//! check is checked here.

use lockstep_proto::schema::{Field, Kind, Message};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::quoted;
use super::scan;

/// Messages in messages; as deep as prost reads.
const MAX_MESSAGES: usize = 100;

/// `text` is one JSON value that [`scan`] has passed.
pub fn decode(message: &Message, text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let containers = Containers::of(text);
    let reader = Reader { text, containers: &containers };
    reader.message(message, (0, text.len()), &mut out, 0)?;
    Ok(out)
}

/// From where to where a value goes in the text, without white space around it.
type Span = (usize, usize);

/// Where each object and array ends, in the order in which they begin: a value is passed over without being read again,
/// however deep the nesting.
struct Containers(Vec<(u32, u32)>);

impl Containers {
    fn of(text: &[u8]) -> Containers {
        let mut all: Vec<(u32, u32)> = Vec::new();
        let mut open = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'{' | b'[' => {
                    open.push(all.len());
                    all.push((at as u32, 0));
                }
                b'}' | b']' => {
                    if let Some(index) = open.pop() {
                        all[index].1 = at as u32 + 1;
                    }
                }
                b'"' => at = end_of_string(text, at) - 1,
                _ => {}
            }
            at += 1;
        }
        Containers(all)
    }

    fn end(&self, start: usize) -> usize {
        match self.0.binary_search_by_key(&(start as u32), |(start, _)| *start) {
            Ok(index) => self.0[index].1 as usize,
            Err(_) => start + 1,
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    containers: &'a Containers,
}

impl Reader<'_> {
    fn message(&self, message: &Message, span: Span, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        let text = self.at(span);
        if text == b"null" {
            return Ok(());
        }
        if text.first() != Some(&b'{') {
            return Err(cannot(text, "map[string]json.RawMessage"));
        }
        if depth == MAX_MESSAGES {
            return Err("exceeded max depth".to_owned());
        }
        let mut values: Vec<(Option<Span>, Option<Span>)> = vec![(None, None); message.fields.len()];
        let mut at = self.skip_space(span.0 + 1);
        while self.text[at] == b'"' {
            let key_end = end_of_string(self.text, at);
            let key = unquote(&self.text[at..key_end]);
            // The colon is there: the text is valid.
            let start = self.skip_space(self.skip_space(key_end) + 1);
            let end = self.end_of_value(start);
            for (field, value) in message.fields.iter().zip(&mut values) {
                if field.name == key {
                    value.0 = Some((start, end));
                }
                if field.json_name == key {
                    value.1 = Some((start, end));
                }
            }
            at = self.skip_space(end);
            if self.text[at] == b',' {
                at = self.skip_space(at + 1);
            }
        }
        for (field, (by_name, by_json_name)) in message.fields.iter().zip(values) {
            let Some(span) = by_json_name.or(by_name) else { continue };
            if self.at(span) != b"null" {
                self.field(field, span, out, depth)?;
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, span: Span, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        if !field.repeated {
            return self.value(field, span, out, depth);
        }
        let text = self.at(span);
        if text.first() != Some(&b'[') {
            return Err(cannot(text, "[]json.RawMessage"));
        }
        self.elements(span, |element| self.value(field, element, out, depth))
    }

    /// Visits what is in an array.
    fn elements(&self, span: Span, mut visit: impl FnMut(Span) -> Result<(), String>) -> Result<(), String> {
        let mut at = self.skip_space(span.0 + 1);
        while self.text[at] != b']' {
            let end = self.end_of_value(at);
            visit((at, end))?;
            at = self.skip_space(end);
            if self.text[at] == b',' {
                at = self.skip_space(at + 1);
            }
        }
        Ok(())
    }

    fn value(&self, field: &Field, span: Span, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        let text = self.at(span);
        // proto3: a zero is not sent, but where its being there says something.
        let always = field.repeated || field.in_oneof;
        let mut varint = |value: u64| {
            if value != 0 || always {
                encode_key(field.number, WireType::Varint, out);
                encode_varint(value, out);
            }
        };
        match field.kind {
            Kind::Bool => varint(match text {
                b"true" => 1,
                b"false" | b"null" => 0,
                _ => return Err(cannot(text, "bool")),
            }),
            // Negative numbers are sent as 64 bits, whatever their type.
            Kind::Int32 => varint(i64::from(number::<i32>(trim_quotes(text), "int32")?) as u64),
            Kind::Int64 => varint(number::<i64>(trim_quotes(text), "int64")? as u64),
            Kind::Uint32 => varint(u64::from(number::<u32>(trim_quotes(text), "uint32")?)),
            Kind::Uint64 => varint(number::<u64>(trim_quotes(text), "uint64")?),
            Kind::Enum(values) if text[0] == b'"' => {
                let named = values.values.iter().find(|(name, _)| name.as_bytes() == trim_quotes(text));
                let Some((_, value)) = named else {
                    let text = String::from_utf8_lossy(text);
                    return Err(format!("unknown value {} for enum {}", quoted(&text), values.name));
                };
                varint(i64::from(*value) as u64);
            }
            Kind::Enum(_) => varint(i64::from(number::<i32>(text, "protoreflect.EnumNumber")?) as u64),
            Kind::Text => {
                let value = match text[0] {
                    b'"' => unquote(text),
                    _ if text == b"null" => String::new(),
                    _ => return Err(cannot(text, "string")),
                };
                bytes(field.number, value.as_bytes(), always, out);
            }
            Kind::Bytes => {
                let value = match text[0] {
                    b'"' => base64(unquote(text).as_bytes())?,
                    b'[' => self.bytes_of_numbers(span)?,
                    _ if text == b"null" => Vec::new(),
                    _ => return Err(cannot(text, "[]uint8")),
                };
                bytes(field.number, &value, always, out);
            }
            Kind::Message(message) => {
                let mut inner = Vec::new();
                self.message(message, span, &mut inner, depth + 1)?;
                bytes(field.number, &inner, true, out);
            }
        }
        Ok(())
    }

    /// Go reads an array of small numbers into bytes, too. It says what was wrong first, after reading all.
    fn bytes_of_numbers(&self, span: Span) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        self.elements(span, |element| {
            all.push(number::<u8>(self.at(element), "uint8")?);
            Ok(())
        })?;
        Ok(all)
    }

    fn at(&self, (start, end): Span) -> &[u8] {
        &self.text[start..end]
    }

    fn skip_space(&self, mut at: usize) -> usize {
        while matches!(self.text[at], b' ' | b'\t' | b'\r' | b'\n') {
            at += 1;
        }
        at
    }

    fn end_of_value(&self, start: usize) -> usize {
        match self.text[start] {
            b'{' | b'[' => self.containers.end(start),
            b'"' => end_of_string(self.text, start),
            _ => {
                let rest = &self.text[start..];
                let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
                start + rest.iter().position(ends).unwrap_or(rest.len())
            }
        }
    }
}

/// Behind the quote that closes the string at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn bytes(number: u32, value: &[u8], always: bool, out: &mut Vec<u8>) {
    if !value.is_empty() || always {
        encode_key(number, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

/// What stands between quotes, with no look at what it is: as jsonpb has it, `"1"` is 1 and `"x"` no JSON.
fn trim_quotes(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

trait Number: Sized + Default {
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl Number for $kind {
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
numbers!(i32, i64, u8, u32, u64);

fn number<T: Number>(text: &[u8], go_type: &str) -> Result<T, String> {
    scan::check(text)?;
    let text = text.trim_ascii();
    match text[0] {
        b'-' | b'0'..=b'9' => {
            // JSON has no sign but the minus; Go's unsigned types do not even take that of -0, as Rust's.
            let text = String::from_utf8_lossy(text);
            T::parse(&text)
                .ok_or_else(|| format!("json: cannot unmarshal number {text} into Go value of type {go_type}"))
        }
        _ if text == b"null" => Ok(T::default()),
        _ => Err(cannot(text, go_type)),
    }
}

fn cannot(text: &[u8], go_type: &str) -> String {
    let what = match text[0] {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        _ => "number",
    };
    format!("json: cannot unmarshal {what} into Go value of type {go_type}")
}

/// A string without its quotes and escapes. What is no Unicode becomes U+FFFD, as in Go.
fn unquote(text: &[u8]) -> String {
    let text = trim_quotes(text);
    if !text.contains(&b'\\') {
        return lossy(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let plain = match text[at + 1] {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = hex(text, at + 2);
                at += 6;
                let mut read = char::from_u32(first);
                if (0xd800..0xdc00).contains(&first) && text[at..].starts_with(b"\\u") {
                    let second = hex(text, at + 2);
                    if (0xdc00..0xe000).contains(&second) {
                        at += 6;
                        read = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
                    }
                }
                let read = read.unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(read.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(plain);
        at += 2;
    }
    lossy(&out)
}

fn hex(text: &[u8], at: usize) -> u32 {
    text[at..at + 4].iter().fold(0, |sum, &b| sum * 16 + char::from(b).to_digit(16).unwrap_or(0))
}

/// One U+FFFD a byte that is no UTF-8.
fn lossy(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| out.push(char::REPLACEMENT_CHARACTER));
    }
    out
}

/// Padded standard base64; line ends are passed over, and the bits that are left over may be any, as in Go.
fn base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let corrupt = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut at = 0;
    let skip_line_ends = |mut at: usize| {
        while at < text.len() && matches!(text[at], b'\n' | b'\r') {
            at += 1;
        }
        at
    };
    loop {
        let mut group = 0u32;
        let mut have = 0;
        while have < 4 {
            let Some(&byte) = text.get(at) else {
                return if have == 0 { Ok(out) } else { corrupt(at - have) };
            };
            at += 1;
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'\n' | b'\r' => continue,
                b'=' if have >= 2 => {
                    if have == 2 {
                        at = skip_line_ends(at);
                        match text.get(at) {
                            None => return corrupt(text.len()),
                            Some(b'=') => at += 1,
                            Some(_) => return corrupt(at - 1),
                        }
                    }
                    at = skip_line_ends(at);
                    if at < text.len() {
                        return corrupt(at);
                    }
                    group <<= 6 * (4 - have);
                    out.extend_from_slice(&group.to_be_bytes()[1..have]);
                    return Ok(out);
                }
                _ => return corrupt(at - 1),
            };
            group = group << 6 | u32::from(digit);
            have += 1;
        }
        out.extend_from_slice(&group.to_be_bytes()[1..]);
    }
}

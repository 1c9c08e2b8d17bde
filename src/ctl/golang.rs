//! Go's text forms, as etcdctl shows and reads them: quoted strings, base64, durations, numbers, byte sizes, times.
//!
//! Scripts parse these, so they are the same byte for byte. Nothing here does I/O.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::calendar::Civil;

/// `%q`: a double-quoted string that keeps printable Unicode and escapes the rest.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(&mut out, c));
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out.push('"');
    out
}

fn quote_char(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\'' | ' ' => out.push(c),
        // After a letter a combining mark is printable: only what is not comes out longer.
        _ if format!("a{c}").escape_debug().count() == 2 => out.push(c),
        _ if c < ' ' => out.push_str(&format!("\\x{:02x}", c as u32)),
        _ if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
        _ => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// The content of one Go string literal, quotes included; `None` where Go says "invalid syntax".
pub fn unquote(literal: &[u8]) -> Option<Vec<u8>> {
    let (&mark, body) = literal.split_first()?;
    let (&end, body) = body.split_last()?;
    if mark != end {
        return None;
    }
    match mark {
        b'`' => (!body.contains(&b'`')).then(|| body.iter().copied().filter(|&b| b != b'\r').collect()),
        b'"' => unescape(body),
        _ => None,
    }
}

fn unescape(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    while let Some((&byte, rest)) = body.split_first() {
        body = rest;
        if byte == b'"' || byte == b'\n' {
            return None;
        }
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, rest) = body.split_first()?;
        body = rest;
        match escape {
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            b'\\' | b'"' => out.push(escape),
            b'x' => out.push(u8::try_from(digits(&mut body, 2, 16)?).ok()?),
            b'0'..=b'7' => {
                let rest = digits(&mut body, 2, 8)?;
                out.push(u8::try_from(u32::from(escape - b'0') * 64 + rest).ok()?);
            }
            b'u' | b'U' => {
                let code = digits(&mut body, if escape == b'u' { 4 } else { 8 }, 16)?;
                out.extend(char::from_u32(code)?.encode_utf8(&mut [0; 4]).bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

fn digits(body: &mut &[u8], count: usize, radix: u32) -> Option<u32> {
    let text = std::str::from_utf8(body.get(..count)?).ok()?;
    *body = &body[count..];
    if text.starts_with('+') { None } else { u32::from_str_radix(text, radix).ok() }
}

/// Standard base64 with padding: how Go's JSON shows bytes.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let index = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= chunk.len() { ALPHABET[index] as char } else { '=' });
        }
    }
    out
}

/// A string in Go's JSON: `<`, `>`, `&`, U+2028 and U+2029 escaped, what is not UTF-8 replaced.
pub fn json_string(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                    out.push_str(&format!("\\u{:04x}", c as u32));
                }
                _ => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|_| out.push_str("\\ufffd"));
    }
    out.push('"');
    out
}

/// A duration in nanoseconds as Go prints it: `1h30m0s`, `7.012124ms`, `0s`.
pub fn format_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let abs = ns.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() || unit == 1 { format!("{}", value / unit) } else { format!("{}.{digits}", value / unit) }
    };
    match abs {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{abs}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(abs, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(abs, 1_000_000)),
        _ => {
            let minutes = abs / 60_000_000_000;
            let seconds = fraction(abs % 60_000_000_000, 1_000_000_000);
            match minutes {
                0 => format!("{sign}{seconds}s"),
                1..60 => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{}h{}m{seconds}s", minutes / 60, minutes % 60),
            }
        }
    }
}

/// A lease's id as it is shown: sixteen hexadecimal places, of which a sign takes one.
pub fn hex16(id: i64) -> String {
    if id < 0 { format!("-{:015x}", id.unsigned_abs()) } else { format!("{id:016x}") }
}

/// Go's `time.ParseDuration`, in nanoseconds, with Go's error texts.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, tail) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {}", quote(text.as_bytes()))),
            _ => {
                let (unit, text) = (quote(unit.as_bytes()), quote(text.as_bytes()));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let fraction = &fraction[..fraction.len().min(18)];
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
        total = whole
            .checked_mul(scale)
            .and_then(|ns| ns.checked_add(parts * scale / 10i128.pow(fraction.len() as u32)))
            .and_then(|ns| ns.checked_add(total))
            .filter(|ns| *ns <= i128::from(i64::MAX))
            .ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(if negative { -(total as i64) } else { total as i64 })
}

/// Go's `strconv.ParseInt` into 64 bits; base 0 reads the base from the prefix. The error is Go's text.
pub fn parse_int(text: &[u8], base: u32) -> Result<i64, String> {
    let fail = |what: &str| Err(format!("strconv.ParseInt: parsing {}: {what}", quote(text)));
    let Ok(plain) = std::str::from_utf8(text) else { return fail("invalid syntax") };
    let (sign, mut digits) = match plain.as_bytes().first() {
        Some(b'-') => (-1i128, &plain[1..]),
        Some(b'+') => (1, &plain[1..]),
        _ => (1, plain),
    };
    let mut radix = base;
    let cleaned;
    if base == 0 {
        let lower = digits.to_ascii_lowercase();
        (radix, digits) = match lower.get(..2) {
            Some("0x") => (16, &digits[2..]),
            Some("0b") => (2, &digits[2..]),
            Some("0o") => (8, &digits[2..]),
            _ if lower.starts_with('0') && lower.len() > 1 => (8, &digits[1..]),
            _ => (10, digits),
        };
        // An underscore may stand between digits, or between the prefix and the first digit.
        if digits.contains('_') {
            let prefixed = digits.len() < lower.len();
            if digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && !prefixed) {
                return fail("invalid syntax");
            }
            cleaned = digits.replace('_', "");
            digits = &cleaned;
        }
    }
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return fail("invalid syntax");
    }
    match i128::from_str_radix(digits, radix).ok().and_then(|value| i64::try_from(sign * value).ok()) {
        Some(value) => Ok(value),
        None => fail("value out of range"),
    }
}

/// Go's `strconv.ParseUint` of a hexadecimal id. The error is Go's text.
pub fn parse_id(text: &[u8]) -> Result<u64, String> {
    let fail = |what: &str| Err(format!("strconv.ParseUint: parsing {}: {what}", quote(text)));
    match std::str::from_utf8(text) {
        Ok(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).or_else(|_| fail("value out of range"))
        }
        _ => fail("invalid syntax"),
    }
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &[u8]) -> Result<bool, String> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text))),
    }
}

/// A size in SI units: `29 kB`, `1.5 MB`.
pub fn human_bytes(size: u64) -> String {
    if size < 10 {
        return format!("{size} B");
    }
    let mut exponent = 0;
    let mut scale = 1u64;
    while exponent < 6 && size / scale >= 1000 {
        scale *= 1000;
        exponent += 1;
    }
    let unit = ["B", "kB", "MB", "GB", "TB", "PB", "EB"][exponent];
    let value = (size as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Now, as zap's console of the client library writes it: `2026-11-22T08:03:23.005Z`.
pub fn now_iso8601() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}Z", Civil::of_unix(since.as_secs() as i64), since.subsec_millis())
}

/// Now, as zap's production logger writes it: seconds since the epoch with a fraction.
pub fn now_epoch() -> String {
    format!("{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

//! What a flag's text means: Go's notions of a boolean, a number and a duration, with Go's two words of complaint.

use super::flags::Kind;
use super::urls;

const PARSE_ERROR: &str = "parse error";
const OUT_OF_RANGE: &str = "value out of range";

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(PARSE_ERROR.to_string()),
    }
}

/// Go's `strconv.ParseUint(text, 0, 64)`: `0x`, `0o`, `0b` and a leading zero choose the base, underscores separate.
pub fn parse_u64(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    // An underscore stands between digits, or between the base's prefix and a digit.
    let prefixed = base != 10;
    if digits.ends_with('_') || digits.contains("__") || (!prefixed && digits.starts_with('_')) {
        return Err(PARSE_ERROR.to_string());
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(PARSE_ERROR.to_string());
    }
    u64::from_str_radix(&digits, base).map_err(|_| OUT_OF_RANGE.to_string())
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
pub fn parse_i64(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_u64(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| OUT_OF_RANGE.to_string())
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn parse_duration_ns(text: &str) -> Result<i64, String> {
    let bad = || PARSE_ERROR.to_string();
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (digits, after) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits.len() > 40 {
            return Err(bad());
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_ns: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return Err(bad()),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        total = whole.checked_mul(unit_ns).and_then(|ns| total.checked_add(ns)).ok_or_else(bad)?;
        let mut scale = unit_ns;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| bad())
}

/// Whether `text` is a value of this kind; the error is the part Go prints after the flag's name.
pub fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Bool => parse_bool(text).map(|_| ()),
        Kind::Uint => parse_u64(text).map(|_| ()),
        Kind::Uint32 => match parse_u64(text)? {
            n if n <= u64::from(u32::MAX) => Ok(()),
            _ => Err(OUT_OF_RANGE.to_string()),
        },
        Kind::Int => parse_i64(text).map(|_| ()),
        Kind::Duration => parse_duration_ns(text).map(|_| ()),
        Kind::Urls => urls::parse_list(text).map(|_| ()),
        Kind::Origins if text == "*" => Ok(()),
        // No origin at all is not a list of none.
        Kind::Origins if text.is_empty() => urls::Url::parse(text).map(|_| ()),
        Kind::Origins => urls::parse_list(text).map(|_| ()),
        Kind::OneOf(values) if values.contains(&text) => Ok(()),
        Kind::OneOf(_) => Err("invalid value".to_string()),
        Kind::Text | Kind::List | Kind::Ignored => Ok(()),
    }
}

/// Whether two texts that both passed [`check`] mean the same.
pub fn same(kind: Kind, a: &str, b: &str) -> bool {
    match kind {
        Kind::Bool => parse_bool(a) == parse_bool(b),
        Kind::Uint | Kind::Uint32 => parse_u64(a) == parse_u64(b),
        Kind::Int => parse_i64(a) == parse_i64(b),
        Kind::Duration => parse_duration_ns(a) == parse_duration_ns(b),
        Kind::Urls | Kind::Origins => a == b || (a != "*" && b != "*" && urls::parse_list(a) == urls::parse_list(b)),
        Kind::Text | Kind::List | Kind::OneOf(_) | Kind::Ignored => a == b,
    }
}

//! JSON's syntax as Go's `encoding/json` reads it, byte by byte, with its words for what is wrong.
//!
//! A scanner may be fed in any pieces, holds a byte a level of nesting and nothing of the text, and never recurses:
//! what a client claims or nests costs no memory here.

/// Go refuses deeper nesting.
const MAX_DEPTH: usize = 10_000;

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing has begun yet: white space.
    Before,
    Inside,
    /// This byte is the last of the value.
    Ends,
    /// The value ended before this byte.
    Ended,
}

#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    stack: Vec<Within>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Key,
    Member,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    KeyOrEnd,
    Key,
    AfterValue,
    Text,
    Escape,
    /// Hexadecimal digits that are still to come.
    Hex(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// `true`, `false` or `null`, and how much of it was there.
    Word(&'static str, u8),
    Done,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner { state: State::Begin, stack: Vec::new() }
    }
}

impl Scanner {
    pub fn step(&mut self, byte: u8) -> Result<Step, String> {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.state = match self.state {
            State::Begin if space => return Ok(Step::Before),
            State::Value | State::ValueOrEnd | State::KeyOrEnd | State::Key if space => return Ok(Step::Inside),
            State::ValueOrEnd if byte == b']' => return Ok(self.pop()),
            State::KeyOrEnd if byte == b'}' => return Ok(self.pop()),
            State::Begin | State::Value | State::ValueOrEnd => self.begin(byte)?,
            State::KeyOrEnd | State::Key if byte == b'"' => State::Text,
            State::KeyOrEnd | State::Key => return Err(wrong(byte, "looking for beginning of object key string")),
            State::AfterValue if space => return Ok(Step::Inside),
            State::AfterValue => return self.after_value(byte),
            State::Text => match byte {
                b'"' => return Ok(self.value_ends()),
                b'\\' => State::Escape,
                0..0x20 => return Err(wrong(byte, "in string literal")),
                _ => State::Text,
            },
            State::Escape => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => State::Text,
                b'u' => State::Hex(4),
                _ => return Err(wrong(byte, "in string escape code")),
            },
            State::Hex(left) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    State::Text
                } else {
                    State::Hex(left - 1)
                }
            }
            State::Hex(_) => return Err(wrong(byte, "in \\u hexadecimal character escape")),
            State::Minus => match byte {
                b'0' => State::Zero,
                b'1'..=b'9' => State::Digits,
                _ => return Err(wrong(byte, "in numeric literal")),
            },
            State::Digits if byte.is_ascii_digit() => State::Digits,
            State::Digits | State::Zero if byte == b'.' => State::Point,
            State::Digits | State::Zero | State::Fraction if matches!(byte, b'e' | b'E') => State::Exponent,
            State::Point if byte.is_ascii_digit() => State::Fraction,
            State::Point => return Err(wrong(byte, "after decimal point in numeric literal")),
            State::Fraction if byte.is_ascii_digit() => State::Fraction,
            State::Exponent if matches!(byte, b'+' | b'-') => State::ExponentSign,
            State::Exponent | State::ExponentSign if byte.is_ascii_digit() => State::ExponentDigits,
            State::Exponent | State::ExponentSign => {
                return Err(wrong(byte, "in exponent of numeric literal"));
            }
            State::ExponentDigits if byte.is_ascii_digit() => State::ExponentDigits,
            // A number ends where something else begins.
            State::Zero | State::Digits | State::Fraction | State::ExponentDigits => {
                if self.value_ends() == Step::Ends {
                    return Ok(Step::Ended);
                }
                return if space { Ok(Step::Inside) } else { self.after_value(byte) };
            }
            State::Word(word, seen) => {
                let expected = word.as_bytes()[usize::from(seen)];
                if byte != expected {
                    let expected = char::from(expected);
                    return Err(wrong(byte, &format!("in literal {word} (expecting '{expected}')")));
                }
                if usize::from(seen) + 1 == word.len() {
                    return Ok(self.value_ends());
                }
                State::Word(word, seen + 1)
            }
            State::Done => return Ok(Step::Ended),
        };
        Ok(Step::Inside)
    }

    /// Whether the text may end here; `None` when nothing but white space was there.
    pub fn end(&mut self) -> Option<bool> {
        match self.state {
            State::Begin => None,
            State::Done => Some(true),
            State::Zero | State::Digits | State::Fraction | State::ExponentDigits => Some(self.stack.is_empty()),
            _ => Some(false),
        }
    }

    fn begin(&mut self, byte: u8) -> Result<State, String> {
        Ok(match byte {
            b'{' => self.push(byte, Within::Key, State::KeyOrEnd)?,
            b'[' => self.push(byte, Within::Array, State::ValueOrEnd)?,
            b'"' => State::Text,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Word("true", 1),
            b'f' => State::Word("false", 1),
            b'n' => State::Word("null", 1),
            _ => return Err(wrong(byte, "looking for beginning of value")),
        })
    }

    fn push(&mut self, byte: u8, within: Within, then: State) -> Result<State, String> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(wrong(byte, "exceeded max depth"));
        }
        self.stack.push(within);
        Ok(then)
    }

    fn pop(&mut self) -> Step {
        self.stack.pop();
        self.value_ends()
    }

    fn value_ends(&mut self) -> Step {
        self.state = if self.stack.is_empty() { State::Done } else { State::AfterValue };
        if self.stack.is_empty() { Step::Ends } else { Step::Inside }
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, String> {
        let Some(within) = self.stack.last_mut() else { return Ok(Step::Ended) };
        self.state = match (*within, byte) {
            (Within::Key, b':') => {
                *within = Within::Member;
                State::Value
            }
            (Within::Member, b',') => {
                *within = Within::Key;
                State::Key
            }
            (Within::Array, b',') => State::Value,
            (Within::Member, b'}') | (Within::Array, b']') => return Ok(self.pop()),
            (Within::Key, _) => return Err(wrong(byte, "after object key")),
            (Within::Member, _) => return Err(wrong(byte, "after object key:value pair")),
            (Within::Array, _) => return Err(wrong(byte, "after array element")),
        };
        Ok(Step::Inside)
    }
}

/// The whole text is one value, as `json.Unmarshal` demands.
pub fn check(text: &[u8]) -> Result<(), String> {
    let mut scanner = Scanner::default();
    for &byte in text {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        if scanner.step(byte)? == Step::Ended && !space {
            return Err(wrong(byte, "after top-level value"));
        }
    }
    if scanner.end() == Some(true) {
        return Ok(());
    }
    // As in Go, where the end counts as a space: in the middle of a number or a word that is what is wrong.
    scanner.step(b' ')?;
    Err("unexpected end of JSON input".to_owned())
}

/// Go names a byte as the character of that number, quoted.
fn wrong(byte: u8, context: &str) -> String {
    let named = match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        _ => super::quoted(&char::from(byte).to_string()).trim_matches('"').to_owned(),
    };
    format!("invalid character '{named}' {context}")
}

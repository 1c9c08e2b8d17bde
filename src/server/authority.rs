//! Makes every HTTP/2 `:authority` one that h2 takes. Bytes in, bytes out: no socket, no buffer, no error.
//!
//! gRPC's Go clients send as `:authority` whatever they were given as an endpoint: etcdctl 3.4 sends
//! `http://127.0.0.1:2379`, etcdctl 3.5 `#initially=[http://127.0.0.1:2379]`. Go's servers take any text; h2 resets the
//! stream with PROTOCOL_ERROR and has no setting for it. Nothing behind h2 reads the authority, so this walks what the
//! client sends on its way in and overwrites the authority's bytes with as many `X`.
//!
//! **Why the length stays.** `X` is one byte on the wire both raw and in Huffman code (RFC 7541, appendix B: 0xfc), so
//! neither the string's length, nor its Huffman bit, nor the frame's length changes: the bytes are overwritten where
//! they lie, a connection needs no memory for them, and they may arrive in any pieces.
//!
//! **Why the decoder's dynamic table stays right.** Names, values and indices are never interpreted, and each entry
//! stays in its place. A raw value has the size it had. A Huffman-coded one decodes to as many characters as it has
//! bytes, which is no more than before, as encoders use the code only where it saves something; so h2 evicts no entry
//! that the client still counts on. (A client that codes against its own interest, or that inserts a value larger than
//! its whole table, may see its own later requests refused.)
//!
//! Hostile bytes are h2's to refuse: whatever looks malformed here passes on unchanged. So does an empty authority.

/// `X`, raw and in Huffman code.
const FILL_RAW: u8 = b'X';
const FILL_HUFFMAN: u8 = 0xfc;

/// `:authority` spelled out, raw and in Huffman code; most clients send its index in the static table instead.
const NAME_RAW: &[u8] = b":authority";
const NAME_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const STATIC_INDEX: u32 = 1;

pub const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u8 = 5;

/// What one connection's client sends, from the end of the HTTP/2 preface on.
#[derive(Clone, Debug, Default)]
pub struct Rewriter {
    head: [u8; FRAME_HEAD_BYTES],
    /// How much of `head` is there; when it is full, the payload is under way.
    head_bytes: usize,
    /// What is still to come of the payload, padding included.
    left: usize,
    /// The pad length and the priority, which come before the header block.
    prefix: u8,
    padding: usize,
    block: Block,
}

impl Rewriter {
    /// Takes the next bytes of the stream, in pieces of any size, and overwrites what has to be.
    pub fn feed(&mut self, bytes: &mut [u8]) {
        self.feed_and_tell(bytes, |_| {});
    }

    /// The same, and tells of each frame as soon as its head is there.
    pub fn feed_and_tell(&mut self, mut bytes: &mut [u8], mut tell: impl FnMut(&FrameHead)) {
        while !bytes.is_empty() {
            let taken = if self.head_bytes < FRAME_HEAD_BYTES {
                self.take_head(bytes, &mut tell)
            } else {
                self.take_payload(bytes)
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn take_head(&mut self, bytes: &[u8], tell: &mut impl FnMut(&FrameHead)) -> usize {
        let taken = bytes.len().min(FRAME_HEAD_BYTES - self.head_bytes);
        self.head[self.head_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        self.head_bytes += taken;
        if self.head_bytes == FRAME_HEAD_BYTES {
            let [high, middle, low, kind, flags, ..] = self.head;
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            // CONTINUATION has neither.
            self.prefix = if kind == HEADERS { flag(flags, PADDED) + priority_bytes(flags) } else { 0 };
            self.padding = 0;
            tell(&FrameHead::of(&self.head));
            self.end_frame_when_done();
        }
        taken
    }

    fn take_payload(&mut self, bytes: &mut [u8]) -> usize {
        let [_, _, _, kind, flags, ..] = self.head;
        let taken = if !matches!(kind, HEADERS | CONTINUATION) {
            bytes.len().min(self.left)
        } else if self.prefix > 0 {
            if self.prefix > priority_bytes(flags) {
                self.padding = usize::from(bytes[0]);
            }
            self.prefix -= 1;
            1
        } else if let fragment @ 1.. = self.left.saturating_sub(self.padding) {
            let taken = bytes.len().min(fragment);
            self.block.feed(&mut bytes[..taken]);
            taken
        } else {
            bytes.len().min(self.left)
        };
        self.left -= taken;
        self.end_frame_when_done();
        taken
    }

    fn end_frame_when_done(&mut self) {
        if self.left == 0 {
            self.head_bytes = 0;
            let [_, _, _, kind, flags, ..] = self.head;
            if matches!(kind, HEADERS | CONTINUATION) && flag(flags, END_HEADERS) == 1 {
                self.block = Block::Start;
            }
        }
    }
}

/// What the first bytes of a frame say.
#[derive(Clone, Copy, Debug)]
pub struct FrameHead {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHead {
    pub fn of(bytes: &[u8; FRAME_HEAD_BYTES]) -> FrameHead {
        let [high, middle, low, kind, flags, a, b, c, d] = *bytes;
        FrameHead {
            length: u32::from_be_bytes([0, high, middle, low]) as usize,
            kind,
            flags,
            // The highest bit is reserved.
            stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
        }
    }
}

fn flag(flags: u8, flag: u8) -> u8 {
    u8::from(flags & flag != 0)
}

fn priority_bytes(flags: u8) -> u8 {
    PRIORITY_BYTES * flag(flags, PRIORITY)
}

/// Where in a header block the next byte is. A block may be cut into frames, and each of them into pieces, anywhere.
#[derive(Clone, Copy, Debug, Default)]
enum Block {
    /// A representation begins.
    #[default]
    Start,
    /// An integer that did not fit its first byte goes on.
    Integer {
        value: u32,
        shift: u8,
        then: Then,
    },
    /// A string's length begins.
    Length(Text),
    Bytes {
        left: u32,
        text: Text,
    },
    /// Malformed: the rest of the block is left alone.
    Lost,
}

/// What an integer means.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The index of a whole field, or the table's new size.
    Nothing,
    NameIndex,
    Length(Text, Coding),
}

/// Which string.
#[derive(Clone, Copy, Debug)]
enum Text {
    /// A name spelled out; `Some` of how many bytes were `:authority`'s so far.
    Name(Option<(u8, Coding)>),
    Authority(Coding),
    OtherValue,
}

#[derive(Clone, Copy, Debug)]
enum Coding {
    Raw,
    Huffman,
}

impl Block {
    fn feed(&mut self, mut bytes: &mut [u8]) {
        while let Some(&byte) = bytes.first() {
            let mut taken = 1;
            *self = match *self {
                Block::Start => start(byte),
                Block::Integer { value, shift, then } => go_on(byte, value, shift, then),
                Block::Length(text) => {
                    let coding = if byte & 0x80 == 0 { Coding::Raw } else { Coding::Huffman };
                    integer(byte, 7, Then::Length(text, coding))
                }
                Block::Bytes { left, text } => {
                    taken = bytes.len().min(left as usize);
                    let text = text.over(&mut bytes[..taken]);
                    // `taken` is at most `left`.
                    bytes_left(left - taken as u32, text)
                }
                Block::Lost => return,
            };
            bytes = &mut bytes[taken..];
        }
    }
}

/// RFC 7541, section 6: the first byte of a representation.
fn start(byte: u8) -> Block {
    match byte {
        0x80.. => integer(byte, 7, Then::Nothing),
        0x40.. => integer(byte, 6, Then::NameIndex),
        0x20.. => integer(byte, 5, Then::Nothing),
        _ => integer(byte, 4, Then::NameIndex),
    }
}

/// RFC 7541, section 5.1: an integer's first byte, of which the low `bits` belong to it.
fn integer(byte: u8, bits: u8, then: Then) -> Block {
    let most = (1 << bits) - 1;
    let value = u32::from(byte) & most;
    if value == most { Block::Integer { value, shift: 0, then } } else { then.with(value) }
}

fn go_on(byte: u8, value: u32, shift: u8, then: Then) -> Block {
    // 28 bits are more than any frame holds, and the sum cannot overflow.
    if shift > 21 {
        return Block::Lost;
    }
    let value = value + (u32::from(byte & 0x7f) << shift);
    if byte & 0x80 == 0 { then.with(value) } else { Block::Integer { value, shift: shift + 7, then } }
}

fn bytes_left(left: u32, text: Text) -> Block {
    match (left, text) {
        (1.., _) => Block::Bytes { left, text },
        (0, Text::Name(seen)) => Block::Length(match seen {
            Some((seen, coding)) if usize::from(seen) == spelled(coding).len() => Text::AUTHORITY,
            _ => Text::OtherValue,
        }),
        (0, _) => Block::Start,
    }
}

fn spelled(coding: Coding) -> &'static [u8] {
    match coding {
        Coding::Raw => NAME_RAW,
        Coding::Huffman => NAME_HUFFMAN,
    }
}

impl Then {
    fn with(self, value: u32) -> Block {
        match self {
            Then::Nothing => Block::Start,
            Then::NameIndex => Block::Length(match value {
                0 => Text::Name(None),
                STATIC_INDEX => Text::AUTHORITY,
                _ => Text::OtherValue,
            }),
            Then::Length(text, coding) => bytes_left(value, text.coded(coding)),
        }
    }
}

impl Text {
    /// Until its length says how it is coded.
    const AUTHORITY: Text = Text::Authority(Coding::Raw);

    fn coded(self, coding: Coding) -> Text {
        match self {
            Text::Name(_) => Text::Name(Some((0, coding))),
            Text::Authority(_) => Text::Authority(coding),
            Text::OtherValue => Text::OtherValue,
        }
    }

    /// Passes over the next bytes of the string.
    fn over(self, bytes: &mut [u8]) -> Text {
        match self {
            Text::Name(Some((seen, coding))) => {
                let seen = usize::from(seen);
                let expected = &spelled(coding)[seen..];
                // Both names are far shorter than 256 bytes.
                Text::Name(expected.starts_with(bytes).then_some(((seen + bytes.len()) as u8, coding)))
            }
            Text::Authority(Coding::Raw) => {
                bytes.fill(FILL_RAW);
                self
            }
            Text::Authority(Coding::Huffman) => {
                bytes.fill(FILL_HUFFMAN);
                self
            }
            Text::Name(None) | Text::OtherValue => self,
        }
    }
}

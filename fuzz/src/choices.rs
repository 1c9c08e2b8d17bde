//! Bytes as decisions. When they are used up, every further answer is the first one, so that a target comes to an end.

/// What is left of the fuzzer's bytes.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    pub fn one_in(&mut self, n: u8) -> bool {
        self.below(n) == n - 1
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    pub fn number(&mut self) -> i64 {
        i64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Some bytes, with their length in front: two bytes of it.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()])).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// A key of few, so that requests meet.
    pub fn key(&mut self) -> Vec<u8> {
        let choice = self.byte();
        match choice >> 6 {
            0 => vec![b'a' + choice % 4],
            1 => vec![b'a' + choice % 4, b'a' + choice / 4 % 4],
            2 => vec![b'a' + choice % 4, 0xff],
            _ => self.one_of::<&[u8]>(&[b"", b"\0", b"\xff", b"a\0", b"\xff\xff\xff", b"aaa"]).to_vec(),
        }
    }
}

//! Whatever bytes a client sends, the rewriter takes them, in any pieces, with the same outcome, and touches no frame's
//! head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep::server::authority::Rewriter;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let mut whole = bytes.to_vec();
    Rewriter::default().feed(&mut whole);
    let mut pieces = bytes.to_vec();
    let mut rewriter = Rewriter::default();
    for piece in pieces.chunks_mut(usize::from(choice).max(1)) {
        rewriter.feed(piece);
    }
    assert_eq!(whole, pieces);
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 9) {
        assert_eq!(head, &whole[at..at + 9]);
        let end = at + 9 + usize::from(head[0]) * 65_536 + usize::from(head[1]) * 256 + usize::from(head[2]);
        if !matches!(head[3], 1 | 9) {
            assert_eq!(bytes.get(at..end), whole.get(at..end));
        }
        at = end;
    }
});

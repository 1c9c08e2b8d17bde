//! Whatever a client sends as JSON, the gateway takes it or refuses it; what it takes is a message that prost reads,
//! and what it prints of that message it takes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep::server::http::gateway::{decode, encode, scan};
use lockstep_proto::etcdserverpb::{RangeRequest, TxnRequest, WatchRequest};
use lockstep_proto::schema::{ETCDSERVERPB_RANGEREQUEST, ETCDSERVERPB_TXNREQUEST, ETCDSERVERPB_WATCHREQUEST};
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, json)) = data.split_first() else { return };
    if scan::check(json).is_err() {
        assert!(serde_json::from_slice::<serde_json::Value>(json).is_err());
        return;
    }
    let message = match choice % 3 {
        0 => &ETCDSERVERPB_RANGEREQUEST,
        1 => &ETCDSERVERPB_TXNREQUEST,
        _ => &ETCDSERVERPB_WATCHREQUEST,
    };
    let Ok(bytes) = decode::decode(message, json.trim_ascii()) else { return };
    match choice % 3 {
        0 => drop(RangeRequest::decode(&*bytes).expect("a message")),
        1 => drop(TxnRequest::decode(&*bytes).expect("a message")),
        _ => drop(WatchRequest::decode(&*bytes).expect("a message")),
    }
    let mut printed = Vec::new();
    encode::encode(message, &bytes, &mut printed).expect("what was read can be printed");
    scan::check(&printed).expect("what is printed is JSON");
    assert_eq!(decode::decode(message, &printed).expect("and is read again"), bytes);
});

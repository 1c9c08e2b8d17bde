//! The default format: keys and values on a line each, lists as comma-separated lines.

use lockstep_proto::etcdserverpb::response_op::Response;
use lockstep_proto::etcdserverpb::{
    AlarmResponse, AlarmType, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseTimeToLiveResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
};
use lockstep_proto::mvccpb::KeyValue;

use super::{Health, Printer, Rows};
use crate::ctl::golang::hex16;
use crate::ctl::watch::Watched;

pub fn range(printer: &Printer, response: &RangeResponse) -> Vec<u8> {
    let mut out = Vec::new();
    response.kvs.iter().for_each(|kv| pair(printer, &mut out, kv));
    out
}

pub fn put(printer: &Printer, response: &PutResponse) -> Vec<u8> {
    let mut out = b"OK\n".to_vec();
    response.prev_kv.iter().for_each(|kv| pair(printer, &mut out, kv));
    out
}

pub fn delete_range(printer: &Printer, response: &DeleteRangeResponse) -> Vec<u8> {
    let mut out = format!("{}\n", response.deleted).into_bytes();
    response.prev_kvs.iter().for_each(|kv| pair(printer, &mut out, kv));
    out
}

pub fn txn(printer: &Printer, response: &TxnResponse) -> Vec<u8> {
    let mut out = if response.succeeded { b"SUCCESS\n".to_vec() } else { b"FAILURE\n".to_vec() };
    for answer in &response.responses {
        out.push(b'\n');
        match &answer.response {
            Some(Response::ResponseRange(range_response)) => out.extend(range(printer, range_response)),
            Some(Response::ResponsePut(put_response)) => out.extend(put(printer, put_response)),
            Some(Response::ResponseDeleteRange(deleted)) => out.extend(delete_range(printer, deleted)),
            Some(Response::ResponseTxn(nested)) => out.extend(txn(printer, nested)),
            None => out.extend(b"unexpected response\n"),
        }
    }
    out
}

pub fn watch(printer: &Printer, watched: &Watched) -> Vec<u8> {
    let mut out = Vec::new();
    for event in &watched.events {
        out.extend(format!("{}\n", event.r#type().as_str_name()).bytes());
        event.prev_kv.iter().chain(&event.kv).for_each(|kv| pair(printer, &mut out, kv));
    }
    out
}

pub fn lease_grant(response: &LeaseGrantResponse) -> Vec<u8> {
    format!("lease {} granted with TTL({}s)\n", hex16(response.id), response.ttl).into()
}

pub fn lease_revoke(id: i64) -> Vec<u8> {
    format!("lease {} revoked\n", hex16(id)).into()
}

pub fn lease_keep_alive(response: &LeaseKeepAliveResponse) -> Vec<u8> {
    format!("lease {} keepalived with TTL({})\n", hex16(response.id), response.ttl).into()
}

pub fn lease_time_to_live(response: &LeaseTimeToLiveResponse, keys: bool) -> Vec<u8> {
    let (id, granted, left) = (hex16(response.id), response.granted_ttl, response.ttl);
    if granted == 0 && left == -1 {
        return format!("lease {id} already expired\n").into();
    }
    let mut out = format!("lease {id} granted with TTL({granted}s), remaining({left}s)").into_bytes();
    if keys {
        out.extend(b", attached keys([");
        out.extend(response.keys.join(&b' '));
        out.extend(b"])");
    }
    out.push(b'\n');
    out
}

pub fn leases(response: &LeaseLeasesResponse) -> Vec<u8> {
    let ids = response.leases.iter().map(|lease| hex16(lease.id) + "\n");
    format!("found {} leases\n{}", response.leases.len(), ids.collect::<String>()).into()
}

pub fn member(id: u64, done: &str, header: &Option<ResponseHeader>) -> String {
    let cluster = header.unwrap_or_default().cluster_id;
    format!("Member {id:16x} {done} cluster {cluster:16x}\n")
}

/// As Go shows a message in text: only what is not zero, each with a space behind it.
pub fn alarms(response: &AlarmResponse) -> Vec<u8> {
    let mut out = String::new();
    for alarm in &response.alarms {
        if alarm.member_id != 0 {
            out.push_str(&format!("memberID:{} ", alarm.member_id));
        }
        if alarm.alarm != 0 {
            out.push_str(&format!("alarm:{} ", alarm_name(alarm.alarm)));
        }
        out.push('\n');
    }
    out.into()
}

pub fn alarm_name(alarm: i32) -> String {
    AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |known| known.as_str_name().to_string())
}

pub fn rows(rows: &Rows) -> Vec<u8> {
    rows.iter().flat_map(|row| (row.join(", ") + "\n").into_bytes()).collect()
}

/// What goes to standard output, and what to standard error.
pub fn health(list: &[Health]) -> (Vec<u8>, Vec<u8>) {
    let (mut well, mut ill) = (String::new(), String::new());
    for Health { endpoint, took, error, .. } in list {
        if error.is_empty() {
            well.push_str(&format!("{endpoint} is healthy: successfully committed proposal: took = {took}\n"));
        } else {
            ill.push_str(&format!("{endpoint} is unhealthy: failed to commit proposal: {error}\n"));
        }
    }
    (well.into(), ill.into())
}

fn pair(printer: &Printer, out: &mut Vec<u8>, kv: &KeyValue) {
    let mut line = |bytes: &[u8]| {
        if printer.hex {
            bytes.iter().for_each(|byte| out.extend(format!("\\x{byte:02x}").bytes()));
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    };
    if !printer.value_only {
        line(&kv.key);
    }
    line(&kv.value);
}

//! The data of the picture as JSON, compact: columns of numbers, differences instead of times, and each line of the
//! trace once.
//!
//! `model.js` reads it. Lanes are places in `members`; `null` is "to the end" or "not reached".
//!
//! ```text
//! members     [id, …]                                           kinds, roles   [name, …]
//! messages    from, to, kind, sent - the sent before, delay (-1: lost), line - the line before;  flat, by sent
//! texts       {nth message: its text}, for those whose trace line does not hold it
//! states      lane, role, term, commit, applied, at - the at before, line - the line before;     flat, by at
//! lives       [lane, from, to|null, ended by, line]             faults         [from, to, [lane], kind, text, line]
//! operations  [number, client, lane, from, to, whether it stays open, text, done|read|refused|unknown, answer, line]
//! lines       the trace; a line that was left out for size is ""
//! verdict     {word, named: [[operation, mark]]}                focus          [from, to]
//! delay       what a message takes, mostly
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{focus, mark, push};
use crate::history::Outcome;
use crate::report::Report;
use crate::timeline::{Arrow, Bar, Life, RoleChange, Span, Timeline};

/// Of a trace longer than this, lines that nothing in the picture points at are left out, the earliest first.
const LINES_BYTES: usize = 4_500_000;

pub fn json(scenario_name: &str, report: &Report, timeline: &Timeline) -> String {
    let members = members(timeline);
    let lane = |id: u64| members.binary_search(&id).expect("every member has a lane");
    let kinds = names(timeline.messages.iter().map(|arrow| arrow.kind));
    let roles = names(timeline.roles.iter().map(|change| change.role));
    let place = |names: &[&str], name: &str| names.iter().position(|n| *n == name).expect("every name is listed");

    let mut out = String::with_capacity(LINES_BYTES);
    out.push_str("{\"name\":");
    string(&mut out, scenario_name);
    push(&mut out, format_args!(",\"end\":{}", timeline.end_us));
    push(&mut out, format_args!(",\"core\":{},\"rest\":{}", number(timeline.core_us), number(timeline.rest_us)));
    let (from, to) = focus(report);
    push(
        &mut out,
        format_args!(
            ",\"focus\":[{from},{to}],\"delay\":{},\"verdict\":{{\"word\":\"{}\",\"named\":",
            usual_delay_us(timeline),
            report.verdict.word()
        ),
    );
    let named = timeline.operations.iter().filter_map(|span| Some((span.number, mark(report, span)?)));
    list(&mut out, named, |out, (number, mark)| push(out, format_args!("[{number},\"{mark}\"]")));
    out.push_str("},\"members\":");
    list(&mut out, &members, |out, id| push(out, format_args!("{id}")));
    out.push_str(",\"kinds\":");
    list(&mut out, &kinds, |out, name| string(out, name));
    out.push_str(",\"roles\":");
    list(&mut out, &roles, |out, name| string(out, name));

    let arrows = sorted(&timeline.messages, |arrow: &Arrow| (arrow.sent_us, arrow.line));
    out.push_str(",\"messages\":");
    let mut before = (0, 0);
    list(&mut out, &arrows, |out, arrow| {
        let took = arrow.arrived_us.map_or(-1, |at| difference(at, arrow.sent_us));
        let kind = place(&kinds, arrow.kind);
        let (at, line) = (difference(arrow.sent_us, before.0), difference(arrow.line, before.1));
        push(out, format_args!("{},{},{kind},{at},{took},{line}", lane(arrow.from), lane(arrow.to)));
        before = (arrow.sent_us, arrow.line);
    });
    out.push_str(",\"texts\":{");
    let is_untold = |arrow: &Arrow| !told(timeline, arrow.line).contains(&arrow.text);
    let untold = arrows.iter().enumerate().filter(|(_, arrow)| is_untold(arrow));
    separated(&mut out, untold, |out, (nth, arrow)| {
        push(out, format_args!("\"{nth}\":"));
        string(out, &arrow.text);
    });
    out.push_str("},\"states\":");
    let mut before = (0, 0);
    list(&mut out, sorted(&timeline.roles, |change: &RoleChange| (change.at_us, change.line)), |out, change| {
        let RoleChange { member, role, term, commit, applied, .. } = change;
        let (at, line) = (difference(change.at_us, before.0), difference(change.line, before.1));
        let (lane, role) = (lane(*member), place(&roles, role));
        push(out, format_args!("{lane},{role},{term},{commit},{applied},{at},{line}"));
        before = (change.at_us, change.line);
    });
    out.push_str(",\"lives\":");
    list(&mut out, sorted(&timeline.lives, |life: &Life| (life.from_us, life.line)), |out, life| {
        push(out, format_args!("[{},{},{},", lane(life.member), life.from_us, number(life.to_us)));
        string(out, if life.to_us.is_some() { &life.ended_by } else { "" });
        push(out, format_args!(",{}]", life.line));
    });
    out.push_str(",\"faults\":");
    list(&mut out, faults(timeline), |out, fault| {
        push(out, format_args!("[{},{},", fault.from_us, fault.to_us));
        list(out, &fault.members, |out, id| push(out, format_args!("{}", lane(*id))));
        out.push(',');
        string(out, fault.kind);
        out.push(',');
        string(out, &fault.text);
        push(out, format_args!(",{}]", fault.line));
    });
    out.push_str(",\"operations\":");
    let ends = ends(timeline);
    list(&mut out, sorted(&timeline.operations, |span: &Span| (span.from_us, span.number)), |out, span| {
        let Span { number: nth, client, member, from_us, to_us, .. } = span;
        push(out, format_args!("[{nth},{client},{},{from_us},{},{},", lane(*member), ends[nth], to_us.is_none()));
        string(out, &span.operation.to_string());
        push(out, format_args!(",\"{}\",", outcome_word(span.outcome.as_ref())));
        string(out, &span.outcome.as_ref().map_or("open".into(), Outcome::to_string));
        push(out, format_args!(",{}]", span.line));
    });
    out.push_str(",\"lines\":");
    let left_out = left_out(timeline);
    list(&mut out, (1..).zip(&timeline.lines), |out, (nth, line)| {
        string(out, if left_out.contains(&nth) { "" } else { line.trim() });
    });
    out.push('}');
    out
}

/// In the order of the page: the table's rows and the script's list are numbered alike.
pub fn faults(timeline: &Timeline) -> Vec<&Bar> {
    sorted(&timeline.faults, |fault: &Bar| (fault.from_us, fault.line))
}

/// All that anything happened to: those that the run began with, and whoever else is named.
pub fn members(timeline: &Timeline) -> Vec<u64> {
    let mut ids: BTreeSet<u64> = (1..=timeline.members).collect();
    ids.extend(timeline.roles.iter().map(|change| change.member));
    ids.extend(timeline.lives.iter().map(|life| life.member));
    ids.extend(timeline.messages.iter().flat_map(|arrow| [arrow.from, arrow.to]));
    ids.extend(timeline.faults.iter().flat_map(|fault| fault.members.iter().copied()));
    ids.extend(timeline.operations.iter().map(|span| span.member));
    ids.into_iter().collect()
}

/// Until when an operation is drawn. One that nobody answered stays open for ever, but its client gave up at the latest
/// when it asked for something else.
pub fn ends(timeline: &Timeline) -> BTreeMap<u64, u64> {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for span in sorted(&timeline.operations, |span: &Span| (span.from_us, span.number)).into_iter().rev() {
        let next_us = next.insert(span.client, span.from_us).unwrap_or(timeline.end_us);
        ends.insert(span.number, span.to_us.unwrap_or(next_us.max(span.from_us)));
    }
    ends
}

/// A message without an arrival that is younger than this at the end of the run may still have been on its way.
pub fn usual_delay_us(timeline: &Timeline) -> u64 {
    let mut delays: Vec<u64> =
        timeline.messages.iter().filter_map(|arrow| Some(arrow.arrived_us?.saturating_sub(arrow.sent_us))).collect();
    delays.sort_unstable();
    delays.get(delays.len() / 2).copied().unwrap_or(1_000)
}

/// Colour and legend of an operation.
pub fn outcome_word(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Done { .. } | Outcome::Told { .. }) => "done",
        Some(Outcome::Read { .. }) => "read",
        Some(Outcome::Refused { .. }) => "refused",
        Some(Outcome::Unknown { .. }) | None => "unknown",
    }
}

pub fn sorted<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_by_key(|item| key(item));
    items
}

fn told(timeline: &Timeline, line: u64) -> &str {
    let nth = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
    nth.and_then(|nth| timeline.lines.get(nth)).map_or("", String::as_str)
}

/// Numbers of the lines that the file has no room for.
fn left_out(timeline: &Timeline) -> BTreeSet<u64> {
    let mut surplus = timeline.lines.iter().map(String::len).sum::<usize>().saturating_sub(LINES_BYTES);
    if surplus == 0 {
        return BTreeSet::new();
    }
    let mut needed: BTreeSet<u64> = timeline.messages.iter().map(|arrow| arrow.line).collect();
    needed.extend(timeline.roles.iter().map(|change| change.line));
    needed.extend(timeline.lives.iter().map(|life| life.line));
    needed.extend(timeline.faults.iter().map(|fault| fault.line));
    needed.extend(timeline.operations.iter().map(|span| span.line));
    let free = (1..).zip(&timeline.lines).filter(|(nth, _)| !needed.contains(nth));
    let leave = free.take_while(|(_, line)| {
        let is_too_much = surplus > 0;
        surplus = surplus.saturating_sub(line.len());
        is_too_much
    });
    leave.map(|(nth, _)| nth).collect()
}

fn names(all: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn number(value: Option<u64>) -> String {
    value.map_or("null".into(), |value| value.to_string())
}

fn difference(a: u64, b: u64) -> i64 {
    a.cast_signed().wrapping_sub(b.cast_signed())
}

fn list<T>(out: &mut String, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut String, T)) {
    out.push('[');
    separated(out, items, write);
    out.push(']');
}

fn separated<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    for (nth, item) in items.into_iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

/// A JSON string that is harmless inside a `<script>` element: nothing in it begins a tag, a comment or an entity.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '&' | '\u{2028}' | '\u{2029}' => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c if c.is_control() => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

//! A run for a terminal: one line an event that matters, a column a member.
//!
//! ```text
//!     1.250000  *3/41   .       x       .       .       2 crash
//! ```
//!
//! The member that a line is about is shown in full (what it is, term, commit index), the others by their symbol alone,
//! so that the eye follows the changes. What is quiet (a commit, one of many answered operations) has no line.

use std::collections::BTreeMap;

use super::{data, mark, push};
use crate::fault::print_time;
use crate::report::{Report, Verdict};
use crate::timeline::{Life, Span, Timeline};

const COLUMNS: usize = 120;
/// The last events before the end of the run, or before its failure.
const EVENTS: usize = 60;
const TIME: usize = 14;
/// With so few operations each has a line; with more, those that went well have none.
const FEW_OPERATIONS: usize = 20;
/// What an event's words have at least, however many members there are.
const LEAST_WORDS: usize = 30;

const LEGEND: &str =
    "* leader  ? candidate  ~ pre-candidate  . follower  z paused  x down; then term/commit of whom it is about";

/// Something that happened, before it is drawn.
struct Event {
    at_us: u64,
    line: u64,
    /// Whom it is about.
    members: Vec<u64>,
    change: Change,
    words: String,
}

enum Change {
    None,
    State {
        symbol: char,
        term: u64,
        commit: u64,
    },
    /// The commit index moved: nothing to tell, but something to know.
    Quiet {
        symbol: char,
        term: u64,
        commit: u64,
    },
    Up,
    Down,
    Paused,
    Resumed,
}

#[derive(Clone, Copy, Default)]
struct Member {
    is_up: bool,
    /// How many pauses hold it.
    pauses: u64,
    symbol: Option<char>,
    term: u64,
    commit: u64,
}

/// At most 120 columns wide; ends with the verdict and its story.
pub fn text(report: &Report) -> String {
    let nothing = Timeline::default();
    let timeline = report.timeline.as_ref().unwrap_or(&nothing);
    let members = data::members(timeline);
    let rows = rows(report, timeline, &members);
    let skipped = rows.len().saturating_sub(EVENTS);

    let widest = rows.iter().flat_map(|(cells, _)| cells.iter().map(|cell| width(cell))).max().unwrap_or(0).max(3) + 2;
    let most = (COLUMNS - TIME - LEAST_WORDS).checked_div(members.len()).unwrap_or(0);
    let column = widest.min(most).max(2);
    let mut out = String::new();
    push(&mut out, format_args!("{LEGEND}\n\n"));
    let head: Vec<String> = members.iter().map(|id| pad(&id.to_string(), column)).collect();
    push_line(&mut out, &format!("{}{}event", pad("        time", TIME), head.concat()));
    if skipped > 0 {
        push_line(&mut out, &format!("{}({skipped} earlier events are not shown)", pad("         ...", TIME)));
    }
    for (cells, event) in &rows[skipped..] {
        let cells: Vec<String> = cells.iter().map(|cell| pad(cell, column)).collect();
        let time = format!("{:>5}.{:06}", event.at_us / 1_000_000, event.at_us % 1_000_000);
        push_line(&mut out, &format!("{}{}{}", pad(&time, TIME), cells.concat(), event.words));
    }
    out.push('\n');
    out.push_str(&ending(report, timeline));
    out
}

/// Every event that is shown, with the members as they are after it.
fn rows(report: &Report, timeline: &Timeline, members: &[u64]) -> Vec<(Vec<String>, Event)> {
    let mut events = states(timeline);
    lives(timeline, &mut events);
    faults(timeline, &mut events);
    operations(report, timeline, &mut events);
    for (at_us, words) in [(timeline.core_us, "liveness phase: the core alone"), (timeline.rest_us, "all healed: rest")]
    {
        events.extend(at_us.map(|at_us| event(at_us, 0, Vec::new(), Change::None, format!("-- {words} --"))));
    }
    // Stable: what happens at one time keeps the order of the trace, and phases come first.
    events.sort_by_key(|event| (event.at_us, event.line));

    let mut states: BTreeMap<u64, Member> = members.iter().map(|id| (*id, Member::default())).collect();
    let mut rows = Vec::new();
    for event in events {
        let mut is_news = !matches!(event.change, Change::Quiet { .. });
        for id in &event.members {
            let member = states.get_mut(id).expect("every member has a lane");
            match event.change {
                Change::None => {}
                Change::State { symbol, term, commit } | Change::Quiet { symbol, term, commit } => {
                    // A member's first state says nothing that its boot did not, unless it is more than a follower.
                    is_news &= member.symbol.is_some() || symbol != '.';
                    (member.symbol, member.term, member.commit) = (Some(symbol), term, commit);
                }
                Change::Up => {
                    // All boot at the beginning.
                    is_news = event.at_us > 0;
                    *member = Member { is_up: true, ..Member::default() };
                }
                Change::Down => *member = Member::default(),
                Change::Paused => member.pauses += 1,
                Change::Resumed => member.pauses = member.pauses.saturating_sub(1),
            }
        }
        if is_news {
            let cells = members.iter().map(|id| states[id].cell(event.members.contains(id))).collect();
            rows.push((cells, event));
        }
    }
    rows
}

impl Member {
    fn cell(&self, is_full: bool) -> String {
        let symbol = match self {
            Member { is_up: false, .. } => 'x',
            Member { pauses: 1.., .. } => 'z',
            Member { symbol, .. } => symbol.unwrap_or('.'),
        };
        match is_full && self.is_up && self.symbol.is_some() {
            true => format!("{symbol}{}/{}", self.term, self.commit),
            false => symbol.to_string(),
        }
    }
}

fn event(at_us: u64, line: u64, members: Vec<u64>, change: Change, words: String) -> Event {
    Event { at_us, line, members, change, words }
}

fn states(timeline: &Timeline) -> Vec<Event> {
    let mut last: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
    let mut events = Vec::new();
    for state in data::sorted(&timeline.roles, |state| (state.at_us, state.line)) {
        let (id, term, commit) = (state.member, state.term, state.commit);
        let (symbol, word) = match state.role {
            "StateLeader" => ('*', "leads"),
            "StateCandidate" => ('?', "is a candidate"),
            "StatePreCandidate" => ('~', "asks for pre-votes"),
            _ => ('.', "follows"),
        };
        let is_same = last.insert(id, (state.role, term)) == Some((state.role, term));
        let change = match is_same {
            true => Change::Quiet { symbol, term, commit },
            false => Change::State { symbol, term, commit },
        };
        let words = format!("{id} {word}, term {term}");
        events.push(event(state.at_us, state.line, vec![id], change, words));
    }
    events
}

fn lives(timeline: &Timeline, events: &mut Vec<Event>) {
    for life in data::sorted(&timeline.lives, |life: &Life| (life.from_us, life.line)) {
        let words = format!("{} boots", life.member);
        // Before the first state of that life, which has the same time and a line of its own.
        events.push(event(life.from_us, 0, vec![life.member], Change::Up, words));
        if let Some(to_us) = life.to_us {
            let words = format!("{} is down: {}", life.member, life.ended_by);
            events.push(event(to_us, life.line, vec![life.member], Change::Down, words));
        }
    }
}

fn faults(timeline: &Timeline, events: &mut Vec<Event>) {
    for fault in data::faults(timeline) {
        let is_pause = fault.kind == "pause";
        let change = |change| if is_pause { change } else { Change::None };
        let words = format!("! {}", fault.text);
        events.push(event(fault.from_us, fault.line, fault.members.clone(), change(Change::Paused), words));
        // What the end of the run cut short is not over.
        if fault.to_us > fault.from_us && fault.to_us < timeline.end_us {
            let words = format!("! over after {}: {}", print_time(fault.to_us - fault.from_us), fault.text);
            events.push(event(fault.to_us, fault.line, fault.members.clone(), change(Change::Resumed), words));
        }
    }
}

/// What failed, from the client's view, and all that the verdict names; where there are few, all of them.
fn operations(report: &Report, timeline: &Timeline, events: &mut Vec<Event>) {
    let ends = data::ends(timeline);
    let is_short = timeline.operations.len() <= FEW_OPERATIONS;
    for span in data::sorted(&timeline.operations, |span: &Span| (span.from_us, span.number)) {
        let mark = mark(report, span);
        let word = data::outcome_word(span.outcome.as_ref());
        if mark.is_none() && !is_short && !matches!(word, "refused" | "unknown") {
            continue;
        }
        let (number, client, operation) = (span.number, span.client, &span.operation);
        let head = format!("#{number} client {client} at {}: {operation}", span.member);
        if let Some(mark) = mark {
            let words = format!(">> {head}   [{mark}]");
            events.push(event(span.from_us, span.line, vec![span.member], Change::None, words));
        }
        let Some(outcome) = &span.outcome else { continue };
        let words = match mark {
            Some(mark) => format!("<< #{number} {outcome}   [{mark}]"),
            None => format!("{head}: {outcome}"),
        };
        let told_us = span.told_us.unwrap_or(ends[&span.number]);
        events.push(event(told_us, span.line, vec![span.member], Change::None, words));
    }
}

fn ending(report: &Report, timeline: &Timeline) -> String {
    let mut out = String::new();
    let at = timeline.end_us;
    let (s, us) = (at / 1_000_000, at % 1_000_000);
    match &report.verdict {
        Verdict::Ok => push(&mut out, format_args!("{s:>5}.{us:06}  ok\n")),
        Verdict::Fail { checker, place, story } => {
            push_line(&mut out, &format!("{s:>5}.{us:06}  FAIL {checker}: {place}"));
            wrap(&mut out, story);
        }
        Verdict::Unknown { checker, story } => {
            push_line(&mut out, &format!("{s:>5}.{us:06}  UNKNOWN: {checker} could not decide"));
            wrap(&mut out, story);
        }
    }
    out
}

/// A story, broken at blanks, below the time column.
fn wrap(out: &mut String, story: &str) {
    for line in story.lines() {
        let mut row = String::new();
        for word in line.split_whitespace() {
            if !row.is_empty() && TIME + width(&row) + 1 + width(word) > COLUMNS {
                push_line(out, &format!("{}{row}", pad("", TIME)));
                row.clear();
            }
            if !row.is_empty() {
                row.push(' ');
            }
            row.push_str(word);
        }
        push_line(out, &format!("{}{row}", pad("", TIME)));
    }
}

/// One line of the page: what a terminal could take for a command is replaced, what is too wide is cut.
fn push_line(out: &mut String, line: &str) {
    let plain: Vec<char> = line.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if plain.len() > COLUMNS {
        out.extend(&plain[..COLUMNS - 1]);
        out.push('…');
    } else {
        out.extend(&plain);
    }
    out.push('\n');
}

fn pad(text: &str, columns: usize) -> String {
    let cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    let missing = columns - width(&cut);
    cut + &" ".repeat(missing)
}

fn width(text: &str) -> usize {
    text.chars().count()
}

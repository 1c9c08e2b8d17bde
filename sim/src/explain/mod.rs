//! A run as a picture: for people who want to see why it failed, and who were not there.
//!
//! ```text
//! html   one file that opens anywhere, with lanes, arrows, zoom and filters       mod.rs data.rs *.js explain.css
//! text   the same for a terminal, one line an interesting event                   text.rs
//! svg    a still of some stretch of it, for a page of documentation               svg.rs
//! ```
//!
//! Everything is drawn from the report's [`Timeline`]; nothing here looks at a world. The HTML file loads nothing and
//! runs no script but its own, which its own content security policy (by hash) enforces. Whatever a run says (keys,
//! values, errors, names of files) is text: it is escaped here, and again never parsed as markup by the script.

mod data;
mod svg;
mod text;

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::fault::print_time;
use crate::history::Operation;
use crate::report::{Report, Verdict};
use crate::timeline::{Span, Timeline};

pub use svg::svg;
pub use text::text;

const STYLE: &str = include_str!("explain.css");
/// One script in three files; a function around it keeps its names to itself.
const SCRIPT: [&str; 3] = [include_str!("model.js"), include_str!("paint.js"), include_str!("explain.js")];

/// Choices of a record listed in the page; a recorded seed has thousands.
const CHOICES_LISTED: usize = 200;
/// An election so long before what failed is another story.
const ELECTION_WITHIN_US: u64 = 500_000;

/// One self-contained HTML file.
pub fn html(scenario_name: &str, report: &Report) -> String {
    let nothing = Timeline::default();
    let timeline = report.timeline.as_ref().unwrap_or(&nothing);
    let script = format!("(() => {{\n{}}})();\n", SCRIPT.concat());
    let style = STYLE.to_owned();
    let name = escape(scenario_name);
    let (script_hash, style_hash) = (base64(&Sha256::digest(&script)), base64(&Sha256::digest(&style)));
    let word = report.verdict.word();
    let verdict = match &report.verdict {
        Verdict::Ok => "ok".to_owned(),
        Verdict::Fail { checker, place, .. } => format!("fail: {checker}: {place}"),
        Verdict::Unknown { checker, .. } => format!("unknown: {checker}"),
    };
    let head = report.scenario.head.join("\n");
    let (banner, tables) = (banner(report), tables(scenario_name, report, timeline));
    let (noscript, data) = (escape(&text(report)), data::json(scenario_name, report, timeline));
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {verdict}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{name}</h1> <span class="verdict {word}">{verdict}</span>
<p class="dim">{facts}</p>
<p class="about">{head}</p>
{banner}</header>
<noscript><p>The picture needs scripts, its own and no other; the same as text:</p>
<pre>{noscript}</pre></noscript>
<main class="live">
<div class="bar" role="toolbar" aria-label="View">
<button type="button" id="failure">Jump to the failure</button>
<button type="button" id="whole">Whole run</button>
<button type="button" id="zoom-in" aria-label="Zoom in">+</button>
<button type="button" id="zoom-out" aria-label="Zoom out">−</button>
<span class="help" id="help">Wheel: zoom. Drag, ← →: move. + − 0: zoom, whole run. ↑ ↓: event by event.
 f: failure. Click: the trace around it.</span>
</div>
<div class="filters">
<fieldset id="kinds"><legend>messages</legend></fieldset>
<fieldset id="members"><legend>arrows of</legend></fieldset>
<fieldset id="clients"><legend>clients</legend></fieldset>
</div>
<div class="frame">
<canvas id="overview" role="img" aria-label="The whole run in small; drag to move the view"></canvas>
<canvas id="picture" tabindex="0" role="application" aria-label="Members, messages, faults and client operations"
 aria-describedby="help status"></canvas>
</div>
<p id="status"></p>
<ul id="legend" aria-label="Legend"></ul>
<section id="trace" class="empty" aria-label="Trace">
<p id="said" aria-live="polite"></p>
<ol id="lines"></ol>
</section>
<div id="tip" role="tooltip" hidden></div>
</main>
{tables}
<script type="application/json" id="run">{data}</script>
<script>{script}</script>
</body>
</html>
"#,
        facts = escape(&facts(report)),
        verdict = escape(&verdict),
        head = escape(&head),
    )
}

/// The stretch of virtual time that shows the failure: what the verdict names, or the last second before its end; the
/// whole run when nothing failed.
pub fn focus(report: &Report) -> (u64, u64) {
    let Some(timeline) = &report.timeline else { return (0, 0) };
    if matches!(report.verdict, Verdict::Ok) {
        return (0, timeline.end_us);
    }
    let named: Vec<&Span> = timeline.operations.iter().filter(|span| mark(report, span).is_some()).collect();
    let ends = data::ends(timeline);
    let from = named.iter().map(|span| span.from_us).min().unwrap_or(timeline.end_us.saturating_sub(1_000_000));
    let to = named.iter().map(|span| ends[&span.number]).max().unwrap_or(timeline.end_us);
    let margin = (to.saturating_sub(from) / 8).max(20_000);
    // Most stories begin with somebody who comes to lead.
    let recent = |at_us: &u64| *at_us <= from && from - *at_us <= ELECTION_WITHIN_US;
    let from = elections(timeline).into_iter().filter(recent).max().unwrap_or(from);
    (from.saturating_sub(margin), (to + margin).min(timeline.end_us.max(to)))
}

/// When members came to lead.
fn elections(timeline: &Timeline) -> Vec<u64> {
    let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
    let leads = data::sorted(&timeline.roles, |state| (state.at_us, state.line)).into_iter();
    let leads = leads.filter(|state| state.role == "StateLeader");
    leads.filter(|state| terms.insert(state.member, state.term) != Some(state.term)).map(|state| state.at_us).collect()
}

/// What the verdict says of an operation, in a word or two; `None` when it does not name it.
fn mark(report: &Report, span: &Span) -> Option<&'static str> {
    let verdict = report.timeline.as_ref()?.verdict.as_ref()?;
    if !verdict.operations.contains(&span.number) {
        return None;
    }
    let is_read = matches!(span.operation, Operation::Get { .. } | Operation::Range { .. });
    // What is stale was asked last; the others show that it is.
    let is_last = verdict.operations.iter().max() == Some(&span.number);
    Some(match is_read {
        true if verdict.place.contains("stale") && is_last => "stale",
        true if verdict.place.contains("lost") => "does not see it",
        false if verdict.place.contains("lost") => "lost",
        false if verdict.place.contains("stale") => "not seen",
        _ => "named",
    })
}

fn facts(report: &Report) -> String {
    // A scenario's operations are nobody's work.
    let operations = report.timeline.as_ref().map_or(0, |timeline| timeline.operations.len());
    let mut facts = vec![
        format!("{} members", report.knobs.members),
        format!("{} simulated", seconds(report.simulated_us)),
        format!("{operations} operations, {} acknowledged", report.acknowledged),
        format!("{} messages", report.messages),
        format!("{} faults", report.faults.values().sum::<u64>()),
    ];
    facts.extend(report.seed.map(|seed| format!("seed {seed}")));
    facts.extend(report.scenario.mutation.map(|mutation| format!("mutation {}", mutation.name())));
    facts.push(format!("trace {}", report.trace_hash));
    facts.join(" · ")
}

fn banner(report: &Report) -> String {
    let (class, signature, story) = match &report.verdict {
        Verdict::Ok => return String::new(),
        Verdict::Fail { checker, place, story } => ("story", format!("{checker}: {place}"), story),
        Verdict::Unknown { checker, story } => ("story unknown", format!("{checker} could not decide"), story),
    };
    format!(
        "<section class=\"{class}\" aria-label=\"What was broken\">\n<strong>{}</strong>\n<p>{}</p>\n\
         <div id=\"named\" class=\"live\"></div>\n</section>\n",
        escape(&signature),
        escape(story)
    )
}

/// The command that shows the same again, faults, choices and knobs.
fn tables(scenario_name: &str, report: &Report, timeline: &Timeline) -> String {
    let mut out = String::new();
    let command = escape(&command(scenario_name));
    push(&mut out, format_args!("<h2>The same again</h2>\n<code class=\"command\">{command}</code>\n"));
    push(&mut out, format_args!("<div class=\"tables\">\n<section>\n<h2>Faults</h2>\n"));
    if timeline.faults.is_empty() {
        out.push_str("<p class=\"dim\">None.</p>\n");
    } else {
        out.push_str("<div class=\"scroll\"><table>\n<tr><th>at<th>for<th>what<th>members\n");
        for (nth, fault) in data::faults(timeline).iter().enumerate() {
            let members = fault.members.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            let lasts = print_time(fault.to_us.saturating_sub(fault.from_us));
            let lasts = match fault.to_us {
                to_us if to_us <= fault.from_us => "",
                to_us if to_us == timeline.end_us => "to the end",
                _ => lasts.as_str(),
            };
            let (at, text) = (seconds(fault.from_us), escape(&fault.text));
            let row =
                format_args!("<tr data-at=\"{nth}\"><td class=\"number\">{at}<td>{lasts}<td>{text}<td>{members}\n");
            push(&mut out, row);
        }
        out.push_str("</table></div>\n");
    }
    if !report.scenario.exceptions.is_empty() {
        let count = report.scenario.exceptions.len();
        push(
            &mut out,
            format_args!("<h2>Choices that are not the constant: {count}</h2>\n<div class=\"scroll\"><pre>"),
        );
        for exception in report.scenario.exceptions.iter().take(CHOICES_LISTED) {
            push(&mut out, format_args!("{}\n", escape(&exception.to_string())));
        }
        if count > CHOICES_LISTED {
            push(&mut out, format_args!("… and {} more, in the scenario\n", count - CHOICES_LISTED));
        }
        out.push_str("</pre></div>\n");
    }
    out.push_str("</section>\n<section>\n<h2>Knobs</h2>\n<table>\n");
    for (name, value) in report.knobs.numbers() {
        push(&mut out, format_args!("<tr><th>{name}<td class=\"number\">{value}\n"));
    }
    out.push_str("</table>\n</section>\n</div>\n");
    out
}

/// The line that brings the same run again. A scenario may go by its name alone; one that a shell would take apart is
/// quoted.
fn command(scenario_name: &str) -> String {
    let extension = if scenario_name.ends_with(".scenario") { "" } else { ".scenario" };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !scenario_name.is_empty() && !scenario_name.starts_with('-') && scenario_name.chars().all(is_plain) {
        return format!("lockstep-sim replay {scenario_name}{extension}");
    }
    format!("lockstep-sim replay -- '{}{extension}'", scenario_name.replace('\'', r"'\''"))
}

/// `1.250000 s`, without the zeros at its end.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    let short = text.trim_end_matches('0');
    format!("{}{} s", short, if short.ends_with('.') { "0" } else { "" })
}

/// For the text of an element and for an attribute in double quotes; what no document may hold becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (nth, byte)| bits | u32::from(*byte) << (16 - 8 * nth));
        for digit in 0..4 {
            let value = DIGITS[(bits >> (18 - 6 * digit)) as usize & 63];
            out.push(if digit <= chunk.len() { char::from(value) } else { '=' });
        }
    }
    out
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes everything");
}

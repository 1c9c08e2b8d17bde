//! A stretch of a run as a still picture, for a page of documentation.
//!
//! It stands by itself: its own background, its colours for a light and a dark page, text as text, nothing loaded. It
//! is kept small, so where there are too many arrows, heartbeats go first and then every so-manieth of the others; the
//! last line of the picture says how many are missing.

use std::collections::BTreeMap;

use super::{data, escape, mark, push, seconds};
use crate::report::{Report, Verdict};
use crate::timeline::{Arrow, Life, RoleChange, Span, Timeline};

const WIDTH: f64 = 1_100.0;
const GUTTER: f64 = 82.0;
const RIGHT: f64 = 14.0;
const AXIS: f64 = 44.0;
const PITCH: f64 = 74.0;
const BAND: f64 = 15.0;
const ROW: f64 = 18.0;
/// Of each kind of thing: more cannot be seen, and would make the file big.
const ARROWS: usize = 220;
const SPANS: usize = 100;
const FAULTS: usize = 12;
const COMMITS: usize = 12;
/// What a character of the small text takes at most, on average.
const CHARACTER: f64 = 6.1;
const BOLD_CHARACTER: f64 = 6.6;

const STYLE: &str = "
text{font:11px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1c2330}
.b{fill:#fff;stroke:#d9dce3}.d,.d text{fill:#667085}.g{stroke:#e9ebef}.r{stroke:#c9ced8}.s{font-weight:600}
.h{font-weight:700;font-size:13px}.leader{fill:#3850c7}.candidate{fill:#e08a1e}.follower{fill:#ccd4e3}
.tl{fill:#fff;font-weight:600}.tc,.tf{fill:#2c3850;font-weight:600}.x{stroke:#b3392f;fill:none}
.tx{fill:#b3392f;font-weight:600}.p{fill:#e3e1dc}.f{fill:#9c3587}.tb{fill:#6d1f5d}.fs{fill:#f4e3f0}
.m{fill:none;stroke-width:1.2}.app{stroke:#2470cf}.resp{stroke:#6fa3e3}.beat{stroke:#9aa2b0}
.vote{stroke:#cf6a12}.read{stroke:#0f8a80}.other{stroke:#7a6a53}.lost{stroke:#d22f3d;stroke-width:1.6;fill:none}
.done{fill:#cbe7d2}.rd{fill:#cde6f0}.refused{fill:#e4e5e9}.unknown{fill:#f6e3b0}.named{fill:#c9202f}
.tn{fill:#fff;font-weight:600}.link{stroke:#c9202f;stroke-dasharray:3 3;fill:none}
@media(prefers-color-scheme:dark){text{fill:#e4e7ee}.b{fill:#191d25;stroke:#2d333f}.d,.d text{fill:#929bad}
.g{stroke:#252a34}.r{stroke:#3d4554}.leader{fill:#6d84f5}.follower{fill:#343d50}.tl{fill:#0b1030}
.tc{fill:#261700}.tf{fill:#b9c4da}.x{stroke:#f0766a}.tx{fill:#f0766a}.p{fill:#4b4f57}.f{fill:#cf6fbb}
.tb{fill:#efb5e2}.fs{fill:#38233a}.app{stroke:#5a9df0}.resp{stroke:#3d6fae}.beat{stroke:#667080}
.vote{stroke:#ef9440}.read{stroke:#35b9ad}.lost{stroke:#ff6470}.done{fill:#1f4a2f}.rd{fill:#1b4354}
.refused{fill:#2f343e}.unknown{fill:#54430f}.named{fill:#e23a49}.tn{fill:#fff}.link{stroke:#e23a49}}
";

/// What `from_us` to `to_us` looked like, as one SVG document.
pub fn svg(report: &Report, from_us: u64, to_us: u64) -> String {
    let nothing = Timeline::default();
    let timeline = report.timeline.as_ref().unwrap_or(&nothing);
    let members = data::members(timeline);
    let faults: Vec<_> = data::faults(timeline)
        .into_iter()
        .filter(|fault| fault.from_us <= to_us && fault.to_us >= from_us)
        .take(FAULTS)
        .collect();
    let lanes_top = AXIS + faults.len() as f64 * ROW + 18.0;
    let clients_top = lanes_top + (members.len().max(1) - 1) as f64 * PITCH + BAND + 34.0;
    let mut drawing =
        Drawing { report, timeline, members, from_us, to_us: to_us.max(from_us + 1), lanes_top, out: String::new() };

    let title = match &report.verdict {
        Verdict::Ok => "ok".to_owned(),
        Verdict::Fail { checker, place, .. } => format!("{checker}: {place}"),
        Verdict::Unknown { checker, .. } => format!("{checker}: unknown"),
    };
    drawing.text("h", 12.0, 20.0, WIDTH - 24.0, &title);
    for (nth, fault) in faults.iter().enumerate() {
        drawing.fault(nth, fault);
    }
    // The axis' lines run down to the clients, whose height is known only after drawing them.
    let mut above = std::mem::take(&mut drawing.out);
    let bottom = drawing.clients(clients_top);
    let below = std::mem::take(&mut drawing.out);
    drawing.axis(bottom);
    let axis = std::mem::take(&mut drawing.out);
    let missing = drawing.arrows();
    for lane in 0..drawing.members.len() {
        drawing.lane(lane);
    }
    above.push_str(&drawing.out);
    let mut height = bottom + 8.0;
    drawing.out.clear();
    if missing > 0 {
        height += 14.0;
        drawing.text("d", 12.0, height - 8.0, WIDTH, &format!("{missing} more messages are not drawn"));
    }
    let note = drawing.out;
    let story = match &report.verdict {
        Verdict::Fail { story, .. } | Verdict::Unknown { story, .. } => escape(&clip(story, 600)),
        Verdict::Ok => String::new(),
    };
    let (title, frame) = (escape(&title), WIDTH - 1.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
         <title id=\"title\">{title}</title>\n<desc id=\"desc\">{story}</desc>\n\
         <style>{STYLE}</style>\n<rect class=\"b\" x=\".5\" y=\".5\" width=\"{frame}\" height=\"{}\" rx=\"6\"/>\n\
         {axis}{above}{below}{note}</svg>\n",
        height - 1.0
    )
}

struct Drawing<'a> {
    report: &'a Report,
    timeline: &'a Timeline,
    members: Vec<u64>,
    from_us: u64,
    to_us: u64,
    lanes_top: f64,
    out: String,
}

impl Drawing<'_> {
    /// Where a time is; what lies outside of the stretch is at its edge.
    fn x(&self, at_us: u64) -> f64 {
        let inside = (at_us.clamp(self.from_us, self.to_us) - self.from_us) as f64;
        GUTTER + inside / (self.to_us - self.from_us) as f64 * (WIDTH - RIGHT - GUTTER)
    }

    fn lane_y(&self, lane: usize) -> f64 {
        self.lanes_top + lane as f64 * PITCH
    }

    fn lane_of(&self, id: u64) -> usize {
        self.members.binary_search(&id).expect("every member has a lane")
    }

    fn is_inside(&self, at_us: u64) -> bool {
        (self.from_us..=self.to_us).contains(&at_us)
    }

    /// Text, cut to the room that it has; returns whether anything was written.
    fn text(&mut self, class: &str, x: f64, y: f64, room: f64, text: &str) {
        let fitting = clip(text, (room / CHARACTER).max(0.0) as usize);
        if fitting.chars().count() >= text.chars().count().min(3) && !fitting.is_empty() {
            let text = escape(&fitting);
            push(&mut self.out, format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"));
        }
    }

    fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let box_ = format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"/>\n"
        );
        push(&mut self.out, box_);
    }

    fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            push(&mut self.out, format_args!("<path class=\"{class}\" d=\"{path}\"/>\n"));
        }
    }

    fn axis(&mut self, bottom: f64) {
        let room_us = (self.to_us - self.from_us) / 10;
        let steps = (0..12).flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power)));
        let step = steps.into_iter().find(|step| *step >= room_us).unwrap_or(10u64.pow(12)).max(1);
        let mut at_us = self.from_us.div_ceil(step) * step;
        while at_us <= self.to_us {
            let x = self.x(at_us);
            self.path("g", &format!("M{x:.1} 36V{bottom:.1}"));
            let (words, room) = (seconds(at_us), WIDTH - x - 6.0);
            if words.len() as f64 * CHARACTER <= room {
                self.text("d", x + 3.0, 38.0, room, &words);
            }
            at_us += step;
        }
    }

    fn fault(&mut self, nth: usize, fault: &crate::timeline::Bar) {
        let (from, to, y) = (self.x(fault.from_us), self.x(fault.to_us), AXIS + nth as f64 * ROW);
        self.rect("fs", from, y, (to - from).max(3.0), ROW - 4.0);
        self.rect("f", from, y, 3.0, ROW - 4.0);
        self.text("tb", from + 7.0, y + 10.5, WIDTH - RIGHT - from - 7.0, &fault.text);
        for id in &fault.members {
            let lane = self.lane_y(self.lane_of(*id));
            self.rect("f", from, lane - 5.0 - (nth % 2) as f64 * 4.0, (to - from).max(3.0), 3.0);
        }
        if nth == 0 {
            self.text("d", 12.0, y + 10.5, GUTTER, "faults");
        }
    }

    fn lane(&mut self, lane: usize) {
        let (id, y, timeline) = (self.members[lane], self.lane_y(lane), self.timeline);
        let is_own = |state: &&RoleChange| state.member == id;
        let states: Vec<&RoleChange> =
            data::sorted(&timeline.roles, |s| (s.at_us, s.line)).into_iter().filter(is_own).collect();
        let lives: Vec<&Life> =
            data::sorted(&timeline.lives, |l| l.from_us).into_iter().filter(|l| l.member == id).collect();
        self.text("s", 12.0, y + 11.5, GUTTER, &format!("member {id}"));
        for (nth, life) in lives.iter().enumerate() {
            let end_us = life.to_us.unwrap_or(timeline.end_us);
            self.life(y, &states, life.from_us, end_us);
            if life.to_us.is_none() {
                continue;
            }
            let next_us = lives.get(nth + 1).map_or(timeline.end_us, |next| next.from_us);
            if end_us > self.to_us || next_us < self.from_us {
                continue;
            }
            let (from, to) = (self.x(end_us), self.x(next_us));
            self.path("x", &format!("M{from:.1} {:.1}H{to:.1}", y + BAND - 1.0));
            let (left, right, top, low) = (from - 4.0, from + 4.0, y + 3.5, y + 11.5);
            let cross = format!("M{left:.1} {top:.1}L{right:.1} {low:.1}M{left:.1} {low:.1}L{right:.1} {top:.1}");
            if self.is_inside(end_us) {
                self.path("lost", &cross);
            }
            self.text("tx", from + 8.0, y + 11.0, to - from - 10.0, &format!("down: {}", life.ended_by));
        }
        for pause in timeline.faults.iter().filter(|fault| fault.kind == "pause" && fault.members.contains(&id)) {
            if pause.from_us <= self.to_us && pause.to_us >= self.from_us {
                let (from, to) = (self.x(pause.from_us), self.x(pause.to_us));
                self.rect("p", from, y, to - from, BAND);
                self.text("s", from + 5.0, y + 11.0, to - from - 6.0, "paused");
            }
        }
        self.commits(y, &states);
    }

    /// One band for each time in which role and term stayed the same.
    fn life(&mut self, y: f64, states: &[&RoleChange], from_us: u64, end_us: u64) {
        let mut bands: Vec<(u64, u64, Option<&RoleChange>)> = vec![(from_us, end_us, None)];
        for state in states.iter().filter(|s| s.at_us >= from_us && s.at_us < end_us) {
            let last = bands.last_mut().expect("there is a first band");
            if last.2.map(|s| (s.role, s.term)) != Some((state.role, state.term)) {
                last.1 = state.at_us;
                bands.push((state.at_us, end_us, Some(state)));
            }
        }
        for (band_us, band_end_us, state) in bands {
            if band_end_us <= band_us || band_us > self.to_us || band_end_us < self.from_us {
                continue;
            }
            let (class, ink, role) = match state.map_or("", |s| s.role) {
                "StateLeader" => ("leader", "tl", "leader"),
                "StateCandidate" => ("candidate", "tc", "candidate"),
                "StatePreCandidate" => ("candidate", "tc", "pre-candidate"),
                _ => ("follower", "tf", "follower"),
            };
            let (from, to) = (self.x(band_us), self.x(band_end_us));
            self.rect(class, from, y, (to - from - 1.0).max(0.8), BAND);
            let Some(state) = state else { continue };
            let long = format!("{role}, term {}", state.term);
            let is_wide = to - from > long.len() as f64 * CHARACTER + 10.0;
            self.text(
                ink,
                from + 5.0,
                y + 11.0,
                to - from - 6.0,
                &if is_wide { long } else { format!("t{}", state.term) },
            );
        }
    }

    fn commits(&mut self, y: f64, states: &[&RoleChange]) {
        let mut free = 0.0;
        let mut last = None;
        for state in states {
            let x = self.x(state.at_us);
            if last.replace(state.commit) == Some(state.commit) || !self.is_inside(state.at_us) || x < free {
                continue;
            }
            self.text("d", x + 1.0, y + BAND + 10.0, 60.0, &format!("c{}", state.commit));
            free = x + ((WIDTH - GUTTER) / COMMITS as f64).max(40.0);
        }
    }

    /// Returns how many there was no room for.
    fn arrows(&mut self) -> usize {
        let all = data::sorted(&self.timeline.messages, |arrow: &Arrow| (arrow.sent_us, arrow.line));
        let touches =
            |arrow: &&Arrow| arrow.sent_us <= self.to_us && arrow.arrived_us.unwrap_or(arrow.sent_us) >= self.from_us;
        let inside: Vec<&Arrow> = all.into_iter().filter(touches).collect();
        let mut chosen = inside.clone();
        if chosen.len() > ARROWS {
            chosen.retain(|arrow| class(arrow.kind) != "beat");
        }
        let every = chosen.len().div_ceil(ARROWS).max(1);
        let usual_us = data::usual_delay_us(self.timeline);
        let mut paths: BTreeMap<&'static str, String> = BTreeMap::new();
        let mut drawn = 0;
        for arrow in chosen.iter().step_by(every) {
            drawn += 1;
            let (from, to) = (self.lane_of(arrow.from), self.lane_of(arrow.to));
            let half = if to > from { BAND / 2.0 } else { -BAND / 2.0 };
            let (from_y, to_y) = (self.lane_y(from) + BAND / 2.0 + half, self.lane_y(to) + BAND / 2.0 - half);
            let ax = self.x(arrow.sent_us);
            let (bx, by) = match arrow.arrived_us {
                Some(arrived_us) => (self.x(arrived_us), to_y),
                // A lost one gives up on the way.
                None => (self.x(arrow.sent_us + usual_us), from_y + (to_y - from_y) * 0.4),
            };
            if arrow.arrived_us.is_none() && arrow.sent_us + usual_us < self.timeline.end_us {
                let cross = paths.entry("lost").or_default();
                let (left, right, top, low) = (bx - 3.0, bx + 3.0, by - 3.0, by + 3.0);
                push(
                    cross,
                    format_args!("M{left:.0} {top:.0}L{right:.0} {low:.0}M{left:.0} {low:.0}L{right:.0} {top:.0}"),
                );
            }
            let path = paths.entry(class(arrow.kind)).or_default();
            push(path, format_args!("M{ax:.1} {from_y:.0}L{bx:.1} {by:.0}"));
            if arrow.arrived_us.is_some() {
                let length = (bx - ax).hypot(by - from_y).max(0.1);
                let (ux, uy) = ((bx - ax) / length * 6.0, (by - from_y) / length * 6.0);
                let (lx, ly) = (bx - ux - uy * 0.45, by - uy + ux * 0.45);
                let (rx, ry) = (bx - ux + uy * 0.45, by - uy - ux * 0.45);
                push(path, format_args!("M{lx:.1} {ly:.1}L{bx:.1} {by:.0}L{rx:.1} {ry:.1}"));
            }
        }
        for (class, path) in paths {
            self.path(if class == "lost" { class.to_owned() } else { format!("m {class}") }.as_str(), &path);
        }
        inside.len() - drawn
    }

    /// Spans below the lanes, a group a client; returns where they end.
    fn clients(&mut self, top: f64) -> f64 {
        let ends = data::ends(self.timeline);
        let touches = |span: &&Span| span.from_us <= self.to_us && ends[&span.number] >= self.from_us;
        let spans = data::sorted(&self.timeline.operations, |span: &Span| (span.from_us, span.number));
        let mut spans: Vec<&Span> = spans.into_iter().filter(touches).collect();
        // What the verdict names is drawn, whatever else there is no room for.
        spans.sort_by_key(|span| mark(self.report, span).is_none());
        spans.truncate(SPANS);
        spans.sort_by_key(|span| (span.client, span.from_us, span.number));
        let mut y = top;
        let mut rows: Vec<u64> = Vec::new();
        let mut client = None;
        for span in spans {
            if client != Some(span.client) {
                y += rows.len() as f64 * ROW + if client.is_some() { 6.0 } else { 0.0 };
                rows.clear();
                client = Some(span.client);
                self.text("s", 12.0, y + 10.5, GUTTER, &format!("client {}", span.client));
            }
            let end_us = ends[&span.number];
            // Words beside a span need the row for themselves.
            let is_alone = mark(self.report, span).is_some() && !self.holds_its_words(span, end_us);
            let row = rows.iter().position(|end| !is_alone && *end <= span.from_us).unwrap_or(rows.len());
            if row == rows.len() {
                rows.push(0);
            }
            rows[row] = if is_alone { u64::MAX } else { end_us };
            self.span(span, end_us, y + row as f64 * ROW);
        }
        y + rows.len() as f64 * ROW
    }

    fn words(&self, span: &Span) -> String {
        let answer = span.outcome.as_ref().map_or(String::new(), |outcome| format!(" → {outcome}"));
        mark(self.report, span).map_or(String::new(), |mark| format!("{mark}: "))
            + &span.operation.to_string()
            + &answer
    }

    fn holds_its_words(&self, span: &Span, end_us: u64) -> bool {
        self.words(span).chars().count() as f64 * CHARACTER < self.x(end_us) - self.x(span.from_us) - 1.0
    }

    fn span(&mut self, span: &Span, end_us: u64, y: f64) {
        let (from, to) = (self.x(span.from_us), self.x(end_us));
        let mark = mark(self.report, span);
        let class = match data::outcome_word(span.outcome.as_ref()) {
            _ if mark.is_some() => "named",
            "read" => "rd",
            word => word,
        };
        let text = self.words(span);
        let width = (to - from - 1.0).max(2.0);
        self.rect(class, from, y, width, ROW - 4.0);
        if mark.is_none() {
            self.text("", from + 4.0, y + 10.5, width - 5.0, &text);
            return;
        }
        let lane = self.lane_y(self.lane_of(span.member)) + BAND;
        self.path("link", &format!("M{from:.1} {lane:.1}V{y:.1}M{to:.1} {lane:.1}V{y:.1}"));
        if self.holds_its_words(span, end_us) {
            self.text("tn", from + 4.0, y + 10.5, width, &text);
            return;
        }
        // Beside a span that is too short for what must be said, on the side with room.
        let needed = text.chars().count().min(60) as f64 * BOLD_CHARACTER;
        let x = if to + needed + 8.0 < WIDTH { to + 5.0 } else { (from - needed - 5.0).max(GUTTER) };
        self.text("tx", x, y + 10.5, needed + 12.0, &text);
    }
}

fn class(kind: &str) -> &'static str {
    match kind {
        "MsgApp" | "MsgSnap" => "app",
        "MsgAppResp" => "resp",
        "MsgHeartbeat" | "MsgHeartbeatResp" => "beat",
        "MsgReadIndex" | "MsgReadIndexResp" => "read",
        kind if kind.contains("Vote") => "vote",
        _ => "other",
    }
}

fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    if most > 0 {
        cut.push('…');
    }
    cut
}

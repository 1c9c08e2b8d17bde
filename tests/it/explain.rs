//! The pictures of a run: whether they stand by themselves, hold everything, and let nothing that a run says break
//! out.
//!
//! What they look like is for eyes. The reports are made up ([`fabricated`]): these tests are about pictures, not
//! worlds.

#[path = "explain/fabricated.rs"]
mod fabricated;

use fabricated::{HOSTILE, big, hostile, small};
use lockstep_sim::explain::{focus, html, svg, text};
use lockstep_sim::report::Verdict;
use lockstep_sim::timeline::Timeline;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[test]
fn the_page_stands_by_itself() {
    let page = html("small.scenario", &small());
    let outside =
        ["http:", "https:", "src=", "@import", "url(", "<link", "<iframe", "fetch(", "XMLHttp", "import(", "eval("];
    for word in outside {
        assert!(!page.contains(word), "the page has {word}");
    }
    // The browser runs what has these hashes, and nothing else.
    for (element, begin, end) in [("script", "<script>", "</script>"), ("style", "<style>", "</style>")] {
        let inside = page.split(begin).nth(1).and_then(|rest| rest.split(end).next()).expect(element);
        let policy = format!("{element}-src 'sha256-{}'", base64(&Sha256::digest(inside)));
        assert!(page.contains(&policy), "the policy does not let the page's own {element} run");
    }
    assert!(page.contains("default-src 'none'"));
    for word in ["<noscript>", "aria-label=", "role=\"application\"", "lockstep-sim replay small.scenario", "delay_us"]
    {
        assert!(page.contains(word), "the page lacks {word}");
    }
}

#[test]
fn everything_is_in_the_data() {
    for report in [small(), big(60_000_000, 30_000), hostile()] {
        let timeline = report.timeline.as_ref().expect("a timeline");
        let data = data(&html("x", &report));
        let list = |name: &str| data[name].as_array().unwrap_or_else(|| panic!("{name}"));
        let texts = |name: &str, nth: usize| -> Vec<&str> {
            list(name).iter().map(|row| row[nth].as_str().expect("a text")).collect()
        };
        assert_eq!(list("lines").len(), timeline.lines.len());
        assert_eq!(list("states").len(), 7 * timeline.roles.len());
        assert_eq!(list("lives").len(), timeline.lives.len());
        assert_eq!(list("messages").len(), 6 * timeline.messages.len());
        assert_eq!(list("operations").len(), timeline.operations.len());

        // Each message comes out as it went in, through the differences.
        let numbers: Vec<i64> = list("messages").iter().map(|n| n.as_i64().expect("a number")).collect();
        let (mut sent, mut line) = (0, 0);
        let mut found = Vec::new();
        for row in numbers.chunks(6) {
            (sent, line) = (sent + row[3], line + row[5]);
            let id = |lane: i64| data["members"][lane as usize].as_i64().expect("an id");
            let kind = data["kinds"][row[2] as usize].as_str().expect("a kind").to_owned();
            found.push((id(row[0]), id(row[1]), kind, sent, (row[4] >= 0).then_some(sent + row[4]), line));
        }
        let number = |n: u64| n as i64;
        let mut expected: Vec<_> = timeline
            .messages
            .iter()
            .map(|m| {
                let kind = m.kind.to_owned();
                (number(m.from), number(m.to), kind, number(m.sent_us), m.arrived_us.map(number), number(m.line))
            })
            .collect();
        expected.sort();
        found.sort();
        assert!(found == expected, "messages differ");

        let mut faults: Vec<&str> = timeline.faults.iter().map(|fault| fault.text.as_str()).collect();
        let mut shown = texts("faults", 4);
        faults.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, faults);
        for span in &timeline.operations {
            let row = list("operations").iter().find(|row| row[0] == span.number).expect("the operation");
            assert_eq!(row[6], span.operation.to_string());
            assert_eq!(row[8], span.outcome.as_ref().expect("an outcome").to_string());
        }
        let named = timeline.verdict.as_ref().expect("a verdict").operations.len();
        assert_eq!(data["verdict"]["named"].as_array().map(Vec::len), Some(named));
    }
}

#[test]
fn a_message_that_its_line_does_not_tell_brings_its_text() {
    let mut report = small();
    let timeline = report.timeline.as_mut().expect("a timeline");
    timeline.messages[3].text = "told nowhere".into();
    timeline.messages[4].line = 0;
    let data = data(&html("x", &report));
    let texts: Vec<&Value> = data["texts"].as_object().expect("texts").values().collect();
    assert_eq!(texts.len(), 2);
    assert!(texts.iter().any(|text| **text == "told nowhere"));
}

#[test]
fn what_a_run_says_stays_text() {
    let (calm, report) = (html("x", &small()), hostile());
    let name = HOSTILE.concat();
    let page = html(&name, &report);
    for word in ["<script", "</script", "<style", "<img", "<!--", "<b>", "<section"] {
        let count = |page: &str| page.matches(word).count();
        assert_eq!(count(&page), count(&calm), "{word}");
    }
    for (place, page) in [("html", &page), ("svg", &svg(&report, 0, 1_000_000)), ("text", &text(&report))] {
        let control = page.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(control, None, "{place}");
    }
    let data = data(&page);
    assert_eq!(data["name"], name);
    for word in HOSTILE {
        let operations = data["operations"].as_array().expect("operations");
        let is_told = operations.iter().any(|row| row[6] == format!("put {word} {word}"));
        assert!(is_told, "{word:?} did not come through as it was");
    }
    // The command may be copied into a shell: the name is one word of it.
    let page = html("it's; rm -rf x", &small());
    assert!(page.contains("lockstep-sim replay -- &#39;it&#39;\\&#39;&#39;s; rm -rf x.scenario&#39;"));
}

#[test]
fn a_long_run_fits() {
    let mut report = big(60_000_000, 30_000);
    let messages = report.timeline.as_ref().expect("a timeline").messages.len();
    assert!((29_000..=31_000).contains(&messages), "{messages}");
    let size = html("x", &report).len();
    assert!(size < 6_000_000, "{size}");

    // A trace of 12 MB: what nothing points at goes first, and the end of the run stays.
    let timeline = report.timeline.as_mut().expect("a timeline");
    let told = timeline.lines.len();
    timeline.lines.extend((0..100_000).map(|n| format!("  59.{n:06} {}", "x".repeat(100))));
    let page = html("x", &report);
    assert!(page.len() < 6_000_000, "{}", page.len());
    let data = data(&page);
    let line = |n: usize| data["lines"][n].as_str().expect("a line");
    assert!((0..told).all(|n| !line(n).is_empty()));
    assert_eq!(line(told), "");
    assert!(line(told + 99_999).starts_with("59.099999"));
}

#[test]
fn the_first_view_is_the_failure() {
    let mut report = small();
    let (from_us, to_us) = focus(&report);
    assert!(from_us > 2_000_000 && from_us < 2_700_000 && to_us > 3_214_000 && to_us < 3_500_000, "{from_us} {to_us}");
    report.timeline.as_mut().expect("a timeline").verdict = None;
    // The last second, and the election at 2.612 s that came before it.
    assert_eq!(focus(&report), (2_487_000, 4_000_000));
    report.verdict = Verdict::Ok;
    assert_eq!(focus(&report), (0, 4_000_000));
    report.timeline = None;
    assert_eq!(focus(&report), (0, 0));
}

#[test]
fn an_operation_that_nobody_answered_ends_with_its_client_s_patience() {
    let mut report = small();
    let timeline = report.timeline.as_mut().expect("a timeline");
    // Client 1 asked at 0.3 s and again at 2.7 s; nothing follows the latter.
    timeline.operations[0].to_us = None;
    timeline.operations[0].told_us = Some(800_000);
    timeline.operations[3].to_us = None;
    // The text says when the client heard of it.
    let text = text(&report);
    let told = text.lines().find(|line| line.contains("#1 client 1 ")).expect("a line");
    assert!(told.starts_with("    0.800000 "), "{told}");
    let data = data(&html("x", &report));
    let row =
        |number: u64| data["operations"].as_array().expect("rows").iter().find(|row| row[0] == number).expect("a row");
    assert_eq!((&row(1)[4], &row(1)[5]), (&Value::from(2_700_000), &Value::from(true)));
    assert_eq!((&row(4)[4], &row(4)[5]), (&Value::from(4_000_000), &Value::from(true)));
    assert_eq!((&row(2)[4], &row(2)[5]), (&Value::from(433_000), &Value::from(false)));
}

#[test]
fn the_text_of_a_small_run() {
    insta::assert_snapshot!(text(&small()));
}

#[test]
fn the_text_fits_a_terminal() {
    let mut many = small();
    let timeline = many.timeline.as_mut().expect("a timeline");
    timeline.members = 9;
    timeline.faults[0].text = "x".repeat(500);
    for report in [small(), many, big(60_000_000, 30_000), hostile()] {
        let text = text(&report);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{widest:?}\n{text}");
        assert!(text.lines().count() < 90, "{text}");
        assert!(text.contains("FAIL linearizability"), "{text}");
    }
}

#[test]
fn the_still_is_well_formed_and_small() {
    for report in [small(), big(60_000_000, 30_000), hostile()] {
        let end_us = report.simulated_us;
        let (from_us, to_us) = focus(&report);
        for (from_us, to_us) in [(from_us, to_us), (0, end_us), (end_us, end_us), (end_us + 1, 0)] {
            let picture = svg(&report, from_us, to_us);
            assert!(picture.len() < 60_000, "{} bytes", picture.len());
            well_formed(&picture);
        }
    }
    let picture = svg(&small(), 2_000_000, 3_500_000);
    for word in ["stale: get k", "not seen: put k 1.2", "paused", "leader, term 2", "pause 1 for 1700ms"] {
        assert!(picture.contains(word), "the picture lacks {word}");
    }
}

#[test]
fn a_report_without_a_timeline_is_no_reason_to_fall() {
    let mut report = small();
    for timeline in [None, Some(Timeline::default())] {
        report.timeline = timeline;
        assert!(html("", &report).contains("lockstep-sim replay"));
        assert!(text(&report).contains("FAIL"));
        well_formed(&svg(&report, 0, 0));
    }
}

/// The JSON that the page's script reads, as a browser cuts it out.
fn data(page: &str) -> Value {
    let begin = "<script type=\"application/json\" id=\"run\">";
    let inside = page.split(begin).nth(1).and_then(|rest| rest.split("</script").next()).expect("the data");
    serde_json::from_str(inside).expect("JSON")
}

/// Tags are balanced, attributes quoted, entities known, and no character is forbidden.
fn well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        well_escaped(&rest[..at]);
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let (tag, is_closed) =
            rest[at + 1..end].strip_suffix('/').map_or((&rest[at + 1..end], false), |tag| (tag, true));
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "a tag that is not open is closed");
        } else {
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic()), "<{tag}>");
            assert_eq!(attributes.matches('"').count(), 2 * attributes.matches("=\"").count(), "<{tag}>");
            well_escaped(attributes);
            if !is_closed {
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} is open, then {rest:?}");
}

fn well_escaped(text: &str) {
    for after in text.split('&').skip(1) {
        let entity = after.split(';').next().expect("a first part");
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&entity), "&{entity}");
    }
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // A SHA-256 has 32 bytes: ten times three, and two with one sign for what is missing.
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect::<String>() + "00";
    let digit = |at: usize| DIGITS[usize::from_str_radix(&bits[at..at + 6], 2).expect("six bits")];
    (0..bits.len()).step_by(6).map(|at| char::from(digit(at))).chain(['=']).collect()
}

//! A page of `/metrics`, read as Prometheus reads it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

#[derive(Default)]
pub struct Page {
    /// Text and type, by name.
    pub families: BTreeMap<String, (String, String)>,
    /// By name and labels, labels in order.
    pub samples: BTreeMap<String, f64>,
}

impl Page {
    pub fn of(url: &str) -> Page {
        // HTTP/1.0, so that the page comes in one piece.
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("the request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the answer is read");
        assert!(text.starts_with("HTTP/1.0 200"), "{text}");
        let mut page = Page::default();
        for line in text.lines().map(str::trim) {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
                page.families.entry(name.to_owned()).or_default().0 = help.to_owned();
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
                page.families.entry(name.to_owned()).or_default().1 = kind.to_owned();
            } else if let Some((sample, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                page.samples.insert(sorted_labels(sample), value);
            }
        }
        page
    }

    pub fn value(&self, sample: &str) -> f64 {
        self.samples.get(&sorted_labels(sample)).copied().unwrap_or(f64::NAN)
    }

    /// All samples of a family together.
    pub fn sum(&self, family: &str) -> f64 {
        let of = |sample: &str| sample.split('{').next() == Some(family);
        self.samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
    }

    /// The label names, and the buckets, that a family's samples have.
    pub fn shape(&self, family: &str) -> Vec<String> {
        let of = |sample: &&String| {
            let name = sample.split('{').next().unwrap_or_default();
            let tail = name.strip_prefix(family);
            tail.is_some_and(|tail| matches!(tail, "" | "_bucket" | "_sum" | "_count"))
        };
        let mut shape: Vec<String> = self.samples.keys().filter(of).map(|sample| names_of(sample)).collect();
        shape.dedup();
        shape.sort();
        shape.dedup();
        shape
    }
}

fn sorted_labels(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// The sample without its labels' values, but for the bounds of buckets.
fn names_of(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.map(|label| match label.strip_prefix("le=") {
        // A bound is a number however it is written.
        Some(bound) => format!("le={:?}", bound.trim_matches('"').parse::<f64>()),
        None => label.split('=').next().unwrap_or_default().to_owned(),
    });
    format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
}

//! A comparison as Markdown for people and JSON for programs. Every figure is the median over the rounds.

use crate::compare::{Cell, Figure, Plan, Results};
use crate::load::Op;
use serde_json::{Value, json};
use std::fmt::Write;

pub fn markdown(plan: &Plan, results: &Results) -> String {
    let mut out = String::new();
    let [a, b] = &plan.sides;
    let _ = writeln!(out, "# {} against {}\n", b.name, a.name);
    let _ = writeln!(
        out,
        "{} cores, medians of {} rounds of {:.1} s, interleaved; values of {} B, {} keys, {}. Client and server share \
         the machine. Ratio: {} / {}.\n",
        std::thread::available_parallelism().map_or(0, |n| n.get()),
        plan.rounds,
        plan.seconds.as_secs_f64(),
        plan.value_size,
        plan.keys,
        if plan.leader { "the leader only" } else { "all members in turn" },
        b.name,
        a.name,
    );
    machine(&mut out, results);
    for group in plan.cells.chunk_by(|x, y| (x.members, x.fsync_ms) == (y.members, y.fsync_ms)) {
        table(&mut out, plan, results, group);
    }
    if !results.failures.is_empty() {
        let _ = writeln!(out, "## Failures\n");
        for failure in &results.failures {
            let _ = writeln!(out, "* {failure}");
        }
        let _ = writeln!(out);
    }
    verdict(&mut out, plan, results);
    out
}

pub fn json(plan: &Plan, results: &Results) -> Value {
    let raw = |figures: &[Figure]| figures.iter().map(|figure| figure.raw.clone()).collect::<Vec<_>>();
    let cells = results.cells.iter().map(|(cell, [a, b])| {
        json!({
            "members": cell.members, "fsync_ms": cell.fsync_ms, "op": cell.op.name(), "clients": cell.clients,
            "a": raw(a), "b": raw(b), "ratio": ratio(a, b, |f| f.ops_per_second),
            "cpu_ratio": ratio(a, b, |f| f.cpu_per_100k),
        })
    });
    let cells = cells.collect::<Vec<_>>();
    let echo: Vec<_> =
        results.echo.iter().map(|(clients, rounds)| json!({"clients": clients, "rounds": raw(rounds)})).collect();
    json!({
        "a": plan.sides[0].name, "b": plan.sides[1].name, "rounds": plan.rounds,
        "seconds": plan.seconds.as_secs_f64(), "value_size": plan.value_size, "keys": plan.keys,
        "fdatasync_per_second": results.fdatasync_per_second, "echo": echo, "cells": cells,
        "failures": results.failures,
    })
}

/// What the machine could do in those minutes, beside which everything below is to be read.
fn machine(out: &mut String, results: &Results) {
    let disk = &results.fdatasync_per_second;
    let _ = writeln!(out, "Disk: {} fdatasync/s on a growing file ({}).", whole(median(disk)), spread(disk));
    for (clients, figures) in &results.echo {
        let rates: Vec<_> = figures.iter().map(|figure| figure.ops_per_second).collect();
        let cpu: Vec<_> = figures.iter().map(|figure| figure.cpu_per_100k).collect();
        let _ = writeln!(
            out,
            "Echo server, {clients} clients: {} requests/s ({}), {:.2} CPU s / 100k.",
            whole(median(&rates)),
            spread(&rates),
            median(&cpu),
        );
    }
    let _ = writeln!(out);
}

fn table(out: &mut String, plan: &Plan, results: &Results, group: &[Cell]) {
    let [a, b] = [&plan.sides[0].name, &plan.sides[1].name];
    let (members, fsync) = (group[0].members, group[0].fsync_ms);
    let plural = if members == 1 { "member" } else { "members" };
    let speed = if fsync == 0 { "the disk's own fsync".into() } else { format!("fsync +{fsync} ms") };
    let _ = writeln!(out, "## {members} {plural}, {speed}\n");
    let _ = writeln!(
        out,
        "| operation | clients | {a} ops/s | {b} ops/s | ratio | {a} p50 / p99 ms | {b} p50 / p99 ms | {a} CPU s/100k \
         | {b} CPU s/100k | ratio | {a} RSS MiB | {b} RSS MiB |"
    );
    let _ = writeln!(out, "| --- {}|", "| ---: ".repeat(11));
    for cell in group {
        let Some([x, y]) = results.cells.get(cell) else { continue };
        let _ = write!(out, "| {} | {} ", cell.op.name(), cell.clients);
        let ops = |f: &[Figure]| whole(middle(f, |f| f.ops_per_second));
        let latency =
            |f: &[Figure]| format!("{:.2} / {:.2}", middle(f, |f| f.p50_us) / 1000.0, middle(f, |f| f.p99_us) / 1000.0);
        let _ = write!(out, "| {} | {} | {} ", ops(x), ops(y), times(ratio(x, y, |f| f.ops_per_second)));
        let _ = write!(out, "| {} | {} ", latency(x), latency(y));
        let cpu = |f: &[Figure]| decimal(middle(f, |f| f.cpu_per_100k));
        let _ = write!(out, "| {} | {} | {} ", cpu(x), cpu(y), times(ratio(x, y, |f| f.cpu_per_100k)));
        let memory = |f: &[Figure]| whole(middle(f, |f| f.rss_mib));
        let _ = writeln!(out, "| {} | {} |", memory(x), memory(y));
    }
    let high = |side: usize| {
        let figures = group.iter().filter_map(|cell| results.cells.get(cell)).flat_map(|sides| &sides[side]);
        figures.map(|figure| figure.rss_high_mib).fold(0.0, f64::max)
    };
    let _ = writeln!(out, "\nHighest RSS: {a} {} MiB, {b} {} MiB.\n", whole(high(0)), whole(high(1)));
}

/// The floor: puts and linearizable reads at 100 clients and more, at least A's.
fn verdict(out: &mut String, plan: &Plan, results: &Results) {
    let counted = |cell: &&Cell| cell.op != Op::Serializable && cell.clients >= 100;
    let mut ratios: Vec<(f64, &Cell)> = plan
        .cells
        .iter()
        .filter(counted)
        .map(|cell| {
            let ratio = results.cells.get(cell).and_then(|[a, b]| ratio(a, b, |f| f.ops_per_second));
            (ratio.unwrap_or(0.0), cell)
        })
        .collect();
    ratios.sort_by(|x, y| x.0.total_cmp(&y.0));
    let Some((least, cell)) = ratios.first() else { return };
    let reached = ratios.iter().filter(|(ratio, _)| *ratio >= 1.0).count();
    let _ = writeln!(
        out,
        "Puts and linearizable reads at 100 clients and more: {reached} of {} cells at least {}'s; the least is \
         {least:.2} ({}, {} clients, members {}, fsync +{} ms).",
        ratios.len(),
        plan.sides[0].name,
        cell.op.name(),
        cell.clients,
        cell.members,
        cell.fsync_ms,
    );
}

/// B's median over A's; `None` when one of them has nothing to show.
fn ratio(a: &[Figure], b: &[Figure], of: impl Fn(&Figure) -> f64 + Copy) -> Option<f64> {
    let (a, b) = (middle(a, of), middle(b, of));
    (a > 0.0 && b > 0.0).then(|| b / a)
}

fn middle(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    median(&figures.iter().map(of).collect::<Vec<_>>())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(*v), high.max(*v)));
    format!("{} to {}", whole(low), whole(high))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), decimal)
}

fn decimal(value: f64) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.2}") }
}

fn whole(value: f64) -> String {
    if value.is_nan() {
        return "-".into();
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

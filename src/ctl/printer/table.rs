//! `--write-out=table`: a box with centred, upper-case heads and right-aligned cells, as etcdctl draws it.
//!
//! Cells are folded between words at 30 columns, with the lines as even as possible; a longer word makes its column
//! as wide as itself.

use std::fmt::Write;

const FOLD_COLUMNS: usize = 30;

/// The box of `rows` under `head`.
pub fn draw(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<Vec<String>> = head.iter().map(|title| vec![title.to_uppercase()]).collect();
    let rows: Vec<Vec<Vec<String>>> = rows.iter().map(|row| row.iter().map(|cell| fold(cell)).collect()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]).map(|row| &row[column]);
            // A folded cell takes the whole fold, however short its lines turn out.
            let width = |cell: &Vec<String>| {
                let least = if cell.len() > 1 { FOLD_COLUMNS } else { 0 };
                cell.iter().map(|line| columns(line)).max().unwrap_or(0).max(least)
            };
            cells.map(width).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let rule = |out: &mut String| {
        widths.iter().for_each(|width| write!(out, "+{}", "-".repeat(width + 2)).expect("a string takes everything"));
        out.push_str("+\n");
    };
    rule(&mut out);
    line(&mut out, &head, &widths, 0, |gap| gap / 2);
    rule(&mut out);
    for row in &rows {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        (0..height).for_each(|at| line(&mut out, row, &widths, at, |gap| gap));
    }
    rule(&mut out);
    out
}

/// One line of a row; `left` says how much of a cell's spare room goes before it.
fn line(out: &mut String, row: &[Vec<String>], widths: &[usize], at: usize, left: impl Fn(usize) -> usize) {
    for (cell, width) in row.iter().zip(widths) {
        let text = cell.get(at).map_or("", String::as_str);
        let gap = width - columns(text);
        let before = left(gap);
        write!(out, "| {}{text}{} ", " ".repeat(before), " ".repeat(gap - before)).expect("a string takes everything");
    }
    out.push_str("|\n");
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

/// East Asian wide characters take two columns.
fn is_wide(c: char) -> bool {
    matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
}

/// A cell's lines: the fold with the least sum of squared slack, where the last line's slack is free.
fn fold(cell: &str) -> Vec<String> {
    if columns(cell) <= FOLD_COLUMNS {
        return vec![cell.to_string()];
    }
    let words: Vec<&str> = cell.split(' ').collect();
    let widths: Vec<usize> = words.iter().map(|word| columns(word)).collect();
    let limit = widths.iter().copied().max().unwrap_or(0).max(FOLD_COLUMNS);
    let width = |from: usize, to: usize| widths[from..to].iter().sum::<usize>() + (to - from - 1);
    // best[i]: the cost of the words from i on, and where their second line begins.
    let mut best = vec![(0usize, words.len()); words.len() + 1];
    for from in (0..words.len()).rev() {
        if width(from, words.len()) <= limit {
            best[from] = (0, words.len());
            continue;
        }
        best[from] = (from + 1..words.len())
            .take_while(|&to| width(from, to) <= limit)
            .map(|to| ((limit - width(from, to)).pow(2) + best[to].0, to))
            .min_by_key(|&(cost, _)| cost)
            .unwrap_or((usize::MAX / 2, from + 1));
    }
    let mut lines = Vec::new();
    let mut from = 0;
    while from < words.len() {
        let to = best[from].1;
        lines.push(words[from..to].join(" "));
        from = to;
    }
    lines
}

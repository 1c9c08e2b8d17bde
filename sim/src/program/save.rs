//! What is kept of a failure: the run as a scenario, its trace, its picture, and what was printed.

use std::fs;
use std::path::Path;

use super::options::write_file;
use super::output::{Keep, Row, Source, play_with};
use super::{Console, Trouble};
use crate::explain;
use crate::world::Options;

/// The folder is there, or can be made.
pub(crate) fn prepare(folder: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(folder)
        .map_err(|error| Trouble::Usage(format!("cannot make the folder {}: {error}", folder.display())))
}

/// Runs it once more, this time keeping everything, and writes `name.scenario`, `.trace`, `.html` and `.txt`. The row
/// that comes back has all of it; its hash tells whether it was the same run again.
pub(crate) fn save(
    console: &Console,
    folder: &Path,
    name: &str,
    source: Source,
    options: Options,
    bare: bool,
    repro: &str,
) -> Result<Row, Trouble> {
    let keep = Keep { trace: true, timeline: true, record: Some(console.record_head(repro)), ..Keep::default() };
    let (row, page) = play_with(source, options, keep, bare, |report| explain::html(name, report));
    let file = |extension: &str| folder.join(format!("{name}.{extension}"));
    write_file(&file("scenario"), "scenario", row.record.as_deref().unwrap_or_default())?;
    write_file(&file("trace"), "trace", row.trace.as_deref().unwrap_or_default())?;
    write_file(&file("html"), "page", &page)?;
    let mut text = format!("{}, {name}\n{}", console.version(), row.knobs).into_bytes();
    row.print(&mut text, repro)?;
    write_file(&file("txt"), "report", &String::from_utf8_lossy(&text))?;
    Ok(row)
}

//! `lockstep-sim explain`: a scenario's run as a picture.

use std::path::PathBuf;

use super::options::{read_scenario, write_file};
use super::output::{Keep, Source, play_with};
use super::{Console, Outcome, Trouble};
use crate::explain;
use crate::report::Report;
use crate::world::Options;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The scenario
    file: PathBuf,
    /// Write one self-contained page into this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the picture alone into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print what happened as text
    #[arg(long)]
    text: bool,
}

pub(crate) fn run(console: &mut Console, args: Args) -> Outcome {
    if args.html.is_none() && args.svg.is_none() && !args.text {
        return Err(Trouble::Usage("what is it to be: --html FILE, --svg FILE or --text?".to_owned()));
    }
    let (_, text) = read_scenario(&args.file)?;
    let source = Source::Text(text);
    let keep = Keep { timeline: true, ..Keep::default() };
    let name = args.file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let (html, svg, text) = (args.html.is_some(), args.svg.is_some(), args.text);
    let (_, (html, svg, text)) = play_with(source, Options::default(), keep, false, |report| {
        (html.then(|| explain::html(&name, report)), svg.then(|| picture(report)), text.then(|| explain::text(report)))
    });
    if let (Some(path), Some(page)) = (&args.html, html) {
        write_file(path, "page", &page)?;
    }
    if let (Some(path), Some(picture)) = (&args.svg, svg) {
        write_file(path, "picture", &picture)?;
    }
    if let Some(text) = text {
        write!(console.out, "{text}")?;
    }
    Ok(true)
}

/// Of the stretch of time that shows the failure.
fn picture(report: &Report) -> String {
    let (from_us, to_us) = explain::focus(report);
    explain::svg(report, from_us, to_us)
}

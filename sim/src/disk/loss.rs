//! What a crash leaves of what was not synced.
//!
//! Everything in doubt is a question to the caller: `choose(bound)` answers with a number below `bound`, and 0 is
//! always "lost". So a record of a crash is the few answers that were not 0. A file is asked about once as a whole (all
//! lost, all kept, or torn, coarsely or finely); only where it is torn, each run of adjacent sectors that the same
//! writes touched is asked about, and only a fine tear looks inside a run.

use std::collections::BTreeMap;

use rand_core::RngCore;

use super::SECTOR_BYTES;
use super::dir::Dir;
use super::file::{File, Pending, set_len};

/// What a crash does to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Everything,
    /// All of it survives, as after kill -9.
    Nothing,
    /// Of each file and each directory the first so many changes survive.
    Prefix,
    /// Any subset of sectors and of names survives: torn writes, and writes that overtook each other.
    Sectors,
}

impl Loss {
    pub const ALL: [Loss; 4] = [Loss::Everything, Loss::Nothing, Loss::Prefix, Loss::Sectors];

    /// As in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Everything => "everything",
            Loss::Nothing => "nothing",
            Loss::Prefix => "prefix",
            Loss::Sectors => "torn",
        }
    }

    pub fn parse(name: &str) -> Option<Loss> {
        Loss::ALL.into_iter().find(|loss| loss.name() == name)
    }
}

type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

/// Runs up to this long are torn sector by sector, longer ones at one place.
const FINE_SECTORS: usize = 8;

/// An answer out of bounds, as a person may write into a scenario, counts as the highest.
fn ask(choose: Choose, bound: usize) -> usize {
    if bound < 2 { 0 } else { choose(bound).min(bound - 1) }
}

impl Dir {
    pub fn crash(&mut self, loss: Loss, choose: Choose) {
        let pending = std::mem::take(&mut self.pending);
        let prefix = if loss == Loss::Prefix { ask(choose, pending.len() + 1) } else { 0 };
        for (position, change) in pending.iter().enumerate() {
            let survives = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Prefix => position < prefix,
                Loss::Sectors => ask(choose, 2) == 1,
            };
            if survives {
                change.apply(&mut self.durable);
            }
        }
        self.live.clone_from(&self.durable);
    }
}

impl File {
    pub fn crash(&mut self, loss: Loss, choose: Choose) {
        match loss {
            Loss::Everything => {}
            Loss::Nothing => self.sync(),
            Loss::Prefix => {
                let kept = ask(choose, self.pending.len() + 1);
                for pending in &self.pending[..kept] {
                    pending.apply(&mut self.durable);
                }
            }
            Loss::Sectors if self.pending.is_empty() => {}
            Loss::Sectors => match ask(choose, 4) {
                0 => {}
                1 => self.sync(),
                mode => self.tear(mode == 3, choose),
            },
        }
        self.pending.clear();
        self.live.clone_from(&self.durable);
        self.handles = 0;
    }

    /// Each sector keeps its own number of the writes that touched it.
    fn tear(&mut self, fine: bool, choose: Choose) {
        // A truncation that was lost takes with it what was done to the file after it.
        let mut len = self.durable.len();
        let mut kept = self.pending.len();
        for (position, pending) in self.pending.iter().enumerate() {
            let next = pending.len_after(len);
            if next < len && ask(choose, 2) == 0 {
                kept = position;
                break;
            }
            len = next;
        }
        let pending = &self.pending[..kept];

        let mut survive = BTreeMap::new();
        for run in Run::of(pending) {
            run.ask(fine, choose, &mut survive);
        }
        let final_len = surviving_len(pending, self.durable.len(), choose);
        for pending in pending {
            match pending {
                Pending::SetLen(len) => set_len(&mut self.durable, *len),
                Pending::Write { offset, data } => {
                    let end = offset + data.len();
                    if self.durable.len() < end {
                        set_len(&mut self.durable, end);
                    }
                    for sector in pending.sectors() {
                        let left: &mut usize = survive.get_mut(&sector).expect("every sector was asked about");
                        if *left == 0 {
                            continue;
                        }
                        *left -= 1;
                        let from = (sector * SECTOR_BYTES as usize).max(*offset);
                        let to = ((sector + 1) * SECTOR_BYTES as usize).min(end);
                        self.durable[from..to].copy_from_slice(&data[from - offset..to - offset]);
                    }
                }
            }
        }
        set_len(&mut self.durable, final_len);
    }
}

/// Adjacent sectors that the same writes touched.
struct Run {
    first: usize,
    sectors: usize,
    writes: usize,
}

impl Run {
    fn of(pending: &[Pending]) -> Vec<Run> {
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, pending) in pending.iter().enumerate() {
            for sector in pending.sectors() {
                touched.entry(sector).or_default().push(number);
            }
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut before: Option<(usize, Vec<usize>)> = None;
        for (sector, writes) in touched {
            match (runs.last_mut(), before) {
                (Some(run), Some((last, same))) if last + 1 == sector && same == writes => run.sectors += 1,
                _ => runs.push(Run { first: sector, sectors: 1, writes: writes.len() }),
            }
            before = Some((sector, writes));
        }
        runs
    }

    /// How many of its writes each sector keeps.
    fn ask(&self, fine: bool, choose: Choose, survive: &mut BTreeMap<usize, usize>) {
        let sectors = self.first..self.first + self.sectors;
        if fine && self.sectors <= FINE_SECTORS {
            survive.extend(sectors.map(|sector| (sector, ask(choose, self.writes + 1))));
        } else if fine {
            // The first so many are kept, or the last.
            let kept = match ask(choose, 2 * self.sectors) {
                front if front <= self.sectors => self.first..self.first + front,
                back => self.first + 2 * self.sectors - back..sectors.end,
            };
            survive.extend(sectors.map(|sector| (sector, if kept.contains(&sector) { self.writes } else { 0 })));
        } else {
            let kept = ask(choose, self.writes + 1);
            survive.extend(sectors.map(|sector| (sector, kept)));
        }
    }
}

/// The length may be that after any of the changes that lengthen the file; the truncations left in `pending` survived.
fn surviving_len(pending: &[Pending], durable: usize, choose: Choose) -> usize {
    let mut len = durable;
    let mut growths = 0;
    for pending in pending {
        let next = pending.len_after(len);
        growths += usize::from(next > len);
        len = next;
    }
    let mut kept = ask(choose, growths + 1);
    let (mut full, mut len) = (durable, durable);
    for pending in pending {
        let next = pending.len_after(full);
        if next > full && kept > 0 {
            kept -= 1;
            len = len.max(next);
        } else if next < full {
            len = len.min(next);
        }
        full = next;
    }
    len
}

/// Answers by chance, for whoever needs no record. The bias of a remainder does not matter here, its being the same
/// everywhere does.
pub fn chance(random: &mut dyn RngCore) -> impl FnMut(usize) -> usize {
    |bound| (random.next_u64() % bound as u64) as usize
}

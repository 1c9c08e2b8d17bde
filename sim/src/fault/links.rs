//! Whom a fault hits and for how long: the words that kinds of fault share, and how chance chooses among them.
//!
//! Half of the time chance looks at somebody who leads, because that is where it hurts. Times are drawn small or large,
//! and whole milliseconds, for the sake of who reads the line.

use std::fmt;

use crate::fault::{Sight, Words, print_members};
use crate::network::Network;
use crate::random::Random;
use crate::world::World;

/// A line that says more is a slip of the pen, and would take for ever.
const LONGEST_US: u64 = 86_400 * 1_000_000;

/// Directed links: `1->2`, `3->1,2`, `*->3`; `*` is everyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    from: Ends,
    to: Ends,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ends {
    Everyone,
    These(Vec<u64>),
}

impl Links {
    pub fn between(from: &[u64], to: &[u64]) -> Links {
        Links { from: Ends::These(from.to_vec()), to: Ends::These(to.to_vec()) }
    }

    /// One link, or all from a member, or all to one; rarely every link there is.
    pub fn draw(random: &mut Random, sight: &Sight) -> Option<Links> {
        let one = anyone(random, sight)?;
        let others: Vec<u64> = sight.members.iter().copied().filter(|id| *id != one).collect();
        if others.is_empty() {
            return None;
        }
        let other = [*random.pick(&others)];
        let one = [one];
        Some(match random.below(9) {
            0 | 1 => Links::between(&one, &other),
            2 | 3 => Links::between(&other, &one),
            4 | 5 => Links::between(&one, &others),
            6 | 7 => Links::between(&others, &one),
            _ => Links::between(&sight.members, &sight.members),
        })
    }

    pub fn parse(words: &mut Words) -> Result<Links, String> {
        let word = words.word("links like 1->2, 3->* or 1,2->3")?;
        let links = word.split_once("->").and_then(|(from, to)| Some(Links { from: ends(from)?, to: ends(to)? }));
        links.ok_or_else(|| format!("{word:?} is not links like 1->2, 3->* or 1,2->3"))
    }

    pub fn covers(&self, from: u64, to: u64) -> bool {
        from != to && self.from.has(from) && self.to.has(to)
    }

    /// Each of these links that joins two of `ids`.
    pub fn pairs(&self, ids: &[u64]) -> Vec<(u64, u64)> {
        let all = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        all.filter(|(from, to)| self.covers(*from, *to)).collect()
    }

    /// Those that are named.
    pub fn members(&self) -> Vec<u64> {
        let mut members = Vec::new();
        for ends in [&self.from, &self.to] {
            if let Ends::These(ids) = ends {
                members.extend(ids);
            }
        }
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Does this to each link that there is in this world, if there is one.
    pub fn strike(&self, world: &mut World, each: impl Fn(&mut Network, u64, u64)) -> Result<(), String> {
        let pairs = self.pairs(&world.ids());
        if pairs.is_empty() {
            return Err(format!("no link of this cluster is one of {self}"));
        }
        for (from, to) in pairs {
            each(world.network(), from, to);
        }
        Ok(())
    }

    pub fn end(&self, world: &mut World, each: impl Fn(&mut Network, u64, u64)) {
        for (from, to) in self.pairs(&world.ids()) {
            each(world.network(), from, to);
        }
    }
}

impl Ends {
    fn has(&self, id: u64) -> bool {
        match self {
            Ends::Everyone => true,
            Ends::These(ids) => ids.contains(&id),
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}->{}", self.from, self.to)
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ends::Everyone => out.write_str("*"),
            Ends::These(ids) => out.write_str(&print_members(ids)),
        }
    }
}

/// A member, up or not; a leader half of the time.
pub fn anyone(random: &mut Random, sight: &Sight) -> Option<u64> {
    leader_or(random, sight, &sight.members)
}

/// A member that runs; a leader half of the time.
pub fn someone_up(random: &mut Random, sight: &Sight) -> Option<u64> {
    leader_or(random, sight, &sight.up)
}

/// The members in a drawn order.
pub fn shuffled(random: &mut Random, members: &[u64]) -> Vec<u64> {
    let mut order = members.to_vec();
    for end in (1..order.len()).rev() {
        order.swap(end, random.below(end as u64 + 1) as usize);
    }
    order
}

/// How long a fault lasts: all, an eighth or a hundredth of what the knobs allow, at most.
pub fn duration_us(random: &mut Random, sight: &Sight) -> u64 {
    let most_ms = sight.knobs.fault_most_ms.max(1);
    let most_ms = *random.pick(&[most_ms, most_ms, most_ms / 8, most_ms / 100]);
    random.between(1, most_ms.max(1)) * 1_000
}

/// A time that a fault is given: `by 2s`, `for 20ms`.
pub fn time_after(words: &mut Words, preposition: &str) -> Result<u64, String> {
    words.expect(preposition)?;
    time(words, preposition)
}

/// The time alone; `what` it is for.
pub fn time(words: &mut Words, what: &str) -> Result<u64, String> {
    match words.time_us(what)? {
        0 => Err(format!("{what}: \"0s\" is no time at all")),
        us if us > LONGEST_US => Err(format!("{what}: {us}us is more than a day")),
        us => Ok(us),
    }
}

/// How long it lasts, which ends the line.
pub fn lasting(words: &mut Words) -> Result<u64, String> {
    let lasts_us = time_after(words, "for")?;
    words.end()?;
    Ok(lasts_us)
}

/// `200 permille`
pub fn permille(words: &mut Words) -> Result<u64, String> {
    let permille = words.number("how many permille")?;
    words.expect("permille")?;
    if permille == 0 || permille > 1_000 {
        return Err(format!("\"{permille}\" permille is not between 1 and 1000"));
    }
    Ok(permille)
}

/// A member of this world, or why there is nobody to hit.
pub fn present(world: &World, member: u64) -> Result<(), String> {
    if world.takes_part(member) { Ok(()) } else { Err(format!("there is no member {member}")) }
}

fn leader_or(random: &mut Random, sight: &Sight, others: &[u64]) -> Option<u64> {
    let leaders: Vec<u64> = sight.leaders.iter().copied().filter(|id| others.contains(id)).collect();
    if others.is_empty() {
        return None;
    }
    let wants_leader = random.permille(500) && !leaders.is_empty();
    Some(*random.pick(if wants_leader { &leaders } else { others }))
}

fn ends(text: &str) -> Option<Ends> {
    if text == "*" {
        return Some(Ends::Everyone);
    }
    let ids: Option<Vec<u64>> = text.split(',').map(|id| id.parse().ok().filter(|id| *id > 0)).collect();
    ids.map(Ends::These)
}

//! `out 4 dead`, `out 4 cut`, `out 4 deaf`, `out 4 mute`, `out 4 but 2`: a member that stays out of the liveness phase.
//!
//! # Fault model
//!
//! The liveness phase is about the rest: a majority is healthy and connected, while this member, for all of the phase,
//! is dead, cut off both ways, hears nobody (deaf), is heard by nobody (mute), or is connected to one member only (the
//! partial partition of Cloudflare's outage of 2020). Never drawn as weather; the world draws it when the phase begins.

use std::fmt;

use super::links::present;
use super::{Fault, Kind, Sight, Words};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "out", draw: |_, _| None, parse: |words| Ok(Box::new(Out::parse(words)?)) };

/// Of four there may be three, once a removal comes through.
const LEAST_FOR_BUT: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    member: u64,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Dead,
    Cut,
    Deaf,
    Mute,
    But(u64),
}

impl Out {
    /// Fewer than half of the members, each in its own way.
    pub fn draw(random: &mut Random, sight: &Sight) -> Vec<Out> {
        let mut members = sight.members.clone();
        let most = (members.len() as u64 - 1) / 2;
        let count = random.between(0, most);
        let mut outs = Vec::new();
        for _ in 0..count {
            let member = members.remove(random.below(members.len() as u64) as usize);
            outs.push((member, random.below(5)));
        }
        let how = |kind| match kind {
            0 => How::Dead,
            1 => How::Cut,
            2 => How::Deaf,
            3 => How::Mute,
            // Two members of few may be a majority, and get on without the others.
            _ if sight.voters.len() < LEAST_FOR_BUT => How::Cut,
            _ => How::But(*random.pick(&members)),
        };
        let hows: Vec<How> = outs.iter().map(|(_, kind)| *kind).map(how).collect();
        outs.into_iter().zip(hows).map(|((member, _), how)| Out { member, how }).collect()
    }

    fn parse(words: &mut Words) -> Result<Out, String> {
        let member = words.number("a member")?;
        let how = match words.word("dead, cut, deaf, mute or but")? {
            "dead" => How::Dead,
            "cut" => How::Cut,
            "deaf" => How::Deaf,
            "mute" => How::Mute,
            "but" => How::But(words.number("the member that it still sees")?),
            other => return Err(format!("out: {other:?} is not dead, cut, deaf, mute or but")),
        };
        words.end()?;
        Ok(Out { member, how })
    }

    /// Links that it has no more.
    fn links(&self, ids: &[u64]) -> Vec<(u64, u64)> {
        let others = ids.iter().copied().filter(|id| *id != self.member);
        let (to, from) = match self.how {
            How::Dead => (false, false),
            How::Cut | How::But(_) => (true, true),
            How::Deaf => (true, false),
            How::Mute => (false, true),
        };
        let lost = others.filter(|id| self.how != How::But(*id));
        lost.flat_map(|id| [(to, (id, self.member)), (from, (self.member, id))])
            .filter_map(|(is_lost, link)| is_lost.then_some(link))
            .collect()
    }
}

impl Fault for Out {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(u64::MAX)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        for (from, to) in self.links(&world.ids()) {
            world.network().cut(from, to);
        }
        world.put_out(self.member, self.how == How::Dead);
        Ok(())
    }

    fn end(&self, world: &mut World) {
        for (from, to) in self.links(&world.ids()) {
            world.network().uncut(from, to);
        }
        world.put_in(self.member);
    }
}

impl fmt::Display for Out {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = self.member;
        match self.how {
            How::Dead => write!(out, "out {member} dead"),
            How::Cut => write!(out, "out {member} cut"),
            How::Deaf => write!(out, "out {member} deaf"),
            How::Mute => write!(out, "out {member} mute"),
            How::But(one) => write!(out, "out {member} but {one}"),
        }
    }
}

//! What scenarios written by hand do to messages of one kind; of these, chance draws only `repeat`, of every kind.
//!
//! # Model
//!
//! ```text
//! drop 1->* MsgApp for 3s                      lost in silence
//! hold 3->1 MsgHeartbeatResp for 5s            kept, and brought at the end, in order
//! repeat 2->1 MsgReadIndex after 2s for 1s     each that is sent within the 1s comes again 2s after the first
//! ```
//!
//! Kinds have etcd's names, as the trace has them; `*` is every kind. They are how a known bug is told in a few lines:
//! the stale read of etcd #20418 is one repeat and one hold.
//!
//! A repeat of everything is what a proxy does that plays its buffer once more: unlike under `duplicate` the copies
//! keep their order and their distances, so that whole conversations come again, requests and then the answers to what
//! came of them, in the time of another leader.

use std::fmt;

use lockstep_proto::raftpb::MessageType;

use crate::fault::links::{self, Links, lasting, time_after};
use crate::fault::{Fault, Kind, Sight, Words, print_time};
use crate::network::{Act, Rule};
use crate::random::Random;
use crate::world::World;

pub const DROP: Kind = Kind { name: "drop", draw: |_, _| None, parse: parse_drop };
pub const HOLD: Kind = Kind { name: "hold", draw: |_, _| None, parse: parse_hold };
pub const REPEAT: Kind = Kind { name: "repeat", draw: draw_repeat, parse: parse_repeat };

#[derive(Debug)]
struct Ruled {
    rule: Rule,
    lasts_us: u64,
}

impl Fault for Ruled {
    fn kind(&self) -> &'static str {
        match self.rule.act {
            Act::Drop => DROP.name,
            Act::Hold => HOLD.name,
            Act::Repeat { .. } => REPEAT.name,
        }
    }

    fn members(&self) -> Vec<u64> {
        self.rule.links.members()
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.lasts_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        if self.rule.links.pairs(&world.ids()).is_empty() {
            return Err(format!("no link of this cluster is one of {}", self.rule.links));
        }
        world.network().add_rule(self.rule.clone());
        Ok(())
    }

    fn end(&self, world: &mut World) {
        world.network().remove_rule(&self.rule);
        world.release_held();
    }
}

impl fmt::Display for Ruled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.rule.kind.map_or("*", |kind| kind.as_str_name());
        write!(out, "{} {} {kind} ", self.kind(), self.rule.links)?;
        if let Act::Repeat { after_us } = self.rule.act {
            write!(out, "after {} ", print_time(after_us))?;
        }
        write!(out, "for {}", print_time(self.lasts_us))
    }
}

fn draw_repeat(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let all_to = |one: u64| {
        let others: Vec<u64> = sight.members.iter().copied().filter(|id| *id != one).collect();
        (!others.is_empty()).then(|| Links::between(&others, &[one]))
    };
    // A box in front of one member, more often than anywhere.
    let links = if random.permille(500) { all_to(links::anyone(random, sight)?)? } else { Links::draw(random, sight)? };
    let (least_ms, most_ms) = *random.pick(&[(1, 50), (50, 1_000), (1_000, 3_000), (1_000, 3_000)]);
    let act = Act::Repeat { after_us: random.between(least_ms, most_ms) * 1_000 };
    Some(Box::new(Ruled { rule: Rule { links, kind: None, act }, lasts_us: links::duration_us(random, sight) }))
}

fn parse_drop(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    parse(words, |_| Ok(Act::Drop))
}

fn parse_hold(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    parse(words, |_| Ok(Act::Hold))
}

fn parse_repeat(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    parse(words, |words| Ok(Act::Repeat { after_us: time_after(words, "after")? }))
}

fn parse(words: &mut Words, act: fn(&mut Words) -> Result<Act, String>) -> Result<Box<dyn Fault>, String> {
    let links = Links::parse(words)?;
    let kind = parse_kind(words.word("a kind of message like MsgApp")?)?;
    let act = act(words)?;
    Ok(Box::new(Ruled { rule: Rule { links, kind, act }, lasts_us: lasting(words)? }))
}

/// raft-rs writes out what etcd shortens: `MsgHeartbeatResponse` is taken, too.
fn parse_kind(word: &str) -> Result<Option<MessageType>, String> {
    if word == "*" {
        return Ok(None);
    }
    let short = word.strip_suffix("onse").filter(|short| short.ends_with("Resp")).unwrap_or(word);
    let kind = MessageType::from_str_name(short);
    kind.map(Some).ok_or_else(|| format!("{word:?} is not a kind of message like MsgApp or MsgHeartbeatResp"))
}

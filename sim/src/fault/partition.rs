//! Who cannot hear whom: links cut in the shapes in which networks fall apart.
//!
//! # Model
//!
//! ```text
//! one-way 1->2 for 2s            one direction: 2 hears nothing of 1, 1 hears 2; also 3->*, *->3
//! isolate 3 for 2s               nothing to it, nothing from it
//! split 1,2|3,4,5 for 2s         two groups that hear nothing of each other
//! bridge 1,2|3|4,5 for 2s        two groups that have only the members in the middle in common
//! ring 1,2,3,4,5 for 2s          each hears its two neighbours, the last one being the first one's
//! ```
//!
//! What is sent over a cut is lost and so is what would arrive over it; the sender's transport notices. Cuts are
//! counted, so overlapping shapes are all there until each has ended by itself. Members that a shape does not name are
//! not touched by it.

use std::fmt;

use crate::fault::links::{self, Links, lasting, shuffled};
use crate::fault::{Fault, Kind, Sight, Words, print_members, print_time};
use crate::random::Random;
use crate::world::World;

pub const ONE_WAY: Kind = Kind { name: "one-way", draw: draw_one_way, parse: parse_one_way };
pub const ISOLATE: Kind = Kind { name: "isolate", draw: draw_isolate, parse: parse_isolate };
pub const SPLIT: Kind = Kind { name: "split", draw: draw_split, parse: parse_split };
pub const BRIDGE: Kind = Kind { name: "bridge", draw: draw_bridge, parse: parse_bridge };
pub const RING: Kind = Kind { name: "ring", draw: draw_ring, parse: parse_ring };

#[derive(Debug)]
struct Partition {
    shape: Shape,
    lasts_us: u64,
}

#[derive(Debug)]
enum Shape {
    OneWay(Links),
    Isolate(u64),
    Split { left: Vec<u64>, right: Vec<u64> },
    Bridge { left: Vec<u64>, middle: Vec<u64>, right: Vec<u64> },
    Ring(Vec<u64>),
}

impl Shape {
    /// The links that it cuts, of a cluster of these members.
    fn cuts(&self, ids: &[u64]) -> Vec<(u64, u64)> {
        let is_cut = |from: u64, to: u64| match self {
            Shape::OneWay(links) => links.covers(from, to),
            Shape::Isolate(member) => from == *member || to == *member,
            Shape::Split { left, right } | Shape::Bridge { left, right, .. } => {
                (left.contains(&from) && right.contains(&to)) || (right.contains(&from) && left.contains(&to))
            }
            Shape::Ring(ring) => {
                let place = |id| ring.iter().position(|member| *member == id);
                let (Some(from), Some(to)) = (place(from), place(to)) else { return false };
                (from + 1) % ring.len() != to && (to + 1) % ring.len() != from
            }
        };
        let all = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        all.filter(|(from, to)| from != to && is_cut(*from, *to)).collect()
    }
}

impl Fault for Partition {
    fn kind(&self) -> &'static str {
        match self.shape {
            Shape::OneWay(_) => ONE_WAY.name,
            Shape::Isolate(_) => ISOLATE.name,
            Shape::Split { .. } => SPLIT.name,
            Shape::Bridge { .. } => BRIDGE.name,
            Shape::Ring(_) => RING.name,
        }
    }

    fn members(&self) -> Vec<u64> {
        let mut members = match &self.shape {
            Shape::OneWay(links) => links.members(),
            Shape::Isolate(member) => vec![*member],
            Shape::Split { left, right } => [&left[..], right].concat(),
            Shape::Bridge { left, middle, right } => [&left[..], middle, right].concat(),
            Shape::Ring(ring) => ring.clone(),
        };
        members.sort_unstable();
        members
    }

    fn lasts_us(&self) -> Option<u64> {
        Some(self.lasts_us)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        let cuts = self.shape.cuts(&world.ids());
        if cuts.is_empty() {
            return Err(format!("no link of this cluster is cut by {}", self.shape));
        }
        for (from, to) in cuts {
            world.network().cut(from, to);
        }
        Ok(())
    }

    fn end(&self, world: &mut World) {
        for (from, to) in self.shape.cuts(&world.ids()) {
            world.network().uncut(from, to);
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} for {}", self.kind(), self.shape, print_time(self.lasts_us))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::OneWay(links) => write!(out, "{links}"),
            Shape::Isolate(member) => write!(out, "{member}"),
            Shape::Split { left, right } => write!(out, "{}|{}", print_members(left), print_members(right)),
            Shape::Bridge { left, middle, right } => {
                write!(out, "{}|{}|{}", print_members(left), print_members(middle), print_members(right))
            }
            Shape::Ring(ring) => out.write_str(&print_members(ring)),
        }
    }
}

fn draw_one_way(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let one = links::anyone(random, sight)?;
    let others: Vec<u64> = shuffled(random, &sight.members).into_iter().filter(|id| *id != one).collect();
    let count = if random.permille(500) { others.len() } else { 1 };
    let (one, others) = ([one], sorted(others.get(..count)?));
    if others.is_empty() {
        return None;
    }
    let is_dumb = random.permille(500);
    let links = if is_dumb { Links::between(&one, &others) } else { Links::between(&others, &one) };
    drawn(random, sight, Shape::OneWay(links))
}

fn draw_isolate(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    if sight.members.len() < 2 {
        return None;
    }
    let member = links::anyone(random, sight)?;
    drawn(random, sight, Shape::Isolate(member))
}

fn draw_split(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let order = shuffled(random, &sight.members);
    let most = (order.len() as u64).checked_sub(1).filter(|most| *most > 0)?;
    let (left, right) = order.split_at(random.between(1, most) as usize);
    drawn(random, sight, Shape::Split { left: sorted(left), right: sorted(right) })
}

fn draw_bridge(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let order = shuffled(random, &sight.members);
    let [middle, left, rest @ ..] = &order[..] else { return None };
    if rest.is_empty() {
        return None;
    }
    let (more, right) = rest.split_at(random.below(rest.len() as u64) as usize);
    let left = sorted(&[&[*left], more].concat());
    drawn(random, sight, Shape::Bridge { left, middle: vec![*middle], right: sorted(right) })
}

fn draw_ring(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    // In a ring of three everyone is everyone's neighbour.
    if sight.members.len() < 4 {
        return None;
    }
    let ring = shuffled(random, &sight.members);
    drawn(random, sight, Shape::Ring(ring))
}

fn parse_one_way(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let links = Links::parse(words)?;
    parsed(words, Shape::OneWay(links))
}

fn parse_isolate(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("a member")?;
    parsed(words, Shape::Isolate(member))
}

fn parse_split(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let [left, right] = groups(words, "two groups like 1,2|3,4,5")?;
    parsed(words, Shape::Split { left, right })
}

fn parse_bridge(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let [left, middle, right] = groups(words, "three groups like 1,2|3|4,5")?;
    parsed(words, Shape::Bridge { left, middle, right })
}

fn parse_ring(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let [ring] = groups(words, "a ring like 1,2,3,4")?;
    parsed(words, Shape::Ring(ring))
}

fn drawn(random: &mut Random, sight: &Sight, shape: Shape) -> Option<Box<dyn Fault>> {
    Some(Box::new(Partition { shape, lasts_us: links::duration_us(random, sight) }))
}

fn parsed(words: &mut Words, shape: Shape) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Partition { shape, lasts_us: lasting(words)? }))
}

/// So many groups of members, nobody in two of them.
fn groups<const COUNT: usize>(words: &mut Words, what: &str) -> Result<[Vec<u64>; COUNT], String> {
    let word = words.word(what)?;
    let group = |text: &str| text.split(',').map(|id| id.parse().ok()).collect::<Option<Vec<u64>>>();
    let groups = word.split('|').map(group).collect::<Option<Vec<Vec<u64>>>>();
    let groups: [Vec<u64>; COUNT] =
        groups.and_then(|groups| groups.try_into().ok()).ok_or_else(|| format!("{word:?} is not {what}"))?;
    let mut all = groups.concat();
    all.sort_unstable();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("{word:?} names a member twice"));
    }
    Ok(groups)
}

fn sorted(members: &[u64]) -> Vec<u64> {
    let mut members = members.to_vec();
    members.sort_unstable();
    members
}

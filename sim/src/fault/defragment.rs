//! `defragment 2`: somebody has a member write its store's file anew.
//!
//! # Model
//!
//! No fault but an operator's command, and the time in which crashes, full disks and failing fsyncs are told apart from
//! those at rest. Commits go on between the steps of the copying. A member that is copying already answers both
//! together.

use std::fmt;

use crate::fault::links::{self, present};
use crate::fault::{Fault, Kind, Sight, Words};
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "defragment", draw, parse };

#[derive(Debug)]
struct Defragment {
    member: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = links::someone_up(random, sight)?;
    Some(Box::new(Defragment { member }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    Ok(Box::new(Defragment { member: words.number("a member")? }))
}

impl Fault for Defragment {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.member]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.member)?;
        if !world.is_up(self.member) {
            return Err(format!("member {} is down", self.member));
        }
        world.machine(self.member).member.defragment();
        Ok(())
    }
}

impl fmt::Display for Defragment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", KIND.name, self.member)
    }
}

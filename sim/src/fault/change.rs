//! The membership changes: `add`, `learner`, `promote`, `remove`, `update`, `replace`, `move-leader`.
//!
//! # Model
//!
//! No faults but an operator's commands, at the worst of times. A member is asked for the change, once; the request may
//! be lost as any other. Who is added has a machine with nothing on its disk, which is started as soon as any member
//! knows of it; who is removed goes a second after it has heard of that, and runs on if it never does. `replace` is
//! what is done about a machine that is lost for good, disk and all: the member is removed, and another one is added.
//!
//! ```text
//! add 6 by 2                  a voter
//! learner 6 by 2              one that does not vote yet
//! promote 6 by 2
//! remove 3 by 2
//! update 3 to 2391 by 2       3 is to be found at another port
//! replace 3 with 6 by 2
//! move-leader 4               whoever leads hands over
//! ```

use std::fmt;

use lockstep::member::membership::{ChangeContext, Member};
use lockstep::member::raft::Input;
use lockstep_proto::raftpb::{ConfChange, ConfChangeType};

use super::crash::running;
use super::links::{self, present};
use super::{Fault, Kind, Sight, Words};
use crate::random::Random;
use crate::world::World;

pub const ADD: Kind = Kind { name: "add", draw: draw_add, parse: |words| parse("add", words) };
pub const LEARNER: Kind = Kind { name: "learner", draw: draw_learner, parse: |words| parse("learner", words) };
pub const PROMOTE: Kind = Kind { name: "promote", draw: draw_promote, parse: |words| parse("promote", words) };
pub const REMOVE: Kind = Kind { name: "remove", draw: draw_remove, parse: |words| parse("remove", words) };
pub const UPDATE: Kind = Kind { name: "update", draw: draw_update, parse: |words| parse("update", words) };
pub const REPLACE: Kind = Kind { name: "replace", draw: draw_replace, parse: parse_replace };
pub const MOVE_LEADER: Kind = Kind { name: "move-leader", draw: draw_move_leader, parse: parse_move_leader };

/// No cluster grows beyond this by chance.
pub const MOST_MEMBERS: usize = 7;
const PEER_PORT: u64 = 2380;

/// Whether a kind of fault is one of these.
pub fn is_one(kind: &str) -> bool {
    [ADD, LEARNER, PROMOTE, REMOVE, UPDATE, REPLACE, MOVE_LEADER].iter().any(|change| change.name == kind)
}

/// What a change does to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub what: What,
    pub member: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Add,
    Learner,
    Promote,
    Remove,
    /// To this port.
    Update(u64),
}

impl Change {
    /// As it is proposed.
    pub fn to_conf_change(self) -> ConfChange {
        let Change { what, member: id } = self;
        let port = if let What::Update(port) = what { port } else { PEER_PORT };
        let peer_urls = vec![format!("http://m{id}:{port}")];
        let member = Member { id, peer_urls, is_learner: what == What::Learner, ..Member::default() };
        let context = ChangeContext { member, is_promote: what == What::Promote, max_learners: None };
        let kind = match what {
            What::Add | What::Promote => ConfChangeType::ConfChangeAddNode,
            What::Learner => ConfChangeType::ConfChangeAddLearnerNode,
            What::Remove => ConfChangeType::ConfChangeRemoveNode,
            What::Update(_) => ConfChangeType::ConfChangeUpdateNode,
        };
        let context = Some(context.to_json().into());
        ConfChange { id: None, r#type: Some(kind as i32), node_id: Some(id), context }
    }
}

/// A change that this member is asked for.
#[derive(Debug)]
struct Ask {
    change: Change,
    by: u64,
}

fn asked(random: &mut Random, sight: &Sight, what: What, member: u64) -> Option<Box<dyn Fault>> {
    let by = links::someone_up(random, sight)?;
    Some(Box::new(Ask { change: Change { what, member }, by }))
}

fn draw_add(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    asked(random, sight, What::Add, *sight.spares.first()?)
}

fn draw_learner(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    // One at a time is what a cluster takes; sometimes more are tried.
    let spare = sight.spares.first().filter(|_| sight.learners.is_empty() || random.permille(200))?;
    asked(random, sight, What::Learner, *spare)
}

fn draw_promote(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = *sight.learners.first()?;
    asked(random, sight, What::Promote, member)
}

fn draw_remove(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = match sight.lost.first() {
        Some(lost) => *lost,
        None => links::anyone(random, sight)?,
    };
    asked(random, sight, What::Remove, member)
}

fn draw_update(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let member = match sight.learners.first().filter(|_| random.permille(500)) {
        Some(learner) => *learner,
        None => links::anyone(random, sight)?,
    };
    let port = PEER_PORT + random.between(1, 9);
    asked(random, sight, What::Update(port), member)
}

fn parse(kind: &'static str, words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let member = words.number("the member")?;
    let what = match kind {
        "add" => What::Add,
        "learner" => What::Learner,
        "promote" => What::Promote,
        "remove" => What::Remove,
        _ => {
            words.expect("to")?;
            What::Update(words.number("a port")?)
        }
    };
    words.expect("by")?;
    let by = words.number("whom it is asked of")?;
    words.end()?;
    Ok(Box::new(Ask { change: Change { what, member }, by }))
}

impl Fault for Ask {
    fn kind(&self) -> &'static str {
        match self.change.what {
            What::Add => ADD.name,
            What::Learner => LEARNER.name,
            What::Promote => PROMOTE.name,
            What::Remove => REMOVE.name,
            What::Update(_) => UPDATE.name,
        }
    }

    fn members(&self) -> Vec<u64> {
        vec![self.change.member]
    }

    fn changes(&self) -> Vec<Change> {
        vec![self.change]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        running(world, self.by)?;
        world.change_membership(self.by, self.change);
        Ok(())
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind(), self.change.member)?;
        if let What::Update(port) = self.change.what {
            write!(out, " to {port}")?;
        }
        write!(out, " by {}", self.by)
    }
}

/// A machine is lost for good, and its member gives way to another.
#[derive(Debug)]
struct Replace {
    lost: u64,
    with: u64,
    by: u64,
}

fn draw_replace(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let with = *sight.spares.first()?;
    let voters: Vec<u64> = sight.voters.iter().copied().filter(|id| sight.members.contains(id)).collect();
    let lost = if voters.is_empty() { return None } else { *random.pick(&voters) };
    let others: Vec<u64> = sight.up.iter().copied().filter(|id| *id != lost).collect();
    let by = if others.is_empty() { return None } else { *random.pick(&others) };
    Some(Box::new(Replace { lost, with, by }))
}

fn parse_replace(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let lost = words.number("the member that is lost")?;
    words.expect("with")?;
    let with = words.number("the member that comes")?;
    words.expect("by")?;
    let by = words.number("whom it is asked of")?;
    words.end()?;
    Ok(Box::new(Replace { lost, with, by }))
}

impl Fault for Replace {
    fn kind(&self) -> &'static str {
        REPLACE.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.lost, self.with]
    }

    fn changes(&self) -> Vec<Change> {
        let remove = Change { what: What::Remove, member: self.lost };
        vec![remove, Change { what: What::Add, member: self.with }]
    }

    fn loses(&self) -> Option<u64> {
        Some(self.lost)
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        present(world, self.lost)?;
        running(world, self.by)?;
        if self.by == self.lost {
            return Err(format!("member {} is to be lost itself", self.by));
        }
        world.lose(self.lost);
        for change in self.changes() {
            world.change_membership(self.by, change);
        }
        Ok(())
    }
}

impl fmt::Display for Replace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} with {} by {}", REPLACE.name, self.lost, self.with, self.by)
    }
}

/// Whoever leads is told to hand over.
#[derive(Debug)]
struct MoveLeader {
    to: u64,
}

fn draw_move_leader(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let voters: Vec<u64> = sight.voters.iter().copied().filter(|id| !sight.leaders.contains(id)).collect();
    if voters.is_empty() || sight.leaders.is_empty() {
        return None;
    }
    Some(Box::new(MoveLeader { to: *random.pick(&voters) }))
}

fn parse_move_leader(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let to = words.number("the member that is to lead")?;
    words.end()?;
    Ok(Box::new(MoveLeader { to }))
}

impl Fault for MoveLeader {
    fn kind(&self) -> &'static str {
        MOVE_LEADER.name
    }

    fn members(&self) -> Vec<u64> {
        vec![self.to]
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        let leader = *world.leaders().last().ok_or("nobody leads")?;
        world.machine(leader).member.input(Input::Transfer(self.to));
        world.wake(leader);
        Ok(())
    }
}

impl fmt::Display for MoveLeader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", MOVE_LEADER.name, self.to)
    }
}

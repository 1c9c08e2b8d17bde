//! All machines lose their power at once, as when a data centre does: `crash-all`.
//!
//! Model: as [`super::crash`], for every member that is up, each with its own loss of what was not synced; those that
//! are down already stay so for as long as they would have. All boot again after the same time. A cluster survives it,
//! since what was acknowledged was synced on a majority.
//!
//! ```text
//! crash-all everything,torn,prefix,nothing,torn for 1s     what members 1, 2, 3 … lose
//! ```

use std::fmt;

use super::crash::{down_us, for_us};
use super::{Fault, Kind, Sight, Words, print_time};
use crate::disk::Loss;
use crate::random::Random;
use crate::world::World;

pub const KIND: Kind = Kind { name: "crash-all", draw, parse };

#[derive(Clone, Debug)]
struct CrashAll {
    /// Of member 1, 2, 3 …
    losses: Vec<Loss>,
    down_us: u64,
}

fn draw(random: &mut Random, sight: &Sight) -> Option<Box<dyn Fault>> {
    let losses = (0..sight.knobs.machines()).map(|_| *random.pick(&Loss::ALL)).collect();
    Some(Box::new(CrashAll { losses, down_us: down_us(random, sight) }))
}

fn parse(words: &mut Words) -> Result<Box<dyn Fault>, String> {
    let word = words.word("what each member loses")?;
    let losses = word
        .split(',')
        .map(|name| Loss::parse(name).ok_or_else(|| format!("{name:?} is none of everything, nothing, prefix, torn")));
    let losses = losses.collect::<Result<_, _>>()?;
    Ok(Box::new(CrashAll { losses, down_us: for_us(words)? }))
}

impl fmt::Display for CrashAll {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let losses: Vec<&str> = self.losses.iter().map(|loss| loss.name()).collect();
        write!(out, "crash-all {} for {}", losses.join(","), print_time(self.down_us))
    }
}

impl Fault for CrashAll {
    fn kind(&self) -> &'static str {
        "crash-all"
    }

    fn members(&self) -> Vec<u64> {
        (1..=self.losses.len() as u64).collect()
    }

    fn strike(&self, world: &mut World) -> Result<(), String> {
        let up: Vec<(u64, Loss)> =
            world.ids().into_iter().zip(self.losses.iter().copied()).filter(|(id, _)| world.is_up(*id)).collect();
        if up.is_empty() {
            return Err("everyone is down".to_owned());
        }
        for (member, loss) in up {
            world.crash(member, loss, self.down_us);
        }
        Ok(())
    }
}

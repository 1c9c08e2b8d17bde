//! Everything that distinguishes one simulated world from another, in one struct that is printed with every run.
//!
//! Drawn from the seed (swarm testing: each run has its own mixture, so that rare combinations come up), or read from
//! the head of a scenario. With the choices that differ from them ([`crate::choices`]), they are all that a run depends
//! on.

use std::collections::BTreeSet;
use std::fmt;

use crate::fault;
use crate::random::{Purpose, Random};

macro_rules! knobs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Knobs {
            $($(#[doc = $doc])* pub $name: u64,)*
            /// The kinds of fault that may strike, and of work that clients do.
            pub faults: BTreeSet<String>,
            pub work: BTreeSet<String>,
        }

        impl Knobs {
            /// Names and values of the numbers, in the order of their declaration.
            pub fn numbers(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Sets a number by its name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return Err(format!("there is no knob {name:?}")),
                }
                Ok(())
            }
        }
    };
}

knobs! {
    members,
    /// Machines beyond these, with nothing on their disks, for members that are added.
    spares,
    clients,
    /// Clients and faults have this long; then a core of members must make progress alone.
    safety_ms,
    /// The liveness phase: a core is healthy, the others stay dead or cut off.
    core_ms,
    /// At last everyone is well; then all must end alike.
    rest_ms,

    /// A message's way, unless a choice says otherwise.
    delay_us,
    /// Of so many messages the way is longer, by up to this.
    late_permille,
    late_most_us,
    fsync_us,
    slow_fsync_permille,
    slow_fsync_most_us,
    /// A stage of a member (consensus, log, apply, backend) begins so long after it has work.
    stage_us,
    late_stage_permille,
    late_stage_most_us,
    store_commit_ms,

    segment_bytes,
    log_cache_bytes,
    log_slack_entries,
    log_catch_up_entries,
    store_cache_bytes,

    think_most_ms,
    request_timeout_ms,
    /// How often a client whose request was refused, or that lost its member, asks again.
    retries,

    /// What may wait on a watch stream; the size of a fragment; the rows of a piece of catching up.
    watch_stream_bytes,
    watch_fragment_bytes,
    watch_catch_up_rows,
    /// Between two progress notifications of an idle watcher.
    watch_progress_ms,
    /// Between two checkpoints of a lease that has more left than that.
    lease_checkpoint_ms,

    /// What the members' stores may hold; 0: as much as there is.
    quota_bytes,

    /// Between two faults, on average; 0 for a world without.
    fault_every_ms,
    /// No fault lasts longer.
    fault_most_ms,
}

/// How rough the weather is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Every knob drawn, every fault possible.
    #[default]
    Swarm,
    /// No fault, no jitter.
    Calm,
    /// Few faults, small worlds: for a quick look.
    Lite,
}

impl Profile {
    pub fn parse(name: &str) -> Option<Profile> {
        [Profile::Swarm, Profile::Calm, Profile::Lite].into_iter().find(|profile| profile.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Profile::Swarm => "swarm",
            Profile::Calm => "calm",
            Profile::Lite => "lite",
        }
    }
}

/// What a core needs to get on, whatever the weather was before, and what all need to come to rest. A phase that is
/// shorter says nothing about the product.
const LEAST_PHASE_MS: u64 = 10_000;

/// In so many of a thousand worlds the membership changes.
const CHANGES_PERMILLE: u64 = 600;

impl Knobs {
    /// Members, and those that may become some.
    pub fn machines(&self) -> u64 {
        self.members + self.spares
    }

    /// Fine weather, and short: what a scenario has where its head says nothing.
    pub fn plain(members: u64, until_ms: u64) -> Knobs {
        let (core_ms, rest_ms) = (until_ms / 6, until_ms / 6);
        Knobs {
            members,
            spares: 0,
            clients: 4,
            safety_ms: until_ms - core_ms - rest_ms,
            core_ms,
            rest_ms,
            delay_us: 1_000,
            late_permille: 0,
            late_most_us: 0,
            fsync_us: 500,
            slow_fsync_permille: 0,
            slow_fsync_most_us: 0,
            stage_us: 50,
            late_stage_permille: 0,
            late_stage_most_us: 0,
            store_commit_ms: 300,
            segment_bytes: 16_384,
            log_cache_bytes: 1 << 20,
            log_slack_entries: 1_000,
            log_catch_up_entries: 5_000,
            store_cache_bytes: 1 << 20,
            think_most_ms: 100,
            request_timeout_ms: 2_000,
            retries: 3,
            watch_stream_bytes: 1 << 20,
            watch_fragment_bytes: 2 << 20,
            watch_catch_up_rows: 512,
            watch_progress_ms: 5_000,
            lease_checkpoint_ms: 300_000,
            quota_bytes: 0,
            fault_every_ms: 0,
            fault_most_ms: 5_000,
            faults: BTreeSet::new(),
            work: crate::workload::KINDS.iter().map(|kind| kind.name.to_owned()).collect(),
        }
    }

    pub fn draw(seed: u64, members: u64, until_ms: u64, profile: Profile) -> Knobs {
        let mut random = Random::new(seed, Purpose::Knobs);
        let r = &mut random;
        let phase_ms = (until_ms / 6).max(LEAST_PHASE_MS).min(until_ms / 3);
        let plain = Knobs {
            safety_ms: until_ms - 2 * phase_ms,
            core_ms: phase_ms,
            rest_ms: phase_ms,
            ..Knobs::plain(members, until_ms)
        };
        let drawn = Knobs {
            clients: r.between(3, 8),
            delay_us: *r.pick(&[50, 200, 1_000, 5_000]),
            late_permille: *r.pick(&[0, 5, 50, 200]),
            late_most_us: *r.pick(&[1_000, 20_000, 500_000]),
            fsync_us: *r.pick(&[50, 500, 2_000, 8_000]),
            slow_fsync_permille: *r.pick(&[0, 20, 100]),
            slow_fsync_most_us: *r.pick(&[5_000, 50_000]),
            stage_us: *r.pick(&[5, 50, 500]),
            late_stage_permille: *r.pick(&[0, 20, 100]),
            late_stage_most_us: *r.pick(&[500, 5_000, 50_000]),
            store_commit_ms: *r.pick(&[100, 300, 1_000, 5_000]),
            segment_bytes: *r.pick(&[4_096, 16_384, 65_536]),
            log_cache_bytes: *r.pick(&[1, 4_096, 1 << 20]),
            log_slack_entries: *r.pick(&[0, 1, 10, 100, 10_000]),
            store_cache_bytes: *r.pick(&[1 << 18, 1 << 20]),
            think_most_ms: *r.pick(&[50, 100, 200]),
            request_timeout_ms: *r.pick(&[500, 1_000, 2_000, 5_000]),
            retries: *r.pick(&[0, 1, 3]),
            fault_every_ms: *r.pick(&[500, 1_000, 2_000]),
            fault_most_ms: *r.pick(&[1_000, 3_000, 6_000]),
            faults: some_of(r, fault::weather().map(|kind| kind.name).filter(|name| !fault::change::is_one(name))),
            work: some_of(r, crate::workload::KINDS.iter().map(|kind| kind.name))
                .into_iter()
                .chain(["registers".to_owned()])
                .collect(),
            watch_stream_bytes: *r.pick(&[256, 2_048, 1 << 20]),
            watch_fragment_bytes: *r.pick(&[100, 300, 2 << 20]),
            watch_catch_up_rows: *r.pick(&[1, 8, 512]),
            watch_progress_ms: *r.pick(&[500, 2_000, 10_000]),
            lease_checkpoint_ms: *r.pick(&[300, 1_000, 300_000]),
            log_catch_up_entries: *r.pick(&[0, 20, 5_000]),
            quota_bytes: *r.pick(&[0, 0, 20_000, 40_000, 80_000]),
            ..plain.clone()
        };
        // All changes of the membership or none: most have nothing to work on without the others.
        let drawn = if r.permille(CHANGES_PERMILLE) {
            let changes = fault::weather().map(|kind| kind.name).filter(|name| fault::change::is_one(name));
            let faults = drawn.faults.iter().cloned().chain(changes.map(str::to_owned)).collect();
            Knobs { spares: r.between(2, 4), faults, ..drawn }
        } else {
            drawn
        };
        match profile {
            Profile::Swarm => drawn,
            Profile::Calm => Knobs { clients: drawn.clients, ..plain },
            Profile::Lite => Knobs {
                spares: drawn.spares,
                fault_every_ms: 4_000,
                fault_most_ms: 1_500,
                faults: drawn.faults,
                ..plain
            },
        }
    }
}

/// Each with an even chance, but never none.
fn some_of(random: &mut Random, names: impl Iterator<Item = &'static str>) -> BTreeSet<String> {
    let names: Vec<&str> = names.collect();
    let mut chosen: BTreeSet<String> =
        names.iter().filter(|_| random.permille(500)).map(|name| (*name).to_owned()).collect();
    if chosen.is_empty() {
        chosen.insert((*random.pick(&names)).to_owned());
    }
    chosen
}

impl fmt::Display for Knobs {
    /// As in the head of a scenario: `knob delay_us 1000`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.numbers() {
            writeln!(out, "knob {name} {value}")?;
        }
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        writeln!(out, "faults {}", list(&self.faults))?;
        writeln!(out, "work {}", list(&self.work))
    }
}

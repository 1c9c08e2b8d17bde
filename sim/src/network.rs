//! The simulated network: what becomes of a message.
//!
//! # Fault model
//!
//! A message has a way of `knobs.delay_us`, plus the latency that its link has at that time. Choices make it late, lose
//! it, or bring a second copy; chance does so while a window of loss, duplication or reordering is open on the link
//! (lateness also by `knobs.late_permille`), and a record says it message by message, so that a replay needs no window.
//! Messages that are late by different times overtake each other; those of one link that are not late keep their order.
//!
//! A link is one direction. A cut link loses what is sent on it, and the sender's transport notices; what is on its way
//! when the cut comes is lost on arrival, but for stragglers (see below), so the world asks [`Network::is_cut`] again.
//! A half-open link loses as much and nobody notices; what was on its way arrives. A clogged link holds what is sent
//! and brings it all, in order, when the clog is gone. Rules of hand-written scenarios drop, hold or repeat messages of
//! a kind. All of these are counted: two faults on a link are both there until both have ended, and each takes back
//! only its own.
//!
//! Connections die with the process, so what is under way to a member that dies is lost. The exception is what some
//! box between the machines has kept for longer than the way takes: a message that was late, held or repeated may
//! arrive at a later life of its receiver ([`Arrival::outlives`]), and behind a cut that came when it was under way.

use std::collections::BTreeMap;

use lockstep_proto::raftpb::{Message, MessageType};

use crate::choices::{Choices, Point};
use crate::fault::links::Links;
use crate::knobs::Knobs;
use crate::random::Random;

/// What becomes of a message that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// `told`: the sender's transport notices (`Input::Unreachable`).
    Lost { told: bool },
    /// The network keeps it; [`Network::take_released`] brings it.
    Held,
    /// Once, or more often.
    Arrives(Vec<Arrival>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// From now.
    pub after_us: u64,
    /// A straggler: it also arrives at a later life of the receiver than the one it was sent to, and in spite of a cut.
    pub outlives: bool,
}

/// A message that the network held, and how it comes now. `number` is its own, of its link.
#[derive(Clone, Debug, PartialEq)]
pub struct Released {
    pub message: Box<Message>,
    pub number: u64,
    pub arrivals: Vec<Arrival>,
}

/// While it is open on a link, chance does this to messages. Records say what it did, so replays look at no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// So many of a thousand are lost.
    Loss { permille: u64 },
    /// So many of a thousand come twice, the copy by up to this after the first.
    Duplicate { permille: u64, most_us: u64 },
    /// Each is late, by up to this.
    Reorder { most_us: u64 },
}

/// What a scenario does to messages of a kind; `None` is every kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub links: Links,
    pub kind: Option<MessageType>,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Drop,
    Hold,
    /// A second copy, so much after the first.
    Repeat {
        after_us: u64,
    },
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<(u64, u64), Link>,
    rules: Vec<Rule>,
    /// In the order in which they were sent.
    held: Vec<Released>,
}

#[derive(Debug, Default)]
struct Link {
    /// The number of its last message.
    sent: u64,
    cuts: u64,
    half_opens: u64,
    clogs: u64,
    latency_us: u64,
    windows: Vec<Window>,
}

impl Network {
    pub fn new() -> Network {
        Network::default()
    }

    /// Decides about a message that is sent now.
    pub fn fate(&mut self, choices: &mut Choices, knobs: &Knobs, message: &Message) -> Fate {
        let (from, to) = (message.from(), message.to());
        let link = self.links.entry((from, to)).or_default();
        link.sent += 1;
        let number = link.sent;
        let does = |act: Act| self.rules.iter().any(|rule| rule.act == act && rule.hits(message));
        if does(Act::Drop) || link.half_opens > 0 {
            return Fate::Lost { told: false };
        }
        if link.cuts > 0 {
            return Fate::Lost { told: true };
        }
        if choices.choose(Point::Lost { from, to, number }, |random| u64::from(link.loses(random))) > 0 {
            return Fate::Lost { told: false };
        }
        let late_us = choices.choose(Point::Message { from, to, number }, |random| link.late_us(knobs, random));
        let again_us = choices.choose(Point::Twice { from, to, number }, |random| link.again_us(random));
        let is_held = link.clogs > 0 || does(Act::Hold);
        let way_us = knobs.delay_us.saturating_add(link.latency_us).saturating_add(late_us);
        let mut arrivals = vec![Arrival { after_us: way_us, outlives: late_us > 0 || is_held }];
        let mut copy = |later_us: u64| {
            arrivals.push(Arrival { after_us: way_us.saturating_add(later_us), outlives: true });
        };
        if again_us > 0 {
            copy(again_us);
        }
        for rule in &self.rules {
            if let Act::Repeat { after_us } = rule.act
                && rule.hits(message)
            {
                copy(after_us);
            }
        }
        if is_held {
            self.held.push(Released { message: Box::new(message.clone()), number, arrivals });
            return Fate::Held;
        }
        Fate::Arrives(arrivals)
    }

    /// Held messages that nothing holds any longer, in the order in which they were sent: they go on their way now.
    pub fn take_released(&mut self) -> Vec<Released> {
        let (links, rules) = (&self.links, &self.rules);
        self.held
            .extract_if(.., |held| {
                let link = (held.message.from(), held.message.to());
                let is_clogged = links.get(&link).is_some_and(|link| link.clogs > 0);
                !is_clogged && !rules.iter().any(|rule| rule.act == Act::Hold && rule.hits(&held.message))
            })
            .collect()
    }

    /// The number of the last message that was sent on this link, counted from 1.
    pub fn number(&self, link: (u64, u64)) -> u64 {
        self.links.get(&link).map_or(0, |link| link.sent)
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cuts > 0)
    }

    /// Whether what is sent now arrives.
    pub fn is_open(&self, from: u64, to: u64) -> bool {
        self.links.get(&(from, to)).is_none_or(|link| link.cuts == 0 && link.half_opens == 0)
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.link(from, to).cuts += 1;
    }

    pub fn uncut(&mut self, from: u64, to: u64) {
        take_back(&mut self.link(from, to).cuts);
    }

    pub fn clog(&mut self, from: u64, to: u64) {
        self.link(from, to).clogs += 1;
    }

    /// What was held comes with [`Network::take_released`].
    pub fn unclog(&mut self, from: u64, to: u64) {
        take_back(&mut self.link(from, to).clogs);
    }

    pub fn half_open(&mut self, from: u64, to: u64) {
        self.link(from, to).half_opens += 1;
    }

    /// Whether the link is whole again, so that the sender notices what it has missed.
    pub fn half_closed(&mut self, from: u64, to: u64) -> bool {
        let half_opens = &mut self.link(from, to).half_opens;
        take_back(half_opens);
        *half_opens == 0
    }

    pub fn add_latency(&mut self, from: u64, to: u64, us: u64) {
        let latency_us = &mut self.link(from, to).latency_us;
        *latency_us = latency_us.checked_add(us).expect("latencies of a link add up to less than eons");
    }

    pub fn sub_latency(&mut self, from: u64, to: u64, us: u64) {
        let latency_us = &mut self.link(from, to).latency_us;
        *latency_us = latency_us.checked_sub(us).expect("a fault takes back the latency that it brought");
    }

    pub fn open(&mut self, from: u64, to: u64, window: Window) {
        self.link(from, to).windows.push(window);
    }

    pub fn close(&mut self, from: u64, to: u64, window: Window) {
        let windows = &mut self.link(from, to).windows;
        let place = windows.iter().position(|open| *open == window).expect("a fault closes the window that it opened");
        windows.remove(place);
    }

    pub fn add_rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// What it held comes with [`Network::take_released`].
    pub fn remove_rule(&mut self, rule: &Rule) {
        let place =
            self.rules.iter().position(|known| known == rule).expect("a fault takes back the rule that it made");
        self.rules.remove(place);
    }

    fn link(&mut self, from: u64, to: u64) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }
}

impl Link {
    fn loses(&self, random: &mut Random) -> bool {
        let mut is_lost = false;
        for window in &self.windows {
            if let Window::Loss { permille } = window {
                is_lost |= random.permille(*permille);
            }
        }
        is_lost
    }

    fn late_us(&self, knobs: &Knobs, random: &mut Random) -> u64 {
        let mut late_us = 0;
        if knobs.late_permille > 0 && random.permille(knobs.late_permille) {
            late_us += random.between(0, knobs.late_most_us);
        }
        for window in &self.windows {
            if let Window::Reorder { most_us } = window {
                late_us += random.between(0, *most_us);
            }
        }
        late_us
    }

    /// One copy at most: the latest that a window brings.
    fn again_us(&self, random: &mut Random) -> u64 {
        let mut again_us = 0;
        for window in &self.windows {
            if let Window::Duplicate { permille, most_us } = window
                && random.permille(*permille)
            {
                again_us = again_us.max(random.between(1, *most_us));
            }
        }
        again_us
    }
}

impl Rule {
    fn hits(&self, message: &Message) -> bool {
        self.links.covers(message.from(), message.to()) && self.kind.is_none_or(|kind| kind == message.r#type())
    }
}

fn take_back(count: &mut u64) {
    *count = count.checked_sub(1).expect("a fault takes back what it brought, once");
}

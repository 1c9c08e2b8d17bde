//! Watch streams between clients and members: what is sent arrives in order, later; a reader takes its time; a stream
//! ends with its member's process, and its watchers wait for somebody to resume them.
//!
//! What a client remembers of a watcher is what client libraries do: the revision to go on from, and the fragments of a
//! response that is not complete yet. Everything it hears is shown to the checkers once, whole.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::member::watch::{Response, What as Sent};
use lockstep::mvcc::read::Read;
use lockstep::sometimes;
use lockstep_proto::mvccpb::Event;

use super::{Failure, What, World};
use crate::asks::Told;
use crate::asks::watch::{WatchAsk, WatchSpec, cancel, progress};
use crate::check::{Heard, Seen};
use crate::choices::Point;
use crate::history::Outcome;
use crate::{member, watching};

/// How often, in a thousand, and by how much at most a response is late.
const LATE_PERMILLE: u64 = 20;
const LATE_MOST_US: u64 = 300_000;

#[derive(Default)]
pub(super) struct Watches {
    /// Open ones, by the number that they were opened as.
    streams: BTreeMap<u64, Stream>,
    opened: u64,
    watchers: BTreeMap<u64, Watcher>,
    /// Everyone is well: readers as well.
    all_are_quick: bool,
}

struct Stream {
    client: u64,
    member: u64,
    life: u64,
    watchers: BTreeSet<u64>,
    slow_us: u64,
    sent: u64,
    /// Nothing that is sent later arrives, or is taken, before.
    arrives_us: u64,
    taken_us: u64,
    /// What has arrived and was not taken yet.
    untaken: usize,
    /// What was the newest revision when progress was asked for that has not come.
    wants: Vec<i64>,
}

struct Watcher {
    client: u64,
    spec: WatchSpec,
    slow_us: u64,
    stream: Option<u64>,
    /// Where it had its last stream.
    member: u64,
    /// It needs history that is gone, and goes on behind it.
    is_overtaken: bool,
    /// From where to go on; 0 when that is for the member to say.
    next: i64,
    /// The member has answered on this stream.
    is_created: bool,
    fragments: Vec<Event>,
}

impl World {
    /// A client asks for something on a stream; what comes of it comes on the stream.
    pub(super) fn ask_watch(&mut self, client: u64, member: u64, ask: &WatchAsk) -> Result<(), Failure> {
        let outcome = match self.try_watch(client, member, ask)? {
            Ok(()) => Outcome::Told { revision: 0, told: Told::Sent },
            Err(error) => Outcome::Refused { error: error.to_owned() },
        };
        self.told(client, outcome)
    }

    fn try_watch(&mut self, client: u64, member: u64, ask: &WatchAsk) -> Result<Result<(), &'static str>, Failure> {
        let name = ask.watcher();
        if let WatchAsk::Create { watcher, spec, beside, slow_us } = ask {
            if self.watches.watchers.contains_key(watcher) {
                return Ok(Err("there is such a watcher"));
            }
            let (spec, next) = (spec.clone(), spec.from);
            let beside = beside.and_then(|beside| self.watches.watchers.get(&beside)?.stream);
            let known = Watcher {
                client,
                spec,
                slow_us: *slow_us,
                stream: None,
                member,
                is_overtaken: false,
                next,
                is_created: false,
                fragments: Vec::new(),
            };
            self.watches.watchers.insert(*watcher, known);
            let stream = match beside.filter(|stream| self.watches.streams[stream].client == client) {
                Some(stream) => stream,
                None => self.open_stream(client, member)?,
            };
            self.create_on(stream, *watcher)?;
            return Ok(Ok(()));
        }
        let Some(watcher) = self.watches.watchers.get(&name).filter(|watcher| watcher.client == client) else {
            return Ok(Err("there is no such watcher"));
        };
        let stream = watcher.stream;
        match (ask, stream) {
            (WatchAsk::Resume { .. }, stream) => {
                let together = match stream {
                    Some(stream) => self.close_stream(stream)?,
                    None => BTreeSet::from([name]),
                };
                let stream = self.open_stream(client, member)?;
                for watcher in together {
                    self.create_on(stream, watcher)?;
                }
            }
            (WatchAsk::Cancel { .. }, Some(stream)) => self.request_on(stream, cancel(name))?,
            (WatchAsk::Progress { .. }, Some(stream)) => {
                let member = self.watches.streams[&stream].member;
                let newest = self.machines[&member].member.view().map_or(0, |view| view.rev());
                // Who answers one answers all of the stream.
                let known = self.watches.streams.get_mut(&stream).expect("it has a watcher");
                known.wants.push(newest);
                for watcher in known.watchers.clone() {
                    self.show(&Seen::Watch { watcher, member, heard: Heard::Wants { newest } })?;
                }
                self.request_on(stream, progress())?;
            }
            (_, None) => return Ok(Err("it has no stream")),
            (WatchAsk::Create { .. }, _) => unreachable!("done above"),
        }
        Ok(Ok(()))
    }

    fn open_stream(&mut self, client: u64, member: u64) -> Result<u64, Failure> {
        self.watches.opened += 1;
        let (stream, life) = (self.watches.opened, self.life(member));
        let known = Stream {
            client,
            member,
            life,
            watchers: BTreeSet::new(),
            slow_us: 0,
            sent: 0,
            arrives_us: self.now_us,
            taken_us: self.now_us,
            untaken: 0,
            wants: Vec::new(),
        };
        self.watches.streams.insert(stream, known);
        self.trace.line(self.now_us, format_args!("client {client} opens stream {stream} at {member:x}"));
        self.at_member(member, |at| at.open_watch(stream))?;
        Ok(stream)
    }

    fn create_on(&mut self, stream: u64, name: u64) -> Result<(), Failure> {
        let Some(watcher) = self.watches.watchers.get_mut(&name) else { return Ok(()) };
        let known = self.watches.streams.get_mut(&stream).expect("it was just found");
        known.watchers.insert(name);
        known.slow_us = known.slow_us.max(watcher.slow_us);
        sometimes!(watcher.member != known.member, "watcher resumed at another member");
        sometimes!(watcher.is_overtaken, "watcher resumed behind a compaction");
        (watcher.stream, watcher.member, watcher.is_overtaken) = (Some(stream), known.member, false);
        sometimes!(!watcher.fragments.is_empty(), "fragments dropped because their stream had ended");
        watcher.fragments.clear();
        watcher.is_created = false;
        let (spec, from, member, wants) = (watcher.spec.clone(), watcher.next, known.member, known.wants.clone());
        self.trace.line(self.now_us, format_args!("stream {stream} watcher {name} from:{from} {spec}"));
        self.show(&Seen::Watch { watcher: name, member, heard: Heard::Asked { spec: &spec, from } })?;
        for newest in wants {
            self.show(&Seen::Watch { watcher: name, member, heard: Heard::Wants { newest } })?;
        }
        self.request_on(stream, spec.request(name, from))
    }

    fn request_on(&mut self, stream: u64, request: lockstep_proto::etcdserverpb::WatchRequest) -> Result<(), Failure> {
        let member = self.watches.streams[&stream].member;
        self.at_member(member, |at| at.watch_request(stream, request))
    }

    /// Its client ends it; its watchers stay.
    fn close_stream(&mut self, stream: u64) -> Result<BTreeSet<u64>, Failure> {
        let watchers = self.drop_stream(stream, "left")?;
        let Some((member, watchers)) = watchers else { return Ok(BTreeSet::new()) };
        self.at_member(member, |at| at.close_watch(stream))?;
        Ok(watchers)
    }

    fn drop_stream(&mut self, stream: u64, why: &str) -> Result<Option<(u64, BTreeSet<u64>)>, Failure> {
        let Some(Stream { member, watchers, .. }) = self.watches.streams.remove(&stream) else { return Ok(None) };
        self.trace.line(self.now_us, format_args!("stream {stream} ends: {why}"));
        for name in &watchers {
            if let Some(watcher) = self.watches.watchers.get_mut(name) {
                watcher.stream = None;
            }
            self.show(&Seen::Watch { watcher: *name, member, heard: Heard::Broken })?;
        }
        Ok(Some((member, watchers)))
    }

    /// A member's process has ended, and its streams with it.
    pub(super) fn watchers_lose(&mut self, member: u64) {
        let here = self.watches.streams.iter().filter(|(_, stream)| stream.member == member);
        for stream in here.map(|(stream, _)| *stream).collect::<Vec<_>>() {
            let client = self.watches.streams[&stream].client;
            match self.drop_stream(stream, "its member is gone") {
                Ok(Some((_, watchers))) => watchers.into_iter().for_each(|name| self.watcher_broke(client, name)),
                Ok(None) => {}
                failed => self.note(failed.map(drop)),
            }
        }
    }

    /// A member sends something, or ends a stream.
    pub(super) fn watch_told(&mut self, member: u64, told: watching::Told) -> Result<(), Failure> {
        match told {
            watching::Told::Response { stream, response } => {
                let Some(known) = self.watches.streams.get_mut(&stream) else { return Ok(()) };
                known.sent += 1;
                let point = Point::Hear { stream, number: known.sent };
                let late_us = self.choices.choose(point, |random| {
                    if random.permille(LATE_PERMILLE) { random.below(LATE_MOST_US) } else { 0 }
                });
                known.arrives_us = known.arrives_us.max(self.now_us + self.knobs.delay_us + late_us);
                let wait_us = known.arrives_us - self.now_us;
                self.after(wait_us, 0, 0, What::Hear { stream, response });
                Ok(())
            }
            watching::Told::End { stream, reason } => {
                if self.machines[&member].damaged == 0 {
                    let story = format!("stream {stream} at member {member}: {reason}");
                    return Err(Failure { checker: "process", place: "a watch fails", story });
                }
                let client = self.watches.streams.get(&stream).map_or(0, |stream| stream.client);
                if let Some((_, watchers)) = self.drop_stream(stream, &reason)? {
                    watchers.into_iter().for_each(|name| self.watcher_broke(client, name));
                }
                Ok(())
            }
        }
    }

    /// A response has arrived; its reader takes it, and the member hears of that.
    pub(super) fn hear(&mut self, stream: u64, response: Response) -> Result<(), Failure> {
        let now_us = self.now_us;
        let is_quick = self.watches.all_are_quick;
        let Some(known) = self.watches.streams.get_mut(&stream) else { return Ok(()) };
        let slow_us = if is_quick { 0 } else { known.slow_us };
        known.taken_us = known.taken_us.max(now_us) + slow_us;
        if is_quick {
            known.taken_us = now_us;
        }
        known.untaken += response.charge;
        if response.watch_id == -1 {
            known.wants.retain(|newest| *newest > response.revision);
        }
        let (member, life, client, taken_us) = (known.member, known.life, known.client, known.taken_us);
        let names: Vec<u64> = match response.watch_id {
            -1 => known.watchers.iter().copied().collect(),
            id => vec![id as u64],
        };
        self.at_life(taken_us, member, life, What::WatchTaken { stream, charge: response.charge });
        for name in names {
            self.heard(client, member, stream, name, &response)?;
        }
        Ok(())
    }

    /// A reader has taken so much; `false` when it had done so before.
    pub(super) fn takes(&mut self, stream: u64, charge: usize) -> bool {
        let Some(known) = self.watches.streams.get_mut(&stream) else { return false };
        let left = known.untaken.checked_sub(charge);
        known.untaken = left.unwrap_or(known.untaken);
        left.is_some()
    }

    /// Everyone is well: readers take at once what has arrived, and what comes.
    pub(super) fn readers_hurry(&mut self) {
        self.watches.all_are_quick = true;
        let all: Vec<_> = self.watches.streams.iter().map(|(id, s)| (*id, s.member, s.life, s.untaken)).collect();
        for (stream, member, life, charge) in all {
            self.at_life(self.now_us, member, life, What::WatchTaken { stream, charge });
        }
    }

    fn heard(&mut self, client: u64, member: u64, stream: u64, name: u64, response: &Response) -> Result<(), Failure> {
        let revision = response.revision;
        let Some(watcher) = self.watches.watchers.get_mut(&name).filter(|watcher| watcher.stream == Some(stream))
        else {
            return Ok(());
        };
        let mut events = Vec::new();
        let heard = match &response.what {
            Sent::Created => {
                watcher.is_created = true;
                if watcher.next == 0 {
                    watcher.next = revision + 1;
                }
                Heard::Created { revision }
            }
            Sent::Events { events: some, more } => {
                watcher.fragments.extend_from_slice(some.list());
                if *more {
                    return Ok(());
                }
                std::mem::swap(&mut events, &mut watcher.fragments);
                let last = events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
                watcher.next = watcher.next.max(last + 1);
                Heard::Events { revision, events: &events }
            }
            // Sent before the watcher was: not for it.
            Sent::Progress if !watcher.is_created => return Ok(()),
            Sent::Progress => {
                watcher.next = watcher.next.max(revision + 1);
                Heard::Progress { revision, asked: response.watch_id == -1 }
            }
            Sent::Compacted(at) => {
                // A client that wants to go on does so from there, and knows that it has missed something.
                watcher.next = watcher.next.max(*at);
                watcher.is_overtaken = true;
                Heard::Compacted { revision: *at }
            }
            Sent::Canceled => Heard::Canceled,
            Sent::Refused(error) => Heard::Refused { error: error.message() },
        };
        self.trace.line(self.now_us, format_args!("client {client} hears of watcher {name}: {heard}"));
        self.show(&Seen::Watch { watcher: name, member, heard })?;
        let is_over = matches!(response.what, Sent::Canceled | Sent::Refused(_));
        if is_over || matches!(response.what, Sent::Compacted(_)) {
            let mut is_last = false;
            if let Some(stream) = self.watches.streams.get_mut(&stream) {
                stream.watchers.remove(&name);
                is_last = stream.watchers.is_empty();
            }
            if is_last {
                self.close_stream(stream)?;
            }
            if let Some(watcher) = self.watches.watchers.get_mut(&name) {
                watcher.stream = None;
            }
            if is_over {
                self.watches.watchers.remove(&name);
            } else {
                self.watcher_broke(client, name);
            }
        }
        Ok(())
    }

    /// Lets a member do something, and carries out what follows.
    fn at_member(
        &mut self,
        id: u64,
        what: impl FnOnce(&mut member::SimMember) -> Vec<member::Event>,
    ) -> Result<(), Failure> {
        let now_us = self.now_us;
        let machine = self.machine(id);
        let now = machine.clock.now(now_us);
        machine.member.set_clock(now);
        let events = what(&mut machine.member);
        self.happened(id, events)?;
        self.wake(id);
        Ok(())
    }
}

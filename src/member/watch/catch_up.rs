//! Catching up: history, read a bounded piece at a time, for those who are behind.
//!
//! A piece serves everybody whose place lies in it, so many who are behind by about the same cost little more than one.
//! The next piece is for somebody else: who begins at the beginning of a long history holds nobody up.

use lockstep_proto::mvccpb::KeyValue;

use super::deliver::Round;
use super::machine::Watchers;
use crate::mvcc::View;
use crate::mvcc::read::{Error, Read, Revision};

impl Watchers {
    /// Does one piece. What the view does not show yet, or this machine was not told of yet, is left for later.
    pub(super) fn catch_up(&mut self, view: &View) -> Result<(), Error> {
        while let Some(&(_, watcher)) = self.cursors.first().filter(|(next, _)| *next < view.compact_rev()) {
            if mutation!(CompactionLosesEvents) {
                self.fall_behind(watcher, view.compact_rev());
                continue;
            }
            sometimes!("watcher canceled because compaction overtook it");
            self.cancel_compacted(watcher, view.compact_rev());
        }
        let upto = self.revision.min(view.rev());
        let later = self.cursors.range((self.turn + 1, 0)..).next().or(self.cursors.first());
        let Some(&(from, _)) = later.filter(|(from, _)| *from <= upto).or(self.cursors.first()) else { return Ok(()) };
        if from > upto {
            return Ok(());
        }
        let (changes, last) = self.read(view, from, upto)?;
        self.turn = last + 1;
        let mut round = Round::new(view, changes.into_iter(), &self.groups, self.options.fragment_bytes, self.numbers);
        let served: Vec<usize> = self.cursors.range((from, 0)..=(last, usize::MAX)).map(|(_, w)| *w).collect();
        sometimes!(served.len() > 1, "several watchers caught up together");
        for watcher in served {
            match self.give(&mut round, watcher, Some(last))? {
                Some(next) => {
                    sometimes!("stream filled up while catching up");
                    self.fall_behind(watcher, next);
                }
                None => self.advance(watcher, last + 1),
            }
        }
        self.numbers = round.numbers();
        Ok(())
    }

    fn advance(&mut self, watcher: usize, next: i64) {
        if next <= self.revision {
            return self.fall_behind(watcher, next);
        }
        self.unlist(watcher);
        let w = &mut self.watchers[watcher];
        w.next = next;
        let stream = w.stream;
        self.sync(watcher);
        self.answer_progress(stream);
    }

    /// The changes from a revision on, whole revisions only, and the last revision that they cover.
    fn read(&self, view: &View, from: i64, upto: i64) -> Result<(Vec<KeyValue>, i64), Error> {
        let mut changes: Vec<KeyValue> = Vec::new();
        let mut at = Revision { main: from, sub: 0 };
        loop {
            let piece = view.rows_within(at, self.options.catch_up_rows, self.options.catch_up_bytes)?;
            for row in &piece.rows {
                if row.revision.main > upto {
                    return Ok((changes, upto));
                }
                changes.push(row.decode()?);
            }
            let Some(last) = piece.rows.last().filter(|_| piece.more) else { return Ok((changes, upto)) };
            let whole = changes.partition_point(|kv| kv.mod_revision < last.revision.main);
            if whole > 0 || last.revision.main > from {
                changes.truncate(whole);
                return Ok((changes, last.revision.main - 1));
            }
            sometimes!("one revision was more than a piece of catching up");
            at = Revision { main: last.revision.main, sub: last.revision.sub + 1 };
        }
    }
}

//! Compaction: forgetting what lies below a revision, at once in what it means, in small steps in what it costs.
//!
//! [`Store::compact`] moves the compaction revision and records it; from then on nobody reads below it. The work
//! follows in steps of a budget: each takes superseded revisions from a part of the key index and puts their rows on
//! the pending batch's list of deletions. A crash in between costs nothing but doing the rest again: the scheduled
//! revision is in the store, and whatever rows are left are found again at opening.

use super::backend::{META_FINISHED_COMPACT, META_SCHEDULED_COMPACT};
use super::overlay::Bucket;
use super::read::{Error, Revision};
use super::row::row_key;
use super::store::Store;

/// What a step of compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactProgress {
    /// There is nothing to do.
    Idle,
    /// There is more to do; or it waits for the next view, since readers of the last one still may read below.
    More,
    /// The compaction at this revision is finished, and says so in the pending batch.
    Done(i64),
}

/// The work not done yet.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// The pass over the index that is under way, and where it goes on.
    pass: Option<(i64, Box<[u8]>)>,
    /// Ordered while that pass was under way.
    next: Option<i64>,
}

impl Compaction {
    pub fn resume(finished: i64, scheduled: i64) -> Compaction {
        let pass = (scheduled > finished).then(|| (scheduled, Box::default()));
        sometimes!(pass.is_some(), "compaction resumed after a restart");
        Compaction { pass, next: None }
    }

    fn order(&mut self, rev: i64) {
        match self.pass {
            Some(_) => {
                sometimes!("compaction ordered while another was under way");
                self.next = Some(rev);
            }
            None => self.pass = Some((rev, Box::default())),
        }
    }
}

impl Store {
    /// Forgets history up to `rev`: what was the newest then stays. The space comes back by [`Store::compact_step`].
    pub fn compact(&mut self, rev: i64) -> Result<(), Error> {
        if rev <= self.compact_revision() {
            sometimes!("compaction refused because of a later one");
            return Err(Error::Compacted);
        }
        if rev > self.revision() {
            return Err(Error::FutureRev);
        }
        self.set_compact_revision(rev);
        self.bucket_put(Bucket::Meta, META_SCHEDULED_COMPACT, &row_key(Revision { main: rev, sub: 0 }));
        self.compaction.order(rev);
        Ok(())
    }

    /// Does a part of the work that compactions left: takes at most `budget_revisions` rows, and looks at some eight
    /// times as many keys.
    pub fn compact_step(&mut self, budget_revisions: usize) -> CompactProgress {
        let Some((rev, from)) = self.compaction.pass.take() else {
            return CompactProgress::Idle;
        };
        if self.view().stamp().rev < rev {
            sometimes!("compaction waited for the next view");
            self.compaction.pass = Some((rev, from));
            return CompactProgress::More;
        }
        let step = self.index.prune(rev, &from, budget_revisions);
        if !step.dropped.is_empty() {
            self.drop_rows(&step.dropped);
        }
        if let Some(next) = step.next {
            sometimes!("compaction went on in another step");
            self.compaction.pass = Some((rev, next));
            return CompactProgress::More;
        }
        self.bucket_put(Bucket::Meta, META_FINISHED_COMPACT, &row_key(Revision { main: rev, sub: 0 }));
        self.compaction.pass = self.compaction.next.take().map(|next| (next, Box::default()));
        CompactProgress::Done(rev)
    }
}

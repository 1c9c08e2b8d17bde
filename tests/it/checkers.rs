//! The simulator's checkers, each on its own: a script of what is seen, and what the checker must find in it.
//!
//! Entries, hard states and steps are made by hand; views are of a real member that has done what the brackets say, so
//! `[a=1 -a]` has applied entries 1 (its founding) to 4, and is at revision 3. The language is in [`Script::line`].

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep::member::raft::{Persist, Role, Status};
use lockstep::mvcc::View;
use lockstep::wal::SnapshotMark;
use lockstep_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, InternalRaftRequest, RequestHeader};
use lockstep_proto::raftpb::{Entry, EntryType, HardState};
use lockstep_sim::calm::Calm;
use lockstep_sim::check::{self, Checker, Objection, Seen};
use lockstep_sim::fault::change::{self, Change};
use lockstep_sim::history::{Operation, Outcome};
use lockstep_sim::knobs::Knobs;
use lockstep_sim::lab::put;
use lockstep_sim::member::Setup;
use prost::Message;

/// What a checker must say to a script.
enum Finds {
    Nothing,
    /// The place, and words of the story.
    This(&'static str, &'static str),
}

use Finds::{Nothing, This};

const MEMBERS: u64 = 3;

/// Checker, script, what it finds.
type Case = (&'static str, &'static str, Finds);

const MEMBERSHIP: &[Case] = &[
    (
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3; step 1 leader term:2 applied:4 commit:4
         persist 1 #1 2/1/0 2/4=a 2/5+4; commit 1 2/4=a 2/5+4; step 1 leader term:2 applied:5 commit:5 voters:1,2,3,4
         persist 1 #2 2/1/0 2/6-4; commit 1 2/6-4; step 1 leader term:2 applied:6 commit:6",
        Nothing,
    ),
    (
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3; step 1 leader term:2 applied:4 commit:4; persist 1 #1 2/1/0 2/4=a 2/5+4 2/6-4",
        This("changes of the membership overlap", "takes the change 6 while it has not applied the one at 5"),
    ),
    (
        // A conflicting entry takes the change away.
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3; persist 1 #1 1/1/0 1/4=a 1/5+4; step 1 leader term:2 applied:4 commit:5
         persist 1 #2 2/1/0 2/5=b 2/6+4",
        Nothing,
    ),
    (
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3; step 1 leader term:2 applied:3 commit:3; persist 1 #1 2/1/0 2/4=a 2/5+4",
        This("change before an entry of the own term", "before its first entry, 4, is committed"),
    ),
    (
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3 1/4-3; step 2 follower term:2 applied:4 voters:1,2
         step 2 follower term:3 vote:3 applied:4 voters:1,2",
        This("vote for a removed member", "votes for member 3 in term 3, and has applied its removal (entry 4)"),
    ),
    (
        // Who has not applied it may.
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3 1/4-3; step 2 follower term:2 applied:3; step 2 follower term:3 vote:3 applied:4",
        Nothing,
    ),
    (
        "membership",
        "commit 1 1/1+1 1/2+2 1/3+3; step 2 follower term:2 applied:3 voters:1,4",
        This("voters that nobody agreed on", "counts with the voters [1, 4]; the log makes them [1, 2, 3]"),
    ),
];

const ELECTIONS: &[Case] = &[
    (
        "election-safety",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1; boot 3 1/1 hard:1/0/1
         persist 1 #1 2/1/1; sync 1 #1; persist 2 #1 2/1/1; sync 2 #1; step 1 leader term:2 vote:1
         persist 3 #1 3/3/1; sync 3 #1; persist 2 #2 3/3/1; sync 2 #2; step 3 leader term:3 vote:3
         step 1 leader term:2 vote:1",
        Nothing,
    ),
    (
        "election-safety",
        "persist 1 #1 2/1/0; sync 1 #1; persist 2 #1 2/1/0; sync 2 #1; step 1 leader term:2 vote:1
         step 3 leader term:2 vote:3",
        This("two leaders in a term", "members 1 and 3 both lead term 2"),
    ),
    (
        "election-safety",
        "persist 1 #1 2/1/0; sync 1 #1; persist 2 #1 2/1/0; step 1 leader term:2 vote:1",
        This("elected without durable votes", "only [1] have a durable vote"),
    ),
    ("election-safety", "persist 1 #1 2/1/0; persist 1 #2 2/3/0", This("two votes in a term", "Vote:3")),
    (
        // A vote that was lost unsynced binds nobody.
        "election-safety",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1; end 1; boot 1 1/1 hard:1/0/1; persist 1 #1 2/3/1; sync 1 #1",
        Nothing,
    ),
    (
        "election-safety",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1; sync 1 #1; end 1; boot 1 1/1 hard:1/0/1",
        This("vote forgotten", "boots with Term:1 Vote:0"),
    ),
    (
        "election-safety",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1; end 1; boot 1 1/1 hard:2/1/1; persist 1 #1 2/3/1",
        This("two votes in a term", "after Term:2 Vote:1"),
    ),
    ("election-safety", "boot 1 1/1 hard:1/0/1; boot 1 1/1 hard:5/2/1", This("hard state that nobody wrote", "Term:5")),
    ("election-safety", "step 1 follower term:3; step 1 follower term:2", This("term went back", "Term:2")),
    (
        "election-safety",
        "step 1 follower term:3 commit:7; step 1 follower term:4 commit:6",
        This("commit went back", "Commit:6"),
    ),
    (
        "election-safety",
        "step 1 follower term:3 commit:7; boot 1 1/1 hard:1/0/1; step 1 follower term:3 commit:6",
        Nothing,
    ),
];

const LOGS: &[Case] = &[
    (
        "log-matching",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1
         persist 1 #1 2/1/1 2/2=a 2/3=b; persist 2 #1 2/1/1 2/2=a 2/3=b; persist 2 #2 3/2/1 3/3=c; sync 2 #2
         boot 2 1/1 2/2=a 3/3=c hard:3/2/1; boot 1 1/1 2/2=a hard:1/0/1",
        Nothing,
    ),
    (
        "log-matching",
        "persist 1 #1 2/1/1 2/1=a; persist 2 #1 2/1/1 2/1=b",
        This("two entries of one index and term", "entries 2/1"),
    ),
    (
        "log-matching",
        "persist 1 #1 3/1/1 2/1=a 3/2=b; persist 2 #1 3/1/1 1/1=x 3/2=b",
        This("logs differ before a common entry", "entry 3/2"),
    ),
    (
        // A crash took the term with the entry: nobody has heard of either.
        "log-matching",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=a; end 1; boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=b",
        Nothing,
    ),
    ("log-matching", "persist 1 #1 3/1/1 3/1=a 2/2=b", This("terms go back in a log", "2/2")),
    ("log-matching", "persist 1 #1 3/1/1 3/1=a; persist 1 #2 3/1/1 3/3=a", This("gap in the log", "entry 3")),
    (
        "log-matching",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=a; sync 1 #1; persist 1 #2 2/1/1 2/3=b; boot 1 1/1 hard:2/1/1",
        This("synced entry lost", "entry 2/2, which it had synced"),
    ),
    (
        // An unsynced overwrite that survives takes what it overwrites.
        "log-matching",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=a 2/3=b; sync 1 #1; persist 1 #2 3/2/1 3/2=c 3/3=d
         boot 1 1/1 3/2=c hard:2/1/1",
        Nothing,
    ),
    (
        "log-matching",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=a; sync 1 #1; boot 1 1/1 2/2=a 2/3=b hard:2/1/1",
        This("log that nobody wrote", "ends at 3"),
    ),
    (
        // What was released may miss.
        "log-matching",
        "boot 1 1/1 hard:1/0/1; persist 1 #1 2/1/1 2/2=a 2/3=b; sync 1 #1; boot 1 2/3=b hard:2/1/1",
        Nothing,
    ),
    (
        "leader-completeness",
        "persist 1 #1 2/1/0 2/1=a; step 1 leader term:2 last:1; step 1 leader term:2 commit:1 last:1
         persist 2 #1 2/1/0 2/1=a; persist 2 #2 3/2/0 3/2; step 2 leader term:3 commit:1 last:2",
        Nothing,
    ),
    (
        "leader-completeness",
        "persist 1 #1 2/1/0 2/1=a; step 1 leader term:2 last:1; step 1 leader term:2 commit:1 last:1
         step 2 leader term:3 last:1; persist 2 #2 3/2/0 3/1; step 2 leader term:3 last:1",
        This("leader lacks a committed entry", "lacks entry 2/1, which the leader of term 2 committed"),
    ),
    (
        // A leader of an older term that comes late need not know what a newer one committed.
        "leader-completeness",
        "persist 1 #1 5/1/0 5/1=a; step 1 leader term:5 last:1; step 1 leader term:5 commit:1 last:1
         persist 2 #1 3/2/0 3/1; step 2 leader term:3 last:1",
        Nothing,
    ),
    (
        "leader-completeness",
        "persist 1 #1 2/1/0 2/1=a; persist 1 #2 4/1/0 4/2; step 1 leader term:4 last:2
         step 1 leader term:4 commit:1 last:2",
        This("entry of an earlier term committed by count", "up to entry 2/1"),
    ),
];

const COMMITS: &[Case] = &[
    (
        "state-machine-safety",
        "persist 1 #1 2/1/0 2/1=a; persist 2 #1 2/1/0 2/1=a; sync 1 #1; sync 2 #1; step 1 leader term:2 commit:1 last:1
         commit 1 2/1=a; commit 2 2/1=a; persist 3 #1 1/0/0 1/1=x; persist 3 #2 2/1/0 2/1=a",
        Nothing,
    ),
    (
        "state-machine-safety",
        "persist 1 #1 2/1/0 2/1=a; persist 2 #1 2/1/0 2/1=a; sync 1 #1; step 1 leader term:2 commit:1 last:1",
        This("committed without a durable majority", "only [1] have it"),
    ),
    (
        "state-machine-safety",
        "persist 1 #1 2/1/0 2/1=a; persist 2 #1 2/1/0 1/1=x; sync 1 #1; sync 2 #1; step 1 follower term:2
         commit 1 2/1=a",
        This("committed without a durable majority", "only [1] have it"),
    ),
    (
        "state-machine-safety",
        "persist 1 #1 2/1/0 2/1=a; persist 2 #1 2/1/0 2/1=a; sync 1 #1; sync 2 #1; commit 1 2/1=a; commit 2 2/1=b",
        This("different entries committed", "member 2 commits entry 2/1, where member 1 committed 2/1, another one"),
    ),
    (
        "state-machine-safety",
        "boot 1 1/1 2/2 hard:2/0/2; boot 2 1/1 2/2 hard:2/0/2; commit 1 1/1; commit 2 1/1
         boot 1 1/1 hard:2/0/2; commit 1 1/1; commit 1 1/1",
        This("commits out of order", "entry 1 after entry 1"),
    ),
    (
        "state-machine-safety",
        "persist 1 #1 2/1/0 2/1=a; persist 2 #1 2/1/0 2/1=a; sync 1 #1; sync 2 #1; commit 1 2/1=a
         persist 2 #2 3/3/0 3/1=b",
        This("committed entry overwritten", "overwrites entry 2/1"),
    ),
    ("state-machine-safety", "publish 1 [a=1]", This("applied what was not committed", "applied entry 3")),
    ("at-most-once", "commit 1 2/1=a#7 2/2=a#8; commit 2 2/1=a#7 2/2=a#8; commit 1 2/3 2/4", Nothing),
    (
        "at-most-once",
        "commit 1 2/1=a#7 2/2=b#8; commit 2 2/3=a#7",
        This("proposal committed twice", "index 3, and was at index 1"),
    ),
];

const STATES: &[Case] = &[
    ("applied-hash", "publish 1 [a=1]; publish 2 [a=1]; boot 3 1/1 hard:1/0/1 [a=1]; publish 1 [a=1 b=2]", Nothing),
    (
        "applied-hash",
        "publish 1 [a=1 -a]; publish 2 [a=1 -b]",
        This("different revisions at an index", "at index 4 member 2 is at revision 2"),
    ),
    (
        "applied-hash",
        "publish 1 [a=1 b=2 compact:2]; publish 2 [a=1 b=2 compact:3]",
        This("different revisions at an index", "compacted 3"),
    ),
    (
        "applied-hash",
        "publish 1 [a=1]; publish 2 [a=2]; rest 1 [a=1] commit:3; rest 2 [a=2] commit:3",
        This("different rows at a revision", "members 1 and 2 have different rows at revision 2"),
    ),
    (
        "applied-hash",
        "boot 1 1/1 hard:1/0/1 [a=1]; boot 1 1/1 hard:1/0/1 [a=2]",
        This("different rows at a revision", "revision 2"),
    ),
    ("applied-hash", "publish 1 [a*62=1]; publish 2 [a*62=2]", This("different rows at a revision", "revision 2")),
    ("applied-hash", "boot 2 1/1 hard:1/0/1 [a*62=1]; publish 2 [a*62=1]; publish 1 [a*62=1]", Nothing),
    ("hash-kv", "rest 1 [a=1 b=2] commit:4; rest 2 [a=1 b=2] commit:4; rest 3 [a=1 b=2] commit:4", Nothing),
    ("hash-kv", "rest 1 [a=1 b=2] commit:4; rest 2 [a=1 b=3] commit:4", This("different hashes at rest", "member: 2")),
    (
        "revisions",
        "publish 1 [a=1]; ask #1 c1 1 put b 2; publish 1 [a=1 b=2]; done #1 rev:3; boot 1 1/1 hard:1/0/1 [a=1]",
        Nothing,
    ),
    ("revisions", "publish 1 [a=1 b=2]; publish 1 [a=1]", This("revision went back", "index 3")),
    (
        "revisions",
        "publish 1 [a=1 b=2]; boot 1 1/1 hard:1/0/1 [-a -a -a -a]",
        This("revision went back over a restart", "is at revision 1, but at index 4 the revision was already 3"),
    ),
    (
        "revisions",
        "publish 1 [a=1]; ask #1 c1 1 put b 2; done #1 rev:3",
        This("answered before it was applied", "nothing newer than 2"),
    ),
    (
        "revisions",
        "publish 1 [a=1 b=2]; ask #1 c1 1 get a; read #1 rev:3 a=1; ask #2 c1 1 get a serializable; read #2 rev:2 a=1",
        This("a client's revision went back", "operations: 2"),
    ),
    (
        "revisions",
        "publish 1 [a=1 b=2]; ask #1 c1 1 get a; read #1 rev:3 a=1; ask #2 c2 1 get a serializable; read #2 rev:2 a=1",
        Nothing,
    ),
    (
        "revisions",
        "publish 1 [a=1]; ask #1 c1 1 put a 1; ask #2 c2 1 put a 2; done #1 rev:2; done #2 rev:2",
        This("two writes at one revision", "operations: 1 2"),
    ),
];

const CLIENTS: &[Case] = &[
    (
        "durability",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1; boot 3 1/1 hard:1/0/1; ask #1 c1 1 put a 1
         persist 1 #1 2/1/1 2/2 2/3=a; persist 2 #1 2/1/1 2/2 2/3=a; sync 1 #1; sync 2 #1
         commit 1 1/1 2/2 2/3=a; publish 1 [a=1]; done #1 rev:2
         boot 2 1/1 2/2 2/3=a hard:2/1/1; boot 3 1/1 hard:1/0/1; rest 1 [a=1] commit:3",
        Nothing,
    ),
    (
        "durability",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1; boot 3 1/1 hard:1/0/1; ask #1 c1 1 put a 1
         persist 1 #1 2/1/1 2/2 2/3=a; persist 2 #1 2/1/1 2/2 2/3=a; sync 1 #1; sync 2 #1
         commit 1 1/1 2/2 2/3=a; publish 1 [a=1]; done #1 rev:2; boot 2 1/1 2/2 hard:2/1/1",
        This("acknowledged write lost", "member 2 had synced entry 2/3"),
    ),
    (
        "durability",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1; boot 3 1/1 hard:1/0/1; ask #1 c1 1 put a 1
         persist 1 #1 2/1/1 2/2 2/3=a; persist 2 #1 2/1/1 2/2 2/3=a; sync 1 #1
         commit 1 1/1 2/2 2/3=a; publish 1 [a=1]; done #1 rev:2; boot 2 1/1 2/2 hard:2/1/1",
        This("acknowledged write lost", "held by [1] only; operation 1"),
    ),
    ("durability", "boot 1 2/7 hard:2/0/1 [a=1]", This("hole between store and log", "begins at 7")),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; rest 1 [b=2] commit:3",
        This("acknowledged write lost", "a is not there at member 1; operation 1 of client 1"),
    ),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 put b 2; done #2 rev:3; rest 1 [a=1 a=2] commit:4",
        This("acknowledged write lost", "b is not there"),
    ),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 delete a; unknown #2; rest 1 [a=1 -a] commit:4",
        Nothing,
    ),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 delete a; done #2 rev:3 a=1; rest 1 [a=1 b=1] commit:4",
        This("acknowledged write lost", "has mod revision 2"),
    ),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 put a 2; done #2 rev:3; rest 1 [a=1 a=3] commit:4",
        This("acknowledged write lost", "rows of revision 3"),
    ),
    (
        "durability",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 put a 2; done #2 rev:3; rest 1 [a=1 a=2 compact:3] commit:5",
        Nothing,
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; ask #2 c2 1 get a; read #2 rev:1 a; done #1 rev:2; ask #3 c2 1 get a; read #3 rev:2 a=1
         ask #4 c1 2 get a serializable; read #4 rev:1 a; ask #5 c1 1 put a 2; ask #6 c2 2 get a; read #6 rev:3 a=2
         unknown #5; ask #7 c2 3 range a z; read #7 rev:3 a=2; over",
        Nothing,
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 get a; read #2 rev:1 a",
        This("stale read", "operations: 2 1"),
    ),
    ("stale-reads", "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 put a 2; done #2 rev:2", Nothing),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; done #1 rev:3; ask #2 c2 1 put a 2; done #2 rev:2",
        This("write into the past", "3 was"),
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 get a serializable; read #2 rev:2 a",
        This("read contradicts the history", "finds a to be nothing as of revision 2, but at revision 2 it became 1"),
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; done #1 rev:2; ask #2 c2 1 range a z serializable; read #2 rev:2 b",
        This("read contradicts the history", "finds a to be nothing"),
    ),
    (
        // The acknowledgement comes after the read that contradicts it.
        "stale-reads",
        "ask #1 c1 1 put a 1; ask #2 c2 1 get a; read #2 rev:3 a; done #1 rev:2; over",
        This("read contradicts the history", "operations: 2"),
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; ask #2 c2 1 get a; read #2 rev:3 a=7",
        This("value that nobody wrote", "a to be 7"),
    ),
    ("stale-reads", "ask #2 c2 1 get b; read #2 rev:3 b=7", This("value that nobody wrote", "b to be 7")),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; refused #1; ask #2 c2 1 get a serializable; read #2 rev:3 a=1",
        This("value that was refused", "was not done"),
    ),
    (
        "stale-reads",
        "ask #1 c1 1 cas a - 1; done #1 rev:2 not; ask #2 c2 1 get a serializable; read #2 rev:3 a=1",
        This("value that was refused", "was not done"),
    ),
    (
        "stale-reads",
        "ask #1 c1 1 put a 1; done #1 rev:4; ask #2 c2 1 get a serializable; read #2 rev:3 a=1",
        This("value from the future", "as of revision 3"),
    ),
];

const PROGRESS: &[Case] = &[
    (
        "progress",
        "core 1,2 c1,c2; ask #1 c1 1 put a 1; ask #2 c2 2 put a 2; done #1 rev:2; done #2 rev:3; at 10001; healed
         rest 1 [a=1] commit:3; rest 2 [a=1] commit:3; rest 3 [a=1] commit:3; over",
        Nothing,
    ),
    ("progress", "core 1,2 c1; ask #1 c1 1 get a; read #1 rev:2 a; healed", Nothing),
    (
        "progress",
        "core 1,2 c1; ask #1 c1 1 get a serializable; read #1 rev:2 a; healed",
        This("no progress", "asked for was answered"),
    ),
    (
        "progress",
        "boot 1 1/1 hard:1/0/1; boot 2 1/1 hard:1/0/1; persist 2 #1 7/2/1 7/2; persist 2 #2 7/2/1 7/3; sync 2 #2
         step 2 leader term:7 vote:2 lead:2 commit:1 last:3; step 1 follower term:6 vote:3 lead:3 commit:1 last:1
         core 1,2 c1,c2; ask #1 c1 1 put a 1; ask #2 c2 2 put a 2; at 10000; healed",
        This(
            "no progress",
            "commit 1 behind last 3: needs 2 of 3 members, waits for acks of 1 (in term 6, log synced up to 1)",
        ),
    ),
    (
        "progress",
        "boot 1 1/1 hard:1/0/1; core 1,3 c1; step 1 follower term:6 vote:3 lead:3 commit:2 last:2; ask #1 c1 1 put a 1
         boot 3 1/1 hard:1/0/1; step 3 candidate term:9 vote:3; at 10001; step 3 candidate term:9 vote:3",
        This(
            "no progress",
            "member 3: candidate of term 9, no majority of votes: 1 (in term 6, voted for 3, follows 3)",
        ),
    ),
    (
        "progress",
        "boot 1 1/1 hard:1/0/1; core 1,3 c1; step 1 follower term:6 vote:2 lead:2 commit:2 last:2
         ask #1 c1 1 put a 1; healed",
        This("no progress", "member 1: follows 2 in term 6, which is not of the core"),
    ),
    (
        "progress",
        "boot 1 1/1 hard:1/0/1; at 500; end 1; core 1 c1; at 2500; healed",
        This("no progress", "member 1: down for 2000 ms"),
    ),
    (
        "progress",
        "core 1,2 c1; ask #1 c1 1 put a 1; done #1 rev:2; at 5000; ask #2 c1 2 get a; at 6000; unknown #2
         ask #3 c1 2 get a; at 7000; unknown #3; ask #4 c1 2 get a; at 8000; unknown #4; healed",
        This("no reads", "member 2 is one of [1, 2], left to themselves, and none of 3 linearizable reads"),
    ),
    (
        // Two may be bad luck; one that is answered, or that was asked for soon, says nothing; nor does another member.
        "progress",
        "core 1,2 c1; ask #1 c1 1 put a 1; done #1 rev:2; at 4999; ask #2 c1 2 get a; at 6000; unknown #2
         ask #3 c1 2 get a; at 7000; unknown #3; ask #4 c1 2 get a; at 8000; unknown #4
         ask #5 c1 1 get a; at 9000; unknown #5; healed",
        Nothing,
    ),
    (
        "progress",
        "core 1,2 c1; ask #1 c1 1 put a 1; done #1 rev:2; at 5000; ask #2 c1 2 get a; at 6000; unknown #2
         ask #3 c1 2 get a; at 7000; unknown #3; ask #4 c1 2 get a; read #4 rev:2 a=1
         ask #5 c1 2 get a; at 8000; unknown #5; healed",
        Nothing,
    ),
    (
        "progress",
        "core 1,2 c1; ask #1 c1 1 put a 1; done #1 rev:2; at 5000; ask #2 c1 2 get a serializable; unknown #2
         ask #3 c1 2 put a 2; unknown #3; ask #4 c1 2 get a; unknown #4; ask #5 c1 2 get a; refused #5
         ask #6 c1 2 get a; unknown #6; healed",
        Nothing,
    ),
    ("progress", "rest 1 [a=1] commit:3; rest 2 [a=1] commit:3; over", This("member missing at the end", "member 3")),
    (
        "progress",
        "rest 1 [a=1] commit:3; rest 2 [a=1 b=1] commit:4",
        This("members end differently", "member 2 ends with commit 4"),
    ),
    ("progress", "rest 1 [a=1] commit:4", This("members end differently", "view 3")),
];

#[test]
fn checkers_find_what_they_must_and_nothing_else() {
    let mut stock = Stock::default();
    let cases = [MEMBERSHIP, ELECTIONS, LOGS, COMMITS, STATES, CLIENTS, PROGRESS].into_iter().flatten();
    let wrong: Vec<String> = cases.filter_map(|case| check(&mut stock, case).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn check(stock: &mut Stock, (name, script, finds): &Case) -> Result<(), String> {
    let knobs = Knobs::plain(MEMBERS, 60_000);
    let mut checker = check::all(&knobs).into_iter().find(|checker| checker.name() == *name).expect("a checker");
    match (finds, Script::new(stock, &mut *checker).run(script)) {
        (Nothing, Ok(())) => Ok(()),
        (This(place, words), Err(objection)) if objection.place == *place && objection.story.contains(words) => Ok(()),
        (Nothing, found) => Err(format!("{name} must say nothing to\n{script}\nand says {found:#?}")),
        (This(place, words), found) => {
            Err(format!("{name} must say {place:?}, {words:?} to\n{script}\nand says {found:#?}"))
        }
    }
}

/// A script under way.
struct Script<'a> {
    stock: &'a mut Stock,
    checker: &'a mut dyn Checker,
    now_us: u64,
    /// Client, member, operation, by number.
    asked: BTreeMap<u64, (u64, u64, Operation)>,
}

impl<'a> Script<'a> {
    fn new(stock: &'a mut Stock, checker: &'a mut dyn Checker) -> Script<'a> {
        Script { stock, checker, now_us: 0, asked: BTreeMap::new() }
    }

    fn run(mut self, script: &str) -> Result<(), Objection> {
        let lines = script.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty());
        for line in lines {
            self.line(line)?;
        }
        Ok(())
    }

    /// `boot 1 1/1 2/2=a hard:TERM/VOTE/COMMIT [STORE]`, `end 1`, `step 1 leader term:2 vote:1 commit:3 last:4 lead:1`,
    /// `persist 1 #1 TERM/VOTE/COMMIT 2/4=a`, `sync 1 #1`, `commit 1 2/4=a#REQUEST`, `publish 1 [STORE]`,
    /// `ask #1 c1 2 put a 1`, `done #1 rev:2 [not] [a=1]`, `read #1 rev:2 a=1`, `unknown #1`, `refused #1`,
    /// `core 1,2 c1,c2`, `healed`,
    /// `rest 1 [STORE] commit:3`, `over`, `at MS`.
    fn line(&mut self, line: &str) -> Result<(), Objection> {
        let (line, store) = match line.split_once(" [") {
            Some((before, rest)) => {
                let (store, after) = rest.split_once(']').expect("a store ends with ]");
                (format!("{before}{after}"), Some(store))
            }
            None => (line.to_owned(), None),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| number(words[at]);
        let entries = || -> Vec<Entry> {
            let is_entry = |word: &&&str| word.matches('/').count() == 1 && !word.contains(':');
            words.iter().filter(is_entry).map(|word| entry(word)).collect()
        };
        let hard_state = || {
            let word = words.iter().find(|word| word.matches('/').count() == 2).expect("a hard state");
            let numbers: Vec<u64> =
                word.trim_start_matches("hard:").split('/').map(|n| n.parse().expect("a number")).collect();
            HardState { term: Some(numbers[0]), vote: Some(numbers[1]), commit: Some(numbers[2]) }
        };
        let view = store.map(|store| self.stock.view(store)).unwrap_or_else(|| self.stock.fresh());
        let seen = match words[0] {
            "at" => {
                self.now_us = number(1) * 1_000;
                return Ok(());
            }
            "boot" => {
                let (member, log, hard_state) = (number(1), entries(), hard_state());
                let first = log.first().map_or(1, Entry::index);
                return self.show(&Seen::Booted { member, first, log: &log, hard_state, view: &view });
            }
            "end" => Seen::Ended { member: number(1) },
            "step" => {
                let role = match words[2] {
                    "leader" => Role::Leader,
                    "candidate" => Role::Candidate,
                    _ => Role::Follower,
                };
                let status = Status {
                    id: number(1),
                    role,
                    term: field(&words, "term:"),
                    vote: field(&words, "vote:"),
                    leader: field(&words, "lead:"),
                    commit: field(&words, "commit:"),
                    applied: field(&words, "applied:"),
                    last_index: field(&words, "last:"),
                    ..Status::default()
                };
                let named = words.iter().find_map(|word| word.strip_prefix("voters:")).unwrap_or("1,2,3");
                let voters: Vec<u64> = named.split(',').map(|id| id.parse().expect("a member")).collect();
                return self.show(&Seen::Stepped { status: &status, voters: &voters });
            }
            "persist" => {
                let behind = |word: &&str| word.strip_prefix("behind:").map(str::to_owned);
                let snapshot = words.iter().find_map(behind).map(|mark| {
                    let (term, index) = mark.split_once('/').expect("term and index");
                    SnapshotMark { index: index.parse().expect("an index"), term: term.parse().expect("a term") }
                });
                let persist = Persist { number: number(2), snapshot, hard_state: hard_state(), entries: entries() };
                return self.show(&Seen::Persist { member: number(1), persist: &persist });
            }
            "sync" => Seen::Synced { member: number(1), number: number(2) },
            "commit" => return self.show(&Seen::Committed { member: number(1), entries: &entries() }),
            "publish" => return self.show(&Seen::Published { member: number(1), view: &view }),
            "ask" => {
                let (client, member, operation) = (number(2), number(3), operation(&words[4..]));
                self.asked.insert(number(1), (client, member, operation.clone()));
                return self.show(&Seen::Asked { number: number(1), client, member, operation: &operation });
            }
            "done" | "read" | "unknown" | "refused" => {
                let (client, member, operation) = self.asked[&number(1)].clone();
                let outcome = outcome(&words);
                let number = number(1);
                return self.show(&Seen::Answered { number, client, member, operation: &operation, outcome: &outcome });
            }
            "core" => {
                let list = |word: &str| word.split(',').map(self::number).collect::<Vec<u64>>();
                return self.show(&Seen::Core { members: &list(words[1]), clients: &list(words[2]) });
            }
            "healed" => Seen::Healed,
            "rest" => {
                let commit = field(&words, "commit:");
                let status = Status { id: number(1), commit, applied: commit, ..Status::default() };
                return self.show(&Seen::AtRest { status: &status, view: &view });
            }
            "over" => Seen::Over,
            other => panic!("{other:?} is nothing that is seen"),
        };
        self.show(&seen)
    }

    fn show(&mut self, seen: &Seen) -> Result<(), Objection> {
        self.checker.see(self.now_us, seen)
    }
}

/// Views of real members, by what those have done.
#[derive(Default)]
struct Stock(BTreeMap<String, Arc<View>>);

impl Stock {
    fn fresh(&mut self) -> Arc<View> {
        self.made("", |_| {})
    }

    /// `a=1` puts, `a*9=1` puts nine times, `-a` deletes, `compact:2` compacts.
    fn view(&mut self, done: &str) -> Arc<View> {
        self.made(done, |cluster| {
            let leader = cluster.elect().expect("nobody dies");
            for word in done.split_whitespace() {
                let (request, times) = request(word);
                for _ in 0..times {
                    let asked = cluster.propose(leader, request.clone()).expect("it runs");
                    cluster.settle();
                    cluster.reply(asked).expect("an answer").expect("it is done");
                }
            }
        })
    }

    fn made(&mut self, name: &str, work: impl FnOnce(&mut Calm)) -> Arc<View> {
        let make = || {
            let mut cluster = Calm::new(&Setup { members: 1, ..Setup::default() });
            cluster.boot(1).expect("a new member starts");
            work(&mut cluster);
            cluster.member(1).view().expect("it runs")
        };
        self.0.entry(name.to_owned()).or_insert_with(make).clone()
    }
}

fn request(word: &str) -> (InternalRaftRequest, u64) {
    if let Some(key) = word.strip_prefix('-') {
        let delete_range = Some(DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() });
        return (InternalRaftRequest { delete_range, ..Default::default() }, 1);
    }
    if let Some(revision) = word.strip_prefix("compact:") {
        let revision = revision.parse().expect("a revision");
        let compaction = Some(CompactionRequest { revision, physical: false });
        return (InternalRaftRequest { compaction, ..Default::default() }, 1);
    }
    let (key, value) = word.split_once('=').expect("key=value");
    let (key, times) = key.split_once('*').map_or((key, 1), |(key, times)| (key, number(times)));
    (put(key, value), times)
}

/// `TERM/INDEX`, `TERM/INDEX=VALUE`, `TERM/INDEX=VALUE#REQUEST`
fn entry(word: &str) -> Entry {
    if let Some((place, id)) = word.split_once(['+', '-']) {
        return change(place, number(id), word.contains('-'));
    }
    let (place, data) = word.split_once('=').map_or((word, None), |(place, data)| (place, Some(data)));
    let (term, index) = place.split_once('/').expect("term/index");
    let data = data.map(|data| {
        let (value, id) = data.split_once('#').map_or((data, 0), |(value, id)| (value, number(id)));
        let mut request = put("k", value);
        request.header = Some(RequestHeader { id, ..Default::default() });
        request.encode_to_vec().into()
    });
    Entry { r#type: Some(EntryType::EntryNormal as i32), term: Some(number(term)), index: Some(number(index)), data }
}

/// `2/3+4` adds member 4, `2/3-4` removes it.
fn change(place: &str, id: u64, removes: bool) -> Entry {
    let (term, index) = place.split_once('/').expect("term/index");
    let what = if removes { change::What::Remove } else { change::What::Add };
    let data = Change { what, member: id }.to_conf_change().encode_to_vec().into();
    let r#type = Some(EntryType::EntryConfChange as i32);
    Entry { r#type, term: Some(number(term)), index: Some(number(index)), data: Some(data) }
}

fn operation(words: &[&str]) -> Operation {
    let word = |at: usize| words[at].to_owned();
    let serializable = words.last() == Some(&"serializable");
    match words[0] {
        "put" => Operation::Put { key: word(1), value: word(2) },
        "delete" => Operation::Delete { key: word(1) },
        "get" => Operation::Get { key: word(1), serializable },
        "range" => Operation::Range { key: word(1), end: word(2), serializable },
        "cas" => Operation::Cas { key: word(1), old: (words[2] != "-").then(|| word(2)), new: word(3) },
        other => panic!("{other:?} is no operation"),
    }
}

fn outcome(words: &[&str]) -> Outcome {
    let pairs = words[2..].iter().filter(|word| !word.starts_with("rev:") && **word != "not");
    let pairs = pairs.map(|word| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => ((*word).to_owned(), None),
    });
    let found: Vec<(String, Option<String>)> = pairs.collect();
    let revision = field(words, "rev:") as i64;
    match words[0] {
        "done" => Outcome::Done { revision, succeeded: !words.contains(&"not"), found },
        "read" => Outcome::Read { revision, versions: vec![0; found.len()], found },
        "refused" => Outcome::Refused { error: "refused".into() },
        _ => Outcome::Unknown { why: "timed out".into() },
    }
}

/// The number behind this name; 0 without it.
fn field(words: &[&str], name: &str) -> u64 {
    words.iter().find_map(|word| word.strip_prefix(name)).map_or(0, number)
}

/// `7`, `#7`, `c7`
fn number(word: &str) -> u64 {
    word.trim_start_matches(['#', 'c']).parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

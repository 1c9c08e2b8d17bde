//! The search for an order: Wing and Gong's, with Lowe's memo of what was tried already.
//!
//! Questions and answers stand in a doubly linked list in the order of real time. A step may come next if it was asked
//! before the first answer in the list; it is then lifted out with its answer, and put back when the rest cannot be
//! ordered. Open steps have no answer and stand in a list of their own, tried after the others: most of them never
//! happened, and where one must have, something ahead says so ([`Search::hopeful`]).
//!
//! Counts steps, never time: the same history ends the same way everywhere.

use std::collections::BTreeSet;

use super::model::{Cell, FIRST_REVISION, NOTHING, Problem, SOMETHING};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Not,
    /// The budget ended first.
    Undecided,
}

/// `budget` is what may be tried, and what is left of it afterwards.
pub fn search(problem: &Problem, budget: &mut u64) -> Verdict {
    Search::new(problem).run(budget)
}

struct Search<'a> {
    problem: &'a Problem,
    /// What each node of the lists is: nodes count from 1, 0 is the head of each.
    nodes: Vec<Node>,
    known: List,
    open: List,
    state: Vec<Cell>,
    /// The least revision at which the steps so far can stand.
    revision: i64,
    ranked_done: usize,
    /// For each key the number of its touches by ranked steps so far.
    touches: Vec<usize>,
    done: Vec<bool>,
    remaining: usize,
    path: Vec<Frame>,
    undo: Vec<(usize, Cell)>,
    /// Where the search has been; what lies behind is known not to work, or is on the path.
    memo: BTreeSet<Memo>,
}

#[derive(Clone, Copy)]
struct Node {
    step: usize,
    at: usize,
    is_answer: bool,
}

struct Frame {
    node: usize,
    revision: i64,
    undo: usize,
}

/// The steps that are done (of the ranked ones their number says all), the state, and the revision.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Memo {
    /// Of all the rest; it goes first, so that comparing mostly ends here.
    digest: u64,
    ranked_done: usize,
    revision: i64,
    free_done: Box<[u64]>,
    state: Box<[Cell]>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem) -> Search<'a> {
        let mut known = Vec::new();
        let mut open = Vec::new();
        for (step, s) in problem.steps.iter().enumerate() {
            match s.answered {
                Some(at) => {
                    known.push(Node { step, at: s.asked, is_answer: false });
                    known.push(Node { step, at, is_answer: true });
                }
                None => open.push(Node { step, at: s.asked, is_answer: false }),
            }
        }
        known.sort_by_key(|node| node.at);
        open.sort_by_key(|node| node.at);
        let mut nodes = vec![Node { step: usize::MAX, at: 0, is_answer: false }];
        nodes.extend(&known);
        nodes.extend(&open);
        Search {
            problem,
            known: List::new(1..known.len() + 1, nodes.len()),
            open: List::new(known.len() + 1..nodes.len(), nodes.len()),
            nodes,
            state: vec![Cell::default(); problem.keys],
            revision: FIRST_REVISION,
            ranked_done: 0,
            touches: vec![0; problem.keys],
            done: vec![false; problem.steps.len()],
            remaining: known.len() / 2,
            path: Vec::new(),
            undo: Vec::new(),
            memo: BTreeSet::new(),
        }
    }

    fn run(&mut self, budget: &mut u64) -> Verdict {
        let answers = self.answers();
        let mut node = self.known.next[0];
        let mut in_open = false;
        while self.remaining > 0 {
            // At the end of what may come next among the known steps the open ones follow, and after them the way back.
            if !in_open && (node == 0 || self.nodes[node].is_answer) {
                in_open = true;
                node = self.open.next[0];
            }
            if in_open && (node == 0 || self.nodes[node].at > self.first_answer()) {
                let Some(frame) = self.path.pop() else { return Verdict::Not };
                self.take_back(&frame, &answers);
                node = frame.node;
                in_open = self.is_open(node);
                node = if in_open { self.open.next[node] } else { self.known.next[node] };
                continue;
            }
            if *budget == 0 {
                return Verdict::Undecided;
            }
            *budget -= 1;
            if self.go(node, &answers) {
                in_open = false;
                node = self.known.next[0];
            } else {
                node = if in_open { self.open.next[node] } else { self.known.next[node] };
            }
        }
        Verdict::Linearizable
    }

    /// For each step the node of its answer, 0 for none.
    fn answers(&self) -> Vec<usize> {
        let mut answers = vec![0; self.problem.steps.len()];
        for (node, n) in self.nodes.iter().enumerate().filter(|(_, n)| n.is_answer) {
            answers[n.step] = node;
        }
        answers
    }

    fn is_open(&self, node: usize) -> bool {
        self.problem.steps[self.nodes[node].step].answered.is_none()
    }

    fn first_answer(&self) -> usize {
        let mut node = self.known.next[0];
        while !self.nodes[node].is_answer {
            node = self.known.next[node];
        }
        self.nodes[node].at
    }

    /// Makes this the next step, if that is possible, was not tried before, and leaves hope.
    fn go(&mut self, node: usize, answers: &[usize]) -> bool {
        let Some(revision) = self.possible(self.nodes[node].step) else { return false };
        let frame = Frame { node, revision: self.revision, undo: self.undo.len() };
        self.revision = revision;
        self.take(node, answers);
        if self.hopeful() && self.is_new() {
            self.path.push(frame);
            return true;
        }
        self.take_back(&frame, answers);
        false
    }

    /// The revision the store has after this step, if it may come next.
    fn possible(&self, number: usize) -> Option<i64> {
        let step = &self.problem.steps[number];
        let writes = !step.wrote.is_empty();
        let next = self.problem.ranked.get(self.ranked_done).copied();
        if step.ranked() && next != Some(number) || step.twin.is_some_and(|twin| !self.done[twin]) {
            return None;
        }
        let sees = |(key, cell, told): &(usize, Cell, bool)| {
            let here = self.state[*key];
            match cell.value {
                SOMETHING => here.value != NOTHING,
                value => here.value == value && (!told || here.version == cell.version),
            }
        };
        if !step.saw.iter().all(sees) {
            return None;
        }
        let revision = match (step.ranked(), writes) {
            (true, _) => step.revision,
            (false, false) => return Some(self.revision),
            // The least it can be: whatever works from a higher one works from this. Those behind `next` come later.
            (false, true) => self.problem.untold_from(self.revision.max(step.floor) + 1),
        };
        let bound = next.map_or(i64::MAX, |next| self.problem.steps[next].revision);
        let behind = if writes && step.ranked() { revision > self.revision } else { revision >= self.revision };
        // Nobody was told the revisions that this leaves out: each needs an open write of other keys.
        let skipped = self.problem.untold_from(self.revision + 1);
        let nobodys =
            skipped < revision + i64::from(!writes) && self.problem.strangers.is_none_or(|floor| floor >= skipped);
        (behind && revision <= bound && !nobodys).then_some(revision)
    }

    fn take(&mut self, node: usize, answers: &[usize]) {
        let number = self.nodes[node].step;
        let step = &self.problem.steps[number];
        for (key, value) in &step.wrote {
            let cell = self.state[*key];
            self.undo.push((*key, cell));
            let version = if *value == NOTHING { 0 } else { cell.version + 1 };
            self.state[*key] = Cell { value: *value, version };
        }
        self.done[number] = true;
        if step.ranked() {
            self.ranked_done += 1;
            step.keys.iter().for_each(|key| self.touches[*key] += 1);
        }
        if step.answered.is_some() {
            self.remaining -= 1;
            self.known.lift(node);
            self.known.lift(answers[number]);
        } else {
            self.open.lift(node);
        }
    }

    fn take_back(&mut self, frame: &Frame, answers: &[usize]) {
        let number = self.nodes[frame.node].step;
        let step = &self.problem.steps[number];
        if step.answered.is_some() {
            self.remaining += 1;
            self.known.put_back(answers[number]);
            self.known.put_back(frame.node);
        } else {
            self.open.put_back(frame.node);
        }
        if step.ranked() {
            self.ranked_done -= 1;
            step.keys.iter().for_each(|key| self.touches[*key] -= 1);
        }
        self.done[number] = false;
        for (key, cell) in self.undo.drain(frame.undo..).rev() {
            self.state[key] = cell;
        }
        self.revision = frame.revision;
    }

    /// Whether each key can still become what the next ranked step that looks at it saw. Before that step come only
    /// ranked puts, which are known, and free steps; what is seen was written by the last of these. So it is there
    /// already, or the last put writes it, or a free step that is left does and finds a revision in time. The version
    /// counts the puts in the same way, unless a free delete may set it back.
    fn hopeful(&self) -> bool {
        (0..self.problem.keys).all(|key| {
            let ahead = &self.problem.ahead[key][self.touches[key]];
            let Some((seen, told, revision)) = ahead.seen else { return true };
            let here = self.state[key];
            let in_time = |step: usize| {
                let from = self.revision.max(self.problem.steps[step].floor) + 1;
                !self.done[step] && self.problem.untold_from(from) <= revision
            };
            let left = || self.problem.writers[key].iter().filter(|(step, _)| in_time(*step));
            if ahead.last.unwrap_or(here.value) != seen.value {
                return left().any(|(_, value)| *value == seen.value);
            }
            let version = here.version + ahead.puts;
            if !told || version == seen.version || left().any(|(_, value)| *value == NOTHING) {
                return true;
            }
            // With no put ahead, what is there now has to be written again.
            version < seen.version && left().any(|(_, value)| ahead.puts > 0 || *value == seen.value)
        })
    }

    fn is_new(&mut self) -> bool {
        if self.problem.free.is_empty() {
            // Revisions leave one order only.
            return true;
        }
        let mut free_done = vec![0u64; self.problem.free.len().div_ceil(64)].into_boxed_slice();
        for (nth, step) in self.problem.free.iter().enumerate().filter(|(_, step)| self.done[**step]) {
            debug_assert!(!self.problem.steps[*step].ranked());
            free_done[nth / 64] |= 1 << (nth % 64);
        }
        let mut digest = mix(self.ranked_done as u64, self.revision as u64);
        for word in &free_done {
            digest = mix(digest, *word);
        }
        for cell in &self.state {
            digest = mix(digest, u64::from(cell.value) << 32 | u64::from(cell.version));
        }
        let state = self.state.clone().into_boxed_slice();
        self.memo.insert(Memo { digest, ranked_done: self.ranked_done, revision: self.revision, free_done, state })
    }
}

/// Nodes in a ring through the head, 0. A node that was lifted still knows its neighbours, so it can be put back as
/// long as that happens in the reverse order.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(nodes: std::ops::Range<usize>, all: usize) -> List {
        let mut list = List { next: vec![0; all], previous: vec![0; all] };
        let mut last = 0;
        for node in nodes {
            list.next[last] = node;
            list.previous[node] = last;
            last = node;
        }
        list.next[last] = 0;
        list.previous[0] = last;
        list
    }

    fn lift(&mut self, node: usize) {
        let (next, previous) = (self.next[node], self.previous[node]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn put_back(&mut self, node: usize) {
        let (next, previous) = (self.next[node], self.previous[node]);
        self.next[previous] = node;
        self.previous[next] = node;
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a.rotate_left(29) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 31)
}

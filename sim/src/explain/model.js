/* The picture of a run: lanes of members, arrows of messages, bars of faults, spans of client operations.
 *
 * model.js    the data, unpacked; words, colours, and where things are
 * paint.js    draws what is in view
 * explain.js  pointing, selecting, filters, keys; starts it all
 *
 * The three are one script, in one function. Everything comes from the JSON in #run (written by data.rs, which says
 * what each number means). Nothing is loaded, and no text of the run ever becomes markup: it goes into `textContent` or onto
 * a canvas. Colours live in explain.css. Times are virtual microseconds. */
"use strict";

// ---- the data -------------------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const run = JSON.parse($("run").textContent);
const named = new Map(run.verdict.named);

/** Messages in the order of their sending: six numbers each, times and lines as differences. */
const messages = [];
for (let i = 0, sent = 0, line = 0; i < run.messages.length; i += 6) {
  const [from, to, kind, sentBy, took, lineBy] = run.messages.slice(i, i + 6);
  sent += sentBy;
  line += lineBy;
  const text = run.texts[i / 6] ?? null;
  messages.push({ what: "message", from, to, kind, at: sent, end: took < 0 ? null : sent + took, line, text });
}
/** Without an arrival, and not because the run ended before. */
const isLost = (m) => m.end === null && m.at + run.delay < run.end;

const lives = run.lives.map(([lane, at, end, why, line]) => ({
  what: "life",
  lane,
  at,
  end: end ?? run.end,
  why,
  line,
}));
const faults = run.faults.map(([at, end, lanes, kind, text, line]) => ({
  what: "fault",
  at,
  end,
  lanes,
  kind,
  text,
  line,
}));
const operations = run.operations.map(([number, client, lane, at, end, isOpen, text, outcome, answer, line]) => ({
  what: "operation",
  number,
  client,
  lane,
  at,
  end,
  isOpen,
  text,
  outcome,
  answer,
  line,
  mark: named.get(number) ?? null,
}));
const states = [];
for (let i = 0, at = 0, line = 0; i < run.states.length; i += 7) {
  const [lane, role, term, commit, applied, atBy, lineBy] = run.states.slice(i, i + 7);
  at += atBy;
  line += lineBy;
  states.push({ what: "state", lane, role: run.roles[role], term, commit, applied, at, line });
}

/** Per member: its states, and its bands: one for each time in which role and term stayed what they were. */
const lanes = run.members.map((id, lane) => {
  const own = states.filter((s) => s.lane === lane);
  const bands = [];
  for (const life of lives.filter((l) => l.lane === lane)) {
    let band = { lane, at: life.at, end: life.end, state: null };
    bands.push(band);
    for (const state of own.filter((s) => s.at >= life.at && s.at < life.end)) {
      if (band.state === null || band.state.role !== state.role || band.state.term !== state.term) {
        band.end = state.at;
        band = { lane, at: state.at, end: life.end, state };
        bands.push(band);
      }
    }
  }
  const pauses = faults.filter((f) => f.kind.includes("pause") && f.lanes.includes(lane));
  return {
    id,
    states: own,
    bands: bands.filter((b) => b.end > b.at),
    lives: lives.filter((l) => l.lane === lane),
    pauses,
  };
});

/** Gives each item the lowest row in which nothing else is at its time; returns the number of rows. */
function pack(items, most, gap) {
  const ends = [];
  for (const item of items) {
    let row = ends.findIndex((end) => end <= item.at);
    if (row < 0) row = ends.length < most ? ends.length : most - 1;
    item.row = row;
    ends[row] = Math.max(item.end + gap, ends[row] ?? 0);
  }
  return Math.max(1, ends.length);
}
const faultRows = faults.length ? pack(faults, 6, run.end / 30) : 0;
const clients = [...new Set(operations.map((o) => o.client))]
  .sort((a, b) => a - b)
  .map((id) => {
    const own = operations.filter((o) => o.client === id);
    return { id, operations: own, rows: pack(own, 4, 0), isShown: true };
  });

/** All that can be walked through with the keys, in time. */
const walk = [...messages, ...faults, ...operations, ...lives, ...lanes.flatMap((l) => l.bands.map((b) => b.state))]
  .filter((item) => item !== null)
  .sort((a, b) => a.at - b.at || a.line - b.line);
const byLine = new Map(walk.map((item) => [item.line, item]));

// ---- colours and words ----------------------------------------------------------------------------------------------

const KIND_COLOURS = {
  MsgApp: "app",
  MsgAppResp: "app-resp",
  MsgHeartbeat: "heartbeat",
  MsgHeartbeatResp: "heartbeat",
  MsgVote: "vote",
  MsgPreVote: "vote",
  MsgVoteResp: "vote-resp",
  MsgPreVoteResp: "vote-resp",
  MsgRequestVote: "vote",
  MsgRequestVoteResponse: "vote-resp",
  MsgRequestPreVote: "vote",
  MsgRequestPreVoteResponse: "vote-resp",
  MsgReadIndex: "read-index",
  MsgReadIndexResp: "read-index-resp",
  MsgSnap: "snap",
  MsgSnapStatus: "snap",
};
const ROLE_COLOURS = { StateLeader: "leader", StateCandidate: "candidate", StatePreCandidate: "pre-candidate" };
const roleName = (role) => role.replace("State", "").replace("PreCandidate", "Pre-candidate").toLowerCase();
const kindColour = (kind) => KIND_COLOURS[run.kinds[kind]] ?? "other";
const isHeartbeat = (kind) => run.kinds[kind].startsWith("MsgHeartbeat");
const colours = new Map();
/** A colour of explain.css, in the scheme that is in force. */
function colour(name) {
  if (!colours.has(name))
    colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

const seconds = (us, digits = 6) => (us / 1e6).toFixed(digits);
function span(us) {
  return us >= 1e6
    ? `${+(us / 1e6).toFixed(3)} s`
    : us >= 1e3
      ? `${+(us / 1e3).toFixed(3)} ms`
      : `${Math.round(us)} µs`;
}
const traceLine = (line) => run.lines[line - 1] || "";

/** What hovering shows: the trace line where there is one, and what it cannot say. */
function describe(item) {
  const id = (lane) => run.members[lane];
  const line = item.text !== null && item.what === "message" ? item.text : traceLine(item.line);
  switch (item.what) {
    case "message": {
      const fate = isLost(item)
        ? "lost"
        : item.end === null
          ? "on its way at the end"
          : `arrived at ${seconds(item.end)} s, after ${span(item.end - item.at)}`;
      return [
        line || `${id(item.from)}->${id(item.to)} ${run.kinds[item.kind]}`,
        `sent at ${seconds(item.at)} s, ${fate}`,
      ];
    }
    case "fault":
      return [
        `fault: ${item.text}`,
        `${seconds(item.at)} s, ${item.end > item.at ? `for ${span(item.end - item.at)}` : "at once"}`,
        line,
      ];
    case "operation": {
      const took = item.isOpen ? "never answered" : `answered after ${span(item.end - item.at)}`;
      const head = `operation ${item.number}: client ${item.client} at member ${id(item.lane)}: ${item.text}`;
      return [head, `${item.answer} (${took})`, item.mark ? `The verdict names it: ${item.mark}` : "", line];
    }
    case "life": {
      const end = item.why ? `until ${seconds(item.end)} s: ${item.why}` : "to the end";
      return [`member ${id(item.lane)} ran from ${seconds(item.at)} s ${end}`, line];
    }
    default: {
      const indexes = `commit ${item.commit}, applied ${item.applied}`;
      return [`member ${id(item.lane)}: ${roleName(item.role)}, term ${item.term}, ${indexes}`, line];
    }
  }
}

// ---- what is in view ------------------------------------------------------------------------------------------------

const GUTTER = 96,
  AXIS = 34,
  FAULT_ROW = 19,
  BAND = 16,
  SPAN_ROW = 18,
  CLIENT_GAP = 8,
  LEAST_SPAN = 40;
const canvas = $("picture"),
  overview = $("overview"),
  tip = $("tip");
const ctx = canvas.getContext("2d");
const total = Math.max(run.end, 1);
const view = { from: 0, to: total };
const shown = { kinds: new Set(run.kinds.keys()), lanes: new Set(run.members.keys()) };
let width = 0,
  height = 0,
  pointer = null,
  hovered = null,
  selected = null,
  thinned = 1,
  jumps = 0;
/** Rectangles of this frame that can be pointed at, topmost last. */
let targets = [];

const x = (at) => GUTTER + ((at - view.from) / (view.to - view.from)) * (width - GUTTER);
const timeAt = (px) => view.from + ((px - GUTTER) / (width - GUTTER)) * (view.to - view.from);
const pitch = () => Math.max(66, Math.min(104, 400 / lanes.length));
const laneY = (lane) => AXIS + faultRows * FAULT_ROW + 26 + lane * pitch();
const clientsY = () => laneY(lanes.length - 1) + BAND + 34;

function look(from, to) {
  const span = Math.min(Math.max(to - from, LEAST_SPAN), total * 1.02);
  const middle = (from + to) / 2;
  view.from = Math.max(-total * 0.01, Math.min(middle - span / 2, total * 1.01 - span));
  view.to = view.from + span;
  draw();
}
function zoom(factor, at = (view.from + view.to) / 2) {
  const span = Math.min(Math.max((view.to - view.from) * factor, LEAST_SPAN), total * 1.02);
  const share = (at - view.from) / (view.to - view.from);
  look(at - share * span, at + (1 - share) * span);
}
const pan = (share) => look(view.from + share * (view.to - view.from), view.to + share * (view.to - view.from));

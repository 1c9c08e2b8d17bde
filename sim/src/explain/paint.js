/* Draws what is in view, and of very many arrows only as many as can be told apart. See model.js. */

// ---- drawing --------------------------------------------------------------------------------------------------------

let isPending = false;
function draw() {
  if (isPending) return;
  isPending = true;
  requestAnimationFrame(() => {
    isPending = false;
    paint();
    paintOverview();
  });
}

function paint() {
  targets = [];
  ctx.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(GUTTER, 0, width - GUTTER, height);
  ctx.clip();
  paintPhases();
  paintAxis();
  paintRails();
  paintMessages();
  lanes.forEach(paintLane);
  paintFaults();
  paintClients();
  paintMarks();
  ctx.restore();
  paintGutter();
  status();
}

/** Text that starts at `px` or at the left edge of the view, cut to what fits between there and `end`. */
function label(text, px, py, end, paint, font = "11px system-ui, sans-serif", halo = null) {
  const from = Math.max(px, GUTTER + 3),
    room = end - from;
  if (room < 10 || px > width || end < GUTTER) return 0;
  ctx.font = font;
  let fitting = text;
  if (ctx.measureText(text).width > room) {
    fitting = text.slice(0, Math.max(0, Math.floor((text.length * room) / ctx.measureText(text).width) - 1));
    if (fitting.length < Math.min(3, text.length)) return 0;
    fitting += "…";
  }
  if (halo) {
    ctx.strokeStyle = halo;
    ctx.lineWidth = 3;
    ctx.strokeText(fitting, from, py);
  }
  ctx.fillStyle = paint;
  ctx.fillText(fitting, from, py);
  return ctx.measureText(fitting).width;
}

function phases() {
  const core = run.core ?? total,
    rest = run.rest ?? total;
  return [
    ["safety", 0, Math.min(core, rest)],
    ["core", core, rest],
    ["rest", rest, total],
  ].filter((p) => p[2] > p[1]);
}
function paintPhases() {
  for (const [name, from, to] of phases()) {
    ctx.fillStyle = colour(`phase-${name}`);
    ctx.fillRect(x(from), 0, x(to) - x(from), height);
    if (run.core !== null || run.rest !== null)
      label(name, x(from) + 4, 13, x(to), colour("dim"), "600 10px system-ui, sans-serif");
  }
  ctx.fillStyle = colour("dim");
  ctx.fillRect(x(total), 0, 1.5, height);
}

function paintAxis() {
  let step = 10;
  while ((step / (view.to - view.from)) * (width - GUTTER) < 92) step *= String(step)[0] === "2" ? 2.5 : 2;
  const digits = Math.max(0, 6 - Math.floor(Math.log10(step)));
  for (let at = Math.ceil(Math.max(0, view.from) / step) * step; at <= Math.min(view.to, total); at += step) {
    ctx.fillStyle = colour("grid");
    ctx.fillRect(Math.round(x(at)), AXIS - 4, 1, height);
    label(`${seconds(at, digits)} s`, x(at) + 4, AXIS - 5, x(at) + 92, colour("dim"));
  }
}

function paintRails() {
  ctx.fillStyle = colour("rail");
  lanes.forEach((_, lane) => ctx.fillRect(GUTTER, laneY(lane) + BAND / 2 - 0.5, x(total) - GUTTER, 1));
}

const isShown = (m) => shown.kinds.has(m.kind) && shown.lanes.has(m.from) && shown.lanes.has(m.to);
/** Both ends of an arrow; a lost one gives up on the way. */
function ends(m) {
  const down = m.to > m.from ? 1 : -1;
  const fromY = laneY(m.from) + BAND / 2 + (down * BAND) / 2,
    toY = laneY(m.to) + BAND / 2 - (down * BAND) / 2;
  if (m.end !== null) return [x(m.at), fromY, x(m.end), toY];
  return [x(m.at), fromY, x(m.at + run.delay * 0.45), fromY + (toY - fromY) * 0.45];
}
const visibleMessages = () =>
  messages.filter((m) => (m.end ?? m.at + run.delay) >= view.from && m.at <= view.to && isShown(m));

function paintMessages() {
  const inView = visibleMessages();
  // Arrows of one link and kind that begin in the same few pixels cannot be told apart: the first stands for all.
  thinned = Math.max(0.5, inView.length / 4000);
  const last = new Float64Array(lanes.length * lanes.length * run.kinds.length * 2).fill(-Infinity);
  const paths = new Map();
  let drawn = 0;
  for (const m of inView) {
    const key = ((m.from * lanes.length + m.to) * run.kinds.length + m.kind) * 2 + (m.end === null ? 1 : 0);
    const px = x(m.at);
    if (px - last[key] < thinned) continue;
    last[key] = px;
    drawn += 1;
    const name = kindColour(m.kind);
    if (!paths.has(name)) paths.set(name, { lines: new Path2D(), heads: new Path2D(), crosses: new Path2D() });
    addArrow(paths.get(name), m, inView.length < 1500);
  }
  const crowd = Math.max(1, drawn / 250);
  for (const [name, { lines, heads, crosses }] of paths) {
    ctx.strokeStyle = ctx.fillStyle = colour(name);
    ctx.globalAlpha = Math.max(0.22, Math.min(0.9, 1 / Math.sqrt(crowd)));
    ctx.lineWidth = drawn < 400 ? 1.4 : 1;
    ctx.stroke(lines);
    ctx.fill(heads);
    ctx.globalAlpha = Math.max(0.5, ctx.globalAlpha);
    ctx.strokeStyle = colour("lost");
    ctx.lineWidth = 1.6;
    ctx.stroke(crosses);
  }
  ctx.globalAlpha = 1;
}

function addArrow({ lines, heads, crosses }, m, hasHead) {
  const [ax, ay, bx, by] = ends(m);
  lines.moveTo(ax, ay);
  lines.lineTo(bx, by);
  if (isLost(m)) {
    for (const side of [-1, 1]) {
      crosses.moveTo(bx - 3.5, by - 3.5 * side);
      crosses.lineTo(bx + 3.5, by + 3.5 * side);
    }
  } else if (hasHead && m.end !== null) {
    const length = Math.hypot(bx - ax, by - ay) || 1,
      ux = (bx - ax) / length,
      uy = (by - ay) / length;
    heads.moveTo(bx, by);
    heads.lineTo(bx - 7 * ux - 3 * uy, by - 7 * uy + 3 * ux);
    heads.lineTo(bx - 7 * ux + 3 * uy, by - 7 * uy - 3 * ux);
  }
}

/** Slanted stripes within a rectangle: paused time, and faults. */
function hatch(px, py, w, h, paint, step = 6) {
  const from = Math.max(px, GUTTER - 20),
    to = Math.min(px + w, width + 20);
  if (to <= from) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(from, py, to - from, h);
  ctx.clip();
  ctx.beginPath();
  for (let at = Math.floor((from - h) / step) * step; at < to; at += step) {
    ctx.moveTo(at, py + h);
    ctx.lineTo(at + h, py);
  }
  ctx.strokeStyle = paint;
  ctx.lineWidth = 1.5;
  ctx.stroke();
  ctx.restore();
}

function paintLane(lane, index) {
  const y = laneY(index);
  ctx.globalAlpha = shown.lanes.has(index) ? 1 : 0.3;
  for (const band of lane.bands) {
    const from = x(band.at),
      w = Math.max(1, x(band.end) - from);
    if (from > width || from + w < GUTTER) continue;
    const role = band.state === null ? "follower" : (ROLE_COLOURS[band.state.role] ?? "follower");
    ctx.fillStyle = colour(role);
    ctx.fillRect(from, y, w, BAND);
    // A hairline where term or role changes, so that two followers' terms do not run together.
    ctx.fillStyle = colour("panel");
    ctx.fillRect(from, y, Math.min(1, w / 4), BAND);
    if (band.state === null) continue;
    const { term, role: name } = band.state,
      text = w > 120 ? `${roleName(name)}, term ${term}` : w > 54 ? `term ${term}` : `t${term}`;
    label(text, from + 5, y + 12, Math.min(from + w, width), colour(`on-${role}`), "600 10.5px system-ui, sans-serif");
    targets.push({ item: band.state, from, to: from + w, top: y, bottom: y + BAND });
  }
  for (const pause of lane.pauses) {
    const from = x(pause.at),
      w = x(pause.end) - from;
    ctx.fillStyle = colour("pause");
    ctx.fillRect(from, y, w, BAND);
    hatch(from, y, w, BAND, colour("pause-stripe"));
    const end = w > 54 ? Math.min(from + w, width) : 0;
    label("paused", from + 5, y + 12, end, colour("ink"), "600 10.5px system-ui, sans-serif", colour("pause"));
  }
  paintDeath(lane, y);
  paintCommits(lane, y);
  ctx.globalAlpha = 1;
}

function paintDeath(lane, y) {
  lane.lives.forEach((life, nth) => {
    if (!life.why) return;
    const from = x(life.end),
      next = lane.lives[nth + 1],
      to = x(next ? next.at : total);
    if (from > width || to < GUTTER) return;
    ctx.strokeStyle = colour("dead");
    ctx.lineWidth = 1.4;
    ctx.setLineDash([2, 4]);
    ctx.strokeRect(from, y + 0.5, Math.max(1, to - from), BAND - 1);
    ctx.setLineDash([]);
    ctx.lineWidth = 2.4;
    ctx.beginPath();
    for (const side of [-1, 1]) {
      ctx.moveTo(from - 5, y + BAND / 2 - 5 * side);
      ctx.lineTo(from + 5, y + BAND / 2 + 5 * side);
    }
    ctx.stroke();
    label(
      `down: ${life.why}`,
      from + 9,
      y + 12,
      Math.min(to, width),
      colour("dead"),
      "600 10.5px system-ui, sans-serif",
    );
    targets.push({ item: life, from: from - 6, to: Math.max(to, from + 6), top: y, bottom: y + BAND });
  });
}

/** The commit index, below the band, wherever it changes and there is room: always the same ones at one zoom. */
function paintCommits(lane, y) {
  let free = -Infinity,
    last = 0;
  for (const state of lane.states) {
    if (state.commit === last) continue;
    last = state.commit;
    const px = x(state.at);
    if (px < free || px < GUTTER || px > width) {
      if (px >= free) free = px + 46;
      continue;
    }
    ctx.fillStyle = colour("dim");
    ctx.fillRect(px, y + BAND, 1, 4);
    const text = `c${state.commit}`,
      font = "10px system-ui, sans-serif";
    free = px + 14 + label(text, px + 3, y + BAND + 11, px + 60, colour("dim"), font, colour("panel"));
  }
}

function paintFaults() {
  const used = lanes.map(() => []);
  for (const fault of faults) {
    const from = x(fault.at),
      w = Math.max(x(fault.end) - from, 0),
      top = AXIS + fault.row * FAULT_ROW + 2;
    const next = faults.find((f) => f.row === fault.row && f.at > fault.at);
    const isHot = fault === hovered || fault === selected;
    for (const lane of fault.lanes) {
      // Thin bars right above the lanes that it hits, one over the other while they overlap.
      let row = used[lane].findIndex((end) => end <= fault.at);
      if (row < 0) row = Math.min(used[lane].length, 2);
      used[lane][row] = Math.max(fault.end, used[lane][row] ?? 0);
      const y = laneY(lane) - 6 - row * 5;
      ctx.fillStyle = colour(isHot ? "fault-hot" : "fault");
      ctx.fillRect(from, y, Math.max(w, 3), 4);
      targets.push({ item: fault, from: from - 2, to: from + Math.max(w, 5), top: y - 1, bottom: y + 5 });
    }
    if (from > width || (w && from + w < GUTTER && x(next?.at ?? total) < GUTTER)) continue;
    const bar = Math.max(w, 3);
    ctx.fillStyle = colour("fault-soft");
    ctx.fillRect(from, top, bar, FAULT_ROW - 4);
    if (w > 14) hatch(from, top, w, FAULT_ROW - 4, colour("fault-stripe"), 8);
    ctx.fillStyle = colour(isHot ? "fault-hot" : "fault");
    ctx.fillRect(from, top, 3, FAULT_ROW - 4);
    if (isHot) ctx.fillRect(from, top + FAULT_ROW - 6, bar, 2);
    const room = Math.min(next ? x(next.at) : width, width) - 4;
    const text = from + w < GUTTER ? 0 : label(fault.text, from + 7, top + 11.5, room, colour("fault-ink"));
    targets.push({ item: fault, from, to: Math.max(from + bar, from + 7 + text), top, bottom: top + FAULT_ROW - 3 });
  }
}

function paintClients() {
  let y = clientsY();
  ctx.fillStyle = colour("grid");
  ctx.fillRect(GUTTER, y - 12, width, 1);
  for (const client of clients.filter((c) => c.isShown)) {
    client.y = y;
    let lastEnd = -Infinity;
    for (const o of client.operations) {
      const from = x(o.at),
        to = Math.max(x(o.end), from + 1.5),
        top = y + o.row * SPAN_ROW,
        h = SPAN_ROW - 4;
      if (from > width || to < GUTTER || (to <= lastEnd && !o.mark)) continue;
      if (client.rows === 1) lastEnd = Math.floor(to);
      const name = o.mark ? "named" : o.outcome;
      ctx.fillStyle = colour(`op-${name}`);
      ctx.fillRect(from, top, to - from - (to - from > 4 ? 1 : 0), h);
      // An edge, so that short ones can be seen.
      ctx.globalAlpha = 0.5;
      ctx.fillStyle = colour(`on-op-${name}`);
      ctx.fillRect(from, top, 1.5, h);
      ctx.globalAlpha = 1;
      if (o.outcome === "unknown" && to - from > 6) hatch(from, top, to - from - 1, h, colour("op-unknown-stripe"));
      const text = `${o.text}${o.answer ? ` → ${o.answer}` : ""}`;
      label(
        text,
        from + 4,
        top + 10.5,
        Math.min(to - 3, width),
        colour(`on-op-${name}`),
        "10.5px system-ui, sans-serif",
      );
      targets.push({ item: o, from: from - 2, to: to + 2, top, bottom: top + h });
    }
    y += client.rows * SPAN_ROW + CLIENT_GAP;
  }
}

/** What must not be overlooked: operations named by the verdict, what is pointed at, what is selected. */
function paintMarks() {
  for (const client of clients.filter((c) => c.isShown)) {
    for (const o of client.operations.filter((o) => o.mark)) {
      const from = x(o.at),
        to = Math.max(x(o.end), from + 3),
        top = client.y + o.row * SPAN_ROW,
        h = SPAN_ROW - 4;
      if (from > width || to < GUTTER) continue;
      ctx.strokeStyle = colour("op-named");
      ctx.lineWidth = 2;
      ctx.strokeRect(from - 2, top - 2, to - from + 3, h + 4);
      dropLine(o, "op-named");
      if (to - from > 200) continue;
      ctx.font = "700 10.5px system-ui, sans-serif";
      const text = `${o.mark}: ${o.text}`,
        w = ctx.measureText(text).width + 10;
      // Beside it, on the side that has room.
      const left = to + 6 + w < width ? to + 6 : Math.max(GUTTER + 4, from - 8 - w);
      ctx.fillStyle = colour("op-named");
      ctx.fillRect(left, top - 1, w, h + 2);
      ctx.fillStyle = colour("on-op-named");
      ctx.fillText(text, left + 5, top + 10.5);
    }
  }
  for (const item of new Set([hovered, selected].filter((i) => i !== null))) paintHot(item);
  if (pointer !== null && pointer.x > GUTTER) {
    ctx.fillStyle = colour("dim");
    ctx.fillRect(pointer.x, AXIS, 1, height);
  }
}
/** From an operation to the member that it was asked of. */
function dropLine(o, name) {
  const client = clients.find((c) => c.id === o.client),
    top = client.y + o.row * SPAN_ROW;
  ctx.strokeStyle = colour(name);
  ctx.lineWidth = 1.2;
  ctx.setLineDash([3, 3]);
  ctx.beginPath();
  for (const at of [o.at, ...(o.isOpen ? [] : [o.end])]) {
    ctx.moveTo(x(at), top);
    ctx.lineTo(x(at), laneY(o.lane) + BAND);
  }
  ctx.stroke();
  ctx.setLineDash([]);
}
function paintHot(item) {
  if (item.what === "message") {
    const arrow = { lines: new Path2D(), heads: new Path2D(), crosses: new Path2D() };
    addArrow(arrow, item, true);
    for (const [name, w] of [
      ["panel", 7],
      [kindColour(item.kind), 3],
    ]) {
      ctx.strokeStyle = ctx.fillStyle = colour(name);
      ctx.lineWidth = w;
      ctx.stroke(arrow.lines);
    }
    ctx.fill(arrow.heads);
    ctx.strokeStyle = colour("lost");
    ctx.stroke(arrow.crosses);
  } else if (item.what === "operation" && clients.find((c) => c.id === item.client).isShown) {
    dropLine(item, item.mark ? "op-named" : "ink");
  } else if (item.what === "state") {
    ctx.fillStyle = colour("ink");
    ctx.fillRect(x(item.at) - 1, laneY(item.lane) - 3, 2, BAND + 6);
  }
}

/** Names of lanes, and what each member was at the pointer. */
function paintGutter() {
  ctx.fillStyle = colour("ink");
  const write = (text, y, paint, font) => {
    ctx.font = font;
    ctx.fillStyle = colour(paint);
    ctx.fillText(text, 8, y);
  };
  const at = pointer !== null && pointer.x > GUTTER ? timeAt(pointer.x) : null;
  write(at === null ? "time" : `${seconds(at)} s`, AXIS - 5, at === null ? "dim" : "ink", "11px system-ui, sans-serif");
  if (faultRows) write("faults", AXIS + 14, "dim", "11px system-ui, sans-serif");
  lanes.forEach((lane, index) => {
    write(`member ${lane.id}`, laneY(index) + 12, "ink", "600 12px system-ui, sans-serif");
    if (at === null) return;
    const isUp = lane.lives.some((l) => l.at <= at && at < l.end),
      state = lane.states.findLast((s) => s.at <= at);
    const text = !isUp
      ? "down"
      : state
        ? `${roleName(state.role)[0].toUpperCase()} t${state.term} c${state.commit} a${state.applied}`
        : "";
    write(text, laneY(index) + 26, "dim", "10px system-ui, sans-serif");
  });
  for (const client of clients.filter((c) => c.isShown))
    write(`client ${client.id}`, client.y + 11, "ink", "12px system-ui, sans-serif");
}

// ---- the overview ---------------------------------------------------------------------------------------------------

const OVERVIEW_TOP = 16,
  OVERVIEW_ROW = 6;
let backdrop = null;
const overviewX = (at) => GUTTER + (at / total) * (width - GUTTER - 2);

/** The whole run in small: roles, faults, how many messages, the named operations. Drawn once a size and scheme. */
function paintBackdrop() {
  backdrop = document.createElement("canvas");
  backdrop.width = overview.width;
  backdrop.height = overview.height;
  const o = backdrop.getContext("2d");
  o.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  const counts = new Uint32Array(Math.ceil((width - GUTTER) / 2) + 1);
  for (const m of messages) counts[Math.floor((overviewX(m.at) - GUTTER) / 2)] += 1;
  const most = Math.max(...counts, 1);
  o.fillStyle = colour("density");
  counts.forEach((n, i) => o.fillRect(GUTTER + i * 2, OVERVIEW_TOP, 2, -Math.ceil((n / most) * (OVERVIEW_TOP - 3))));
  const bar = (name, from, to, y, h) => {
    o.fillStyle = colour(name);
    o.fillRect(overviewX(from), y, Math.max(1, overviewX(to) - overviewX(from)), h);
  };
  lanes.forEach((lane, index) => {
    const y = OVERVIEW_TOP + 2 + index * OVERVIEW_ROW;
    for (const band of lane.bands)
      bar(ROLE_COLOURS[band.state?.role] ?? "follower", band.at, band.end, y, OVERVIEW_ROW - 1);
    for (const pause of lane.pauses) bar("pause-stripe", pause.at, pause.end, y, OVERVIEW_ROW - 1);
    for (const fault of faults.filter((f) => f.lanes.includes(index))) bar("fault", fault.at, fault.end, y, 1.5);
  });
  const bottom = OVERVIEW_TOP + 3 + lanes.length * OVERVIEW_ROW;
  for (const op of operations) if (op.outcome === "unknown") bar("op-unknown", op.at, op.end, bottom, 3);
  for (const op of operations)
    if (op.mark) bar("op-named", op.at, Math.max(op.end, op.at + total / 300), 0, bottom + 5);
  o.fillStyle = colour("dim");
  o.font = "11px system-ui, sans-serif";
  o.fillText("whole run", 8, 26);
}
function paintOverview() {
  if (backdrop === null) paintBackdrop();
  const o = overview.getContext("2d");
  o.setTransform(1, 0, 0, 1, 0, 0);
  o.clearRect(0, 0, overview.width, overview.height);
  o.drawImage(backdrop, 0, 0);
  o.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  const from = overviewX(Math.max(0, view.from)),
    to = overviewX(Math.min(total, view.to)),
    h = overview.height / devicePixelRatio;
  o.fillStyle = colour("veil");
  o.fillRect(GUTTER, 0, from - GUTTER, h);
  o.fillRect(to, 0, width - to, h);
  o.strokeStyle = colour("ink");
  o.lineWidth = 1.5;
  o.strokeRect(from, 1, Math.max(3, to - from), h - 2);
}

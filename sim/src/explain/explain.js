/* Pointing, selecting, filters and keys. See model.js. */

// ---- pointing and selecting -----------------------------------------------------------------------------------------

function itemAt(px, py) {
  if (px < GUTTER) return null;
  const hit = targets.findLast((t) => px >= t.from && px <= t.to && py >= t.top && py <= t.bottom);
  // Of a band the state at that very time: its commit index has moved on since the band began.
  if (hit?.item.what === "state") return lanes[hit.item.lane].states.findLast((s) => s.at <= timeAt(px)) ?? hit.item;
  if (hit) return hit.item;
  let best = null,
    least = 7;
  for (const m of visibleMessages()) {
    const [ax, ay, bx, by] = ends(m);
    const dx = bx - ax,
      dy = by - ay,
      t = Math.max(0, Math.min(1, ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1)));
    const distance = Math.hypot(px - ax - t * dx, py - ay - t * dy);
    if (distance < least) [best, least] = [m, distance];
  }
  return best;
}

function hover(event) {
  const box = canvas.getBoundingClientRect();
  pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
  hovered = itemAt(pointer.x, pointer.y);
  canvas.classList.toggle("pointing", hovered !== null);
  tip.hidden = hovered === null;
  if (hovered !== null) {
    tip.replaceChildren(
      ...describe(hovered)
        .filter(Boolean)
        .map((text) => element("div", text)),
    );
    const right = event.clientX + 18 + tip.offsetWidth > innerWidth;
    tip.style.left = `${Math.max(4, right ? event.clientX - tip.offsetWidth - 12 : event.clientX + 18)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 6)}px`;
  }
  draw();
}
function unhover() {
  pointer = hovered = null;
  tip.hidden = true;
  draw();
}

function select(item) {
  selected = item;
  showTrace(item === null ? 0 : item.line, item);
  draw();
}
/** Brings an item into view, without changing the zoom where that is not needed. */
function reach(item) {
  const span = view.to - view.from;
  if (item.at < view.from + span * 0.05 || item.at > view.to - span * 0.05)
    look(item.at - span / 2, item.at + span / 2);
  select(item);
}
function step(by) {
  const items = walk.filter((i) =>
    i.what === "message" ? isShown(i) : i.what !== "operation" || clients.find((c) => c.id === i.client).isShown,
  );
  let at = selected === null ? items.findIndex((i) => i.at >= view.from) - (by > 0 ? 1 : 0) : items.indexOf(selected);
  at = Math.max(0, Math.min(items.length - 1, at + by));
  if (items.length) reach(items[at]);
}

const AROUND = 7;
/** The trace around a line. */
function showTrace(line, item) {
  $("said").textContent = item === null ? "" : describe(item).filter(Boolean).join(" — ");
  const rows = [];
  for (let n = Math.max(1, line - AROUND); line > 0 && n <= Math.min(run.lines.length, line + AROUND); n += 1) {
    const row = element("li", traceLine(n) || "(left out of this file for its size)");
    row.value = n;
    row.tabIndex = 0;
    if (n === line) row.setAttribute("aria-current", "true");
    const go = () => goToLine(n);
    row.addEventListener("click", go);
    row.addEventListener("keydown", (event) => event.key === "Enter" && go());
    rows.push(row);
  }
  $("lines").replaceChildren(...rows);
  $("trace").classList.toggle("empty", line === 0);
}
function goToLine(n) {
  const item = byLine.get(n),
    at = item ? item.at : Math.round(parseFloat(traceLine(n)) * 1e6),
    span = view.to - view.from;
  if (item) return reach(item);
  if (Number.isFinite(at) && (at < view.from || at > view.to)) look(at - span / 2, at + span / 2);
  showTrace(n, null);
}

function status() {
  const inView = visibleMessages().length,
    hidden = messages.length - messages.filter(isShown).length;
  const [from, to] = [Math.max(0, view.from), Math.min(total, view.to)];
  const parts = [`${seconds(from, 3)} s to ${seconds(to, 3)} s (${span(view.to - view.from)})`];
  parts.push(`${inView.toLocaleString("en")} messages in view`);
  if (hidden) parts.push(`${hidden.toLocaleString("en")} hidden by the filters`);
  if (thinned > 1) parts.push("crowded arrows are drawn as one: zoom in to see each");
  $("status").textContent = parts.join(" · ");
}

// ---- controls -------------------------------------------------------------------------------------------------------

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function swatch(name) {
  const made = element("i", "", "swatch");
  made.style.background = `var(--${name})`;
  return made;
}

function filter(id, entries) {
  for (const { text, colourName, isOn, change } of entries) {
    const box = document.createElement("input"),
      row = element("label");
    box.type = "checkbox";
    box.checked = isOn;
    box.addEventListener("change", () => {
      change(box.checked);
      resize();
    });
    row.append(box, ...(colourName ? [swatch(colourName)] : []), text);
    $(id).append(row);
  }
}
const flip = (set, key) => (isOn) => (isOn ? set.add(key) : set.delete(key));

function buildFilters() {
  const counts = run.kinds.map((_, kind) => messages.filter((m) => m.kind === kind).length);
  const heartbeats = counts.reduce((sum, n, kind) => sum + (isHeartbeat(kind) ? n : 0), 0);
  run.kinds.forEach((_, kind) => isHeartbeat(kind) && heartbeats > 300 && shown.kinds.delete(kind));
  filter(
    "kinds",
    run.kinds.map((name, kind) => ({
      text: `${name} ${counts[kind].toLocaleString("en")}`,
      colourName: kindColour(kind),
      isOn: shown.kinds.has(kind),
      change: flip(shown.kinds, kind),
    })),
  );
  filter(
    "members",
    lanes.map((lane, index) => ({ text: `member ${lane.id}`, isOn: true, change: flip(shown.lanes, index) })),
  );
  filter(
    "clients",
    clients.map((client) => ({ text: `client ${client.id}`, isOn: true, change: (isOn) => (client.isShown = isOn) })),
  );
}

function buildLegend() {
  const rows = [
    ["leader", "leader"],
    ["candidate", "candidate"],
    ["pre-candidate", "pre-candidate"],
    ["follower", "follower"],
    ["dead", "down (dotted, from a cross on)"],
    ["pause-stripe", "paused (striped)"],
    ["fault", "fault, and the lanes it hits"],
    ["lost", "message lost (cross)"],
    ["op-done", "write done"],
    ["op-read", "read answered"],
    ["op-refused", "refused"],
    ["op-unknown", "no answer: may have been done"],
    ["op-named", "named by the verdict"],
  ];
  for (const [name, text] of rows) {
    const row = element("li");
    row.append(swatch(name), text);
    $("legend").append(row);
  }
}

/** Buttons of the banner: one for each operation that the verdict names. */
function buildNamed() {
  for (const o of operations.filter((o) => o.mark)) {
    const button = element("button", `${o.mark}: operation ${o.number}, ${o.text}`);
    button.type = "button";
    button.addEventListener("click", () => showOperation(o));
    $("named").append(button);
  }
  $("failure").hidden = run.verdict.word === "ok";
}
function showOperation(o) {
  const margin = Math.max(o.end - o.at, run.delay * 8);
  look(o.at - margin, o.end + margin);
  select(o);
}
/** First the whole failure, then each operation that it names, and over again. */
function jump() {
  const ops = operations.filter((o) => o.mark),
    at = jumps % (ops.length + 1);
  jumps += 1;
  if (at === 0) look(...run.focus);
  else showOperation(ops[at - 1]);
}

const KEYS = {
  "+": () => zoom(0.6),
  "=": () => zoom(0.6),
  "-": () => zoom(1 / 0.6),
  _: () => zoom(1 / 0.6),
  0: () => look(0, total),
  ArrowLeft: () => pan(-0.15),
  ArrowRight: () => pan(0.15),
  PageUp: () => pan(-0.9),
  PageDown: () => pan(0.9),
  Home: () => look(0, view.to - view.from),
  End: () => look(total - (view.to - view.from), total),
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  f: jump,
  Escape: () => select(null),
};

function listen() {
  let drag = null;
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      const px = event.clientX - canvas.getBoundingClientRect().left;
      if (px < GUTTER) return;
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 16 : 1,
        sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((sideways * unit) / (width - GUTTER));
      else zoom(Math.exp(Math.max(-300, Math.min(300, event.deltaY * unit)) * 0.002), timeAt(px));
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    drag = { px: event.clientX, from: view.from, to: view.to, hasMoved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag === null) return hover(event);
    const by = event.clientX - drag.px;
    drag.hasMoved ||= Math.abs(by) > 3;
    const moved = (by / (width - GUTTER)) * (drag.to - drag.from);
    if (drag.hasMoved) look(drag.from - moved, drag.to - moved);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag !== null && !drag.hasMoved) {
      hover(event);
      select(hovered);
    }
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", unhover);
  canvas.addEventListener("dblclick", (event) =>
    zoom(0.3, timeAt(event.clientX - canvas.getBoundingClientRect().left)),
  );
  const centre = (event) => {
    if (event.buttons === 0) return;
    const at = ((event.clientX - overview.getBoundingClientRect().left - GUTTER) / (width - GUTTER - 2)) * total;
    const half = (view.to - view.from) / 2;
    look(at - half, at + half);
  };
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    centre(event);
  });
  overview.addEventListener("pointermove", centre);
  for (const [id, act] of [
    ["zoom-in", KEYS["+"]],
    ["zoom-out", KEYS["-"]],
    ["whole", KEYS[0]],
    ["failure", jump],
  ]) {
    $(id).addEventListener("click", act);
  }
  for (const row of document.querySelectorAll("[data-at]")) {
    row.addEventListener("click", () => reach(faults[Number(row.dataset.at)]));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", resize);
  new ResizeObserver(resize).observe(canvas.parentElement);
}

/** After a change of size, scheme or filter. */
function resize() {
  colours.clear();
  backdrop = null;
  width = canvas.parentElement.clientWidth;
  height = clientsY() + clients.filter((c) => c.isShown).reduce((sum, c) => sum + c.rows * SPAN_ROW + CLIENT_GAP, 6);
  for (const [made, h] of [
    [canvas, height],
    [overview, OVERVIEW_TOP + lanes.length * OVERVIEW_ROW + 8],
  ]) {
    made.width = Math.round(width * devicePixelRatio);
    made.height = Math.round(h * devicePixelRatio);
    made.style.height = `${h}px`;
  }
  draw();
}

document.body.classList.add("alive");
buildFilters();
buildLegend();
buildNamed();
listen();
resize();
if (run.verdict.word === "ok") look(0, total);
else jump();

'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const tip = $('tip');
const html = text => String(text).replace(/[&<>"]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);
const colour = owner => owner === undefined ? '' : `--c:var(--o${owner % 12})`;

// --- kinds of events: how important (labels and clusters go by it), their mark, a short label, which filter they are under
const KINDS = {};
const kinds = (group, list) => { for (const [name, weight, mark, label] of list) KINDS[name] = { group, weight, mark, label }; };
kinds('faults', [['violation', 99, 'none', ''], ['fault', 0, 'none', ''], ['miss', 0, 'none', ''], ['crash', 95, 'cross', 'crash'], ['pause', 60, 'none', ''],
  ['resume', 55, 'up', 'goes on'], ['stop', 60, 'square-warn', 'told to stop'], ['left', 60, 'hollow', 'leaves'], ['cut', 20, 'none', ''], ['healed', 15, 'none', ''],
  ['away', 50, 'none', ''], ['back', 40, 'up', 'back'], ['clock', 70, 'square-warn', 'clock step'], ['calm', 36, 'hollow', 'faults stop'], ['loss', 70, 'square-warn', 'data lost'],
  ['poison', 1, 'none', ''], ['start', 45, 'up', 'start'], ['trouble', 40, 'bang', 'no answer']]);
kinds('leases', [['dead', 90, 'cross', 'declared dead'], ['taken', 35, 'up', ''], ['dropped', 50, 'hollow', 'dropped'], ['cutback', 50, 'square-warn', 'cut back'],
  ['chosen', 2, 'none', ''], ['has', 25, 'none', ''], ['lapse', 80, 'bang', 'licence over'], ['learns', 75, 'bang', 'learns it is dead'], ['refused', 65, 'bang', 'refused'],
  ['spared', 40, 'hollow', 'spared']]);
kinds('recovery', [['recovered', 85, 'diamond', 'recovered'], ['fenced', 92, 'ring', 'fenced'], ['learns-fenced', 58, 'ring', ''], ['crashed', 70, 'bang', 'crash counted'],
  ['withdrawn', 60, 'hollow', 'crash withdrawn'], ['before', 35, 'hollow', 'recorded before']]);
kinds('rows', [['claim', 30, 'right', ''], ['settled', 45, 'hollow', 'settled'], ['closed', 45, 'hollow', 'closed'], ['success', 28, 'dot', ''], ['failed', 34, 'square', ''],
  ['freed', 32, 'left', 'given back'], ['retried', 33, 'left', ''], ['cancel', 26, 'left', ''], ['abandon', 50, 'bang', 'gives a row up']]);
kinds('batches', [['loaded', 36, 'up', 'submit'], ['appended', 40, 'up', 'append'], ['held', 60, 'square-warn', 'hold'], ['resumed-batch', 50, 'up', 'resume'],
  ['ended', 65, 'square', 'batch ends'], ['aborted', 80, 'cross', 'abort'], ['call', 20, 'hollow', ''], ['called', 22, 'dot', '']]);
kinds('runs', [['run', 1, 'none', ''], ['ran', 1, 'none', '']]);
kinds('routine', [['renew', 0, 'tick', ''], ['beat', 0, 'tick', ''], ['publish', 0, 'tick', ''], ['leave', 3, 'hollow', ''], ['check', 4, 'eye', ''], ['look', 4, 'eye', ''], ['ask', 3, 'small', '']]);
kinds('other', [['other', 30, 'square-warn', '']]);
const kindOf = name => KINDS[name] || KINDS.other;
const GROUPS = ['faults', 'leases', 'recovery', 'rows', 'batches', 'runs', 'routine', 'other'];

// --- time
const time = (us, step = 1) => {
  const [size, unit] = us >= 1e6 || step >= 1e6 ? [1e6, 's'] : us >= 1e3 || step >= 1e3 ? [1e3, 'ms'] : [1, 'µs'];
  const digits = Math.max(0, Math.min(6, Math.ceil(Math.log10(size / step))));
  return `${(us / size).toFixed(Math.min(digits, Math.round(Math.log10(size))))} ${unit}`;
};
const exact = us => us >= 1e6 ? `${(us / 1e6).toFixed(us < 1e8 ? 4 : 3)} s` : us >= 1e3 ? `${(us / 1e3).toFixed(2)} ms` : `${us} µs`;

/**
 * Two ways to lay out time: as it is, or with every gap between two events drawn by its logarithm. What is routine does not
 * count: hours of nothing but renewals are quiet time.
 */
const telling = data.events.filter(e => kindOf(e.kind).group !== 'routine');
const moments = (() => {
  const all = new Set([0, data.end_us]);
  for (const e of telling) all.add(e.at);
  for (const b of data.bars) { all.add(b.from); all.add(b.to); }
  return [...all].filter(t => t <= data.end_us).sort((a, b) => a - b);
})();
const squeezedAt = (() => {
  let at = 0;
  return moments.map((t, i) => i ? at += Math.log2(1.3 + (t - moments[i - 1]) / 200) : 0);
})();
const place = (list, value) => {
  let low = 0, high = list.length - 1;
  while (high - low > 1) { const mid = (low + high) >> 1; if (list[mid] <= value) low = mid; else high = mid; }
  return low;
};
const between = (from, to, value) => {
  if (from.length < 2) return value;
  const i = place(from, value), width = from[i + 1] - from[i];
  return to[i] + (width ? (value - from[i]) / width : 0) * (to[i + 1] - to[i]);
};
let squeezed = false;
const toU = t => squeezed ? between(moments, squeezedAt, t) : t;
const toT = u => squeezed ? between(squeezedAt, moments, u) : u;
const uMax = () => toU(data.end_us) || 1;

// --- lanes, from top to bottom
const GUTTER = 118;
const lanes = [];
const laneAt = new Map();
const key = lane => lane[0] === 'w' ? `w${lane[1]}.${lane[2]}` : lane[0] === 'b' ? `b${lane[1]}` : lane[0];
const barsBy = new Map();
for (const [i, bar] of data.bars.entries()) { bar.i = i; const k = key(bar.lane); if (!barsBy.has(k)) barsBy.set(k, []); barsBy.get(k).push(bar); }
const eventsBy = new Map();
for (const [i, event] of data.events.entries()) { event.i = i; const k = key(event.lane); if (!eventsBy.has(k)) eventsBy.set(k, []); eventsBy.get(k).push(event); }
const MARKS = 15;

/** A greedy packing of the faults that last, so that none lies on another. */
function packFaults() {
  const ends = [];
  for (const bar of (barsBy.get('f') || []).sort((a, b) => a.from - b.from)) {
    let track = ends.findIndex(end => end <= bar.from);
    if (track < 0) { track = ends.length; ends.push(0); }
    ends[track] = bar.to + 1;
    bar.track = track;
  }
  return ends.length;
}

/** Rows to draw of a batch: all, or where there are too many those with something odd about them first. */
const ROWS_MAX = 150;
function shownRows(at, batch) {
  const lines = Array.from({ length: batch.lines }, (_, i) => i + 1);
  if (lines.length <= ROWS_MAX) return lines;
  const odd = new Map();
  const more = (line, by) => odd.set(line, (odd.get(line) || 0) + by);
  for (const bar of barsBy.get(`b${at}`) || []) more(bar.lane[2], bar.kind.startsWith('free-') ? 20 : 1);
  for (const e of data.events) if (e.rows && e.rows.batch === at && kindOf(e.kind).weight > 50) for (const [first, end] of e.rows.lines) for (let line = first; line <= end; line++) more(line, 50);
  return lines.sort((a, b) => (odd.get(b) || 0) - (odd.get(a) || 0) || a - b).slice(0, ROWS_MAX).sort((a, b) => a - b);
}

/** Runs of one row at the same time (one of them a zombie's) lie beside each other. */
function packRuns() {
  for (const [k, bars] of barsBy) {
    if (k[0] !== 'b') continue;
    const ends = new Map();
    for (const bar of bars.filter(b => b.kind === 'run').sort((a, b) => a.from - b.from)) {
      const of = ends.get(bar.lane[2]) || [];
      let track = of.findIndex(end => end <= bar.from);
      if (track < 0) track = of.length;
      of[track] = bar.to;
      bar.track = track;
      ends.set(bar.lane[2], of);
    }
  }
}

function layOut() {
  packRuns();
  let y = 0;
  const add = lane => { lane.y = y; lanes.push(lane); laneAt.set(lane.key, lane); y += lane.height + 8; };
  add({ key: 'f', title: 'faults', sub: 'and operators', marks: 0, bars: MARKS, height: MARKS + packFaults() * 16 + 2 });
  for (let w = 0; w < data.workers; w++) {
    for (let nth = 0; nth === 0 || barsBy.has(`w${w}.${nth}`); nth++) {
      const k = `w${w}.${nth}`;
      const tracks = Math.max(1, ...(barsBy.get(k) || []).filter(b => b.kind === 'run').map(b => b.track + 1));
      add({ key: k, title: nth ? '' : `worker ${w}`, sub: nth ? 'a second process' : '', marks: 0, life: MARKS, runs: MARKS + 17, tracks, track: tracks > 4 ? 9 : 13, height: MARKS + 17 + tracks * (tracks > 4 ? 9 : 13) });
    }
  }
  const leases = Math.max(1, ...(barsBy.get('s') || []).map(b => b.track + 1));
  add({ key: 's', title: 'store', sub: 'and its live leases', marks: 0, routine: MARKS - 1, bars: 2 * MARKS, height: 2 * MARKS + leases * 15 });
  if (data.witness) add({ key: 'r', title: 'Redis', sub: 'heartbeats', marks: 0, routine: MARKS - 2, bars: 0, height: 2 * MARKS });
  data.batches.forEach((batch, at) => {
    const rows = shownRows(at, batch);
    const size = rows.length <= 12 ? 22 : rows.length <= 40 ? 13 : 9;
    const sub = rows.length < batch.lines ? `${rows.length} of ${batch.lines} rows` : `${batch.lines} row${batch.lines === 1 ? '' : 's'}`;
    add({ key: `b${at}`, title: batch.name, sub, rows, size, rowAt: new Map(rows.map((line, i) => [line, i])), marks: 0, height: Math.max(28, rows.length * size) });
  });
  return y;
}
const height = layOut();

// --- view
let view = [0, 1];
let width = 800;
const X = t => GUTTER + (toU(t) - view[0]) / (view[1] - view[0]) * (width - GUTTER - 8);
const U = x => view[0] + (x - GUTTER) / (width - GUTTER - 8) * (view[1] - view[0]);
let picked = null, hovered = null, hidden = new Set();
const faded = owner => owner !== undefined && hidden.has(owner) ? ' faded' : '';

function show(from, to) {
  const max = uMax(), least = squeezed ? 2 : 20;
  let size = Math.min(Math.max(to - from, Math.min(least, max)), max * 1.04);
  let start = Math.max(-max * 0.02, Math.min(from, max * 1.02 - size));
  view = [start, start + size];
  tip.hidden = true;
  draw();
}
const fit = () => show(-uMax() * 0.01, uMax() * 1.02);
const zoom = (factor, x) => { const u = U(x === undefined ? (width + GUTTER) / 2 : x); show(u - (u - view[0]) * factor, u + (view[1] - u) * factor); };
const move = part => { const by = (view[1] - view[0]) * part; show(view[0] + by, view[1] + by); };
function centre(t, part) {
  const size = part ? Math.min(view[1] - view[0], uMax() * part) : view[1] - view[0];
  show(toU(t) - size / 2, toU(t) + size / 2);
}

// --- drawing
const rect = (cls, x1, x2, y, h, attrs, style = '') => {
  const left = Math.max(GUTTER, x1), right = Math.min(width, x2);
  if (right < GUTTER || left > width) return '';
  return `<rect class="${cls}" x="${left.toFixed(1)}" y="${y}" width="${Math.max(1.2, right - left).toFixed(1)}" height="${h}" rx="2" style="${style}" ${attrs}/>`;
};
const measure = text => text.length * 6.1;
const label = (cls, x1, x2, y, text, pad = 3) => {
  const left = Math.max(GUTTER, x1) + pad, room = Math.min(width, x2) - left - 2;
  if (!text || room < 9) return '';
  let shown = text;
  if (measure(text) > room) { const fits = Math.floor(room / 6.1) - 1; if (fits < 3) return ''; shown = text.slice(0, fits) + '…'; }
  return `<text class="${cls}" x="${left.toFixed(1)}" y="${y}" pointer-events="none">${html(shown)}</text>`;
};
const MARK = {
  dot: (x, y) => `<circle cx="${x}" cy="${y}" r="4"/>`,
  small: (x, y) => `<circle cx="${x}" cy="${y}" r="2"/>`,
  hollow: (x, y) => `<circle class="mark hollow" cx="${x}" cy="${y}" r="3.6"/>`,
  eye: (x, y) => `<path class="mark hollow" d="M${x - 4} ${y}Q${x} ${y - 5} ${x + 4} ${y}Q${x} ${y + 5} ${x - 4} ${y}Z"/>`,
  square: (x, y) => `<rect x="${x - 3.6}" y="${y - 3.6}" width="7.2" height="7.2"/>`,
  'square-warn': (x, y) => `<rect class="mark warn" x="${x - 4}" y="${y - 4}" width="8" height="8"/>`,
  up: (x, y) => `<path d="M${x - 4.5} ${y + 4}L${x} ${y - 4.5}L${x + 4.5} ${y + 4}Z"/>`,
  right: (x, y) => `<path d="M${x - 3.5} ${y - 4.5}L${x + 4.5} ${y}L${x - 3.5} ${y + 4.5}Z"/>`,
  left: (x, y) => `<path d="M${x + 3.5} ${y - 4.5}L${x - 4.5} ${y}L${x + 3.5} ${y + 4.5}Z"/>`,
  diamond: (x, y) => `<path d="M${x} ${y - 5.5}L${x + 5} ${y}L${x} ${y + 5.5}L${x - 5} ${y}Z"/>`,
  cross: (x, y) => `<path class="mark bad" d="M${x - 4.5} ${y - 4.5}L${x + 4.5} ${y + 4.5}M${x - 4.5} ${y + 4.5}L${x + 4.5} ${y - 4.5}"/>`,
  ring: (x, y) => `<circle class="mark fenced" cx="${x}" cy="${y}" r="4.4"/><path class="mark bad" d="M${x - 3} ${y - 3}L${x + 3} ${y + 3}"/>`,
  bang: (x, y) => `<path class="mark warn" d="M${x} ${y - 5.5}L${x + 5} ${y + 4}L${x - 5} ${y + 4}Z"/>`,
};
const BAD = new Set(['crash', 'dead', 'fenced', 'aborted']);

function drawMarks(lane, events, y) {
  let out = '', ticks = '', lastTick = -9;
  const clusters = [];
  for (const e of events) {
    const kind = kindOf(e.kind);
    if (kind.mark === 'none') continue;
    const x = X(e.at);
    if (x < GUTTER - 4 || x > width + 4) continue;
    if (kind.mark === 'tick') {
      if (x - lastTick < 1.5) continue;
      lastTick = x;
      ticks += `<path class="tick${faded(e.owner)}" style="${colour(e.owner)}" d="M${x.toFixed(1)} ${y + 4}v6" data-e="${e.i}"/>`;
      continue;
    }
    const last = clusters[clusters.length - 1];
    if (last && x - last.x < 10) {
      last.all.push(e.i);
      if (kind.weight > last.kind.weight) { last.kind = kind; last.event = e; }
    } else clusters.push({ x, all: [e.i], kind, event: e });
  }
  // Labels: the important ones first, each where none lies yet; a lesser mark may lie under one.
  const taken = [];
  const fits = (from, to) => taken.every(([a, b]) => to < a || from > b);
  const labels = [];
  for (const c of [...clusters].sort((a, b) => b.kind.weight - a.kind.weight)) {
    if (c.under) continue;
    const named = c.kind.weight > 30 && c.kind.label, grave = c.kind.weight >= 70;
    const text = named ? c.kind.label + (c.all.length > 1 ? ` +${c.all.length - 1}` : '') : c.all.length > 1 ? `${c.all.length}` : '';
    if (!text) continue;
    const size = named ? measure(text) : text.length * 5, at = c.x + 6 + size > width ? c.x - 9 - size : c.x + 7;
    const clear = grave || clusters.every(o => o === c || o.x + 5 < at || o.x - 5 > at + size);
    if (!clear || at < GUTTER || !fits(at - 8, at + size)) continue;
    // Lesser marks that the label would lie on go into this one.
    for (const o of clusters) if (o !== c && !o.under && o.kind.weight <= c.kind.weight && o.x + 4 > at && o.x - 4 < at + size) { o.under = true; c.all.push(...o.all); }
    taken.push([c.x - 5, at + size]);
    const cls = BAD.has(c.event.kind) ? 'bad' : named ? 'dim' : 'count';
    labels.push(`<text class="${cls} halo" x="${at.toFixed(1)}" y="${y + 11}" pointer-events="none">${html(text)}</text>`);
  }
  for (const c of clusters.filter(c => !c.under).sort((a, b) => a.kind.weight - b.kind.weight)) {
    const x = Math.max(c.x, GUTTER);
    out += `<g class="mark${faded(c.event.owner)}" style="${colour(c.event.owner)}" data-e="${c.all.join(' ')}">${MARK[c.kind.mark](+x.toFixed(1), y + 7)}</g>`;
  }
  out += labels.join('');
  return ticks + out;
}

function drawBars(lane) {
  let out = '';
  const seen = new Map();
  for (const b of barsBy.get(lane.key) || []) {
    const x1 = X(b.from), x2 = X(b.to);
    if (x2 < GUTTER || x1 > width) continue;
    const tip = `data-b="${b.i}"`, style = colour(b.owner), fade = faded(b.owner);
    // Bars that are thinner than a pixel hide each other anyway.
    if (x2 - x1 < 1) { const k = `${b.kind} ${b.track} ${b.lane[2]} ${Math.round(x1)}`; if (seen.has(k)) continue; seen.set(k, 1); }
    if (lane.key === 'f') {
      const y = lane.y + lane.bars + b.track * 16, long = x2 - x1 > 4;
      out += long ? rect(b.kind, x1, x2, y, 13, tip) : `<path class="mark warn" d="M${x1 - 3} ${y + 1}h6v7l-3 4l-3 -4z" ${tip}/>`;
      const following = (barsBy.get('f') || []).find(o => o.track === b.track && o.from > b.from);
      const room = following ? X(following.from) - 4 : width;
      const inside = x2 - Math.max(x1, GUTTER) > measure(b.label) + 6;
      out += inside || x2 > width - 60 ? label('warn', x1, Math.max(x2, Math.min(room, width)), y + 10, b.label) : label('warn', x2 + 2, room, y + 10, b.label);
    } else if (lane.key[0] === 'w') {
      const y = lane.y + lane.life;
      if (b.kind === 'life') out += rect('life', x1, x2, y, 14, tip) + (b.to - b.from ? '' : '');
      if (b.kind === 'leased') out += rect('owned' + fade, x1, x2, y + 1, 12, tip, style) + label('on', x1, x2, y + 11, b.label);
      if (b.kind === 'run') out += rect('owned' + fade, x1, x2, lane.y + lane.runs + b.track * lane.track, lane.track - 2, tip, style) + label(lane.track > 10 ? 'on' : 'on tiny', x1, x2, lane.y + lane.runs + b.track * lane.track + lane.track - 4 + (lane.track > 10 ? 0 : 2), b.label);
    } else if (lane.key === 's') {
      const y = lane.y + lane.bars + b.track * 15;
      if (b.kind === 'lease') out += rect('held' + fade, x1, x2, y, 12, tip, style) + label('', x1, x2, y + 10, b.label);
    } else if (lane.key[0] === 'b') {
      const nth = lane.rowAt.get(b.lane[2]);
      if (nth === undefined) continue;
      const y = lane.y + nth * lane.size, h = lane.size - 1;
      const cls = b.kind === 'run' ? 'owned' : b.kind === 'held' ? 'held' : b.kind === 'held-suspect' ? 'held suspect' : b.kind === 'free' ? 'free' : 'free recovered';
      if (b.kind === 'run') {
        const strip = lane.size > 20 ? 5 : lane.size > 12 ? 3.5 : 2.6;
        out += rect(cls + fade, x1, x2, y + h - (b.track + 1) * (strip + 0.6), strip, tip, style);
      } else out += rect(cls + fade, x1, x2, y, h, tip, style) + (lane.size > 20 ? `<g opacity=".8">${label('', x1, x2, y + 10, b.label, 2)}</g>` : '');
    }
  }
  // On top of what they strike.
  for (const b of barsBy.get(lane.key) || []) {
    const x1 = X(b.from), x2 = X(b.to), tip = `data-b="${b.i}"`;
    if (x2 < GUTTER || x1 > width) continue;
    if (b.kind === 'paused') out += rect('paused', x1, x2, lane.y + lane.life, lane.height - lane.life, tip) + label('', x1, x2, lane.y + lane.life + 11, b.label);
    if (b.kind === 'cut-store') out += rect('cut', x1, x2, lane.y + lane.life - 2, 3, tip);
    if (b.kind === 'cut-witness') out += rect('cut witness', x1, x2, lane.y + lane.life + 13, 3, tip);
    if (b.kind === 'away') out += rect('away', x1, x2, lane.y, lane.height, tip) + label('bad', x1, x2, lane.y + 11, b.label);
  }
  return out;
}

function drawRows(lane) {
  let out = '';
  const every = lane.size > 12 ? 1 : 5;
  lane.rows.forEach((line, i) => {
    if (i % 2) out += `<rect class="band" x="${GUTTER}" y="${lane.y + i * lane.size}" width="${Math.max(0, width - GUTTER)}" height="${lane.size}"/>`;
    if (i % every === 0 || lane.rows.length < 6) out += `<text class="row" x="${GUTTER - 5}" y="${lane.y + i * lane.size + lane.size / 2 + 3}">${line}</text>`;
    out += `<rect class="pick${story && story[0] === +lane.key.slice(1) && story[1] === line ? ' on' : ''}" x="${GUTTER - 26}" y="${lane.y + i * lane.size}" width="24" height="${lane.size - 1}" rx="3" data-row="${lane.key.slice(1)} ${line}"><title>the story of this row</title></rect>`;
  });
  return out;
}

const ON_ROWS = new Set(['success', 'failed', 'fenced', 'crashed', 'withdrawn']);
function drawRowMarks(lane, events) {
  let out = '';
  const at = +lane.key.slice(1), last = new Map();
  for (const e of events) {
    if (!e.rows || e.rows.batch !== at || !ON_ROWS.has(e.kind)) continue;
    const nth = lane.rowAt.get(e.rows.lines[0][0]), x = X(e.at);
    if (nth === undefined || x < GUTTER - 4 || x > width + 4) continue;
    const kind = kindOf(e.kind), y = lane.y + nth * lane.size + lane.size / 2 - 0.5;
    const scale = lane.size > 12 ? 1 : 0.75;
    if (kind.weight < 50 && Math.abs((last.get(nth) ?? -9) - x) < 2) continue;
    last.set(nth, x);
    out += `<g class="mark${faded(e.owner)}" style="${colour(e.owner)}" data-e="${e.i}" transform="translate(${x.toFixed(1)} ${y}) scale(${scale})">${MARK[kind.mark](0, 0)}</g>`;
    if (kind.weight > 50 && lane.size > 12) out += label(BAD.has(e.kind) ? 'bad' : 'dim', x + 6, Math.min(width, x + 90), y + 4, kind.label, 2);
  }
  return out;
}

const MESSAGES_MAX = 500;
function drawMessages() {
  if (!$('messages').checked) return '';
  const inView = data.messages.filter(m => X(m.heard ?? m.done ?? m.sent) >= GUTTER && X(m.sent) <= width);
  let out = '', drawn = 0;
  for (const [i, m] of data.messages.entries()) {
    const end = m.heard ?? m.done ?? m.sent;
    const x0 = X(m.sent), x2 = X(end);
    if (x2 < GUTTER || x0 > width) continue;
    const lost = m.done === undefined || (m.heard === undefined && m.kind !== 'again');
    if (inView.length > MESSAGES_MAX && !lost && x2 - x0 < 4) continue;
    if (++drawn > 3 * MESSAGES_MAX) break;
    const from = laneAt.get(key(m.from)), to = laneAt.get(key(m.to));
    if (!from || !to) continue;
    const y0 = from.y + MARKS + 15, y1 = to.y + 1;
    let d = '', stop = '';
    if (m.done === undefined) {
      const yy = y0 + 26;
      const x = m.heard === undefined ? x0 + 9 : Math.min(x2, x0 + 9);
      d = `M${x0.toFixed(1)} ${y0}L${x.toFixed(1)} ${yy}`;
      stop = `M${x - 3} ${yy - 3}l6 6m0 -6l-6 6`;
    } else {
      const x1 = X(m.done);
      d = `M${x0.toFixed(1)} ${y0}L${x1.toFixed(1)} ${y1}`;
      if (m.heard !== undefined) d += `L${x2.toFixed(1)} ${y0}`;
      else if (m.kind !== 'again') { const x = x1 + 9, yy = y1 - 26; d += `L${x.toFixed(1)} ${yy}`; stop = `M${x - 3} ${yy - 3}l6 6m0 -6l-6 6`; }
    }
    const cls = `message${lost ? ' lost' : ''}${faded(m.owner)}`;
    out += `<path class="${cls}" style="${colour(m.owner)}" d="${d}${stop}"/><path class="message fat" d="${d}" data-m="${i}"/>`;
  }
  return `<g clip-path="url(#inside)">${out}</g>`;
}

function ticks() {
  const marks = [], room = 92;
  let last = -1e9;
  for (let x = GUTTER; x < width - 30; x += 12) {
    if (x - last < room) continue;
    const t = toT(U(x)), near = Math.abs(toT(U(x + 40)) - toT(U(x - 40)));
    if (t < 0 || t > data.end_us) continue;
    let step = 10 ** Math.floor(Math.log10(Math.max(1, near / 4)));
    for (const by of [5, 2]) if (step * by <= near / 2) { step *= by; break; }
    const at = Math.round(t / step) * step, px = X(at);
    if (px - last < room || px < GUTTER || px > width - 30 || at > data.end_us) continue;
    marks.push([px, time(at, step)]);
    last = px;
  }
  return marks;
}

const isRoutine = e => kindOf(e.kind).group === 'routine';
const ownEvents = lane => (eventsBy.get(lane.key) || []);
let queued = false;
function draw() { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; render(); }); } }
function render() {
  width = $('scroll').clientWidth;
  const marks = ticks();
  const gridLines = marks.map(([x]) => `<path class="grid" d="M${x.toFixed(1)} 0V${height}"/>`).join('');
  let out = `<defs>
    <pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7" fill="var(--bg)" fill-opacity=".55"/><path d="M0 0V7" stroke="var(--dim)" stroke-width="2.4" stroke-opacity=".6"/></pattern>
    <pattern id="hatch-warn" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0V6" stroke="var(--warn)" stroke-width="2.5" stroke-opacity=".55"/></pattern>
    <clipPath id="inside"><rect x="${GUTTER}" y="0" width="${Math.max(0, width - GUTTER)}" height="${height}"/></clipPath></defs>`;
  for (const lane of lanes) if (lane.rows) out += drawRows(lane);
  out += gridLines;
  let inner = '';
  for (const lane of lanes) inner += drawBars(lane);
  inner += drawMessages();
  for (const lane of lanes) inner += lane.rows ? drawRowMarks(lane, data.events) : lane.routine ? drawMarks(lane, ownEvents(lane).filter(e => !isRoutine(e)), lane.y) + drawMarks(lane, ownEvents(lane).filter(isRoutine), lane.y + lane.routine) : drawMarks(lane, ownEvents(lane), lane.y);
  out += `<g clip-path="url(#inside)">${inner}</g>`;
  for (const e of data.events) if (e.kind === 'calm') { const x = X(e.at); if (x >= GUTTER && x <= width) out += `<path class="calm" d="M${x} 0V${height}" data-e="${e.i}"/>`; }
  for (const at of [picked, hovered]) if (at) { const x = X(at.at); if (x >= GUTTER && x <= width) out += `<path class="cursor" d="M${x.toFixed(1)} 0V${height}"/>`; }
  const flag = data.violation ? X(data.violation.at) : -999, flagAt = flag > width - 130 ? flag - 128 : flag;
  let axis = marks.filter(([x]) => !data.violation || x < flagAt - 34 || x > flagAt + 162).map(([x, text]) => `<path class="sep" d="M${x.toFixed(1)} 20v6"/><text class="mid dim" x="${x.toFixed(1)}" y="15">${text}</text>`).join('');
  if (data.violation) {
    const x = flag;
    if (x >= GUTTER && x <= width + 1) {
      out += `<path class="violation" d="M${x.toFixed(1)} 0V${height}"/>`;
      axis += `<rect x="${flagAt}" y="2" width="128" height="17" rx="3" fill="var(--bad)"/><text class="on" x="${flagAt + 5}" y="14">✗ ${html(data.violation.check).slice(0, 20)}</text>`;
    }
  }
  for (const lane of lanes) {
    out += `<path class="sep" d="M0 ${lane.y + lane.height + 4}H${width}"/>`;
    out += `<text class="lane" x="8" y="${lane.y + 13}">${html(lane.title)}</text><text class="dim" x="8" y="${lane.y + 27}">${html(lane.sub || '')}</text>`;
  }
  $('body').setAttribute('height', height);
  $('body').innerHTML = out;
  $('axis').innerHTML = axis;
  follow();
}

// --- words with owners in their colours
const names = new Map();
data.owners.forEach((owner, i) => names.set(owner.lease, `<span class="chip" style="${colour(i)}" title="lease ${owner.lease}">${html(owner.label)}</span>`));
data.batches.forEach(batch => names.set(batch.id, `<span title="batch ${batch.id}">${html(batch.name)}</span>`));
const words = text => html(text).replace(/\bbatch ([0-9a-z]{8})\b/g, '$1').replace(/\b[0-9a-z]{8}(?:[0-9a-z]{4})?\b/g, id => names.get(id) || id);
const laneName = lane => lane[0] === 'w' ? `w${lane[1]}` : ({ f: '', s: 'store', r: 'Redis' })[lane[0]];

// --- the list beside
const shownGroups = new Set(GROUPS.filter(g => g !== 'routine' && g !== 'runs'));
let listed = [];
let story = null;
const isOf = (e, row) => e.rows && e.rows.batch === row[0] && e.rows.lines.some(([first, end]) => first <= row[1] && row[1] <= end);
/** All about one row: what befell it, and what befell the leases that held it and their processes meanwhile. */
function tell(row) {
  story = row;
  $('story').hidden = !row;
  if (row) {
    $('story').innerHTML = `the story of row ${row[1]} of ${html(data.batches[row[0]].name)} <button>show all</button>`;
    story.owners = new Set([...data.events.filter(e => isOf(e, row)), ...(barsBy.get(`b${row[0]}`) || []).filter(b => b.lane[2] === row[1])].map(e => e.owner).filter(o => o !== undefined));
  }
  fillList();
  draw();
}
const inStory = e => isOf(e, story) || e.kind === 'violation' || (e.lane[0] === 'f' && e.kind !== 'poison')
  || (story.owners.has(e.owner) && !e.rows && (['faults', 'leases'].includes(kindOf(e.kind).group) || ['settled', 'closed'].includes(e.kind)));
function fillList() {
  const find = $('find').value.trim().toLowerCase();
  listed = data.events.filter(e => (story ? inStory(e) : e.kind === 'violation' || shownGroups.has(kindOf(e.kind).group)) && (!find || plain(e).includes(find)));
  $('list').innerHTML = listed.map(e => `<li data-i="${e.i}"${BAD.has(e.kind) || e.kind === 'violation' ? ' class="bad"' : ''} style="${e.owner === undefined ? '' : `${colour(e.owner)};border-left-color:var(--c)`}"><span class="t">${exact(e.at)}</span><span class="l">${laneName(e.lane)}</span><span>${words(e.text)}</span></li>`).join('');
  follow();
}
const plain = e => {
  if (!e.plain) { let text = e.text; for (const o of data.owners) text = text.replaceAll(o.lease, o.label); for (const b of data.batches) text = text.replaceAll(b.id, b.name); e.plain = `${text} ${laneName(e.lane)}`.toLowerCase(); }
  return e.plain;
};
let listBusy = 0;
/** The list goes where the chart is. */
function follow() {
  const items = $('list').children;
  const from = toT(view[0]), to = toT(view[1]);
  let first = null;
  for (let i = 0; i < listed.length; i++) {
    const inside = listed[i].at >= from && listed[i].at <= to;
    items[i].classList.toggle('here', inside && to - from < data.end_us);
    items[i].classList.toggle('picked', picked === listed[i]);
    if (inside && !first) first = items[i];
  }
  const target = picked && listed.includes(picked) ? items[listed.indexOf(picked)] : first;
  if (target && performance.now() > listBusy) $('list').scrollTop = target.offsetTop - $('list').offsetTop - (picked ? $('list').clientHeight / 2 : 2);
}

// --- hands
function tipFor(target) {
  const list = [];
  if (target.dataset.e) {
    const all = target.dataset.e.split(' ').map(i => data.events[i]);
    const most = [...all].sort((a, b) => kindOf(b.kind).weight - kindOf(a.kind).weight).slice(0, 12).sort((a, b) => a.i - b.i);
    for (const e of most) list.push(`<div><span class="t">${exact(e.at)}</span>${words(e.text)}</div>`);
    if (all.length > 12) list.push(`<div>and ${all.length - 12} more: zoom in</div>`);
  }
  if (target.dataset.b) { const b = data.bars[target.dataset.b]; list.push(`<div><span class="t">${exact(b.from)} – ${exact(b.to)}</span></div><div>${words(b.text)}</div>`); }
  if (target.dataset.m) {
    const m = data.messages[target.dataset.m];
    list.push(`<div>${words(m.text)}</div><div><span class="t">sent ${exact(m.sent)}, ${m.done === undefined ? 'never done' : `done ${exact(m.done)}`}, ${m.heard === undefined ? 'no reply came' : `heard ${exact(m.heard)}`}</span></div>`);
  }
  return list.join('');
}
$('scroll').addEventListener('mousemove', event => {
  const target = event.target.closest('[data-e],[data-b],[data-m]');
  if (!target || drag) { tip.hidden = true; return; }
  tip.innerHTML = tipFor(target);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - box.width - 8)}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18}px`;
});
$('scroll').addEventListener('mouseleave', () => { tip.hidden = true; });
$('chart').addEventListener('wheel', event => {
  const x = event.clientX - $('scroll').getBoundingClientRect().left;
  if (x < GUTTER) return;
  event.preventDefault();
  picked = null;
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX || event.deltaY) / 1500);
  else zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 220), x);
}, { passive: false });
let drag = null;
$('body').addEventListener('pointerdown', event => { drag = { x: event.clientX, y: event.clientY, top: $('scroll').scrollTop, view: [...view], far: false }; });
addEventListener('pointermove', event => {
  if (!drag) return;
  if (Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y) > 4) { drag.far = true; $('body').classList.add('moving'); }
  if (!drag.far) return;
  picked = null;
  $('scroll').scrollTop = drag.top - (event.clientY - drag.y);
  const by = (drag.x - event.clientX) / (width - GUTTER - 8) * (drag.view[1] - drag.view[0]);
  show(drag.view[0] + by, drag.view[1] + by);
});
addEventListener('pointerup', event => {
  if (drag && !drag.far) { const row = event.target.closest?.('[data-row]'); if (row) { tell(row.dataset.row.split(' ').map(Number)); drag = null; return; } const target = event.target.closest?.('[data-e]'); picked = target ? data.events[target.dataset.e.split(' ')[0]] : null; if (picked) listBusy = 0; draw(); }
  drag = null;
  $('body').classList.remove('moving');
});
$('body').addEventListener('dblclick', fit);
const act = {
  fit, in: () => zoom(0.6), out: () => zoom(1.6), left: () => move(-0.3), right: () => move(0.3),
  violation: () => { if (data.violation) { picked = data.events.find(e => e.kind === 'violation') || null; centre(data.violation.at, 0.15); } },
};
document.querySelector('.tools').addEventListener('click', event => { const name = event.target.dataset?.do; if (name) act[name](); });
addEventListener('keydown', event => {
  if (event.target.tagName === 'INPUT' && event.target.type === 'search') return;
  const name = { '+': 'in', '=': 'in', '-': 'out', ArrowLeft: 'left', ArrowRight: 'right', 0: 'fit', v: 'violation' }[event.key];
  if (name) { act[name](); event.preventDefault(); }
});
$('list').addEventListener('click', event => {
  const item = event.target.closest('li');
  if (!item) return;
  picked = data.events[item.dataset.i];
  listBusy = performance.now() + 600;
  centre(picked.at);
  const lane = laneAt.get(key(picked.lane));
  if (lane && (lane.y < $('scroll').scrollTop || lane.y > $('scroll').scrollTop + $('scroll').clientHeight - 40)) $('scroll').scrollTop = lane.y - 60;
});
$('list').addEventListener('mouseover', event => { const item = event.target.closest('li'); hovered = item ? data.events[item.dataset.i] : null; listBusy = performance.now() + 400; draw(); });
$('list').addEventListener('mouseleave', () => { hovered = null; draw(); });
$('find').addEventListener('input', fillList);
$('story').addEventListener('click', event => { if (event.target.tagName === 'BUTTON') tell(null); });
$('messages').addEventListener('change', draw);
$('squeezed').addEventListener('change', () => { const [from, to] = view.map(toT); squeezed = $('squeezed').checked; show(toU(Math.max(0, from)), toU(Math.min(data.end_us, to))); });
addEventListener('resize', draw);

// --- the frame
$('title').textContent = data.title;
$('about').textContent = data.about.join(' · ') + (data.left_out ? ` · ${data.left_out} frequent events are left out` : '');
if (data.violation) {
  $('violation').hidden = $('to-violation').hidden = false;
  $('violation').innerHTML = `<b>✗ ${html(data.violation.check)}</b> is violated at ${exact(data.violation.at)}: ${words(data.violation.text)}`;
  const text = data.violation.text;
  const [, id, line] = /\b([0-9a-z]{8}),? (?:line|row) (\d+)/.exec(text) || /\b([0-9a-z]{8}) \[.*?lines: \{(\d+)/.exec(text) || [];
  const at = data.batches.findIndex(batch => batch.id === id);
  if (at >= 0) {
    $('violation').insertAdjacentHTML('beforeend', ` <button id="why">the story of row ${line}</button>`);
    $('why').addEventListener('click', () => tell([at, +line]));
  }
}
$('legend').innerHTML = data.owners.slice(0, 24).map((owner, i) => `<span class="chip" style="${colour(i)}" data-owner="${i}" title="lease ${owner.lease}: click to fade it">${html(owner.label)}</span>`).join('')
  + '<i>one colour per lease (w1·2: worker 1, its second process). Rows: <b>full</b> runs, <b>pale</b> held, dashed suspect, striped recovered</i>';
$('legend').addEventListener('click', event => { const owner = event.target.dataset?.owner; if (owner === undefined) return; if (!hidden.delete(+owner)) hidden.add(+owner); event.target.classList.toggle('off'); draw(); });
$('groups').innerHTML = GROUPS.filter(g => g !== 'other').map(g => `<label><input type="checkbox" value="${g}"${shownGroups.has(g) ? ' checked' : ''}> ${g}</label>`).join('');
$('groups').addEventListener('change', event => { if (event.target.checked) shownGroups.add(event.target.value); else shownGroups.delete(event.target.value); fillList(); });
$('replay').textContent = data.replay;
$('schedule').textContent = data.schedule;

/** Where true time would put nearly all events on few pixels, quiet time is squeezed to begin with. */
function crowded() {
  const columns = new Set(telling.map(e => Math.round(e.at / data.end_us * 900)));
  const times = telling.map(e => e.at).sort((a, b) => a - b), part = share => times[Math.floor((times.length - 1) * share)] || 0;
  return columns.size < Math.min(telling.length, 900) * 0.2 || part(0.9) - part(0.05) < data.end_us / 10;
}
const wish = new URLSearchParams(location.hash.slice(1));
squeezed = wish.has('squeezed') ? wish.get('squeezed') === '1' : crowded();
$('squeezed').checked = squeezed;
$('messages').checked = wish.has('messages') ? wish.get('messages') === '1' : data.messages.length < 250;
width = $('scroll').clientWidth;
if (wish.has('from')) show(toU(+wish.get('from')), toU(+wish.get('to'))); else fit();
if (wish.has('row')) tell(wish.get('row').split('.').map(Number)); else fillList();

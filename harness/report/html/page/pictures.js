// Pictures: the status line along the steps, chunks of origin and COW device, requests in lanes.
// Each says in words what it shows, and has its numbers in a table beside it where there are many.

const CELL = { width: 26, height: 20, gap: 2 };
const CELLS_MAX = 1024;
const BOXES_MAX = 600;

// The numbers of a snapshot's status line; null for any other.
function statusOf(text) {
  for (const line of (text || "").split("\n")) {
    const words = line.split(" ");
    if (words[2] !== "snapshot" && words[2] !== "snapshot-merge") continue;
    const [used, total] = (words[3] || "").split("/");
    if (/^\d+$/.test(used) && /^\d+$/.test(total))
      return { used: Number(used), total: Number(total), metadata: Number(words[4] || 0), words: "" };
    return { used: null, total: null, metadata: null, words: words.slice(3).join(" ") };
  }
  return null;
}

// -- the status line along the steps -----------------------------------------------------------

function statusSeries(view, steps) {
  const series = new Map();
  for (let step = 0; step < steps; step++)
    for (const [name, state] of Object.entries(view[step]?.sum || {})) {
      const status = statusOf(state.status);
      if (!status) continue;
      if (!series.has(name)) series.set(name, []);
      series.get(name)[step] = status;
    }
  return series;
}

function statusPlots(entry, sides, step, width, pick) {
  const steps = entry.steps.length;
  const [left, right] = entry.views.map((view) => view ? statusSeries(view, steps) : new Map());
  const names = [...new Set([...left.keys(), ...right.keys()])].sort();
  return names.map((name) => statusPlot(
    name, [left.get(name) || [], right.get(name) || []], sides, { steps, step, width, pick }));
}

function statusPlot(name, series, sides, { steps, step, width, pick }) {
  const height = 84, margin = { left: 46, right: 10, top: 10, bottom: 18 };
  const inner = width - margin.left - margin.right, tall = height - margin.top - margin.bottom;
  const known = series.flat().filter((status) => status && status.used !== null);
  const largest = Math.max(1, ...known.map((status) => status.used));
  const x = (at) => margin.left + (steps > 1 ? at / (steps - 1) : 0) * inner;
  const y = (used) => margin.top + tall - used / largest * tall;
  const lines = series.map((found, side) => {
    let path = "", last = null;
    for (let at = 0; at < steps; at++) {
      const used = found[at]?.used ?? null;
      if (used !== null)
        path += last === null ? `M${x(at)} ${y(used)}` : `H${x(at)}V${y(used)}`;
      last = used;
    }
    return path && drawn("path", { d: path, class: `series side-${side}` });
  });
  const turns = series.flatMap((found, side) => {
    const marks = [];
    for (let at = 0; at < steps; at++)
      if (found[at]?.words && found[at].words !== found[at - 1]?.words &&
        (side === 0 || found[at].words !== series[0][at]?.words))
        marks.push(drawn("g", { class: `turn side-${side}` },
          drawn("circle", { cx: x(at), cy: margin.top + tall - 3, r: 3 }),
          drawn("text", { x: Math.min(x(at) + 5, width - 70), y: margin.top + tall - 8 - 12 * side },
            found[at].words)));
    return marks;
  });
  const now = series.map((found, side) => {
    const status = found[step];
    return `${sides[side]} ${!status ? "–" : status.words || `${status.used}/${status.total} ${status.metadata}`}`;
  });
  const same = now.length === 2 && now[0].slice(sides[0].length) === now[1].slice(sides[1].length);
  const svg = drawn("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img", class: "plot",
    "aria-label": `Allocated sectors of ${name} along the steps, at most ${largest}; ` +
      `after step ${step}: ${now.join(", ")}`,
    onclick: (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) * width / box.width - margin.left) / inner;
      pick(Math.max(0, Math.min(steps - 1, Math.round(at * (steps - 1)))));
    },
  },
  drawn("line", { x1: margin.left, x2: width - margin.right, y1: y(0), y2: y(0), class: "axis" }),
  drawn("text", { x: margin.left - 6, y: y(0) + 4, class: "end" }, "0"),
  drawn("text", { x: margin.left - 6, y: margin.top + 8, class: "end" }, largest),
  drawn("text", { x: margin.left, y: height - 4 }, "step 0"),
  drawn("text", { x: width - margin.right, y: height - 4, class: "end" }, steps - 1),
  drawn("line", { x1: x(step), x2: x(step), y1: margin.top - 6, y2: margin.top + tall, class: "cursor" }),
  lines, turns);
  return element("figure", {},
    element("figcaption", {}, element("strong", {}, name), " allocated sectors: ",
      same ? now[0].slice(sides[0].length + 1) : now.join(" · ")),
    svg);
}

// -- chunks ------------------------------------------------------------------------------------

// One snapshot as it is known after a step:
// { device, origin, cow, chunk, sectors, cowSectors, persistent, state, exceptions, source }.

function tableOf(text) {
  const words = (text || "").split("\n")[0].split(" ");
  if ((words[2] !== "snapshot" && words[2] !== "snapshot-merge") || !/^\d+$/.test(words[6] || ""))
    return null;
  const name = (word) => word.replace(/^\{(.*)\}$/, "$1");
  return { sectors: Number(words[1]), type: words[2], origin: name(words[3]), cow: name(words[4]),
    persistent: words[5][0].toUpperCase() === "P", chunk: Number(words[6]) };
}

function layoutsAt(entry, step) {
  const found = {};
  for (const each of entry.layouts || []) {
    if (each.step > step) break;
    for (const [name, layout] of Object.entries(each.devices))
      if (layout) found[name] = layout;
      else delete found[name];
  }
  return found;
}

function dataChunksUpTo(nextFree, entries) {
  return nextFree - 2 - Math.floor((nextFree - 2) / (entries + 1));
}

// What is known of each snapshot after `step`: from images where both are there, else from the
// twin's own tables, else from the next image, as far as the status line reaches.
async function snapshotsAt(entry, sides, step) {
  const found = [];
  const seen = entry.views.map((view) => view?.[step]);
  const sums = seen.map((each) => each?.sum || {});
  const layouts = layoutsAt(entry, step);
  const names = new Set([...Object.keys(layouts), ...Object.keys(sums[0]), ...Object.keys(sums[1])]);
  for (const device of [...names].sort()) {
    const table = tableOf((sums[0][device] || sums[1][device])?.table);
    if (!table && !layouts[device]) continue;
    if (table?.persistent) {
      const images = seen.map((each) => each?.image?.[table.cow]);
      if (images[0] || images[1]) {
        const stores = await Promise.all(images.map((image) => image && storeOf(entry.seed, image)));
        const same = JSON.stringify(stores[0]) === JSON.stringify(stores[1]);
        for (const side of same ? [0] : [0, 1]) {
          const store = stores[side];
          if (store)
            found.push({ ...table, device, chunk: store.chunk, cowSectors: store.sectors,
              state: store.valid ? "" : "invalid", exceptions: store.exceptions,
              source: same ? "read from the images, the same on both sides"
                : `read from the image, ${sides[side]}` });
        }
        continue;
      }
    }
    if (layouts[device]) {
      const layout = layouts[device];
      found.push({ device, origin: layout.origin, cow: layout.cow, chunk: layout.chunk,
        sectors: layout.sectors, cowSectors: layout.cow_sectors, persistent: layout.persistent,
        state: layout.state || "", exceptions: layout.runs || [], source: "as the twin has it" });
    } else if (table?.persistent && table.type === "snapshot") {
      const known = await fromNextImage(entry, device, table, step);
      if (known) found.push(known);
    }
  }
  return found;
}

async function fromNextImage(entry, device, table, step) {
  const view = entry.views[0], status = statusOf(view?.[step]?.sum[device]?.status);
  if (!status || status.used === null) return null;
  for (let at = step; at < entry.steps.length; at++) {
    const image = view[at]?.image?.[table.cow];
    if (!image) continue;
    const store = await storeOf(entry.seed, image);
    if (!store || store.chunk !== table.chunk) return null;
    const nextFree = status.used / store.chunk;
    const exceptions = store.exceptions.filter(([, to]) => to < nextFree);
    // After a merge, or a reload, what is on the disk later is not what was there before.
    if (exceptions.length !== dataChunksUpTo(nextFree, store.chunk * 32)) return null;
    return { ...table, device, cowSectors: store.sectors, state: "", exceptions,
      source: `from the image after step ${at}, as far as the status line reaches` };
  }
  return null;
}

function pairsOf(snapshot) {
  const pairs = new Map();
  for (const [old, to, count] of snapshot?.exceptions || [])
    for (let i = 0; i < count && pairs.size < 65536; i++) pairs.set(old + i, to + i);
  return pairs;
}

// Chunks of `name` that the step itself wrote to, by the device that it names.
function writtenBy(step, snapshot, origins) {
  const touched = { origin: new Set(), snapshot: new Set() };
  const ios = step.do === "parallel" ? step.ios : [step];
  for (const io of ios) {
    if (!["write", "poke", "discard", "zeroout"].includes(io.do)) continue;
    const sectors = io.sectors ?? Math.ceil(io.data.length * 3 / 4 / SECTOR_BYTES);
    const where = io.device === snapshot.device ? touched.snapshot
      : io.device === snapshot.origin || origins.has(io.device) ? touched.origin : null;
    if (!where) continue;
    const last = Math.min(io.sector + sectors - 1, snapshot.sectors - 1);
    for (let chunk = Math.floor(io.sector / snapshot.chunk);
      chunk <= Math.floor(last / snapshot.chunk) && where.size < CELLS_MAX; chunk++) where.add(chunk);
  }
  return touched;
}

function originsOn(sum, origin) {
  const found = new Set();
  for (const [name, state] of Object.entries(sum || {}))
    if ((state.table || "").includes(` snapshot-origin {${origin}}`)) found.add(name);
  return found;
}

function chunkPictures(snapshot, before, touched, width, other) {
  const now = pairsOf(snapshot), was = pairsOf(before), theirs = other ? pairsOf(other) : now;
  const entries = snapshot.chunk * 32;
  const byNew = new Map([...now].map(([old, to]) => [to, old]));
  const byNewThere = new Map([...theirs].map(([old, to]) => [to, old]));
  const byNewBefore = new Map([...was].map(([old, to]) => [to, old]));
  const chunks = Math.ceil(snapshot.cowSectors / snapshot.chunk);
  const whole = Math.floor(snapshot.cowSectors / snapshot.chunk);
  const cow = [];
  for (let chunk = 0; chunk < Math.min(chunks, CELLS_MAX); chunk++) {
    const changed = byNew.get(chunk) !== byNewBefore.get(chunk);
    const apart = byNew.get(chunk) !== byNewThere.get(chunk);
    if (snapshot.persistent && chunk === 0) cow.push({ kind: "header", text: "H", title: "header" });
    else if (chunk >= whole) cow.push({ kind: "partial", text: "", title: "partial, never used" });
    else if (snapshot.persistent && chunk % (entries + 1) === 1)
      cow.push({ kind: "metadata", text: "M", title: `metadata area ${(chunk - 1) / (entries + 1)}` });
    else if (byNew.has(chunk))
      cow.push({ kind: "data", text: byNew.get(chunk), changed, apart, title: `old chunk ${byNew.get(chunk)}` });
    else cow.push({ kind: "free", text: "", changed, apart, title: changed ? "free again" : "free" });
  }
  const origin = [];
  for (let chunk = 0; chunk < Math.min(Math.ceil(snapshot.sectors / snapshot.chunk), CELLS_MAX); chunk++) {
    const to = now.get(chunk), wrote = touched.origin.has(chunk), own = touched.snapshot.has(chunk);
    origin.push({
      kind: to === undefined ? "free" : "data", text: to ?? "", changed: to !== was.get(chunk),
      wrote: wrote || own, apart: to !== theirs.get(chunk),
      title: (to === undefined ? "read from the origin" : `in chunk ${to} of the COW device`) +
        (wrote ? "; this step writes here on the origin" : "") +
        (own ? "; this step writes here in the snapshot" : ""),
    });
  }
  const made = [...now].filter(([old, to]) => was.get(old) !== to);
  const gone = [...was].filter(([old]) => !now.has(old));
  const change = [
    made.length && `new: ${made.slice(0, 8).map(([old, to]) => `${old} → ${to}`).join(", ")}` +
      (made.length > 8 ? ` and ${made.length - 8} more` : ""),
    gone.length && `gone: ${gone.slice(0, 8).map(([old, to]) => `${old} → ${to}`).join(", ")}` +
      (gone.length > 8 ? ` and ${gone.length - 8} more` : ""),
  ].filter(Boolean).join("; ");
  return element("div", { class: "pair" },
    element("p", { class: "note" },
      element("strong", {}, snapshot.device), `: chunks of ${plural(snapshot.chunk, "sector")}, `,
      plural(now.size, "exception"), snapshot.state ? `, ${snapshot.state}` : "",
      ` (${snapshot.source}). `, other ? "A red frame marks where the two sides differ. " : "", change ? `This step, ${change}.` : "This step changes none."),
    element("div", { class: "maps" },
      cells(`Origin ${snapshot.origin}`, "where each chunk of the snapshot is read from", origin, width,
        `${now.size} of its chunks are read from the COW device`),
      cells(`COW device ${snapshot.cow}`, "which old chunk lives where", cow, width,
        `${cow.filter((cell) => cell.kind === "data").length} chunks hold data, ` +
        `${cow.filter((cell) => cell.kind === "metadata").length} metadata, ` +
        `${cow.filter((cell) => cell.kind === "free").length} are free`,
        chunks > CELLS_MAX ? `the first ${CELLS_MAX} of ${chunks} chunks` : "")),
    now.size > 0 && element("details", {},
      element("summary", {}, "The same as a table"),
      scrolling(`Exceptions of ${snapshot.device}`, element("table", { class: "numbers" },
        element("thead", {}, element("tr", {},
          element("th", { scope: "col" }, "old chunk"), element("th", { scope: "col" }, "new chunk"))),
        element("tbody", {}, [...now].slice(0, CELLS_MAX).map(([old, to]) =>
          element("tr", {}, element("td", {}, old), element("td", {}, to))))))));
}

function cells(title, meaning, list, width, words, more) {
  const head = 34; // for the number of the first chunk of each row
  const room = Math.floor((width - head + CELL.gap) / (CELL.width + CELL.gap));
  const columns = [32, 16, 10, 8].find((many) => many <= room) || 6;
  const rows = Math.ceil(list.length / columns);
  const across = head + Math.min(columns, list.length) * (CELL.width + CELL.gap);
  const down = rows * (CELL.height + CELL.gap);
  return element("figure", {},
    element("figcaption", {}, title, ": ", meaning, more ? ` (${more})` : ""),
    drawn("svg", { width: across, height: down, viewBox: `0 0 ${across} ${down}`, class: "cells",
      role: "img", "aria-label": `${title}: ${words}` },
    Array.from({ length: rows }, (_, row) => drawn("text", { x: head - 6, y: row * (CELL.height + CELL.gap) + 14,
      class: "end" }, row * columns)),
    list.map((cell, i) => {
      const x = head + (i % columns) * (CELL.width + CELL.gap), y = Math.floor(i / columns) * (CELL.height + CELL.gap);
      return drawn("g", { class: `cell ${cell.kind}${cell.changed ? " changed" : ""}${cell.wrote ? " wrote" : ""}${cell.apart ? " apart" : ""}` },
        drawn("title", {}, `chunk ${i}: ${cell.title}`),
        drawn("rect", { x: x + 1, y: y + 1, width: CELL.width - 2, height: CELL.height - 2 }),
        cell.text !== "" && drawn("text", { x: x + CELL.width / 2, y: y + CELL.height / 2 + 4 },
          String(cell.text).length > 3 ? "…" : cell.text));
    })));
}

// -- requests in two lanes ---------------------------------------------------------------------

function requestLanes(entry, sides, step) {
  const disks = new Set();
  for (const view of entry.views)
    for (const seen of view || [])
      for (const name of Object.keys(seen?.requests || {})) disks.add(name);
  return [...disks].sort().map((disk) => laneOf(entry, sides, disk, step));
}

const LETTERS = { read: "R", write: "W", flush: "F", discard: "D" };

function laneOf(entry, sides, disk, step) {
  const columns = [];
  for (let at = 0; at < entry.steps.length; at++) {
    const both = entry.views.map((view) => view?.[at]?.requests?.[disk] || []);
    const known = entry.views.every(Boolean);
    const pairs = known ? aligned(both[0], both[1]) : both[entry.views[0] ? 0 : 1].map((text) => [text, text]);
    pairs.forEach((texts, i) => columns.push({ step: at, first: i === 0, texts }));
  }
  const middle = columns.findIndex((column) => column.step >= step);
  const from = Math.max(0, Math.min(columns.length - BOXES_MAX,
    (middle < 0 ? columns.length : middle) - BOXES_MAX / 2));
  const shown = columns.slice(from, from + BOXES_MAX);
  const box = 18, head = 64, top = 14;
  const width = head + shown.length * box + 4, height = top + 2 * (box + 4) + 2;
  const known = entry.views.map(Boolean);
  const differing = columns.filter((each) => known[0] && known[1] && each.texts[0] !== each.texts[1]);
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "lanes", role: "img",
    "aria-label": `Requests that reached ${disk}, in order: ${plural(columns.length, "position")}, ` +
      (differing.length ? `${differing.length} differ, first in step ${differing[0].step}` : "none differs") },
  sides.map((side, i) => drawn("text", { x: 0, y: top + i * (box + 4) + 13 }, side)),
  shown.map((column, at) => {
    const x = head + at * box;
    const differs = differing.includes(column);
    return drawn("g", { class: `${column.step === step ? "here" : ""}${differs ? " differs" : ""}` },
      column.first && drawn("line", { x1: x - 0.5, x2: x - 0.5, y1: 2, y2: height, class: "axis" }),
      column.first && drawn("text", { x: x + 1, y: 10, class: "small" }, column.step),
      column.texts.map((text, i) => known[i] && drawn("g", { class: "request " + (text ? text.split(" ")[0] : "none") },
        drawn("title", {}, `step ${column.step}, ${sides[i]}: ${text ?? "nothing"}`),
        drawn("rect", { x: x + 1, y: top + i * (box + 4), width: box - 3, height: box - 2 }),
        drawn("text", { x: x + box / 2 - 0.5, y: top + i * (box + 4) + 12, class: "letter" },
          text ? LETTERS[text.split(" ")[0]] || "?" : ""))));
  }));
  const region = scrolling(`Requests that reached ${disk}`, svg);
  queueMicrotask(() => {
    const at = shown.findIndex((column) => column.step >= step);
    if (at > 0) region.scrollLeft = head + at * box - 200;
  });
  return element("figure", {},
    element("figcaption", {}, element("strong", {}, disk), ": requests in the order in which they reached it",
      differing.length ? `; ${differing.length} differ` : "",
      shown.length < columns.length ? ` (${shown.length} of ${columns.length})` : ""),
    region);
}

// What may be wider than the page: it scrolls by itself, by keyboard too.
function scrolling(label, ...children) {
  return element("div", { class: "scrolling", role: "region", "aria-label": label, tabindex: 0 }, ...children);
}

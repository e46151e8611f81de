// Bytes of both sides beside each other, a sector at a time, with what is known of the place.

const HEX_ROW = 16;

function hexByte(byte) {
  return byte.toString(16).padStart(2, "0");
}

// Chunk sizes by device, from table lines, as harness/compare/place.py has them.
function chunkSectorsOf(sum, name) {
  const names = new Set([name]);
  const lines = Object.entries(sum || {}).flatMap(([device, state]) =>
    (state.table || "").split("\n").map((line) => [device, line.split(" ")]));
  const bare = (word) => (word || "").replace(/^\{(.*)\}$/, "$1");
  for (const [device, words] of lines)
    if (device === name && words[2] === "snapshot-origin") names.add(bare(words[3]));
  const own = [], others = [];
  for (const [device, words] of lines) {
    if ((words[2] !== "snapshot" && words[2] !== "snapshot-merge") || !/^\d+$/.test(words[6] || "")) continue;
    const size = Number(words[6]);
    if (!size) continue;
    if (device === name) own.push(size);
    else if (names.has(bare(words[3])) || names.has(bare(words[4]))) others.push(size);
  }
  const found = own.length ? own : others;
  return found.length ? Math.min(...found) : null;
}

function rowsOf(bytes, other, at) {
  const parts = [];
  for (let i = at; i < at + HEX_ROW; i++) {
    if (i > at) parts.push(i === at + HEX_ROW / 2 ? "  " : " ");
    const text = hexByte(bytes[i]);
    parts.push(other && other[i] !== bytes[i] ? element("mark", {}, text) : text);
  }
  return parts;
}

// A view of the sector in which two contents differ; `first` is the sector to begin with, counted
// in the runs, and `start` the sector of the device at which they begin.
function byteView({ entry, step, sides, left, right, start, device, image, first, label }) {
  const seed = entry.seed, sum = (entry.views[0]?.[step] || entry.views[1]?.[step])?.sum;
  const shown = element("div", { class: "bytes", role: "group", "aria-label": label });
  let sector = first, all = false;
  const size = Math.max(sectorsOf(left || []), sectorsOf(right || []));

  async function place(bytes, sectorAt, byte) {
    const lines = [];
    let chunk = chunkSectorsOf(sum, device);
    if (image) {
      for (const [i, runs] of [left, right].entries()) {
        const header = runs && headerOf(await sectorBytes(seed, runs, 0));
        if (!header) continue;
        chunk = header.chunk;
        const field = fieldAt(sectorAt * SECTOR_BYTES + byte, chunk, size * SECTOR_BYTES);
        lines.push(["in the store", field.text]);
        if (field.kind === "header" || field.kind === "entry")
          bytes.forEach((data, side) => lines.push(
            [`${sides[side]} ${field.kind === "entry" ? "entry" : "value"}`, fieldValue(field, data) || "?"]));
        if (field.kind === "data") {
          const store = await storeOf(seed, runs);
          const at = store ? store.exceptions.findIndex(([, to]) => to === Math.floor(sectorAt / chunk)) : -1;
          if (at >= 0) lines.push([`in ${sides[i]}`, `it is the copy of chunk ${store.exceptions[at][0]} (entry ${at})`]);
        }
        break;
      }
    }
    const where = start + sectorAt;
    for (const snapshot of await snapshotsAt(entry, sides, step)) {
      if (snapshot.device !== device) continue;
      const old = Math.floor(where / snapshot.chunk), to = pairsOf(snapshot).get(old);
      lines.push([`chunk ${old}`, (to === undefined ? `is read from the origin, ${snapshot.origin}`
        : `lives in chunk ${to} of ${snapshot.cow}, from its sector ${to * snapshot.chunk} on`) +
        ` (${snapshot.source})`]);
    }
    lines.unshift(["byte", `${where * SECTOR_BYTES + byte} of ${device}: sector ${where}, byte ${byte} of it` +
      (chunk ? `; chunk ${Math.floor(where / chunk)} of ${plural(chunk, "sector")}, sector ${where % chunk} of it` : "")]);
    return lines;
  }

  async function draw() {
    const bytes = await Promise.all([left, right].map((runs) => runs ? sectorBytes(seed, runs, sector) : null));
    const differing = [];
    for (let i = 0; i < SECTOR_BYTES; i++)
      if (bytes[0] && bytes[1] && bytes[0][i] !== bytes[1][i]) differing.push(i);
    const byte = differing[0] ?? 0;
    const rows = [];
    for (let at = 0; at < SECTOR_BYTES; at += HEX_ROW) rows.push(at);
    const near = all ? rows : rows.filter((at) => differing.some((i) => i >= at && i < at + HEX_ROW)).slice(0, 4);
    const facts = await place(bytes, sector, byte);
    sides.forEach((side, i) => facts.push([`${side} has`,
      [left, right][i] ? nearlyStamp(seed, bytes[i]) || originOf([left, right][i], sector) : "nothing"]));
    refilled(shown,
      element("dl", { class: "facts" }, facts.map(([name, text]) =>
        [element("dt", {}, name), element("dd", {}, text)])),
      bytes[0] && bytes[1] ? scrolling(`${label}, hexadecimal`, element("table", { class: "hex" },
        element("thead", {}, element("tr", {},
          element("th", { scope: "col" }, "byte"), sides.map((side) => element("th", { scope: "col" }, side)))),
        element("tbody", {}, (near.length ? near : rows.slice(0, 4)).map((at) => element("tr", {},
          element("th", { scope: "row" }, (start + sector) * SECTOR_BYTES + at),
          bytes.map((data, i) => element("td", {}, rowsOf(data, bytes[1 - i], at)))))))) : null,
      element("p", { class: "buttons" },
        button("Previous difference", async () => move(await lastDifference(seed, left || [], right || [], sector))),
        button("Next difference", async () => move(await firstDifference(seed, left || [], right || [], sector + 1))),
        button(all ? "Only what differs" : "Whole sector", () => { all = !all; return draw(); }),
        element("span", { class: "note" }, plural(differing.length, "byte") + " of this sector differ" +
          (differing.length === 1 ? "s" : ""))));
  }

  async function move(to) {
    if (to < 0) return say("No further difference");
    sector = to;
    await draw();
    say(`Sector ${start + sector}`);
  }

  function button(text, act) {
    return element("button", { type: "button", onclick: async (event) => {
      const at = [...shown.querySelectorAll("button")].indexOf(event.currentTarget);
      await act();
      shown.querySelectorAll("button")[at]?.focus();
    } }, text);
  }

  draw();
  return shown;
}

// What lies on devices: contents as runs, stamps (harness/trace/pattern.py), and the exception
// store (harness/store/layout.py and describe.py).  tests/browser holds both against those.

const SECTOR_BYTES = 512;
const SNAP_MAGIC = 0x70416e53;
const STAMP_MAGIC = 0x50414e53;
const MASK_64 = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;

function mixed(word) {
  word = ((word ^ (word >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK_64;
  word = ((word ^ (word >> 27n)) * 0x94d049bb133111ebn) & MASK_64;
  return word ^ (word >> 31n);
}

// One stamped sector.
function stampedSector(seed, device, generation, sector) {
  const bytes = new Uint8Array(SECTOR_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, STAMP_MAGIC, true);
  view.setUint32(4, generation, true);
  view.setBigUint64(8, BigInt(sector), true);
  for (let i = 0; i < device.length && i < 16; i++) bytes[16 + i] = device.charCodeAt(i);
  let word = seed & MASK_64;
  for (let column = 0; column < 4; column++)
    word = mixed(((word + GOLDEN) & MASK_64) ^ view.getBigUint64(column * 8, true));
  for (let i = 0; i < 60; i++) {
    word = (word + GOLDEN) & MASK_64;
    view.setBigUint64((4 + i) * 8, word, true);
  }
  return bytes;
}

// A run in JSON: ["stamp", device, generation, sector, count], ["zero", count],
// ["raw", count, deflated], ["error", errno, count].
function countOf(run) {
  return { stamp: run[4], zero: run[1], raw: run[1], error: run[2] }[run[0]];
}

function sectorsOf(runs) {
  return runs.reduce((sum, run) => sum + countOf(run), 0);
}

function pieceAt(runs, sector) {
  for (const run of runs) {
    if (sector < countOf(run)) return { run, index: sector };
    sector -= countOf(run);
  }
  return null;
}

const inflatedRuns = new WeakMap();

function rawBytes(run) {
  if (!inflatedRuns.has(run)) inflatedRuns.set(run, inflated(bytesOfBase64(run[2])));
  return inflatedRuns.get(run);
}

// The bytes of sector `sector` of some runs; null where there are none.
async function sectorBytes(seed, runs, sector) {
  const piece = pieceAt(runs, sector);
  if (!piece || piece.run[0] === "error") return null;
  const { run, index } = piece;
  if (run[0] === "stamp") return stampedSector(seed, run[1], run[2], run[3] + index);
  if (run[0] === "raw")
    return (await rawBytes(run)).subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
  return new Uint8Array(SECTOR_BYTES);
}

// What bytes say that are no whole stamp: whose stamp they were, if the head of one is left.
function nearlyStamp(seed, bytes) {
  if (!bytes) return "";
  const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR_BYTES);
  if (view.getUint32(0, true) !== STAMP_MAGIC) return "";
  const generation = view.getUint32(4, true), sector = view.getBigUint64(8, true);
  let device = "";
  for (let i = 16; i < 32 && bytes[i]; i++) device += String.fromCharCode(bytes[i]);
  const whole = stampedSector(seed, device, generation, sector);
  let wrong = 0;
  for (let i = 0; i < SECTOR_BYTES; i++) if (whole[i] !== bytes[i]) wrong++;
  if (!wrong || wrong > SECTOR_BYTES / 2) return "";
  return `the stamp of sector ${sector} of ${device}, generation ${generation}, ` +
    `with ${plural(wrong, "wrong byte")}`;
}

// In words, where a sector came from (harness/trace/pattern.py, origin_of).
function originOf(runs, sector) {
  const piece = pieceAt(runs, sector);
  if (!piece) return "the end: no such sector";
  const { run, index } = piece;
  switch (run[0]) {
    case "stamp": return `sector ${run[3] + index} of ${run[1]}, generation ${run[2]}`;
    case "zero": return "zeros";
    case "error": return `unreadable (${run[1]})`;
    default: return "bytes without a stamp";
  }
}

function sameBytes(one, other) {
  if (!one || !other) return one === other;
  return one.every((byte, i) => byte === other[i]);
}

// The first sector from `from` on in which two contents differ, or -1.
async function firstDifference(seed, left, right, from) {
  const ends = (runs) => { let at = 0; return runs.map((run) => (at += countOf(run))); };
  const cuts = [...new Set([...ends(left), ...ends(right)])].sort((a, b) => a - b);
  let at = 0;
  for (const end of cuts) {
    const first = Math.max(at, from);
    at = end;
    if (first >= end) continue;
    const one = pieceAt(left, first), other = pieceAt(right, first);
    if (!one || !other) return first;
    const kinds = one.run[0] + " " + other.run[0];
    if (kinds === "zero zero") continue;
    if (kinds === "error error" && one.run[1] === other.run[1]) continue;
    if (kinds === "stamp stamp") {
      const a = one.run, b = other.run;
      if (a[1] === b[1] && a[2] === b[2] && a[3] + one.index === b[3] + other.index) continue;
      return first;
    }
    if (kinds.includes("error") || !kinds.includes("raw")) return first;
    for (let sector = first; sector < end; sector++)
      if (!sameBytes(await sectorBytes(seed, left, sector), await sectorBytes(seed, right, sector)))
        return sector;
  }
  return -1;
}

// The last sector before `from` in which two contents differ, or -1.
async function lastDifference(seed, left, right, from) {
  let found = -1, at = await firstDifference(seed, left, right, 0);
  while (at >= 0 && at < from) {
    found = at;
    at = await firstDifference(seed, left, right, at + 1);
  }
  return found;
}

// -- the exception store ----------------------------------------------------------------------

function number(big) {
  return big <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(big) : String(big);
}

function headerOf(sector) {
  if (!sector) return null;
  const view = new DataView(sector.buffer, sector.byteOffset, SECTOR_BYTES);
  const [magic, valid, version, chunk] = [0, 4, 8, 12].map((at) => view.getUint32(at, true));
  return magic === SNAP_MAGIC && chunk ? { valid, version, chunk } : null;
}

// What a byte of a COW device belongs to; `chunk` in sectors, `size` in bytes.
function fieldAt(byte, chunk, size) {
  const chunkBytes = chunk * SECTOR_BYTES;
  const at = Math.floor(byte / chunkBytes), inside = byte % chunkBytes;
  if (at === 0 && inside < 16) {
    const index = Math.floor(inside / 4);
    return { kind: "header", start: index * 4, length: 4,
      text: "header field " + ["magic", "valid", "version", "chunk_size"][index] };
  }
  if (at === 0)
    return { kind: "padding", start: 16, length: Math.min(chunkBytes, size) - 16,
      text: "header chunk, behind the header" };
  const start = at * chunkBytes, length = Math.min(chunkBytes, size - start);
  if (length < chunkBytes)
    return { kind: "partial", start, length,
      text: `partial chunk ${at} at the end of the device, never used` };
  const entries = chunkBytes / 16, area = Math.floor((at - 1) / (entries + 1));
  if (at % (entries + 1) === 1) {
    const half = Math.floor(inside / 8), entry = Math.floor(half / 2);
    return { kind: "entry", start: start + half * 8, length: 8, entry,
      text: `metadata area ${area}, entry ${entry}, ${half % 2 ? "new" : "old"} chunk` };
  }
  return { kind: "data", start, length, area,
    text: `data chunk ${at} of the store, number ${at - 2 - area * (entries + 1)} of area ${area}` };
}

// The value of a header field or an entry, from the sector that it lies in.
function fieldValue(field, sector) {
  if (!sector) return "";
  const view = new DataView(sector.buffer, sector.byteOffset, SECTOR_BYTES);
  const inside = field.start % SECTOR_BYTES;
  if (field.kind === "entry") {
    const at = inside - (inside % 16);
    return `${view.getBigUint64(at, true)} → ${view.getBigUint64(at + 8, true)}`;
  }
  if (field.kind !== "header") return "";
  const value = view.getUint32(inside, true);
  switch (field.start) {
    case 0:
      return `0x${value.toString(16).padStart(8, "0")} (` +
        (value === SNAP_MAGIC ? "SnAp" : value ? "no store" : "a new store") + ")";
    case 4: return `${value} (${value ? "valid" : "invalid"})`;
    case 12: return `${value} sectors`;
    default: return String(value);
  }
}

// The exceptions of a store, in the order of their commits; null if there is none.
const AREAS_MAX = 64;

async function storeOf(seed, runs) {
  const header = headerOf(await sectorBytes(seed, runs, 0));
  if (!header || header.chunk & (header.chunk - 1) || header.chunk > 4096) return null;
  const sectors = sectorsOf(runs), entries = header.chunk * 32, exceptions = [];
  for (let area = 0; area < AREAS_MAX; area++) {
    const first = (1 + area * (entries + 1)) * header.chunk;
    if (first + header.chunk > sectors) break;
    for (let i = 0; i < header.chunk; i++) {
      const bytes = await sectorBytes(seed, runs, first + i);
      if (!bytes) return null;
      const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR_BYTES);
      for (let at = 0; at < SECTOR_BYTES; at += 16) {
        const old = view.getBigUint64(at, true), to = view.getBigUint64(at + 8, true);
        if (!to) return { ...header, sectors, exceptions };
        exceptions.push([number(old), number(to), 1]);
      }
    }
  }
  return { ...header, sectors, exceptions };
}

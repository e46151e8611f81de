// The matrix: a row for each scenario, a column for each kernel; filters and search.

const ROWS_AT_ONCE = 150;
const SHORT = { "hangs on both sides": "hangs", "dies on both sides": "dies", nondeterministic: "nondet.",
  "guest lost": "lost", "broken scenario": "broken" };
const MARK_PROMISE = 1, MARK_ORDER = 2, MARK_AGREED = 4;

let index = null;
let rowsShown = [];
let drawing = 0;

function cellOf(row, kernel) {
  const cell = row[3][kernel];
  return cell && { verdict: index.verdicts[cell[0]], marks: cell[1] || 0, layers: cell[2] || [], line: cell[3] || "" };
}

function verdictClass(verdict) {
  return "verdict v-" + verdict.split(" ")[0];
}

function verdictBadge(cell, short) {
  return element("span", { class: verdictClass(cell.verdict) },
    short ? SHORT[cell.verdict] || cell.verdict : cell.verdict,
    cell.marks & MARK_PROMISE ? element("abbr", { title: "a promise is broken" }, "*") : null);
}

function matches(row, filter) {
  if (filter.theme && index.themes[row[1]] !== filter.theme) return false;
  if (filter.search) {
    const text = (row[0] + " " + index.abouts[row[2]]).toLowerCase();
    if (!filter.search.toLowerCase().split(/\s+/).every((word) => text.includes(word))) return false;
  }
  const kernels = filter.kernel ? [index.kernels.indexOf(filter.kernel)] : index.kernels.keys();
  for (const kernel of kernels) {
    const cell = cellOf(row, kernel);
    if (!cell) continue;
    if (filter.layer && !cell.layers.includes(filter.layer)) continue;
    switch (filter.verdict) {
      case "": case undefined: return true;
      case "unlike": if (!(cell.marks & MARK_AGREED) && cell.verdict !== "unsupported") return true; break;
      case "promise": if (cell.marks & MARK_PROMISE) return true; break;
      case "order": if (cell.marks & MARK_ORDER) return true; break;
      default: if (cell.verdict === filter.verdict) return true;
    }
  }
  return false;
}

function filterOf(query) {
  const found = new URLSearchParams(query);
  return Object.fromEntries(["search", "verdict", "theme", "kernel", "layer"].map((name) => [name, found.get(name) || ""]));
}

function queryOf(filter) {
  const set = Object.entries(filter).filter(([, value]) => value);
  return set.length ? "?" + new URLSearchParams(set) : "";
}

function scenarioLink(name, kernel, step) {
  return `#/s/${encodeURIComponent(name)}/${encodeURIComponent(kernel)}` + (step === undefined ? "" : `/${step}`);
}

// The kernel that a row leads to: the first on which there is something to see.
function foremost(row) {
  const kernels = [...index.kernels.keys()].filter((kernel) => cellOf(row, kernel));
  return kernels.find((kernel) => {
    const cell = cellOf(row, kernel);
    return !(cell.marks & MARK_AGREED) && cell.verdict !== "unsupported";
  }) ?? kernels.find((kernel) => cellOf(row, kernel).marks & MARK_PROMISE) ?? kernels[0] ?? 0;
}

function counted(name, choices) {
  return choices.filter(([value]) => value === "" || index.scenarios.some((row) => matches(row, { [name]: value })));
}

function drawFilters(filter, change) {
  const choice = (name, label, choices) => element("label", {}, label,
    element("select", { name, onchange: change },
      choices.map(([value, text]) => element("option", { value, selected: filter[name] === value }, text))));
  const verdicts = [["", "all"], ["unlike", "not the same"],
    ...index.verdicts.map((verdict) => [verdict, verdict]),
    ["order", "by another permitted order"], ["promise", "a promise broken"]];
  const plainly = (list) => [["", "all"], ...list.map((each) => [each, each])];
  return element("form", { class: "filters", role: "search", "aria-label": "Scenarios", onsubmit: (event) => {
    event.preventDefault();
    if (rowsShown.length) location.hash = scenarioLink(rowsShown[0][0], index.kernels[foremost(rowsShown[0])]);
  } },
  element("label", { class: "search" }, "search",
    element("input", { type: "search", name: "search", value: filter.search, oninput: change,
      placeholder: "name or words", autocomplete: "off", spellcheck: "false" })),
  choice("verdict", "verdict", counted("verdict", verdicts)),
  choice("theme", "theme", plainly(index.themes)),
  index.kernels.length > 1 && choice("kernel", "kernel", plainly(index.kernels)),
  choice("layer", "differs in", counted("layer", plainly(index.layers))),
  element("output", { class: "count", name: "count" }));
}

function drawMatrix(place, filter) {
  if (!place.querySelector("form")) {
    let timer = 0;
    const change = (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        const form = place.querySelector("form");
        const now = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value)]));
        history.replaceState(null, "", "#/" + queryOf(now));
        filterNow = filterOf(queryOf(now));
        drawRows(place, filterNow, true);
      }, event.type === "input" ? 80 : 0);
    };
    place.append(drawFilters(filter, change), element("div", { class: "rows" }),
      element("p", { class: "keys" }, element("kbd", {}, "/"), " search ", element("kbd", {}, "↑"), " ",
        element("kbd", {}, "↓"), " rows ", element("kbd", {}, "Enter"), " open. ",
        "* a promise of the documentation is broken there."));
  } else {
    for (const [name, value] of Object.entries(filter)) {
      const field = place.querySelector("form").elements.namedItem(name);
      if (field) field.value = value;
    }
  }
  drawRows(place, filter, false);
}

function headOf() {
  return element("thead", {}, element("tr", {},
    element("th", { scope: "col" }, "scenario"),
    index.kernels.map((kernel) => element("th", { scope: "col" }, kernel)),
    element("th", { scope: "col", class: "line" }, "note")));
}

function rowOf(row) {
  const line = index.kernels.map((_, kernel) => cellOf(row, kernel)?.line).find(Boolean) || "";
  const first = foremost(row);
  return element("tr", {},
    element("th", { scope: "row" }, element("a", { href: scenarioLink(row[0], index.kernels[first]) }, row[0])),
    index.kernels.map((name, kernel) => {
      const cell = cellOf(row, kernel);
      if (!cell) return element("td", {}, element("span", { class: "none" }, "–"));
      const badge = verdictBadge(cell, index.kernels.length > 1);
      // What is plainly the same is reached through its row: fewer stops for the keyboard.
      return element("td", {}, cell.line && kernel !== first
        ? element("a", { href: scenarioLink(row[0], name) }, badge) : badge);
    }),
    element("td", { class: "line" }, line));
}

function drawRows(place, filter, told) {
  const token = ++drawing;
  rowsShown = index.scenarios.filter((row) => matches(row, filter));
  const count = `${rowsShown.length} of ${plural(index.scenarios.length, "scenario")}`;
  place.querySelector("output").textContent = count;
  if (told) say(count);
  const table = element("table", { class: "matrix" },
    element("caption", { class: "hidden" }, "Verdict of each scenario on each kernel"), headOf());
  refilled(place.querySelector(".rows"), scrolling("Verdicts", rowsShown.length ? table
    : element("p", { class: "empty" }, "No scenario matches.")));
  let at = 0, theme = -1, body = null;
  const some = (many) => {
    for (const end = Math.min(rowsShown.length, at + many); at < end; at++) {
      const row = rowsShown[at];
      if (row[1] !== theme || !body) {
        theme = row[1];
        body = element("tbody", {}, element("tr", { class: "theme" },
          element("th", { scope: "rowgroup", colspan: index.kernels.length + 2 }, index.themes[theme])));
        table.append(body);
      }
      body.append(rowOf(row));
    }
  };
  const more = () => {
    if (token !== drawing) return;
    some(ROWS_AT_ONCE * 2);
    if (at < rowsShown.length) setTimeout(more, 0);
    else place.dataset.drawn = String(rowsShown.length);
  };
  some(ROWS_AT_ONCE);
  if (at < rowsShown.length) setTimeout(more, 0);
  else place.dataset.drawn = String(rowsShown.length);
}

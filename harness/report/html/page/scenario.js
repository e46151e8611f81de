// One scenario on one kernel: verdict, what differs, and its steps, one at a time.

let here = null; // { row, kernel, entry, step, place, redraw }

function sideRows(entry, step) {
  const seen = entry.views.map((view) => view?.[step] || null);
  if (!seen[0] && !seen[1]) return [];
  const rows = [];
  const add = (layer, label, left, right, more) => {
    const text = [left, right].map((value) => (typeof value === "string" || value === null || value === undefined
      ? value : JSON.stringify(value)));
    rows.push({ layer, label, values: [left, right], differs: Boolean(seen[0] && seen[1] && text[0] !== text[1]), ...more });
  };
  const both = (get) => seen.map((each) => (each ? get(each) : undefined));
  add("error", "result", ...both((each) => each.error || "success"));
  if (seen.some((each) => each?.text !== undefined && each?.text !== null))
    add(textLayer(entry.steps[step]), "what was asked for", ...both((each) => each.text));
  const touched = new Set(seen.flatMap((each) => Object.keys(each?.state || {})));
  const parts = [["status", "status"], ["table", "table"], ["inactive", "table"], ["suspended", "table"],
    ["read_only", "table"], ["event", "event"], ["open", "table"]];
  for (const name of [...touched].sort())
    for (const [part, layer] of parts) {
      const values = both((each) => statePart(each.sum[name], part));
      const dull = { suspended: "no", read_only: "no", event: "0", open: "0", inactive: undefined, status: undefined, table: undefined };
      if (values.some((value) => value !== undefined && value !== dull[part]) || values[0] !== values[1])
        add(layer, `${part.replace("_", "-")} of ${name}`, ...values);
    }
  for (const [part, layer] of [["content", "content"], ["image", "store"]]) {
    const names = new Set(seen.flatMap((each) => Object.keys(each?.[part] || {})));
    for (const name of [...names].sort())
      add(layer, `${part} of ${name}`, ...both((each) => each[part]?.[name]), { runs: true, device: name, image: part === "image" });
  }
  const list = (layer, label, get) => {
    if (seen.some((each) => each && get(each).length)) add(layer, label, ...both((each) => get(each).join("\n")));
  };
  list("uevent", "uevents", (each) => (each.uevents || []).map((event) =>
    [event.action, event.device, ...Object.entries(event.properties || {}).map((pair) => pair.join("="))].join(" ")));
  list("log", "log lines", (each) => each.log || []);
  const disks = new Set(seen.flatMap((each) => Object.keys(each?.requests || {})));
  for (const disk of [...disks].sort()) list("requests", `requests to ${disk}`, (each) => each.requests?.[disk] || []);
  return rows;
}

function textLayer(step) {
  return { table: "table", parallel: "error", wait: "event" }[step?.do] || "status";
}

function statePart(state, part) {
  if (!state) return "no such device";
  const value = state[part];
  if (part === "suspended" || part === "read_only") return value ? "yes" : "no";
  if (part === "event" || part === "open") return String(value ?? 0);
  return value ?? undefined;
}

function differingSteps(entry) {
  const found = new Set();
  if (!entry.views[0] || !entry.views[1]) return found;
  for (let step = 0; step < entry.steps.length; step++) {
    const [left, right] = entry.views.map((view) => view[step]);
    if (Boolean(left) !== Boolean(right)) found.add(step);
    else if (left && left.number !== right.number &&
      sideRows(entry, step).some((row) => row.differs && !entry.leftOut.has(row.layer))) found.add(step);
  }
  return found;
}

// -- what a scenario is --------------------------------------------------------------------------

async function openScenario(place, name, kernelName, wanted) {
  const at = index.scenarios.findIndex((row) => row[0] === name);
  if (at < 0) {
    here = null;
    refilled(place, element("p", {}, "This report has no scenario of that name. "),
      element("a", { href: "#/" }, "All scenarios"));
    return;
  }
  const row = index.scenarios[at];
  let kernel = index.kernels.indexOf(kernelName);
  if (kernel < 0 || !cellOf(row, kernel)) kernel = foremost(row);
  if (here && here.at === at && here.kernel === kernel && here.place.firstChild) {
    if (wanted !== null) goTo(wanted);
    return;
  }
  const parcel = await parcelOf(at);
  const own = parcel?.results.find((each) => each.result.kernel === index.kernels[kernel]);
  const entry = !own ? null : {
    seed: parcel.seed,
    steps: parcel.steps,
    views: [own.left, own.right].map((view) => (view === null ? null : parcel.views[view])),
    layouts: own.layouts === null ? null : parcel.layouts[own.layouts],
    result: own.result,
    whole: parcel.whole,
    leftOut: new Set((own.result.not_compared || []).map((each) => each.layer)),
  };
  here = { at, row, kernel, entry, place, step: 0 };
  refilled(place, scenarioHead(row, kernel, entry));
  document.title = `${printable(name)} on ${printable(index.kernels[kernel])}`;
  if (!entry) {
    place.append(element("p", {}, "This page does not have the steps of this scenario."));
    return;
  }
  entry.differing = differingSteps(entry);
  entry.promises = promisesOf(entry.result);
  filled(place, {}, [verdictPart(entry), stepsPart(entry)]);
  goTo(wanted ?? strikingStep(entry), true);
}

// The step to begin with: where something differs, a promise broke, or the kernel was lost.
function strikingStep(entry) {
  const lost = entry.views[0] ? entry.steps.findIndex((_, step) => !entry.views[0][step]) : -1;
  return entry.result.divergences?.[0]?.step ?? entry.promises[0]?.step ?? Math.max(0, lost);
}

function promisesOf(result) {
  const left = result.kernel_promises || [], right = result.twin_promises || [];
  const key = (promise) => JSON.stringify(promise);
  const theirs = new Set(right.map(key)), ours = new Set(left.map(key));
  return [...left.map((promise) => ({ ...promise, who: theirs.has(key(promise)) ? "both sides" : `the ${index.sides[0]}` })),
    ...right.filter((promise) => !ours.has(key(promise))).map((promise) => ({ ...promise, who: `the ${index.sides[1]}` }))];
}

function scenarioHead(row, kernel, entry) {
  const list = rowsShown.length && rowsShown.includes(row) ? rowsShown : index.scenarios;
  const at = list.indexOf(row);
  const neighbour = (by, text) => {
    const other = list[at + by];
    return other ? element("a", { href: scenarioLink(other[0], index.kernels[foremost(other)]), rel: by < 0 ? "prev" : "next",
      id: by < 0 ? "previous" : "next" }, text) : element("span", { class: "none" }, text);
  };
  return [
    element("nav", { class: "crumbs", "aria-label": "Scenarios" },
      element("a", { href: "#/" + queryOf(filterNow), id: "back" }, "All scenarios"), neighbour(-1, "← previous"), neighbour(1, "next →"),
      element("span", { class: "note" }, `${at + 1} of ${list.length}`)),
    element("h2", { tabindex: -1, id: "title" }, row[0]),
    index.abouts[row[2]] && element("p", { class: "lead" }, index.abouts[row[2]]),
    index.kernels.length > 1 && element("nav", { class: "kernels", "aria-label": "Kernels" },
      element("ul", {}, index.kernels.map((name, i) => {
        const cell = cellOf(row, i);
        return cell && element("li", {}, element("a", { href: scenarioLink(row[0], name), "aria-current": i === kernel ? "page" : null },
          element("span", {}, name), " ", verdictBadge(cell, true)));
      }))),
  ];
}

function verdictPart(entry) {
  const { result } = entry;
  const cell = cellOf(here.row, here.kernel);
  const facts = [
    result.release && `release ${result.release}`,
    `seed ${entry.seed}`,
    plural(entry.steps.length, "step"),
    result.kernel_us && `${index.sides[0]} ${seconds(result.kernel_us)}`,
    result.twin_us && `${index.sides[1]} ${seconds(result.twin_us)}`,
    (result.orders ?? 1) > 1 && `${result.orders} orders tried`,
    (result.attempts ?? 1) > 1 && `${result.attempts} guests tried`,
  ].filter(Boolean).join(" · ");
  const parts = [element("p", { class: "verdict-line" }, verdictBadge(cell, false), " ", element("span", { class: "note" }, facts))];
  if (result.reason) parts.push(element("p", { class: "reason" }, result.reason));
  for (const each of result.not_compared || [])
    parts.push(element("p", { class: "note" }, `Not compared: ${each.layer} (${each.differing} of ${each.values} values differ): ${each.reason}`));
  if (result.divergences?.length) parts.push(differencesPart(entry));
  if (entry.promises.length) parts.push(promisesPart(entry));
  if (result.defects?.length) parts.push(defectsPart(result.defects));
  if (result.again?.length) parts.push(againPart(result.again));
  if (result.console)
    parts.push(element("details", { open: !result.divergences?.length }, element("summary", {}, "The console's last lines"),
      scrolling("Console", element("pre", {}, result.console))));
  return parts;
}

function stepLink(step, text) {
  return element("a", { href: scenarioLink(here.row[0], index.kernels[here.kernel], step) }, text ?? `step ${step}`);
}

function differencesPart(entry) {
  const { divergences, later } = entry.result;
  const first = divergences[0];
  return element("section", { class: "differs", "aria-labelledby": "differs-title" },
    element("h3", { id: "differs-title" }, "What differs first: ", stepLink(first.step), ", ",
      entry.steps[first.step] ? inWords(entry.steps[first.step]) : first.verb),
    divergences.map((each) => element("div", { class: "divergence" },
      element("h4", {}, element("span", { class: "layer" }, each.layer), " ", each.what),
      element("dl", { class: "two" },
        [each.kernel, each.twin].map((value, side) => [element("dt", {}, index.sides[side]),
          element("dd", {}, marked(value, [each.twin, each.kernel][side]))])),
      each.place && placePart(entry, each))),
    later ? element("p", { class: "note" }, `${plural(later, "later step")} differ${later === 1 ? "s" : ""} as well.`) : null);
}

function placePart(entry, divergence) {
  const { place, step, layer } = divergence;
  const part = layer === "store" ? "image" : "content";
  const [left, right] = entry.views.map((view) => view?.[step]?.[part]?.[place.device] || null);
  const counts = element("p", { class: "note" }, `${place.differ} of ${plural(place.of, "sector")} differ.`);
  if (left && right) {
    const start = startOf(entry.steps[step]);
    const shown = element("div", {});
    firstDifference(entry.seed, left, right, 0).then((first) => refilled(shown, byteView({
      entry, step, sides: index.sides, left, right, device: place.device, image: layer === "store",
      // Of a large device only both ends are read: what the report says of the place is right.
      start: first === place.sector - start ? start : place.sector - first,
      first, label: `Bytes of ${place.device}` })));
    return [counts, shown];
  }
  return [counts,
    element("p", {}, `Byte ${place.byte} of ${place.device}: sector ${place.sector}` +
      (place.chunk === null || place.chunk === undefined ? "" : `, chunk ${place.chunk} of ${plural(place.chunk_sectors, "sector")}`)),
    place.store && element("pre", {}, place.store),
    place.hex_at >= 0 && scrolling("Bytes", element("table", { class: "hex" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "byte"),
        index.sides.map((side) => element("th", { scope: "col" }, side)))),
      element("tbody", {}, element("tr", {}, element("th", { scope: "row" }, place.hex_at),
        element("td", {}, place.kernel_hex), element("td", {}, place.twin_hex)))))];
}

function startOf(step) {
  return step?.do === "read" ? step.sector : 0;
}

// A text with the words marked that the other side does not have at that place.
function marked(text, other) {
  if (text === undefined || text === null) return element("span", { class: "none" }, "nothing");
  if (other === undefined || other === null || text === other) return text;
  const words = text.split(/(\s+)/), others = other.split(/(\s+)/);
  let head = 0, tail = 0;
  while (head < words.length && head < others.length && words[head] === others[head]) head++;
  while (tail < words.length - head && tail < others.length - head &&
    words[words.length - 1 - tail] === others[others.length - 1 - tail]) tail++;
  const end = words.length - tail;
  const middle = words.slice(head, end).join("");
  return [words.slice(0, head).join(""), middle && element("mark", {}, middle), words.slice(end).join("")];
}

function promisesPart(entry) {
  return element("section", { class: "promises", "aria-labelledby": "promises-title" },
    element("h3", { id: "promises-title" }, "Broken promises"),
    element("ul", {}, entry.promises.map((promise) => element("li", {},
      stepLink(promise.step), `: ${promise.who}, sector ${promise.sector} of ${promise.device}` +
        (promise.sectors > 1 ? ` and ${promise.sectors - 1} more` : ""),
      element("dl", { class: "two" },
        element("dt", {}, "promised"), element("dd", {}, promise.promised),
        element("dt", {}, "read"), element("dd", {}, promise.read)),
      element("p", { class: "note" }, promise.rule)))));
}

function defectsPart(defects) {
  return element("section", { class: "defects", "aria-labelledby": "defects-title" },
    element("h3", { id: "defects-title" }, "Known defects of kernels"),
    element("ul", {}, defects.map((defect) => element("li", {},
      stepLink(defect.step), ": ", element("strong", {}, defect.name), ". ", defect.title, " ",
      element("span", { class: "note" }, defect.link)))));
}

function againPart(commands) {
  return element("section", { "aria-labelledby": "again-title" },
    element("h3", { id: "again-title" }, "To repeat it"),
    commands.map((command) => scrolling("Command", element("pre", {}, command))));
}

// -- its steps -----------------------------------------------------------------------------------

function stepsPart(entry) {
  if (!entry.steps.length) return [element("p", { class: "note" }, "This page does not have its steps.")];
  const plots = element("div", { class: "plots" });
  const detail = element("section", { class: "detail", "aria-labelledby": "step-title" });
  const list = element("ol", { class: "steps", start: 0 }, entry.steps.map((step, at) => {
    const marks = [
      entry.differing.has(at) && element("span", { class: "m differs", title: "differs" }, "≠", element("span", { class: "hidden" }, " differs")),
      entry.promises.some((promise) => promise.step === at) && element("span", { class: "m broken" }, "*", element("span", { class: "hidden" }, " a promise is broken")),
      entry.views[0]?.[at]?.error && element("span", { class: "m error" }, entry.views[0][at].error),
      entry.views[0] && !entry.views[0][at] && element("span", { class: "m none" }, "not seen"),
    ];
    return element("li", {}, element("button", { type: "button", onclick: () => goTo(at), tabindex: at ? -1 : 0 },
      element("span", { class: "n" }, at), element("span", { class: "w" }, inWords(step)), marks));
  }));
  here.list = list;
  here.detail = detail;
  here.plots = plots;
  return [
    element("h3", {}, "Steps"),
    element("p", { class: "keys" }, element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " step ",
      element("kbd", {}, "d"), " next difference ", element("kbd", {}, "p"), " ", element("kbd", {}, "n"),
      " scenario ", element("kbd", {}, "Esc"), " all scenarios"),
    plots,
    element("div", { class: "walk" }, element("nav", { "aria-label": "Steps" }, list), detail),
  ];
}

function goTo(step, quiet) {
  if (!here?.entry?.steps.length) return;
  const { entry, list } = here;
  step = Math.max(0, Math.min(entry.steps.length - 1, Number(step) || 0));
  const old = list.children[here.step]?.firstChild, now = list.children[step].firstChild;
  old?.removeAttribute("aria-current");
  old?.setAttribute("tabindex", "-1");
  now.setAttribute("aria-current", "step");
  now.setAttribute("tabindex", "0");
  const focused = list.contains(document.activeElement);
  here.step = step;
  if (focused) now.focus({ preventScroll: true });
  const box = list.parentElement;
  const top = now.parentElement.offsetTop - box.offsetTop;
  if (box.scrollHeight > box.clientHeight &&
    (top < box.scrollTop + 40 || top > box.scrollTop + box.clientHeight - 80)) box.scrollTop = top - box.clientHeight / 3;
  history.replaceState(null, "", scenarioLink(here.row[0], index.kernels[here.kernel], step));
  drawStep();
  if (!quiet) say(`Step ${step}: ${inWords(entry.steps[step])}${entry.differing.has(step) ? ", differs" : ""}`);
}

function nextDifference() {
  if (!here?.entry) return;
  const steps = [...here.entry.differing, ...here.entry.promises.map((promise) => promise.step)].sort((a, b) => a - b);
  const next = steps.find((step) => step > here.step) ?? steps[0];
  if (next === undefined) say("Nothing differs in this scenario");
  else goTo(next);
}

const PLOTS_OPEN = 4;

function manyPlots(plots) {
  return [plots.slice(0, PLOTS_OPEN), plots.length > PLOTS_OPEN && element("details", {},
    element("summary", {}, `${plots.length - PLOTS_OPEN} more like these`), plots.slice(PLOTS_OPEN))];
}

async function drawStep() {
  const { entry, step, detail, plots } = here;
  const token = (here.token = {});
  const width = Math.max(240, plots.clientWidth || 720);
  refilled(plots, manyPlots(statusPlots(entry, index.sides, step, Math.min(width, 1100), (at) => goTo(at))),
    manyPlots(requestLanes(entry, index.sides, step)));
  const rows = sideRows(entry, step);
  const promises = entry.promises.filter((promise) => promise.step === step);
  const pictures = element("div", { class: "pictures" });
  refilled(detail,
    element("h4", { id: "step-title" }, `Step ${step}: `, inWords(entry.steps[step])),
    promises.map((promise) => element("p", { class: "broken" },
      `* Promise broken by ${promise.who}: ${promise.rule}. Sector ${promise.sector} of ${promise.device}: promised ${promise.promised}, read ${promise.read}.`)),
    rows.length ? observedTable(entry, step, rows) : element("p", { class: "note" }, "Neither side was observed in this step."),
    entry.whole ? null : element("p", { class: "note" }, "Contents, events, log lines and requests are left out to keep this file small."),
    pictures);
  const room = Math.max(200, Math.min(detail.clientWidth, 940));
  const now = await snapshotsAt(entry, index.sides, step);
  const before = step ? await snapshotsAt(entry, index.sides, step - 1) : [];
  if (here.token !== token) return;
  pictures.append(...now.map((snapshot) => {
    const sum = entry.views[0]?.[step]?.sum;
    const touched = writtenBy(entry.steps[step], snapshot, originsOn(sum, snapshot.origin));
    const twice = now.filter((each) => each.device === snapshot.device);
    return chunkPictures(snapshot, before.find((each) => each.device === snapshot.device), touched, room,
      twice.find((each) => each !== snapshot));
  }));
  here.place.dataset.drawn = String(step);
}

function observedTable(entry, step, rows) {
  const body = rows.map((row) => {
    const apart = row.differs;
    const left = entry.leftOut.has(row.layer);
    const values = row.values.map((value, side) => valueOf(entry, step, row, value, row.values[1 - side], side));
    const lone = entry.views.findIndex(Boolean);
    const shown = apart ? values.map((value) => element("td", {}, value))
      : [element("td", { colspan: 2, class: "same" }, values[entry.views[0]?.[step] ? 0 : Math.max(0, lone)])];
    return [
      element("tr", { class: apart ? (left ? "left-out" : "differs") : "" },
        element("th", { scope: "row" }, apart ? element("span", { class: "m differs" }, "≠") : null, " ", row.label,
          apart ? element("span", { class: "hidden" }, left ? " differs, not compared" : " differs") : null), shown),
      row.runs && row.differs && row.values[0] && row.values[1] ? element("tr", {}, element("td", { colspan: 3 },
        bytesLater(entry, step, row))) : null,
    ];
  });
  const seen = entry.views.map((view) => Boolean(view?.[step]));
  return scrolling("What was observed", element("table", { class: "observed" },
    element("caption", {}, seen[0] && seen[1] ? "What both sides saw; a value shown once is the same on both"
      : seen[0] || seen[1] ? `What the ${index.sides[seen[0] ? 0 : 1]} saw` : ""),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "what"),
      index.sides.map((side) => element("th", { scope: "col" }, side)))),
    element("tbody", {}, body)));
}

function valueOf(entry, step, row, value, other) {
  if (value === undefined || value === null) return element("span", { class: "none" }, "nothing");
  if (!row.runs) {
    const lines = String(value).split("\n");
    if (!row.differs) return lines.map((line) => element("div", { class: "value" }, line));
    const others = other === undefined || other === null ? [] : String(other).split("\n");
    // Lines that only one side has stand across from a gap.
    const pairs = lines.length === 1 && others.length === 1 ? [[lines[0], others[0]]] : aligned(lines, others);
    return pairs.map(([own, theirs]) => element("div", { class: "value" }, own === undefined ? "\u00a0"
      : theirs === undefined ? element("mark", {}, own) : marked(own, theirs)));
  }
  const start = startOf(entry.steps[step]);
  const others = new Set(row.differs && other ? runsInWords(other, start) : []);
  return element("details", { open: row.differs || value.length <= 6 },
    element("summary", {}, `${plural(sectorsOf(value), "sector")} in ${plural(value.length, "run")}`),
    element("ul", { class: "runs" }, runsInWords(value, start).map((line) => element("li", {},
      row.differs && other && !others.has(line) ? element("mark", {}, line) : line))));
}

function bytesLater(entry, step, row) {
  const place = element("div", {});
  const [left, right] = row.values;
  const opened = element("details", { ontoggle: async () => {
    if (!opened.open || place.firstChild) return;
    const first = await firstDifference(entry.seed, left, right, 0);
    refilled(place, first < 0 ? element("p", { class: "note" }, "The bytes are the same.") : byteView({
      entry, step, sides: index.sides, left, right, device: row.device, image: row.image,
      start: startOf(entry.steps[step]), first, label: `Bytes of ${row.device}` }));
  } }, element("summary", {}, `Bytes of ${row.device} that differ`), place);
  return opened;
}

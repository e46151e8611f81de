// Which part is shown, by the address behind the #, and the keys.

let filterNow = {};
let returnTo = "";

function say(text) {
  const place = document.getElementById("say");
  place.textContent = "";
  place.textContent = printable(text);
}

async function show() {
  const overview = document.getElementById("overview"), article = document.getElementById("scenario");
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/");
  if (parts[1] === "s") {
    const [name, kernel] = [parts[2], parts[3]].map((part) => decodeURIComponent(part || ""));
    const moved = overview.hidden === false || here?.row[0] !== name;
    overview.hidden = true;
    article.hidden = false;
    await openScenario(article, name, kernel, parts[4] === undefined || parts[4] === "" ? null : Number(parts[4]));
    if (moved) {
      returnTo = name;
      window.scrollTo(0, 0);
      document.getElementById("title")?.focus({ preventScroll: true });
    }
    return;
  }
  const back = !article.hidden;
  filterNow = filterOf(query || "");
  article.hidden = true;
  overview.hidden = false;
  refilled(article);
  here = null;
  document.title = document.querySelector("h1").textContent;
  drawMatrix(document.getElementById("matrix"), filterNow);
  if (back) {
    const links = [...document.querySelectorAll(".matrix th[scope=row] a")];
    const link = links.find((each) => each.textContent === printable(returnTo)) || links[0];
    link?.focus();
    link?.scrollIntoView({ block: "center" });
  }
}

function rowKey(event) {
  const links = [...document.querySelectorAll(".matrix th[scope=row] a")];
  const at = links.indexOf(document.activeElement);
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by || (document.activeElement.matches("select"))) return false;
  links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
  return true;
}

function stepKey(event) {
  const last = (here.entry?.steps.length || 1) - 1;
  switch (event.key) {
    case "ArrowLeft": case "k": goTo(here.step - 1); return true;
    case "ArrowRight": case "j": goTo(here.step + 1); return true;
    case "ArrowUp": case "ArrowDown":
      if (!here.list?.contains(document.activeElement)) return false;
      goTo(here.step + (event.key === "ArrowDown" ? 1 : -1));
      return true;
    case "Home": goTo(0); return true;
    case "End": goTo(last); return true;
    case "d": nextDifference(); return true;
    case "p": document.getElementById("previous")?.click(); return true;
    case "n": document.getElementById("next")?.click(); return true;
    case "Escape": location.hash = "#/" + queryOf(filterNow); return true;
    default: return false;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const writing = event.target.matches?.("input, select, textarea");
  if (event.key === "/" && !writing) {
    event.preventDefault();
    if (here) location.hash = "#/" + queryOf(filterNow);
    setTimeout(() => document.querySelector("input[name=search]")?.focus(), 0);
    return;
  }
  if (writing && !(event.target.matches("input") && event.key === "ArrowDown")) return;
  // A region that scrolls by itself keeps its arrows.
  if (event.target.matches?.(".scrolling") && event.key.startsWith("Arrow")) return;
  if (here ? stepKey(event) : rowKey(event)) event.preventDefault();
});

let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (here?.entry?.steps.length) drawStep(); }, 150);
});
window.addEventListener("hashchange", show);

opened(document.getElementById("index").textContent).then((found) => {
  index = found;
  filterNow = filterOf("");
  return show();
});

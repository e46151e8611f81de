// Steps, runs and times in words.

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function range(step) {
  return `${plural(step.sectors, "sector")} at ${step.sector}`;
}

function lineInWords(line) {
  return `${line.start} ${line.length} ${line.type}${line.args ? " " + line.args : ""}`;
}

function ioInWords(step) {
  const how = step.buffered ? ", through the page cache" : "";
  if (step.do === "read") return `read ${range(step)} of ${step.device}${how}`;
  const what = step.fill === "zero" ? ", zeros" : `, generation ${step.generation ?? 1}`;
  return `write ${range(step)} to ${step.device}${what}${how}`;
}

function ordinal(n) {
  const end = n % 100 > 10 && n % 100 < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[n % 10] || "th";
  return n + end;
}

// A step as a sentence without its full stop.
function inWords(step) {
  const of = step.inactive ? "inactive " : "";
  switch (step.do) {
    case "disk": {
      const traits = [
        step.fill === "stamp" ? "stamped" : "zeros",
        step.block_size && step.block_size !== 512 ? `blocks of ${step.block_size} bytes` : "",
        step.linked ? "behind a link" : step.can_fail ? "can fail" : "",
      ].filter(Boolean);
      return `make disk ${step.name}, ${plural(step.sectors, "sector")} (${traits.join(", ")})`;
    }
    case "create": return `create device ${step.name}`;
    case "load":
      return `load into ${step.name}${step.read_only ? ", read-only" : ""}: ` +
        step.table.map(lineInWords).join("; ");
    case "clear": return `clear the inactive table of ${step.name}`;
    case "resume": return `resume ${step.name}`;
    case "suspend":
      return `suspend ${step.name}${step.flush === false ? ", without a flush" : ""}` +
        (step.lockfs === false ? ", without a freeze" : "");
    case "remove": return `remove ${step.name}`;
    case "rename": return `rename ${step.name} to ${step.to}`;
    case "message": return `message to ${step.name} at ${step.sector ?? 0}: ${step.text}`;
    case "status": return `ask ${step.name} for its ${of}status`;
    case "table": return `ask ${step.name} for its ${of}table`;
    case "wait": return `wait until the event number of ${step.name} is not ${step.event}`;
    case "write": case "read": return ioInWords(step);
    case "poke": {
      const bytes = Math.floor(step.data.length * 3 / 4) - (step.data.match(/=*$/)[0].length);
      return `write ${plural(bytes, "literal byte")} at sector ${step.sector} of ${step.device}`;
    }
    case "flush": return `flush ${step.device}`;
    case "discard": return `discard ${range(step)} of ${step.device}`;
    case "zeroout": return `zero ${range(step)} of ${step.device}`;
    case "parallel":
      return `at once: ${step.ios.map(ioInWords).join("; ")}` +
        (step.resume ? `; then resume ${step.resume.join(", ")}` : "");
    case "fault": {
      const where = step.sectors ? ` of sectors ${step.sector ?? 0}+${step.sectors}` :
        step.sector ? ` from sector ${step.sector} on` : "";
      const count = step.count === 0 ? " and all that follow" :
        step.count > 1 ? ` and ${step.count - 1} more` : "";
      const what = { stalls: "stalls the disk", dies: "kills the disk" }[step.how] || "fails";
      return `from now on the ${ordinal(step.nth ?? 1)} ${step.op}${count}${where} on ` +
        `${step.device} ${what}`;
    }
    case "heal": return `heal ${step.device}`;
    case "image": return `take an image of ${step.device}`;
    case "parameter": return `set module parameter ${step.name} to ${step.value}`;
    case "examine": return "examine every device, and the image of every disk";
    case "crash": return `lose the guest: ${step.how}`;
    default: return step.do;
  }
}

function runInWords(run, at) {
  const count = countOf(run), where = count === 1 ? `${at}` : `${at}–${at + count - 1}`;
  switch (run[0]) {
    case "stamp":
      return `${where}: ${run[1]} ${run[3]}${count > 1 ? "–" + (run[3] + count - 1) : ""}, ` +
        `generation ${run[2]}`;
    case "zero": return `${where}: zeros`;
    case "error": return `${where}: unreadable (${run[1]})`;
    default: return `${where}: bytes without a stamp`;
  }
}

const RUNS_SHOWN = 40;

function runsInWords(runs, start) {
  const lines = [];
  let at = start;
  for (const run of runs.slice(0, RUNS_SHOWN)) {
    lines.push(runInWords(run, at));
    at += countOf(run);
  }
  if (runs.length > RUNS_SHOWN) lines.push(`… and ${runs.length - RUNS_SHOWN} more runs`);
  return lines;
}

function seconds(microseconds) {
  return microseconds < 1e6 ? `${(microseconds / 1000).toFixed(1)} ms`
    : `${(microseconds / 1e6).toFixed(2)} s`;
}

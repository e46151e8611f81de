"use strict";
// Opening what harness/report/html/pack.py has packed, and the one door to the document.

// What cannot be seen is spelt out, as harness/report/gate.py does; newlines stay.
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

function printable(text) {
  return String(text).replace(UNSEEN, (one) =>
    one === "\n" ? one : "\\x" + one.codePointAt(0).toString(16).padStart(2, "0"));
}

// An element; strings among its children are text, whatever is in them, and null is nothing.
function element(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, printable(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(printable(child)));
  }
  return node;
}

function bytesOfBase64(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function opened(text) {
  return JSON.parse(new TextDecoder().decode(await inflated(bytesOfBase64(text))));
}

const complete = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", resolve, { once: true });
});

let openParcel = { number: -1, parcel: null };

// The parcel of one scenario, with all that its views and states are; null if the page has none.
async function parcelOf(number) {
  if (openParcel.number === number) return openParcel.parcel;
  if (!document.getElementById("parcel-" + number)) await complete;
  const text = document.getElementById("parcel-" + number).textContent;
  const parcel = text ? unfolded(await opened(text)) : null;
  openParcel = { number, parcel };
  return parcel;
}

// Views as lists of observations, by step, each with the sum of all states until then.
function unfolded(parcel) {
  const views = parcel.views.map((view) => {
    const steps = [];
    let state = {};
    for (const number of view) {
      const seen = parcel.pool[number];
      state = { ...state };
      for (const [name, value] of Object.entries(seen.state || {}))
        if (value === null) delete state[name];
        else state[name] = value;
      steps[seen.step] = { ...seen, number, sum: state };
    }
    return steps;
  });
  return { ...parcel, views, seed: BigInt(parcel.seed) };
}

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

// The same for what is there already: nothing but these children is in it from now on.
function refilled(node, ...children) {
  node.replaceChildren();
  return filled(node, {}, children);
}

// Two lists beside each other, so that as much as possible is the same: pairs, one of each may lack.
const ALIGNED_MAX = 250000;

function aligned(left, right) {
  const pairs = [];
  let head = 0, tail = 0;
  while (head < left.length && head < right.length && left[head] === right[head]) head++;
  while (tail < left.length - head && tail < right.length - head &&
    left[left.length - 1 - tail] === right[right.length - 1 - tail]) tail++;
  const one = left.slice(head, left.length - tail), other = right.slice(head, right.length - tail);
  for (let i = 0; i < head; i++) pairs.push([left[i], right[i]]);
  if (one.length * other.length > ALIGNED_MAX || !one.length || !other.length) {
    for (let i = 0; i < Math.max(one.length, other.length); i++) pairs.push([one[i], other[i]]);
  } else {
    const width = other.length + 1, best = new Uint32Array((one.length + 1) * width);
    for (let i = one.length - 1; i >= 0; i--)
      for (let j = other.length - 1; j >= 0; j--)
        best[i * width + j] = one[i] === other[j] ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    let i = 0, j = 0;
    while (i < one.length || j < other.length) {
      if (i < one.length && j < other.length && one[i] === other[j]) pairs.push([one[i++], other[j++]]);
      else if (j >= other.length || (i < one.length && best[(i + 1) * width + j] >= best[i * width + j + 1]))
        pairs.push([one[i++], undefined]);
      else pairs.push([undefined, other[j++]]);
    }
  }
  for (let i = tail; i > 0; i--) pairs.push([left[left.length - i], right[right.length - i]]);
  return pairs;
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

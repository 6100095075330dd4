// Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
// Shows the codes of the cell under the pointer or the arrow keys, and where else in the picture they are.

const map = element.querySelector(".token-map"), frame = map.querySelector(".frame");
const picture = frame.querySelector("img"), overlay = frame.querySelector("svg"), codes = map.querySelector(".codes");
const HINT = "Point at a cell, or move with the arrow keys, to read its codes.";

let content = null, height = 0, width = 0, cell = null;

const add = (name, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  overlay.append(node);
};

function grid() {
  const lines = [];
  for (let x = 1; x < width; x++) lines.push(`M${x} 0V${height}`);
  for (let y = 1; y < height; y++) lines.push(`M0 ${y}H${width}`);
  add("path", { d: lines.join(""), class: "lines" });
}

function mark() {
  overlay.replaceChildren();
  grid();
  codes.replaceChildren();
  if (!cell) {
    codes.textContent = HINT;
    return;
  }
  const place = document.createElement("span");
  place.textContent = `Row ${cell.y + 1}, column ${cell.x + 1}`;
  codes.append(place);
  content.names.forEach((name, k) => {
    const colour = content.colours[k % content.colours.length], code = content.codes[k][cell.y][cell.x];
    const inset = 0.06 + 0.1 * k, side = 1 - 2 * inset;
    let number = 0;
    content.codes[k].forEach((row, y) =>
      row.forEach((other, x) => {
        if (other !== code) return;
        number += 1;
        add("rect", { x: x + inset, y: y + inset, width: side, height: side, class: "same", stroke: colour });
      }),
    );
    const entry = document.createElement("span"), chip = document.createElement("i");
    chip.style.background = colour;
    entry.append(chip, `${name} ${code}`, number > 1 ? ` (in ${number} cells)` : "");
    codes.append(entry);
  });
  add("rect", { x: cell.x, y: cell.y, width: 1, height: 1, class: "here" });
}

function show() {
  content = props.value && props.value.codes ? props.value : null;
  map.classList.toggle("empty", !content);
  cell = null;
  if (!content) return;
  height = content.codes[0].length;
  width = content.codes[0][0].length;
  picture.src = content.picture;
  frame.style.aspectRatio = `${width} / ${height}`;
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  mark();
}

function point(event) {
  if (!content) return;
  const box = frame.getBoundingClientRect();
  const at = (value, start, length, count) =>
    Math.min(count - 1, Math.max(0, Math.floor(((value - start) / length) * count)));
  const next = { x: at(event.clientX, box.left, box.width, width), y: at(event.clientY, box.top, box.height, height) };
  if (cell && cell.x === next.x && cell.y === next.y) return;
  cell = next;
  mark();
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
frame.addEventListener("pointermove", point);
frame.addEventListener("pointerdown", point);
frame.addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!content || !move) return;
  event.preventDefault();
  cell = cell
    ? { x: Math.min(width - 1, Math.max(0, cell.x + move[0])), y: Math.min(height - 1, Math.max(0, cell.y + move[1])) }
    : { x: 0, y: 0 };
  mark();
});

watch("value", show);
show();

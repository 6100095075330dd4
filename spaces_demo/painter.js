// Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
// Paints labels into cells. `painter.painted()` uploads them as a picture and gives Gradio's reference to the file:
// in the palette's colours for a map, black and white for a mask; null where nothing was painted on a mask.

const painter = element.querySelector(".painter");
const [below, paint] = painter.querySelectorAll("canvas");
const said = painter.querySelector(".said"), brush = painter.querySelector(".brush");
const width = +painter.dataset.width, height = +painter.dataset.height;
const isMask = painter.classList.contains("mask");
const colours = painter.dataset.colours.split(" "), names = painter.dataset.names.split("|");
const SIDE = 512; // of the picture below a mask, in pixels
const MAX_UNDO = 50;

let cells = new Uint8Array(width * height), undo = [], cursor = null, last = null, shown = null;

paint.width = width;
paint.height = height;
below.width = SIDE;
below.height = Math.round((SIDE * height) / width);

const chosen = () => +painter.querySelector("input[type=radio]:checked").value;
const rgba = (colour) => {
  const parts = colour === "transparent" ? ["00", "00", "00", "00"] : colour.slice(1).match(/../g);
  return [...parts.map((part) => parseInt(part, 16)), 255].slice(0, 4);
};
const tints = colours.map(rgba);

function draw() {
  const context = paint.getContext("2d"), image = context.createImageData(width, height);
  cells.forEach((label, i) => image.data.set(tints[label], 4 * i));
  context.putImageData(image, 0, 0);
  if (cursor && document.activeElement === paint) {
    context.fillStyle = "#ff2d95";
    context.fillRect(cursor.x, cursor.y, 1, 1);
  }
}

function stamp(x, y, label) {
  const radius = (+brush.value - 1) / 2, reach = Math.ceil(radius);
  for (let row = y - reach; row <= y + reach; row++)
    for (let column = x - reach; column <= x + reach; column++) {
      const isInside = row >= 0 && row < height && column >= 0 && column < width;
      if (isInside && Math.hypot(row - y, column - x) <= radius + 0.3) cells[row * width + column] = label;
    }
}

function line(from, to, label) {
  const steps = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y), 1);
  for (let i = 0; i <= steps; i++)
    stamp(Math.round(from.x + ((to.x - from.x) * i) / steps), Math.round(from.y + ((to.y - from.y) * i) / steps), label);
  draw();
}

function remember() {
  undo.push(cells.slice());
  undo = undo.slice(-MAX_UNDO);
}

function clear() {
  cells = new Uint8Array(width * height);
  draw();
}

function place(event) {
  const box = paint.getBoundingClientRect();
  const at = (value, start, length, count) =>
    Math.min(count - 1, Math.max(0, Math.floor(((value - start) / length) * count)));
  return { x: at(event.clientX, box.left, box.width, width), y: at(event.clientY, box.top, box.height, height) };
}

paint.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  paint.setPointerCapture(event.pointerId);
  remember();
  cursor = null;
  last = place(event);
  line(last, last, chosen());
});
paint.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  line(last, next, chosen());
  last = next;
});
for (const name of ["pointerup", "pointercancel"]) paint.addEventListener(name, () => (last = null));

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
paint.addEventListener("keydown", (event) => {
  const move = MOVES[event.key], isPainting = event.key === " " || event.key === "Enter";
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) back();
  else if (move || isPainting) {
    cursor = cursor || { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    if (move) {
      cursor.x = Math.min(width - 1, Math.max(0, cursor.x + move[0]));
      cursor.y = Math.min(height - 1, Math.max(0, cursor.y + move[1]));
    } else {
      remember();
      stamp(cursor.x, cursor.y, chosen());
    }
    draw();
    const label = names[cells[cursor.y * width + cursor.x]];
    said.textContent = `row ${cursor.y + 1}, column ${cursor.x + 1}: ${label}`;
  } else return;
  event.preventDefault();
});
paint.addEventListener("focus", draw);
paint.addEventListener("blur", draw);

function back() {
  cells = undo.pop() || cells;
  draw();
}
painter.querySelector(".undo").addEventListener("click", back);
painter.querySelector(".clear").addEventListener("click", () => {
  remember();
  clear();
});

// The picture below: scaled to cover the canvas and cut, as the model will see it.
function showBelow() {
  const address = (props.value && props.value.url) || null, context = below.getContext("2d");
  if (address === shown) return;
  shown = address;
  undo = [];
  clear();
  context.clearRect(0, 0, below.width, below.height);
  painter.classList.toggle("has-picture", !!address);
  if (!address) return;
  const image = new Image();
  image.onload = () => {
    if (address !== shown) return;
    const scale = Math.max(below.width / image.naturalWidth, below.height / image.naturalHeight);
    const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
    context.imageSmoothingEnabled = scale < 2;
    context.drawImage(image, (below.width - w) / 2, (below.height - h) / 2, w, h);
  };
  image.src = address;
}

painter.painted = async () => {
  if (isMask && !cells.some((label) => label)) return null;
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = width;
  canvas.height = height;
  const image = context.createImageData(width, height);
  cells.forEach((label, i) => image.data.set(isMask ? [255 * label, 255 * label, 255 * label, 255] : tints[label], 4 * i));
  context.putImageData(image, 0, 0);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const { path, url } = await upload(new File([blob], "painted.png", { type: "image/png" }));
  return { path, url, orig_name: "painted.png", meta: { _type: "gradio.FileData" } };
};

watch("value", showBelow);
showBelow();
draw();

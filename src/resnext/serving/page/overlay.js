// What is drawn over a picture: the heat map of a class, the part the crop cut off, and boxes.

const INFERNO = ["320a5e", "57106e", "781c6d", "9a2865", "bc3754", "d84c3e", "ed6925", "f98e09", "fbb61a", "f4df53", "fcffa4"];
const AGAINST = ["9ecae1", "4a98c9", "1664ab", "08306b"]; // blue: evidence against a class
const FOR = ["fdbe85", "f98e09", "d9480f", "8c2d04"]; // orange: evidence for it
const GRID = 256; // pixels of a heat map's longer side before the browser enlarges it
const LARGEST = 1600; // pixels of a canvas' longer side

// The colours of draw_boxes.py, after Okabe and Ito, and Tol: distinct for color-blind readers.
const CLASS_COLORS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#882255", "#44aa99", "#999933",
  "#332288", "#ddcc77"];

export function pickClassColor(index) {
  return CLASS_COLORS[index % CLASS_COLORS.length];
}

function mixColors(table, position) {
  const at = Math.min(Math.max(position, 0), 1) * (table.length - 1);
  const low = Math.min(Math.floor(at), table.length - 2);
  return [0, 2, 4].map((i) => {
    const [a, b] = [table[low], table[low + 1]].map((color) => parseInt(color.slice(i, i + 2), 16));
    return a + (b - a) * (at - low);
  });
}

/** Return red, green, blue and opacity (0 to 255) of a value in -1 to 1. Weak values let the picture through. */
export function colorValue(value, signed) {
  const strength = Math.min(Math.abs(value), 1);
  const opacity = 255 * Math.min(1, 1.15 * strength ** 0.8);
  return [...mixColors(signed ? (value < 0 ? AGAINST : FOR) : INFERNO, strength), opacity];
}

/** Return a map's value at (x, y), fractions of its region; bilinear between the centres of cells. */
export function interpolate(map, width, height, x, y) {
  const column = Math.min(Math.max(x * width - 0.5, 0), width - 1);
  const row = Math.min(Math.max(y * height - 0.5, 0), height - 1);
  const [left, top] = [Math.floor(column), Math.floor(row)];
  const [right, bottom] = [Math.min(left + 1, width - 1), Math.min(top + 1, height - 1)];
  const [fx, fy] = [column - left, row - top];
  const upper = map[top * width + left] * (1 - fx) + map[top * width + right] * fx;
  const lower = map[bottom * width + left] * (1 - fx) + map[bottom * width + right] * fx;
  return upper * (1 - fy) + lower * fy;
}

/** Return the largest value of the maps shown: the same scale for all classes, so that bars and maps agree. */
export function findScale(maps, signed) {
  let largest = 0;
  for (const map of maps) for (const value of map) largest = Math.max(largest, signed ? Math.abs(value) : value);
  return largest;
}

/** Return the canvas pixels of one pixel on the screen. */
function measureScreenPixel(canvas) {
  return canvas.clientWidth ? canvas.width / canvas.clientWidth : 1;
}

/** Size a canvas to a picture of [width, height], at most LARGEST pixels; return the pixels per picture pixel. */
function fitCanvas(canvas, [width, height]) {
  const longer = Math.max(width, height);
  const factor = Math.min(LARGEST, Math.max(longer, 800)) / longer;
  canvas.width = Math.max(1, Math.round(width * factor));
  canvas.height = Math.max(1, Math.round(height * factor));
  return [canvas.width / width, canvas.height / height];
}

/**
 * Draw one class' map over its region of the upright picture, and a veil over what the crop cut off.
 * options: {size: [width, height], strength: 0 to 1, signed, scale}.
 */
export function drawHeatMap(canvas, cam, map, { size, strength, signed, scale }) {
  const [sx, sy] = fitCanvas(canvas, size);
  const context = canvas.getContext("2d");
  const [x0, y0, x1, y1] = cam.region;
  const corner = [x0 * sx, y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy];
  drawVeil(context, canvas, corner);
  if (strength <= 0 || scale <= 0) return;
  const heat = paintMap(map, cam, { signed, scale, aspect: (x1 - x0) / (y1 - y0) });
  context.globalAlpha = strength;
  context.imageSmoothingQuality = "high";
  context.drawImage(heat, ...corner);
  context.globalAlpha = 1;
}

function drawVeil(context, canvas, [x, y, width, height]) {
  const covers = x < 1 && y < 1 && x + width > canvas.width - 1 && y + height > canvas.height - 1;
  if (covers) return;
  context.fillStyle = getComputedStyle(canvas).getPropertyValue("--cut-off");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(x, y, width, height);
  context.strokeStyle = "rgb(255 255 255 / 85%)";
  context.lineWidth = 1.5 * measureScreenPixel(canvas);
  context.strokeRect(x, y, width, height);
}

function paintMap(map, { width, height }, { signed, scale, aspect }) {
  const heat = document.createElement("canvas");
  heat.width = Math.max(1, Math.round(aspect >= 1 ? GRID : GRID * aspect));
  heat.height = Math.max(1, Math.round(aspect >= 1 ? GRID / aspect : GRID));
  const context = heat.getContext("2d");
  const image = context.createImageData(heat.width, heat.height);
  const table = Array.from({ length: 511 }, (_, i) => colorValue((i - 255) / 255, signed)); // value -1 to 1
  for (let y = 0; y < heat.height; y++) {
    for (let x = 0; x < heat.width; x++) {
      let value = interpolate(map, width, height, (x + 0.5) / heat.width, (y + 0.5) / heat.height) / scale;
      value = Math.min(Math.max(value, signed ? -1 : 0), 1);
      image.data.set(table[Math.round(value * 255) + 255], 4 * (y * heat.width + x));
    }
  }
  context.putImageData(image, 0, 0);
  return heat;
}

/** Say in words where in the picture a map is strongest, for example "strongest at upper left". */
export function describePeak(cam, map, size) {
  const largest = Math.max(...map);
  if (!(largest > 0)) return "none in this picture";
  const cell = map.indexOf(largest);
  const [x0, y0, x1, y1] = cam.region;
  const x = x0 + ((x1 - x0) * ((cell % cam.width) + 0.5)) / cam.width;
  const y = y0 + ((y1 - y0) * (Math.floor(cell / cam.width) + 0.5)) / cam.height;
  const third = (at, length) => Math.min(Math.max(Math.floor((3 * at) / length), 0), 2);
  const row = ["upper", "", "lower"][third(y, size[1])];
  const column = ["left", "", "right"][third(x, size[0])];
  if (!row && !column) return "strongest at the centre";
  if (!row) return `strongest at the ${column}`;
  return column ? `strongest at ${row} ${column}` : `strongest at the ${row === "upper" ? "top" : "bottom"}`;
}

/** Draw boxes in the colours of their classes; the one in focus is filled. */
export function drawBoxes(canvas, boxes, { size, focus }) {
  const [sx, sy] = fitCanvas(canvas, size);
  const context = canvas.getContext("2d");
  const pixel = measureScreenPixel(canvas);
  for (const box of [...boxes].reverse()) { // the highest scores on top
    const [x0, y0, x1, y1] = box.box;
    const corner = [x0 * sx, y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy];
    const color = pickClassColor(box.index);
    context.globalAlpha = focus && focus !== box ? 0.35 : 1;
    context.lineWidth = 4 * pixel;
    context.strokeStyle = "rgb(17 24 39 / 75%)";
    context.strokeRect(...corner);
    context.lineWidth = 2.25 * pixel;
    context.strokeStyle = color;
    context.strokeRect(...corner);
    if (focus === box) {
      context.globalAlpha = 0.3;
      context.fillStyle = color;
      context.fillRect(...corner);
    }
  }
  context.globalAlpha = 1;
}

/** Draw the colour scale beside a heat map. */
export function drawScale(canvas, signed) {
  [canvas.width, canvas.height] = [128, 1];
  const context = canvas.getContext("2d");
  for (let x = 0; x < 128; x++) {
    const value = signed ? (x - 63.5) / 63.5 : x / 127;
    const [red, green, blue, opacity] = colorValue(value, signed);
    context.fillStyle = `rgb(${red} ${green} ${blue} / ${opacity / 255})`;
    context.fillRect(x, 0, 1, 1);
  }
}

// Resizing as in data/equalise.py: averages along a side that shrinks, cubic interpolation along one that grows.
// An image is {data, width, height}, with three bytes a pixel.

function resizeToSquare(image, side, resize) {
  if (resize === "pad") return pad(image, side);
  return resizeTo(resize === "crop" ? cropCentreSquare(image) : image, side, side);
}

function resizeTo(image, width, height) {
  // OpenCV averages 2 x 2 pixels in integers, which rounds halves up; an array of bytes rounds them to even
  const half = image.width === 2 * width && image.height === 2 * height ? 1e-6 : 0;
  const small = resample(image, Math.min(width, image.width), Math.min(height, image.height), listAreaWeights, half);
  return resample(small, width, height, listCubicWeights);
}

// The part of each source pixel in each result, as [first source pixel, parts], as of cv2.INTER_AREA.
function listAreaWeights(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const [start, end] = [place * scale, (place + 1) * scale];
    const cell = Math.min(scale, from - start);
    const last = Math.min(Math.floor(end), from - 1);
    const first = Math.min(Math.ceil(start), last);
    const parts = Array(last - first).fill(1 / cell);
    if (end - last > 1e-3) parts.push(Math.min(end - last, 1, cell) / cell);
    const overlaps = first - start > 1e-3;
    if (overlaps) parts.unshift((first - start) / cell);
    return [overlaps ? first - 1 : first, parts];
  });
}

// The weights of four source pixels in each result, as of cv2.INTER_CUBIC.
function listCubicWeights(from, to) {
  const a = -0.75;
  return Array.from({ length: to }, (_, place) => {
    const centre = Math.fround(((place + 0.5) * from) / to - 0.5);
    const first = Math.floor(centre);
    const x = centre - first;
    const near = (t) => ((a + 2) * t - (a + 3)) * t * t + 1;
    const far = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
    const parts = [far, near(x), near(1 - x)];
    parts.push(1 - parts[0] - parts[1] - parts[2]);
    return [first - 1, parts];
  });
}

function resample(image, width, height, listWeights, added = 0) {
  if (image.width === width && image.height === height) return image;
  const [columns, rows] = [listWeights(image.width, width), listWeights(image.height, height)];
  const data = new Uint8ClampedArray(3 * width * height); // rounds, and clips to 0..255
  const inside = (place, size) => Math.min(Math.max(place, 0), size - 1);
  rows.forEach(([top, parts], y) => {
    const sums = new Float64Array(3 * width);
    parts.forEach((part, k) => addRow(sums, image, inside(top + k, image.height), columns, part));
    for (let i = 0; i < sums.length; i++) data[3 * width * y + i] = sums[i] + added;
  });
  return { data, width, height };
}

function addRow(sums, { data, width }, row, columns, weight) {
  for (let x = 0; x < columns.length; x++) {
    const [left, parts] = columns[x];
    let [red, green, blue] = [0, 0, 0];
    for (let k = 0; k < parts.length; k++) {
      const at = 3 * (row * width + Math.min(Math.max(left + k, 0), width - 1));
      red += parts[k] * data[at];
      green += parts[k] * data[at + 1];
      blue += parts[k] * data[at + 2];
    }
    sums[3 * x] += weight * red;
    sums[3 * x + 1] += weight * green;
    sums[3 * x + 2] += weight * blue;
  }
}

function cropCentreSquare(image) {
  const side = Math.min(image.width, image.height);
  const [top, left] = [Math.floor((image.height - side) / 2), Math.floor((image.width - side) / 2)];
  const data = new Uint8ClampedArray(3 * side * side);
  for (let y = 0; y < side; y++) {
    const start = 3 * ((top + y) * image.width + left);
    data.set(image.data.subarray(start, start + 3 * side), 3 * side * y);
  }
  return { data, width: side, height: side };
}

function pad(image, side) {
  const scale = side / Math.max(image.width, image.height);
  const [width, height] = [image.width, image.height].map((length) => Math.max(1, roundHalfToEven(length * scale)));
  const small = resizeTo(image, width, height);
  const [top, left] = [Math.floor((side - height) / 2), Math.floor((side - width) / 2)];
  const data = new Uint8ClampedArray(3 * side * side).fill(255);
  for (let y = 0; y < height; y++) {
    data.set(small.data.subarray(3 * width * y, 3 * width * (y + 1)), 3 * ((top + y) * side + left));
  }
  return { data, width: side, height: side };
}

function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

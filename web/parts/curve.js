/** Points, scales and paths of a loss chart: arithmetic without a page. */

import { isNumber } from "./format.js";

/** Mean of a series that forgets within `reach` steps; without the bias of its beginning. */
export function smooth(points, column, reach) {
  let [sum, weight, before] = [0, 0, null];
  return points.map((point) => {
    const value = point[column];
    if (!isNumber(value)) return null;
    const keep = before === null ? 0 : Math.exp(-Math.max(point[0] - before, 1) / reach);
    before = point[0];
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/** Adds steps to a curve; a run that went back takes what came after with it. */
export function extend(points, more) {
  const joined = points.slice();
  for (const point of more) {
    while (joined.length && joined[joined.length - 1][0] >= point[0]) joined.pop();
    joined.push(point);
  }
  return joined;
}

/** From values to 0…1, and ticks at round numbers. */
export function makeScale(values, isLog) {
  const known = values.filter((value) => isNumber(value) && (!isLog || value > 0));
  let low = known.length ? known.reduce((a, b) => Math.min(a, b)) : isLog ? 0.1 : 0;
  let high = known.length ? known.reduce((a, b) => Math.max(a, b)) : 1;
  if (isLog) {
    low = Math.log10(low) - 0.02;
    high = Math.max(Math.log10(high) + 0.02, low + 0.05);
    const at = (value) => (value > 0 ? (Math.log10(value) - low) / (high - low) : 0);
    return { at, ticks: logTicks(low, high) };
  }
  low = Math.min(low, 0);
  if (!(high > low)) high = low + 1;
  high += (high - low) * 0.04;
  return { at: (value) => (value - low) / (high - low), ticks: evenTicks(low, high, 4) };
}

/** Multiples of 1, 2, 2.5 or 5 times a power of ten. */
export function evenTicks(low, high, about) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((size) => size >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) {
    ticks.push(Number((n * step).toPrecision(6)));
  }
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const fine = high - low < 2 ? [1, 2, 5] : [1];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const n of fine) {
      const value = n * 10 ** power;
      if (Math.log10(value) >= low && Math.log10(value) <= high) ticks.push(value);
    }
  }
  return ticks.length >= 2 ? ticks : evenTicks(10 ** low, 10 ** high, 3).filter((v) => v > 0);
}

/** An SVG path through what is there; a step without a number leaves a gap. */
export function path(points, values, x, y) {
  const pieces = [];
  let pen = "M";
  points.forEach((point, index) => {
    const value = values[index];
    if (!isNumber(value)) {
      pen = "M";
      return;
    }
    pieces.push(`${pen}${x(point[0]).toFixed(1)} ${y(value).toFixed(1)}`);
    pen = "L";
  });
  return pieces.join("");
}

/** Numbers as people read them. */

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** 75 → "1:15", 3700 → "1:01:40" */
export function clock(seconds) {
  if (!isNumber(seconds) || seconds < 0) return "";
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** 3500000 → "3.5 MB" */
export function bytes(count) {
  if (!isNumber(count)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** A loss or a rate: three digits that say something. */
export function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** Steps a second, or seconds a step where that is more. */
export function pace(speed) {
  if (!isNumber(speed) || speed <= 0) return "";
  return speed >= 1 ? `${speed.toFixed(2)} it/s` : `${(1 / speed).toFixed(1)} s/it`;
}

/** Seconds since 1970 → date and time in the reader's own form. */
export function date(seconds) {
  const at = new Date(seconds * 1000);
  return at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** "1 step", "2 steps" */
export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

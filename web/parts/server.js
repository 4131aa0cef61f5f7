/** What the server knows: requests, and messages read with care. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { isNumber } from "./format.js";

export const MESSAGE = "dreambooth.status";
const MOST = { photos: 200, points: 2000, pictures: 5000, notes: 20, text: 2000, name: 200 };

/** JSON of a route; an error carries the server's own sentence. */
export async function ask(path, options) {
  const answer = await api.fetchApi(`/dreambooth/${path}`, { cache: "no-store", ...options });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error ?? `the server answered ${answer.status}`);
  return body;
}

const part = encodeURIComponent;

export const listRuns = (start, count) => ask(`runs?start=${start}&count=${count}`);
export const showRun = (run) => ask(`runs/${part(run)}`);
export const showLog = async (run) => readPoints((await ask(`runs/${part(run)}/log`)).points);
export const deleteRun = (run, checkpoints) =>
  ask(`runs/${part(run)}?checkpoints=${checkpoints ? 1 : 0}`, { method: "DELETE" });

/** What a node trains now, or trained last. `name` null: whatever it was called. */
export async function showNode(node, name) {
  const query = name === null ? "" : `?name=${part(name)}`;
  return readStatus(await ask(`nodes/${part(node)}${query}`));
}

export async function order(run, what) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ order: what });
  return readStatus(await ask(`runs/${part(run)}/orders`, { method: "POST", headers, body }));
}

/** Where a preview is; with a side, a small copy of it. */
export function pictureUrl(run, [step, prompt], side) {
  const small = side ? `?side=${side}` : "";
  return api.apiURL(`/dreambooth/runs/${part(run)}/pictures/${step}/${prompt}${small}`);
}

/** What Instance Images read last, of this source; null if that is not known. */
export async function showPhotos(node, source) {
  return readPhotos(await ask(`nodes/${part(node)}/photos?source=${part(source)}`));
}

/** A photo upright and uncut, small. */
export function photoUrl(node, number_, side, version) {
  const query = `side=${side}&version=${version}`;
  return api.apiURL(`/dreambooth/nodes/${part(node)}/photos/${number_}?${query}`);
}

const number = (value) => (isNumber(value) ? value : null);
const text = (value) => (typeof value === "string" ? value.slice(0, MOST.text) : "");
const list = (value, most) => (Array.isArray(value) ? value.slice(-most) : []);

/** `[step, instance, class, rate]` of what is a point. */
export function readPoints(values) {
  const rows = list(values, MOST.points).filter((row) => Array.isArray(row) && isNumber(row[0]));
  return rows.map((row) => [row[0], number(row[1]), number(row[2]), number(row[3])]);
}

/** A state as the panel uses it, whatever came over the wire; null if it is none. */
export function readStatus(value) {
  if (typeof value !== "object" || value === null || typeof value.state !== "string") return null;
  const pairs = list(value.pictures, MOST.pictures);
  const numbers = ["done", "of", "step", "total"].map((key) => [key, number(value[key]) ?? 0]);
  return {
    ...Object.fromEntries(numbers),
    node: text(value.node),
    asked: text(value.asked),
    run: text(value.run).length <= MOST.name ? text(value.run) || null : null,
    state: text(value.state),
    phase: text(value.phase),
    speed: number(value.speed),
    left: number(value.left),
    instanceLoss: number(value.instance_loss),
    classLoss: number(value.class_loss),
    rate: number(value.learning_rate),
    memory: { used: number(value.memory?.used), total: number(value.memory?.total) },
    wishes: list(value.wishes, 10).map(text),
    notes: list(value.notes, MOST.notes).map(text),
    prompts: list(value.prompts, 1000).map(text),
    pictures: pairs.filter((pair) => Array.isArray(pair) && pair.every(Number.isInteger)),
    saved: list(value.saved, 100).filter(Array.isArray).map((entry) => [entry[0], text(entry[1])]),
    points: readPoints(value.points),
  };
}

function readPhotos(value) {
  if (typeof value !== "object" || value === null) return null;
  const pair = (entry) => Array.isArray(entry) && entry.length === 2;
  const photos = list(value.photos, MOST.photos).map((photo) => ({
    name: text(photo.name),
    width: number(photo.width) ?? 0,
    height: number(photo.height) ?? 0,
    crop: list(photo.crop, 4).map((part_) => number(part_) ?? 0),
    caption: text(photo.caption),
    marks: list(photo.marks, 20).filter(pair).map((mark) => mark.map(text)),
  }));
  const skipped = list(value.skipped, MOST.photos).filter(pair).map((entry) => entry.map(text));
  const remarks = list(value.remarks, MOST.photos).map(text);
  const captions = text(value.captions);
  return { total: number(value.total) ?? 0, photos, skipped, remarks, captions };
}

/** Calls back with every state that is sent; returns how to stop it. */
export function listen(callback) {
  const onMessage = (event) => {
    const status = readStatus(event.detail);
    if (status) callback(status);
  };
  api.addEventListener(MESSAGE, onMessage);
  return () => api.removeEventListener(MESSAGE, onMessage);
}

/** Calls back when the event socket is there again: what it told meanwhile is lost. */
export function onReconnected(callback) {
  api.addEventListener("reconnected", callback);
  return () => api.removeEventListener("reconnected", callback);
}

/** An error in the host's corner. */
export function complain(summary, error) {
  const detail = error instanceof Error ? error.message : String(error);
  app.extensionManager?.toast?.add({ severity: "error", summary, detail, life: 8000 });
}

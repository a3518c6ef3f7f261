"use strict";

const STREAM = "/stream.mjpg?fps=10";
const EVENTS = "/api/v1/events?frames=1&fps=4";
const EVENTS_SHOWN = 12;
// no figures for so long: the program hangs, or the network does
const SILENCE_MS = 5000;
const RETRY_MS = 3000;

const byId = (id) => document.getElementById(id);
const picture = byId("picture");
// what stays while the picture is paused
const still = byId("still");
let source = null;
let paused = false;
let cameraUp = true;
let silence = 0;
let retry = 0;

function condition(kind, text) {
  const shown = byId("condition");
  // the same text again would be read out again
  if (shown.textContent !== text) shown.textContent = text;
  shown.dataset.kind = kind;
}

function figure(id, value, digits, unit, none) {
  const shown = byId(id);
  const known = value !== null && value !== undefined;
  shown.classList.toggle("none", !known);
  if (!known) {
    shown.textContent = none;
    return;
  }
  const small = document.createElement("small");
  small.textContent = unit && `\u00a0${unit}`;
  const text = value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  shown.replaceChildren(text, small);
}

function showStats(stats) {
  figure("fps", stats.fps, 1, "", "no frames");
  figure("p50", stats.latency_ms.p50, 0, "ms", "no frames");
  figure("p95", stats.latency_ms.p95, 0, "ms", "no frames");
  const energy = stats.energy;
  figure("watts", energy && energy.avg_w, 1, "W", "no meter");
  figure("joules", energy && energy.j, 2, "J", energy ? "no frames" : "no meter");
  figure("heat", stats.temperature_c, 0, "°C", "no sensor");
  figure("frames", stats.frames, 0, "", "–");
  const drops = stats.drops;
  figure("lost", drops.driver + drops.replaced + drops.damaged, 0, "", "–");
  if (!cameraUp) condition("bad", "camera lost");
  else if (stats.fps === null) condition("wait", "waiting for frames");
  else condition("good", "live");
  clearTimeout(silence);
  silence = setTimeout(() => condition("bad", "no figures"), SILENCE_MS);
}

function showObjects(counts) {
  const rows = Object.entries(counts).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  byId("no-objects").hidden = rows.length > 0;
  byId("objects").replaceChildren(...rows.map(([label, count]) => {
    const row = document.createElement("li");
    const number = document.createElement("b");
    number.textContent = count;
    row.append(label, number);
    return row;
  }));
}

function showFrame(frame) {
  byId("frame").style.aspectRatio = `${frame.width} / ${frame.height}`;
  const counts = {};
  for (const { label } of frame.detections) counts[label] = (counts[label] || 0) + 1;
  showObjects(counts);
}

function showEvent(event) {
  if (event.event === "camera_lost") cameraUp = false;
  if (event.event === "camera_found") cameraUp = true;
  const row = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = event.ts;
  time.textContent = new Date(event.ts).toLocaleTimeString();
  const name = document.createElement("b");
  name.textContent = event.event.replaceAll("_", " ");
  row.append(time, name);
  if (event.message) {
    const message = document.createElement("span");
    message.textContent = event.message;
    row.append(message);
  }
  const list = byId("events");
  list.prepend(row);
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
  byId("no-events").hidden = true;
}

async function showState() {
  const answer = await fetch("/api/v1/state");
  if (!answer.ok) return;
  const state = await answer.json();
  cameraUp = state.camera_up;
  const { run } = state;
  byId("camera").textContent = run.camera;
  document.title = `${run.camera} – vovcam`;
  const board = run.board ? ` · ${run.board.model}` : "";
  byId("about").textContent = `vovcam ${run.version} · ${run.model.name} · ${run.engine}${board}`;
  byId("events").replaceChildren();
  byId("no-events").hidden = false;
  state.events.forEach(showEvent);
  cameraUp = state.camera_up;
  if (state.frame) showFrame(state.frame);
  showStats(state.stats);
}

function startPicture() {
  clearTimeout(retry);
  // a stream that has ended is asked for again under another address
  picture.src = `${STREAM}&t=${Date.now()}`;
  picture.hidden = false;
}

function stopPicture() {
  clearTimeout(retry);
  picture.removeAttribute("src");
}

function start() {
  if (!source) {
    source = new EventSource(EVENTS);
    source.addEventListener("open", () => showState().catch(() => {}));
    source.addEventListener("stats", (event) => showStats(JSON.parse(event.data)));
    source.addEventListener("frame", (event) => showFrame(JSON.parse(event.data)));
    source.addEventListener("event", (event) => showEvent(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      clearTimeout(silence);
      condition("bad", "no connection");
      // one that was refused is not tried again by itself
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(() => document.hidden || start(), RETRY_MS);
      }
    });
  }
  if (!paused) startPicture();
}

// nothing is sent to a page that nobody sees
function stop() {
  if (source) source.close();
  source = null;
  clearTimeout(silence);
  stopPicture();
}

picture.addEventListener("load", () => { byId("cover").hidden = true; });
picture.addEventListener("error", () => {
  if (!picture.hasAttribute("src")) return;
  const cover = byId("cover");
  cover.textContent = "no picture, trying again";
  cover.hidden = false;
  picture.hidden = true;
  retry = setTimeout(startPicture, RETRY_MS);
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  const button = byId("pause");
  button.setAttribute("aria-pressed", String(paused));
  const cover = byId("cover");
  if (paused) {
    still.width = picture.naturalWidth;
    still.height = picture.naturalHeight;
    if (still.width > 0) still.getContext("2d").drawImage(picture, 0, 0);
    still.hidden = still.width === 0;
    picture.hidden = true;
    stopPicture();
    cover.textContent = "paused";
    cover.hidden = false;
  } else {
    cover.hidden = true;
    still.hidden = true;
    startPicture();
  }
});
byId("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("frame").requestFullscreen().catch(() => {});
});
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
if (document.hidden) showState().catch(() => {});
else start();

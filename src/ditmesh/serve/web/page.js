// The page: a form, a queue that moves, and the pictures.

import { drop, events, get, onKeyNeeded, post, postForm } from "/page/api.js";
import { bytes, deedsOf, describe, facts, film, pictureCards, queueRow, replicaItem, spent } from "/page/cards.js";

const at = (id) => document.getElementById(id);
const form = at("ask");
const rows = new Map(); // of the queue, by job
const cards = new Map(); // of pictures, by job
const jobs = new Map(); // that ended
const NUMBERS = ["width", "height", "num_inference_steps", "n", "num_frames", "seed", "guidance_scale", "true_cfg_scale"];
const DONE = ["completed", "failed", "cancelled"];
const PREVIEWS = 3;
let server = null;

onKeyNeeded((again) => new Promise((resolve) => {
  at("key-problem").textContent = again ? "That key is wrong." : "";
  at("door").oncancel = (event) => event.preventDefault();
  at("key-form").onsubmit = () => resolve(at("key").value);
  if (!at("door").open) at("door").showModal();
}));

function complain(error) { at("problem").textContent = error ? error.message ?? String(error) : ""; }

async function attempt(deed) {
  try { complain(); return await deed(); } catch (error) { complain(error); return null; }
}

// ---- jobs

function place(job, first = true) {
  if (!DONE.includes(job.status)) {
    const known = rows.get(job.id);
    if (known) known.update(job);
    else { rows.set(job.id, queueRow(job, deeds)); at("queue").append(rows.get(job.id)); }
  } else {
    const row = rows.get(job.id);
    const hadFocus = row?.contains(document.activeElement);
    row?.remove();
    rows.delete(job.id);
    if (hadFocus) at("prompt").focus();
    if (!cards.has(job.id) && !(job.status === "cancelled" && !job.error)) {
      jobs.set(job.id, job);
      cards.set(job.id, pictureCards(job, deeds));
      at("pictures")[first ? "prepend" : "append"](...cards.get(job.id));
    }
  }
  tidy();
}

function tidy() {
  at("queue-section").hidden = rows.size === 0;
  at("count").textContent = rows.size || "";
  at("empty").hidden = cards.size > 0 || rows.size > 0;
}

function remove(id) {
  for (const card of cards.get(id) ?? []) card.remove();
  cards.delete(id);
  jobs.delete(id);
  tidy();
}

async function older() {
  const last = [...jobs.keys()].at(-1);
  const page = await get(`/v1/jobs?limit=24${last ? `&after=${encodeURIComponent(last)}` : ""}`);
  for (const job of page.data) place(job, false);
  at("older").hidden = !page.has_more;
}

const previews = () => (server.video ? 0 : PREVIEWS);

const ask = (fields) => attempt(async () => place(await post("/v1/jobs", { ...fields, partial_images: previews() })));

const redo = (job, changed) => attempt(async () => {
  at("large").close();
  place(await post(`/v1/jobs/${job.id}/again`, { ...changed, partial_images: previews() }));
});

const deeds = {
  change: (id, deed) => attempt(async () => place(await post(`/v1/jobs/${id}/${deed}`))),
  again: (job, result) => redo(job, result ? { seed: result.seed, n: 1 } : {}),
  vary: (job) => redo(job, { seed: null, n: 1 }),
  forget: (job) => attempt(async () => { await drop(`/v1/jobs/${job.id}`); remove(job.id); at("large").close(); }),
  use: (job, result) => {
    for (const name of [...NUMBERS, "negative_prompt", "output_format", "prompt"]) {
      if (form.elements[name] && (job.asked[name] !== undefined || name === "prompt")) form.elements[name].value = job.asked[name];
    }
    form.elements.seed.value = result?.seed ?? "";
    at("large").close();
    at("prompt").focus();
    form.scrollIntoView({ block: "nearest" });
  },
  enlarge: (job, result) => {
    at("large-picture").replaceChildren(film(result, job.asked.prompt));
    at("large-prompt").textContent = job.asked.prompt;
    const { prompt, seed, n, partial_images, size, width, height, num_inference_steps, ...asked } = job.asked;
    facts(at("large-facts"), [["size", `${result.width} × ${result.height}`], ["seed", result.seed], ["steps", job.steps],
      ...Object.entries(asked).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : value]),
      ["model", server.model], ["layout", server.layout], ["took", spent(job)], ["asked by", job.origin]]);
    at("large-deeds").replaceChildren(...deedsOf(job, result, deeds));
    if (!at("large").open) at("large").showModal();
  },
};

at("large").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const frames = [...document.querySelectorAll("button.frame")];
  const source = at("large-picture").querySelector("img")?.src;
  const next = frames[frames.findIndex((frame) => frame.querySelector("img").src === source) + step];
  next?.click();
});

// ---- the form

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = { prompt: form.elements.prompt.value };
  for (const name of [...NUMBERS, "negative_prompt", "lora", "output_format"]) {
    const input = form.elements[name];
    if (input.closest("[hidden]") || input.disabled || input.value === "") continue;
    fields[name] = NUMBERS.includes(name) ? Number(input.value) : input.value;
  }
  if (typeof fields.seed === "number" && fields.seed > Number.MAX_SAFE_INTEGER) return complain("seed: a browser counts to 2^53.");
  const files = ["image", "mask"].map((name) => [name, form.elements[name].files[0]]).filter(([, file]) => file);
  if (!files.length) return ask(fields);
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  for (const [name, file] of files) body.append(name, file);
  body.append("partial_images", previews());
  await attempt(async () => place(await postForm("/v1/jobs", body)));
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

function fit(about) {
  server = about;
  document.title = `${about.model} · ditmesh`;
  at("model").textContent = about.model;
  const defaults = about.defaults;
  at("prompt").placeholder = defaults.prompt ?? "";
  for (const name of NUMBERS) {
    const input = form.elements[name];
    if (defaults[name] !== undefined) input.placeholder = defaults[name];
    if (!["n", "seed", "num_frames"].includes(name) && !about.takes.includes(name)) input.closest("label").hidden = true;
  }
  if (!about.takes.includes("negative_prompt")) form.elements.negative_prompt.closest("label").hidden = true;
  at("inputs").hidden = !about.images;
  form.elements.image.required = Boolean(about.images?.needed);
  at("mask").hidden = !about.images?.mask;
  at("length").hidden = !about.video;
  at("many").hidden = at("format").hidden = Boolean(about.video);
  if (about.video) form.elements.num_frames.placeholder = about.video.frames;
  at("loras").hidden = !about.loras.length;
  form.elements.lora.append(...about.loras.map((name) => new Option(name, name)));
  facts(at("facts"), [["pipeline", about.pipeline], ["transformer", about.transformers.join(", ")], ["layout", about.layout],
    ["size", defaults.width ? `${defaults.width} × ${defaults.height}` : "the picture's"], ["steps", defaults.num_inference_steps],
    ["guidance", defaults.true_cfg_scale ?? defaults.guidance_scale]]);
}

function showReplicas(now) {
  at("replicas").replaceChildren(...now.replicas.map(replicaItem));
  const alive = now.replicas.filter((replica) => ["idle", "drawing"].includes(replica.state)).length;
  const waiting = now.queued ? ` · ${now.queued} waiting` : "";
  at("state").dataset.state = alive ? "ready" : "loading";
  at("state").textContent = alive ? `${now.running ? `drawing ${now.running}` : "ready"}${waiting}` : `loading${waiting}`;
}

// ---- following

async function follow() {
  for (;;) {
    try {
      if (!server) fit(await get("/v1/server"));
      const page = await get("/v1/jobs?limit=24");
      for (const id of [...rows.keys()]) { rows.get(id).remove(); rows.delete(id); }
      for (const job of page.data.toReversed()) place(job);
      at("older").hidden = !page.has_more;
      tidy();
      for await (const { name, data } of events("/v1/jobs/events")) name === "job" ? place(data) : showReplicas(data);
    } catch (error) {
      console.info(error);
    }
    at("state").dataset.state = "away";
    at("state").textContent = "the server is away";
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
}

at("older").onclick = () => attempt(older);
follow();

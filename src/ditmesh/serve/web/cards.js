// How jobs, pictures and replicas look. Whatever a client wrote becomes text, never markup.

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const button = (text, deed, label = text) => {
  const made = make("button", { type: "button", textContent: text, onclick: deed });
  made.setAttribute("aria-label", label);
  return made;
};

export const bytes = (count) => (count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${Math.round(count / 2 ** 20)} MiB`);

const seconds = (count) => (count < 10 ? `${count.toFixed(1)} s` : count < 100 ? `${Math.round(count)} s` : `${Math.round(count / 60)} min`);

export function spent(job) {
  return job.completed_at ? seconds(Math.max(0, job.completed_at - job.created_at)) : "";
}

export function describe(job, result) {
  return [`${result.width} × ${result.height}`, `${job.steps} steps`, `seed ${result.seed}`, spent(job)].filter(Boolean)
    .map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

/** A row of the queue, and a function that brings it up to date. */
export function queueRow(job, deeds) {
  const preview = make("img", { className: "preview", alt: "" });
  const text = make("p", { className: "prompt" });
  const bar = make("progress", { max: 100 });
  const told = make("span");
  const pause = button("Pause", () => deeds.change(job.id, pause.textContent.toLowerCase()));
  const cancel = button("Cancel", () => deeds.change(job.id, "cancel"));
  const line = make("div", { className: "line" }, told, make("span", { className: "deeds" }, pause, cancel));
  const row = make("li", {}, preview, make("div", {}, text, bar, line));
  row.update = (now) => {
    text.textContent = now.asked.prompt;
    bar.value = now.progress;
    bar.setAttribute("aria-label", `Progress of ${now.asked.prompt.slice(0, 60)}`);
    const drawing = now.parts.find((part) => part.replica !== null && part.step < part.steps) ?? now.parts.find((part) => part.preview);
    const shown = now.parts.find((part) => part.preview);
    if (shown && preview.src !== shown.preview) preview.src = shown.preview;
    preview.style.visibility = preview.src ? "visible" : "";
    const of = now.parts.length > 1 ? `${now.parts.length} pictures · ` : "";
    told.textContent = of + (now.status === "in_progress" && drawing?.steps
      ? `step ${drawing.step} of ${drawing.steps} · replica ${drawing.replica ?? "–"}` : now.status.replace("_", " "));
    pause.textContent = now.status === "paused" ? "Resume" : "Pause";
    pause.setAttribute("aria-label", pause.textContent);
  };
  row.update(job);
  return row;
}

export function film(result, alt) {
  return result.media_type.startsWith("video/")
    ? make("video", { src: result.url, controls: true, loop: true, muted: true, playsInline: true })
    : make("img", { src: result.url, alt, loading: "lazy", width: result.width, height: result.height });
}

const DEEDS = [["Again", "again"], ["Variation", "vary"], ["Use settings", "use"], ["Forget", "forget"]];

/** What can be done with a picture; a card has room for the first of them. */
export function deedsOf(job, result, deeds, count = DEEDS.length) {
  const made = DEEDS.slice(0, count).map(([text, name]) => button(text, () => deeds[name](job, result)));
  const kind = result.media_type.split("/")[1];
  const save = make("a", { href: result.url, download: `${job.id}-${result.seed}.${kind}`, textContent: "Save" });
  return [...made.slice(0, 2), save, ...made.slice(2)];
}

/** The cards of a job that ended: one for each picture, or one that says why there is none. */
export function pictureCards(job, deeds) {
  const prompt = () => make("p", { className: "prompt", textContent: job.asked.prompt });
  if (!job.results.length) {
    const why = make("div", { className: "frame", textContent: job.error ?? job.status });
    const again = make("div", { className: "deeds" }, button("Again", () => deeds.again(job)), button("Use settings", () => deeds.use(job)), button("Forget", () => deeds.forget(job)));
    return [make("li", { className: "picture failed" }, why, prompt(), make("p", { className: "made", textContent: job.status }), again)];
  }
  return job.results.map((result) => {
    const isVideo = result.media_type.startsWith("video/");
    const frame = make(isVideo ? "div" : "button", { className: "frame" }, film(result, job.asked.prompt));
    if (!isVideo) {
      frame.type = "button";
      frame.setAttribute("aria-label", `Enlarge: ${job.asked.prompt.slice(0, 80)}`);
      frame.onclick = () => deeds.enlarge(job, result, frame);
    }
    const made = make("p", { className: "made", textContent: describe(job, result) });
    return make("li", { className: "picture" }, frame, prompt(), made, make("div", { className: "deeds" }, ...deedsOf(job, result, deeds, 2)));
  });
}

export function facts(list, entries) {
  list.replaceChildren(...entries.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: String(value) })]));
}

export function replicaItem(replica) {
  const state = make("p", { className: "replica-state" }, make("b", { textContent: `Replica ${replica.number}` }), replica.state,
    make("span", { textContent: replica.restarts ? `${replica.restarts} restart${replica.restarts > 1 ? "s" : ""}` : "" }));
  state.dataset.state = replica.state;
  const head = make("tr", {}, ...["rank", "device", "memory"].map((name) => make("th", { textContent: name, scope: "col" })));
  const rows = replica.ranks.map((rank) => make("tr", { title: `process ${rank.pid} on ${rank.host}` },
    ...[rank.rank, rank.device, bytes(rank.memory)].map((value) => make("td", { textContent: String(value) }))));
  const why = replica.why ? make("p", { className: "problem", textContent: replica.why }) : null;
  return make("li", {}, state, why, rows.length ? make("table", { className: "ranks" }, make("thead", {}, head), make("tbody", {}, ...rows)) : null);
}

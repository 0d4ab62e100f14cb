// Talk to the server: with the key if it asks for one, and in words if it refuses.

const KEY = "ditmesh-key";
let askForKey = () => Promise.reject(new Error("a key is needed"));

export function onKeyNeeded(ask) { askForKey = ask; }

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

async function send(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (answer.status === 401) {
    sessionStorage.setItem(KEY, await askForKey(sessionStorage.getItem(KEY) !== null));
    return send(path, options);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message ?? `the server answers ${answer.status}`);
  }
  return answer;
}

export async function get(path) { return (await send(path)).json(); }

export async function post(path, fields = {}) {
  const body = JSON.stringify(fields);
  return (await send(path, { method: "POST", body, headers: { "content-type": "application/json" } })).json();
}

export async function postForm(path, form) { return (await send(path, { method: "POST", body: form })).json(); }

export async function drop(path) { return (await send(path, { method: "DELETE" })).json(); }

/** Server-sent events over fetch, which can send a key; ends when the server does. */
export async function* events(path) {
  const reader = (await send(path)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const lines = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const of = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
      if (of("data")) yield { name: of("event"), data: JSON.parse(of("data")) };
    }
  }
}

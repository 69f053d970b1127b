// What the pages are made of: elements, words for numbers, and speaking with the server.

const SVG = "http://www.w3.org/2000/svg";

// --- making elements

export function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = ["svg", "rect", "title"].includes(tag)
    ? document.createElementNS(SVG, tag)
    : document.createElement(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return element;
}

export function table(head, rows, empty) {
  if (!rows.length) return h("div.card.empty", {}, empty);
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, n) => {
      const wide = cell instanceof Element && cell.hasAttribute("data-wide");
      return h(wide ? "td.wide" : "td", { "data-head": head[n] }, cell ?? "");
    })));
  return h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, body));
}

export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", {}, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export const state = (word) => h(`span.state.${word}`, {}, word);
export const mono = (text) => h("span.mono", {}, text);
export const link = (to, text) => h("a", { href: `#/${to.map(encodeURIComponent).join("/")}` }, text);

// --- words for numbers

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = 0;
  while (count >= 1024 && n < units.length - 1) { count /= 1024; n += 1; }
  return n ? `${count.toFixed(1)} ${units[n]}` : `${count} B`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const pad = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes}:${pad(s % 60)} min`;
  return `${Math.floor(minutes / 60)}:${pad(minutes % 60)} h`;
}

export function ago(at) {
  if (!at) return null;
  const s = Math.max(0, (Date.now() - Date.parse(at)) / 1000);
  const text = s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min`
    : s < 86400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
  return h("time", { datetime: at, title: at }, `${text} ago`);
}

export function what(job) {
  const about = job.spec.template || job.spec.name;
  return about ? `${job.spec.kind} ${about}` : job.spec.kind;
}

// --- speaking with the server

const offline = document.getElementById("offline");

export async function api(path, options) {
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, options);
  } catch (error) {
    offline.hidden = false;
    throw error;
  }
  offline.hidden = true;
  if (answer.status === 401) { location.assign("/login"); throw new Error("logged out"); }
  if (!answer.ok) {
    const problem = await answer.json();
    throw new Error(problem.hint ? `${problem.detail} (${problem.hint})` : problem.detail);
  }
  return answer.status === 204 ? null : answer.json();
}

export function listen(path, handlers) {
  const source = new EventSource(`/api/v1/${path}`);
  for (const [name, handler] of Object.entries(handlers)) {
    source.addEventListener(name, (message) => handler(JSON.parse(message.data), message));
  }
  source.addEventListener("open", () => { offline.hidden = true; });
  source.addEventListener("error", () => { offline.hidden = false; });
  return () => source.close();
}

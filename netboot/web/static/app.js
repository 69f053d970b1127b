// The dashboard. Everything that comes from a machine is put in as text, never as markup.

import {
  ago, api, bytes, duration, facts, h, link, listen, mono, state, table, what,
} from "/static/parts.js";

const page = document.getElementById("page");
let leave = []; // what to stop when the page is left
let turn = 0; // counts page changes, so that a late answer is dropped

function fill(parts) {
  page.replaceChildren(...parts.filter((part) => part !== null));
}

// --- lists

function progressCell(job) {
  const parts = [];
  if (job.state === "running" && job.progress && job.progress.total_bytes > 0) {
    parts.push(h("progress", { max: job.progress.total_bytes, value: job.progress.done_bytes }));
  }
  if (job.state === "running") parts.push(h("span.quiet", {}, progressText(job)));
  else if (job.failure) parts.push(h("span", {}, job.failure.summary));
  if (!parts.length) return null;
  return h("div", { "data-wide": true }, parts);
}

function progressText(job) {
  const p = job.progress;
  if (!p) return job.step || "just begun";
  const parts = [];
  if (p.total_bytes) parts.push(`${Math.floor((100 * p.done_bytes) / p.total_bytes)} %`);
  if (p.rate) parts.push(`${bytes(p.rate)}/s`);
  if (p.seconds_left !== null && p.seconds_left !== undefined) parts.push(`${duration(p.seconds_left)} left`);
  return [job.step, parts.join(" · ")].filter(Boolean).join(" · ");
}

function silence(job) {
  const s = job.heard_at ? (Date.now() - Date.parse(job.heard_at)) / 1000 : 0;
  return job.state === "running" && s > 30 ? h("div.quiet", {}, `no word for ${duration(s)}`) : null;
}

function jobTable(jobs) {
  const rows = jobs.map((job) => [
    link(["jobs", job.id], mono(job.id)),
    link(["machines", job.machine], mono(job.machine)),
    what(job),
    h("div", {}, state(job.state), silence(job)),
    progressCell(job),
    ago(job.created_at),
  ]);
  return table(["Job", "Machine", "What", "State", "Progress", "Made"], rows,
    "No jobs yet. Make one: metalcast job create capture --machine MAC --name NAME");
}

function machineTable(machines, jobs) {
  const byId = new Map(jobs.map((job) => [job.id, job]));
  const rows = machines.map((machine) => {
    const job = byId.get(machine.job);
    return [
      link(["machines", machine.id], mono(machine.id)),
      machine.name,
      machine.firmware,
      machine.trouble ? h("div", {}, h("span.state.failed", {}, "its agent cannot work"))
        : job ? h("div", {}, state(job.state), " ", link(["jobs", job.id], what(job))) : h("span.quiet", {}, "waits for a job"),
      ago(machine.last_seen_at),
    ];
  });
  return table(["Machine", "Name", "Firmware", "Last job", "Seen"], rows,
    "No machine has booted from the network yet.");
}

function live(load, draw) {
  const mine = turn;
  let busy = false;
  let again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const found = await load();
      if (mine === turn) fill(draw(found));
    } catch (error) {
      if (mine === turn && !page.children.length) page.replaceChildren(h("div.card", {}, String(error.message)));
    }
    busy = false;
    if (again && mine === turn) { again = false; refresh(); }
  };
  leave.push(listen("changes", { change: refresh }));
  const timer = setInterval(refresh, 3000);
  leave.push(() => clearInterval(timer));
  return refresh();
}

const overview = () => live(
  () => Promise.all([api("machines"), api("jobs")]),
  ([machines, jobs]) => {
    const running = jobs.filter((job) => job.state === "running" || job.state === "queued");
    const shown = running.length ? running : jobs.slice(0, 5);
    return [
      h("h1", {}, running.length ? "Jobs under way" : "Newest jobs"), jobTable(shown),
      h("h2", {}, "Machines"), machineTable(machines, jobs),
    ];
  });

const machinesPage = () => live(
  () => Promise.all([api("machines"), api("jobs")]),
  ([machines, jobs]) => [h("h1", {}, "Machines"), machineTable(machines, jobs)]);

const jobsPage = () => live(() => api("jobs"), (jobs) => [h("h1", {}, "Jobs"), jobTable(jobs)]);

// --- one machine

function trusts(keys, kind) {
  if (!keys) return null;
  if (keys[kind].length) return `must be signed by ${keys[kind].join(" or ")}`;
  return h("span.state.failed", {}, "unsigned ones are taken: its image has no keys for them");
}

async function machinePage(id) {
  const part = encodeURIComponent(id);
  const machine = await api(`machines/${part}`);
  const jobs = (await api(`jobs?machine=${part}`));
  const inventory = machine.inventory_at ? await api(`machines/${part}/inventory`) : null;
  const board = inventory ? inventory.board : {};
  const parts = [
    h("h1", {}, mono(machine.id), " ", machine.name ? h("small", {}, machine.name) : null),
    h("div.card", {}, facts([
      ["Board", [board.vendor, board.product].filter(Boolean).join(" ")],
      ["Serial", board.serial],
      ["UUID", machine.uuid],
      ["Firmware", inventory ? `${machine.firmware}, Secure Boot ${inventory.secure_boot}` : machine.firmware],
      ["CPU", inventory ? `${inventory.cpus} × ${inventory.cpu_model}` : null],
      ["Memory", inventory ? bytes(inventory.memory_bytes) : null],
      ["First seen", ago(machine.first_seen_at)],
      ["Last seen", ago(machine.last_seen_at)],
      ["Cannot work", machine.trouble],
      ["Templates", trusts(machine.keys, "templates")],
      ["Jobs", trusts(machine.keys, "server")],
    ])),
    h("h2", {}, "Jobs"), jobTable(jobs),
  ];
  if (inventory) {
    const disks = inventory.disks.map((disk) => [
      mono(disk.path), bytes(disk.size_bytes), disk.transport, disk.model, mono(disk.serial || disk.wwn || ""),
      [...new Set(disk.contents.map((found) => found.what))].join(", "),
    ]);
    const nics = inventory.nics.map((nic) => [
      mono(nic.name), mono(nic.mac), nic.driver, nic.link ? "up" : "down", nic.addresses.join(" "),
    ]);
    parts.push(
      h("h2", {}, "Disks"), table(["Disk", "Size", "Bus", "Model", "Serial", "Holds"], disks, "No disks."),
      h("h2", {}, "Network"), table(["NIC", "MAC", "Driver", "Link", "Addresses"], nics, "No interfaces."));
  } else {
    parts.push(h("p.quiet", {}, "It has not told yet what it is: boot it from the network once."));
  }
  return parts;
}

// --- one job

function jobPage(id) {
  const path = `jobs/${encodeURIComponent(id)}`;
  const seen = { steps: [], plan: null, log: [], result: null };
  let job = null;
  const mine = turn;
  const draw = () => {
    if (job && mine === turn) fill(jobParts(job, seen, path));
    const log = page.querySelector(".log");
    if (log) log.scrollTop = log.scrollHeight;
  };
  const close = listen(`${path}/events/stream`, {
    event: (event) => {
      const it = event.happening;
      if (it.kind === "step") seen.steps.push(it);
      if (it.kind === "plan") seen.plan = it.text;
      if (it.kind === "log") seen.log.push({ at: event.at, ...it });
      if (it.kind === "succeeded") seen.result = it.result;
      if (job) draw();
    },
    job: (found) => {
      job = found;
      if (["succeeded", "failed", "cancelled"].includes(job.state)) close();
      draw();
    },
  });
  leave.push(close);
  const timer = setInterval(draw, 10000);
  leave.push(() => clearInterval(timer));
  return api(path).then((found) => { job = job || found; draw(); });
}

function jobParts(job, seen, path) {
  const parts = [];
  const active = job.state === "running" || job.state === "queued";
  const cancel = h("button.danger", {
    type: "button",
    onclick: async () => {
      if (!confirm(`Cancel ${job.id}? A disk may be left partly written.`)) return;
      try { await api(`${path}/cancel`, { method: "POST" }); } catch (error) { alert(error.message); }
    },
  }, "Cancel this job");
  parts.push(h("div.row", {}, h("h1", {}, what(job), " ", h("small", {}, job.id)), active ? cancel : null));
  if (job.failure) parts.push(failureCard(job.failure));
  const summary = [facts([
    ["State", h("span", {}, state(job.state), silence(job))],
    ["Machine", link(["machines", job.machine], mono(job.machine))],
    ["Template", job.template_digest ? mono(job.template_digest) : null],
    ["Made", ago(job.created_at)],
    ["Took", job.started_at && job.ended_at ? duration((Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000) : null],
    ["Claims", job.fence > 1 ? `${job.fence}: earlier agents fell silent` : null],
    ...Object.entries(seen.result || {}).filter(([key]) => key !== "digest")
      .map(([key, value]) => [key.replace(/_bytes$/, "").replaceAll("_", " "), amount(key, value)]),
  ])];
  if (job.state === "running") {
    const p = job.progress;
    if (p && p.total_bytes > 0) {
      summary.push(h("div", {}, h("progress", { max: p.total_bytes, value: p.done_bytes }),
        h("span.quiet", {}, `${p.what}: ${bytes(p.done_bytes)} of ${bytes(p.total_bytes)}`,
          p.rate ? ` · ${bytes(p.rate)}/s` : "",
          p.seconds_left !== null && p.seconds_left !== undefined ? ` · ${duration(p.seconds_left)} left` : "",
          p.bottleneck ? ` · waits for ${p.bottleneck} (${stages(p.stage_seconds)})` : "")));
    }
  }
  parts.push(h(job.state === "succeeded" ? "div.card.success.stack" : "div.card.stack", {}, summary));
  if (job.state === "queued") parts.push(h("p.quiet", {}, "It waits for its machine to boot from the network."));
  if (seen.steps.length) parts.push(h("h2", {}, "Steps"), h("div.card", {}, steps(job, seen.steps)));
  if (seen.plan) parts.push(h("h2", {}, "Plan"), h("div.card", {}, h("pre", {}, seen.plan)));
  if (seen.log.length) parts.push(h("h2", {}, "Log"), h("div.card.log.mono", {}, seen.log.map((line) =>
    h("p", {}, h("time", {}, line.at.slice(11, 19)), h(`span.${line.level}`, {}, line.message)))));
  return parts;
}

function amount(key, value) {
  if (key === "stage_seconds") return stages(value);
  if (key.endsWith("_bytes")) return bytes(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function stages(seconds) {
  return Object.entries(seconds || {}).sort(([, one], [, other]) => other - one)
    .map(([stage, took]) => `${stage.replaceAll("_", " ")} ${took.toFixed(1)} s`).join(", ");
}

function steps(job, found) {
  const last = found[found.length - 1];
  const begin = found.map((step) => step.index).lastIndexOf(1);
  const items = found.slice(Math.max(0, begin)).map((step) => {
    const isLast = step === last;
    const kind = !isLast || job.state === "succeeded" ? "li" : job.state === "running" ? "li.now" : "li.stopped";
    return h(kind, {}, step.summary);
  });
  const rest = last.count - last.index;
  const more = rest > 0 && job.state === "running" ? h("p.quiet", {}, `and ${rest} more`) : null;
  return h("div", {}, h("ol.steps", {}, items), more);
}

function failureCard(failure) {
  return h("div.card.failure", { role: "alert" },
    h("h2", {}, failure.summary),
    facts([
      ...failure.because.map((reason) => ["because", reason]),
      ["disk", failure.disk],
      ["next", failure.hint ? h("strong", {}, failure.hint) : null],
      ["status", String(failure.status)],
    ]));
}

// --- templates

const KINDS = ["ext", "vfat", "swap", "boot-code", "raw", "xfs"];

function layoutDrawing(layout) {
  return layout.nodes.filter((node) => node.kind === "disk" || node.table).map((disk) => {
    const parts = layout.nodes.filter((node) => node.kind === "partition" && node.on === disk.id)
      .sort((a, b) => a.offset_bytes - b.offset_bytes);
    const rects = [];
    const legend = [];
    const widths = parts.map((part) => Math.max(12, (part.size_bytes / disk.size_bytes) * 1000));
    const scale = 1000 / Math.max(1000, widths.reduce((a, b) => a + b, 0));
    let x = 0;
    parts.forEach((part, n) => {
      const volume = layout.volumes.find((one) => one.on === part.id);
      const kind = volume ? KINDS.indexOf(volume.content.kind) : 4;
      const width = widths[n] * scale;
      const used = volume && volume.size_bytes ? volume.used_bytes / volume.size_bytes : 0;
      const label = [part.name || part.id, volume ? volume.content.kind : "empty", bytes(part.size_bytes)].join(" · ");
      rects.push(h(`rect.free.k${kind}`, { x, y: 0, width, height: 40 }, h("title", {}, label)));
      rects.push(h(`rect.k${kind}`, { x, y: 40 * (1 - used), width, height: 40 * used }, h("title", {}, label)));
      x += width;
      const swatch = h("svg", { viewBox: "0 0 10 10" }, h(`rect.k${kind}`, { width: 10, height: 10, rx: 2 }));
      legend.push(h("li", {}, swatch, [volume && volume.mount, volume && volume.content.kind, bytes(part.size_bytes)].filter(Boolean).join(" ")));
    });
    return [
      h("svg.layout", { viewBox: "0 0 1000 40", preserveAspectRatio: "none", role: "img", "aria-label": `the partitions of ${disk.id}` }, rects),
      h("ul.legend", {}, legend),
    ];
  });
}

function lost(summary) {
  return summary.lost_bytes
    ? h("div", {}, h("span.state.failed", {}, `damaged: ${bytes(summary.lost_bytes)} could not be read on the source`))
    : null;
}

async function templatesPage() {
  const found = await api("templates");
  if (!found.length) {
    return [h("h1", {}, "Templates"), h("div.card.empty", {}, "The store is empty. Capture a machine: metalcast job create capture --machine MAC --name NAME")];
  }
  const cards = await Promise.all(found.map(async (one) => {
    const shown = await api(`templates/${encodeURIComponent(`${one.name}@${one.digest}`)}`);
    return h("div.card", {},
      h("div.row", {}, h("h2", {}, link(["templates", `${one.name}:${one.tag}`], `${one.name}:${one.tag}`)), h("span.quiet", {}, ago(one.captured_at))),
      lost(one),
      h("div", {}, one.os || "unknown system", h("span.quiet", {}, ` · boots ${one.boots.join(" and ")}`)),
      layoutDrawing(shown.config.layout),
      h("div.quiet", {}, `${bytes(one.disk_bytes)} disk · ${bytes(one.used_bytes)} used · ${bytes(one.stored_bytes)} stored`));
  }));
  return [h("h1", {}, "Templates"), h("div.templates", {}, cards)];
}

async function templatePage(reference) {
  const { summary, config } = await api(`templates/${encodeURIComponent(reference)}`);
  const os = config.os || {};
  const volumes = config.layout.volumes.map((volume) => [
    mono(volume.id), mono(volume.on), volume.content.kind, volume.mount,
    bytes(volume.size_bytes), bytes(volume.used_bytes), bytes(volume.minimum_bytes),
  ]);
  return [
    h("h1", {}, reference),
    lost(summary),
    h("div.card.stack", {}, layoutDrawing(config.layout), facts([
      ["System", summary.os],
      ["Kernel", os.kernel],
      ["Boot loader", os.bootloader],
      ["Network", os.network_stack],
      ["Firmware", `${summary.firmware}; boots ${summary.boots.join(" and ")}`],
      ["Size", `${bytes(summary.disk_bytes)} disk, ${bytes(summary.used_bytes)} used, ${bytes(summary.stored_bytes)} stored`],
      ["Captured", h("span", {}, ago(summary.captured_at), ` by ${config.captured_by}`)],
      ["Digest", mono(summary.digest)],
      ["Compared with", config.parent ? mono(config.parent) : null],
    ])),
    config.holes.length ? h("h2", {}, "What was lost") : null,
    config.holes.length
      ? table(["Volume", "At", "Size"], config.holes.map((one) => [mono(one.volume), one.offset, bytes(one.size)]), "Nothing.")
      : null,
    h("h2", {}, "Volumes"),
    table(["Volume", "On", "Holds", "Mount", "Size", "Used", "Least"], volumes, "No volumes."),
    h("h2", {}, "Personal files left out"),
    table(["Volume", "Path", "Size"], config.redactions.map((one) => [one.volume, mono(one.path), bytes(one.bytes)]), "None."),
  ];
}

// --- which page

async function show() {
  leave.forEach((stop) => stop());
  leave = [];
  turn += 1;
  const mine = turn;
  const [kind, rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  for (const one of document.querySelectorAll("nav a")) {
    if (one.getAttribute("href") === `#/${kind}`) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  const pages = { machines: machinePage, jobs: jobPage, templates: templatePage };
  const lists = { machines: machinesPage, jobs: jobsPage, templates: templatesPage };
  page.replaceChildren();
  try {
    const made = await (rest ? pages[kind](rest) : (lists[kind] || overview)());
    if (Array.isArray(made) && mine === turn) fill(made);
  } catch (error) {
    if (mine === turn) page.replaceChildren(h("div.card.failure", {}, h("h2", {}, "That did not work"), error.message));
  }
}

addEventListener("hashchange", show);
show();

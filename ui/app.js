// The dashboard: asks the API every two seconds and draws what it says. Nothing is guessed; when the server is away it says so.
"use strict";

const EVERY_MS = 2000;
const at = (id) => document.getElementById(id);

/** An element with a class, children and text; text is never parsed as HTML. */
function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const cell = (content, className) => el("td", className, content);
const row = (...cells) => el("tr", "", ...cells);
const pill = (text, tone) => el("span", `pill ${tone}`, text);
const short = (commit) => (commit ? commit.slice(0, 10) : "–");

function fill(id, rows, columns, ifEmpty) {
  const none = el("td", "empty", ifEmpty);
  none.colSpan = columns;
  at(id).replaceChildren(...(rows.length ? rows : [row(none)]));
}

function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

const ago = (unix) => (unix ? `${span(Date.now() / 1000 - unix)} ago` : "–");
const bytes = (n) => (n < 10240 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(0)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);
const labels = (map) => Object.entries(map).map(([key, value]) => el("span", "label", `${key}=${value}`));

const STATES = {
  acknowledged: "good", pending: "wait", refused: "bad", lost: "",
  done: "good", rolling: "wait", degraded: "bad", superseded: "",
};

function certificate(expires) {
  if (!expires) return el("span", "dim", "not reported");
  const left = expires - Date.now() / 1000;
  return left <= 0 ? pill("expired", "bad") : el("span", "", `${span(left)} left`);
}

function drawStatus(status) {
  document.title = status.mesh ? `Weft · ${status.mesh}` : "Weft";
  at("mesh").textContent = status.mesh ? `${status.mesh} · ${status.trust_domain}` : "";
  at("version").textContent = `weft ${status.version}, up ${span(status.uptime_seconds)}`;

  const serving = status.serving;
  at("commit").textContent = serving ? short(serving.commit) : "none yet";
  at("subject").textContent = serving ? serving.subject : "";
  at("subject").title = serving ? serving.subject : "";
  at("converged").textContent = serving ? duration(serving.converged_ms) : "–";
  at("compiled").textContent = serving ? `${duration(serving.compile_ms)} to check and compile` : "";

  const p = status.proxies;
  at("proxies-count").textContent = `${p.acknowledged} / ${p.connected}`;
  at("proxies-detail").textContent =
    [`acknowledged`, p.pending && `${p.pending} pending`, p.refused && `${p.refused} refusing`, p.lost && `${p.lost} lost`]
      .filter(Boolean).join(", ");
  const endpoints = status.services.reduce((sum, service) => sum + service.endpoints.length, 0);
  at("services-count").textContent = String(status.services.length);
  at("services-detail").textContent = `${endpoints} endpoints`;

  fill("services", status.services.map((service) => {
    const list = service.endpoints.map((e) => el("span", "endpoint mono", e.address, ...labels(e.labels)));
    return row(cell(service.name), cell(service.protocol), cell(String(service.port), "num"),
      list.length ? el("td", "", ...list) : cell("none", "dim"));
  }), 4, "No commit has passed the check yet.");

  drawPlainText(status.services.filter((service) => service.plain_text));

  fill("changes", status.history.map((change) => row(
    cell(short(change.commit), "mono"),
    cell(pill(change.state, STATES[change.state])),
    cell(change.subject, "wide"),
    cell(change.state === "refused" ? "–" : `${change.acknowledged.length} / ${change.acknowledged.length + change.refused.length + change.pending.length}`, "num"),
    cell(duration(change.converged_ms), "num"),
    cell(ago(change.published_at), "dim"),
  )), 6, "No commit yet.");

  drawBanner(status);
  drawGlass(status.break_glass);
}

/** Who still calls permissive services in plain text. */
function drawPlainText(services) {
  at("plain-text").hidden = !services.length;
  fill("plain-text-callers", services.flatMap(({ name, plain_text: told }) => {
    const quiet = `nobody for ${span(told.quiet_seconds)}`;
    if (!told.callers.length) return [row(cell(name), cell("–"), cell(quiet, "dim"), cell("0", "num"), cell("0", "num"), cell("–"), cell("–"))];
    return told.callers.map((caller) => row(
      cell(name), cell(caller.address, "mono"), cell(ago(caller.last_seen), "dim"),
      cell(String(caller.allowed), "num"), cell(String(caller.denied), "num"),
      cell(caller.asked, "mono"), cell(caller.user_agent || "–", "wide"),
    ));
  }), 7, "");
}

function drawGlass(broken) {
  at("glass").hidden = !broken;
  if (!broken) return;
  at("glass-title").textContent =
    `Break-glass is on for ${span(broken.until - Date.now() / 1000)} more, by ${broken.operator}: ${broken.reason}`;
}

function drawBanner(status) {
  const banner = at("banner");
  const { refused, git_error: gitError } = status;
  banner.hidden = !refused && !gitError;
  if (gitError) {
    at("banner-title").textContent = `The repository cannot be read: ${gitError}`;
    at("findings").replaceChildren();
  } else if (refused) {
    at("banner-title").textContent =
      `Commit ${short(refused.commit)} “${refused.subject}” was refused; the mesh goes on with ${status.serving ? short(status.serving.commit) : "nothing"}`;
    at("findings").replaceChildren(...refused.findings.map((finding) => el("li", "",
      el("span", "mono", finding.place ? `${finding.place} ` : ""),
      `${finding.message} [${finding.code}] `,
      el("span", "hint", finding.hint))));
  }
}

function drawProxies(proxies) {
  fill("proxies", proxies.map((proxy) => {
    const state = cell(pill(proxy.state, STATES[proxy.state]), "");
    if (!proxy.connected) state.append(el("span", "note", `since ${span(Date.now() / 1000 - proxy.since)}`));
    for (const { kind, since } of proxy.unanswered) {
      if (Date.now() / 1000 - since >= 10) state.append(el("span", "note", `${kind} was sent ${ago(since)} and is not answered`));
    }
    for (const refusal of proxy.refusals) state.append(el("span", "note", `${refusal.kind}: ${refusal.reason}`));
    const name = el("td", "mono", proxy.node, ...labels(proxy.labels));
    return row(name, state, cell(proxy.identity, "mono"), cell(certificate(proxy.certificate_expires)),
      cell(proxy.data_plane),
      cell(proxy.ingress ? (proxy.ready ? proxy.ingress : `${proxy.ingress} (app does not listen)`) : "–", "mono"),
      cell(short(proxy.commit), "mono"), cell(bytes(proxy.bytes_sent), "num"));
  }), 8, "No proxy has connected yet.");
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  const live = at("live");
  try {
    const [status, proxies] = await Promise.all([ask("api/status"), ask("api/proxies")]);
    drawStatus(status);
    drawProxies(proxies);
    live.textContent = "live";
    live.className = "pill good";
  } catch (error) {
    live.textContent = "control plane away; calls go on";
    live.className = "pill bad";
    console.warn(error);
  }
  setTimeout(refresh, EVERY_MS);
}

refresh();

// What htmx leaves to us: the signal's beat, the banner of a lost connection, relative times,
// focus after a swap, files read into text fields. Pages work without it.
(() => {
  "use strict";
  const BEAT = 5, LATE = 3 * BEAT;
  const body = document.body;
  const $ = (id) => document.getElementById(id);

  // -- time: the manager's, which need not be this machine's (nor run at its pace)
  let offset = Number(body.dataset.now) - Date.now() / 1000;
  let asOf = Number(body.dataset.now);
  const now = () => Date.now() / 1000 + offset;
  const stamp = (at) => new Date(at * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC";
  const span = (seconds) => {
    for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
      const count = Math.floor(seconds / size);
      if (count) return `${count} ${name}${count > 1 ? "s" : ""}`;
    }
    return "less than a minute";
  };
  const relative = (at) => {
    if (at > now()) return `in ${span(at - now())}`;
    return now() - at < 60 ? "just now" : `${span(now() - at)} ago`;
  };
  const age = () => {
    for (const element of document.querySelectorAll(".ago[data-at]")) {
      const said = relative(Number(element.dataset.at));
      const text = element.tagName === "TIME" ? said : `(${said})`;
      if (element.textContent !== text) element.textContent = text;
    }
  };
  const current = (at) => {
    asOf = at;
    const shown = $("as-of");
    if (shown) shown.textContent = stamp(at);
  };

  // -- the banner: figures are as of the last word of the manager
  let heard = performance.now(), lost = false;
  const bad = (why) => {
    const banner = $("lost");
    if (!banner || body.dataset.leaving) return;
    const text = `${why} The figures are as of ${stamp(asOf)}. Trying again.`;
    if (lost === text) return;
    lost = text;
    banner.textContent = text;
    banner.hidden = false;
  };
  const good = (at) => {
    heard = performance.now();
    offset = at - Date.now() / 1000;
    if (lost) refresh();
    else current(at);
  };
  const refresh = () => {
    // What changed while nothing was heard is fetched before the banner goes.
    htmx.trigger($("feed"), "sse:changed");
  };
  const back = () => {
    lost = false;
    const banner = $("lost");
    if (banner) { banner.hidden = true; banner.textContent = ""; }
  };
  body.addEventListener("htmx:sseOpen", (event) => {
    for (const name of ["beat", "changed"]) {
      event.detail.source.addEventListener(name, (message) => good(JSON.parse(message.data).at));
    }
  });
  body.addEventListener("htmx:sseError", async () => {
    bad("The connection to the manager is lost.");
    try {
      const answer = await fetch("/live");
      if (answer.status === 401) location.reload();
    } catch { /* still away: the stream is tried again */ }
  });
  window.addEventListener("beforeunload", () => { body.dataset.leaving = "1"; });
  window.addEventListener("pageshow", () => { delete body.dataset.leaving; });
  setInterval(() => {
    age();
    if ($("lost") && performance.now() - heard > LATE * 1000) bad("The manager is silent.");
  }, 1000);

  // -- the live part: asked for at this page's own address, with what is there already
  body.addEventListener("htmx:configRequest", (event) => {
    const csrf = $("content")?.dataset.csrf;
    if (csrf) event.detail.headers["X-CSRF-Token"] = csrf;
    if (event.detail.elt.id !== "feed") return;
    if (body.dataset.still) { event.preventDefault(); return; }
    event.detail.path = location.pathname + location.search;
    event.detail.headers["X-Callpool-Live"] = body.dataset.live || "none";
  });
  body.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.requestConfig.elt.id !== "feed") return;
    if (event.detail.xhr.status !== 200) event.detail.shouldSwap = false;
    else event.detail.serverResponse = `<div id="live">${event.detail.serverResponse}</div>`;
  });
  body.addEventListener("htmx:afterRequest", (event) => {
    const { xhr, requestConfig } = event.detail;
    if (requestConfig.elt.id !== "feed") return;
    if (xhr.status === 200 || xhr.status === 204) {
      if (xhr.status === 200) body.dataset.live = xhr.getResponseHeader("X-Callpool-Live");
      current(now());
      back();
    } else if (xhr.status === 401) location.reload();
    else bad("The manager does not answer.");
  });
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    body.addEventListener(name, () => bad("The manager does not answer."));
  }

  // -- focus, and what people have opened or typed, outlive a swap
  let focused = null, section = null;
  const held = () => document.activeElement && document.activeElement !== body;
  const typing = (node) => node.nodeType === 1 && node.matches("[data-keep]")
    && (node.dataset.touched || node.contains(document.activeElement));
  Object.assign(Idiomorph.defaults, { ignoreActiveValue: true });
  Object.assign(Idiomorph.defaults.callbacks, {
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && node.tagName === "DETAILS") && name !== "data-drawn"
      && !(name === "tabindex" && node === document.activeElement),
    beforeNodeMorphed: (old) =>
      !(old.nodeType === 1 && (old.matches("[data-drawn]") || (swapping === "feed" && typing(old)))),
    beforeNodeRemoved: (old) =>
      !(old.nodeType === 1 && (old.closest("[data-drawn]") || (swapping === "feed" && typing(old)))),
  });
  let swapping = "";
  body.addEventListener("input", (event) => {
    const form = event.target.closest("[data-keep]");
    if (form) form.dataset.touched = "1";
  });
  body.addEventListener("htmx:beforeSwap", (event) => {
    swapping = event.detail.requestConfig.elt.id;
    focused = held() ? document.activeElement : null;
    section = focused?.closest("section")?.querySelector("h2") ?? null;
  });
  // In the swap itself, not when it has settled: the next swap, or key, may be sooner. Focus goes
  // to where it was, else to what a form was answered, else to the heading of what is gone.
  body.addEventListener("htmx:afterSwap", (event) => {
    const answered = event.detail.requestConfig?.elt.tagName === "FORM" && event.detail.target?.id === "content";
    const wrong = answered && document.querySelector("#content [aria-invalid=true]");
    if (wrong) wrong.focus();
    const said = answered && $("said")?.textContent.trim() && $("said");
    if (held() || !(focused || said)) return;
    const heading = section?.isConnected ? section : section?.id && $(section.id);
    for (const to of [focused?.isConnected && focused, focused?.id && $(focused.id), said, heading, $("content")]) {
      if (to === heading && to) to.tabIndex = -1;
      if (to) to.focus({ preventScroll: true });
      if (held()) return;
    }
  });
  body.addEventListener("htmx:afterSettle", (event) => {
    const asked = event.detail.requestConfig?.elt;
    age();
    // An action has led on: the address is that of the page that is shown now.
    const at = event.detail.xhr?.responseURL && new URL(event.detail.xhr.responseURL);
    if (at && asked?.tagName === "FORM" && at.pathname !== event.detail.pathInfo?.requestPath
      && event.detail.target?.id === "content") {
      history.replaceState(null, "", at.pathname + at.search);
    }
    if (asked?.tagName === "FORM" && event.detail.target?.id === "content") {
      const said = $("said");
      if (said?.textContent.trim()) said.scrollIntoView({ block: "nearest" });
    }
    swapping = "";
  });

  // -- a file that is chosen is read into the text field beside it
  body.addEventListener("change", async (event) => {
    const into = event.target.dataset?.into && $(event.target.dataset.into);
    if (!into || !event.target.files.length) return;
    into.value = await event.target.files[0].text();
    into.dispatchEvent(new Event("input", { bubbles: true }));
  });
  document.documentElement.classList.add("scripted");
  // What was typed or chosen while the page was still loading is looked at too.
  document.addEventListener("DOMContentLoaded", () => setTimeout(() => {
    for (const field of document.querySelectorAll("[data-keep] input")) {
      const happened = field.type === "file" ? "change" : "input";
      if (field.value !== field.defaultValue) {
        field.dispatchEvent(new Event(happened, { bubbles: true }));
      }
    }
  }, 0));

  // -- an address that leads to something folded opens it
  const unfold = () => {
    const target = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const folded = target.closest("details") ?? target.querySelector(":scope > details");
    if (folded) {
      folded.open = true;
      (folded.querySelector("input:not([type=hidden]), select, textarea, button") ?? target).focus();
      target.scrollIntoView({ block: "nearest" });
    }
  };
  window.addEventListener("hashchange", unfold);
  unfold();
})();

// Keeps a page of the device true: on a hint it fetches itself anew and takes over the parts that
// are marked data-live, except one in which somebody is typing. When the device cannot be reached
// it says so, and since when what is shown is old.
"use strict";
(() => {
  const lost = document.getElementById("lost");
  let seen = new Date();
  let busy = false;
  let again = false;

  const clock = (at) => at.toISOString().slice(11, 19) + " UTC";

  function say(gone) {
    if (gone && lost.hidden) {
      lost.textContent = "The connection to the device is lost. What is shown is of " + clock(seen) + ".";
      lost.hidden = false;
    } else if (!gone && !lost.hidden) {
      lost.hidden = true;
      lost.textContent = "";
    }
  }

  // Forms come and go with the state: then the whole page is loaded anew, unless somebody is typing.
  const shape = (page) => [...page.querySelectorAll("[data-live], form:not([data-live] form)")].map((e) => e.id).join(" ");
  const typing = () => document.activeElement && document.activeElement.closest("form");

  function take(fresh) {
    if (shape(fresh) !== shape(document) && !typing()) {
      location.reload();
      return;
    }
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || part.contains(document.activeElement)) continue;
      if (next.innerHTML !== part.innerHTML || next.className !== part.className) {
        part.className = next.className;
        part.replaceChildren(...next.childNodes);
      }
    }
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.pathname, {
        headers: { "x-callpool-live": "1" }, credentials: "same-origin", redirect: "manual" });
      if (answer.type === "opaqueredirect") { location.reload(); return; }
      if (!answer.ok) { say(true); return; }
      take(new DOMParser().parseFromString(await answer.text(), "text/html"));
      seen = new Date();
      say(false);
    } catch {
      say(true);
    } finally {
      busy = false;
      if (again) { again = false; refresh(); }
    }
  }

  // A browser gives a stream up for good when it is led to the way in: look there, and try again.
  function listen() {
    const events = new EventSource("/events");
    events.addEventListener("changed", refresh);
    events.addEventListener("away", () => say(true));
    events.addEventListener("open", () => { if (!lost.hidden) refresh(); });
    events.addEventListener("error", () => {
      say(true);
      if (events.readyState === EventSource.CLOSED) {
        setTimeout(() => { refresh(); listen(); }, 2000);
      }
    });
  }
  listen();
})();

// Keeps the page as it is now: fetches it anew every two seconds and replaces what has changed.
// The token is in the field of the page and nowhere else: no storage, no cookie, no address.
"use strict";

(() => {
  const EVERY = 2000;
  const PATIENCE = 60000;
  const main = document.querySelector("[data-source]");
  if (!main) return; // it says why there is nothing to show
  const leaders = document.getElementById("leaders");
  const live = document.getElementById("live");
  const updates = document.getElementById("updates");
  let timer = 0;
  let stopped = false;
  let looking = null;

  const say = (element, text) => {
    // A screen reader says again whatever is set again.
    if (element.textContent !== text) element.textContent = text;
  };

  const replace = (part, fresh) => {
    if (part.innerHTML === fresh.innerHTML) return;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = [...part.querySelectorAll(".wide")].map((box) => [box.id, box.scrollLeft]);
    part.replaceChildren(...fresh.childNodes);
    for (const [id, left] of scrolled) {
      const box = document.getElementById(id);
      if (box) box.scrollLeft = left;
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of main.querySelectorAll("[data-part]")) {
      const other = fresh.getElementById(part.id);
      if (other && !selects(part)) replace(part, document.importNode(other, true));
    }
    say(leaders, fresh.getElementById("leaders").textContent);
    main.classList.remove("stale");
    say(live, "Live, every two seconds.");
  };

  // Whoever marks a text wants to copy it.
  const selects = (part) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
  };

  const stale = (why) => {
    main.classList.add("stale");
    const at = document.getElementById("looked-at")?.textContent ?? "?";
    say(live, `Not live: ${why} Below is what was seen at ${at}.`);
  };

  const look = async () => {
    clearTimeout(timer);
    if (stopped || document.hidden || looking) return;
    const began = performance.now();
    looking = new AbortController();
    const late = setTimeout(() => looking.abort(), PATIENCE);
    const source = new URL(main.dataset.source, location.href);
    for (const [name, value] of new URLSearchParams(location.search)) source.searchParams.set(name, value);
    try {
      const answer = await fetch(source, {
        cache: "no-store", signal: looking.signal,
      });
      const text = await answer.text();
      if (answer.ok) {
        show(text);
      } else {
        const page = new DOMParser().parseFromString(text, "text/html");
        stale(page.getElementById("problem")?.textContent ?? `status ${answer.status}.`);
      }
    } catch {
      stale("the server of this page does not answer.");
    } finally {
      clearTimeout(late);
      looking = null;
    }
    // A look that is dear, as a search in very many entries, comes more seldom.
    if (!stopped) timer = setTimeout(look, Math.max(EVERY, 10 * (performance.now() - began)));
  };

  updates.hidden = false;
  updates.addEventListener("click", () => {
    stopped = !stopped;
    say(updates, stopped ? "Start updates" : "Stop updates");
    if (stopped) {
      clearTimeout(timer);
      say(live, "Stopped.");
    } else {
      look();
    }
  });
  document.addEventListener("visibilitychange", look);

  const act = document.getElementById("act");
  const outcome = document.getElementById("outcome");
  const buttons = act ? [...act.querySelectorAll("[data-action]")] : [];

  const order = async (name) => {
    const said = {};
    for (const field of ["by", "reason", "for", "to"]) {
      said[field] = document.getElementById(field).value;
    }
    for (const button of buttons) button.disabled = true;
    outcome.className = "";
    say(outcome, "…");
    try {
      const answer = await fetch(act.dataset.actions + name, {
        method: "POST",
        cache: "no-store",
        headers: {
          "Content-Type": "application/json",
          "X-Leader-Token": document.getElementById("token").value,
        },
        body: JSON.stringify(said),
      });
      const { message } = await answer.json();
      outcome.className = answer.ok ? "good" : "bad";
      say(outcome, message);
    } catch {
      outcome.className = "bad";
      say(outcome, "No answer, so it may have been done: see below.");
    } finally {
      for (const button of buttons) button.disabled = false;
    }
    look();
  };

  for (const button of buttons) button.addEventListener("click", () => order(button.dataset.action));
  say(live, "Live, every two seconds.");
  timer = setTimeout(look, EVERY);
})();

// Brings what is shown of the elections up to date; forms and entries stay as they are.
"use strict";
(() => {
  const PAUSE = 3000; // milliseconds
  const live = document.getElementById("safe-leader-live");
  const told = document.getElementById("safe-leader-told");
  const leaders = () => live?.querySelector("[data-leaders]")?.textContent ?? "";
  const opened = () => [...live.querySelectorAll("details[open]")].map((each) => each.dataset.keep);

  const look = async () => {
    // Nothing is taken from under whoever reads it with the keyboard, or selects it.
    const busy = document.hidden || live.contains(document.activeElement) || !getSelection().isCollapsed;
    if (!busy) {
      try {
        const answer = await fetch("?live=1", { headers: { Accept: "text/html" }, redirect: "error" });
        if (answer.ok || answer.status === 503) {
          const before = leaders();
          const open = new Set(opened());
          live.innerHTML = await answer.text();
          for (const each of live.querySelectorAll("details")) each.open = open.has(each.dataset.keep);
          if (leaders() !== before) told.textContent = leaders();
        }
      } catch {
        // The next look may succeed; a page that is logged out stays as it is.
      }
    }
    setTimeout(look, PAUSE);
  };
  if (live) setTimeout(look, PAUSE);
})();

/* Sorting of tables and playing of films. Without scripts the page still reads: tables stand in the suite's order,
   films have the browser's own controls. */
(() => {
  "use strict";

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function sortKey(row, column, numeric) {
    const text = row.cells[column].dataset.value;
    if (text === undefined || text === "") return null;
    return numeric ? Number(text) : text;
  }

  function sort(table, head) {
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.indexOf(head);
    const numeric = head.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
    const body = table.tBodies[table.tBodies.length - 1];
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => [sortKey(row, column, numeric), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); /* what has no value stays below */
      return sign * (numeric ? a - b : collator.compare(a, b));
    });
    body.append(...keyed.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button").addEventListener("click", () => sort(table, head));
    }
  }

  function toggle(video) {
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  }

  for (const screen of document.querySelectorAll(".screen")) {
    const video = screen.querySelector("video");
    const button = document.createElement("button");
    const bar = document.createElement("i");
    button.type = "button";
    video.controls = false;
    button.append(bar);
    screen.append(button);
    button.addEventListener("click", () => toggle(video));
    button.addEventListener("dblclick", () => video.requestFullscreen?.());
    const show = () => {
      screen.classList.toggle("playing", !video.paused);
      button.setAttribute("aria-label", `${video.paused ? "Play" : "Pause"} ${video.getAttribute("aria-label")}`);
    };
    video.addEventListener("play", show);
    video.addEventListener("pause", show);
    video.addEventListener("timeupdate", () => {
      bar.style.width = `${(100 * video.currentTime) / (video.duration || 1)}%`;
    });
    show();
  }

  for (const button of document.querySelectorAll("button.speed")) {
    const speeds = [[1, "1"], [0.5, "½"], [0.25, "¼"]];
    let chosen = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      chosen = (chosen + 1) % speeds.length;
      for (const video of document.querySelectorAll("video")) video.playbackRate = speeds[chosen][0];
      button.textContent = `Speed ${speeds[chosen][1]}×`;
    });
  }

  for (const button of document.querySelectorAll("button.all")) {
    const videos = [...button.closest(".task").querySelectorAll("video")];
    button.hidden = false;
    const show = () => {
      button.textContent = videos.some((video) => !video.paused) ? "Pause all" : "Play all";
    };
    button.addEventListener("click", () => {
      const playing = videos.some((video) => !video.paused);
      for (const video of videos) {
        if (playing) {
          video.pause();
        } else {
          video.currentTime = 0; /* films of one start begin together */
          video.play().catch(() => {});
        }
      }
    });
    for (const video of videos) {
      video.addEventListener("play", show);
      video.addEventListener("pause", show);
    }
  }
})();


/* Answers to pairs of films, gathered until they are saved as JSON lines.
   Texts of the dataset are only ever set as text, never as HTML. */
(() => {
  "use strict";

  const main = document.querySelector("main");
  const pairs = [...document.querySelectorAll(".pair")];
  const bar = document.querySelector(".save");
  const answers = new Map();

  const labels = () =>
    pairs
      .filter((pair) => answers.has(pair))
      .map((pair) => JSON.stringify({ ...JSON.parse(pair.dataset.segments), prefers: answers.get(pair) }) + "\n")
      .join("");

  const show = () => {
    bar.querySelector(".count").textContent = `${answers.size} of ${pairs.length} answered`;
    bar.querySelector("button").disabled = answers.size === 0;
  };

  for (const pair of pairs) {
    const buttons = [...pair.querySelectorAll("[data-prefers]")];
    pair.querySelector(".answers").hidden = false;
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const same = answers.get(pair) === button.dataset.prefers;
        if (same) answers.delete(pair); /* a second press takes it back */
        else answers.set(pair, button.dataset.prefers);
        for (const other of buttons) other.setAttribute("aria-pressed", String(!same && other === button));
        for (const side of pair.querySelectorAll(".side"))
          side.classList.toggle("better", answers.get(pair) === side.dataset.side);
        show();
      });
    }
  }

  /* without an encoder a film is one image with all frames side by side */
  for (const sheet of document.querySelectorAll(".sheet")) {
    const { source, frames, columns, stride, width, height } = sheet.dataset;
    const rows = Math.ceil(frames / columns);
    sheet.style.aspectRatio = `${width} / ${height}`;
    sheet.style.backgroundImage = `url("${source}")`;
    sheet.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
    let frame = 0;
    const step = () => {
      const x = frame % columns;
      const y = Math.floor(frame / columns);
      sheet.style.backgroundPosition = `${columns > 1 ? (100 * x) / (columns - 1) : 0}% ${rows > 1 ? (100 * y) / (rows - 1) : 0}%`;
      frame = (frame + 1) % frames;
    };
    step();
    setInterval(step, (1000 * stride) / main.dataset.rate);
  }

  bar.hidden = false;
  show();
  bar.querySelector("button").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([labels()], { type: "application/jsonl" }));
    link.download = `${main.dataset.file}.preferences.jsonl`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
